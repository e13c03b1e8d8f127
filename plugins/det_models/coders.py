"""Between boxes and what a head regresses."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from det_models.host import host_tensor
from detcore.structures.bbox import bbox2distance, distance2bbox

MaxShape = Sequence[int] | Sequence[Sequence[int]] | Tensor


class BaseBBoxCoder(ABC):
    """Turns boxes into regression targets and predictions into boxes.

    Attributes:
        encode_size: Numbers per encoded box.
    """

    encode_size = 4

    @abstractmethod
    def encode(self, bboxes: Tensor, gt_bboxes: Tensor) -> Tensor:
        """Targets ``Tensor[..., 4]`` that lead from ``bboxes`` to ``gt_bboxes``, ``Tensor[..., 4]``, xyxy."""

    @abstractmethod
    def decode(self, bboxes: Tensor, pred_bboxes: Tensor, max_shape: MaxShape | None = None) -> Tensor:
        """Boxes ``Tensor[..., 4]`` (xyxy, absolute pixels) that ``pred_bboxes`` means at ``bboxes``."""


class DeltaXYWHBBoxCoder(BaseBBoxCoder):
    """Shift of the centre in parts of the size, and logarithm of the change of size.

    R-CNN (Girshick et al. 2014), eq. 1-4 and 6-9: ``dx = (gx - px) / pw``, ``dw = log(gw / pw)``, likewise y
    and h.

    Args:
        target_means: Subtracted from the deltas (dx, dy, dw, dh).
        target_stds: What the deltas are divided by.
        clip_border: Clip decoded boxes to the picture where ``max_shape`` is given.
        add_ctr_clamp: Limit the shift of the centre to ``ctr_clamp`` pixels, and only enlargement (YOLOF).
        ctr_clamp: That limit in pixels.

    Raises:
        ValueError: Not four means or stds.
    """

    def __init__(
        self,
        target_means: Sequence[float] = (0.0, 0.0, 0.0, 0.0),
        target_stds: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
        clip_border: bool = True,
        add_ctr_clamp: bool = False,
        ctr_clamp: float = 32,
    ) -> None:
        for name, values in (("target_means", target_means), ("target_stds", target_stds)):
            if len(values) != 4:
                raise ValueError(f"{name} has 4 values (x, y, w, h), got {len(values)}: {list(values)}")
        self.means = tuple(float(value) for value in target_means)
        self.stds = tuple(float(value) for value in target_stds)
        self.clip_border = clip_border
        self.add_ctr_clamp = add_ctr_clamp
        self.ctr_clamp = ctr_clamp

    def encode(self, bboxes: Tensor, gt_bboxes: Tensor) -> Tensor:
        """Deltas from ``bboxes`` to ``gt_bboxes``, all ``Tensor[..., 4]``; boxes xyxy, with an area."""
        center, size = _center_size(bboxes)
        gt_center, gt_size = _center_size(gt_bboxes)
        deltas = torch.cat(((gt_center - center) / size, torch.log(gt_size / size)), dim=-1)
        if any(self.means):
            deltas = deltas - host_tensor(self.means, deltas)
        if self.stds != (1.0, 1.0, 1.0, 1.0):
            deltas = deltas / host_tensor(self.stds, deltas)
        return deltas

    def decode(
        self,
        bboxes: Tensor,
        pred_bboxes: Tensor,
        max_shape: MaxShape | None = None,
        wh_ratio_clip: float = 16 / 1000,
    ) -> Tensor:
        """Apply predicted deltas to boxes.

        Args:
            bboxes: ``Tensor[..., 4]``, xyxy, absolute pixels.
            pred_bboxes: ``Tensor[..., 4]``, or ``Tensor[..., 4 * K]`` with K sets of deltas for each box.
            max_shape: (height, width) to clip to; one for all or, for ``Tensor[B, N, 4]``, one an image.
            wh_ratio_clip: Least change of width and height, and the inverse of the greatest: an untrained
                network must not overflow the exponential.

        Returns:
            Boxes of the deltas' shape, xyxy, absolute pixels.
        """
        deltas = pred_bboxes.unflatten(-1, (-1, 4))
        if self.stds != (1.0, 1.0, 1.0, 1.0):
            deltas = deltas * host_tensor(self.stds, deltas)
        if any(self.means):
            deltas = deltas + host_tensor(self.means, deltas)
        center, size = _center_size(bboxes[..., None, :])
        shift = size * deltas[..., :2]
        greatest = abs(math.log(wh_ratio_clip))
        if self.add_ctr_clamp:
            shift = shift.clamp(-self.ctr_clamp, self.ctr_clamp)
            log_scale = deltas[..., 2:].clamp(max=greatest)
        else:
            log_scale = deltas[..., 2:].clamp(-greatest, greatest)
        center = center + shift
        half = size * log_scale.exp() * 0.5
        boxes = torch.cat((center - half, center + half), dim=-1).flatten(-2)
        if self.clip_border and max_shape is not None:
            boxes = clip_boxes(boxes, max_shape)
        return boxes


class PseudoBBoxCoder(BaseBBoxCoder):
    """The boxes themselves, for heads that regress coordinates."""

    def encode(self, bboxes: Tensor, gt_bboxes: Tensor) -> Tensor:
        """``gt_bboxes`` as they are."""
        return gt_bboxes

    def decode(self, bboxes: Tensor, pred_bboxes: Tensor, max_shape: MaxShape | None = None) -> Tensor:
        """``pred_bboxes`` as they are."""
        return pred_bboxes


class DistancePointBBoxCoder(BaseBBoxCoder):
    """Distances of a point to the four sides of its box: FCOS (Tian et al. 2019), eq. 1.

    Args:
        clip_border: Clip decoded boxes to the picture where ``max_shape`` is given.
    """

    def __init__(self, clip_border: bool = True) -> None:
        self.clip_border = clip_border

    def encode(
        self, bboxes: Tensor, gt_bboxes: Tensor, max_dis: float | None = None, eps: float = 0.1
    ) -> Tensor:
        """Distances from points to the sides of their boxes.

        Args:
            bboxes: Points ``Tensor[..., 2]``, (x, y), absolute pixels; a stride beside them has no effect.
            gt_bboxes: ``Tensor[..., 4]``, xyxy, absolute pixels.
            max_dis: Cut distances to ``[0, max_dis - eps]``, in pixels.
            eps: Keeps them below the bound itself.

        Returns:
            ``Tensor[..., 4]``, left, top, right, bottom, in pixels; negative where a point is outside.
        """
        return bbox2distance(bboxes[..., :2], gt_bboxes, max_dis, eps)

    def decode(self, bboxes: Tensor, pred_bboxes: Tensor, max_shape: MaxShape | None = None) -> Tensor:
        """Boxes around points.

        Args:
            bboxes: Points ``Tensor[..., 2]``, (x, y), absolute pixels; a stride beside them has no effect.
            pred_bboxes: ``Tensor[..., 4]``, distances to left, top, right, bottom, in pixels.
            max_shape: (height, width) to clip to; one for all or, for ``Tensor[B, N, 4]``, one an image.

        Returns:
            ``Tensor[..., 4]``, xyxy, absolute pixels.
        """
        boxes = distance2bbox(bboxes[..., :2], pred_bboxes)
        return clip_boxes(boxes, max_shape) if self.clip_border and max_shape is not None else boxes


class TBLRBBoxCoder(BaseBBoxCoder):
    """Distances of a prior's centre to top, bottom, left and right of its box, in parts of the prior's sides.

    FSAF (Zhu et al. 2019), section 3.1: ``t = (cy - y1) / (h S)``, likewise b, and l and r with the width.

    Args:
        normalizer: S, one number or one for each of top, bottom, left, right.
        clip_border: Clip decoded boxes to the picture where ``max_shape`` is given.

    Raises:
        ValueError: Not one or four numbers.
    """

    def __init__(self, normalizer: float | Sequence[float] = 4.0, clip_border: bool = True) -> None:
        each = (normalizer,) * 4 if isinstance(normalizer, int | float) else tuple(normalizer)
        if len(each) != 4:
            raise ValueError(f"normalizer is one number or 4 (top, bottom, left, right), got {normalizer}")
        self.normalizer = tuple(float(value) for value in each)
        self.clip_border = clip_border

    def encode(self, bboxes: Tensor, gt_bboxes: Tensor) -> Tensor:
        """Distances from priors to the sides of their boxes, all ``Tensor[..., 4]``; boxes xyxy."""
        center, _ = _center_size(bboxes)
        (left, top), (right, bottom) = (
            side.unbind(-1) for side in (center - gt_bboxes[..., :2], gt_bboxes[..., 2:] - center)
        )
        return torch.stack((top, bottom, left, right), dim=-1) / self._units(bboxes)

    def decode(self, bboxes: Tensor, pred_bboxes: Tensor, max_shape: MaxShape | None = None) -> Tensor:
        """Boxes around the centres of priors.

        Args:
            bboxes: Priors ``Tensor[..., 4]``, xyxy, absolute pixels.
            pred_bboxes: ``Tensor[..., 4]``, encoded distances to top, bottom, left, right.
            max_shape: (height, width) to clip to; one for all or, for ``Tensor[B, N, 4]``, one an image.

        Returns:
            ``Tensor[..., 4]``, xyxy, absolute pixels.
        """
        center, _ = _center_size(bboxes)
        x, y = center.unbind(-1)
        top, bottom, left, right = (pred_bboxes * self._units(bboxes)).unbind(-1)
        boxes = torch.stack((x - left, y - top, x + right, y + bottom), dim=-1)
        return clip_boxes(boxes, max_shape) if self.clip_border and max_shape is not None else boxes

    def _units(self, bboxes: Tensor) -> Tensor:
        """Pixels that the four distances are in parts of, ``Tensor[..., 4]``."""
        width, height = _center_size(bboxes)[1].unbind(-1)
        return torch.stack((height, height, width, width), dim=-1) * host_tensor(self.normalizer, bboxes)


def clip_boxes(boxes: Tensor, max_shape: MaxShape) -> Tensor:
    """Clip boxes to their pictures.

    Args:
        boxes: ``Tensor[..., 4 * K]``, xyxy, absolute pixels.
        max_shape: (height, width), or one of these an image (``[B, 2]``) for boxes ``Tensor[B, N, 4 * K]``.

    Raises:
        ValueError: The number of shapes is not the number of images.
    """
    if not isinstance(max_shape, Tensor):
        shapes: Any = max_shape if _is_nested(max_shape) else [max_shape]
        if len({tuple(shape[:2]) for shape in shapes}) == 1:  # the usual case needs no tensor
            height, width = shapes[0][:2]
            corners = boxes.unflatten(-1, (-1, 2))
            x, y = corners[..., 0].clamp(0, width), corners[..., 1].clamp(0, height)
            return torch.stack((x, y), dim=-1).flatten(-2)
        max_shape = host_tensor([tuple(shape[:2]) for shape in max_shape], boxes)  # type: ignore[index]
    if max_shape.ndim == 2 and (boxes.ndim < 3 or len(max_shape) != len(boxes)):
        raise ValueError(f"{len(max_shape)} image shapes do not fit boxes of shape {tuple(boxes.shape)}")
    limit = max_shape.flip(-1).to(boxes)  # (width, height)
    limit = limit.repeat(*[1] * (limit.ndim - 1), boxes.shape[-1] // 2)
    if limit.ndim == 2:
        limit = limit[:, None]
    return torch.minimum(boxes.clamp(min=0), limit)


def _is_nested(max_shape: MaxShape) -> bool:
    return len(max_shape) > 0 and isinstance(max_shape[0], (tuple, list))


def _center_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Centre and size, ``Tensor[..., 2]`` (x, y) each, of xyxy boxes."""
    return (boxes[..., :2] + boxes[..., 2:]) * 0.5, boxes[..., 2:] - boxes[..., :2]
