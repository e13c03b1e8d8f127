"""Two necks after the manual's PAFPN and AugFPN."""
import torch.nn as nn
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmdet.models import FPN
from mmdet.registry import MODELS
from mmengine.model import BaseModule, ModuleList


@MODELS.register_module()
class MyPAFPN(FPN):

    def __init__(self,
                 in_channels,
                 out_channels,
                 num_outs,
                 start_level=0,
                 end_level=-1,
                 add_extra_convs=False,
                 conv_cfg=None,
                 norm_cfg=None,
                 init_cfg=dict(
                     type='Xavier', layer='Conv2d', distribution='uniform')):
        super().__init__(
            in_channels,
            out_channels,
            num_outs,
            start_level,
            end_level,
            add_extra_convs,
            conv_cfg=conv_cfg,
            norm_cfg=norm_cfg,
            init_cfg=init_cfg)
        self.downsample_convs = nn.ModuleList()
        for _ in range(num_outs - 1):
            self.downsample_convs.append(
                ConvModule(out_channels, out_channels, 3, stride=2, padding=1, norm_cfg=norm_cfg))

    def forward(self, inputs):
        outs = list(super().forward(inputs))
        for i in range(len(outs) - 1):
            size = outs[i + 1].shape[2:]
            outs[i + 1] = outs[i + 1] + F.interpolate(self.downsample_convs[i](outs[i]), size=size)
        return tuple(outs)


@MODELS.register_module()
class MyAugFPN(BaseModule):

    def __init__(self,
                 in_channels,
                 out_channels,
                 num_outs,
                 start_level=0,
                 end_level=-1,
                 add_extra_convs=False,
                 init_cfg=dict(type='Xavier', layer='Conv2d', distribution='uniform')):
        super(MyAugFPN, self).__init__(init_cfg)
        assert isinstance(in_channels, list)
        self.num_outs = num_outs
        self.lateral_convs = ModuleList([ConvModule(c, out_channels, 1) for c in in_channels])
        self.context = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(in_channels[-1], out_channels, 1))

    def forward(self, inputs):
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, inputs)]
        laterals[-1] = laterals[-1] + self.context(inputs[-1])
        for i in range(len(laterals) - 1, 0, -1):
            laterals[i - 1] = laterals[i - 1] + F.interpolate(
                laterals[i], size=laterals[i - 1].shape[2:], mode='nearest')
        for _ in range(self.num_outs - len(laterals)):
            laterals.append(F.max_pool2d(laterals[-1], 1, stride=2))
        return tuple(laterals)
