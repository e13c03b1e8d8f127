"""The folder with a run's checkpoints: which is the newest good one, which may go."""

import contextlib
import logging
import os
import re
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from detcore.engine.checkpoint.files import load_checkpoint, save_checkpoint, verify_checkpoint, write_text
from detcore.engine.checkpoint.seal import read_seal
from detcore.engine.distributed import is_main
from detcore.errors import CheckpointError

logger = logging.getLogger(__name__)

LAST = "last_checkpoint"
"""Text file with the path of the file saved last."""
_NUMBERED = re.compile(r"(?!best_)(?!.*-published-).*?(\d+)\.pth")


class CheckpointFolder:
    """Checkpoints of one run: ``epoch_N.pth`` and ``iter_N.pth`` (regular ones), ``best_*.pth``, others.

    Only the main process changes anything.

    Args:
        work_dir: Need not exist yet.
    """

    def __init__(self, work_dir: str | Path) -> None:
        self.work_dir = Path(work_dir)
        self.protected: set[str] = set()

    def save(self, name: str, content: Mapping[str, Any], *, protect: bool = False) -> Path:
        """Write a checkpoint and note it as the last one.

        Args:
            name: File name.
            content: Tensors and plain data.
            protect: Never prune it.

        Raises:
            CheckpointError: As ``save_checkpoint``.
        """
        path = self.work_dir / name
        if is_main():
            self.remove_leftovers()
            save_checkpoint(path, content)
            write_text(self.work_dir / LAST, str(path))
        if protect:
            self.protected.add(name)
        return path

    def regular(self) -> list[Path]:
        """Numbered checkpoints, newest first; those whose age cannot be read come before all others."""
        if not self.work_dir.is_dir():
            return []
        found = [p for p in self.work_dir.iterdir() if _NUMBERED.fullmatch(p.name) and p.is_file()]
        return sorted(found, key=_age, reverse=True)

    def newest_good(self) -> Path | None:
        """The newest regular checkpoint that is whole; each damaged one that is passed over is named in a
        warning.

        Returns:
            None where there is no checkpoint at all.

        Raises:
            CheckpointError: When there are some, and none is whole.
        """
        damaged = []
        for path in self.regular():
            reason = verify_checkpoint(path)
            if reason is None:
                return path
            damaged.append(reason)
            logger.warning("passed over: %s", reason)
        if damaged:
            raise CheckpointError(
                "no checkpoint in "
                + str(self.work_dir)
                + " is whole; remove them to start afresh:\n  "
                + "\n  ".join(damaged)
            )
        return None

    def load_newest_good(
        self, map_location: str | torch.device = "cpu"
    ) -> tuple[Path, dict[str, Any]] | None:
        """The newest whole checkpoint with its content."""
        path = self.newest_good()
        return None if path is None else (path, load_checkpoint(path, map_location, require_checksum=True))

    @property
    def best(self) -> Path | None:
        """The newest of the ``best_*.pth``."""
        found = sorted(self.work_dir.glob("best_*.pth"), key=_age)
        return found[-1] if found else None

    @property
    def last(self) -> Path | None:
        """The checkpoint that was saved last, as noted in ``last_checkpoint``."""
        with contextlib.suppress(OSError):
            return Path((self.work_dir / LAST).read_text(encoding="utf-8").strip())
        return None

    def prune(self, keep: int, *, protect: Iterable[str] = ()) -> list[Path]:
        """Delete all regular checkpoints but the newest ``keep``.

        Never deleted: the newest one that is whole, even if younger ones are damaged; the best; protected
        ones; files that are not ours, or whose age cannot be read.

        Args:
            keep: How many stay; below 1 all stay.
            protect: More names that stay.

        Returns:
            What was deleted.
        """
        if keep < 1 or not is_main():
            return []
        spared = {*self.protected, *protect}
        ours = [path for path in self.regular() if _age(path)[0] == 0]
        doomed = [path for path in ours[keep:] if path.name not in spared]
        if not doomed:
            return []
        if all(verify_checkpoint(path) is not None for path in ours[:keep]):
            good = next((path for path in ours[keep:] if verify_checkpoint(path) is None), None)
            doomed = [path for path in doomed if path != good]
        for path in doomed:
            self.remove(path.name)
        return doomed

    def remove(self, name: str) -> None:
        """Delete a file of this folder, if it is there."""
        if not is_main():
            return
        try:
            (self.work_dir / name).unlink(missing_ok=True)
        except OSError as error:
            logger.warning("cannot delete %s: %s", self.work_dir / name, error.strerror)

    def remove_leftovers(self) -> None:
        """Delete what processes of this machine that are gone left half-written."""
        mine = re.compile(rf"\..+\.{re.escape(socket.gethostname())}-(\d+)\.tmp")
        for path in self.work_dir.glob(".*.tmp"):
            match = mine.fullmatch(path.name)
            if match and not _is_running(int(match[1])):
                path.unlink(missing_ok=True)
                logger.info("removed %s, left half-written by a process that is gone", path)


def _age(path: Path) -> tuple[int, int, int]:
    """Sorts by progress: unreadable seals last (they are judged first), then steps, then time of writing."""
    try:
        with path.open("rb") as file:
            seal = read_seal(file)
        written = path.stat().st_mtime_ns
    except OSError:
        return (1, 0, 0)
    return (1, 0, written) if seal is None else (0, seal.step, written)


def _is_running(pid: int) -> bool:
    if pid == os.getpid():
        return False  # this process writes one file at a time, and is not writing now
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
