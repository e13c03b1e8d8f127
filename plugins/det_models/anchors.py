"""Anchors: boxes of a few sizes and shapes around every cell of every feature map."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.utils import _pair

from det_models.grids import GridCache, Size, cells_on_images, check_levels


class AnchorGenerator:
    """Anchors of a pyramid of feature maps.

    Level ``i`` has ``num_base_priors[i]`` anchors at each cell: every ratio with every scale, around the
    cell's corner (centre where ``center_offset`` is 0.5). Anchors of a level are ordered by row, column, then
    kind.

    Args:
        strides: Pixels between neighbouring cells of each level, an int or (w, h).
        ratios: Height over width.
        scales: Side of the square anchor in parts of the level's base size.
        base_sizes: Pixels that the scales are multiplied by; by default the shorter stride of each level.
        scale_major: Whether the kinds run through the scales within each ratio (or the other way round).
        octave_base_scale: With ``scales_per_octave`` in place of ``scales``: the scales are
            ``octave_base_scale * 2 ** (i / scales_per_octave)``.
        scales_per_octave: How many scales between one and its double.
        centers: Centre (x, y) of each level's anchors at the first cell, in pixels; not with
            ``center_offset``.
        center_offset: That centre in parts of the base size, 0..1.

    Raises:
        ValueError: Arguments that contradict one another.
    """

    def __init__(
        self,
        strides: Sequence[int] | Sequence[Size],
        ratios: Sequence[float],
        scales: Sequence[float] | None = None,
        base_sizes: Sequence[float] | None = None,
        scale_major: bool = True,
        octave_base_scale: float | None = None,
        scales_per_octave: int | None = None,
        centers: Sequence[tuple[float, float]] | None = None,
        center_offset: float = 0.0,
    ) -> None:
        self.strides: list[Size] = [_pair(stride) for stride in strides]
        self.base_sizes = [min(stride) for stride in self.strides] if base_sizes is None else list(base_sizes)
        self.scales = torch.tensor(
            _pick_scales(scales, octave_base_scale, scales_per_octave), dtype=torch.float32
        )
        self.ratios = torch.tensor(ratios, dtype=torch.float32)
        self.scale_major = scale_major
        self.centers = centers
        self.center_offset = center_offset
        self._check_centers()
        if len(self.base_sizes) != self.num_levels:
            raise ValueError(f"{len(self.base_sizes)} base sizes for {self.num_levels} strides")
        self.base_anchors = self.gen_base_anchors()
        self._grids = GridCache()

    def _check_centers(self) -> None:
        if not 0 <= self.center_offset <= 1:
            raise ValueError(f"center_offset is a part of the base size, 0..1, got {self.center_offset}")
        if self.centers is None:
            return
        if self.center_offset != 0:
            raise ValueError(
                f"give centers or center_offset, not both: got {self.centers} and {self.center_offset}"
            )
        if len(self.centers) != self.num_levels:
            raise ValueError(f"{len(self.centers)} centers for {self.num_levels} strides")

    @property
    def num_levels(self) -> int:
        """Number of feature maps."""
        return len(self.strides)

    @property
    def num_base_priors(self) -> list[int]:
        """Anchors per cell of each level."""
        return [len(anchors) for anchors in self.base_anchors]

    def gen_base_anchors(self) -> list[Tensor]:
        """Anchors of the first cell of each level, ``Tensor[K, 4]`` each, xyxy, pixels."""
        centers: Sequence[tuple[float, float] | None] = self.centers or [None] * self.num_levels
        return [
            self.gen_single_level_base_anchors(size, self.scales, self.ratios, center)
            for size, center in zip(self.base_sizes, centers, strict=True)
        ]

    def gen_single_level_base_anchors(
        self, base_size: float, scales: Tensor, ratios: Tensor, center: tuple[float, float] | None = None
    ) -> Tensor:
        """Anchors ``Tensor[K, 4]`` (xyxy, pixels) of the first cell for one base size."""
        x, y = (self.center_offset * base_size,) * 2 if center is None else center
        h_factor = torch.sqrt(ratios)
        w_factor = 1 / h_factor
        if self.scale_major:
            w = (base_size * w_factor[:, None] * scales[None, :]).flatten()
            h = (base_size * h_factor[:, None] * scales[None, :]).flatten()
        else:
            w = (base_size * scales[:, None] * w_factor[None, :]).flatten()
            h = (base_size * scales[:, None] * h_factor[None, :]).flatten()
        return torch.stack((x - 0.5 * w, y - 0.5 * h, x + 0.5 * w, y + 0.5 * h), dim=-1)

    def grid_priors(
        self,
        featmap_sizes: Sequence[Size],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> list[Tensor]:
        """Anchors of every level.

        Made once for a combination of sizes, dtype and device, then shared: do not change them in place.

        Args:
            featmap_sizes: (h, w) of each level's feature map.
            dtype: Dtype of the anchors.
            device: Where they are wanted.

        Returns:
            ``Tensor[h * w * K, 4]`` a level, xyxy, pixels of the network's input.

        Raises:
            ValueError: Another number of feature maps than of strides.
        """
        sizes = check_levels(featmap_sizes, self.strides, "anchors")
        return self._grids.get(
            (tuple(sizes), dtype, str(device)),
            lambda: [
                self.single_level_grid_priors(size, level, dtype, device) for level, size in enumerate(sizes)
            ],
        )

    def single_level_grid_priors(
        self,
        featmap_size: Size,
        level_idx: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Anchors ``Tensor[h * w * K, 4]`` of one level; see :meth:`grid_priors`."""
        height, width = featmap_size
        stride_w, stride_h = self.strides[level_idx]
        base = self.base_anchors[level_idx].to(device=device, dtype=dtype)
        x = torch.arange(width, device=device).to(dtype) * stride_w
        y = torch.arange(height, device=device).to(dtype) * stride_h
        x, y = x.repeat(height), y.repeat_interleave(width)
        shifts = torch.stack((x, y, x, y), dim=-1)
        return (shifts[:, None] + base[None]).flatten(0, 1)

    def sparse_priors(
        self,
        prior_idxs: Tensor,
        featmap_size: Size,
        level_idx: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Anchors ``Tensor[N, 4]`` of one level by their places ``Tensor[N]`` in :meth:`grid_priors`."""
        _, width = featmap_size
        num_kinds = self.num_base_priors[level_idx]
        stride_w, stride_h = self.strides[level_idx]
        cell = prior_idxs // num_kinds
        x, y = cell % width * stride_w, cell // width * stride_h
        shifts = torch.stack((x, y, x, y), dim=-1).to(device=device, dtype=dtype)
        base = self.base_anchors[level_idx].to(device=device, dtype=dtype)
        return shifts + base[(prior_idxs % num_kinds).to(device)]

    def valid_flags(
        self, featmap_sizes: Sequence[Size], pad_shape: Size, device: torch.device | str = "cpu"
    ) -> list[Tensor]:
        """Which anchors sit on the image, not on what pads it to the size of its batch.

        Args:
            featmap_sizes: (h, w) of each level's feature map.
            pad_shape: (h, w) of the image in pixels, padded to the divisor.
            device: Where the flags are wanted.

        Returns:
            ``BoolTensor[h * w * K]`` a level.
        """
        flags = self.batch_valid_flags(featmap_sizes, [pad_shape], torch.empty(0, device=device))
        if flags is None:
            counts = [h * w * k for (h, w), k in zip(featmap_sizes, self.num_base_priors, strict=True)]
            return [torch.ones(count, dtype=torch.bool, device=device) for count in counts]
        sizes = [h * w * k for (h, w), k in zip(featmap_sizes, self.num_base_priors, strict=True)]
        return list(flags[0].split(sizes))

    def batch_valid_flags(
        self, featmap_sizes: Sequence[Size], pad_shapes: Sequence[Size], like: Tensor
    ) -> Tensor | None:
        """:meth:`valid_flags` of a whole batch.

        Args:
            featmap_sizes: (h, w) of each level's feature map.
            pad_shapes: (h, w) of each image in pixels, padded to the divisor.
            like: A tensor on the device where the flags are wanted.

        Returns:
            ``BoolTensor[B, A]`` for the A anchors of all levels, or None where all of them are valid.
        """
        return cells_on_images(featmap_sizes, pad_shapes, self.strides, self.num_base_priors, like)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(strides={self.strides}, ratios={self.ratios.tolist()}, "
            f"scales={self.scales.tolist()}, base_sizes={self.base_sizes})"
        )


def pyramid_anchors() -> AnchorGenerator:
    """Three shapes in three sizes at each cell of a pyramid of strides 4 to 64."""
    return AnchorGenerator(scales=[8, 16, 32], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64])


def retina_anchors() -> AnchorGenerator:
    """Three shapes, three sizes an octave at each cell of strides 8 to 128 (RetinaNet, section 4)."""
    return AnchorGenerator(
        strides=[8, 16, 32, 64, 128], ratios=[0.5, 1.0, 2.0], octave_base_scale=4, scales_per_octave=3
    )


def square_anchors(
    strides: Sequence[int] = (8, 16, 32, 64, 128), center_offset: float = 0.0
) -> AnchorGenerator:
    """One square of 8 strides at each cell of a pyramid (ATSS, section 3.1)."""
    return AnchorGenerator(strides, ratios=[1.0], scales=[8], center_offset=center_offset)


def _pick_scales(
    scales: Sequence[float] | None, octave_base_scale: float | None, scales_per_octave: int | None
) -> list[float]:
    octave = octave_base_scale is not None and scales_per_octave is not None
    half_octave = (octave_base_scale is None) != (scales_per_octave is None)
    if half_octave or octave == (scales is not None):
        raise ValueError(
            "give either scales, or octave_base_scale and scales_per_octave together; got "
            f"scales={scales}, octave_base_scale={octave_base_scale}, scales_per_octave={scales_per_octave}"
        )
    if scales is not None:
        return list(scales)
    assert octave_base_scale is not None
    assert scales_per_octave is not None
    octaves = np.array([2 ** (i / scales_per_octave) for i in range(scales_per_octave)])
    return [float(scale) for scale in octaves * octave_base_scale]
