"""Loads images and annotations into the ``results`` dict."""

from __future__ import annotations

import numpy as np

from detcore.data.image import BACKENDS, FLAGS, MAX_PIXELS, BadImageError, read_image
from detcore.data.transforms.base import BaseTransform, Results
from detcore.data.transforms.instances import box_array, ignore_flags, label_array, load_masks
from detcore.errors import DataError
from detcore.structures.mask import BitmapMasks


def check_backend_args(backend_args: dict | None) -> None:
    """Refuse storage other than local files.

    Raises:
        DataError: Another backend is named.
    """
    backend = (backend_args or {}).get("backend")
    if backend not in (None, "local", "disk"):
        raise DataError(f"backend_args={backend_args}: only local files are read (None or backend='local')")


class LoadImageFromFile(BaseTransform):
    """Read ``results['img_path']``; sets ``img`` (H, W, 3 uint8 BGR), ``img_shape`` and ``ori_shape`` (h, w).

    How grey, 16-bit, CMYK, palette, transparent, rotated and animated images are read is told in
    `detcore.data.image.read_image`.

    Args:
        to_float32: Convert the image to float32.
        color_type: ``'color'``, ``'grayscale'``, either with ``_ignore_orientation``, or ``'unchanged'``.
        imdecode_backend: ``'cv2'`` or ``'pillow'``.
        file_client_args: The manual's older name of ``backend_args``.
        ignore_empty: Refuse the sample (the data set draws another) where the image cannot be read,
            instead of raising.
        backend_args: None or ``dict(backend='local')``.
        max_pixels: Largest width times height that is decoded.
    """

    def __init__(
        self,
        to_float32: bool = False,
        color_type: str = "color",
        imdecode_backend: str = "cv2",
        file_client_args: dict | None = None,
        ignore_empty: bool = False,
        *,
        backend_args: dict | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        if color_type not in FLAGS:
            raise ValueError(f"color_type={color_type!r}, expected one of {', '.join(map(repr, FLAGS))}")
        if imdecode_backend not in BACKENDS:
            raise ValueError(f"imdecode_backend={imdecode_backend!r}, expected one of {BACKENDS}")
        check_backend_args(backend_args or file_client_args)
        self.to_float32, self.color_type, self.backend = to_float32, color_type, imdecode_backend
        self.ignore_empty, self.max_pixels = ignore_empty, max_pixels

    def transform(self, results: Results) -> Results | None:
        """Read the image.

        Raises:
            BadImageError: The file cannot be used and ``ignore_empty`` is off.
        """
        try:
            img = read_image(results["img_path"], self.color_type, self.backend, self.max_pixels)
        except BadImageError:
            if self.ignore_empty:
                return None
            raise
        return set_image(results, img.astype(np.float32) if self.to_float32 else img)


class LoadImageFromNDArray(LoadImageFromFile):
    """Take ``results['img']`` (H, W, C BGR or H, W) as the image; the arguments are those of the base."""

    def transform(self, results: Results) -> Results:
        """Set the shapes; ``img_path`` becomes None."""
        img = results["img"]
        if not isinstance(img, np.ndarray) or img.ndim not in (2, 3):
            raise DataError(f"expected an image array (H, W, C), got {type(img).__name__} {np.shape(img)}")
        results["img_path"] = None
        return set_image(results, img.astype(np.float32) if self.to_float32 else img)


def set_image(results: Results, img: np.ndarray) -> Results:
    """Put a freshly loaded image into ``results``."""
    results["img"] = img
    results["img_shape"] = results["ori_shape"] = img.shape[:2]
    return results


class LoadAnnotations(BaseTransform):
    """Turn ``results['instances']`` into arrays.

    Sets ``gt_bboxes`` (float32 (N, 4), xyxy), ``gt_ignore_flags`` (bool (N,)), ``gt_bboxes_labels`` (int64
    (N,)), ``gt_masks`` and ``gt_seg_map`` (uint8 (H, W)). An instance without a usable mask is kept with an
    empty mask and is set to be ignored.

    Args:
        with_bbox: Load boxes and ignore flags.
        with_label: Load labels.
        with_mask: Load masks.
        with_seg: Load the label map ``results['seg_map_path']``.
        poly2mask: Masks become bitmaps; else polygons, which are traced around RLE masks (crowds have none).
        box_type: ``'hbox'``; boxes are plain arrays.
        reduce_zero_label: Label 0 of the label map becomes ``ignore_index``, the others go down by one.
        ignore_index: Value of label map pixels that are not to be learned.
        imdecode_backend: ``'cv2'`` or ``'pillow'``, for the label map.
        file_client_args: The manual's older name of ``backend_args``.
        backend_args: None or ``dict(backend='local')``.
        with_keypoints: Must be false: there are no detectors of keypoints.
    """

    def __init__(
        self,
        with_bbox: bool = True,
        with_label: bool = True,
        with_mask: bool = False,
        with_seg: bool = False,
        poly2mask: bool = True,
        box_type: str = "hbox",
        reduce_zero_label: bool = False,
        ignore_index: int = 255,
        imdecode_backend: str = "cv2",
        file_client_args: dict | None = None,
        backend_args: dict | None = None,
        with_keypoints: bool = False,
    ) -> None:
        if box_type != "hbox":
            raise ValueError(f"box_type={box_type!r}: boxes are horizontal, 'hbox'")
        if with_keypoints:
            raise ValueError("with_keypoints=True: keypoints are not loaded, no detector uses them")
        check_backend_args(backend_args or file_client_args)
        self.with_bbox, self.with_label, self.with_mask, self.with_seg = (
            with_bbox,
            with_label,
            with_mask,
            with_seg,
        )
        self.poly2mask, self.reduce_zero_label, self.ignore_index = poly2mask, reduce_zero_label, ignore_index
        self.backend = imdecode_backend

    def transform(self, results: Results) -> Results:
        """Load what the arguments ask for."""
        instances = results.get("instances", [])
        if self.with_bbox or self.with_mask:
            ignored = ignore_flags(instances)
        if self.with_bbox:
            results["gt_bboxes"] = box_array(instances)
        if self.with_label:
            results["gt_bboxes_labels"] = label_array(instances)
        if self.with_mask:
            height, width = results["ori_shape"]
            try:
                loaded, missing = load_masks(instances, height, width, self.poly2mask)
            except DataError as error:
                raise DataError(f"{results.get('img_path')}: {error}") from error
            results["gt_masks"] = loaded
            ignored |= missing
        if self.with_bbox or self.with_mask:
            results["gt_ignore_flags"] = ignored
        if self.with_seg:
            self._load_seg_map(results)
        return results

    def _load_seg_map(self, results: Results) -> None:
        path = results.get("seg_map_path")
        if path is None:
            raise DataError(
                f"with_seg=True, but {results.get('img_path')} has no `seg_map_path`; "
                "give the data set data_prefix=dict(seg='folder/')"
            )
        seg = read_image(path, "unchanged", self.backend)
        if seg.ndim != 2:
            raise DataError(f"the label map {path} must have one channel, got shape {seg.shape}")
        if self.reduce_zero_label:
            seg = np.where((seg == 0) | (seg == self.ignore_index), self.ignore_index, seg - 1).astype(
                seg.dtype
            )
        results["gt_seg_map"] = seg
        results["reduce_zero_label"], results["ignore_index"] = self.reduce_zero_label, self.ignore_index


class LoadEmptyAnnotations(BaseTransform):
    """Annotations without any object, for images that nobody has labelled.

    Sets ``gt_bboxes`` (float32 (0, 4)), ``gt_ignore_flags`` (bool (0,)), ``gt_bboxes_labels`` (int64 (0,)),
    ``gt_masks`` (bitmaps) and ``gt_seg_map`` (uint8 (H, W)).

    Args:
        with_bbox: Set boxes and ignore flags.
        with_label: Set labels.
        with_mask: Set masks.
        with_seg: Set a label map that is ``seg_ignore_label`` everywhere.
        seg_ignore_label: Value of label map pixels that are not to be learned.
    """

    def __init__(
        self,
        with_bbox: bool = True,
        with_label: bool = True,
        with_mask: bool = False,
        with_seg: bool = False,
        seg_ignore_label: int = 255,
    ) -> None:
        if not 0 <= seg_ignore_label <= 255:
            raise ValueError(f"seg_ignore_label must lie in [0, 255], got {seg_ignore_label}")
        self.with_bbox, self.with_label, self.with_mask = with_bbox, with_label, with_mask
        self.with_seg, self.seg_ignore_label = with_seg, seg_ignore_label

    def transform(self, results: Results) -> Results:
        """Set what the arguments ask for."""
        if self.with_bbox:
            results["gt_bboxes"] = np.zeros((0, 4), np.float32)
            results["gt_ignore_flags"] = np.zeros(0, bool)
        if self.with_label:
            results["gt_bboxes_labels"] = np.zeros(0, np.int64)
        if self.with_mask or self.with_seg:
            height, width = results["img_shape"]
        if self.with_mask:
            results["gt_masks"] = BitmapMasks([], height, width)
        if self.with_seg:
            results["gt_seg_map"] = np.full((height, width), self.seg_ignore_label, np.uint8)
        return results

    def __repr__(self) -> str:
        chosen = ", ".join(
            f"{name}={getattr(self, name)}" for name in ("with_bbox", "with_label", "with_mask", "with_seg")
        )
        return f"LoadEmptyAnnotations({chosen})"
