"""Where downloaded weights lie, and how one knows that they are whole."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import torch

from detcore.errors import CheckpointError

logger = logging.getLogger(__name__)

# OpenMMLab and torchvision put the first digits of a file's SHA-256 at the end of its name.
_CHECKSUM = re.compile(r"-([0-9a-f]{8,64})\.[A-Za-z0-9.]+$")
_DATE = re.compile(r"(19|20)\d\d(0[1-9]|1[0-2])([0-2]\d|3[01])")


def weights_folder() -> Path:
    """The cache of weights: ``weights`` in ``DETCORE_CACHE``, else in ``detcore`` of the user's cache folder.

    Raises:
        CheckpointError: The user has no home folder, and ``DETCORE_CACHE`` is not set.
    """
    try:
        own = os.environ.get("DETCORE_CACHE")
        return (Path(own).expanduser() if own else _user_cache() / "detcore").absolute() / "weights"
    except RuntimeError as error:
        raise CheckpointError(f"no place for weights: {error}; set DETCORE_CACHE to a folder") from error


def checksum_in(name: str) -> str | None:
    """The digits of the SHA-256 that a file's name promises: ``ab12cd34`` of ``resnet50-ab12cd34.pth``."""
    found = _CHECKSUM.search(name)
    return found[1] if found and not _DATE.fullmatch(found[1]) else None


def cached_name(address: str) -> str:
    """The name under which the file behind an address is kept.

    A name without checksum is not unique, so the address goes into it.

    Raises:
        CheckpointError: The address names no file.
    """
    name = unquote(urlsplit(address).path).rpartition("/")[2]
    if not name.strip(".") or "\\" in name or "\0" in name:
        raise CheckpointError(f"{address} names no file")
    if checksum_in(name) is None:
        name = f"{hashlib.sha256(address.encode()).hexdigest()[:12]}_{name}"
    return name


def is_whole(path: Path, checksum: str) -> bool:
    """Whether the SHA-256 of a file begins with the digits.

    Raises:
        CheckpointError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest().startswith(checksum)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error


def found_elsewhere(name: str, checksum: str) -> Path | None:
    """The file in a cache of torch, mmengine or mim, where it is whole. Those caches are only read."""
    folders = [Path(torch.hub.get_dir()) / "checkpoints"]
    with contextlib.suppress(RuntimeError):
        user = _user_cache()
        mmengine = Path(os.environ.get("MMENGINE_HOME") or user / "mmengine")
        folders += [user / "torch" / "checkpoints", mmengine, mmengine / "checkpoints", user / "mim"]
    for folder in folders:
        path = folder / name
        with contextlib.suppress(CheckpointError, OSError):
            if path.is_file():
                if is_whole(path, checksum):
                    return path
                logger.warning("%s is not used: its checksum is not the one in its name", path)
    return None


@contextlib.contextmanager
def locked(target: Path) -> Iterator[Path]:
    """Hold the lock of a file that is to be downloaded; other processes on the machine wait.

    Yields:
        Where the unfinished file is written. It is this process's own where the disk knows no locks: then
        each process downloads for itself, and the last one's file stays.
    """
    part = target.with_name(f".{target.name}.part")
    with target.with_name(f".{target.name}.lock").open("a") as file:
        try:
            _lock(file.fileno(), target)
        except OSError:
            part = target.with_name(f".{target.name}.{os.getpid()}.part")
        yield part  # closing the file gives the lock back, and so does the end of the process


def _lock(descriptor: int, target: Path) -> None:
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)  # type: ignore[attr-defined]  # it tries for 10 s
        return
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        logger.info("waiting for another process that downloads %s", target.name)
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def _user_cache() -> Path:
    stated = os.environ.get("XDG_CACHE_HOME", "")
    return Path(stated) if Path(stated).is_absolute() else Path.home() / ".cache"
