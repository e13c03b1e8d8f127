"""Points: one at every cell of every feature map, for heads without anchors."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.modules.utils import _pair

from det_models.grids import GridCache, Size, cells_on_images, check_levels
from detcore.structures.bbox import bbox2distance


class MlvlPointGenerator:
    """The points of a pyramid of feature maps.

    The point of cell (row, column) of level ``i`` is at ``((column + offset) * w, (row + offset) * h)`` for
    the level's stride (w, h). Points of a level are ordered by row, then column.

    Args:
        strides: Pixels between neighbouring cells of each level, an int or (w, h).
        offset: Place of the point within its cell, in parts of the stride: 0 the corner, 0.5 the centre.
    """

    def __init__(self, strides: Sequence[int] | Sequence[Size], offset: float = 0.5) -> None:
        self.strides: list[Size] = [_pair(stride) for stride in strides]
        self.offset = offset
        self._grids = GridCache()

    @property
    def num_levels(self) -> int:
        """Number of feature maps."""
        return len(self.strides)

    @property
    def num_base_priors(self) -> list[int]:
        """Points per cell of each level."""
        return [1] * self.num_levels

    def grid_priors(
        self,
        featmap_sizes: Sequence[Size],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        with_stride: bool = False,
    ) -> list[Tensor]:
        """Points of every level.

        Made once for a combination of sizes, dtype and device, then shared: do not change them in place.

        Args:
            featmap_sizes: (h, w) of each level's feature map.
            dtype: Dtype of the points.
            device: Where they are wanted.
            with_stride: Put the level's stride (w, h) beside each point.

        Returns:
            ``Tensor[h * w, 2]`` a level, (x, y) in pixels of the network's input; ``[h * w, 4]`` with the
            stride, in pixels.

        Raises:
            ValueError: Another number of feature maps than of strides.
        """
        sizes = check_levels(featmap_sizes, self.strides, "points")
        return self._grids.get(
            (tuple(sizes), dtype, str(device), with_stride),
            lambda: [
                self.single_level_grid_priors(size, level, dtype, device, with_stride)
                for level, size in enumerate(sizes)
            ],
        )

    def single_level_grid_priors(
        self,
        featmap_size: Size,
        level_idx: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        with_stride: bool = False,
    ) -> Tensor:
        """Points of one level; see :meth:`grid_priors`."""
        height, width = featmap_size
        places = torch.arange(height * width, device=device)
        points = self.sparse_priors(places, featmap_size, level_idx, dtype, device)
        if not with_stride:
            return points
        stride_w, stride_h = self.strides[level_idx]
        steps = [torch.full_like(points[:, :1], stride) for stride in (stride_w, stride_h)]
        return torch.cat([points, *steps], dim=1)

    def sparse_priors(
        self,
        prior_idxs: Tensor,
        featmap_size: Size,
        level_idx: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Points ``Tensor[N, 2]`` of one level by their places ``Tensor[N]`` in :meth:`grid_priors`."""
        _, width = featmap_size
        stride_w, stride_h = self.strides[level_idx]
        x = ((prior_idxs % width).to(dtype) + self.offset) * stride_w
        y = ((prior_idxs // width).to(dtype) + self.offset) * stride_h
        return torch.stack((x, y), dim=-1).to(device)

    def valid_flags(
        self, featmap_sizes: Sequence[Size], pad_shape: Size, device: torch.device | str = "cpu"
    ) -> list[Tensor]:
        """Which points sit on the image, not on what pads it to the size of its batch.

        Args:
            featmap_sizes: (h, w) of each level's feature map.
            pad_shape: (h, w) of the image in pixels, padded to the divisor.
            device: Where the flags are wanted.

        Returns:
            ``BoolTensor[h * w]`` a level.
        """
        lengths = [height * width for height, width in featmap_sizes]
        flags = self.batch_valid_flags(featmap_sizes, [pad_shape], torch.empty(0, device=device))
        if flags is None:
            flags = torch.ones(1, sum(lengths), dtype=torch.bool, device=device)
        return list(flags[0].split(lengths))

    def batch_valid_flags(
        self, featmap_sizes: Sequence[Size], pad_shapes: Sequence[Size], like: Tensor
    ) -> Tensor | None:
        """:meth:`valid_flags` of a whole batch, ``BoolTensor[B, P]``; None where all points are valid.

        Args:
            featmap_sizes: (h, w) of each level's feature map.
            pad_shapes: (h, w) of each image in pixels, padded to the divisor.
            like: A tensor on the device where the flags are wanted.
        """
        return cells_on_images(featmap_sizes, pad_shapes, self.strides, self.num_base_priors, like)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(strides={self.strides}, offset={self.offset})"


def centers_of(priors: Tensor) -> Tensor:
    """Centres ``Tensor[..., 2]`` of boxes ``Tensor[..., 4]``, xyxy; points ``Tensor[..., 2]`` as they are."""
    return priors if priors.shape[-1] == 2 else (priors[..., :2] + priors[..., 2:]) / 2


def centerness_of(points: Tensor, boxes: Tensor) -> Tensor:
    """Centerness of points in boxes, 0 at the sides to 1 in the middle: FCOS (Tian et al. 2019), eq. 3.

    Args:
        points: ``Tensor[N, 2]``, (x, y), absolute pixels; 0 where one is outside of its box.
        boxes: ``Tensor[N, 4]``, xyxy, absolute pixels.

    Returns:
        ``Tensor[N]``.
    """
    left, top, right, bottom = bbox2distance(points, boxes).clamp(min=0).unbind(-1)
    across = torch.minimum(left, right) / torch.maximum(left, right)
    along = torch.minimum(top, bottom) / torch.maximum(top, bottom)
    return (across * along).sqrt()
