"""Samplers that change how often a class or a data set is seen in an epoch."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from detcore.data.columns import images_of_classes
from detcore.data.samplers import check_positive, drawn_order, endless_order, rank_and_world, shared_out
from detcore.data.samplers_sources import source_sizes
from detcore.data.seeding import sample_seed
from detcore.errors import DataError

logger = logging.getLogger(__name__)


class _EpochSampler:
    """What they share: an order for each epoch, dealt out to the ranks in turn.

    Args:
        dataset: The data set.
        size: Samples in an epoch.
        seed: Seed of the orders; must be equal on all ranks.
        round_up: Repeat the first samples so that every rank gets the same number.
    """

    def __init__(self, dataset: Any, size: int, seed: int | None, round_up: bool) -> None:
        self.dataset, self.seed, self.round_up, self.epoch = dataset, seed or 0, round_up, 0
        self.rank, self.world_size = rank_and_world()
        self.total_size = math.ceil(size / self.world_size) * self.world_size if round_up else size
        self.num_samples = len(range(self.rank, self.total_size, self.world_size))

    def _order(self) -> Sequence[int]:
        """The samples of the epoch, for all ranks together."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[int]:
        return shared_out(self._order(), self.total_size, self.rank, self.world_size)

    def __len__(self) -> int:
        return self.num_samples

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is drawn."""
        self.epoch = epoch


class ClassAwareSampler(_EpochSampler):
    """Every class as often as every other (Shen et al. 2015, arXiv 1512.05830, section 3.2).

    Classes take turns in a drawn order; whose turn it is gives its next ``num_sample_class`` images, each
    class going through its images in a drawn order of its own. An epoch has as many samples as the data set.
    Images without objects never come.

    Args:
        dataset: The data set; its ``metainfo`` has ``classes``, and it has `get_cat_ids`.
        seed: Seed of the orders; must be equal on all ranks.
        num_sample_class: Images of a class at each of its turns.

    Raises:
        ValueError: ``num_sample_class`` is no positive whole number.
        DataError: There are no classes, no image has an object, or a label is none of the classes.
    """

    def __init__(self, dataset: Any, seed: int | None = None, num_sample_class: int = 1) -> None:
        super().__init__(dataset, len(dataset), seed, round_up=True)
        self.num_sample_class = check_positive("num_sample_class", num_sample_class)
        classes = dataset.metainfo.get("classes")
        if not classes:
            raise DataError(f"ClassAwareSampler: the metainfo of {type(dataset).__name__} has no `classes`")
        self._images = images_of_classes(dataset)
        _check_labels(self._images, classes)

    def get_cat2imgs(self) -> dict[int, list[int]]:
        """The samples that have an object of each class, by label."""
        empty = np.zeros(0, np.int64)
        count = len(self.dataset.metainfo["classes"])
        return {label: self._images.get(label, empty).tolist() for label in range(count)}

    def _order(self) -> Sequence[int]:
        labels = sorted(self._images)
        turns = math.ceil(self.total_size / (len(labels) * self.num_sample_class))
        visits = turns * self.num_sample_class
        of_class = np.empty((len(labels), turns, self.num_sample_class), np.int64)
        for row, label in enumerate(labels):
            images = self._images[label]
            stream = endless_order(len(images), sample_seed(self.seed, self.epoch, label), shuffle=True)
            of_class[row] = images[np.fromiter(stream, np.int64, visits)].reshape(turns, -1)
        # The seed of no class: which class has its turn when.
        generator = torch.Generator().manual_seed(sample_seed(self.seed, self.epoch, -1))
        ranks = torch.rand(turns, len(labels), generator=generator).argsort(1).numpy()
        order: Sequence[int] = of_class[ranks, np.arange(turns)[:, None]].reshape(-1).tolist()
        return order


class CustomSampleSizeSampler(_EpochSampler):
    """So many samples of each data set an epoch, shuffled together.

    An epoch goes on in a data set where the epoch before has stopped, so that all samples come in time.

    Args:
        dataset: A `ConcatDataset`.
        dataset_size: Samples of each of its data sets in an epoch; -1 for all.
        ratio_mode: The sizes are parts of the data sets, in (0, 1], instead of numbers of samples.
        seed: Seed of the orders; must be equal on all ranks.
        round_up: Repeat the first samples so that every rank gets the same number.

    Raises:
        ValueError: A size is neither -1 nor positive, is larger than its data set, or sizes and data sets
            are not equally many.
        DataError: The data set is not made of data sets, or one of them is empty.
    """

    def __init__(
        self,
        dataset: Any,
        dataset_size: Sequence[float],
        ratio_mode: bool = False,
        seed: int | None = None,
        round_up: bool = True,
    ) -> None:
        self._lengths = source_sizes(dataset, type(self).__name__)
        if len(dataset_size) != len(self._lengths):
            raise ValueError(
                f"dataset_size={list(dataset_size)} has {len(dataset_size)} numbers for "
                f"{len(self._lengths)} data sets"
            )
        pairs = enumerate(zip(dataset_size, self._lengths, strict=True))
        self.dataset_size = [_epoch_size(size, length, ratio_mode, at) for at, (size, length) in pairs]
        super().__init__(dataset, sum(self.dataset_size), seed, round_up)

    def _order(self) -> Sequence[int]:
        taken, first = [], 0
        for source, (size, length) in enumerate(zip(self.dataset_size, self._lengths, strict=True)):
            seed = sample_seed(self.seed, -1, source)
            stream = endless_order(length, seed, shuffle=True, start=self.epoch * size)
            taken.append(first + np.fromiter(stream, np.int64, size))
            first += length
        mixed = np.asarray(drawn_order(sum(self.dataset_size), self.seed + self.epoch))
        order: Sequence[int] = np.concatenate(taken)[mixed].tolist()
        return order


class MultiDataSampler(_EpochSampler):
    """Samples drawn at random, with replacement: the data set by its ratio, then any of its samples.

    Args:
        dataset: A `ConcatDataset`.
        dataset_ratio: How often each of its data sets is drawn, relative to the others.
        seed: Seed of the draws; must be equal on all ranks.
        round_up: Repeat the first samples so that every rank gets the same number.

    Raises:
        ValueError: ``dataset_ratio`` is not one number from 0 on a data set, or all are 0.
        DataError: The data set is not made of data sets, or one of them is empty.
    """

    def __init__(
        self, dataset: Any, dataset_ratio: Sequence[float], seed: int | None = None, round_up: bool = True
    ) -> None:
        self._lengths = source_sizes(dataset, type(self).__name__)
        ratio = list(dataset_ratio)
        if len(ratio) != len(self._lengths) or min(ratio) < 0 or not 0 < sum(ratio) < math.inf:
            raise ValueError(
                f"dataset_ratio={ratio}: expected a number from 0 on for each of the {len(self._lengths)} "
                "data sets, not all 0"
            )
        self.dataset_ratio = ratio
        super().__init__(dataset, len(dataset), seed, round_up)

    def _order(self) -> Sequence[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        weights, lengths = torch.tensor(self.dataset_ratio, dtype=torch.float64), torch.tensor(self._lengths)
        sources = torch.multinomial(weights, len(self.dataset), replacement=True, generator=generator)
        places = torch.rand(len(sources), generator=generator, dtype=torch.float64) * lengths[sources]
        order: Sequence[int] = ((lengths.cumsum(0) - lengths)[sources] + places.long()).tolist()
        return order


def _check_labels(images: dict[int, np.ndarray], classes: Sequence[str]) -> None:
    """Report classes that can never come, and refuse labels that mean none."""
    if not images:
        raise DataError("ClassAwareSampler: no image of the data set has an object")
    wrong = [label for label in images if not 0 <= label < len(classes)]
    if wrong:
        raise DataError(
            f"ClassAwareSampler: sample {images[wrong[0]][0]} has the label {wrong[0]}, but the data set has "
            f"{len(classes)} classes"
        )
    missing = [str(name) for label, name in enumerate(classes) if label not in images]
    if missing:
        names = ", ".join(itertools.islice(missing, 10)) + (", ..." if len(missing) > 10 else "")
        logger.warning(
            "ClassAwareSampler: %d of %d classes are on no image and never come: %s",
            len(missing), len(classes), names,
        )  # fmt: skip


def _epoch_size(size: float, length: int, ratio_mode: bool, position: int) -> int:
    """How many samples of a data set an epoch has."""
    if size == -1:
        return length
    count = int(size * length) if ratio_mode else size
    if not isinstance(count, int) or isinstance(count, bool) or not 0 < count <= length:
        meaning = f"a part of the data set in (0, 1] with at least one of its {length} samples"
        expected = meaning if ratio_mode else f"a whole number from 1 to {length}, its number of samples"
        raise ValueError(f"dataset_size[{position}]={size!r}: expected -1 or {expected}")
    return count
