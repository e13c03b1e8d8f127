"""The metadata of installed distributions, as far as they are plugins; imports none of them."""
import os
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, NamedTuple

from detcore.plugins.memory import Memory, stamp
from detcore.plugins.sources import named_in, source_of

GROUP = "detcore.plugins"

Named = frozenset[str] | None


class Found(NamedTuple):
    """A distribution with plugins.

    Attributes:
        name: The distribution's name.
        version: Its version.
        folder: Where it lies.
        points: ``(scope, module, what its source names)`` of each plugin, as of `named_in`.
    """

    name: str
    version: str
    folder: str
    points: list[tuple[str, str, Named]]


class Unreadable(NamedTuple):
    """A distribution whose metadata cannot be read; ``reason`` says where and why."""

    reason: str


def read_distributions(memory: Memory) -> Iterator[Found | Unreadable]:
    """All plugins on the path, in its order, and all damaged packages, be they plugins or not."""
    for entry in dict.fromkeys(str(Path(each).absolute()) for each in sys.path):
        try:
            names = sorted(os.listdir(entry))  # noqa: PTH208  (a thousand paths as objects take their time)
        except NotADirectoryError:
            yield from _slowly(entry)
            continue
        except OSError:
            continue
        folder = str(Path(entry).resolve())
        for name in names:
            if name.lower().endswith((".dist-info", ".egg-info")):
                found = _read(f"{entry}{os.sep}{name}", folder, memory)
                if found is not None:
                    yield found
        if entry.lower().endswith(".egg"):
            yield from _slowly(entry)
    yield from _of_other_finders()
    memory.save()


def _read(path: str, folder: str, memory: Memory) -> Found | Unreadable | None:
    """A distribution by its metadata; None if it is no plugin."""
    read = stamp(_points(path))
    if not read:
        return None
    known = _recalled(memory.recall(path), path, folder, read)
    if known is _NO_PLUGIN:
        return None
    if known is not None:
        return known
    # Imported here because it costs as much as half of `detcore --help`.
    from importlib_metadata import Distribution

    return _read_anew(Distribution.at(path), path, folder, memory)


_NO_PLUGIN = Found("", "", "", [])


def _recalled(entry: list[str], path: str, folder: str, points: str) -> Found | None:
    """What is remembered and still true; None: it has to be read."""
    if not entry or entry[0] != points:
        return None
    if len(entry) == 1:
        return _NO_PLUGIN
    # The folder of an installed distribution bears its version; that of a source tree does not.
    metadata, name, version, *rest = entry[1:] if len(entry) > 3 else ["?", "", ""]
    if metadata and stamp(_metadata(path)) != metadata:
        return None
    claims: list[tuple[str, str, Named]] = []
    for scope, module, source, written, named in zip(*[iter(rest)] * 5, strict=False):
        if stamp(source) != written:
            return None
        claims.append((scope, module, None if named == "?" else frozenset(filter(None, named.split(",")))))
    return Found(name, version, folder, claims)


def _read_anew(distribution: Any, path: str, folder: str, memory: Memory) -> Found | Unreadable | None:
    points = stamp(_points(path))
    found = _found(distribution, folder)
    if found is None:
        memory.remember(path, [points], [points])
    if not isinstance(found, Found):
        return found
    metadata = stamp(_metadata(path)) if path.lower().endswith(".egg-info") else ""
    entry, stamps = [points, metadata, found.name, found.version], [points]
    for scope, module, named in found.points:
        source = str(source_of(module) or "")
        stamps.append(stamp(source))
        entry += [scope, module, source, stamps[-1], "?" if named is None else ",".join(sorted(named))]
    memory.remember(path, entry, stamps)
    return found


def _points(path: str) -> str:
    return f"{path}{os.sep}entry_points.txt"


def _metadata(path: str) -> str:
    return f"{path}{os.sep}PKG-INFO"


def _found(distribution: Any, folder: str) -> Found | Unreadable | None:
    try:
        # Most distributions are no plugins: their metadata need not be parsed.
        if GROUP not in (distribution.read_text("entry_points.txt") or ""):
            return None
        points = [point for point in distribution.entry_points if point.group == GROUP]
        claims = [(point.name, point.value.strip(), _named(point.value.strip())) for point in points]
        return Found(distribution.name, distribution.version, folder, claims) if claims else None
    except Exception as error:  # a damaged package, be it a plugin or not, must not cost all others
        where = Path(str(getattr(distribution, "_path", folder))).resolve()
        return Unreadable(f"metadata in {where} cannot be read: {type(error).__name__}: {error}")


def _named(module: str) -> Named:
    source = source_of(module)
    try:
        return None if source is None else named_in(source)
    except OSError:
        return None


def _slowly(entry: str) -> Iterator[Found | Unreadable]:
    """What lies in a zip archive or an egg on the path."""
    from importlib_metadata import distributions

    for distribution in distributions(path=[entry]):
        found = _found(distribution, entry)
        if found is not None:
            yield found


def _of_other_finders() -> Iterator[Found | Unreadable]:
    """What finders of somebody's own know beyond the path."""
    for finder in sys.meta_path:
        ask = getattr(finder, "find_distributions", None)
        if ask is None or finder is PathFinder or type(finder).__name__ == "MetadataPathFinder":
            continue
        for distribution in ask():
            found = _found(distribution, str(distribution.locate_file("")))
            if found is not None:
                yield found
