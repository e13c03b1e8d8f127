"""Pooling of regions whose bins lie where offsets put them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcore.ops.roi_pool import roi_align

# Cells that are summed at once; each takes about 20 bytes until the backward pass.
_MOST_CELLS = 2**23
_MOST_SAMPLES = 512  # along an axis of a bin; beyond, a region is no region of an image


def deform_roi_pool(
    input: Tensor,
    rois: Tensor,
    offset: Tensor | None,
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    gamma: float = 0.1,
) -> Tensor:
    """Deformable RoI pooling (Dai et al. 2017, section 2.2) on the samples of RoIAlign.

    A bin is the mean of bilinear samples on a grid; samples more than a cell outside of the map are 0.
    Gradients go to ``input`` and ``offset``. Half-precision arguments are reckoned in float32. With
    ``sampling_ratio`` 0, a GPU is waited for once a call: how many samples there are must be known.

    Args:
        input: ``Tensor[B, C, H, W]``.
        rois: ``Tensor[K, 5]``: image number, x1, y1, x2, y2 in pixels of the image.
        offset: ``Tensor[K, 2, h, w]``: how far each bin is moved, in widths of its region to the right and
            in heights of it down, before ``gamma``. None for the grid as it is, which is RoIAlign.
        output_size: Height and width of the results.
        spatial_scale: Size of a pixel of the image in cells of ``input`` (1 / stride).
        sampling_ratio: Samples per bin along each axis; 0 takes as many as the region's size asks for.
        gamma: What offsets are multiplied by.

    Returns:
        ``Tensor[K, C, h, w]``, of the type of ``input``.

    Raises:
        ValueError: Shapes do not fit each other, or a bin has more than 512 samples along an axis.
    """
    size = _pair(output_size)
    if offset is None:
        return roi_align(input, rois, size, spatial_scale, sampling_ratio)
    _check(input, rois, offset, size)
    features = input if input.dtype == torch.float64 else input.float()
    regions, moved = rois.detach().to(features.dtype), offset.to(features.dtype)
    numbers = _samples(regions, size, spatial_scale, sampling_ratio)
    num_images, channels, height, width = input.shape
    table = features.permute(0, 2, 3, 1).reshape(num_images * height * width, channels)
    axes = _bins(regions, moved, size, spatial_scale, gamma)
    rows, sums = [], []
    for chosen in _portions(numbers, size):
        row, cells, weights, starts = _weighted_cells(chosen, numbers, regions[:, 0], axes, (height, width))
        rows.append(row)
        sums.append(F.embedding_bag(cells, table, starts, mode="sum", per_sample_weights=weights))
    pooled = torch.cat(sums).view(len(rois), *size, channels)
    pooled = pooled[torch.argsort(torch.cat(rows))]  # from the order in which regions were taken
    return pooled.permute(0, 3, 1, 2).to(input.dtype)


class DeformRoIPool(nn.Module):
    """:func:`deform_roi_pool` as a layer; the offsets are given.

    Args:
        output_size: Height and width of the results.
        spatial_scale: 1 / stride of the features.
        sampling_ratio: Samples per bin along each axis; 0 takes as many as the region's size asks for.
        gamma: What offsets are multiplied by.
    """

    def __init__(
        self,
        output_size: int | tuple[int, int],
        spatial_scale: float = 1.0,
        sampling_ratio: int = 0,
        gamma: float = 0.1,
    ) -> None:
        super().__init__()
        self.output_size = _pair(output_size)
        self.spatial_scale = float(spatial_scale)
        self.sampling_ratio = int(sampling_ratio)
        self.gamma = float(gamma)

    def forward(self, input: Tensor, rois: Tensor, offset: Tensor | None = None) -> Tensor:
        """``Tensor[K, C, h, w]``; arguments as of :func:`deform_roi_pool`."""
        return deform_roi_pool(
            input, rois, offset, self.output_size, self.spatial_scale, self.sampling_ratio, self.gamma
        )

    def extra_repr(self) -> str:
        """Arguments, for ``repr``."""
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, gamma={self.gamma}"
        )


class DeformRoIPoolPack(DeformRoIPool):
    """Deformable pooling that learns its offsets: from the region as pooled without any.

    They start at zero. Names in the state dict: ``offset_fc.0``, ``offset_fc.2``, ``offset_fc.4``.

    Args:
        output_size: As of :class:`DeformRoIPool`, like all that is not named here.
        output_channels: Channels of the features.
        deform_fc_channels: Width of the layers that tell the offsets.
        spatial_scale: The same.
        sampling_ratio: The same.
        gamma: The same.
    """

    def __init__(
        self,
        output_size: int | tuple[int, int],
        output_channels: int,
        deform_fc_channels: int = 1024,
        spatial_scale: float = 1.0,
        sampling_ratio: int = 0,
        gamma: float = 0.1,
    ) -> None:
        super().__init__(output_size, spatial_scale, sampling_ratio, gamma)
        self.output_channels, self.deform_fc_channels = output_channels, deform_fc_channels
        bins = self.output_size[0] * self.output_size[1]
        self.offset_fc = nn.Sequential(
            nn.Linear(bins * output_channels, deform_fc_channels),
            nn.ReLU(inplace=True),
            nn.Linear(deform_fc_channels, deform_fc_channels),
            nn.ReLU(inplace=True),
            _zero_linear(deform_fc_channels, bins * 2),
        )

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:  # type: ignore[override]
        """``Tensor[K, output_channels, h, w]`` from features ``[B, output_channels, H, W]`` and ``[K, 5]``.

        Raises:
            ValueError: The features have other channels.
        """
        return self._moved(input, rois, self._plain(input, rois))

    def _plain(self, input: Tensor, rois: Tensor) -> Tensor:
        """Regions ``Tensor[K, C * h * w]``, as pooled without offsets."""
        if input.size(1) != self.output_channels:
            raise ValueError(
                f"{type(self).__name__} was built for {self.output_channels} channels (output_channels), "
                f"got features of shape {tuple(input.shape)}"
            )
        return super().forward(input, rois).flatten(1)

    def _moved(self, input: Tensor, rois: Tensor, plain: Tensor) -> Tensor:
        return super().forward(input, rois, self.offset_fc(plain).view(-1, 2, *self.output_size))


class ModulatedDeformRoIPoolPack(DeformRoIPoolPack):
    """Deformable pooling that learns its offsets and what each bin is multiplied by (Zhu et al. 2019).

    The factors come out of a sigmoid and start at 1/2. Arguments as of :class:`DeformRoIPoolPack`. Names in
    the state dict: those of it, ``mask_fc.0`` and ``mask_fc.2``.
    """

    def __init__(
        self,
        output_size: int | tuple[int, int],
        output_channels: int,
        deform_fc_channels: int = 1024,
        spatial_scale: float = 1.0,
        sampling_ratio: int = 0,
        gamma: float = 0.1,
    ) -> None:
        super().__init__(
            output_size, output_channels, deform_fc_channels, spatial_scale, sampling_ratio, gamma
        )
        bins = self.output_size[0] * self.output_size[1]
        self.mask_fc = nn.Sequential(
            nn.Linear(bins * output_channels, deform_fc_channels),
            nn.ReLU(inplace=True),
            _zero_linear(deform_fc_channels, bins),
            nn.Sigmoid(),
        )

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:  # type: ignore[override]
        """``Tensor[K, output_channels, h, w]``; see :meth:`DeformRoIPoolPack.forward`."""
        plain = self._plain(input, rois)
        mask: Tensor = self.mask_fc(plain).view(-1, 1, *self.output_size)
        return self._moved(input, rois, plain) * mask.to(input.dtype)


# -------------------------------------------------------------------------------------- cells and weights


def _samples(regions: Tensor, size: tuple[int, int], scale: float, sampling_ratio: int) -> Tensor:
    """Samples of a bin of each region along y and x, ``LongTensor[K, 2]`` in the memory of the CPU."""
    if sampling_ratio > 0:
        return torch.full((len(regions), 2), sampling_ratio)
    # Half a cell is taken off both, as where regions are cut out: without it, rounding may add a sample.
    length = (regions[:, [4, 3]] * scale - 0.5) - (regions[:, [2, 1]] * scale - 0.5)
    numbers = torch.ceil(length / length.new_tensor(size)).nan_to_num(nan=0.0).clamp(min=0)
    most = numbers.cpu()
    if len(most) and float(most.max()) > _MOST_SAMPLES:
        worst = int(most.amax(1).argmax())
        raise ValueError(
            f"region {worst}, {regions[worst].tolist()}, takes {int(most.max())} samples along an axis of a "
            f"bin; with more than {_MOST_SAMPLES} it is no region of an image"
        )
    return most.long()


def _bins(
    regions: Tensor, offset: Tensor, size: tuple[int, int], scale: float, gamma: float
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Along y and along x, in cells: where bins begin ``Tensor[K, h * w]`` and their length ``Tensor[K]``."""
    axes = []
    for axis in (1, 0):
        start = regions[:, 1 + axis] * scale - 0.5
        length = regions[:, 3 + axis] * scale - 0.5 - start
        step = length / size[1 - axis]
        place = torch.arange(size[1 - axis], device=regions.device)
        grid = place[:, None].expand(size) if axis else place.expand(size)
        shift = gamma * length[:, None, None] * offset[:, axis]
        axes.append(((start[:, None, None] + grid * step[:, None, None] + shift).flatten(1), step))
    return axes[0], axes[1]


