"""What a loader worker does: set the seed of each sample, load it, put the samples of a batch together."""
from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.reduction import ForkingPickler
from typing import Any

import cv2
import torch

from detcore.data.handover import reduce_for_parent
from detcore.data.seeding import seeded
from detcore.errors import DataError

Request = tuple[int, int]
"""A sample's index and its seed."""

Batch = tuple[Any, dict[str, tuple[int, str]]]
"""The collated samples, and the images that were skipped for them: reason -> (how many, first message)."""


def collate_lists(samples: Sequence[Any]) -> Any:
    """Dicts of samples become one dict of lists; nothing is stacked, because images differ in size.

    Dicts within dicts may differ in their keys, which are branches then: a list has None for a sample that is
    not in the branch.

    Raises:
        DataError: Under the same key one sample has branches and another one has none.
    """
    if not isinstance(samples[0], Mapping):
        return list(samples)
    return {key: _collate_entries([sample[key] for sample in samples], key) for key in samples[0]}


def _collate_entries(entries: Sequence[Any], path: str) -> Any:
    with_branches = [entry for entry in entries if isinstance(entry, Mapping)]
    if not with_branches:
        return list(entries)
    branches = dict.fromkeys(key for entry in with_branches for key in entry)
    for entry in entries:
        if not isinstance(entry, Mapping) and entry is not None:
            raise DataError(
                f"{path!r} of one sample has the branches {', '.join(map(str, branches))}, of another one in "
                f"the same batch it is a {type(entry).__name__}: let the pipelines of all data sets that are "
                "mixed in a batch end with MultiBranch, or none"
            )
    present = [{} if entry is None else entry for entry in entries]
    return {key: _collate_entries([each.get(key) for each in present], f"{path}.{key}") for key in branches}


class SampleFetcher:
    """Loads whole batches of a data set, each sample under its own seed.

    Args:
        dataset: Anything with ``dataset[index]``.
        collate: Puts the samples of a batch together.
    """

    def __init__(self, dataset: Any, collate: Callable[[list[Any]], Any]) -> None:
        self.dataset, self.collate = dataset, collate

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, requests: Sequence[Request]) -> Batch:
        samples = []
        for index, seed in requests:
            with seeded(seed):
                samples.append(self.dataset[index])
        with seeded(requests[0][1] ^ 1):  # a collate function of the user may draw too
            batch = self.collate(samples)
        take_skipped = getattr(self.dataset, "take_skipped", None)
        return batch, take_skipped() if take_skipped else {}

    def __reduce__(self) -> tuple[Any, ...]:
        from detcore.plugins import plugin_state

        # The plugin state comes first: it re-creates the users' modules that what follows lives in.
        return _restored, (plugin_state(), self.dataset, self.collate)


def _restored(_state: Any, dataset: Any, collate: Callable[[list[Any]], Any]) -> SampleFetcher:
    return SampleFetcher(dataset, collate)


class WorkerSetup:
    """Prepares a worker process.

    Args:
        user_setup: The user's ``worker_init_fn``, called last with the worker's number.
    """

    def __init__(self, user_setup: Callable[[int], None] | None = None) -> None:
        self.user_setup = user_setup

    def __call__(self, worker: int) -> None:
        """Runs first in the worker."""
        # Signals sent to the whole group (Ctrl-C, a scheduler's SIGTERM) are the parent's to handle: it needs
        # its workers until it has saved. It ends them itself, if need be by SIGKILL.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        ForkingPickler.register(torch.Tensor, reduce_for_parent)
        torch.set_num_threads(1)
        cv2.setNumThreads(0)
        if self.user_setup is not None:
            self.user_setup(worker)


def keep_batch(batch: Batch) -> Batch:
    """DataLoader's collate function: the batch is put together already."""
    return batch
