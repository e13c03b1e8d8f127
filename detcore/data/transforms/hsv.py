"""Small changes of hue, saturation and value (YOLOX, Ge et al. 2021)."""

from __future__ import annotations

import cv2
import numpy as np

from detcore.data.transforms.base import BaseTransform, Results


class YOLOXHSVRandomAug(BaseTransform):
    """Add to hue, saturation and value of a uint8 image, to each with probability 1/2.

    Args:
        hue_delta: Largest number added to or taken from the hue, in steps of 2 degrees.
        saturation_delta: Largest number added to or taken from the saturation, of 255.
        value_delta: Largest number added to or taken from the value, of 255.
    """

    carries_proposals = True

    def __init__(self, hue_delta: int = 5, saturation_delta: int = 30, value_delta: int = 30) -> None:
        self.deltas = (hue_delta, saturation_delta, value_delta)
        if min(self.deltas) < 0:
            raise ValueError(
                f"hue_delta, saturation_delta and value_delta must not be negative, got {self.deltas}"
            )

    def transform(self, results: Results) -> Results:
        """Draw what to add, and add it.

        Raises:
            ValueError: The image is not uint8 (H, W, 3).
        """
        img = results["img"]
        if img.dtype != np.uint8 or img.ndim != 3 or img.shape[2] != 3:
            raise ValueError(f"YOLOXHSVRandomAug takes uint8 (H, W, 3), got {img.dtype} {img.shape}")
        added = np.random.uniform(-1, 1, 3) * self.deltas * np.random.randint(0, 2, 3)
        hue, saturation, value = added.astype(np.int64).tolist()
        planes = cv2.split(cv2.cvtColor(img, cv2.COLOR_BGR2HSV))
        if hue:
            table = ((np.arange(256) + hue) % 180).astype(np.uint8)
            cv2.LUT(planes[0], table, dst=planes[0])
        for plane, change in ((planes[1], saturation), (planes[2], value)):
            if change:
                # Ends at 0 and at 255. OpenCV takes a number, though its annotations say arrays.
                cv2.add(plane, float(change), dst=plane)  # type: ignore[call-overload]
        results["img"] = cv2.cvtColor(cv2.merge(planes), cv2.COLOR_HSV2BGR)
        return results

    def __repr__(self) -> str:
        hue, saturation, value = self.deltas
        return f"YOLOXHSVRandomAug(hue_delta={hue}, saturation_delta={saturation}, value_delta={value})"
