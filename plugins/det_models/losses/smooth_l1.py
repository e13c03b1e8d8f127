"""Losses on the differences of box coordinates: L1 and smooth L1."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from det_models.losses.reduce import at_least_float32, pick_reduction, weight_reduce_loss


def _check_shapes(pred: Tensor, target: Tensor) -> None:
    if pred.shape != target.shape:
        raise ValueError(f"predictions {tuple(pred.shape)} and targets {tuple(target.shape)} differ in shape")


class L1Loss(nn.Module):
    """Absolute difference, ``|pred - target|``.

    Args:
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        loss_weight: Factor of the loss in the total.
    """

    def __init__(self, reduction: str = "mean", loss_weight: float = 1.0) -> None:
        super().__init__()
        self.reduction = pick_reduction(reduction)
        self.loss_weight = loss_weight

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Loss of ``pred`` against ``target``, both ``Tensor[N, ...]``; see :func:`weight_reduce_loss`."""
        _check_shapes(pred, target)
        reduction = pick_reduction(self.reduction, reduction_override)
        loss = torch.abs(at_least_float32(pred) - at_least_float32(target))
        return self.loss_weight * weight_reduce_loss(loss, weight, reduction, avg_factor)

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"reduction={self.reduction!r}, loss_weight={self.loss_weight}"


class SmoothL1Loss(nn.Module):
    """Square near zero, straight beyond: Fast R-CNN (Girshick 2015), eq. 3, with the bend at ``beta``.

    ``0.5 d^2 / beta`` for ``d = |pred - target| < beta``, else ``d - 0.5 beta``.

    Args:
        beta: Where the square turns into the straight line, above 0.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        loss_weight: Factor of the loss in the total.

    Raises:
        ValueError: ``beta`` is not positive (that would be :class:`L1Loss`).
    """

    def __init__(self, beta: float = 1.0, reduction: str = "mean", loss_weight: float = 1.0) -> None:
        super().__init__()
        if beta <= 0:
            raise ValueError(f"beta must be above 0, got {beta}; L1Loss is the loss without a bend")
        self.beta = beta
        self.reduction = pick_reduction(reduction)
        self.loss_weight = loss_weight

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Loss of ``pred`` against ``target``, both ``Tensor[N, ...]``; see :func:`weight_reduce_loss`."""
        _check_shapes(pred, target)
        reduction = pick_reduction(self.reduction, reduction_override)
        loss = F.smooth_l1_loss(
            at_least_float32(pred), at_least_float32(target), reduction="none", beta=self.beta
        )
        return self.loss_weight * weight_reduce_loss(loss, weight, reduction, avg_factor)

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"beta={self.beta}, reduction={self.reduction!r}, loss_weight={self.loss_weight}"
