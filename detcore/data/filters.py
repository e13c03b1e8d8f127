"""Which images are left out of training: the manual's ``filter_cfg``."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypedDict

import numpy as np

from detcore.data.table import AnnotationTable
from detcore.errors import DataError


class FilterCfg(TypedDict, total=False):
    """``filter_cfg`` as configs write it; see :class:`FilterRules`."""

    filter_empty_gt: bool
    min_size: int
    bbox_min_size: int | None


@dataclass
class FilterRules:
    """The keys of ``filter_cfg``.

    Attributes:
        filter_empty_gt: Drop images without instances of the chosen classes.
        min_size: Drop images whose shorter side has fewer pixels.
        bbox_min_size: Boxes narrower or lower than this are set to be ignored.
    """

    filter_empty_gt: bool = False
    min_size: int = 0
    bbox_min_size: int | None = None

    @classmethod
    def from_cfg(cls, cfg: Mapping[str, Any] | None) -> FilterRules:
        """Read ``filter_cfg``.

        Raises:
            DataError: A key that is none of the attributes.
        """
        known = [field.name for field in fields(cls)]
        for key in cfg or {}:
            if key not in known:
                close = difflib.get_close_matches(key, known, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise DataError(f"filter_cfg has no key {key!r}, known are {', '.join(known)}{hint}")
        return cls(**(cfg or {}))


def filter_images(table: AnnotationTable, rules: FilterRules) -> tuple[AnnotationTable, dict[str, int]]:
    """Apply the rules.

    Returns:
        The table of what is left, and how many images each rule dropped.
    """
    if rules.bbox_min_size is not None and len(table.boxes):
        sides = (table.boxes[:, 2:] - table.boxes[:, :2]).min(1)
        table = replace(table, ignored=table.ignored | (sides < rules.bbox_min_size))
    empty = (table.counts() == 0) & rules.filter_empty_gt
    shorter = table.sizes.min(1)
    small = (shorter >= 0) & (shorter < rules.min_size) & ~empty
    keep = ~(empty | small)
    dropped = {"filter_empty_gt": int(empty.sum()), "min_size": int(small.sum())}
    return (table if keep.all() else table.take(np.flatnonzero(keep))), dropped
