"""Reads what kind of image a file is and how large, before anything is decoded."""

from __future__ import annotations

import io
import struct
import warnings
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

JPEG_START, PNG_START = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
JPEG_END, JPEG_SCAN = b"\xff\xd9", b"\xff\xda"
# Start-of-frame markers; C4, C8 and CC in this range mean something else.
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
BARE_MARKERS = frozenset(range(0xD0, 0xD9)) | {0x01}


class ImageHeader(NamedTuple):
    """What a file says about its picture.

    Attributes:
        kind: ``'JPEG'``, ``'PNG'``, ``'TIFF'``, ...
        width: In pixels as stored, before any rotation.
        height: In pixels as stored.
    """

    kind: str
    width: int
    height: int


BEYOND_READING = ImageHeader("?", 0, 0)
"""Stands for a picture so large that Pillow does not even tell its size: more than 178 megapixels."""


def read_header(data: bytes) -> ImageHeader | None:
    """Kind and size of an encoded image, None where it is no image that is known."""
    if data.startswith(JPEG_START):
        return _jpeg_header(data)
    if data.startswith(PNG_START):
        if len(data) < 24 or data[12:16] != b"IHDR":
            return None
        return ImageHeader("PNG", *struct.unpack(">II", data[16:24]))
    return _other_header(data)


def _jpeg_header(data: bytes) -> ImageHeader | None:
    at = 2
    while at + 9 <= len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker in BARE_MARKERS:
            at += 2
        elif marker in FRAMES:
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return ImageHeader("JPEG", width, height)
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _other_header(data: bytes) -> ImageHeader | None:
    with warnings.catch_warnings():
        # Our own limit is applied to the size that is read here.
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data)) as image:
                return ImageHeader(image.format or "?", *image.size)
        except Image.DecompressionBombError:
            return BEYOND_READING
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError, struct.error):
            return None


def jpeg_is_cut_off(data: bytes) -> bool:
    """Whether a JPEG file lacks its end; some versions of OpenCV fill what is missing with grey."""
    # Data after the end mark is common (padding, a second picture), so the mark is looked for from behind.
    # Within a scan the two bytes cannot occur, only in a thumbnail, which comes before the last scan.
    return not data.endswith(JPEG_END) and data.rfind(JPEG_END) < data.rfind(JPEG_SCAN)
