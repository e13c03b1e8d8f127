"""Dilated encoder: a neck over one feature map, from YOLOF (Chen et al., CVPR 2021, arXiv 2103.09460)."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from detcore.nn import BaseModule, ConvModule, Sequential
from detcore.nn.base_module import DeferredInit
from detcore.nn.build import NormCfg

_BATCH_NORM = {"type": "BN", "requires_grad": True}
_INIT_CFG: list[dict[str, Any]] = [
    {"type": "Caffe2Xavier", "layer": "Conv2d"},
    {"type": "Constant", "layer": "BatchNorm2d", "val": 1},
]
_BLOCK_INIT = {"type": "Normal", "layer": "Conv2d", "std": 0.01}


class DilatedBlock(BaseModule):
    """1x1, dilated 3x3 and 1x1 convolution, added to what came in.

    Args:
        in_channels: Channels of the map, which stay.
        mid_channels: Channels between the convolutions.
        dilation: Cells between the points of the 3x3 kernel.
        norm_cfg: Kind of norm layer, None for none.
    """

    def __init__(
        self, in_channels: int, mid_channels: int, dilation: int, norm_cfg: NormCfg = _BATCH_NORM
    ) -> None:
        super().__init__(init_cfg=_BLOCK_INIT)
        self.conv1 = ConvModule(in_channels, mid_channels, 1, norm_cfg=norm_cfg)
        self.conv2 = ConvModule(
            mid_channels, mid_channels, 3, padding=dilation, dilation=dilation, norm_cfg=norm_cfg
        )
        self.conv3 = ConvModule(mid_channels, in_channels, 1, norm_cfg=norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        """``Tensor[B, in_channels, H, W]``, as it came in."""
        out: Tensor = self.conv3(self.conv2(self.conv1(x))) + x
        return out


class DilatedEncoder(BaseModule):
    """One map that sees objects of all sizes: blocks of growing dilation, one after another (section 4.2).

    Args:
        in_channels: Channels of the backbone's last map.
        out_channels: Channels of the result.
        block_mid_channels: Channels within the blocks.
        num_residual_blocks: Number of blocks.
        block_dilations: Dilation of each block.
        init_cfg: How weights are initialised.

    Raises:
        ValueError: Another number of dilations than of blocks.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        block_mid_channels: int,
        num_residual_blocks: int,
        block_dilations: Sequence[int],
        init_cfg: DeferredInit = _INIT_CFG,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if len(block_dilations) != num_residual_blocks:
            raise ValueError(
                f"DilatedEncoder has a dilation for each block, got num_residual_blocks="
                f"{num_residual_blocks} and block_dilations={list(block_dilations)}"
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.lateral_conv = nn.Conv2d(in_channels, out_channels, 1)
        self.lateral_norm = nn.BatchNorm2d(out_channels)
        self.fpn_conv = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.fpn_norm = nn.BatchNorm2d(out_channels)
        self.dilated_encoder_blocks = Sequential(
            *(DilatedBlock(out_channels, block_mid_channels, each) for each in block_dilations)
        )

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor]:
        """The last of the backbone's maps ``Tensor[B, in_channels, H, W]`` with ``out_channels``."""
        projected = self.lateral_norm(self.lateral_conv(inputs[-1]))
        return (self.dilated_encoder_blocks(self.fpn_norm(self.fpn_conv(projected))),)
