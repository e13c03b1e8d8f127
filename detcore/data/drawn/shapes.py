"""A data set that is drawn, not downloaded: shapes on textured ground, overlapping, with COCO annotations.

The colour of an object says nothing of its class; only its outline does. Objects hide one another; one is
only drawn where at least `MIN_VISIBLE` of every object remains to be seen, so nothing that can be seen lacks
an annotation. The same seed gives the same files, byte for byte.
"""
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from detcore.data.drawn.outlines import SHAPES, outline, polygons_of
from detcore.errors import DataError

MIN_VISIBLE = 0.4
_SUBPIXEL_BITS = 4
_TRIES = 12


@dataclass(frozen=True)
class ShapesStyle:
    """How the pictures look.

    Attributes:
        image_size: (width, height) in pixels.
        num_objects: fewest and most objects that are tried in a picture.
        diameters: smallest and largest diameter of an object, in pixels.
    """

    image_size: tuple[int, int] = (192, 144)
    num_objects: tuple[int, int] = (2, 8)
    diameters: tuple[float, float] = (16.0, 72.0)


def make_shapes(
    folder: str | Path, num_train: int = 400, num_val: int = 80, seed: int = 0,
    style: ShapesStyle | None = None,
) -> dict[str, Path]:
    """Draw a training and a validation part.

    Args:
        folder: gets ``train/*.jpg``, ``val/*.jpg`` and ``annotations/instances_{train,val}.json``.
        num_train: pictures to train on.
        num_val: pictures to validate on; another part of the same seed.
        seed: of everything random.
        style: how the pictures look.

    Returns:
        The annotation files by part.

    Raises:
        DataError: a number is negative.
    """
    if num_train < 0 or num_val < 0:
        raise DataError(f"a number of pictures cannot be negative: num_train={num_train}, num_val={num_val}")
    root = Path(folder)
    files = {}
    for number, (part, count) in enumerate([("train", num_train), ("val", num_val)]):
        files[part] = root / "annotations" / f"instances_{part}.json"
        _write_part(root / part, files[part], count, (seed, number), style or ShapesStyle())
    return files


def tiny_coco(
    folder: str | Path, num: int = 4, image_size: tuple[int, int] = (64, 48), seed: int = 0
) -> Path:
    """A few small drawn pictures for a test.

    Args:
        folder: gets ``images/*.jpg`` and ``annotations.json``.
        num: pictures.
        image_size: (width, height) in pixels.
        seed: of everything random.

    Returns:
        The annotation file.
    """
    root = Path(folder)
    side = min(image_size)
    style = ShapesStyle(image_size, (1, 3), (max(8.0, side / 5), side / 2))
    _write_part(root / "images", root / "annotations.json", num, (seed, 2), style)
    return root / "annotations.json"


