"""Where each value of a config comes from: a walk over its values that knows path, file and line of each."""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detcore.config.document import Config, ConfigDict, closest, origins_of
from detcore.config.files import shipped_configs
from detcore.config.values import Origin
from detcore.errors import ConfigError

_PLAIN_KEY = re.compile(r"[^\s.\[\]'\"=]+")


@dataclass(frozen=True, slots=True)
class Entry:
    """A value of a config.

    Attributes:
        path: Where it stands: ``train_pipeline.1.prob``; keys that are no plain words as in ``table['a.b']``.
        value: The final value.
        origin: File and line of what set it last (line 0 where it is not known); the file is
            ``--cfg-options`` for an override.
    """

    path: str
    value: Any
    origin: Origin

    def children(self) -> "list[tuple[Any, Entry]]":
        """Key or index, and entry, of each part of a dict, list or tuple; nothing of any other value."""
        if isinstance(self.value, dict):
            known = origins_of(self.value) if isinstance(self.value, ConfigDict) else {}
            return [
                (key, Entry(self._below(key), part, known.get(key, self.origin)))
                for key, part in self.value.items()
            ]
        if type(self.value) in (list, tuple):
            return [
                (i, Entry(self._below(i), part, _origin_of_item(part, self.origin)))
                for i, part in enumerate(self.value)
            ]
        return []

    def leaves(self) -> "Iterator[Entry]":
        """What is shown on a line of its own: lists count as one value unless dicts are among their items."""
        if not holds_dicts(self.value):
            yield self
            return
        for _, part in self.children():
            yield from part.leaves()

    def _below(self, key: Any) -> str:
        if isinstance(self.value, dict) and not (isinstance(key, str) and _PLAIN_KEY.fullmatch(key)):
            return f"{self.path}[{key!r}]"
        return f"{self.path}.{key}" if self.path else str(key)


def holds_dicts(value: Any) -> bool:
    """Whether it is a dict, or a list or tuple with a dict at some depth, that is not empty."""
    if isinstance(value, dict):
        return bool(value)
    return type(value) in (list, tuple) and any(isinstance(each, dict) or holds_dicts(each) for each in value)


def _origin_of_item(item: Any, around: Origin) -> Origin:
    """An item of a list has no key; a dict stands where its ``type``, or else its first key, does."""
    known = origins_of(item) if isinstance(item, ConfigDict) else {}
    return known.get("type") or next(iter(known.values()), around)


def entry_of(config: Config, path: str = "") -> Entry:
    """The value at a path; the whole config for an empty one.

    Args:
        config: A config that was read from a file.
        path: As in ``--cfg-options``: ``model.backbone``, ``train_pipeline.1``, ``train_pipeline.-1.type``;
            or as entries write it.

    Raises:
        ConfigError: There is nothing at that path; names the part that is missing and close keys.
    """
    entry = Entry("", config._tree, (config.filename or "<string>", 0))
    rest = path
    while rest:
        entry, rest = _step(entry, rest)
    return entry


def _step(entry: Entry, rest: str) -> tuple[Entry, str]:
    """The part that the beginning of a path names, and the rest of the path."""
    children = {part.path[len(entry.path) :].removeprefix("."): part for _, part in entry.children()}
    for name, child in children.items():
        if rest == name or (rest.startswith(name) and rest[len(name)] in ".["):
            return child, rest[len(name) :].removeprefix(".")
    first, _, after = rest.partition(".")
    from_end = re.fullmatch(r"-\d{1,9}", first, re.ASCII) and not isinstance(entry.value, dict)
    if from_end and int(first) >= -len(children):
        return list(children.values())[int(first)], after
    raise ConfigError(_missing(entry, first, children))


def _missing(entry: Entry, name: str, known: Collection[str]) -> str:
    where = entry.path or shown_file(entry.origin[0])
    if isinstance(entry.value, dict):
        return f"{where} has no key {name!r}{closest(name, known)}"
    if type(entry.value) in (list, tuple):
        return f"{where} has {len(known)} items, so there is no {entry.path}.{name}"
    return f"{where} is {entry.value!r:.60}, which has no parts, so there is no {entry.path}.{name}"


def origin_text(origin: Origin) -> str:
    """``file:line`` as a user would name the file."""
    file, line = shown_file(origin[0]), origin[1]
    file = file if file.isprintable() else repr(file)
    return f"{file}:{line}" if line else file


def shown_file(file: str) -> str:
    """The file of an origin; a shipped config by the name that it can be asked for by, ``detcore::file``."""
    folder = shipped_configs()
    if Path(file).is_absolute() and Path(file).is_relative_to(folder):
        return f"detcore::{Path(file).relative_to(folder).as_posix()}"
    return file
