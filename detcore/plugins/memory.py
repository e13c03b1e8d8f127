"""What was read of the installed distributions before, so that a start need not read a thousand files again.

Everything in it is found again without it, and counts only while the files that it was read from are as they
were: their time of change and their size are compared at every start.
"""
import contextlib
import hashlib
import logging
import os
import sys
import tempfile
import time
from pathlib import Path

from detcore.plugins.sources import HOOKS, TOLD

logger = logging.getLogger(__name__)

# Lines of text, because a thousand nested lists would wake the garbage collector.
_HEAD = "\t".join(("1", *HOOKS, *TOLD))
_SETTLED = 2_000_000_000  # nanoseconds after which a file system gives a further change another time


def stamp(path: str) -> str:
    """Time of change and size of a file; empty if it is not there."""
    try:
        found = os.stat(path)  # noqa: PTH116  (paths as objects would take twice as long)
    except (OSError, ValueError):
        return ""
    return f"{found.st_mtime_ns}:{found.st_size}"


class Memory:
    """Path of a distribution's metadata -> what was read of it.

    Args:
        file: Where it is kept; None: nowhere.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._entries = _load(file)
        self._met: dict[str, str | None] = {}  # None: not to be kept

    def recall(self, path: str) -> list[str]:
        """What is remembered of a distribution; empty if nothing is."""
        entry = self._entries.get(path)
        if entry is None:
            return []
        self._met[path] = entry
        return entry.split("\t")

    def remember(self, path: str, entry: list[str], stamps: list[str]) -> None:
        """Keep what was read, unless one of the files is not there or has changed just now.

        Args:
            path: Of the distribution's metadata.
            entry: Words.
            stamps: Of the files that it was read from.
        """
        now = time.time_ns()
        plain = all(each.isprintable() for each in (path, *entry))  # no tabs, no ends of lines
        settled = all(each and now - int(each.partition(":")[0]) > _SETTLED for each in stamps)
        self._met[path] = "\t".join(entry) if plain and settled else None

    def save(self) -> None:
        """Write it, if it changed; not being able to is no error."""
        changed = any(self._entries.get(path) != entry for path, entry in self._met.items())
        if self._file is None or not changed:
            return
        # Entries that this process did not meet belong to others, with another path.
        others = self._entries.keys() - self._met.keys()
        kept = {path: self._entries[path] for path in others if os.path.lexists(path)}
        kept |= {path: entry for path, entry in self._met.items() if entry is not None}
        self._entries = kept
        try:
            _write(self._file, "\n".join([_HEAD, *(f"{path}\t{entry}" for path, entry in kept.items())]))
        except OSError as error:
            logger.debug("what is installed is not remembered in %s: %s", self._file, error)


def memory_file() -> Path | None:
    """Where this installation of Python keeps it: in ``DETCORE_CACHE``, else in the user's cache folder."""
    own, cache = os.environ.get("DETCORE_CACHE"), os.environ.get("XDG_CACHE_HOME", "")
    digest = hashlib.sha256(f"{sys.prefix}\n{sys.version}".encode()).hexdigest()[:16]
    try:
        if own:
            folder = Path(own).expanduser()
        else:
            folder = (Path(cache) if Path(cache).is_absolute() else Path.home() / ".cache") / "detcore"
    except RuntimeError:  # there is no home
        return None
    return folder / f"plugins-{digest}.txt"


def _load(file: Path | None) -> dict[str, str]:
    if file is None:
        return {}
    try:
        head, *lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError):
        return {}
    if head != _HEAD:
        return {}
    return {path: entry for path, _, entry in (line.partition("\t") for line in lines)}


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f"{file.stem}-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
        Path(name).replace(file)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
