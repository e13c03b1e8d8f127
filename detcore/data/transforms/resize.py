"""Resizing: to a fixed scale, a random one, or one of several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from detcore.data.transforms.base import BaseTransform, Results, record_homography
from detcore.data.transforms.geometry import INTERPOLATIONS, clip_boxes, fitted_size, resize_array
from detcore.data.transforms.pad import Pad, PadValues
from detcore.data.transforms.proposals import map_proposals
from detcore.registry import TRANSFORMS

Scale = tuple[int, int]


class Resize(BaseTransform):
    """Resize image, boxes, masks and label map.

    Sets ``scale`` (w, h asked for), ``img_shape`` (h, w), ``scale_factor`` (w, h), ``keep_ratio``.

    Args:
        scale: (width, height); with ``keep_ratio`` the image is made as large as fits into the longer and
            the shorter of the two, whichever way round. One number means both.
        scale_factor: Factor, or (width, height) factors, in place of ``scale``.
        keep_ratio: Keep the aspect ratio.
        clip_object_border: Clip boxes to the image.
        backend: ``'cv2'``.
        interpolation: ``'bilinear'``, ``'nearest'``, ``'bicubic'``, ``'area'`` or ``'lanczos'``; the label
            map always takes the nearest.
    """

    carries_proposals = True

    def __init__(
        self,
        scale: int | Scale | None = None,
        scale_factor: float | tuple[float, float] | None = None,
        keep_ratio: bool = False,
        clip_object_border: bool = True,
        backend: str = "cv2",
        interpolation: str = "bilinear",
    ) -> None:
        if (scale is None) == (scale_factor is None):
            raise ValueError(
                f"give either scale or scale_factor, got scale={scale}, scale_factor={scale_factor}"
            )
        if backend != "cv2":
            raise ValueError(f"backend={backend!r}: images are resized by 'cv2'")
        if interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation={interpolation!r}, expected one of {', '.join(INTERPOLATIONS)}")
        self.scale = None if scale is None else as_scale(scale)
        self.scale_factor = (
            (scale_factor, scale_factor) if isinstance(scale_factor, (int, float)) else scale_factor
        )
        self.keep_ratio, self.clip_object_border = keep_ratio, clip_object_border
        self.interpolation = interpolation

    def transform(self, results: Results) -> Results:
        """Resize everything in the sample."""
        height, width = results["img"].shape[:2]
        if self.scale is not None:
            scale = self.scale
        else:
            assert self.scale_factor is not None
            scale = int(width * self.scale_factor[0] + 0.5), int(height * self.scale_factor[1] + 0.5)
        return self.resize_to(results, scale)

    def resize_to(self, results: Results, scale: Scale) -> Results:
        """Resize to ``scale`` (w, h), whatever the constructor said."""
        height, width = results["img"].shape[:2]
        size = self._fitted((width, height), scale) if self.keep_ratio else scale
        size = max(size[0], 1), max(size[1], 1)
        if size != (width, height):
            results["img"] = resize_array(results["img"], size, self.interpolation)
        factors = size[0] / width, size[1] / height
        results["scale"], results["keep_ratio"] = scale, self.keep_ratio
        results["scale_factor"] = factors
        results["img_shape"] = (size[1], size[0])
        self._resize_annotations(results, size)
        record_homography(results, np.diag([factors[0], factors[1], 1.0]))
        return results

    def _fitted(self, size: Scale, scale: Scale) -> Scale:
        """The size (w, h) that fits into ``scale``, whichever way round, with the aspect ratio kept."""
        return fitted_size(size, scale)

    def _resize_boxes(self, boxes: np.ndarray, results: Results) -> np.ndarray:
        resized = boxes * np.array(results["scale_factor"] * 2, np.float32)
        return clip_boxes(resized, results["img_shape"]) if self.clip_object_border else resized

    def _resize_annotations(self, results: Results, size: Scale) -> None:
        if results.get("gt_bboxes") is not None:
            results["gt_bboxes"] = self._resize_boxes(results["gt_bboxes"], results)
        map_proposals(results, lambda boxes: self._resize_boxes(boxes, results))
        if results.get("gt_masks") is not None:
            results["gt_masks"] = results["gt_masks"].resize(results["img_shape"])
        if results.get("gt_seg_map") is not None:
            results["gt_seg_map"] = resize_array(results["gt_seg_map"], size, "nearest")

    def __repr__(self) -> str:
        name = type(self).__name__
        return f"{name}(scale={self.scale}, scale_factor={self.scale_factor}, keep_ratio={self.keep_ratio})"


class FixScaleResize(Resize):
    """`Resize` whose sides are rounded down where the aspect ratio is kept; arguments are those of `Resize`.

    Detectors that were trained on such sizes want them again, to the pixel.
    """

    def _fitted(self, size: Scale, scale: Scale) -> Scale:
        factor = min(max(scale) / max(size), min(scale) / min(size))
        return int(size[0] * factor), int(size[1] * factor)


class FixShapeResize(Resize):
    """Resize to exactly one size; with ``keep_ratio`` as large as fits in there, then padded.

    Args:
        width: Of the result, in pixels.
        height: Of the result, in pixels.
        pad_val: Value of new pixels, see `Pad`.
        keep_ratio: Keep the aspect ratio.
        clip_object_border: Clip boxes to the image, before it is padded.
        backend: See `Resize`.
        interpolation: See `Resize`.
    """

    def __init__(
        self,
        width: int,
        height: int,
        pad_val: float | Sequence[float] | PadValues = 0,
        keep_ratio: bool = False,
        clip_object_border: bool = True,
        backend: str = "cv2",
        interpolation: str = "bilinear",
    ) -> None:
        super().__init__(
            scale=(width, height),
            keep_ratio=keep_ratio,
            clip_object_border=clip_object_border,
            backend=backend,
            interpolation=interpolation,
        )
        self.pad = Pad(size=(width, height), pad_val=pad_val)

    def transform(self, results: Results) -> Results:
        """Resize everything in the sample, then pad it."""
        assert self.scale is not None
        if not self.keep_ratio:
            return self.resize_to(results, self.scale)
        height, width = results["img"].shape[:2]
        # Unlike in `Resize`, the width must fit into the width, and the height into the height.
        fitted = fitted_size((width, height), min(self.scale[0] / width, self.scale[1] / height))
        return self.pad.transform(self.resize_to(results, (max(fitted[0], 1), max(fitted[1], 1))))

    def __repr__(self) -> str:
        assert self.scale is not None
        width, height = self.scale
        return f"FixShapeResize(width={width}, height={height}, keep_ratio={self.keep_ratio})"


class _DrawnResize(BaseTransform):
    """Resizes to a scale that is drawn for each sample; the arguments below are those of `Resize`."""

    def __init__(self, resize_type: str, options: dict[str, Any]) -> None:
        options = {key: value for key, value in options.items() if value is not None}
        self.resize: Any = (
            Resize(scale=(1, 1), **options)
            if resize_type == "Resize"
            else TRANSFORMS.build({"type": resize_type, "scale": (1, 1), **options})
        )
        self.carries_proposals = getattr(self.resize, "carries_proposals", False)

    def _draw(self) -> Scale:
        raise NotImplementedError

    def transform(self, results: Results) -> Results | None:
        """Draw a scale and resize."""
        scale = self._draw()
        results["scale"] = scale
        if isinstance(self.resize, Resize):
            return self.resize.resize_to(results, scale)
        self.resize.scale = scale
        resized: Results | None = self.resize(results)
        return resized


class RandomResize(_DrawnResize):
    """Resize to a scale drawn from a range.

    Args:
        scale: One (w, h), multiplied by a factor from ``ratio_range``; or two, between which the longer
            and the shorter side are drawn.
        ratio_range: Smallest and largest factor.
        resize_type: Transform that resizes; it is given the arguments that follow.
        keep_ratio: See `Resize`.
        clip_object_border: See `Resize`.
        backend: See `Resize`.
        interpolation: See `Resize`.
    """

    def __init__(
        self,
        scale: Scale | Sequence[Scale],
        ratio_range: tuple[float, float] | None = None,
        resize_type: str = "Resize",
        keep_ratio: bool | None = None,
        clip_object_border: bool | None = None,
        backend: str | None = None,
        interpolation: str | None = None,
    ) -> None:
        self.scales = as_scales(scale)
        self.ratio_range = ratio_range
        if len(self.scales) == 1 and (ratio_range is None or len(ratio_range) != 2):
            raise ValueError(
                f"one scale {self.scales[0]} needs ratio_range=(smallest, largest), got {ratio_range}"
            )
        if len(self.scales) > 2:
            raise ValueError(
                f"a range has two ends, got {len(self.scales)} scales; RandomChoiceResize takes a list"
            )
        super().__init__(
            resize_type,
            {
                "keep_ratio": keep_ratio,
                "clip_object_border": clip_object_border,
                "backend": backend,
                "interpolation": interpolation,
            },
        )

    def _draw(self) -> Scale:
        if len(self.scales) == 1:
            assert self.ratio_range is not None
            low, high = self.ratio_range
            ratio = np.random.random_sample() * (high - low) + low
            width, height = self.scales[0]
            return int(width * ratio), int(height * ratio)
        (w1, h1), (w2, h2) = self.scales
        width = np.random.randint(min(w1, w2), max(w1, w2) + 1)
        height = np.random.randint(min(h1, h2), max(h1, h2) + 1)
        return int(width), int(height)

    def __repr__(self) -> str:
        return f"RandomResize(scale={self.scales}, ratio_range={self.ratio_range})"


class RandomChoiceResize(_DrawnResize):
    """Resize to one of several scales; sets ``scale_idx``.

    Args:
        scales: The (w, h) to draw from.
        resize_type: Transform that resizes; it is given the arguments that follow.
        keep_ratio: See `Resize`.
        clip_object_border: See `Resize`.
        backend: See `Resize`.
        interpolation: See `Resize`.
    """

    def __init__(
        self,
        scales: Sequence[int | Scale],
        resize_type: str = "Resize",
        keep_ratio: bool | None = None,
        clip_object_border: bool | None = None,
        backend: str | None = None,
        interpolation: str | None = None,
    ) -> None:
        self.scales = [as_scale(scale) for scale in scales]
        if not self.scales:
            raise ValueError("scales is empty, there is nothing to draw from")
        super().__init__(
            resize_type,
            {
                "keep_ratio": keep_ratio,
                "clip_object_border": clip_object_border,
                "backend": backend,
                "interpolation": interpolation,
            },
        )
        self._index = 0

    def _draw(self) -> Scale:
        self._index = int(np.random.randint(0, len(self.scales)))
        return self.scales[self._index]

    def transform(self, results: Results) -> Results | None:
        """Draw a scale and resize."""
        resized = super().transform(results)
        if resized is not None:
            resized["scale_idx"] = self._index
        return resized

    def __repr__(self) -> str:
        return f"RandomChoiceResize(scales={self.scales})"


def as_scale(value: Any) -> Scale:
    """A (width, height) of positive integers; one number stands for both."""
    pair = (value, value) if isinstance(value, (int, np.integer)) else tuple(value)
    if len(pair) != 2 or not all(isinstance(side, (int, np.integer)) and side > 0 for side in pair):
        raise ValueError(f"a scale is (width, height) in whole pixels, got {value!r}")
    return int(pair[0]), int(pair[1])


def as_scales(value: Any) -> list[Scale]:
    """One scale or a list of them, as a list."""
    if all(isinstance(side, (int, np.integer)) for side in value):
        return [as_scale(value)]
    return [as_scale(scale) for scale in value]
