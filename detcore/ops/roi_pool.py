"""Features of regions, sampled to one size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from detcore.ops.by_level import by_level
from detcore.ops.roi_align_cpu import roi_align_cpu


def roi_align(
    input: Tensor,
    rois: Tensor,
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    aligned: bool = True,
) -> Tensor:
    """RoIAlign (He et al. 2017). Coordinates stay in float32, also for half-precision features.

    Args:
        input: ``Tensor[B, C, H, W]``.
        rois: ``Tensor[K, 5]``: image number, x1, y1, x2, y2 in pixels of the image.
        output_size: Height and width of the results.
        spatial_scale: Size of a pixel of the image in pixels of ``input`` (1 / stride).
        sampling_ratio: Samples per bin along each axis; 0 takes as many as the region's size asks for.
        aligned: Whether pixel centres lie at halves, which they do; False is the original's shift.

    Returns:
        ``Tensor[K, C, *output_size]``, of the type of ``input``.
    """
    levels = torch.zeros(len(rois), dtype=torch.long, device=rois.device)
    return roi_align_levels([input], rois, levels, output_size, [spatial_scale], sampling_ratio, aligned)


def roi_align_levels(
    inputs: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    output_size: int | tuple[int, int],
    spatial_scales: Sequence[float],
    sampling_ratio: int = 0,
    aligned: bool = True,
) -> Tensor:
    """:func:`roi_align` of each region out of the map of its level in a pyramid.

    Args:
        inputs: ``Tensor[B, C, H_i, W_i]`` of each level.
        rois: ``Tensor[K, 5]``: image number, x1, y1, x2, y2 in pixels of the image.
        levels: ``LongTensor[K]``, number of the map that each region is looked up in.
        output_size: Height and width of the results.
        spatial_scales: Size of a pixel of the image in pixels of each level.
        sampling_ratio: Samples per bin along each axis; 0 takes as many as the region's size asks for.
        aligned: Whether pixel centres lie at halves.

    Returns:
        ``Tensor[K, C, *output_size]``, of the type of the maps.
    """
    for each in inputs:
        _check(each, rois)
    dtype = inputs[0].dtype
    maps = [each if dtype == torch.float64 else each.float() for each in inputs]
    regions, size = rois.to(maps[0].dtype), _pair(output_size)
    if maps[0].device.type == "cpu" and len(rois) and not _is_traced():
        pooled = roi_align_cpu(maps, regions, levels, size, spatial_scales, sampling_ratio, aligned)
        if pooled is not None:
            return pooled.to(dtype)
    import torchvision  # see nms.py

    def pool(number: int, part: Tensor) -> Tensor:
        of_level: Tensor = torchvision.ops.roi_align(
            maps[number], part, size, spatial_scales[number], sampling_ratio, aligned
        )
        return of_level

    return by_level(pool, regions, levels, len(maps)).to(dtype)


def roi_pool(
    input: Tensor,
    rois: Tensor,
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
) -> Tensor:
    """RoIPool (Girshick 2015): the largest value of each bin; arguments and result as of roi_align."""
    _check(input, rois)
    features = input if input.dtype == torch.float64 else input.float()
    regions = rois.to(features.dtype)
    import torchvision  # see nms.py

    return torchvision.ops.roi_pool(features, regions, _pair(output_size), spatial_scale).to(input.dtype)


class RoIAlign(nn.Module):
    """:func:`roi_align` as a layer.

    Args:
        output_size: Height and width of the results.
        spatial_scale: 1 / stride of the features.
        sampling_ratio: Samples per bin along each axis; 0 takes as many as the region's size asks for.
        pool_mode: Only ``'avg'``.
        aligned: Whether pixel centres lie at halves.
    """

    def __init__(
        self,
        output_size: int | tuple[int, int],
        spatial_scale: float = 1.0,
        sampling_ratio: int = 0,
        pool_mode: Literal["avg"] = "avg",
        aligned: bool = True,
    ) -> None:
        super().__init__()
        if pool_mode != "avg":
            raise ValueError(f"RoIAlign averages its samples: pool_mode must be 'avg', got {pool_mode!r}")
        self.output_size = _pair(output_size)
        self.spatial_scale = float(spatial_scale)
        self.sampling_ratio = int(sampling_ratio)
        self.aligned = aligned

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """``Tensor[K, C, *output_size]`` for features ``Tensor[B, C, H, W]`` and ``Tensor[K, 5]`` regions."""
        return roi_align(input, rois, self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned)

    def extra_repr(self) -> str:
        """Arguments, for ``repr``."""
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}"
        )


class RoIPool(nn.Module):
    """:func:`roi_pool` as a layer; arguments as of :class:`RoIAlign`."""

    def __init__(self, output_size: int | tuple[int, int], spatial_scale: float = 1.0) -> None:
        super().__init__()
        self.output_size = _pair(output_size)
        self.spatial_scale = float(spatial_scale)

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """``Tensor[K, C, *output_size]`` for features ``Tensor[B, C, H, W]`` and ``Tensor[K, 5]`` regions."""
        return roi_pool(input, rois, self.output_size, self.spatial_scale)

    def extra_repr(self) -> str:
        """Arguments, for ``repr``."""
        return f"output_size={self.output_size}, spatial_scale={self.spatial_scale}"


def _is_traced() -> bool:
    """Whether a graph is being recorded, which must not depend on what the regions are."""
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined]
    return tracing or torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export()


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    height, width = size
    return int(height), int(width)


def _check(features: Tensor, rois: Tensor) -> None:
    if features.dim() != 4:
        raise ValueError(f"features must be [B, C, H, W], got shape {tuple(features.shape)}")
    if rois.dim() != 2 or rois.size(1) != 5:
        raise ValueError(f"rois must be [K, 5] (image number, x1, y1, x2, y2), got shape {tuple(rois.shape)}")
