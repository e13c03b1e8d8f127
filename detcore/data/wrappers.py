"""Data sets made of data sets."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np

from detcore.data import columns
from detcore.data.ragged import Ragged
from detcore.errors import DataError
from detcore.registry import DATASETS


class DatasetWrapper:
    """What all wrappers share: index ``i`` is index ``j`` of an inner data set."""

    def _locate(self, idx: int) -> tuple[Any, int]:
        """The inner data set and the index in it."""
        raise NotImplementedError

    def _parts(self) -> Sequence[tuple[Any, np.ndarray]]:
        """The inner data sets in their order, each with the samples that are taken from it, int64 (n,)."""
        raise NotImplementedError

    def __getitem__(self, idx: int) -> Any:
        dataset, inner = self._locate(idx)
        return dataset[inner]

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """The image dict of a sample; ``sample_idx`` is that of the inner data set."""
        dataset, inner = self._locate(idx)
        info: dict[str, Any] = dataset.get_data_info(inner)
        return info

    def get_cat_ids(self, idx: int) -> list[int]:
        """Labels of all instances of a sample."""
        dataset, inner = self._locate(idx)
        labels: list[int] = dataset.get_cat_ids(inner)
        return labels

    def take_skipped(self) -> dict[str, tuple[int, str]]:
        """Images skipped since the last call: reason -> (how many, first message)."""
        total: dict[str, tuple[int, str]] = {}
        for dataset, _ in self._parts():
            taken = dataset.take_skipped() if hasattr(dataset, "take_skipped") else {}
            for reason, (count, message) in taken.items():
                before, first = total.get(reason, (0, message))
                total[reason] = before + count, first
        return total

    def image_size(self, idx: int) -> tuple[int, int]:
        """Height and width of a sample's image in pixels, (-1, -1) where unknown."""
        dataset, inner = self._locate(idx)
        size: tuple[int, int] = dataset.image_size(inner)
        return size

    def image_sizes(self) -> np.ndarray:
        """int32 (I, 2): height and width of every sample's image in pixels."""
        return np.concatenate([columns.image_sizes(dataset)[rows] for dataset, rows in self._parts()])

    def image_labels(self) -> Ragged:
        """Labels of all instances of every sample."""
        return Ragged.concatenated(
            [columns.image_labels(dataset).take(rows) for dataset, rows in self._parts()]
        )


_MAY_DIFFER = ("dataset_type",)


class ConcatDataset(DatasetWrapper):
    """Data sets one after the other.

    Args:
        datasets: The data sets, at least one.
        lazy_init: Read the annotations on first use instead of now.
        ignore_keys: Keys of the meta information that may differ; that of the first data set is taken.
            ``dataset_type`` always may: it tells a metric the year of VOC.

    Raises:
        DataError: The data sets have different classes, or other meta information that is not ignored.
    """

    def __init__(
        self,
        datasets: Annotated[Sequence[Any], DATASETS],
        lazy_init: bool = False,
        ignore_keys: str | Sequence[str] | None = None,
    ) -> None:
        self.datasets = [built_dataset(dataset) for dataset in datasets]
        if not self.datasets:
            raise DataError("ConcatDataset: datasets is empty")
        self.ignore_keys = [ignore_keys] if isinstance(ignore_keys, str) else list(ignore_keys or ())
        self._ends: list[int] = []
        if not lazy_init:
            self.full_init()

    @property
    def cumulative_sizes(self) -> list[int]:
        """For each data set the number of samples up to its end."""
        self.full_init()
        return list(self._ends)

    @property
    def metainfo(self) -> dict[str, Any]:
        """Facts about the data: those of the first data set."""
        metainfo: dict[str, Any] = self.datasets[0].metainfo
        return metainfo

    def full_init(self) -> None:
        """Read all annotations and compare the meta information; later calls do nothing."""
        if self._ends:
            return
        for dataset in self.datasets:
            dataset.full_init()
        first = self.datasets[0].metainfo
        for number, dataset in enumerate(self.datasets[1:], 1):
            other = dataset.metainfo
            for key in sorted({*first, *other} - {*self.ignore_keys, *_MAY_DIFFER}):
                if not _equal(first.get(key), other.get(key)):
                    raise DataError(
                        f"ConcatDataset: datasets[0] and datasets[{number}] differ in metainfo {key!r}:\n"
                        f"  {first.get(key)!r}\n  {other.get(key)!r}\n"
                        f"  Give both the same, or ignore_keys=[{key!r}]"
                        + (
                            "; with different classes the same label would mean two things"
                            if key == "classes"
                            else ""
                        )
                    )
        self._ends = np.cumsum([len(dataset) for dataset in self.datasets]).tolist()

    def _locate(self, idx: int) -> tuple[Any, int]:
        number, inner = self.get_dataset_source(idx), idx % len(self)
        return self.datasets[number], inner - (self._ends[number - 1] if number else 0)

    def _parts(self) -> Sequence[tuple[Any, np.ndarray]]:
        return [(dataset, np.arange(len(dataset))) for dataset in self.datasets]

    def get_dataset_source(self, idx: int) -> int:
        """Which of the data sets a sample is from."""
        if not -len(self) <= idx < len(self):
            raise IndexError(f"sample {idx} of a data set of {len(self)}")
        return bisect.bisect_right(self._ends, idx % len(self))

    def __len__(self) -> int:
        self.full_init()
        return self._ends[-1]


