"""Label maps alone."""

from __future__ import annotations

from detcore.data.transforms.base import BaseTransform, Results
from detcore.data.transforms.geometry import fitted_size, resize_array
from detcore.errors import DataError


class SegRescale(BaseTransform):
    """Scale the label map, for heads that predict it at a lower resolution than the image's.

    Args:
        scale_factor: Factor of both sides.
        backend: ``'cv2'``.
    """

    carries_proposals = True

    def __init__(self, scale_factor: float = 1, backend: str = "cv2") -> None:
        if not scale_factor > 0:
            raise ValueError(f"scale_factor must be positive, got {scale_factor}")
        if backend != "cv2":
            raise ValueError(f"backend={backend!r}: label maps are scaled by 'cv2'")
        self.scale_factor = scale_factor

    def transform(self, results: Results) -> Results:
        """Scale it, taking the nearest pixel's label.

        Raises:
            DataError: There is no label map.
        """
        seg = results.get("gt_seg_map")
        if seg is None:
            raise DataError(
                f"SegRescale: {results.get('img_path')} has no label map; LoadAnnotations(with_seg=True) "
                "loads it"
            )
        width, height = fitted_size((seg.shape[1], seg.shape[0]), float(self.scale_factor))
        results["gt_seg_map"] = resize_array(seg, (max(width, 1), max(height, 1)), "nearest")
        return results

    def __repr__(self) -> str:
        return f"SegRescale(scale_factor={self.scale_factor})"
