"""How element-wise losses become the number that is differentiated: weight, reduce, average."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

REDUCTIONS = ("none", "mean", "sum")
_EPS = float(torch.finfo(torch.float32).eps)  # a batch without positives has the average factor 0


def pick_reduction(default: str, override: str | None = None) -> str:
    """The reduction of one call: the override where it is given, else the loss's own.

    Raises:
        ValueError: It is none of ``'none'``, ``'mean'``, ``'sum'``.
    """
    reduction = default if override is None else override
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
    return reduction


def weight_reduce_loss(
    loss: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    """Weight an element-wise loss and reduce it.

    Args:
        loss: ``Tensor[N, ...]``.
        weight: Factor of each element, of a shape that broadcasts to the loss's.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        avg_factor: What ``'mean'`` divides the sum by, in place of the number of elements (usually the number
            of positive samples, which the elements outnumber by far). A tensor stays on its device.

    Returns:
        The loss's shape for ``'none'``, else a scalar.

    Raises:
        ValueError: ``avg_factor`` comes with ``'sum'``, where it has no meaning.
    """
    if weight is not None:
        loss = loss * weight
    return reduce_loss(loss, reduction, avg_factor)


def reduce_loss(loss: Tensor, reduction: str, avg_factor: float | Tensor | None = None) -> Tensor:
    """Reduce a loss that is weighted already; arguments as in :func:`weight_reduce_loss`."""
    if reduction == "none":
        return loss
    if reduction == "sum":
        if avg_factor is not None:
            raise ValueError("avg_factor has no meaning with reduction='sum'; use reduction='mean'")
        return loss.sum()
    if avg_factor is None:
        return loss.mean()
    return loss.sum() / (avg_factor + _EPS)


def weighted_loss(loss_func: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Decorator: give an element-wise ``loss(pred, target, **kwargs)`` weight, reduction and average factor.

    Example:
        >>> @weighted_loss
        ... def l2_loss(pred, target):
        ...     return (pred - target) ** 2
        >>> l2_loss(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 1.0]), weight=torch.tensor([1.0, 0.0]),
        avg_factor=1) tensor(1.0000)
    """

    @functools.wraps(loss_func)
    def wrapper(
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        reduction: str = "mean",
        avg_factor: float | Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        return weight_reduce_loss(loss_func(pred, target, **kwargs), weight, reduction, avg_factor)

    return wrapper


def at_least_float32(value: Tensor) -> Tensor:
    """The tensor in float32 where autocast left it in bfloat16 or float16, else itself."""
    return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value
