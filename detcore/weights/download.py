"""Weights behind addresses: one whole file in the cache, or an error that names every failure."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from detcore.errors import CheckpointError
from detcore.weights.cache import cached_name, checksum_in, found_elsewhere, is_whole, locked, weights_folder
from detcore.weights.transfer import Patience, Progress, TransferError, shown, transfer

logger = logging.getLogger(__name__)


def download(address: str, places: Sequence[str], patience: Patience | None = None) -> Path:
    """The file of an address, from the cache or downloaded into it.

    A checksum in the name (``resnet50-0676ba61.pth``) is verified, of cached files too. Processes that want
    the same file at once download it once.

    Args:
        address: Where it was published; names it.
        places: Addresses of this file, in the order to try them.
        patience: When to give up.

    Returns:
        A file that must not be changed.

    Raises:
        CheckpointError: No place gives the file, ``DETCORE_OFFLINE`` forbids to ask, or the disk fails.
            Nothing half-written has the file's name then.
    """
    name = cached_name(address)
    target = weights_folder() / name
    try:
        found = _found(target, checksum_in(name))
        if found is not None:
            return found
        if os.environ.get("DETCORE_OFFLINE", "").lower() not in ("", "0", "false"):
            state = "damaged" if target.is_file() else "not here"
            raise CheckpointError(
                f"DETCORE_OFFLINE is set and {name} is {state}; put the file of {shown(address)} to {target}"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target) as part:
            if not target.is_file() or not _kept(target, checksum_in(name)):
                _download(places, target, part, patience or Patience())
    except OSError as error:
        raise CheckpointError(
            f"cannot write {target}: {error.strerror or error} ({_free(target)}); DETCORE_CACHE=FOLDER puts"
            " weights elsewhere"
        ) from error
    return target


def _found(target: Path, checksum: str | None) -> Path | None:
    """The file, whole, where it is in this cache or in another's."""
    if target.is_file():
        return target if checksum is None or is_whole(target, checksum) else None
    elsewhere = found_elsewhere(target.name, checksum) if checksum else None
    if elsewhere is not None:
        logger.info("%s is here already: %s", target.name, elsewhere)
    return elsewhere


def _kept(target: Path, checksum: str | None) -> bool:
    """Whether the file in the cache is good; a damaged one is put aside."""
    if checksum is None or is_whole(target, checksum):
        return True
    aside = target.with_name(f"{target.name}.damaged")
    target.replace(aside)
    logger.warning(
        "%s does not have the checksum of its name; it is kept as %s, and fetched again", target, aside.name
    )
    return False


def _download(places: Sequence[str], target: Path, part: Path, patience: Patience) -> None:
    failures = []
    for address in places:
        try:
            _from_one(address, target, part, patience)
        except TransferError as error:
            failures.append(f"{shown(address)}: {error}")
            logger.warning("%s", failures[-1])
        except OSError:
            part.unlink(missing_ok=True)
            raise
        else:
            return
    tried = "\n  ".join(failures)
    raise CheckpointError(
        f"{target.name} cannot be downloaded:\n  {tried}\n"
        f"  Put the file to {target}, give its path instead of its name, or name a mirror in"
        " DETCORE_WEIGHTS_MIRROR"
    )


def _from_one(address: str, target: Path, part: Path, patience: Patience) -> None:
    """Download from one address.

    Raises:
        TransferError: No try succeeded, or the file is another than its name promises.
    """
    logger.info("downloading %s to %s", shown(address), target)
    checksum = checksum_in(target.name)
    stale = checksum is not None and part.is_file()  # what another server sent, perhaps of another file
    digest = _insist(address, part, patience, resumes=checksum is not None)
    if stale and not digest.startswith(checksum or ""):
        part.unlink()
        digest = _insist(address, part, patience, resumes=True)
    if digest.startswith(checksum or ""):
        part.replace(target)
        return
    size = part.stat().st_size
    part.unlink()
    raise TransferError(
        f"its {size} bytes have the SHA-256 {digest[: len(checksum or '')]}..., the name promises {checksum}"
        " (damaged on the way, or another file; if the name means no checksum, download it yourself)"
    )


def _insist(address: str, part: Path, patience: Patience, *, resumes: bool) -> str:
    """The SHA-256 of the file after one try or several.

    Args:
        address: Where it lies.
        part: Where it is written.
        patience: How many tries, and the pause between them.
        resumes: Whether a try goes on where the one before was cut. Only a checksum tells whether the two
            halves are of one file.
    """
    pause = patience.pause
    for left in reversed(range(patience.tries)):
        if not resumes:
            part.unlink(missing_ok=True)
        try:
            with _progress(part.name.strip(".").removesuffix(".part")) as progress:
                return transfer(address, part, patience, progress)
        except TransferError as error:
            if not resumes:
                part.unlink(missing_ok=True)
            if not left or not error.again:
                raise
            logger.info("%s: %s; trying again", shown(address), error)
        time.sleep(pause)
        pause *= 2
    raise ValueError(f"patience must allow at least one try, got {patience.tries}")


@contextlib.contextmanager
def _progress(name: str) -> Iterator[Progress]:
    """A bar on the terminal; nothing where there is none."""
    if not sys.stderr.isatty():
        yield lambda have, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress("{task.description}", *columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(name, total=None)
        yield lambda have, total: bars.update(task, completed=have, total=total)


def _free(target: Path) -> str:
    folder = next((above for above in target.parents if above.is_dir()), None)
    if folder is None:
        return "there is no such disk"
    return f"{shutil.disk_usage(folder).free / 2**20:.1f} MiB free in {folder}"
