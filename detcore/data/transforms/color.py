"""Changes of colour that leave every object where it is (AutoAugment, Cubuk et al. 2019, table 6).

Images are uint8, or float32 with values from 0 to 255; they keep their kind and their shape.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, inf
from typing import ClassVar

import cv2
import numpy as np

from detcore.data.transforms.base import BaseTransform, Results
from detcore.data.transforms.magnitude import Magnitude

SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float64) / 13


class ColorTransform(BaseTransform):
    """Base of the transforms below; by itself it changes nothing, as one choice among several.

    Derived classes implement `change`, and may narrow `limits`.

    Args:
        prob: Probability of applying it.
        level: Strength from 0 (``min_mag``) to 10 (``max_mag``); drawn for each sample where None.
        min_mag: Smallest magnitude.
        max_mag: Largest magnitude.

    Attributes:
        limits: Smallest and largest magnitude that have a meaning.
        uint8_only: Whether float images are refused.
    """

    carries_proposals = True
    limits: ClassVar[tuple[float, float]] = (-inf, inf)
    uint8_only: ClassVar[bool] = False

    def __init__(
        self, prob: float = 1.0, level: int | None = None, min_mag: float = 0.1, max_mag: float = 1.9
    ) -> None:
        self.magnitude = Magnitude(type(self).__name__, prob, level, min_mag, max_mag, self.limits)

    def transform(self, results: Results) -> Results:
        """Draw a magnitude and change the image.

        Raises:
            ValueError: The image is of a kind or shape that it cannot change.
        """
        mag = self.magnitude.drawn()
        if mag is None:
            return results
        img = results["img"]
        kinds = (np.uint8,) if self.uint8_only else (np.uint8, np.float32)
        if img.dtype not in kinds:
            expected = " or ".join(np.dtype(kind).name for kind in kinds)
            raise ValueError(f"{type(self).__name__} takes an image of {expected}, got {img.dtype}")
        self._transform_img(results, mag)
        return results

    def _transform_img(self, results: Results, mag: float) -> None:
        """Change the image of a sample; classes written for MMDetection override this."""
        results["img"] = self.change(results["img"], mag)

    def change(self, img: np.ndarray, mag: float) -> np.ndarray:
        """The image (H, W[, C], BGR) changed by ``mag``; the given one is left as it is."""
        return img

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.magnitude!r})"


class Color(ColorTransform):
    """Colours made weaker or stronger: 0 makes the image grey, 1 changes nothing. A grey image stays."""

    limits = (0.0, 2.0)

    def change(self, img: np.ndarray, mag: float) -> np.ndarray:
        """Mix with the grey image."""
        grey = grey_of(img, "Color")
        if grey.size == img.size:
            return img
        return _mixed(img, cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR), mag)


class Brightness(ColorTransform):
    """Every value multiplied: 0 makes the image black, 1 changes nothing."""

    limits = (0.0, 2.0)

    def change(self, img: np.ndarray, mag: float) -> np.ndarray:
        """Multiply."""
        return _through(img, lambda value: value * np.float32(mag))


class Contrast(ColorTransform):
    """Distances from the mean brightness multiplied: 0 makes the image one grey, 1 changes nothing."""

    limits = (0.0, 2.0)

    def change(self, img: np.ndarray, mag: float) -> np.ndarray:
        """Mix with the mean grey, rounded to a whole number."""
        mean = round(float(grey_of(img, "Contrast").mean(dtype=np.float64)))
        return _through(img, lambda value: value * np.float32(mag) + np.float32(mean * (1 - mag)))


class Sharpness(ColorTransform):
    """Edges made weaker or stronger: 0 smooths the image, 1 changes nothing."""

    limits = (0.0, 2.0)

    def change(self, img: np.ndarray, mag: float) -> np.ndarray:
        """Mix with the smoothed image."""
        smooth = cv2.filter2D(img, -1, SMOOTH).reshape(img.shape)
        mixed = cv2.addWeighted(img, mag, smooth, 1 - mag, 0, dtype=cv2.CV_32F)
        return _clipped(mixed, img)


class Solarize(ColorTransform):
    """Values from the magnitude on inverted: 0 inverts all, 256 none."""

    limits = (0.0, 256.0)

    def __init__(
        self, prob: float = 1.0, level: int | None = None, min_mag: float = 0.0, max_mag: float = 256.0
    ) -> None:
        super().__init__(prob, level, min_mag, max_mag)

    def change(self, img: np.ndarray, mag: float) -> np.ndarray:
        """Invert what is bright."""
        return _through(img, lambda value: np.where(value < mag, value, 255 - value))


class SolarizeAdd(ColorTransform):
    """The magnitude added to values below 128."""

    limits = (0.0, 110.0)

    def __init__(
        self, prob: float = 1.0, level: int | None = None, min_mag: float = 0.0, max_mag: float = 110.0
    ) -> None:
        super().__init__(prob, level, min_mag, max_mag)

    def change(self, img: np.ndarray, mag: float) -> np.ndarray:
        """Add to what is dark."""
        return _through(img, lambda value: np.where(value < 128, value + np.float32(mag), value))


class Posterize(ColorTransform):
    """Only the upper bits of each value kept, as many as the magnitude says, rounded up; uint8 images."""

    limits = (0.0, 8.0)
    uint8_only = True

    def __init__(
        self, prob: float = 1.0, level: int | None = None, min_mag: float = 0.0, max_mag: float = 4.0
    ) -> None:
        super().__init__(prob, level, min_mag, max_mag)

    def change(self, img: np.ndarray, mag: float) -> np.ndarray:
        """Clear the lower bits."""
        shift = 8 - ceil(mag)
        return _looked_up(img, np.arange(256) >> shift << shift)


class Equalize(ColorTransform):
    """Values of each channel spread until all are equally frequent; uint8 images. Magnitudes mean nothing."""

    uint8_only = True

    def change(self, img: np.ndarray, mag: float) -> np.ndarray:
        """Equalise each channel's histogram."""
        return _looked_up(img, *map(_equalizing, planes_of(img)))


