"""Which boxes of a table cannot be used, and why."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from detcore.data.defects import DefectCounter
from detcore.data.table import AnnotationTable


class BoxRules(NamedTuple):
    """What makes a box unusable beyond NaN, inversion and lying outside.

    Attributes:
        min_side: Boxes narrower or lower than this many pixels are `box-tiny`.
        num_classes: Labels outside ``range(num_classes)`` are `category-unknown`; None accepts all.
    """

    min_side: float = 0.0
    num_classes: int | None = None


def box_defects(boxes: np.ndarray, sizes: np.ndarray, min_side: float = 0.0) -> dict[str, np.ndarray]:
    """Sort boxes by what is wrong with them.

    Args:
        boxes: float (N, 4), xyxy, absolute pixels.
        sizes: int (N, 2), height and width of each box's image; negative where unknown.
        min_side: Least width and height in pixels.

    Returns:
        For each code a bool (N,); a box has at most one defect, the first that applies.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        x1, y1, x2, y2 = boxes.T
        width, height = x2 - x1, y2 - y1
        known = sizes[:, 0] >= 0
        tests = {
            "box-not-finite": ~np.isfinite(boxes).all(1),
            "box-inverted": (width < 0) | (height < 0),
            "box-empty": (width == 0) | (height == 0),
            "box-tiny": (width < min_side) | (height < min_side),
            "box-outside": known & ((x2 <= 0) | (y2 <= 0) | (x1 >= sizes[:, 1]) | (y1 >= sizes[:, 0])),
        }
    taken = np.zeros(len(boxes), bool)
    for code, found in tests.items():
        tests[code] = found & ~taken
        taken |= found
    return tests


def drop_unusable(table: AnnotationTable, defects: DefectCounter, rules: BoxRules) -> AnnotationTable:
    """The table without boxes that nothing can be learned from; each is counted."""
    images = np.repeat(np.arange(len(table)), table.counts())
    found = box_defects(table.boxes, table.sizes[images], rules.min_side)
    if rules.num_classes is not None:
        found["category-unknown"] = (table.labels < 0) | (table.labels >= rules.num_classes)
    bad = np.zeros(len(images), bool)
    for code, mask in found.items():

        def describe(row: int, code: str = code) -> str:
            image = images[row]
            label = f" label {table.labels[row]}" if code == "category-unknown" else ""
            return f"{table.paths.text(image)} instance {row - table.first[image]}{label}"

        defects.add_rows(code, np.flatnonzero(mask & ~bad).tolist(), describe)
        bad |= mask
    return table.take_instances(~bad) if bad.any() else table
