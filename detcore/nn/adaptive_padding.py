"""Convolutions whose output is as large as their stride says, whatever the kernel."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Conv2dAdaptivePadding(nn.Conv2d):
    """Convolution with TensorFlow's ``SAME`` padding: the output has ceil(side / stride) pixels each way.

    Zeros are added as evenly as can be; where their number is odd, one more at the bottom and the right.
    Arguments as of ``nn.Conv2d``; ``padding`` has no meaning here, and is taken so that layers that know
    their kernel's size need not ask for the kind of convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, 0, dilation, groups, bias)

    def forward(self, x: Tensor) -> Tensor:
        """``Tensor[B, in_channels, H, W]`` to ``Tensor[B, out_channels, H / stride, W / stride]``."""
        below, right = (
            max((-(-side // stride) - 1) * stride + (kernel - 1) * dilation + 1 - side, 0)
            for side, stride, kernel, dilation in zip(
                x.shape[2:], self.stride, self.kernel_size, self.dilation, strict=True
            )
        )
        if below or right:
            x = F.pad(x, (right // 2, right - right // 2, below // 2, below - below // 2))
        return super().forward(x)
