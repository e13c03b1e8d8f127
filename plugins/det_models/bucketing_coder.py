"""The sides of a box by buckets: Side-Aware Boundary Localization (Wang et al. 2020)."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from det_models.coders import BaseBBoxCoder, MaxShape, clip_boxes


class BucketTargets(NamedTuple):
    """What the S buckets of each side are to predict: left, right, top, bottom, each from outside to inside.

    Attributes:
        offsets: ``Tensor[..., 4 * S]``, from the true side to the bucket's centre line, in bucket widths.
        offset_weights: ``Tensor[..., 4 * S]``, 1 for the buckets near the true side, else 0.
        labels: ``Tensor[..., 4 * S]``, 1 for the nearest bucket of each side, else 0.
        label_weights: ``Tensor[..., 4 * S]``, 0 for buckets that are neither near nor far, else 1.
    """

    offsets: Tensor
    offset_weights: Tensor
    labels: Tensor
    label_weights: Tensor


class BucketingBBoxCoder(BaseBBoxCoder):
    """In which bucket each side of a box lies, and where within it.

    A box is enlarged, then cut into ``num_buckets`` columns and as many rows. The outer half of them, S =
    ceil(num_buckets / 2) from each edge, are the buckets of that side. Scores over the buckets say which one
    the side lies in, an offset for each how far from its centre line, in parts of its width.

    How sure the scores are of their bucket says how good the box is (bucketing-guided rescoring): the highest
    probability, and the second where it is a neighbour's, averaged over the four sides.

    Args:
        num_buckets: Buckets along each axis.
        scale_factor: How much boxes are enlarged for them.
        offset_topk: Nearest buckets of each side that learn their offset.
        offset_upperbound: The second and further ones do only where they are nearer than this, in widths.
        cls_ignore_neighbor: Buckets nearer than a width that are not the nearest have no label.
        clip_border: Clip decoded boxes to the picture where ``max_shape`` is given.

    Attributes:
        side_num: S, the buckets of a side.

    Raises:
        ValueError: Fewer than two buckets a side, or fewer than learn their offset; boxes are not enlarged to
            a size above 0.
    """

    def __init__(
        self,
        num_buckets: int,
        scale_factor: float,
        offset_topk: int = 2,
        offset_upperbound: float = 1.0,
        cls_ignore_neighbor: bool = True,
        clip_border: bool = True,
    ) -> None:
        self.side_num = math.ceil(num_buckets / 2)
        if self.side_num < 2 or not 1 <= offset_topk <= self.side_num:
            raise ValueError(
                f"each side has num_buckets / 2 buckets, at least 2, of which offset_topk (1 or more) learn "
                f"their offset; got num_buckets={num_buckets}, offset_topk={offset_topk}"
            )
        if scale_factor <= 0:
            raise ValueError(f"scale_factor enlarges boxes, it is above 0, got {scale_factor}")
        self.num_buckets = num_buckets
        self.scale_factor = scale_factor
        self.offset_topk = offset_topk
        self.offset_upperbound = offset_upperbound
        self.cls_ignore_neighbor = cls_ignore_neighbor
        self.clip_border = clip_border

    def encode(self, bboxes: Tensor, gt_bboxes: Tensor) -> BucketTargets:  # type: ignore[override]
        """What the buckets of ``bboxes`` are to predict for ``gt_bboxes``, both ``Tensor[..., 4]``, xyxy."""
        lines, widths = self._buckets(bboxes.float())
        offsets = (lines - _sides(gt_bboxes.float())[..., None]) / widths[..., None]
        distances = offsets.abs()
        nearest, order = distances.topk(self.offset_topk, dim=-1, largest=False)
        near = (nearest < self.offset_upperbound).to(offsets)
        near[..., 0] = 1
        labels = torch.zeros_like(offsets).scatter(-1, order[..., :1], 1)
        label_weights = torch.ones_like(offsets)
        if self.cls_ignore_neighbor:
            label_weights = label_weights.masked_fill((distances < 1) & (labels == 0), 0)
        offset_weights = torch.zeros_like(offsets).scatter(-1, order, near)
        return BucketTargets(*(x.flatten(-2) for x in (offsets, offset_weights, labels, label_weights)))

    def decode(  # type: ignore[override]
        self, bboxes: Tensor, pred_bboxes: Sequence[Tensor], max_shape: MaxShape | None = None
    ) -> tuple[Tensor, Tensor]:
        """Boxes, and how sure the buckets are of them.

        Args:
            bboxes: ``Tensor[..., 4]``, xyxy, absolute pixels.
            pred_bboxes: Logits and offsets of the buckets, ``Tensor[..., 4 * S]`` each.
            max_shape: (height, width) to clip to, that is to the centres of the last pixels; one for all or,
                for ``Tensor[B, N, 4]``, one an image.

        Returns:
            ``Tensor[..., 4]``, xyxy, absolute pixels, and ``Tensor[...]`` in 0..1.
        """
        logits, offsets = (each.unflatten(-1, (4, self.side_num)) for each in pred_bboxes)
        best, places = logits.softmax(-1).topk(2, dim=-1)
        chosen = places[..., :1]
        lines, widths = self._buckets(bboxes)
        sides = (lines.gather(-1, chosen) - offsets.gather(-1, chosen) * widths[..., None])[..., 0]
        boxes = sides.unflatten(-1, (2, 2)).transpose(-1, -2).flatten(-2)
        if self.clip_border and max_shape is not None:
            boxes = clip_boxes(boxes, _last_pixels(max_shape))
        beside = (places[..., 0] - places[..., 1]).abs() == 1
        return boxes, (best[..., 0] + best[..., 1] * beside).mean(-1)

    def _buckets(self, bboxes: Tensor) -> tuple[Tensor, Tensor]:
        """Centre lines ``Tensor[..., 4, S]`` (x or y, pixels), widths ``Tensor[..., 4]`` of the buckets."""
        low, high = bboxes[..., :2], bboxes[..., 2:]
        center, half = (low + high) * 0.5, (high - low) * self.scale_factor * 0.5
        edges = torch.stack((center - half, center + half), dim=-1)  # [..., axis, low or high]
        widths = ((edges[..., 1] - edges[..., 0]) / self.num_buckets)[..., None]
        steps = torch.cat((widths, -widths), dim=-1)  # from outside to inside
        places = torch.arange(self.side_num, device=bboxes.device) + 0.5
        lines = edges[..., None] + places.to(bboxes) * steps[..., None]
        return lines.flatten(-3, -2), widths.expand_as(steps).flatten(-2)


def _sides(boxes: Tensor) -> Tensor:
    """Left, right, top, bottom, ``Tensor[..., 4]``, of boxes xyxy."""
    return boxes.unflatten(-1, (2, 2)).transpose(-1, -2).flatten(-2)


def _last_pixels(max_shape: MaxShape) -> Any:
    """Row and column of the last pixel for (height, width): one pair, or one an image."""
    if isinstance(max_shape, Tensor):
        return max_shape - 1
    if len(max_shape) and isinstance(max_shape[0], Sequence):
        return [(shape[0] - 1, shape[1] - 1) for shape in max_shape]  # type: ignore[index]
    return max_shape[0] - 1, max_shape[1] - 1  # type: ignore[operator]
