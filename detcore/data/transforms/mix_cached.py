"""Mosaic and MixUp whose further images come from a cache, in a data set's own pipeline (RTMDet)."""

from __future__ import annotations

import copy

import numpy as np

from detcore.data.transforms.base import BaseTransform, Results
from detcore.data.transforms.fill import Fill, checked_fill
from detcore.data.transforms.mixing import (
    Fitted,
    average_of,
    check_mixable,
    checked_range,
    fitted,
    mosaic_of,
)
from detcore.data.transforms.resize import as_scale


class ImageCache:
    """The last images that came by, fitted into a frame; a copy for another process begins empty.

    Images are kept small: ``max_cached_images`` times width times height times 3 bytes at most, and masks.

    Args:
        frame: (width, height) in pixels.
        max_cached_images: How many are kept.
        random_pop: Which one goes when there are more: any but the newest, else the oldest.
    """

    def __init__(self, frame: tuple[int, int], max_cached_images: int, random_pop: bool) -> None:
        self.frame, self.max_cached_images, self.random_pop = frame, max_cached_images, random_pop
        self.images: list[Fitted] = []

    def __len__(self) -> int:
        return len(self.images)

    def __reduce__(self) -> tuple[type[ImageCache], tuple[tuple[int, int], int, bool]]:
        return type(self), (self.frame, self.max_cached_images, self.random_pop)

    def put(self, results: Results) -> Fitted:
        """Fit a sample, keep a copy of it as the newest, and let one go where there are too many."""
        part = fitted(results, self.frame)
        # Later steps may change the sample's own arrays.
        img = part.img.copy() if part.img is results["img"] else part.img
        kept = part._replace(img=img, instances=copy.deepcopy(part.instances))
        self.images.append(kept)
        if len(self) > self.max_cached_images:
            self.images.pop(np.random.randint(0, len(self) - 1) if self.random_pop else 0)
        return kept

    def draw(self) -> Fitted:
        """One of those before the newest."""
        return self.images[np.random.randint(0, len(self) - 1)]


class CachedMosaic(BaseTransform):
    """A `Mosaic` of the image and three that came before it, without loading any: four times less to read.

    It stands in a data set's own pipeline. The images pass as they are until there are four before them.

    The cache is the transform's own state, in every process of its own: what an image is mixed with depends
    on what the same loader worker saw before. The same seed, number of workers and of ranks give the same
    run. With another number of either, or resumed (the caches then begin empty), the same images come in the
    same order, but they are mixed with others. Where a run must be the same for any number of workers and go
    on exactly, use `Mosaic` in a `MultiImageMixDataset`.

    Args:
        img_scale: (width, height) in pixels that an image is fitted into.
        center_ratio_range: The corner lies at so many widths and heights of ``img_scale``, drawn separately.
        bbox_clip_border: Clip boxes to the canvas.
        pad_val: Value of pixels that no image covers, a number or one a channel.
        prob: Probability of mixing at all.
        max_cached_images: How many images are kept, at least 4. Ten for each one that is drawn are enough.
        random_pop: Let any image but the newest go where there are too many, else the oldest.
    """

    remembers = True

    def __init__(
        self,
        img_scale: tuple[int, int] = (640, 640),
        center_ratio_range: tuple[float, float] = (0.5, 1.5),
        bbox_clip_border: bool = True,
        pad_val: Fill = 114.0,
        prob: float = 1.0,
        max_cached_images: int = 40,
        random_pop: bool = True,
    ) -> None:
        if not 0 <= prob <= 1:
            raise ValueError(f"prob must lie in [0, 1], got {prob}")
        if max_cached_images < 4:
            raise ValueError(f"a mosaic takes four images: max_cached_images is {max_cached_images}")
        self.img_scale = as_scale(img_scale)
        self.center_ratio_range = checked_range("center_ratio_range", center_ratio_range, 0, 2)
        self.bbox_clip_border, self.prob = bbox_clip_border, prob
        self.pad_val = checked_fill(pad_val, "pad_val")
        self.cache = ImageCache(self.img_scale, max_cached_images, random_pop)

    def transform(self, results: Results) -> Results:
        """Keep the sample, and compose a mosaic as soon as there are enough.

        Raises:
            DataError: The sample has a label map or proposals, or others are annotated otherwise.
        """
        check_mixable(self, results)
        newest = self.cache.put(results)
        # A cache of four, which never holds five, would not mix at all.
        if len(self.cache) <= min(4, self.cache.max_cached_images - 1):
            return results
        if np.random.uniform(0, 1) > self.prob:
            return results
        parts = [newest, *(self.cache.draw() for _ in range(3))]
        return mosaic_of(
            results, parts, self.img_scale, self.center_ratio_range, self.pad_val, self.bbox_clip_border
        )

    def __repr__(self) -> str:
        return (
            f"CachedMosaic(img_scale={self.img_scale}, prob={self.prob}, "
            f"max_cached_images={self.cache.max_cached_images}, random_pop={self.cache.random_pop})"
        )


