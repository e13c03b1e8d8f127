"""Endless samplers whose every batch holds a fixed number of samples of each source.

A source is one of the data sets of a `ConcatDataset`: labelled and unlabelled images, say.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from detcore.data.columns import image_sizes
from detcore.data.samplers import check_batch_size, endless_order, rank_and_world
from detcore.data.seeding import sample_seed
from detcore.errors import DataError

BLOCK = 4096
"""Batches whose groups are drawn together."""


class MultiSourceSampler:
    """Batches of ``batch_size`` samples, in each so many of every source, the first source's first.

    Every source is gone through pass after pass in an order of its own. Ranks take turns in it, so that they
    never have the same sample in the same pass.

    Args:
        dataset: A `ConcatDataset`, or another data set with ``datasets``.
        batch_size: Samples in a batch; that of the dataloader.
        source_ratio: Shares of the sources in a batch, such as ``[1, 4]``; each has to be a whole number of
            samples.
        shuffle: Draw a new order for each pass, the same on every rank.
        seed: Seed of the orders; must be equal on all ranks.

    Raises:
        ValueError: ``source_ratio`` is not one positive number a source, or makes no whole number of samples.
        DataError: The data set is not made of data sets, or one of them is empty.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        source_ratio: Sequence[float],
        shuffle: bool = True,
        seed: int | None = None,
    ) -> None:
        self.dataset, self.batch_size, self.shuffle, self.seed = dataset, batch_size, shuffle, seed or 0
        sizes = source_sizes(dataset, type(self).__name__)
        self.source_ratio = list(source_ratio)
        self.num_per_source = _samples_of_sources(check_batch_size(batch_size), self.source_ratio, len(sizes))
        self.rank, self.world_size = rank_and_world()
        ends = np.cumsum(sizes).tolist()
        self._sources = [range(end - size, end) for end, size in zip(ends, sizes, strict=True)]

    def __iter__(self) -> Iterator[int]:
        return self.iterate_from(0)

    def iterate_from(self, position: int) -> Iterator[int]:
        """Go on after ``position`` samples of this rank, without drawing those before."""
        batch, rest = divmod(position, self.batch_size)
        return itertools.islice(itertools.chain.from_iterable(self._batches(batch)), rest, None)

    def __len__(self) -> int:
        return len(self.dataset)

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: there are no epochs."""

    def _batches(self, first: int) -> Iterator[list[int]]:
        pools = self._pools()
        block, rest = divmod(first, BLOCK)
        before = np.zeros(len(pools), np.int64)  # batches of each group that lie behind
        for number in range(block):
            before += np.bincount(self._groups(number), minlength=len(pools))
        before += np.bincount(self._groups(block)[:rest], minlength=len(pools))
        streams = [
            [self._stream(group, source, int(before[group])) for source in range(len(self._sources))]
            for group in range(len(pools))
        ]
        for number in itertools.count(block):
            for group in self._groups(number)[rest if number == block else 0 :].tolist():
                yield [
                    int(pools[group][source][next(streams[group][source])])
                    for source, count in enumerate(self.num_per_source)
                    for _ in range(count)
                ]

    def _stream(self, group: int, source: int, batches: int) -> Iterator[int]:
        """Positions in a pool that this rank takes after its first so many batches of the group."""
        start = self.rank + batches * self.num_per_source[source] * self.world_size
        seed = sample_seed(self.seed, group, source)
        return endless_order(len(self._pools()[group][source]), seed, self.shuffle, start, self.world_size)

    def _pools(self) -> Sequence[Sequence[Sequence[int]]]:
        """The samples of each source (inner) that may come together in a batch (outer)."""
        return [self._sources]

    def _groups(self, block: int) -> np.ndarray:
        """int64 (BLOCK,): the group of each batch of a block, the same on every rank."""
        return np.zeros(BLOCK, np.int64)


class GroupMultiSourceSampler(MultiSourceSampler):
    """Like `MultiSourceSampler`, with images that are all higher than wide in a batch, or all not.

    Which of the two a batch has is drawn by how many images there are of each, for all ranks alike.

    Args:
        dataset: A `ConcatDataset`, or another data set with ``datasets``, that knows the images' sizes.
        batch_size: Samples in a batch; that of the dataloader.
        source_ratio: Shares of the sources in a batch, such as ``[1, 4]``.
        shuffle: Draw a new order for each pass, the same on every rank.
        seed: Seed of the orders and of the groups; must be equal on all ranks.

    Raises:
        ValueError: As for `MultiSourceSampler`.
        DataError: As there; an image has no height and width; or one source has images of a shape that
            another has not, so that no batch can be made of them.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        source_ratio: Sequence[float],
        shuffle: bool = True,
        seed: int | None = None,
    ) -> None:
        super().__init__(dataset, batch_size, source_ratio, shuffle, seed)
        sizes = image_sizes(dataset)
        high = sizes[:, 1] < sizes[:, 0]
        self._by_shape: list[list[np.ndarray]] = []
        for shape, name in ((high, "higher than wide"), (~high, "not higher than wide")):
            pool = [np.flatnonzero(shape[part.start : part.stop]) + part.start for part in self._sources]
            counts = [len(found) for found in pool]
            if any(counts) and not all(counts):
                raise DataError(
                    f"GroupMultiSourceSampler: the sources have {counts} images that are {name}; where one "
                    "source has none, no batch can be made of the others' (use MultiSourceSampler)"
                )
            if all(counts):
                self._by_shape.append(pool)
        self.group_sizes = [sum(len(found) for found in pool) for pool in self._by_shape]

    def _pools(self) -> Sequence[Sequence[Sequence[int]]]:
        return self._by_shape  # type: ignore[return-value]

    def _groups(self, block: int) -> np.ndarray:
        drawn = torch.multinomial(
            torch.tensor(self.group_sizes, dtype=torch.float64), BLOCK, replacement=True,
            generator=torch.Generator().manual_seed(sample_seed(self.seed, -1, block)),
        )  # fmt: skip
        groups: np.ndarray = drawn.numpy()
        return groups


