"""Several images in one: Mosaic and MixUp, for the pipeline of a `MultiImageMixDataset`."""

from __future__ import annotations

from typing import Any

import numpy as np

from detcore.data.transforms.base import BaseTransform, Results
from detcore.data.transforms.fill import Fill, checked_fill
from detcore.data.transforms.mixing import average_of, checked_range, fitted, further_samples, mosaic_of
from detcore.data.transforms.resize import as_scale


class Mosaic(BaseTransform):
    """Four images around a common corner (Bochkovskiy et al. 2020, arXiv 2004.10934, section 3.3).

    Each image is fitted into ``img_scale``. The canvas is twice as wide and high; the corner lies near its
    middle, and what reaches beyond the canvas is cut off.

    Args:
        img_scale: (width, height) in pixels that an image is fitted into.
        center_ratio_range: The corner lies at so many widths and heights of ``img_scale``, drawn separately.
        bbox_clip_border: Clip boxes to the canvas.
        pad_val: Value of pixels that no image covers, a number or one a channel.
        prob: Probability of mixing at all.
    """

    def __init__(
        self,
        img_scale: tuple[int, int] = (640, 640),
        center_ratio_range: tuple[float, float] = (0.5, 1.5),
        bbox_clip_border: bool = True,
        pad_val: Fill = 114.0,
        prob: float = 1.0,
    ) -> None:
        if not 0 <= prob <= 1:
            raise ValueError(f"prob must lie in [0, 1], got {prob}")
        self.img_scale = as_scale(img_scale)
        self.center_ratio_range = checked_range("center_ratio_range", center_ratio_range, 0, 2)
        self.bbox_clip_border, self.prob = bbox_clip_border, prob
        self.pad_val = checked_fill(pad_val, "pad_val")

    def get_indexes(self, dataset: Any) -> list[int]:
        """Three samples, drawn anew for each mosaic."""
        return [int(np.random.randint(0, len(dataset))) for _ in range(3)]

    def transform(self, results: Results) -> Results:
        """Compose the mosaic.

        Raises:
            DataError: There are not three more images, or the sample has a label map.
        """
        if np.random.uniform(0, 1) > self.prob:
            return results
        samples = [results, *further_samples(self, results, 3)]
        parts = [fitted(sample, self.img_scale) for sample in samples]
        return mosaic_of(
            results, parts, self.img_scale, self.center_ratio_range, self.pad_val, self.bbox_clip_border
        )

    def __repr__(self) -> str:
        return f"Mosaic(img_scale={self.img_scale}, pad_val={self.pad_val}, prob={self.prob})"


class MixUp(BaseTransform):
    """Half of the image and half of a second one (Zhang et al. 2018, arXiv 1710.09412, as YOLOX uses it).

    The second image is fitted into ``img_scale``, scaled by a drawn factor, mirrored or not, and cut or
    padded to the size of the first; both keep all their boxes.

    Args:
        img_scale: (width, height) in pixels that the second image is fitted into.
        ratio_range: Range of the factor.
        flip_ratio: Probability of mirroring the second image.
        pad_val: Value of pixels that the second image does not cover, a number or one a channel.
        max_iters: How many images are looked at for one with boxes.
        bbox_clip_border: Clip boxes to the image.
    """

    def __init__(
        self,
        img_scale: tuple[int, int] = (640, 640),
        ratio_range: tuple[float, float] = (0.5, 1.5),
        flip_ratio: float = 0.5,
        pad_val: Fill = 114.0,
        max_iters: int = 15,
        bbox_clip_border: bool = True,
    ) -> None:
        if not 0 <= flip_ratio <= 1:
            raise ValueError(f"flip_ratio must lie in [0, 1], got {flip_ratio}")
        if max_iters < 1:
            raise ValueError(f"max_iters must be at least 1, got {max_iters}")
        self.img_scale = as_scale(img_scale)
        self.ratio_range = checked_range("ratio_range", ratio_range, 0.01, 100)
        self.flip_ratio, self.max_iters = flip_ratio, max_iters
        self.pad_val = checked_fill(pad_val, "pad_val")
        self.bbox_clip_border = bbox_clip_border

    def get_indexes(self, dataset: Any) -> int:
        """A sample with objects, as far as ``max_iters`` draws find one."""
        for _ in range(self.max_iters):
            index = int(np.random.randint(0, len(dataset)))
            if dataset.get_cat_ids(index):
                break
        return index

    def transform(self, results: Results) -> Results:
        """Mix; the sample stays as it is where the second image has no boxes.

        Raises:
            DataError: There is not one more image, or the sample has a label map.
        """
        (other,) = further_samples(self, results, 1)
        if not len(other["gt_bboxes"]):
            return results
        return average_of(
            results, fitted(other, self.img_scale), self.img_scale, self.ratio_range, self.flip_ratio,
            self.pad_val, self.bbox_clip_border,
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"MixUp(img_scale={self.img_scale}, ratio_range={self.ratio_range})"
