"""RoIAlign on CPUs, as sums of rows.

A bin's value is the mean of bilinear samples on a grid (He et al. 2017, figure 3), so a weighted sum of the
cells around it; rows and columns of the grid are sampled independently, so a cell's weight is that of its row
times that of its column. With channels last a cell is a row of memory, and the whole is one call of an
embedding bag, which adds rows at the speed of the memory. Backward is the same with cells and bins exchanged.
Beside torchvision's kernel, which looks up every sample in every channel: the same numbers but for rounding;
``benchmarks/roi_align.py`` has the times.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# Cells that a bin may reach over, in classes: regions of one class are reckoned together.
_SPANS = (2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 26, 32)
_MOST_SAMPLES = 512  # along an axis of a bin; beyond, a region is no region of an image


def roi_align_cpu(
    features: Tensor,
    rois: Tensor,
    output_size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor | None:
    """RoIAlign of features ``Tensor[B, C, H, W]``; arguments as of :func:`detcore.ops.roi_align`.

    Returns:
        ``Tensor[K, C, *output_size]``, channels last in memory; None where a region is too large to be one.
    """
    plan = _plan(features.shape, rois.detach(), output_size, spatial_scale, sampling_ratio, aligned)
    if plan is None:
        return None
    pooled: Tensor = _WeightedRows.apply(features, *plan)
    return pooled.view(len(rois), *output_size, features.shape[1]).permute(0, 3, 1, 2)


class _WeightedRows(torch.autograd.Function):
    """Rows ``Tensor[bins, C]``, each a weighted sum of cells of ``Tensor[B, C, H, W]``."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, cells: Tensor, weights: Tensor, starts: Tensor, order: Tensor
    ) -> Tensor:
        ctx.save_for_backward(cells, weights, starts, order)
        ctx.shape = features.shape
        table = features.permute(0, 2, 3, 1).reshape(-1, features.shape[1])
        sums = F.embedding_bag(cells, table, starts, mode="sum", per_sample_weights=weights)
        return torch.empty_like(sums).index_copy_(0, order, sums)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        cells, weights, starts, order = ctx.saved_tensors
        num_images, channels, height, width = ctx.shape
        num_cells, number = num_images * height * width, len(cells)
        ends = torch.cat([starts[1:], starts.new_tensor([number])])
        bins = torch.repeat_interleave(order, ends - starts)
        # Sorting one number that holds the cell and the place takes a quarter of the time of an argsort.
        bits = max(1, number.bit_length())
        packed = np.sort((cells.numpy().astype(np.int64) << bits) | np.arange(number))
        places = torch.from_numpy(packed & ((1 << bits) - 1))
        firsts = np.searchsorted(packed, np.arange(num_cells, dtype=np.int64) << bits)
        table = F.embedding_bag(
            bins[places],
            grad.contiguous(),
            torch.from_numpy(firsts),
            mode="sum",
            per_sample_weights=weights[places],
        )
        return table.view(num_images, height, width, channels).permute(0, 3, 1, 2), None, None, None, None


def _plan(
    shape: torch.Size,
    rois: Tensor,
    output_size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """Cells and weights of all bins one after another, where each begins, and which bin it is."""
    _, _, height, width = shape
    corners = rois[:, 1:] * spatial_scale - (0.5 if aligned else 0.0)
    start, length = corners[:, :2], corners[:, 2:] - corners[:, :2]
    if not aligned:
        length = length.clamp(min=1)
    along_y = _axis(start[:, 1], length[:, 1], output_size[0], height, sampling_ratio)
    along_x = _axis(start[:, 0], length[:, 0], output_size[1], width, sampling_ratio)
    if along_y is None or along_x is None:
        return None
    (first_y, weight_y, span_y), (first_x, weight_x, span_x) = along_y, along_x
    kinds = span_y * len(_SPANS) + span_x
    image = rois[:, 0].long() * height
    bins = torch.arange(len(rois) * output_size[0] * output_size[1]).view(len(rois), -1)
    cells, weights, sizes, order = [], [], [], []
    for kind in kinds.unique().tolist():
        rows = torch.nonzero(kinds == kind).flatten()
        tall, wide = (torch.arange(_SPANS[each]) for each in divmod(kind, len(_SPANS)))
        y = (first_y[rows][..., None] + tall).clamp(max=height - 1) + image[rows][:, None, None]
        x = (first_x[rows][..., None] + wide).clamp(max=width - 1)
        cells.append((y[:, :, None, :, None] * width + x[:, None, :, None, :]).flatten())
        of_y, of_x = weight_y[rows][..., : len(tall)], weight_x[rows][..., : len(wide)]
        weights.append((of_y[:, :, None, :, None] * of_x[:, None, :, None, :]).flatten())
        order.append(bins[rows].flatten())
        sizes.append(torch.full_like(order[-1], len(tall) * len(wide)))
    size = torch.cat(sizes)
    return torch.cat(cells), torch.cat(weights), size.cumsum(0) - size, torch.cat(order)


def _axis(
    start: Tensor, length: Tensor, num_bins: int, size: int, sampling_ratio: int
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Along one axis, for each bin of K regions: its first cell, and weights of the cells from there on.

    Args:
        start: ``Tensor[K]``, where regions begin, in cells; 0 is the centre of the first.
        length: ``Tensor[K]``, in cells.
        num_bins: Bins of a region.
        size: Cells of the feature map.
        sampling_ratio: Samples per bin; 0 or less for as many as the region's size asks for.

    Returns:
        ``LongTensor[K, bins]``, ``Tensor[K, bins, greatest span]``, and the region's class among the spans
        ``LongTensor[K]``; None where a bin has too many samples or cells.
    """
    step = length / num_bins
    number = torch.full_like(step, sampling_ratio) if sampling_ratio > 0 else torch.ceil(step)
    number = torch.nan_to_num(number, nan=0.0).clamp(min=0)
    most = float(number.max())
    if most > _MOST_SAMPLES:
        return None
    sample = torch.arange(max(1, int(most)), dtype=start.dtype)
    share = 1 / number.clamp(min=1)
    offsets = torch.arange(num_bins, dtype=start.dtype)[:, None] + (sample + 0.5) * share[:, None, None]
    place = start[:, None, None] + offsets * step[:, None, None]
    counts = (sample < number[:, None])[:, None] & (place >= -1) & (place <= size)
    place = torch.nan_to_num(place).clamp(0, size - 1)
    low = place.floor()
    beyond = place - low
    cell = low.long()
    first = torch.where(counts, cell, size).amin(2).clamp(max=size - 1)
    distance = torch.where(counts, cell - first[..., None], 0)
    span = distance.amax((1, 2)) + 2
    if int(span.max()) > _SPANS[-1]:
        return None
    kind = torch.searchsorted(torch.tensor(_SPANS), span)
    weights = start.new_zeros(len(start), num_bins, _SPANS[int(kind.max())])
    part = counts * share[:, None, None]
    weights.scatter_add_(2, distance, (1 - beyond) * part)
    weights.scatter_add_(2, distance + 1, beyond * part)
    return first, weights, kind