class CachedMixUp(BaseTransform):
    """A `MixUp` of the image with one that came before it, without loading any.

    What is said of the cache in `CachedMosaic` holds here too. The first image passes as it is.

    Args:
        img_scale: (width, height) in pixels that the second image is fitted into.
        ratio_range: Range of the factor that it is scaled by.
        flip_ratio: Probability of mirroring the second image.
        pad_val: Value of pixels that the second image does not cover, a number or one a channel.
        max_iters: How many images are looked at for one with boxes.
        bbox_clip_border: Clip boxes to the image.
        max_cached_images: How many images are kept, at least 2.
        random_pop: Let any image but the newest go where there are too many, else the oldest.
        prob: Probability of mixing at all.
    """

    remembers = True

    def __init__(
        self,
        img_scale: tuple[int, int] = (640, 640),
        ratio_range: tuple[float, float] = (0.5, 1.5),
        flip_ratio: float = 0.5,
        pad_val: Fill = 114.0,
        max_iters: int = 15,
        bbox_clip_border: bool = True,
        max_cached_images: int = 20,
        random_pop: bool = True,
        prob: float = 1.0,
    ) -> None:
        if not (0 <= flip_ratio <= 1 and 0 <= prob <= 1):
            raise ValueError(f"flip_ratio and prob must lie in [0, 1], got {flip_ratio} and {prob}")
        if max_iters < 1:
            raise ValueError(f"max_iters must be at least 1, got {max_iters}")
        if max_cached_images < 2:
            raise ValueError(f"mixing takes two images: max_cached_images is {max_cached_images}")
        self.img_scale = as_scale(img_scale)
        self.ratio_range = checked_range("ratio_range", ratio_range, 0.01, 100)
        self.flip_ratio, self.prob, self.max_iters = flip_ratio, prob, max_iters
        self.pad_val, self.bbox_clip_border = checked_fill(pad_val, "pad_val"), bbox_clip_border
        self.cache = ImageCache(self.img_scale, max_cached_images, random_pop)

    def transform(self, results: Results) -> Results:
        """Keep the sample, and mix it with an earlier one; it stays as it is where that has no boxes.

        Raises:
            DataError: The sample has a label map or proposals, or the other is annotated otherwise.
        """
        check_mixable(self, results)
        self.cache.put(results)
        if len(self.cache) < 2 or np.random.uniform(0, 1) > self.prob:
            return results
        for _ in range(self.max_iters):
            other = self.cache.draw()
            if len(other.instances["gt_bboxes"]):
                return average_of(
                    results, other, self.img_scale, self.ratio_range, self.flip_ratio, self.pad_val,
                    self.bbox_clip_border,
                )  # fmt: skip
        return results

    def __repr__(self) -> str:
        return (
            f"CachedMixUp(img_scale={self.img_scale}, ratio_range={self.ratio_range}, prob={self.prob}, "
            f"max_cached_images={self.cache.max_cached_images}, random_pop={self.cache.random_pop})"
        )
