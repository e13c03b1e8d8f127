"""Counts what is wrong with annotations, by reason: nothing is dropped in silence."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

from detcore.errors import DataError

logger = logging.getLogger(__name__)

CODES = {
    "annotation-id-duplicate": "two annotations bear the same id",
    "annotation-ignored": "the annotation is marked `ignore`",
    "annotation-malformed": "an annotation lacks a key or a key has the wrong type",
    "area-not-positive": "the annotation's area is zero or negative",
    "box-empty": "a box without width or height",
    "box-inverted": "a box whose right or lower edge comes before its left or upper edge",
    "box-missing": "an annotation without a box",
    "box-not-finite": "a box with NaN or infinite coordinates",
    "box-outside": "a box that lies wholly outside its image",
    "box-tiny": "a box narrower or lower than one pixel",
    "category-id-duplicate": "two categories bear the same id",
    "category-unknown": "a category id that the file does not list, or a label outside the classes",
    "image-id-duplicate": "two images bear the same id",
    "image-malformed": "an image entry lacks a key or a key has the wrong type",
    "image-missing": "an annotation whose image is not listed in the file",
    "mask-malformed": "a segmentation that is neither polygons of at least 3 points nor a sound RLE",
}
"""Every error code of annotations with its meaning; `detcore data check` and messages use them."""

SHOWN = 5


class DefectCounter:
    """Collects defects of one annotation file and reports them once.

    Args:
        source: The annotation file or data set, for the messages.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.counts: dict[str, int] = {}
        self.examples: dict[str, list[str]] = {}

    def add(self, code: str, where: str) -> None:
        """Count one defect found at ``where``."""
        if code not in CODES:
            raise ValueError(f"unknown defect code {code!r}, known are {', '.join(CODES)}")
        self.counts[code] = self.counts.get(code, 0) + 1
        shown = self.examples.setdefault(code, [])
        if len(shown) < SHOWN:
            shown.append(where)

    def add_rows(self, code: str, rows: Sequence[int], describe: Callable[[int], str]) -> None:
        """Count one defect a row; only the first few rows are described."""
        if len(rows):
            for row in rows[:SHOWN]:
                self.add(code, describe(row))
            self.counts[code] += max(0, len(rows) - SHOWN)

    def describe(self, code: str) -> str:
        """One line: how many, what it means, the first few places."""
        count, examples = self.counts[code], self.examples[code]
        more = ", ..." if count > len(examples) else ""
        return f"{count} x {code} ({CODES[code]}): {', '.join(examples)}{more}"

    def report(self, policy: str) -> None:
        """Log what was dropped, or raise.

        Args:
            policy: ``'drop'`` logs one warning, ``'raise'`` makes every defect an error.

        Raises:
            DataError: With ``policy='raise'`` and at least one defect.
        """
        if not self.counts:
            return
        lines = "\n  ".join(self.describe(code) for code in sorted(self.counts))
        if policy == "raise":
            raise DataError(f"{self.source}: unusable annotations\n  {lines}")
        logger.warning("%s: annotations were dropped\n  %s", self.source, lines)

    def raise_for(self, codes: Iterable[str]) -> None:
        """Raise for defects that leave the meaning of the whole file open, whatever the policy.

        Raises:
            DataError: Where one of ``codes`` was counted.
        """
        found = [code for code in codes if code in self.counts]
        if found:
            lines = "\n  ".join(self.describe(code) for code in found)
            raise DataError(f"{self.source}: the annotation file contradicts itself\n  {lines}")
