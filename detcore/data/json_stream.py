"""Reads huge JSON files record by record, so that only one record exists as Python objects."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from detcore.errors import DataError

CHUNK = 1 << 22
SPACE = " \t\r\n"


class _Reader:
    """A window over the file's text that decodes one JSON value after the other."""

    def __init__(self, file: TextIO, path: str) -> None:
        self.file, self.path = file, path
        self.text, self.at, self.passed = "", 0, 0
        self.ended = False
        self.decode = json.JSONDecoder().raw_decode

    def fill(self) -> bool:
        """Read more text behind what is left; False at the end of the file."""
        # A value longer than the window doubles what is read, so that its decoding is retried rarely.
        more = self.file.read(max(CHUNK, len(self.text) - self.at))
        if not more:
            self.ended = True
            return False
        self.passed += self.at
        self.text, self.at = self.text[self.at :] + more, 0
        return True

    def peek(self) -> str:
        """The next character that is no white space, or '' at the end."""
        while True:
            text, at, end = self.text, self.at, len(self.text)
            while at < end and text[at] in SPACE:
                at += 1
            self.at = at
            if at < end:
                return text[at]
            if not self.fill():
                return ""

    def expect(self, allowed: str) -> str:
        """Take the next character, which must be one of ``allowed``."""
        found = self.peek()
        if not found or found not in allowed:
            raise self.error(f"expected one of {allowed!r}, found {found or 'the end of the file'!r}")
        self.at += 1
        return found

    def value(self) -> object:
        """Decode the next whole value."""
        self.peek()
        while True:
            try:
                value, end = self.decode(self.text, self.at)
            except json.JSONDecodeError as error:
                if not self.fill():
                    raise self.error(error.msg) from None
                continue
            # A number at the window's edge may go on behind it.
            if end == len(self.text) and not self.ended and self.fill():
                continue
            self.at = end
            return value

    def error(self, message: str) -> DataError:
        place = self.passed + self.at
        return DataError(f"{self.path}: not valid JSON at character {place}: {message}")


def stream_members(path: str | Path, lists: tuple[str, ...]) -> Iterator[tuple[str, object]]:
    """Go through a JSON file whose top level is an object.

    Args:
        path: The file.
        lists: Keys whose value is a list that is to be taken apart.

    Yields:
        ``(key, value)`` of every member; for the keys in ``lists`` once for each element of the list,
        and once ``(key, None)`` where the list begins, so that an empty list is seen too.

    Raises:
        DataError: The file is missing, no JSON, or its top level is no object.
    """
    try:
        file = Path(path).open(encoding="utf-8-sig", errors="surrogateescape")  # noqa: SIM115
    except OSError as error:
        raise DataError(f"cannot read the annotation file {path}: {error.strerror}") from error
    with file:
        reader = _Reader(file, str(path))
        if reader.peek() != "{":
            raise reader.error("the top level must be an object `{...}`")
        reader.expect("{")
        if reader.peek() == "}":
            return
        while True:
            key = reader.value()
            if not isinstance(key, str):
                raise reader.error(f"expected a key in quotes, found {key!r}")
            reader.expect(":")
            if key in lists and reader.peek() == "[":
                yield key, None
                yield from ((key, element) for element in _elements(reader))
            else:
                yield key, reader.value()
            if reader.expect(",}") == "}":
                return


def _elements(reader: _Reader) -> Iterator[object]:
    reader.expect("[")
    if reader.peek() == "]":
        reader.expect("]")
        return
    while True:
        yield reader.value()
        if reader.expect(",]") == "]":
            return
