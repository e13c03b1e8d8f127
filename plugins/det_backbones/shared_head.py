"""The last stage of a ResNet on the features of regions: the head of R-CNNs without FPN."""
from __future__ import annotations

from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from det_backbones.block_options import DcnCfg
from det_backbones.residual import ResLayer as Stage
from det_backbones.residual import Style
from det_backbones.resnet import BATCH_NORM, ResNet
from detcore.nn import BaseModule
from detcore.nn.base_module import DeferredInit
from detcore.nn.build import NormCfg

STEM_CHANNELS = 64


class ResLayer(BaseModule):
    """One stage of a ResNet, shared by the heads of a second stage (He et al. 2016, "C4").

    The backbone ends one stage earlier, regions are cut out of its map, and this stage runs on each of them.
    Its weights bear the names that they have in the backbone (``layer4.0.conv1.weight``), so that a
    checkpoint of the whole network fits.

    Args:
        depth: Of the ResNet: 18, 34, 50, 101 or 152.
        stage: Which of its four stages, counted from 0.
        stride: Of the stage's first block.
        dilation: Of its 3x3 convolutions.
        style: Stride in the 3x3 convolution of a bottleneck (``'pytorch'``) or in the first (``'caffe'``).
        norm_cfg: Kind of normalisation.
        norm_eval: Whether batch norms use their averages in training, too (their weights still train).
        with_cp: Whether to compute activations again in the backward pass, to save memory.
        dcn: Kind of deformable convolution in place of the 3x3 ones of bottlenecks, ``dict(type='DCN')``.
        pretrained: Older way to write ``init_cfg=dict(type='Pretrained', checkpoint=...)``.
        init_cfg: As of :class:`~detcore.nn.BaseModule`; Kaiming's values where None.

    Attributes:
        in_channels: Channels that it takes.
        out_channels: Channels that it gives.

    Raises:
        ValueError: The depth or the stage is unknown, or ``pretrained`` and ``init_cfg`` are given.

    Example:
        >>> ResLayer(50)(torch.rand(2, 1024, 14, 14)).shape
        torch.Size([2, 2048, 7, 7])
    """

    def __init__(
        self,
        depth: int,
        stage: int = 3,
        stride: int = 2,
        dilation: int = 1,
        style: Style = "pytorch",
        norm_cfg: NormCfg = BATCH_NORM,
        norm_eval: bool = True,
        with_cp: bool = False,
        dcn: DcnCfg = None,
        pretrained: str | None = None,
        init_cfg: DeferredInit = None,
    ) -> None:
        if depth not in ResNet.arch_settings:
            raise ValueError(f"ResLayer has depth {sorted(ResNet.arch_settings)}, got {depth}")
        if not 0 <= stage <= 3:
            raise ValueError(f"stage must be 0 to 3, got {stage}")
        if pretrained is not None and init_cfg is not None:
            raise ValueError("give pretrained or init_cfg, not both: pretrained is the older name for it")
        if pretrained is not None:
            init_cfg = {"type": "Pretrained", "checkpoint": pretrained}
        super().__init__(init_cfg)
        if self.init_cfg is None:
            self.init_cfg = [
                {"type": "Kaiming", "layer": "Conv2d"},
                {"type": "Constant", "val": 1, "layer": ["_BatchNorm", "GroupNorm"]},
            ]
        self.stage, self.norm_eval = stage, norm_eval
        block, num_blocks = ResNet.arch_settings[depth]
        planes = STEM_CHANNELS * 2**stage
        self.in_channels = planes // 2 * block.expansion if stage else STEM_CHANNELS
        self.out_channels = planes * block.expansion
        layer = Stage(
            block, self.in_channels, planes, num_blocks[stage], stride=stride, dilation=dilation, style=style,
            with_cp=with_cp, norm_cfg=norm_cfg, dcn=dcn,
        )  # fmt: skip
        self.layer_name = f"layer{stage + 1}"
        self.add_module(self.layer_name, layer)

    def train(self, mode: bool = True) -> ResLayer:
        """Switch to training, apart from batch norms where ``norm_eval``."""
        super().train(mode)
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """``Tensor[K, in_channels, h, w]`` to ``Tensor[K, out_channels, h / stride, w / stride]``."""
        out: Tensor = getattr(self, self.layer_name)(x)
        return out
