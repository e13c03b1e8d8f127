"""DyHead: Dynamic Head, Unifying Object Detection Heads with Attentions (Dai et al., CVPR 2021, arXiv
2106.08322).

A row of blocks over a pyramid, each of three attentions, one after the other (equation 2): over positions, by
deformable convolutions of a level and its two neighbours with the offsets of the level (equation 4); over
levels, by a number for each of the three maps that follows from its mean (equation 3); over channels, by a
ReLU whose two slopes and intercepts follow from the map's mean (equation 5; Chen et al. 2020, "Dynamic
ReLU").
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcore.errors import ConfigError
from detcore.nn import BaseModule, ConvModule, HSigmoid, ModulatedDeformConv2d, Sequential
from detcore.nn.base_module import DeferredInit

_POINTS = 9  # of a 3x3 kernel
_GROUPS = 16
_START = {"type": "Normal", "layer": "Conv2d", "mean": 0, "std": 0.01}


class SpatialConv(BaseModule):
    """Deformable 3x3 convolution with given offsets, and group norm.

    Args:
        in_channels: Of the input.
        out_channels: Of the output.
        stride: 2 makes the map half as large.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = ModulatedDeformConv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.norm = nn.GroupNorm(_GROUPS, out_channels)

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        """``Tensor[B, out_channels, H', W']``; offsets and mask may be those of a larger map.

        The networks that are published were trained so that a coarser map reads the beginning of a finer
        one's offsets, as they lie in memory; what it reads is the same here.
        """
        size = [(side - 1) // self.conv.stride[0] + 1 for side in x.shape[2:]]
        out: Tensor = self.norm(self.conv(x, _beginning(offset, size), _beginning(mask, size)))
        return out


def _beginning(values: Tensor, size: Sequence[int]) -> Tensor:
    """As many numbers of each image as ``size`` (H, W) needs, from the first on: ``Tensor[B, C, H, W]``."""
    if list(values.shape[2:]) == list(size):
        return values
    channels = values.shape[1]
    return values.flatten(1)[:, : channels * size[0] * size[1]].unflatten(1, (channels, *size))


class DynamicReLU(BaseModule):
    """``max(a1 x + b1, a2 x + b2)`` for each channel, with numbers that follow from the map's means
    (equation 5).

    Args:
        channels: Of the map.
        ratio: How many times fewer channels are between the two layers that tell the numbers.
    """

    def __init__(self, channels: int, ratio: int = 4) -> None:
        super().__init__()
        self.conv1 = ConvModule(channels, channels // ratio, 1)
        three_of_six = {"type": "HSigmoid", "bias": 3.0, "divisor": 6.0}
        self.conv2 = ConvModule(channels // ratio, 4 * channels, 1, act_cfg=three_of_six)

    def forward(self, x: Tensor) -> Tensor:
        """``Tensor[B, channels, H, W]`` to the same shape."""
        told = self.conv2(self.conv1(x.mean((2, 3), keepdim=True))) - 0.5
        a1, b1, a2, b2 = told.chunk(4, dim=1)
        return torch.maximum(x * (2 * a1 + 1) + b1, x * (2 * a2) + b2)


class DyHeadBlock(BaseModule):
    """The three attentions, one after the other.

    Args:
        in_channels: Of the maps.
        out_channels: Of the outputs.
        zero_init_offset: Whether deformable convolutions start undeformed.
    """

    def __init__(self, in_channels: int, out_channels: int, zero_init_offset: bool) -> None:
        super().__init__(_START)
        self.zero_init_offset = zero_init_offset
        self.spatial_conv_high = SpatialConv(in_channels, out_channels)
        self.spatial_conv_mid = SpatialConv(in_channels, out_channels)
        self.spatial_conv_low = SpatialConv(in_channels, out_channels, stride=2)
        self.spatial_conv_offset = nn.Conv2d(in_channels, 3 * _POINTS, 3, padding=1)
        self.scale_attn_module = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(out_channels, 1, 1), nn.ReLU(), HSigmoid(bias=3.0, divisor=6.0)
        )
        self.task_attn_module = DynamicReLU(out_channels)

    def init_weights(self) -> None:
        """As :meth:`detcore.nn.BaseModule.init_weights`; then the offsets."""
        super().init_weights()
        for each in (self.spatial_conv_high, self.spatial_conv_mid, self.spatial_conv_low):
            nn.init.normal_(each.conv.weight, 0, 0.01)
        if self.zero_init_offset:
            nn.init.zeros_(self.spatial_conv_offset.weight)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """``Tensor[B, in_channels, H_i, W_i]``, finest first, to as many of ``out_channels``."""
        return [self._level(maps, level) for level in range(len(maps))]

    def _level(self, maps: Sequence[Tensor], level: int) -> Tensor:
        x = maps[level]
        told = self.spatial_conv_offset(x)
        where = told[:, : 2 * _POINTS], told[:, 2 * _POINTS :].sigmoid()
        views = [self.spatial_conv_mid(x, *where)]
        if level > 0:
            views.append(self.spatial_conv_low(maps[level - 1], *where))
        if level < len(maps) - 1:
            coarser = self.spatial_conv_high(maps[level + 1], *where)
            views.append(F.interpolate(coarser, size=x.shape[2:], mode="bilinear", align_corners=True))
        weighed = [view * self.scale_attn_module(view) for view in views]
        out: Tensor = self.task_attn_module(sum(weighed[1:], weighed[0]) / len(weighed))
        return out


class DyHead(BaseModule):
    """A row of blocks over a pyramid; see this module's docstring.

    Args:
        in_channels: Of every map of the pyramid.
        out_channels: Of every output.
        num_blocks: How many blocks there are.
        zero_init_offset: Whether deformable convolutions start undeformed.
        init_cfg: How weights are initialised, before the blocks' own values.

    Attributes:
        out_channels: Channels of every output.

    Raises:
        ConfigError: Channels cannot be cut into the groups of the norm layers, or there is no block.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_blocks: int = 6,
        zero_init_offset: bool = True,
        init_cfg: DeferredInit = None,
    ) -> None:
        super().__init__(init_cfg)
        if out_channels % _GROUPS:
            raise ConfigError(f"DyHead: out_channels must be a multiple of {_GROUPS}, got {out_channels}")
        if num_blocks < 1:
            raise ConfigError(f"DyHead: num_blocks must be at least 1, got {num_blocks}")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.dyhead_blocks = Sequential(
            *(
                DyHeadBlock(in_channels if number == 0 else out_channels, out_channels, zero_init_offset)
                for number in range(num_blocks)
            )
        )

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps of a pyramid.

        Args:
            inputs: ``Tensor[B, in_channels, H_i, W_i]``, finest first, each half as large as the one before.

        Returns:
            As many maps ``Tensor[B, out_channels, H_i, W_i]``.
        """
        return tuple(self.dyhead_blocks(inputs))
