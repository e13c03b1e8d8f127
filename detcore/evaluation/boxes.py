"""Average precision of ranked detections, as VOC and others define it, and recall of proposals."""

import logging
from collections.abc import Sequence

import numpy as np

from detcore.errors import ConfigError

_logger = logging.getLogger(__name__)

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
            f"recalls and precisions need one shape (D,) or (S, D), got {recalls.shape}, {precisions.shape}"
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


def eval_recalls(
    gts: Sequence[np.ndarray],
    proposals: Sequence[np.ndarray],
    proposal_nums: int | Sequence[int] | None = None,
    iou_thrs: float | Sequence[float] | np.ndarray = 0.5,
    logger: logging.Logger | None = None,
    use_legacy_coordinate: bool = False,
) -> np.ndarray:
    """Share of the objects that the best proposals of each image cover, whatever their class.

    Each object takes one proposal and each proposal one object, the pair that overlaps most first.

    Args:
        gts: objects of each image, float (G, 4) xyxy.
        proposals: of each image, float (P, 4) xyxy from best to worst, or (P, 5) with a score in the last
            column, in any order.
        proposal_nums: how many proposals of each image to look at; None is 100, 300 and 1,000.
        iou_thrs: overlaps from which an object counts as covered.
        logger: where to write the figures, one line for each number of proposals; None writes nothing.
        use_legacy_coordinate: count the last pixel of a box into its sides, as MMDetection 1.x did.

    Returns:
        float (number of `proposal_nums`, number of `iou_thrs`); NaN where there is no object.

    Raises:
        ConfigError: there are not as many images in `proposals` as in `gts`.
    """
    if len(gts) != len(proposals):
        raise ConfigError(f"{len(gts)} images have objects, {len(proposals)} have proposals")
    numbers = _numbers(proposal_nums)
    thresholds = np.atleast_1d(np.asarray(iou_thrs, dtype=float))
    last = np.array([0, 0, 1, 1]) if use_legacy_coordinate else np.zeros(4)
    covered = np.zeros((len(numbers), len(thresholds)))
    for objects, found in zip(gts, proposals, strict=True):
        boxes = np.asarray(found, dtype=float)
        if boxes.ndim == 2 and boxes.shape[1] == 5:
            boxes = boxes[np.argsort(-boxes[:, 4], kind="stable"), :4]
        corners = np.asarray(objects, dtype=float).reshape(-1, 4)
        overlaps = _overlaps(corners + last, boxes.reshape(-1, 4) + last)
        for row, number in enumerate(numbers):
            covered[row] += (_pairs(overlaps[:, :number])[:, None] >= thresholds).sum(axis=0)
    total = sum(len(objects) for objects in gts)
    recalls = covered / total if total else np.full_like(covered, np.nan)
    if logger is not None:
        print_recall_summary(recalls, numbers, thresholds, logger=logger)
    return recalls


def print_recall_summary(
    recalls: np.ndarray,
    proposal_nums: int | Sequence[int] | np.ndarray,
    iou_thrs: float | Sequence[float] | np.ndarray,
    row_idxs: Sequence[int] | None = None,
    col_idxs: Sequence[int] | None = None,
    logger: logging.Logger | None = None,
) -> None:
    """Log recalls, a line for each number of proposals.

    Args:
        recalls: float (number of `proposal_nums`, number of `iou_thrs`), what `eval_recalls` gives.
        proposal_nums: how many proposals of each image were looked at.
        iou_thrs: overlaps from which an object counted as covered.
        row_idxs: which of the numbers of proposals to show; None is all.
        col_idxs: which of the overlaps to show; None is all.
        logger: where to; None is this module's own.

    Raises:
        ConfigError: the recalls have another shape.
    """
    numbers, thresholds = _numbers(proposal_nums), np.atleast_1d(np.asarray(iou_thrs, dtype=float))
    if np.shape(recalls) != (len(numbers), len(thresholds)):
        raise ConfigError(
            f"recalls of {len(numbers)} numbers of proposals at {len(thresholds)} overlaps have shape "
            f"{(len(numbers), len(thresholds))}, got {np.shape(recalls)}"
        )
    columns = range(len(thresholds)) if col_idxs is None else col_idxs
    for row in range(len(numbers)) if row_idxs is None else row_idxs:
        shown = ", ".join(f"{recalls[row][column]:.3f} at {thresholds[column]:g}" for column in columns)
        (logger or _logger).info("recall of %d proposals: %s", numbers[row], shown)


def _numbers(proposal_nums: int | Sequence[int] | np.ndarray | None) -> list[int]:
    if proposal_nums is None:
        return [100, 300, 1000]
    return np.atleast_1d(np.asarray(proposal_nums, dtype=int)).tolist()


def _pairs(overlaps: np.ndarray) -> np.ndarray:
    """Overlap of each pair, taken greedily from the largest on."""
    left = overlaps.copy()
    taken = []
    for _ in range(min(left.shape)):
        row, column = np.unravel_index(left.argmax(), left.shape)
        taken.append(left[row, column])
        left[row] = left[:, column] = -1
    return np.array(taken)


def _overlaps(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Intersection over union, (N, M)."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    common = (high - low).clip(0).prod(axis=-1)
    area_one, area_other = ((boxes[:, 2:] - boxes[:, :2]).clip(0).prod(axis=1) for boxes in (one, other))
    union = area_one[:, None] + area_other[None] - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)
