"""Checks for losses."""

from typing import Any

import torch
from torch import Tensor

from detcore.registry import MODELS
from detcore.testing.building import Source, build, require


def check_loss(source: Source, pred: Tensor, target: Tensor) -> None:
    """Check all that a loss promises that is called ``loss(pred, target, weight, avg_factor)``.

    ``reduction_override`` gives the elements, their sum or their mean; ``avg_factor`` divides the sum;
    weights of one change nothing and weights of zero leave nothing; everything is finite, under autocast,
    too; nothing to learn from gives a zero that still has a gradient.

    Args:
        source: ``dict(type=...)`` with its ``loss_weight`` left alone, or a function that builds the loss.
        pred: What a head predicts, one row a sample.
        target: What it should have predicted, one row a sample.

    Raises:
        AssertionError: Says which promise is broken.
    """
    loss = build(source, MODELS)
    pred = pred.detach().clone().requires_grad_()
    each = loss(pred, target, reduction_override="none")
    require(each.shape[:1] == pred.shape[:1], f"'none' must give a row a sample, got {tuple(each.shape)}")
    expected = {"sum": each.sum(), "mean": each.mean()}
    for name, value in expected.items():
        _same(loss(pred, target, reduction_override=name), value, f"reduction_override={name!r}")
    _same(loss(pred, target, avg_factor=7.0), each.sum() / 7, "avg_factor=7")
    _same(loss(pred, target, torch.ones_like(each), avg_factor=7.0), each.sum() / 7, "weights of one")
    _same(loss(pred, target, torch.zeros_like(each), avg_factor=7.0), each.sum() * 0, "weights of zero")
    _check_gradient(loss(pred, target), pred, "the loss")
    with torch.autocast("cpu", torch.bfloat16):
        _check_gradient(loss(pred, target), pred, "under autocast (bfloat16) the loss")
    nothing = loss(pred[:0], target[:0], avg_factor=1.0)
    _same(nothing, each.sum() * 0, "no samples")
    _check_gradient(nothing, pred, "the loss of no samples")


def _same(got: Any, expected: Tensor, what: str) -> None:
    is_scalar = isinstance(got, Tensor) and got.ndim == 0
    require(is_scalar, f"{what} must give one number, got {getattr(got, 'shape', got)}")
    require(
        torch.allclose(got, expected, rtol=1e-4, atol=1e-6), f"{what} gives {got:.6g}, not {expected:.6g}"
    )


def _check_gradient(value: Tensor, pred: Tensor, what: str) -> None:
    pred.grad = None
    require(bool(value.isfinite()), f"{what} is {value:.6g}")
    require(value.requires_grad, f"{what} has no gradient")
    value.backward()
    gradient = pred.grad
    require(gradient is not None and gradient.isfinite().all(), f"the gradient of {what} is not finite")
