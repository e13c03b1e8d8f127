"""What a transform is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

Results = dict[str, Any]


class BaseTransform(ABC):
    """A step of the pipeline: takes the ``results`` dict of one image and returns it changed.

    Derived classes implement `transform`. Randomness comes from `random`, `numpy.random` or torch's global
    generator; the loader seeds all three for each sample.

    Attributes:
        carries_proposals: Whether the transform keeps ``proposals`` in step with the image, by moving them or
            because it moves nothing.
        remembers: Whether what comes out depends on samples before it too. A copy, such as each worker gets,
            remembers nothing.
    """

    carries_proposals: bool = False
    remembers: bool = False

    def __call__(self, results: Results) -> Results | None:
        """Apply the transform."""
        return self.transform(results)

    @abstractmethod
    def transform(self, results: Results) -> Results | None:
        """Change ``results``; None refuses the sample, and the data set draws another."""


def record_homography(results: Results, matrix: np.ndarray) -> None:
    """Chain a geometric change to the map from the original image to the current one.

    Args:
        results: The sample; its ``homography_matrix`` is set.
        matrix: float (3, 3), acts on column vectors (x, y, 1) in pixels.
    """
    before = results.get("homography_matrix")
    matrix = np.asarray(matrix, np.float32)
    results["homography_matrix"] = matrix if before is None else matrix @ before


def keep_instances(results: Results, keep: np.ndarray) -> None:
    """Keep some instances in every per-instance field; ``keep`` is bool (N,)."""
    for key in ("gt_bboxes", "gt_bboxes_labels", "gt_ignore_flags", "gt_instances_ids"):
        if results.get(key) is not None:
            results[key] = results[key][keep]
    if results.get("gt_masks") is not None:
        results["gt_masks"] = results["gt_masks"][np.flatnonzero(keep)]
