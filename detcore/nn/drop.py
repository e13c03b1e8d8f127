"""Leaving out parts at random while training."""

from __future__ import annotations

from torch import Tensor, nn


class DropPath(nn.Module):
    """Leaves out whole samples of a residual branch (stochastic depth, Huang et al. 2016).

    Args:
        drop_prob: Probability for a sample; what stays is scaled up, so that the mean stays.
    """

    def __init__(self, drop_prob: float = 0.1) -> None:
        super().__init__()
        if not 0 <= drop_prob < 1:
            raise ValueError(f"drop_prob must be at least 0 and below 1, got {drop_prob}")
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        """``Tensor[B, ...]`` to the same shape."""
        if self.drop_prob == 0 or not self.training:
            return x
        keep = 1 - self.drop_prob
        mask = x.new_empty((x.size(0),) + (1,) * (x.dim() - 1)).bernoulli_(keep)
        return x * mask.div_(keep)

    def extra_repr(self) -> str:
        """Arguments, for ``repr``."""
        return f"drop_prob={self.drop_prob}"


class Dropout(nn.Dropout):
    """``nn.Dropout`` under the argument name of configs.

    Args:
        drop_prob: Probability for a value.
        inplace: Whether to overwrite the input.
    """

    def __init__(self, drop_prob: float = 0.5, inplace: bool = False) -> None:
        super().__init__(p=drop_prob, inplace=inplace)
