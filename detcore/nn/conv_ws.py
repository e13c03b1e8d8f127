"""Convolution with standardised weights."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Size = int | tuple[int, int]


class ConvWS2d(nn.Conv2d):
    """Convolution whose kernels are brought to mean 0 and deviation 1 first (Qiao et al. 2019).

    The stored weights are those before standardisation. ``ConvWS`` in configs.

    Args:
        in_channels: As of ``nn.Conv2d``, like the next seven.
        out_channels: Of the output.
        kernel_size: Of the kernel.
        stride: Step.
        padding: Pixels added at each side.
        dilation: Distance of the kernel's points.
        groups: Groups of channels.
        bias: Whether there is one.
        eps: Added to the deviation.
        padding_mode: As of ``nn.Conv2d``.

    Raises:
        ValueError: A kernel has one weight only, which has no deviation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        eps: float = 1e-5,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode
        )
        if self.weight[0].numel() < 2:
            raise ValueError(
                f"a kernel of one weight cannot be standardised: got in_channels={in_channels}, "
                f"groups={groups}, kernel_size={kernel_size}"
            )
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """``Tensor[B, in_channels, H, W]`` to ``Tensor[B, out_channels, H', W']``."""
        deviation, mean = torch.std_mean(self.weight, dim=(1, 2, 3), keepdim=True)
        return self._conv_forward(x, (self.weight - mean) / (deviation + self.eps), self.bias)