def _portions(numbers: Tensor, size: tuple[int, int]) -> Iterator[Tensor]:
    """Places of regions ``LongTensor[n]`` that may be reckoned together; one portion where there are none."""
    cells = numbers.clamp(min=1).prod(1) * 4 * size[0] * size[1]
    portion = (cells.cumsum(0) - 1).div(_MOST_CELLS, rounding_mode="floor")
    if not len(portion):
        yield torch.zeros(0, dtype=torch.long)
    for each in portion.unique():
        yield torch.nonzero(portion == each).flatten()


def _weighted_cells(
    chosen: Tensor,
    numbers: Tensor,
    images: Tensor,
    axes: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]],
    shape: tuple[int, int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What bins are sums of.

    Args:
        chosen: Places ``LongTensor[n]`` of regions.
        numbers: Samples of a bin along y and x, ``LongTensor[K, 2]``.
        images: Image numbers ``Tensor[K]``.
        axes: As of :func:`_bins`.
        shape: Cells of a map along y and x.

    Returns:
        The regions in the order in which they come, then, bin by bin, the cells, their weights, and where
        each bin begins.
    """
    device = images.device
    rows, cells, weights, counts = [], [], [], []
    kinds, kind_of = numbers[chosen].unique(dim=0, return_inverse=True)
    # Without regions there is one kind of none of them, so that gradients of zero flow.
    for kind, (along_y, along_x) in enumerate(kinds.tolist() or [(1, 1)]):
        row = chosen[kind_of == kind].to(device)
        (start_y, step_y), (start_x, step_x) = axes
        y, of_y = _taps(start_y[row], step_y[row], along_y, shape[0])
        x, of_x = _taps(start_x[row], step_x[row], along_x, shape[1])
        y = y + images[row].long()[:, None, None] * shape[0]
        cells.append((y[..., :, None] * shape[1] + x[..., None, :]).flatten())
        weights.append((of_y[..., :, None] * of_x[..., None, :]).flatten())
        counts.append(torch.full((start_y[row].numel(),), y.size(2) * x.size(2), device=device))
        rows.append(row)
    count = torch.cat(counts)
    return torch.cat(rows), torch.cat(cells), torch.cat(weights), count.cumsum(0) - count


def _taps(start: Tensor, step: Tensor, number: int, size: int) -> tuple[Tensor, Tensor]:
    """Along one axis, the two cells around each sample and their shares in the mean.

    Args:
        start: Where bins begin, ``Tensor[n, bins]``, in cells; 0 is the centre of the first.
        step: How long the bins of a region are, ``Tensor[n]``.
        number: Samples of a bin; with 0 its value is 0.
        size: Cells of the map.

    Returns:
        ``LongTensor[n, bins, 2 * max(number, 1)]`` and ``Tensor`` of the same shape.
    """
    share = (torch.arange(max(number, 1), device=start.device, dtype=start.dtype) + 0.5) / max(number, 1)
    place = start[..., None] + (step[:, None] * share)[:, None]
    counts = (place >= -1) & (place <= size) & (number > 0)
    place = torch.where(counts, place, 0.0).clamp(0, size - 1)
    low = place.detach().floor()
    beyond = place - low
    first = low.long()
    cells = torch.stack([first, (first + 1).clamp(max=size - 1)], -1)
    weights = torch.stack([1 - beyond, beyond], -1) * (counts / max(number, 1))[..., None]
    return cells.flatten(2), weights.flatten(2)


def _zero_linear(in_features: int, out_features: int) -> nn.Linear:
    layer = nn.Linear(in_features, out_features)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _check(input: Tensor, rois: Tensor, offset: Tensor, size: tuple[int, int]) -> None:
    if input.dim() != 4:
        raise ValueError(f"features must be [B, C, H, W], got shape {tuple(input.shape)}")
    if rois.dim() != 2 or rois.size(1) != 5:
        raise ValueError(f"rois must be [K, 5] (image number, x1, y1, x2, y2), got shape {tuple(rois.shape)}")
    if tuple(offset.shape) != (len(rois), 2, *size):
        raise ValueError(
            f"offset must have shape {(len(rois), 2, *size)} (x, then y) here, got {tuple(offset.shape)}"
        )
