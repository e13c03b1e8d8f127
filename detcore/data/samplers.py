"""In which order samples are taken, and by which rank."""

from __future__ import annotations

import itertools
import math
from array import array
from collections.abc import Iterator, Sequence, Sized
from typing import Any

import torch

from detcore.errors import DataError


def rank_and_world() -> tuple[int, int]:
    """Rank and number of processes, (0, 1) where torch.distributed is not in use."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def drawn_order(size: int, seed: int) -> Sequence[int]:
    """The numbers below ``size`` in an order drawn by ``seed``, 8 bytes each."""
    return array("q", torch.randperm(size, generator=torch.Generator().manual_seed(seed)).numpy().tobytes())


def endless_order(size: int, seed: int, shuffle: bool, start: int = 0, step: int = 1) -> Iterator[int]:
    """Pass after pass over the numbers below ``size`` without end.

    Each pass has its own seed, so that one far ahead is drawn without those before it.

    Args:
        size: How many numbers, at least one.
        seed: Seed of the first pass.
        shuffle: Draw an order for each pass; else they come as they are.
        start: Numbers to leave out at the beginning.
        step: Take every so manieth from there on.
    """
    numbers = itertools.count(start // size)
    passes = (drawn_order(size, seed + number) if shuffle else range(size) for number in numbers)
    return itertools.islice(itertools.chain.from_iterable(passes), start % size, None, step)


def shared_out(order: Sequence[int], total: int, rank: int, world_size: int) -> Iterator[int]:
    """The share of a rank in ``total`` samples: ``order``, repeated as often as needed, dealt out in turn."""
    return itertools.islice(itertools.cycle(order), rank, total, world_size)


class DefaultSampler:
    """Every sample once an epoch, shared out to the ranks in turn.

    Args:
        dataset: The data set.
        shuffle: Draw a new order each epoch, the same on every rank.
        seed: Seed of the order; must be equal on all ranks.
        round_up: Repeat the first samples so that every rank gets the same number.
    """

    def __init__(
        self, dataset: Sized, shuffle: bool = True, seed: int | None = None, round_up: bool = True
    ) -> None:
        self.dataset, self.shuffle, self.seed, self.round_up = dataset, shuffle, seed or 0, round_up
        self.rank, self.world_size = rank_and_world()
        self.epoch = 0
        size = len(dataset)
        self.total_size = math.ceil(size / self.world_size) * self.world_size if round_up else size
        self.num_samples = len(range(self.rank, self.total_size, self.world_size))

    def __iter__(self) -> Iterator[int]:
        size = len(self.dataset)
        order = drawn_order(size, self.seed + self.epoch) if self.shuffle else range(size)
        return shared_out(order, self.total_size, self.rank, self.world_size)

    def __len__(self) -> int:
        return self.num_samples

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is drawn."""
        self.epoch = epoch


class InfiniteSampler:
    """Pass after pass over all samples without end, shared out to the ranks in turn.

    Args:
        dataset: The data set.
        shuffle: Draw a new order each pass, the same on every rank.
        seed: Seed of the order; must be equal on all ranks.
    """

    def __init__(self, dataset: Sized, shuffle: bool = True, seed: int | None = None) -> None:
        self.dataset, self.shuffle, self.seed = dataset, shuffle, seed or 0
        self.rank, self.world_size = rank_and_world()

    def __iter__(self) -> Iterator[int]:
        return self.iterate_from(0)

    def iterate_from(self, position: int) -> Iterator[int]:
        """Go on after ``position`` samples of this rank, without drawing those before."""
        start = self.rank + position * self.world_size
        return endless_order(len(self.dataset), self.seed, self.shuffle, start, self.world_size)

    def __len__(self) -> int:
        return len(self.dataset)

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: there are no epochs."""


class PlainBatchSampler:
    """Batches of consecutive samples.

    Args:
        sampler: Gives the order.
        batch_size: Samples in a batch.
        drop_last: Leave out a last batch that is smaller.
    """

    def __init__(self, sampler: Any, batch_size: int, drop_last: bool = False) -> None:
        self.sampler, self.batch_size, self.drop_last = sampler, check_batch_size(batch_size), drop_last

    def __iter__(self) -> Iterator[list[int]]:
        return self.iterate_from(0)

    def iterate_from(self, batch: int) -> Iterator[list[int]]:
        """Go on after ``batch`` batches."""
        passed = batch * self.batch_size
        if hasattr(self.sampler, "iterate_from"):
            indices = self.sampler.iterate_from(passed)
        else:
            indices = itertools.islice(iter(self.sampler), passed, None)
        while chunk := list(itertools.islice(indices, self.batch_size)):
            if len(chunk) == self.batch_size or not self.drop_last:
                yield chunk

    def __len__(self) -> int:
        full = len(self.sampler) / self.batch_size
        return math.floor(full) if self.drop_last else math.ceil(full)


class AspectRatioBatchSampler:
    """Batches of images that are all wider than high, or all not: less padding.

    What is left over of both kinds at the end is batched together.

    Args:
        sampler: Gives the order.
        batch_size: Samples in a batch.
        drop_last: Leave out a last batch that is smaller.

    Raises:
        DataError: While iterating, where a sample has no height and width.
    """

    def __init__(self, sampler: Any, batch_size: int, drop_last: bool = False) -> None:
        self.sampler, self.batch_size, self.drop_last = sampler, check_batch_size(batch_size), drop_last

    def __iter__(self) -> Iterator[list[int]]:
        buckets: tuple[list[int], list[int]] = ([], [])
        for index in self.sampler:
            height, width = image_size(self.sampler.dataset, index)
            bucket = buckets[0 if width < height else 1]
            bucket.append(index)
            if len(bucket) == self.batch_size:
                yield bucket[:]
                bucket.clear()
        left = buckets[0] + buckets[1]
        for start in range(0, len(left), self.batch_size):
            chunk = left[start : start + self.batch_size]
            if len(chunk) == self.batch_size or not self.drop_last:
                yield chunk

    def iterate_from(self, batch: int) -> Iterator[list[int]]:
        """Go on after ``batch`` batches; the grouping before is repeated, but nothing is loaded."""
        return itertools.islice(iter(self), batch, None)

    def __len__(self) -> int:
        full = len(self.sampler) / self.batch_size
        return math.floor(full) if self.drop_last else math.ceil(full)


def image_size(dataset: Any, index: int) -> tuple[int, int]:
    """Height and width of a sample's image as the annotations tell it.

    Raises:
        DataError: They do not.
    """
    if hasattr(dataset, "image_size"):
        height, width = dataset.image_size(index)
    else:
        info = dataset.get_data_info(index)
        height, width = info.get("height", -1), info.get("width", -1)
    if height < 0 or width < 0:
        raise DataError(
            f"AspectRatioBatchSampler needs height and width of every image; sample {index} of "
            f"{type(dataset).__name__} has none in its annotations"
        )
    return height, width


def check_batch_size(batch_size: Any) -> int:
    """A positive whole number.

    Raises:
        ValueError: It is something else.
    """
    return check_positive("batch_size", batch_size)


def check_positive(name: str, number: Any) -> int:
    """A positive whole number.

    Raises:
        ValueError: It is something else; the message calls it ``name``.
    """
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise ValueError(f"{name} must be a positive whole number, got {number!r}")
    return number
