"""What ``mmcv.image`` did, over OpenCV: pictures are numpy arrays (H, W) or (H, W, C), colours BGR.

Sizes are (w, h) in pixels, boxes xyxy in absolute pixels.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from detcore.data import decode_image, read_image
from detcore.errors import DataError

_INTERPOLATION = {
    "nearest": cv2.INTER_NEAREST,
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
    "lanczos": cv2.INTER_LANCZOS4,
}
_BORDERS = {
    "constant": cv2.BORDER_CONSTANT,
    "edge": cv2.BORDER_REPLICATE,
    "reflect": cv2.BORDER_REFLECT_101,
    "symmetric": cv2.BORDER_REFLECT,
}
_FLIPS = {"horizontal": 1, "vertical": 0, "diagonal": (0, 1)}


def imread(
    img_or_path: np.ndarray | str | os.PathLike[str], flag: str = "color", channel_order: str = "bgr"
) -> np.ndarray:
    """Read a picture; an array is given back as it is.

    Args:
        img_or_path: Path, or an array.
        flag: ``'color'``, ``'grayscale'``, ``'unchanged'``, ``'color_ignore_orientation'``, ...
        channel_order: ``'bgr'`` or ``'rgb'``.

    Raises:
        BadImageError: There is no such file, or it is no whole picture.
    """
    if isinstance(img_or_path, np.ndarray):
        return img_or_path
    return _ordered(read_image(img_or_path, flag), flag, channel_order)


def imfrombytes(content: bytes, flag: str = "color", channel_order: str = "bgr") -> np.ndarray:
    """Decode the bytes of an image file; arguments and errors as of :func:`imread`."""
    return _ordered(decode_image(content, "the bytes", flag), flag, channel_order)


def imwrite(
    img: np.ndarray,
    file_path: str | os.PathLike[str],
    params: Sequence[int] | None = None,
    auto_mkdir: bool = True,
) -> bool:
    """Write a picture; the format by the name's ending.

    Raises:
        DataError: OpenCV does not know the format, or cannot write such an array in it.
    """
    path = Path(file_path)
    if auto_mkdir:
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        done, data = cv2.imencode(path.suffix, img, list(params or ()))
    except cv2.error as error:
        raise DataError(f"cannot write {path}: {error}") from error
    if not done:
        raise DataError(f"cannot write an array of shape {img.shape} and {img.dtype} as {path}")
    path.write_bytes(data.tobytes())
    return True


def imresize(
    img: np.ndarray, size: tuple[int, int], return_scale: bool = False, interpolation: str = "bilinear"
) -> Any:
    """The picture in a size (w, h); with ``return_scale`` also the factors of width and height."""
    height, width = img.shape[:2]
    resized = cv2.resize(
        img, tuple(size), interpolation=_picked(_INTERPOLATION, interpolation, "interpolation")
    )
    return (resized, size[0] / width, size[1] / height) if return_scale else resized


def imrescale(
    img: np.ndarray,
    scale: float | tuple[int, int],
    return_scale: bool = False,
    interpolation: str = "bilinear",
) -> Any:
    """The picture resized with its proportions kept.

    Args:
        img: The picture.
        scale: A factor, or the (longest, shortest) edge that it must fit into, in any order.
        return_scale: Give the factor, too.
        interpolation: ``'nearest'``, ``'bilinear'``, ``'bicubic'``, ``'area'`` or ``'lanczos'``.
    """
    height, width = img.shape[:2]
    if isinstance(scale, int | float):
        factor = float(scale)
    else:
        factor = min(max(scale) / max(height, width), min(scale) / min(height, width))
    if factor <= 0:
        raise ValueError(f"scale must be above 0, got {scale}")
    resized = imresize(
        img, (int(width * factor + 0.5), int(height * factor + 0.5)), interpolation=interpolation
    )
    return (resized, factor) if return_scale else resized


def imflip(img: np.ndarray, direction: str = "horizontal") -> np.ndarray:
    """The picture mirrored: ``'horizontal'``, ``'vertical'`` or ``'diagonal'`` (both)."""
    return np.flip(img, _picked(_FLIPS, direction, "direction"))


def imcrop(img: np.ndarray, bboxes: np.ndarray) -> Any:
    """The parts of a picture within boxes (N, 4), or within one (4,), their last row and column included."""
    boxes = np.asarray(bboxes).reshape(-1, 4).astype(np.int32)
    height, width = img.shape[:2]
    parts = []
    for x1, y1, x2, y2 in boxes:
        parts.append(img[max(y1, 0) : min(y2, height - 1) + 1, max(x1, 0) : min(x2, width - 1) + 1])
    return parts[0] if np.ndim(bboxes) == 1 else parts


def impad(
    img: np.ndarray,
    *,
    shape: tuple[int, int] | None = None,
    padding: int | tuple[int, ...] | None = None,
    pad_val: float | Sequence[float] = 0,
    padding_mode: str = "constant",
) -> np.ndarray:
    """The picture with a border.

    Args:
        img: The picture.
        shape: (h, w) to reach, by rows below and columns at the right.
        padding: Instead: pixels at every side, (left and right, above and below), or (left, above, right,
            below).
        pad_val: Value of the border, one or one a channel.
        padding_mode: ``'constant'``, ``'edge'``, ``'reflect'`` or ``'symmetric'``.

    Raises:
        ValueError: Not exactly one of ``shape`` and ``padding`` is given, or neither form fits.
    """
    if (shape is None) == (padding is None):
        raise ValueError("impad takes one of shape and padding")
    if shape is not None:
        sides: tuple[int, ...] = (0, 0, max(shape[1] - img.shape[1], 0), max(shape[0] - img.shape[0], 0))
    else:
        sides = (padding,) * 4 if isinstance(padding, int) else tuple(padding or ())
        sides = sides * 2 if len(sides) == 2 else sides
    if len(sides) != 4:
        raise ValueError(f"padding must be one, two or four numbers, got {padding}")
    left, above, right, below = sides
    value = pad_val if isinstance(pad_val, int | float) else tuple(pad_val)
    # One number means every channel; OpenCV would take it for the first only.
    value = (value,) * 4 if isinstance(value, int | float) else value
    border = _picked(_BORDERS, padding_mode, "padding_mode")
    return cv2.copyMakeBorder(img, above, below, left, right, border, value=value)


def impad_to_multiple(img: np.ndarray, divisor: int, pad_val: float | Sequence[float] = 0) -> np.ndarray:
    """The picture padded below and at the right to multiples of ``divisor``."""
    height, width = (-(-size // divisor) * divisor for size in img.shape[:2])
    return impad(img, shape=(height, width), pad_val=pad_val)


def imrotate(
    img: np.ndarray,
    angle: float,
    center: tuple[float, float] | None = None,
    scale: float = 1.0,
    border_value: float | Sequence[float] = 0,
    interpolation: str = "bilinear",
) -> np.ndarray:
    """The picture turned clockwise by ``angle`` degrees about ``center`` (x, y); its size stays."""
    height, width = img.shape[:2]
    middle = center or ((width - 1) * 0.5, (height - 1) * 0.5)
    matrix = cv2.getRotationMatrix2D(middle, -angle, scale)
    flags = _picked(_INTERPOLATION, interpolation, "interpolation")
    return cv2.warpAffine(img, matrix, (width, height), flags=flags, borderValue=border_value)


def imnormalize(img: np.ndarray, mean: Any, std: Any, to_rgb: bool = True) -> np.ndarray:
    """float32: the picture (in RGB if ``to_rgb``) less the mean, divided by the deviation, a channel each."""
    image = img.astype(np.float32)
    image = image[..., ::-1] if to_rgb else image
    return np.ascontiguousarray((image - np.float32(mean)) / np.float32(std), dtype=np.float32)


def bgr2rgb(img: np.ndarray) -> np.ndarray:
    """BGR as RGB."""
    return cv2.cvtColor(img, cv2.COLOR_BGR2RGB)


def rgb2bgr(img: np.ndarray) -> np.ndarray:
    """RGB as BGR."""
    return cv2.cvtColor(img, cv2.COLOR_RGB2BGR)


def bgr2gray(img: np.ndarray, keepdim: bool = False) -> np.ndarray:
    """BGR as grey values (H, W), or (H, W, 1)."""
    grey = cv2.cvtColor(img, cv2.COLOR_BGR2GRAY)
    return grey[..., None] if keepdim else grey


def bgr2hsv(img: np.ndarray) -> np.ndarray:
    """BGR as HSV."""
    return cv2.cvtColor(img, cv2.COLOR_BGR2HSV)


def hsv2bgr(img: np.ndarray) -> np.ndarray:
    """HSV as BGR."""
    return cv2.cvtColor(img, cv2.COLOR_HSV2BGR)


def _ordered(img: np.ndarray, flag: str, channel_order: str) -> np.ndarray:
    if _picked({"bgr": False, "rgb": True}, channel_order, "channel_order") and flag.startswith("color"):
        return bgr2rgb(img)
    return img


def _picked(choices: Mapping[str, Any], name: str, argument: str) -> Any:
    if name not in choices:
        raise ValueError(f"{argument} must be one of {', '.join(map(repr, choices))}, got {name!r}")
    return choices[name]
