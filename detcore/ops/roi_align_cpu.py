"""RoIAlign on CPUs, as sums of rows.

A bin's value is the mean of bilinear samples on a grid (He et al. 2017, figure 3), so a weighted sum of the
cells around it; rows and columns of the grid are sampled independently, so a cell's weight is that of its row
times that of its column. With channels last a cell is a row of memory, and the whole is one call of an
embedding bag, which adds rows at the speed of the memory. Backward is the same with cells and bins exchanged.
Beside torchvision's kernel, which looks up every sample in every channel: the same numbers but for rounding;
``benchmarks/roi_align.py`` has the times.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# Cells that a bin may reach over, in classes: regions of one class are reckoned together.
_SPANS = (2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 26, 32)
_MOST_SAMPLES = 512  # along an axis of a bin; beyond, a region is no region of an image


def roi_align_cpu(
    features: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    output_size: tuple[int, int],
    spatial_scales: Sequence[float],
    sampling_ratio: int,
    aligned: bool,
) -> Tensor | None:
    """RoIAlign out of the maps of a pyramid; arguments as of :func:`detcore.ops.roi_align_levels`.

    Returns:
        ``Tensor[K, C, *output_size]``, channels last in memory; None where a region is too large to be one.

    Raises:
        ValueError: A region is of an image that the maps do not have.
    """
    shapes = [(len(each), each.shape[2], each.shape[3]) for each in features]
    plan = _plan(shapes, rois.detach(), levels, output_size, spatial_scales, sampling_ratio, aligned)
    if plan is None:
        return None
    channels = features[0].shape[1]
    rows = [each.permute(0, 2, 3, 1).reshape(-1, channels) for each in features]
    table = rows[0] if len(rows) == 1 else torch.cat(rows)
    pooled: Tensor = _WeightedRows.apply(table, *plan)
    return pooled.view(len(rois), *output_size, channels).permute(0, 3, 1, 2)


class _WeightedRows(torch.autograd.Function):
    """Rows ``Tensor[bins, C]``, each a weighted sum of the cells ``Tensor[cells, C]`` from its start on."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, cells: Tensor, weights: Tensor, starts: Tensor) -> Tensor:
        ctx.save_for_backward(cells, weights, starts)
        ctx.num_cells = len(table)
        return F.embedding_bag(cells, table, starts, mode="sum", per_sample_weights=weights)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        cells, weights, starts = ctx.saved_tensors
        number = len(cells)
        bins = np.repeat(np.arange(len(starts)), np.diff(starts.numpy(), append=number))
        # Sorting one number that holds the cell and the place takes a quarter of the time of an argsort.
        bits = max(1, number.bit_length())
        packed = np.sort((cells.numpy() << bits) | np.arange(number))
        places = packed & ((1 << bits) - 1)
        firsts = np.searchsorted(packed, np.arange(ctx.num_cells, dtype=np.int64) << bits)
        of_cells = F.embedding_bag(
            torch.from_numpy(bins[places]),
            grad.contiguous(),
            torch.from_numpy(firsts),
            mode="sum",
            per_sample_weights=torch.from_numpy(weights.numpy()[places]),
        )
        return of_cells, None, None, None


