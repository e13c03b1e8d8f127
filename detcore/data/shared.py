"""One memory for a table's arrays in all workers, also those that are started with `spawn`."""
from __future__ import annotations

import mmap
import multiprocessing.context
import multiprocessing.reduction
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import IO, Any

import numpy as np

from detcore.data.ragged import Ragged

ALIGN = 64


def arrays_of(part: Any) -> Iterator[np.ndarray]:
    """Every array in a table, however deep, in a fixed order."""
    if isinstance(part, np.ndarray):
        yield part
    elif isinstance(part, Ragged):
        yield from (part.values, part.offsets)
    elif is_dataclass(part):
        for field in fields(part):
            yield from arrays_of(getattr(part, field.name))


def replace_arrays(part: Any, change: Callable[[np.ndarray], Any]) -> Any:
    """The same table with every array changed, in the order of `arrays_of`."""
    if isinstance(part, np.ndarray):
        return change(part)
    if isinstance(part, Ragged):
        return Ragged(change(part.values), change(part.offsets))
    if is_dataclass(part) and not isinstance(part, type):
        changed = {field.name: replace_arrays(getattr(part, field.name), change) for field in fields(part)}
        return type(part)(**changed)
    return part


class _Block:
    """A file without a name that holds arrays one after the other; it vanishes with its last user."""

    def __init__(self, arrays: list[np.ndarray]) -> None:
        self.file = _nameless_file()
        self.offsets = []
        end = 0
        for array in arrays:
            self.offsets.append(end)
            self.file.seek(end)
            self.file.write(np.ascontiguousarray(array).data)
            end += -(-array.nbytes // ALIGN) * ALIGN
        self.file.truncate(max(end, 1))
        self.file.flush()

    def __del__(self) -> None:
        self.file.close()


def _nameless_file() -> IO[bytes]:
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("detcore-annotations"), "w+b")
    return tempfile.TemporaryFile()


def share_with_worker(table: Any) -> tuple[Any, ...] | None:
    """How to pickle a table for a process that is being spawned; None where nothing is being spawned.

    The first call moves the table's own arrays into the shared block too, so that the parent keeps one copy.
    """
    if multiprocessing.context.get_spawning_popen() is None or sys.platform == "win32":
        return None
    block: _Block | None = vars(table).get("_block")
    if block is None:
        block = _Block(list(arrays_of(table)))
        own = replace_arrays(table, _mapped(block.file.fileno(), iter(block.offsets)))
        vars(table).update(vars(own), _block=block)
    skeleton = replace_arrays(table, lambda array: _Outline(array.dtype.str, array.shape))
    parts = tuple(getattr(skeleton, field.name) for field in fields(table))
    # DupFd is how multiprocessing hands an open file to the process that it starts.
    return _attach, (type(table), parts, multiprocessing.reduction.DupFd(block.file.fileno()), block.offsets)


class _Outline:
    """Stands for an array in the pickled table."""

    def __init__(self, dtype: str, shape: tuple[int, ...]) -> None:
        self.dtype, self.shape = dtype, shape


def _mapped(fd: int, offsets: Iterator[int]) -> Callable[[Any], np.ndarray]:
    """Makes arrays in the shape of what it is given, one after the other, over the file's memory."""
    memory = mmap.mmap(fd, 0, access=mmap.ACCESS_READ)

    def view(outline: np.ndarray | _Outline) -> np.ndarray:
        dtype, count = np.dtype(outline.dtype), int(np.prod(outline.shape))
        return np.frombuffer(memory, dtype, count, next(offsets)).reshape(outline.shape)

    return view


def _attach(kind: type, parts: tuple[Any, ...], handle: Any, offsets: list[int]) -> Any:
    """Rebuild a table in the worker over the parent's memory."""
    fd = handle.detach()
    try:
        view = _mapped(fd, iter(offsets))
    finally:
        os.close(fd)
    return kind(*(_filled(part, view) for part in parts))


def _filled(part: Any, view: Callable[[Any], np.ndarray]) -> Any:
    if isinstance(part, _Outline):
        return view(part)
    if isinstance(part, Ragged):
        return Ragged(view(part.values), view(part.offsets))
    if is_dataclass(part) and not isinstance(part, type):
        return type(part)(**{field.name: _filled(getattr(part, field.name), view) for field in fields(part)})
    return part
