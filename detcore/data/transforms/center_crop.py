"""Windows around a drawn centre, cut and padded at once (CornerNet, Law and Deng 2018; CenterNet)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from detcore.data.transforms.base import BaseTransform, Results, keep_instances, record_homography
from detcore.data.transforms.expand import on_canvas
from detcore.data.transforms.fill import checked_fill, fill_of
from detcore.data.transforms.geometry import clip_boxes
from detcore.data.transforms.proposals import keep_proposals

PAD_MODES = ("logical_or", "size_divisor")
TRIES, ROUNDS = 50, 20
"""Windows that are drawn with one ratio, and how many ratios are drawn, until one has an object's centre."""


class RandomCenterCropPad(BaseTransform):
    """Put the picture onto a canvas whose middle lies on a point of it; what it does not cover is ``mean``.

    In training that point is drawn, ``border`` pixels or more from the edges (less in small pictures, where
    the border is halved until something is left), and the canvas is ``crop_size`` times one of ``ratios``.
    Objects whose centre is not on it are dropped. One object stays at least; a picture that has objects but
    gives no such window within 1000 is refused, and the data set draws another.

    In testing the middle stays the middle, and the canvas is the next size that a network wants; ``border``
    (float32: top, bottom, left, right) in the sample says where the picture lies on it.

    Image, boxes, masks, label map and proposals move together. Images may be uint8 or float32.

    Args:
        crop_size: (width, height) of the canvas in training, in pixels; None in testing.
        ratios: Factors for ``crop_size`` to draw from; None in testing.
        border: Distance of the drawn point from the picture's edges, in pixels; None in testing.
        mean: Value of the canvas, one a channel, from 0 to 255.
        std: Accepted; nothing is normalised here.
        to_rgb: Whether ``mean`` is in the order R, G, B; it is turned round to fit the image's B, G, R.
        test_mode: Whether this is testing.
        test_pad_mode: ``('logical_or', n)``: sides become ``side | n``; ``('size_divisor', n)``: the next
            multiple of n. None in training.
        test_pad_add_pix: Added to both sides with ``'logical_or'``.
        bbox_clip_border: Clip boxes to the canvas, in training.

    Raises:
        ValueError: An argument of the other mode is given, or one has no meaning.
    """

    carries_proposals = True

    def __init__(
        self,
        crop_size: tuple[int, int] | None = None,
        ratios: Sequence[float] | None = (0.9, 1.0, 1.1),
        border: int | None = 128,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        to_rgb: bool | None = None,
        test_mode: bool = False,
        test_pad_mode: Sequence[str | int] | None = ("logical_or", 127),
        test_pad_add_pix: int = 0,
        bbox_clip_border: bool = True,
    ) -> None:
        if mean is None or std is None or to_rgb is None:
            raise ValueError(
                "give mean, std and to_rgb, those that images are normalised with, got "
                f"mean={mean}, std={std}, to_rgb={to_rgb}"
            )
        if test_mode:
            _check_testing(crop_size, ratios, border, test_pad_mode)
        else:
            _check_training(crop_size, ratios, border, test_pad_mode)
        values = checked_fill(mean, "mean")
        self.mean = values[::-1] if to_rgb else values
        self.crop_size, self.ratios, self.border = crop_size, tuple(ratios or ()), border
        self.test_mode, self.test_pad_mode, self.test_pad_add_pix = test_mode, test_pad_mode, test_pad_add_pix
        self.bbox_clip_border = bbox_clip_border

    def transform(self, results: Results) -> Results | None:
        """Place everything in the sample; None where no window with an object was found."""
        return self._middle(results) if self.test_mode else self._drawn(results)

    def _middle(self, results: Results) -> Results:
        assert self.test_pad_mode is not None
        kind, number = self.test_pad_mode
        height, width = results["img"].shape[:2]
        down, across = (
            (side | int(number)) + self.test_pad_add_pix if kind == "logical_or" else _multiple(side, number)
            for side in (height, width)
        )
        shape = down, across
        window, (left, top) = _window((width // 2, height // 2), shape, (height, width))
        self._place(results, window, (left, top), shape)
        bottom, right = top + window[3] - window[1], left + window[2] - window[0]
        results["border"] = np.array([top, bottom, left, right], np.float32)
        return results

    def _drawn(self, results: Results) -> Results | None:
        assert self.crop_size is not None
        assert self.border is not None
        size = results["img"].shape[:2]
        boxes = results.get("gt_bboxes")
        inner = [_inner_border(self.border, side) for side in size]
        for _ in range(ROUNDS):
            ratio = float(np.random.choice(self.ratios))
            shape = int(self.crop_size[1] * ratio), int(self.crop_size[0] * ratio)
            for _ in range(TRIES):
                x = int(np.random.randint(inner[1], size[1] - inner[1]))
                y = int(np.random.randint(inner[0], size[0] - inner[0]))
                window, corner = _window((x, y), shape, size)
                if boxes is None or not len(boxes):
                    return self._place(results, window, corner, shape)
                keep = _centred(window, boxes)
                if keep.any():
                    keep_instances(results, keep)
                    return self._place(results, window, corner, shape)
        return None

    def _place(
        self, results: Results, window: Sequence[int], corner: tuple[int, int], shape: tuple[int, int]
    ) -> Results:
        """Put a window (xyxy) of the picture at ``corner`` (x, y) of a canvas of ``shape`` (h, w)."""
        x1, y1, x2, y2 = window
        left, top = corner
        fill = fill_of(results["img"], self.mean, "RandomCenterCropPad: mean")
        results["img"] = on_canvas(results["img"][y1:y2, x1:x2], shape, left, top, fill)
        results["img_shape"] = shape
        if results.get("gt_masks") is not None:
            cut = results["gt_masks"].crop(np.array(window))
            results["gt_masks"] = cut.expand(*shape, top, left)
        if results.get("gt_seg_map") is not None:
            seg = results["gt_seg_map"][y1:y2, x1:x2]
            results["gt_seg_map"] = on_canvas(seg, shape, left, top, (255.0,))
        shift = np.array([left - x1, top - y1] * 2, np.float32)
        if results.get("gt_bboxes") is not None:
            results["gt_bboxes"], keep = self._moved(results["gt_bboxes"], shift, shape)
            keep_instances(results, keep)
        if results.get("proposals") is not None:
            results["proposals"], keep = self._moved(results["proposals"], shift, shape)
            keep_proposals(results, keep)
        record_homography(results, np.array([[1, 0, left - x1], [0, 1, top - y1], [0, 0, 1]]))
        return results

    def _moved(
        self, boxes: np.ndarray, shift: np.ndarray, shape: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Boxes on the canvas, and bool (N,): which of them reach onto it; in testing all are kept whole."""
        boxes = boxes + shift
        if self.test_mode:
            return boxes, np.ones(len(boxes), bool)
        boxes = clip_boxes(boxes, shape) if self.bbox_clip_border else boxes
        return boxes, np.all((boxes[:, :2] < shape[::-1]) & (boxes[:, 2:] > 0), axis=1)

    def __repr__(self) -> str:
        chosen = f"crop_size={self.crop_size}, ratios={self.ratios}, border={self.border}"
        return f"RandomCenterCropPad({f'test_pad_mode={self.test_pad_mode}' if self.test_mode else chosen})"


def _check_testing(crop_size: object, ratios: object, border: object, pad_mode: Sequence | None) -> None:
    given = {"crop_size": crop_size, "ratios": ratios, "border": border}
    wrong = {name: value for name, value in given.items() if value is not None}
    if wrong:
        raise ValueError(f"with test_mode=True, crop_size, ratios and border must be None, got {wrong}")
    if pad_mode is None or len(pad_mode) != 2 or pad_mode[0] not in PAD_MODES or not int(pad_mode[1]) > 1:
        raise ValueError(
            f"test_pad_mode must be one of {', '.join(PAD_MODES)} with a number above 1, got {pad_mode}"
        )


def _check_training(
    crop_size: Sequence[int] | None, ratios: Sequence[float] | None, border: int | None, pad_mode: object
) -> None:
    if crop_size is None or len(crop_size) != 2 or min(crop_size) <= 0:
        raise ValueError(
            f"crop_size must be a positive (width, height) unless test_mode=True, got {crop_size}"
        )
    if not ratios or not all(int(side * ratio) > 1 for ratio in ratios for side in crop_size):
        raise ValueError(f"ratios must be factors that leave pixels of crop_size={crop_size}, got {ratios}")
    if border is None or border < 0:
        raise ValueError(f"border must be a number of pixels from 0 on unless test_mode=True, got {border}")
    if pad_mode is not None:
        raise ValueError(f"test_pad_mode is for test_mode=True; give None, got {pad_mode}")


def _multiple(side: int, divisor: str | int) -> int:
    return math.ceil(side / int(divisor)) * int(divisor)


def _inner_border(border: int, side: int) -> int:
    """The border, halved until less than half of a side of so many pixels; once more where that is even."""
    parts = 2 * border / side
    if parts == 0:
        return 0
    halvings = math.ceil(math.log2(math.ceil(parts))) + (parts == int(parts))
    return int(border // 2**halvings)


def _window(
    center: tuple[int, int], shape: tuple[int, int], size: tuple[int, int]
) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
    """What part of a picture is seen on a canvas of ``shape`` (h, w) whose middle lies on ``center`` (x, y).

    Of an odd side the last pixel stays empty, as in the reference.

    Returns:
        The part (xyxy) of the picture of ``size`` (h, w), and where its upper left corner lies (x, y).
    """
    across, down = shape[1] // 2, shape[0] // 2
    x1, y1 = max(0, center[0] - across), max(0, center[1] - down)
    x2, y2 = min(center[0] + across, size[1]), min(center[1] + down, size[0])
    return (x1, y1, x2, y2), (across - (center[0] - x1), down - (center[1] - y1))


def _centred(window: Sequence[int], boxes: np.ndarray) -> np.ndarray:
    """bool (N,): which boxes have their centre within a window (xyxy)."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    within: np.ndarray = ((centres > window[:2]) & (centres < window[2:])).all(1)
    return within