def _plan(
    shapes: Sequence[tuple[int, int, int]],
    rois: Tensor,
    levels: Tensor,
    output_size: tuple[int, int],
    spatial_scales: Sequence[float],
    sampling_ratio: int,
    aligned: bool,
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Cells and weights of all bins one after another, and where each begins.

    Cells are numbered through all maps, each map's images one after another. In numpy: so many small steps
    are no work for several threads, which wait for each other at every one.
    """
    regions, level = rois.numpy(), levels.numpy()
    numbers, heights, widths = np.array(shapes, dtype=np.int64).T
    sizes = numbers * heights * widths
    height, width = heights[level], widths[level]
    image = regions[:, 0].astype(np.int64)
    if (image < 0).any() or (image >= numbers[level]).any():  # they would read another level's cells
        raise ValueError(
            f"rois name images {image.min()} to {image.max()}, the maps have images 0 to {numbers.min() - 1}"
        )
    first_cell = (sizes.cumsum() - sizes)[level] + image * height * width
    scale = np.array(spatial_scales, dtype=regions.dtype)[level]
    corners = regions[:, 1:] * scale[:, None] - regions.dtype.type(0.5 * aligned)
    start, length = corners[:, :2], corners[:, 2:] - corners[:, :2]
    if not aligned:
        length = np.maximum(length, 1)
    along_y = _axis(start[:, 1], length[:, 1], output_size[0], height, sampling_ratio)
    along_x = _axis(start[:, 0], length[:, 0], output_size[1], width, sampling_ratio)
    if along_y is None or along_x is None:
        return None
    (first_y, weight_y, span_y), (first_x, weight_x, span_x) = along_y, along_x
    spans, bins = np.array(_SPANS), output_size[0] * output_size[1]
    reach = spans[span_y] * spans[span_x]  # cells of each bin of a region
    begin = (reach.cumsum() - reach) * bins
    cells = np.empty(int(reach.sum()) * bins, np.int64)
    weights = np.empty(len(cells), regions.dtype)
    kinds = span_y * len(_SPANS) + span_x
    for kind in np.unique(kinds).tolist():
        rows = np.flatnonzero(kinds == kind)
        tall, wide = (_SPANS[each] for each in divmod(kind, len(_SPANS)))
        lowest, rightmost = (height[rows] - 1)[:, None, None], (width[rows] - 1)[:, None, None]
        y = np.minimum(first_y[rows][..., None] + np.arange(tall), lowest) * width[rows][:, None, None]
        y += first_cell[rows][:, None, None]
        x = np.minimum(first_x[rows][..., None] + np.arange(wide), rightmost)
        of_y, of_x = weight_y[rows][..., :tall], weight_x[rows][..., :wide]
        places = begin[rows][:, None] + np.arange(bins * tall * wide)
        cells[places] = (y[:, :, None, :, None] + x[:, None, :, None, :]).reshape(places.shape)
        weights[places] = (of_y[:, :, None, :, None] * of_x[:, None, :, None, :]).reshape(places.shape)
    starts = (begin[:, None] + reach[:, None] * np.arange(bins)).ravel()
    return torch.from_numpy(cells), torch.from_numpy(weights), torch.from_numpy(starts)


def _axis(
    start: np.ndarray, length: np.ndarray, num_bins: int, size: np.ndarray, sampling_ratio: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Along one axis, for each bin of K regions: its first cell, and weights of the cells from there on.

    Args:
        start: ``(K,)``, where regions begin, in cells; 0 is the centre of the first.
        length: ``(K,)``, in cells.
        num_bins: Bins of a region.
        size: ``(K,)``, cells of the feature map that the region is looked up in.
        sampling_ratio: Samples per bin; 0 or less for as many as the region's size asks for.

    Returns:
        int64 ``(K, bins)``, float ``(K, bins, greatest span)``, and the region's class among the spans, int64
        ``(K,)``; None where a bin has too many samples or cells.
    """
    step = length / num_bins
    number = np.full_like(step, sampling_ratio) if sampling_ratio > 0 else np.ceil(step)
    number = np.maximum(np.nan_to_num(number, nan=0.0), 0)
    if number.max() > _MOST_SAMPLES:
        return None
    sample = np.arange(max(1, int(number.max())), dtype=start.dtype)
    share = (1 / np.maximum(number, 1)).astype(start.dtype)[:, None, None]
    offsets = np.arange(num_bins, dtype=start.dtype)[:, None] + (sample + start.dtype.type(0.5)) * share
    place = start[:, None, None] + offsets * step[:, None, None]
    end = size[:, None, None]
    counts = (sample < number[:, None])[:, None] & (place >= -1) & (place <= end)
    place = np.clip(np.nan_to_num(place), 0, (end - 1).astype(start.dtype))
    cell = place.astype(np.int64)
    beyond = place - cell
    first = np.minimum(np.where(counts, cell, end).min(2), size[:, None] - 1)
    distance = np.where(counts, cell - first[..., None], 0)
    span = distance.max((1, 2)) + 2
    if span.max() > _SPANS[-1]:
        return None
    kind = np.searchsorted(_SPANS, span)
    most = _SPANS[int(kind.max())]
    weights = np.zeros((len(start), num_bins, most), start.dtype)
    flat = np.arange(first.size).reshape(*first.shape, 1) * most + distance
    part = counts * share
    for shift, values in ((0, (1 - beyond) * part), (1, beyond * part)):
        weights += np.bincount((flat + shift).ravel(), values.ravel(), weights.size).reshape(weights.shape)
    return first, weights.astype(start.dtype, copy=False), kind
