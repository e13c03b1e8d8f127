"""One way to read weight files: look at the whole file first, then let torch restore its tensors."""

from __future__ import annotations

import contextlib
import os
import pickle
import stat
import tarfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from detcore.errors import CheckpointError, DetcoreError
from detcore.plugins import host
from detcore.weights.reader.archive import check_archive
from detcore.weights.reader.names import Names
from detcore.weights.reader.plain import to_plain_data
from detcore.weights.reader.problems import DamagedError, RefusedError
from detcore.weights.reader.stream import check_stream

MARK = "detcore_checkpoint"
"""Key in the content of files that detcore wrote."""

_lock = threading.Lock()  # torch's list of safe globals is the process's
_OTHERS = (  # how files begin that are often taken for checkpoints
    (b"version https://git-lfs", "it is a pointer of Git LFS: fetch the file itself with git lfs pull"),
    (b"<", "it is a web page: its address leads to a page about the file, or to an error"),
    (b"\x89HDF", "it is an HDF5 file"),
    (b"\x1f\x8b", "it is packed with gzip: unpack it first"),
    (b"\x93NUMPY", "it is an array of numpy"),
)


def read_weights_file(
    source: str | Path | BinaryIO, map_location: str | torch.device = "cpu", *, verified: bool = False
) -> Any:
    """The content of a file of ``torch.save``, as tensors and plain data; nothing in it is run.

    The whole file is checked first, then read by ``torch.load(weights_only=True)``.
    Classes of which detcore or a plugin knows what they mean become dicts, lists, numbers, text or tensors.

    Args:
        source: A path, or a file that is open for reading.
        map_location: Device of the tensors; numpy's arrays become tensors on the CPU.
        verified: Its bytes are known to be right: checksums within it need not be compared.

    Raises:
        CheckpointError: It is no file, damaged, or holds something else; the message says which.
    """
    if not isinstance(source, str | Path):
        return _read(source, getattr(source, "name", "the file"), map_location, verified)
    try:
        with open_regular(Path(source)) as file:
            return _read(file, source, map_location, verified)
    except OSError as error:
        raise CheckpointError(f"cannot read {source}: {error.strerror or error}") from error


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading; a pipe or a device would be waited for, or read without end.

    Raises:
        OSError: It cannot be opened.
        CheckpointError: It is no regular file.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
        kind = next((name for test, name in kinds if test(mode)), "a device")
        raise CheckpointError(f"cannot read {path}: it is {kind}, not a file")
    return path.open("rb")


def upgraded(content: Any) -> Any:
    """Content in an older layout as today's: what the plugins' upgrades make of it.

    Content that detcore wrote (it has the key :data:`MARK`) and content that is no dict stay as they are.
    """
    if not isinstance(content, Mapping) or MARK in content:
        return content
    for table in host().checkpoints():
        for upgrade in table.upgrades:
            content = upgrade.load()(content)
    return content


def _read(file: BinaryIO, path: Any, map_location: str | torch.device, verified: bool) -> Any:
    try:
        names = _checked(file, verified)
        file.seek(0)
        with _known_to_torch(names.used):
            content = _restored(file, path, map_location)
        return to_plain_data(content)
    except DamagedError as error:
        raise CheckpointError(f"{path} is damaged, or no checkpoint of torch: {error}") from error
    except RefusedError as error:
        raise CheckpointError(f"{path} is refused: {error}") from error
    except MemoryError as error:
        raise CheckpointError(f"{path} does not fit into memory") from error
    except (OSError, DetcoreError):
        raise
    except Exception as error:  # stand-ins whose state is none of theirs
        raise CheckpointError(f"{path} is damaged, or no checkpoint of torch: {_line(error)}") from error


def _checked(file: BinaryIO, verified: bool) -> Names:
    """The names that need stand-ins, of a file that passes every check."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(tarfile.BLOCKSIZE)
    file.seek(0)
    names = Names()
    if size == 0:
        raise DamagedError("it is empty")
    if head.startswith(b"PK\x03\x04"):
        check_archive(file, size, names, verify=not verified)
        return names
    for start, what in _OTHERS:
        if head.lstrip().startswith(start):
            raise DamagedError(what)
    if _is_tar(head):
        raise RefusedError(
            "it is a tar archive; torch before 0.2 wrote weights so, and torch reads them only by running"
            " code from them: read it with the program that wrote it, and save it with torch 1.6 or newer"
        )
    check_stream(file, size, names)
    return names


def _is_tar(head: bytes) -> bool:
    """Whether torch would take the file for a tar archive."""
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return True


def _restored(file: BinaryIO, path: Any, map_location: str | torch.device) -> Any:
    try:
        return torch.load(file, map_location=map_location, weights_only=True, mmap=False)
    except (OSError, MemoryError):
        raise
    except pickle.UnpicklingError:  # its message advises to read the file unsafely
        raise DamagedError("torch does not restore what its pickle asks for") from None
    except Exception as error:  # mostly a device that is not there, or full
        raise CheckpointError(f"torch cannot read {path} to {str(map_location)!r}: {_line(error)}") from error


@contextlib.contextmanager
def _known_to_torch(stand_ins: Mapping[str, Any]) -> Iterator[None]:
    """For one load, these names mean these stand-ins, also where somebody told torch otherwise."""
    if not stand_ins:
        yield
        return
    with _lock:
        others = [known for known in torch.serialization.get_safe_globals() if _name(known) in stand_ins]
        if others:
            kept = [known for known in torch.serialization.get_safe_globals() if known not in others]
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(kept)
        try:
            with torch.serialization.safe_globals([(made, name) for name, made in stand_ins.items()]):
                yield
        finally:
            torch.serialization.add_safe_globals(others)


def _name(known: Any) -> str:
    return str(known[1]) if isinstance(known, tuple) else f"{known.__module__}.{known.__qualname__}"


def _line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:300] or type(error).__name__