def draw_picture(
    rng: np.random.Generator, style: ShapesStyle
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """One picture.

    Args:
        rng: source of everything random.
        style: how it looks.

    Returns:
        uint8 BGR (H, W, 3), and one dict per object: ``category_id`` (1 for the first of `SHAPES`), ``bbox``
        (x, y, width, height of what can be seen, in pixels), ``area`` (visible pixels), ``segmentation``
        (polygons of what can be seen) and ``visible`` (share that can be seen).
    """
    width, height = style.image_size
    picture = background(rng, width, height)
    owner = np.full((height, width), -1, dtype=np.int16)
    objects: list[tuple[int, float]] = []
    for _ in range(rng.integers(style.num_objects[0], style.num_objects[1] + 1)):
        for _ in range(_TRIES):
            placed = _place(rng, picture, owner, objects, style)
            if placed:
                break
    picture += rng.normal(0, 3, picture.shape).astype(np.float32)  # grain of a sensor, over everything
    records = [_record(owner == index, kind, full) for index, (kind, full) in enumerate(objects)]
    return picture.clip(0, 255).astype(np.uint8), records


def background(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Ground: noise of several scales, a gradient, and often stripes.

    Returns:
        float32 BGR (H, W, 3), about 0 to 255.
    """
    ground = np.full((height, width, 3), 1.0, np.float32) * rng.uniform(60, 190, 3).astype(np.float32)
    for cells in (3, 8, 24, 64):
        grid = rng.normal(0, 1, (cells * height // width + 1, cells, 3)).astype(np.float32)
        ground += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) * rng.uniform(3, 14)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    along = (x * np.cos(angle) + y * np.sin(angle)) / max(width, height)
    ground += (along * rng.uniform(0, 70))[..., None]
    if rng.random() < 0.5:
        angle, period = rng.uniform(0, np.pi), rng.uniform(6, 30)
        wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * (2 * np.pi / period) + rng.uniform(0, 6))
        ground += wave[..., None] * rng.uniform(5, 22, 3).astype(np.float32)
    return ground


def _place(
    rng: np.random.Generator, picture: np.ndarray, owner: np.ndarray, objects: list[tuple[int, float]],
    style: ShapesStyle,
) -> bool:
    """Draw one more object, unless it would hide another or itself too much."""
    width, height = style.image_size
    kind = int(rng.integers(len(SHAPES)))
    small, large = np.log(style.diameters)
    diameter = float(np.exp(rng.uniform(small, large)))
    center = rng.uniform((0, 0), (width, height))
    loops = outline(SHAPES[kind], center, diameter / 2, rng.uniform(0, 2 * np.pi), rng)
    full = abs(cv2.contourArea(loops[0].astype(np.float32))) - sum(
        abs(cv2.contourArea(loop.astype(np.float32))) for loop in loops[1:]
    )
    alpha = _coverage(loops, width, height)
    solid = alpha > 0.5
    after = owner.copy()
    after[solid] = len(objects)
    seen = np.bincount(after[after >= 0], minlength=len(objects) + 1)
    areas = [area for _, area in objects] + [full]
    if any(pixels < MIN_VISIBLE * area for pixels, area in zip(seen, areas, strict=True)):
        return False
    _paint(rng, picture, alpha, solid)
    owner[:] = after
    objects.append((kind, full))
    return True


def _coverage(loops: Sequence[np.ndarray], width: int, height: int) -> np.ndarray:
    """Share of each pixel that lies inside, float32 (H, W); loops inside the first one are holes."""
    mask = np.zeros((height, width), np.uint8)
    # Pixel (0, 0) of a picture covers 0 to 1; OpenCV counts from its centre.
    points = [((loop - 0.5) * 2**_SUBPIXEL_BITS).round().astype(np.int32) for loop in loops]
    cv2.fillPoly(mask, points, 255, cv2.LINE_AA, _SUBPIXEL_BITS)
    return mask.astype(np.float32) / 255


def _paint(rng: np.random.Generator, picture: np.ndarray, alpha: np.ndarray, solid: np.ndarray) -> None:
    """Fill an object with a colour that differs from its ground, lit from a side, with some texture."""
    height, width = alpha.shape
    ground = picture[solid].mean(axis=0)
    color = rng.uniform(20, 235, 3)
    while np.abs(color - ground).max() < 60:
        color = rng.uniform(20, 235, 3)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    ramp = x * np.cos(angle) + y * np.sin(angle)
    ramp = (ramp - ramp[solid].mean()) / (np.ptp(ramp[solid]) + 1)
    texture = ramp * rng.uniform(0, 60)
    if rng.random() < 0.4:
        angle, period = rng.uniform(0, np.pi), rng.uniform(4, 10)
        texture += np.sin((x * np.cos(angle) + y * np.sin(angle)) * (2 * np.pi / period)) * rng.uniform(6, 18)
    grain = rng.normal(0, rng.uniform(1, 9), alpha.shape).astype(np.float32)
    filled = color.astype(np.float32) + (texture + grain)[..., None]
    picture += (filled - picture) * alpha[..., None]


def _record(mask: np.ndarray, kind: int, full: float) -> dict[str, Any]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    pixels = int(mask.sum())
    return {
        "category_id": kind + 1,
        "bbox": [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1],
        "area": pixels,
        "segmentation": polygons_of(mask),
        "visible": round(min(1.0, pixels / full), 3),
    }


def _write_part(
    images: Path, ann_file: Path, count: int, seed: tuple[int, int], style: ShapesStyle
) -> None:
    images.mkdir(parents=True, exist_ok=True)
    ann_file.parent.mkdir(parents=True, exist_ok=True)
    width, height = style.image_size
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(1, count + 1):
        # A generator of its own: the first pictures are the same however many are drawn.
        picture, objects = draw_picture(np.random.default_rng([*seed, number]), style)
        name = f"{number:06d}.jpg"
        _, encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 92])
        (images / name).write_bytes(encoded.tobytes())
        entries.append({"id": number, "file_name": name, "width": width, "height": height})
        for record in objects:
            annotations.append({"id": len(annotations) + 1, "image_id": number, "iscrowd": 0, **record})
    content = {
        "info": {"description": "drawn by detcore", "seed": seed[0]},
        "images": entries,
        "annotations": annotations,
        "categories": [{"id": index + 1, "name": name} for index, name in enumerate(SHAPES)],
    }
    ann_file.write_text(json.dumps(content), encoding="utf-8")
