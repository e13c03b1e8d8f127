"""DetDataLoader: torch's DataLoader, resumable at every batch and the same for any number of workers."""
from __future__ import annotations

import itertools
import logging
import os
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from detcore.data.fetch import Batch, Request, SampleFetcher, WorkerSetup, collate_lists, keep_batch
from detcore.data.samplers import rank_and_world
from detcore.data.seeding import sample_seed
from detcore.errors import DataError

logger = logging.getLogger(__name__)


class DetDataLoader:
    """Iterates over batches; knows where it is and can go on from there.

    Every sample is loaded under random generators seeded from (seed, epoch, position), so that batches do not
    depend on the number of workers, and the process's own generators are not touched.

    Args:
        dataset: The data set.
        batch_sampler: Gives lists of indices; with `iterate_from` it is taken up in the middle without
            repeating what came before.
        seed: Seed of the samples' randomness.
        num_workers: Worker processes; 0 loads in this process.
        collate: Puts the samples of a batch together; by default into dicts of lists.
        persistent_workers: Keep the workers from epoch to epoch.
        pin_memory: Put tensors into page-locked memory where there is a GPU.
        prefetch_factor: Batches that each worker loads ahead.
        timeout: Seconds after which a batch that does not come is an error; 0 waits forever.
        start_method: ``'fork'``, ``'spawn'``, ``'forkserver'`` or None for the platform's.
        worker_setup: Called in each worker with its number.
        batches_per_epoch: End the epoch after so many batches.
    """

    def __init__(
        self,
        dataset: Any,
        batch_sampler: Any,
        *,
        seed: int = 0,
        num_workers: int = 0,
        collate: Callable[[list[Any]], Any] = collate_lists,
        persistent_workers: bool = True,
        pin_memory: bool = True,
        prefetch_factor: int = 2,
        timeout: float = 600,
        start_method: str | None = None,
        worker_setup: Callable[[int], None] | None = None,
        batches_per_epoch: int | None = None,
    ) -> None:
        self.dataset, self.batch_sampler = dataset, batch_sampler
        self.sampler = getattr(batch_sampler, "sampler", batch_sampler)
        self.batch_size = int(getattr(batch_sampler, "batch_size", 1))
        self.seed, self.num_workers, self.timeout = seed, num_workers, timeout
        self.batches_per_epoch = batches_per_epoch
        self.rank, self.world_size = rank_and_world()
        self.skipped: dict[str, int] = {}
        self._epoch = 0
        self._delivered = self._start = 0
        self._requested: deque[list[int]] = deque()
        self._options: dict[str, Any] = {
            "collate_fn": keep_batch,
            "num_workers": num_workers,
            "pin_memory": pin_memory and torch.cuda.is_available(),
        }
        if num_workers:
            self._options.update(
                timeout=timeout, prefetch_factor=prefetch_factor, persistent_workers=persistent_workers,
                multiprocessing_context=start_method, worker_init_fn=WorkerSetup(worker_setup),
            )
        self._fetcher = SampleFetcher(dataset, collate)
        self._loader: DataLoader | None = None
        self._iterator: Any = None
        self._workers: list[Any] = []
        # Also where the program ends without `close`: workers ignore the polite signal.
        self._finalizer = weakref.finalize(self, _kill, self._workers, os.getpid())

    @property
    def epoch(self) -> int:
        """The epoch whose order and seeds are used."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; another one than the current starts at its first batch."""
        if epoch != self._epoch:
            self._epoch, self._start, self._delivered = epoch, 0, 0
        self._tell_sampler()

    def _tell_sampler(self) -> None:
        for sampler in {id(s): s for s in (self.batch_sampler, self.sampler)}.values():
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(self._epoch)

    def __len__(self) -> int:
        length = len(self.batch_sampler)
        return length if self.batches_per_epoch is None else min(length, self.batches_per_epoch)

    def state_dict(self) -> dict[str, int]:
        """Where the iteration is: how many batches were handed out; those loaded ahead do not count."""
        return {
            "epoch": self._epoch, "batches": self._delivered, "seed": self.seed,
            "batch_size": self.batch_size, "world_size": self.world_size,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """The next iteration goes on behind the batches of ``state``."""
        # A sampler whose config gives it a seed of its own keeps that.
        if getattr(self.sampler, "seed", None) == self.seed:
            self.sampler.seed = int(state["seed"])
        self._epoch, self.seed = int(state["epoch"]), int(state["seed"])
        taken = int(state["batches"]) * int(state["batch_size"]) * int(state["world_size"])
        self._start, rest = divmod(taken, self.batch_size * self.world_size)
        if rest:
            logger.warning(
                "resuming with %d samples a step instead of %d: %d samples of this epoch are seen twice",
                self.batch_size * self.world_size, state["batch_size"] * state["world_size"], rest,
            )
        self._delivered = self._start
        self._tell_sampler()

    def __iter__(self) -> Iterator[Any]:
        start, self._start = self._start, 0
        self._delivered = start
        self._requested.clear()
        if self._loader is None:
            self._loader = DataLoader(
                self._fetcher,  # type: ignore[arg-type]
                batch_sampler=_Requests(self),
                # DataLoader draws its workers' base seed here instead of from the process's generator.
                generator=torch.Generator().manual_seed(self.seed),
                **self._options,
            )
        self._loader.batch_sampler.start = start  # type: ignore[union-attr]
        batches = self._iterator = iter(self._loader)
        self._workers[:] = getattr(batches, "_workers", ())
        while True:
            try:
                loaded: Batch = next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                explained = self._explained(error)
                if explained is None:
                    raise
                raise explained from error
            self._requested.popleft()
            self._delivered += 1
            self._note_skipped(loaded[1])
            yield loaded[0]

    def _requests(self, start: int) -> Iterator[list[Request]]:
        """Indices and seeds of the batches from number ``start`` on."""
        if hasattr(self.batch_sampler, "iterate_from"):
            batches = self.batch_sampler.iterate_from(start)
        else:
            batches = itertools.islice(iter(self.batch_sampler), start, None)
        epoch = self._epoch
        for number, indices in enumerate(batches, start):
            if self.batches_per_epoch is not None and number >= self.batches_per_epoch:
                return
            self._requested.append(list(indices))
            first = number * self.batch_size
            # Positions count over all ranks: two ranks draw what one rank with twice the batch would.
            yield [
                (index, sample_seed(self.seed, epoch, (first + place) * self.world_size + self.rank))
                for place, index in enumerate(indices)
            ]

    def _note_skipped(self, skipped: dict[str, tuple[int, str]]) -> None:
        for reason, (count, message) in skipped.items():
            if reason not in self.skipped and self.num_workers:  # without workers the data set has said so
                logger.warning("images that cannot be used are skipped (%s), the first: %s", reason, message)
            self.skipped[reason] = self.skipped.get(reason, 0) + count

    def _explained(self, error: RuntimeError) -> DataError | None:
        """A lost or silent worker as an error that names what it was loading; None for other errors."""
        text = str(error)
        if "timed out" not in text and "exited unexpectedly" not in text and "killed by signal" not in text:
            return None
        waiting = self._requested[0] if self._requested else []
        names = ", ".join(f"{index} ({self._path(index)})" for index in waiting)
        self._end(at_once=True)
        return DataError(
            f"the loader's workers delivered nothing while samples {names} were loading: {text}\n"
            f"  A slow disk or transform needs a larger timeout (now {self.timeout} s); a worker that was "
            "killed may have run out of memory: try fewer workers, or num_workers=0 to see its error"
        )

    def _path(self, index: int) -> str:
        get = getattr(self.dataset, "get_data_info", None)
        return str(get(index).get("img_path")) if get else "?"

    def close(self) -> None:
        """End the workers; iterating again starts new ones."""
        self._end(at_once=False)

    def _end(self, at_once: bool) -> None:
        iterator = self._iterator
        if at_once and getattr(iterator, "_worker_pids_set", False):
            # torch must forget the workers first: else it reports their end as a failure.
            torch._C._remove_worker_pids(id(iterator))
            iterator._worker_pids_set = False
            _kill(self._workers, os.getpid())
        if hasattr(iterator, "_shutdown_workers"):
            iterator._shutdown_workers()
        _kill(self._workers, os.getpid())
        self._iterator = self._loader = None


class _Requests:
    """What torch's DataLoader takes its batches of indices from."""

    def __init__(self, loader: DetDataLoader) -> None:
        self.loader = weakref.proxy(loader)
        self.start = 0

    def __iter__(self) -> Iterator[list[Request]]:
        requests: Iterator[list[Request]] = self.loader._requests(self.start)
        return requests

    def __len__(self) -> int:
        return len(self.loader)


def _kill(workers: list[Any], parent: int) -> None:
    """End worker processes that are still there; does nothing in a forked child."""
    if os.getpid() == parent:
        for worker in workers:
            if worker.is_alive():
                worker.kill()
                worker.join()
        workers.clear()
