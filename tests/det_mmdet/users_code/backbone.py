"""A backbone after the manual's MobileNet: depth-wise convolutions, a tuple of feature maps."""
import torch.nn as nn
from mmcv.cnn import ConvModule, build_norm_layer
from mmdet.registry import MODELS
from mmdet.utils import OptConfigType, OptMultiConfig
from mmengine.model import BaseModule, Sequential
from torch.nn.modules.batchnorm import _BatchNorm


class InvertedBlock(BaseModule):

    def __init__(self,
                 in_channels: int,
                 out_channels: int,
                 stride: int,
                 norm_cfg: OptConfigType = dict(type='BN'),
                 init_cfg: OptMultiConfig = None) -> None:
        super().__init__(init_cfg=init_cfg)
        self.with_shortcut = stride == 1 and in_channels == out_channels
        self.depthwise = ConvModule(
            in_channels,
            in_channels,
            3,
            stride=stride,
            padding=1,
            groups=in_channels,
            norm_cfg=norm_cfg,
            act_cfg=dict(type='ReLU6'))
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.norm_name, norm = build_norm_layer(norm_cfg, out_channels, postfix=1)
        self.add_module(self.norm_name, norm)

    @property
    def norm1(self) -> nn.Module:
        return getattr(self, self.norm_name)

    def forward(self, x):
        out = self.norm1(self.pointwise(self.depthwise(x)))
        return x + out if self.with_shortcut else out


@MODELS.register_module()
class MyMobileNet(BaseModule):

    arch_settings = {'tiny': (8, 16, 16, 32), 'small': (16, 32, 64, 128)}

    def __init__(self,
                 arch: str = 'tiny',
                 out_indices=(1, 2, 3),
                 frozen_stages: int = -1,
                 norm_eval: bool = False,
                 norm_cfg: OptConfigType = dict(type='BN', requires_grad=True),
                 init_cfg: OptMultiConfig = [
                     dict(type='Kaiming', layer='Conv2d'),
                     dict(type='Constant', val=1, layer=['_BatchNorm', 'GroupNorm'])
                 ]) -> None:
        super().__init__(init_cfg=init_cfg)
        widths = self.arch_settings[arch]
        self.out_indices = out_indices
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.conv1 = ConvModule(3, widths[0], 3, stride=2, padding=1, norm_cfg=norm_cfg)
        self.layers = []
        for i in range(1, 4):
            name = f'layer{i}'
            self.add_module(
                name,
                Sequential(
                    InvertedBlock(widths[i - 1], widths[i], 2, norm_cfg),
                    InvertedBlock(widths[i], widths[i], 1, norm_cfg)))
            self.layers.append(name)
        self._freeze_stages()

    def _freeze_stages(self) -> None:
        if self.frozen_stages >= 0:
            for param in self.conv1.parameters():
                param.requires_grad = False
        for i in range(1, self.frozen_stages + 1):
            layer = getattr(self, f'layer{i}')
            layer.eval()
            for param in layer.parameters():
                param.requires_grad = False

    def forward(self, x):
        x = self.conv1(x)
        outs = []
        for i, name in enumerate(self.layers):
            x = getattr(self, name)(x)
            if i + 1 in self.out_indices:
                outs.append(x)
        return tuple(outs)

    def train(self, mode=True):
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval:
            for m in self.modules():
                if isinstance(m, _BatchNorm):
                    m.eval()
