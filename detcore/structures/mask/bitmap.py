"""Instance masks as bitmaps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Self

import cv2
import numpy as np
import torch
from torch import Tensor

from detcore.structures.mask.base import (
    INTERPOLATIONS,
    BaseInstanceMasks,
    FlipDirection,
    Interpolation,
    as_positions,
    checked_box,
    checked_flip,
    checked_size,
)
from detcore.structures.mask.roi_sample import roi_align_masks, sample_boxes


class BitmapMasks(BaseInstanceMasks):
    """Masks of the instances in one image, one bitmap each.

    Args:
        masks: ``(N, height, width)`` of 0 and 1, or a list of ``N`` arrays ``(height, width)``.
        height: Of the image, in pixels.
        width: Of the image, in pixels.

    Raises:
        ValueError: The masks have another size.

    Example:
        >>> masks = BitmapMasks(np.ones((2, 20, 30), np.uint8), 20, 30)
        >>> masks.flip().crop(np.array([0, 0, 10, 5])).areas.tolist()
        [50, 50]
    """

    def __init__(self, masks: np.ndarray | Sequence[np.ndarray], height: int, width: int) -> None:
        self.height, self.width = checked_size(height, width)
        array = np.asarray(masks) if len(masks) else np.zeros((0, self.height, self.width), np.uint8)
        if array.ndim != 3 or array.shape[1:] != (self.height, self.width):
            raise ValueError(f"masks must be (N, {self.height}, {self.width}), got shape {array.shape}")
        self.masks = array.view(np.uint8) if array.dtype == np.bool_ else array

    def __len__(self) -> int:
        return len(self.masks)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Each mask, ``(height, width)``."""
        return iter(self.masks)

    def __getitem__(self, index: int | slice | Sequence[int] | np.ndarray | Tensor) -> BitmapMasks:
        """The masks that an index selects (an int keeps a length of one)."""
        return BitmapMasks(self.masks[as_positions(index, len(self))], self.height, self.width)

    @property
    def areas(self) -> np.ndarray:
        """Areas in pixels, ``(N,)`` int64."""
        return self.masks.sum((1, 2), dtype=np.int64)

    def to_ndarray(self) -> np.ndarray:
        """``(N, height, width)`` of 0 and 1."""
        return self.masks

    def resize(self, out_shape: tuple[int, int], interpolation: Interpolation = "nearest") -> Self:
        """Masks scaled to ``out_shape`` (height, width)."""
        height, width = out_shape
        flag = INTERPOLATIONS[interpolation]
        resized = [cv2.resize(mask, (int(width), int(height)), interpolation=flag) for mask in self.masks]
        return type(self)(resized, *out_shape)

    def flip(self, flip_direction: FlipDirection = "horizontal") -> Self:
        """Mirrored masks.

        Raises:
            ValueError: The direction is unknown.
        """
        checked_flip(flip_direction)
        flipped = np.empty((len(self), self.height, self.width), self.masks.dtype)
        if self.masks.dtype == np.uint8 and flipped.size:
            code = {"horizontal": 1, "vertical": 0, "diagonal": -1}[flip_direction]
            for mask, target in zip(self.masks, flipped, strict=True):
                cv2.flip(mask, code, dst=target)
        else:
            across = -1 if flip_direction != "vertical" else 1
            down = -1 if flip_direction != "horizontal" else 1
            flipped[:] = self.masks[:, ::down, ::across]
        return type(self)(flipped, self.height, self.width)

    def pad(self, out_shape: tuple[int, int], pad_val: int = 0) -> Self:
        """Masks with ``pad_val`` added at the right and below, up to ``out_shape`` (height, width).

        Raises:
            ValueError: ``out_shape`` is smaller than the masks.
        """
        height, width = out_shape
        if height < self.height or width < self.width:
            raise ValueError(f"masks of {(self.height, self.width)} cannot be padded to {out_shape}")
        padded = np.full((len(self), height, width), pad_val, self.masks.dtype)
        padded[:, : self.height, : self.width] = self.masks
        return type(self)(padded, height, width)

    def crop(self, bbox: np.ndarray | Sequence[float]) -> Self:
        """The part of the masks within a box (xyxy, pixels; cut to the image; at least 1 x 1)."""
        x1, x2 = np.clip(checked_box(bbox)[0::2], 0, self.width).astype(np.int64).tolist()
        y1, y2 = np.clip(checked_box(bbox)[1::2], 0, self.height).astype(np.int64).tolist()
        # A box at the very border keeps the one pixel that every crop has, like everywhere else.
        x1, y1 = min(x1, max(self.width - 1, 0)), min(y1, max(self.height - 1, 0))
        cropped = self.masks[:, y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)]
        return type(self)(cropped, cropped.shape[1], cropped.shape[2])

    def crop_and_resize(
        self,
        bboxes: np.ndarray | Tensor,
        out_shape: tuple[int, int],
        inds: np.ndarray | Tensor,
        device: torch.device | str = "cpu",
        interpolation: Interpolation = "bilinear",
        binarize: bool = True,
    ) -> Self:
        """Mask targets: for each box, the mask of its instance within it, scaled to one size.

        Args:
            bboxes: ``(K, 4)`` xyxy in pixels.
            out_shape: Height and width of the results.
            inds: ``(K,)``: which mask belongs to which box.
            device: Where to compute.
            interpolation: Only ``'bilinear'``.
            binarize: Whether to threshold at 0.5; else the results are float32 between 0 and 1.

        Returns:
            ``K`` masks of ``out_shape``.
        """
        if interpolation != "bilinear":
            raise ValueError(f"crop_and_resize samples bilinearly only, got {interpolation!r}")
        boxes = torch.as_tensor(bboxes, dtype=torch.float32, device=device).detach().reshape(-1, 4)
        if len(boxes) == 0:
            return type(self)(np.zeros((0, *out_shape), np.uint8), *out_shape)
        positions = as_positions(inds, len(self))
        if len(positions) != len(boxes):
            raise ValueError(f"{len(boxes)} boxes need as many indices, got {len(positions)}")
        if boxes.device.type == "cpu":
            targets = sample_boxes(self.masks, boxes.numpy(), positions, out_shape, binarize)
            return type(self)(targets, *out_shape)
        masks = torch.from_numpy(np.ascontiguousarray(self.masks)).to(device)
        sampled = roi_align_masks(masks, boxes, torch.from_numpy(positions).to(device), out_shape)
        result = (sampled >= 0.5).to(torch.uint8) if binarize else sampled
        return type(self)(result.cpu().numpy(), *out_shape)

    def expand(self, expanded_h: int, expanded_w: int, top: int, left: int) -> Self:
        """Masks placed into a larger empty image, their corner at (``left``, ``top``).

        Raises:
            ValueError: They do not fit in there.
        """
        bottom, right = top + self.height, left + self.width
        if min(top, left) < 0 or bottom > expanded_h or right > expanded_w:
            raise ValueError(
                f"masks of {(self.height, self.width)} at top {top}, left {left} do not fit "
                f"into {(expanded_h, expanded_w)}"
            )
        expanded = np.zeros((len(self), expanded_h, expanded_w), self.masks.dtype)
        expanded[:, top:bottom, left:right] = self.masks
        return type(self)(expanded, expanded_h, expanded_w)

    def warp(
        self,
        matrix: np.ndarray,
        out_shape: tuple[int, int],
        border_value: int = 0,
        interpolation: Interpolation = "bilinear",
    ) -> Self:
        """Masks under an affine map ``(2, 3)``; see the base class."""
        height, width = out_shape
        flag = INTERPOLATIONS[interpolation]
        warped = [
            cv2.warpAffine(mask, matrix, (width, height), flags=flag, borderValue=border_value)
            for mask in self.masks
        ]
        return type(self)(warped, height, width)

    def get_bboxes(self, dst_type: str = "hbox") -> np.ndarray:
        """Smallest boxes around the masks: ``(N, 4)`` xyxy float32; zeros for an empty mask.

        Raises:
            ValueError: ``dst_type`` is not ``'hbox'`` (axis-aligned boxes), the only kind there is.
        """
        if dst_type != "hbox":
            raise ValueError(f"dst_type must be 'hbox', got {dst_type!r}")
        boxes = np.zeros((len(self), 4), np.float32)
        for box, mask in zip(boxes, self.masks, strict=True):
            columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
            if len(columns):
                box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        return boxes

    def to_bitmap(self) -> BitmapMasks:
        """These masks themselves."""
        return self

    @classmethod
    def random(
        cls,
        num_masks: int = 3,
        height: int = 32,
        width: int = 32,
        dtype: type = np.uint8,
        rng: np.random.RandomState | np.random.Generator | None = None,
    ) -> Self:
        """Masks of random pixels, for tests and examples."""
        generator = np.random.default_rng() if rng is None else rng
        masks: np.ndarray = (generator.uniform(size=(num_masks, height, width)) > 0.9).astype(dtype)
        return cls(masks, height, width)

    @classmethod
    def cat(cls, masks: Sequence[BitmapMasks]) -> Self:
        """All masks of several elements in one.

        Raises:
            ValueError: There are none, or they have different sizes.
        """
        if len(masks) == 0:
            raise ValueError("cat needs at least one BitmapMasks, got none")
        sizes = {(m.height, m.width) for m in masks}
        if len(sizes) > 1:
            raise ValueError(f"cat needs masks of one size, got {sorted(sizes)}")
        return cls(np.concatenate([m.masks for m in masks]), masks[0].height, masks[0].width)
