"""Average precision of ranked detections, as VOC and others define it."""

import numpy as np

from detcore.errors import ConfigError

_ELEVEN = np.arange(11) / 10


def average_precision(recalls: np.ndarray, precisions: np.ndarray, mode: str = "area") -> float | np.ndarray:
    """Area under the precision-recall curve.

    Args:
        recalls: float (D,) or (S, D): recall after each of D detections, best first; S kinds of object size.
        precisions: float of the same shape.
        mode: ``'area'``: the area below the curve made monotonic (VOC since 2010); ``'11points'``: mean of
            the best precision at recalls 0, 0.1, ..., 1 (VOC 2007).

    Returns:
        A number, or (S,) for two-dimensional input.

    Raises:
        ConfigError: an unknown mode, or shapes that differ.
    """
    recalls, precisions = np.asarray(recalls, dtype=float), np.asarray(precisions, dtype=float)
    if recalls.shape != precisions.shape or recalls.ndim not in (1, 2):
        raise ConfigError(
            f"recalls and precisions need one shape (D,) or (S, D), got {recalls.shape} and {precisions.shape}"
        )
    functions = {"area": _area, "11points": _eleven_points}
    if mode not in functions:
        raise ConfigError(f"mode must be 'area' or '11points', got {mode!r}")
    if recalls.ndim == 1:
        return functions[mode](recalls, precisions)
    return np.array([functions[mode](*curve) for curve in zip(recalls, precisions, strict=True)])


def _area(recalls: np.ndarray, precisions: np.ndarray) -> float:
    recall = np.concatenate([[0.0], recalls, [1.0]])
    best = np.concatenate([[0.0], precisions, [0.0]])
    best = np.maximum.accumulate(best[::-1])[::-1]
    return float((np.diff(recall) * best[1:]).sum())


def _eleven_points(recalls: np.ndarray, precisions: np.ndarray) -> float:
    return float(np.mean([precisions[recalls >= recall].max(initial=0.0) for recall in _ELEVEN]))
