"""Work on rows that is done level by level of a pyramid, with the results where the rows were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def by_level(call: Callable[[int, Tensor], Tensor], rows: Tensor, levels: Tensor, num_levels: int) -> Tensor:
    """Results ``Tensor[K, ...]`` of rows, which are worked on with those of their level.

    Args:
        call: Of the number of a level and its rows ``Tensor[K_i, ...]``, the results ``Tensor[K_i, ...]``.
        rows: ``Tensor[K, ...]``.
        levels: ``LongTensor[K]``.
        num_levels: Number of levels.
    """
    if num_levels == 1:
        return call(0, rows)
    order = torch.argsort(levels, stable=True)
    parts = rows[order].split(torch.bincount(levels, minlength=num_levels).tolist())
    placed: Tensor = _Placed.apply(order, *(call(number, part) for number, part in enumerate(parts)))
    return placed


class _Placed(torch.autograd.Function):
    """Rows of several tensors ``Tensor[K_i, ...]``, one after the other row i put to place ``order[i]``.

    Each row is copied once, without a tensor of them all in between. The gradient is gathered, as the rows
    are: torch would add it up, not knowing that no place comes twice.
    """

    @staticmethod
    def forward(ctx: Any, order: Tensor, *parts: Tensor) -> Tensor:
        ctx.save_for_backward(order)
        ctx.counts = [len(part) for part in parts]
        last = all(_is_channels_last(part) for part in parts)
        placed = torch.empty(
            (len(order), *parts[0].shape[1:]), dtype=parts[0].dtype, device=parts[0].device,
            memory_format=torch.channels_last if last else torch.contiguous_format,
        )  # fmt: skip
        for places, part in zip(order.split(ctx.counts), parts, strict=True):
            _as_rows(placed, last).index_copy_(0, places, _as_rows(part, last))
        return placed

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (order,) = ctx.saved_tensors
        last = _is_channels_last(grad)
        rows, (channels, height, width) = _as_rows(grad, last), grad.shape[1:]
        shape = (-1, height, width, channels) if last else (-1, channels, height, width)
        parts = [rows[places].view(shape) for places in order.split(ctx.counts)]
        return None, *(part.permute(0, 3, 1, 2) if last else part for part in parts)


def _is_channels_last(maps: Tensor) -> bool:
    return maps.is_contiguous(memory_format=torch.channels_last)


def _as_rows(maps: Tensor, channels_last: bool) -> Tensor:
    """``Tensor[K, C * h * w]`` that shares the memory of ``Tensor[K, C, h, w]``, in that memory's order."""
    return (maps.permute(0, 2, 3, 1) if channels_last else maps).flatten(1)