class RepeatDataset(DatasetWrapper):
    """A data set several times over, for fewer and longer epochs.

    Args:
        dataset: The data set.
        times: How often.
        lazy_init: Read the annotations on first use instead of now.
    """

    def __init__(self, dataset: Annotated[Any, DATASETS], times: int, lazy_init: bool = False) -> None:
        if times < 1:
            raise ValueError(f"times must be at least 1, got {times}")
        self.dataset, self.times = built_dataset(dataset), times
        if not lazy_init:
            self.full_init()

    @property
    def metainfo(self) -> dict[str, Any]:
        """Facts about the data."""
        metainfo: dict[str, Any] = self.dataset.metainfo
        return metainfo

    def full_init(self) -> None:
        """Read the annotations; later calls do nothing."""
        self.dataset.full_init()

    def _locate(self, idx: int) -> tuple[Any, int]:
        if not -len(self) <= idx < len(self):
            raise IndexError(f"sample {idx} of a data set of {len(self)}")
        return self.dataset, idx % len(self.dataset)

    def _parts(self) -> Sequence[tuple[Any, np.ndarray]]:
        return [(self.dataset, np.tile(np.arange(len(self.dataset)), self.times))]

    def __len__(self) -> int:
        return self.times * len(self.dataset)


class ClassBalancedDataset(DatasetWrapper):
    """Repeats images of rare classes (LVIS, Gupta et al. 2019, section 5.1, repeat factor sampling).

    A class that is on a part ``f`` of the images has the factor ``max(1, sqrt(oversample_thr / f))``; an
    image is repeated by the largest factor of its classes, rounded up.

    Args:
        dataset: The data set; it must have `get_cat_ids`.
        oversample_thr: Classes on a smaller part of the images than this are repeated.
        lazy_init: Read the annotations on first use instead of now.
    """

    def __init__(
        self, dataset: Annotated[Any, DATASETS], oversample_thr: float, lazy_init: bool = False
    ) -> None:
        self.dataset, self.oversample_thr = built_dataset(dataset), oversample_thr
        if not 0 <= oversample_thr <= 1:
            raise ValueError(f"oversample_thr is a part of the images, in [0, 1], got {oversample_thr}")
        self._indices: np.ndarray | None = None
        if not lazy_init:
            self.full_init()

    @property
    def metainfo(self) -> dict[str, Any]:
        """Facts about the data."""
        metainfo: dict[str, Any] = self.dataset.metainfo
        return metainfo

    def full_init(self) -> None:
        """Read the annotations and compute the factors; later calls do nothing."""
        if self._indices is None:
            self.dataset.full_init()
            repeats = np.ceil(self._factors()).astype(np.int64)
            self._indices = np.repeat(np.arange(len(self.dataset)), repeats)

    def _factors(self) -> np.ndarray:
        """float64 (I,): the largest factor of each image's classes, 1 where it has none."""
        count = len(self.dataset)
        factors = np.ones(count)
        for images in columns.images_of_classes(self.dataset).values():
            of_class = math.sqrt(self.oversample_thr * count / len(images))
            factors[images] = np.maximum(factors[images], of_class)
        return factors

    def _locate(self, idx: int) -> tuple[Any, int]:
        self.full_init()
        assert self._indices is not None
        return self.dataset, int(self._indices[idx])

    def _parts(self) -> Sequence[tuple[Any, np.ndarray]]:
        self.full_init()
        assert self._indices is not None
        return [(self.dataset, self._indices)]

    def __len__(self) -> int:
        self.full_init()
        assert self._indices is not None
        return len(self._indices)


def built_dataset(dataset: Any) -> Any:
    """A data set, built if it is a config."""
    return DATASETS.build(dataset) if isinstance(dataset, dict) else dataset


def _equal(first: Any, second: Any) -> bool:
    """Whether two pieces of meta information are the same; lists equal tuples."""
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        return len(first) == len(second) and all(map(_equal, first, second))
    return type(first) is type(second) and bool(np.all(first == second))
