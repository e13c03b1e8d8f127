"""Outlines of the shapes, and polygons of regions."""
from collections.abc import Sequence

import cv2
import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "ring")

_ROUND = 48  # corners that look like a circle at any size in use
_ENLARGE = 4


def outline(
    shape: str, center: Sequence[float] | np.ndarray, radius: float, angle: float, rng: np.random.Generator
) -> list[np.ndarray]:
    """Closed lines around a shape; every one after the first is a hole.

    Args:
        shape: one of `SHAPES`.
        center: x, y in pixels.
        radius: of the circle around it, in pixels.
        angle: of rotation, in radians.
        rng: for proportions that vary (how pointed a star is, how thick a ring).

    Returns:
        Arrays float (P, 2) of x, y in pixels.
    """
    turns = {
        "circle": (_circle(1.0),),
        "square": (_regular(4),),
        "triangle": (_regular(3),),
        "star": (_star(rng.uniform(0.38, 0.5)),),
        "ring": (_circle(1.0), _circle(rng.uniform(0.45, 0.65))),
    }[shape]
    # A photograph shows things foreshortened, a little.
    squeeze = np.array([1.0, rng.uniform(0.8, 1.0)])
    cos, sin = np.cos(angle), np.sin(angle)
    rotation = np.array([[cos, -sin], [sin, cos]])
    return [(loop * squeeze * radius) @ rotation.T + np.asarray(center) for loop in turns]


def polygons_of(mask: np.ndarray) -> list[list[float]]:
    """Polygons around a region, as COCO writes them.

    A hole becomes part of the line around it, joined by a bridge without width: COCO's polygons know no
    holes.

    Args:
        mask: bool (H, W).

    Returns:
        One list ``[x0, y0, x1, y1, ...]`` per piece, in pixels; pixel (0, 0) covers 0 to 1.
    """
    # OpenCV's outlines run through centres of pixels; enlarged, they are off by an eighth of a pixel only.
    large = cv2.resize(mask.astype(np.uint8), None, fx=_ENLARGE, fy=_ENLARGE, interpolation=cv2.INTER_NEAREST)
    loops, tree = cv2.findContours(large, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    pieces: dict[int, np.ndarray] = {}
    for number, (loop, (_, _, _, parent)) in enumerate(zip(loops, tree[0], strict=True)):
        if parent < 0 and len(loop) >= 3:
            pieces[number] = _simple(loop)
    for loop, (_, _, _, parent) in zip(loops, tree[0], strict=True):
        if parent in pieces and len(loop) >= 3:
            pieces[parent] = _bridged(pieces[parent], _simple(loop))
    kept = [piece for piece in pieces.values() if len(piece) >= 3]
    return [((piece + 0.5) / _ENLARGE).round(2).ravel().tolist() for piece in kept]


def _simple(loop: np.ndarray) -> np.ndarray:
    return cv2.approxPolyDP(loop, 1.5, True).reshape(-1, 2).astype(float)


def _bridged(outer: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """One line that goes around, crosses to the hole where it is nearest, goes around it and comes back."""
    distances = ((outer[:, None] - hole[None]) ** 2).sum(axis=-1)
    at, start = np.unravel_index(distances.argmin(), distances.shape)
    inner = np.roll(hole, -int(start), axis=0)
    return np.concatenate([outer[: at + 1], inner, inner[:1], outer[at:]])


def _circle(radius: float) -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, _ROUND, endpoint=False)
    return np.stack([np.cos(turn), np.sin(turn)], axis=1) * radius


def _regular(corners: int) -> np.ndarray:
    turn = np.arange(corners) * (2 * np.pi / corners)
    return np.stack([np.cos(turn), np.sin(turn)], axis=1)


def _star(inner: float) -> np.ndarray:
    points = _regular(10)
    points[1::2] *= inner
    return points