class AutoContrast(ColorTransform):
    """Values of each channel stretched to reach from 0 to 255. Magnitudes mean nothing."""

    def change(self, img: np.ndarray, mag: float) -> np.ndarray:
        """Stretch; a channel of one value stays."""
        # Channel by channel: numpy is slow along an axis that is much longer than the next.
        low = np.array([plane.min() for plane in planes_of(img)], np.float64)
        high = np.array([plane.max() for plane in planes_of(img)], np.float64)
        span = np.where(high > low, high - low, 255.0)
        low = np.where(high > low, low, 0.0)
        if img.dtype == np.uint8:
            tables = ((np.arange(256)[:, None] - low) * 255 / span).clip(0, 255)
            return _looked_up(img, *tables.T)
        return _clipped((np.stack(planes_of(img), -1) - low) * 255 / span, img)


class Invert(ColorTransform):
    """The negative of the image. Magnitudes mean nothing."""

    def change(self, img: np.ndarray, mag: float) -> np.ndarray:
        """Invert."""
        return _through(img, lambda value: 255 - value)


def planes_of(img: np.ndarray) -> list[np.ndarray]:
    """The channels (H, W) of an image (H, W[, C])."""
    return [img] if img.ndim == 2 else list(np.moveaxis(img, 2, 0))


def grey_of(img: np.ndarray, owner: str) -> np.ndarray:
    """Brightness (H, W) of an image (H, W[, C]) of 1 or 3 channels (BGR).

    Raises:
        ValueError: It has another number of channels; ``owner`` is named.
    """
    if img.ndim == 2 or img.shape[2] == 1:
        return img.reshape(img.shape[:2])
    if img.shape[2] != 3:
        raise ValueError(f"{owner} takes an image (H, W), (H, W, 1) or (H, W, 3), got shape {img.shape}")
    grey: np.ndarray = cv2.cvtColor(img, cv2.COLOR_BGR2GRAY)
    return grey


def _mixed(img: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    """``share`` of an image and the rest of another one, rounded."""
    mixed: np.ndarray = cv2.addWeighted(img, share, other, 1 - share, 0)
    return mixed if img.dtype == np.uint8 else mixed.clip(0, 255)


def _clipped(values: np.ndarray, img: np.ndarray) -> np.ndarray:
    """Values within [0, 255], of the kind and shape of an image; decimals are cut off in uint8."""
    return values.clip(0, 255).astype(img.dtype).reshape(img.shape)


def _through(img: np.ndarray, curve: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Every value through ``curve`` (float32 to float32), clipped; uint8 images by a table of 256 values."""
    if img.dtype == np.uint8:
        return _looked_up(img, curve(np.arange(256, dtype=np.float32)).clip(0, 255))
    return _clipped(curve(img), img)


def _looked_up(img: np.ndarray, *tables: np.ndarray) -> np.ndarray:
    """A uint8 image through a table (256,) of values in [0, 255], or one for each channel."""
    table = np.stack(tables, -1).astype(np.uint8)[None]
    changed: np.ndarray = cv2.LUT(img, table)
    return changed.reshape(img.shape)


def _equalizing(plane: np.ndarray) -> np.ndarray:
    """The table (256,) that spreads the values of a channel (H, W)."""
    counts = np.bincount(plane.ravel(), minlength=256)
    step = int(plane.size - counts[counts.nonzero()[0][-1]]) // 255
    if step == 0:
        return np.arange(256)
    below = np.concatenate([[0], (counts.cumsum() + step // 2)[:-1] // step])
    return below.clip(0, 255)
