"""A factor that is learnt."""

import torch
from torch import Tensor, nn


class Scale(nn.Module):
    """Multiplies its input by one learnt number.

    Args:
        scale: What the number starts at.

    Attributes:
        scale: The number, a scalar.
    """

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(float(scale)))

    def forward(self, x: Tensor) -> Tensor:
        """``Tensor[...]`` times the factor."""
        return x * self.scale
