"""Upsampling by shuffling channels into space."""

from __future__ import annotations

from torch import Tensor, nn

from detcore.nn.base_module import BaseModule
from detcore.nn.init import xavier_init


class PixelShufflePack(BaseModule):
    """A convolution to ``scale_factor`` squared times the channels, which then become pixels.

    Args:
        in_channels: Of the input.
        out_channels: Of the output.
        scale_factor: Of height and width.
        upsample_kernel: Kernel size of the convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, scale_factor: int, upsample_kernel: int) -> None:
        super().__init__()
        self.scale_factor = scale_factor
        self.upsample_conv = nn.Conv2d(
            in_channels, out_channels * scale_factor**2, upsample_kernel, padding=(upsample_kernel - 1) // 2
        )
        xavier_init(self.upsample_conv, distribution="uniform")

    def forward(self, x: Tensor) -> Tensor:
        """``Tensor[B, in_channels, H, W]`` to ``Tensor[B, out_channels, H * scale, W * scale]``."""
        return nn.functional.pixel_shuffle(self.upsample_conv(x), self.scale_factor)