def source_sizes(dataset: Any, sampler: str) -> list[int]:
    """Length of each of the data sets that a data set is made of.

    Raises:
        DataError: It is not made of data sets, or one of them is empty.
    """
    sources = getattr(dataset, "datasets", None)
    if not isinstance(sources, (list, tuple)) or sum(map(len, sources)) != len(dataset):
        raise DataError(
            f"{sampler} takes its samples from several sources, so it needs a ConcatDataset; "
            f"got {type(dataset).__name__}"
        )
    sizes = [len(source) for source in sources]
    if not all(sizes):
        raise DataError(f"{sampler}: datasets[{sizes.index(0)}] is empty; the sources have {sizes} samples")
    return sizes


def _samples_of_sources(batch_size: int, ratio: Sequence[float], num_sources: int) -> list[int]:
    if len(ratio) != num_sources:
        raise ValueError(f"source_ratio={ratio} has {len(ratio)} numbers for {num_sources} sources")
    for share in ratio:
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share < math.inf:
            raise ValueError(f"source_ratio needs a positive number for each source, got {ratio}")
    parts = [Fraction(str(share)) for share in ratio]  # a decimal as it is written, not as a binary number
    shares = [share / sum(parts) for share in parts]
    smallest = math.lcm(*(share.denominator for share in shares))
    if batch_size % smallest:
        counts = ", ".join(f"{float(batch_size * share):.3g}" for share in shares)
        raise ValueError(
            f"source_ratio={ratio} does not fit batch_size={batch_size}: the sources would have {counts} "
            f"samples in a batch; batch_size={smallest * math.ceil(batch_size / smallest)} would fit, and so "
            f"does any other multiple of {smallest}"
        )
    return [int(batch_size * share) for share in shares]
