"""Random changes of colour (SSD, Liu et al. 2016, section 2.2)."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from detcore.data.transforms.base import BaseTransform, Results


class _Draw(NamedTuple):
    """The changes drawn for one image; a neutral value where one was not drawn."""

    delta: float
    contrast: float
    contrast_first: bool
    saturation: float
    hue: float
    channels: tuple[int, ...]


class PhotoMetricDistortion(BaseTransform):
    """Change brightness, contrast, saturation and hue and swap channels, each with probability 1/2.

    Contrast comes before or after the changes of saturation and hue with equal probability. A uint8 image
    stays uint8: all changes are look-up tables, values are clipped to [0, 255] and hue is kept in steps of
    1.4 degrees. A float32 image (0 to 255) is computed and left in float32, unclipped.

    Args:
        brightness_delta: Largest number added to or taken from every channel.
        contrast_range: Smallest and largest factor of every channel.
        saturation_range: Smallest and largest factor of the saturation.
        hue_delta: Largest turn of the hue, in degrees.
    """

    carries_proposals = True

    def __init__(
        self,
        brightness_delta: float = 32,
        contrast_range: tuple[float, float] = (0.5, 1.5),
        saturation_range: tuple[float, float] = (0.5, 1.5),
        hue_delta: float = 18,
    ) -> None:
        self.brightness_delta, self.hue_delta = brightness_delta, hue_delta
        self.contrast_range, self.saturation_range = contrast_range, saturation_range

    def transform(self, results: Results) -> Results:
        """Draw the changes and apply them."""
        img = results["img"]
        if img.ndim != 3 or img.shape[2] != 3:
            raise ValueError(f"PhotoMetricDistortion needs an image (H, W, 3), got shape {img.shape}")
        draw = self._draw()
        results["img"] = _distort_uint8(img, draw) if img.dtype == np.uint8 else _distort_float(img, draw)
        return results

    def _draw(self) -> _Draw:
        first, brightness, contrast, saturation, hue, swap = np.random.randint(2, size=6).astype(bool)
        return _Draw(
            delta=np.random.uniform(-self.brightness_delta, self.brightness_delta) if brightness else 0.0,
            contrast=_between(self.contrast_range) if contrast else 1.0,
            contrast_first=bool(first),
            saturation=_between(self.saturation_range) if saturation else 1.0,
            hue=np.random.uniform(-self.hue_delta, self.hue_delta) if hue else 0.0,
            channels=tuple(np.random.permutation(3).tolist()) if swap else (0, 1, 2),
        )

    def __repr__(self) -> str:
        return (
            f"PhotoMetricDistortion(brightness_delta={self.brightness_delta}, hue_delta={self.hue_delta}, "
            f"contrast_range={self.contrast_range}, saturation_range={self.saturation_range})"
        )


def _between(bounds: tuple[float, float]) -> float:
    return float(np.random.uniform(bounds[0], bounds[1]))


def _distort_uint8(img: np.ndarray, draw: _Draw) -> np.ndarray:
    levels = np.arange(256, dtype=np.float32)
    before = (levels + draw.delta) * (draw.contrast if draw.contrast_first else 1.0)
    after = levels * (1.0 if draw.contrast_first else draw.contrast)
    if draw.saturation == 1.0 and draw.hue == 0.0:
        # Nothing happens between the two tables: one pass, rounded once.
        before = before * (1.0 if draw.contrast_first else draw.contrast)
        img = _look_up(img, before, levels)
    else:
        hsv = cv2.cvtColor(_look_up(img, before, levels), cv2.COLOR_BGR2HSV_FULL)
        tables = np.empty((1, 256, 3), np.uint8)
        tables[0, :, 0] = np.round(levels + draw.hue * 256 / 360).astype(np.int64) % 256
        tables[0, :, 1] = _bytes(levels * draw.saturation)
        tables[0, :, 2] = levels
        img = _look_up(cv2.cvtColor(cv2.LUT(hsv, tables), cv2.COLOR_HSV2BGR_FULL), after, levels)
    return _swap(img, draw.channels)


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def _look_up(img: np.ndarray, table: np.ndarray, identity: np.ndarray) -> np.ndarray:
    if np.array_equal(table, identity):
        return img
    changed: np.ndarray = cv2.LUT(img, _bytes(table))
    return changed


def _distort_float(img: np.ndarray, draw: _Draw) -> np.ndarray:
    img = img.astype(np.float32) + np.float32(draw.delta)
    if draw.contrast_first:
        img *= np.float32(draw.contrast)
    if draw.saturation != 1.0 or draw.hue != 0.0:
        hsv = cv2.cvtColor(img, cv2.COLOR_BGR2HSV)
        hsv[..., 1] = np.minimum(hsv[..., 1] * np.float32(draw.saturation), 1)
        hsv[..., 0] = (hsv[..., 0] + np.float32(draw.hue)) % 360
        img = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
    if not draw.contrast_first:
        img = img * np.float32(draw.contrast)
    return _swap(img, draw.channels)


def _swap(img: np.ndarray, channels: tuple[int, ...]) -> np.ndarray:
    if channels == (0, 1, 2):
        return img
    swapped = np.empty_like(img)
    cv2.mixChannels([img], [swapped], [index for to, source in enumerate(channels) for index in (source, to)])
    return swapped
