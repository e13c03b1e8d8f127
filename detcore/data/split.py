"""Splits a COCO file into a labelled and an unlabelled part, for semi-supervised training."""
from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np

from detcore.data.coco_text import CocoText, require_absent, write_whole
from detcore.errors import DataError

PERCENTAGES = (1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True)
class SplitFile:
    """One file of a split.

    Attributes:
        path: Where it is.
        fold: 1, 2, ...
        percent: Part of the images that is labelled, of 100.
        labelled: Whether it holds that part, or the rest.
        images: Number of images.
        annotations: Number of annotations.
        of_category: Number of annotations of each category, in the file's order.
    """

    path: Path
    fold: int
    percent: float
    labelled: bool
    images: int
    annotations: int
    of_category: tuple[int, ...]


@dataclass(frozen=True)
class Split:
    """What `split_annotations` wrote.

    Attributes:
        categories: Names in the source's order.
        totals: Annotations of each category in the source.
        uncategorised: Annotations in the source whose category it does not list.
        files: By fold, percentage, and the labelled part first.
    """

    categories: tuple[str, ...]
    totals: tuple[int, ...]
    uncategorised: int
    files: tuple[SplitFile, ...]

    def absent(self, file: SplitFile) -> list[str]:
        """Categories that the source has instances of, and a file none."""
        counts = zip(self.categories, file.of_category, self.totals, strict=True)
        return [name for name, here, total in counts if total and not here]

    def unused(self) -> list[str]:
        """Categories without any instance in the source."""
        return [name for name, total in zip(self.categories, self.totals, strict=True) if not total]


def split_annotations(
    annotations: str | Path,
    percentages: Sequence[float] = PERCENTAGES,
    folds: int = 5,
    seed: int = 0,
    out_dir: str | Path | None = None,
    *,
    force: bool = False,
    progress: Callable[[str], None] = lambda step: None,
) -> Split:
    """Write a labelled and an unlabelled part of a COCO file for every fold and percentage.

    ``{stem}.{fold}@{percent}.json`` has the images that were drawn, the file with ``-unlabeled`` behind that
    the others, both with their annotations and with all else that the source has. Images are drawn without
    replacement, from the seed and the fold alone: within a fold, smaller percentages are contained in larger
    ones. The number of labelled images is rounded down.

    Args:
        annotations: The COCO file; it is read once and not changed.
        percentages: Parts of the images that are labelled, each between 0 and 100, both excluded.
        folds: How many times to draw; they are numbered from 1.
        seed: Another one draws other images.
        out_dir: Folder of the files; None for ``semi_anns`` beside the folder that ``annotations`` is in.
        force: Replace files that are there.
        progress: Is told what is done next.

    Returns:
        The files, with numbers of images and annotations.

    Raises:
        DataError: An argument is out of range, a part would be without images, the file is not COCO or
            contradicts itself (see `CocoText`), a target exists or cannot be written.
    """
    source = Path(annotations)
    percents = _checked(percentages, folds, seed)
    folder = Path(out_dir) if out_dir is not None else _beside(source)
    targets = {
        (fold, percent): _paths(folder, f"{source.stem}.{fold}@{percent_text(percent)}")
        for fold in range(1, folds + 1)
        for percent in percents
    }
    require_absent((path for pair in targets.values() for path in pair), force)
    progress(f"reading {source}")
    content = CocoText(source)
    numbers = {percent: _labelled(len(content.images), percent, source) for percent in percents}
    files = []
    for (fold, percent), paths in targets.items():
        drawn = np.zeros(len(content.images), bool)
        drawn[shuffled(len(drawn), seed, fold)[: numbers[percent]]] = True
        for path, labelled in zip(paths, (True, False), strict=True):
            progress(f"writing {path}")
            files.append(_write(content, path, drawn == labelled, fold, percent, labelled))
    totals = _count(content, np.ones(len(content.annotations), bool))
    return Split(content.category_names, totals, len(content.annotations) - sum(totals), tuple(files))


def shuffled(count: int, seed: int, fold: int) -> np.ndarray:
    """int64 (count,), the images in the order in which a fold takes them."""
    # Sorted raw bits of the generator: numpy keeps these from version to version, but not its permutations.
    bits = np.random.PCG64(np.random.SeedSequence([seed, fold])).random_raw(count)
    return np.argsort(bits, kind="stable")


def percent_text(percent: float) -> str:
    """A percentage in a file name: 10 for 10.0, 0.5 for 0.5, never an exponent."""
    return f"{Decimal(repr(float(percent))).normalize():f}"


def _checked(percentages: Sequence[float], folds: int, seed: int) -> list[float]:
    """The percentages, ascending, each once."""
    for percent in percentages:
        if not 0 < percent < 100:  # which NaN is not, either
            raise DataError(f"a percentage of labelled images must be above 0 and below 100, got {percent}")
    if not percentages:
        raise DataError("expected at least one percentage of labelled images, got none")
    if folds < 1:
        raise DataError(f"expected at least one fold, got {folds}")
    if seed < 0:
        raise DataError(f"a seed must not be negative, got {seed}")
    return sorted({float(percent) for percent in percentages})


def _beside(source: Path) -> Path:
    # The folder above, by name: a link to the annotations does not lead the files elsewhere.
    return Path(os.path.abspath(source)).parent.parent / "semi_anns"  # noqa: PTH100


def _paths(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / f"{name}.json", folder / f"{name}-unlabeled.json"


def _labelled(images: int, percent: float, source: Path) -> int:
    """How many images are labelled; exact, where floating point would make 28 of 29 percent of 100."""
    number = math.floor(images * Fraction(percent_text(percent)) / 100)
    if not 0 < number < images:
        raise DataError(
            f"{source}: {percent_text(percent)} percent of its {images} images are {number}; "
            "the labelled and the unlabelled part need one at least"
        )
    return number


def _write(
    content: CocoText, path: Path, images: np.ndarray, fold: int, percent: float, labelled: bool
) -> SplitFile:
    annotations = images[content.image_of]
    write_whole(path, content.chunks(images, annotations))
    counts = _count(content, annotations)
    return SplitFile(path, fold, percent, labelled, int(images.sum()), int(annotations.sum()), counts)


def _count(content: CocoText, annotations: np.ndarray) -> tuple[int, ...]:
    found = content.category_of[annotations]
    return tuple(np.bincount(found[found >= 0], minlength=len(content.category_names)).tolist())
