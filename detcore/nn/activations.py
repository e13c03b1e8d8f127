"""Activations that torch does not have under these definitions."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Swish(nn.Module):
    """``x * sigmoid(x)``, as SiLU; kept apart because configs name both."""

    def forward(self, x: Tensor) -> Tensor:
        """Element by element."""
        return nn.functional.silu(x)


class HSigmoid(nn.Module):
    """``(x + bias) / divisor``, cut to ``[min_value, max_value]`` (Howard et al. 2019).

    Args:
        bias: Added to the input.
        divisor: What the sum is divided by.
        min_value: Smallest output.
        max_value: Largest output.
    """

    def __init__(
        self, bias: float = 3.0, divisor: float = 6.0, min_value: float = 0.0, max_value: float = 1.0
    ) -> None:
        super().__init__()
        if divisor == 0:
            raise ValueError("divisor must not be 0")
        self.bias, self.divisor, self.min_value, self.max_value = bias, divisor, min_value, max_value

    def forward(self, x: Tensor) -> Tensor:
        """Element by element."""
        return ((x + self.bias) / self.divisor).clamp(self.min_value, self.max_value)


class Clamp(nn.Module):
    """Values cut to ``[min, max]``; ``Clip`` in configs too.

    Args:
        min: Smallest output.
        max: Largest output.
    """

    def __init__(self, min: float = -1.0, max: float = 1.0) -> None:
        super().__init__()
        self.min, self.max = min, max

    def forward(self, x: Tensor) -> Tensor:
        """Element by element."""
        return torch.clamp(x, self.min, self.max)
