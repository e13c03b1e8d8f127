"""Decodes image files of any common kind into arrays, or says which file is bad and why."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from detcore.data.image_header import BEYOND_READING, jpeg_is_cut_off, read_header
from detcore.errors import DataError

MAX_PIXELS = 1 << 28
"""Default limit of one image: 268 megapixels are 805 MB of colour."""

FLAGS = {
    "color": cv2.IMREAD_COLOR,
    "grayscale": cv2.IMREAD_GRAYSCALE,
    "unchanged": cv2.IMREAD_UNCHANGED,
    "color_ignore_orientation": cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION,
    "grayscale_ignore_orientation": cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION,
}
BACKENDS = ("cv2", "pillow")


class BadImageError(DataError):
    """An image file that cannot be used.

    Attributes:
        path: The file.
        reason: A short code: `image-missing`, `image-empty`, `image-unknown-kind`, `image-too-large`,
            `image-truncated`, `image-undecodable`.
    """

    def __init__(self, message: str, path: str = "", reason: str = "image-undecodable") -> None:
        super().__init__(message)
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[type[BadImageError], tuple[str, str, str]]:
        return type(self), (str(self), self.path, self.reason)


def read_image(
    path: str | os.PathLike[str],
    color_type: str = "color",
    backend: str = "cv2",
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Read one picture from a file.

    What the kinds give with ``color_type='color'``: EXIF orientation is applied; grey and 1-bit become three
    equal channels; 16-bit is divided by 256; CMYK is converted without a colour profile; a palette is looked
    up; alpha is dropped and the colours below it are kept as stored; of an animation or a multi-page file the
    first picture is taken.

    Args:
        path: The file.
        color_type: ``'color'``, ``'grayscale'``, either with ``_ignore_orientation`` behind it, or
            ``'unchanged'`` (depth, channels and orientation as stored).
        backend: ``'cv2'`` or ``'pillow'``.
        max_pixels: Largest width times height that is decoded.

    Returns:
        uint8 (H, W, 3) BGR, or (H, W) for ``'grayscale'``; any depth and channels for ``'unchanged'``.

    Raises:
        BadImageError: The file is missing, empty, no image, cut off, broken or too large.
    """
    try:
        with Path(path).open("rb", buffering=0) as file:
            data = file.read()
    except OSError as error:
        raise BadImageError(
            f"cannot read the image {path}: {error.strerror}", str(path), "image-missing"
        ) from error
    return decode_image(data, str(path), color_type, backend, max_pixels)


def decode_image(
    data: bytes, source: str, color_type: str = "color", backend: str = "cv2", max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Decode the bytes of an image file; ``source`` names it in errors. See `read_image`."""
    if not data:
        raise BadImageError(f"the image {source} is empty (0 bytes)", source, "image-empty")
    header = read_header(data)
    if header is None:
        start = data[:16].hex(" ")
        message = f"{source} is no image of a known kind, or its header is broken; it starts with {start}"
        raise BadImageError(message, source, "image-unknown-kind")
    if header is BEYOND_READING or header.width * header.height > max_pixels:
        known = header is not BEYOND_READING
        size = f"{header.width} x {header.height}" if known else "over 178 million"
        message = (
            f"the image {source} has {size} pixels, more than max_pixels={max_pixels}; raise the limit in "
            "LoadImageFromFile where such images are meant (beyond 178 million only JPEG and PNG are read)"
        )
        raise BadImageError(message, source, "image-too-large")
    if header.kind == "JPEG" and jpeg_is_cut_off(data):
        raise BadImageError(f"the image {source} is cut off ({len(data)} bytes)", source, "image-truncated")
    image = _with_cv2(data, color_type) if backend == "cv2" else _with_pillow(data, color_type)
    if image is None:
        message = f"the {header.kind} image {source} ({len(data)} bytes) cannot be decoded: broken or cut off"
        raise BadImageError(message, source, "image-undecodable")
    return image


def _with_cv2(data: bytes, color_type: str) -> np.ndarray | None:
    try:
        image: np.ndarray | None = cv2.imdecode(np.frombuffer(data, np.uint8), FLAGS[color_type])
    except cv2.error:
        return None
    return image


def _with_pillow(data: bytes, color_type: str) -> np.ndarray | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(data)) as opened:
                opened.load()
                if color_type == "unchanged":
                    return _to_bgr(np.asarray(opened))
                picture = (
                    opened if color_type.endswith("ignore_orientation") else ImageOps.exif_transpose(opened)
                )
                picture = _to_8_bit(picture)
                mode = "L" if color_type.startswith("grayscale") else "RGB"
                return _to_bgr(np.asarray(picture.convert(mode)))
        except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError):
            return None


def _to_8_bit(picture: Image.Image) -> Image.Image:
    """16-bit grey divided by 256; Pillow's own conversion would cut values off at 255."""
    if not picture.mode.startswith("I"):
        return picture
    return Image.fromarray((np.asarray(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))


def _to_bgr(image: np.ndarray) -> np.ndarray:
    if image.ndim == 3 and image.shape[2] >= 3:
        order = [2, 1, 0, *range(3, image.shape[2])]
        return np.ascontiguousarray(image[..., order])
    return np.array(image)
