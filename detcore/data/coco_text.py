"""COCO annotation files as text, record by record: parts of them are written without decoding them again."""
from __future__ import annotations

import contextlib
import json
import os
from array import array
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from detcore.data.json_stream import stream_members
from detcore.errors import DataError

BETWEEN = b",\n"  # one record a line: files that can be searched and compared line by line
BUFFER = 1 << 20
Piece = bytes | memoryview
NEEDED = ("images", "annotations", "categories")

encode = json.JSONEncoder(separators=(",", ":")).encode


class Records:
    """The records of one list as JSON text, back to back: no larger than the file, as objects would be."""

    def __init__(self) -> None:
        self._text, self._ends = bytearray(), array("q", [0])

    def add(self, record: Any) -> None:
        """Append one record."""
        self._text += encode(record).encode("ascii")
        self._text += BETWEEN
        self._ends.append(len(self._text))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, row: int) -> Any:
        return json.loads(self._text[self._ends[row] : self._ends[row + 1] - len(BETWEEN)])

    def chunks(self, keep: np.ndarray) -> Iterator[memoryview]:
        """The text of the records that are True in ``keep``, bool (N,), and what stands between them."""
        # Neighbours go out in one piece: 99 of 100 records are few pieces.
        edges = np.flatnonzero(np.diff(keep.astype(np.int8), prepend=0, append=0)).reshape(-1, 2)
        if not len(edges):
            return
        pieces = np.frombuffer(self._ends, np.int64)[edges]
        pieces[-1, 1] -= len(BETWEEN)
        text = memoryview(self._text).toreadonly()
        for first, end in pieces.tolist():
            yield text[first:end]


class CocoText:
    """A COCO annotation file, read once.

    Args:
        path: The file.

    Attributes:
        path: The file.
        images: The images' records.
        annotations: The annotations' records.
        image_of: int64 (A,), each annotation's row among the images.
        category_of: int64 (A,), each annotation's row among the categories; -1 for those that are not listed.
        category_names: Names in the file's order.

    Raises:
        DataError: The file cannot be read, is not COCO, has an image id twice, or annotations of images that
            it does not have.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.images, self.annotations = Records(), Records()
        self._members: dict[str, str | None] = {}  # in the file's order; None for the two lists
        self._image_ids: list[Hashable] = []
        self._images, self._categories = _Codes(), _Codes()
        categories: Any = None
        for key, value in stream_members(path, ("images", "annotations")):
            if key in ("images", "annotations"):
                self._take(key, value)
                continue
            if key == "categories":
                categories = value
            self._members[key] = encode(value)
        require_members(self.path, self._members, NEEDED)
        ids = category_ids(self.path, categories)
        self.category_names = tuple(category["name"] for category in categories)
        self.image_of = self._images.rows(unique_rows(self.path, self._image_ids))
        self.category_of = self._categories.rows({id_: row for row, id_ in enumerate(ids)})
        self._require_images()

    def chunks(self, images: np.ndarray, annotations: np.ndarray) -> Iterator[Piece]:
        """The text of a file with some images, bool (I,), some annotations, bool (A,), and all else."""
        parts = {"images": (self.images, images), "annotations": (self.annotations, annotations)}
        return file_text(
            (key, parts[key][0].chunks(parts[key][1]) if text is None else text)
            for key, text in self._members.items()
        )

    def _take(self, key: str, value: Any) -> None:
        """One record of a list, or None where the list begins."""
        if value is None and key not in self._members:
            self._members[key] = None
            return
        if not isinstance(value, dict) or key not in self._members:
            raise DataError(
                f"{self.path}: `{key}` must be there once, a list of objects; got {encode(value)[:80]} in it"
            )
        if key == "images":
            self._image_ids.append(self._id(key, value, "id"))
            self.images.add(value)
        else:
            self._images.add(self._id(key, value, "image_id"))
            category = value.get("category_id")
            self._categories.add(category if is_id(category) else None)
            self.annotations.add(value)

    def _id(self, key: str, record: dict[str, Any], name: str) -> Hashable:
        found: Hashable = record.get(name)
        if not is_id(found):
            raise DataError(
                f"{self.path}: an entry of `{key}` needs a number or text as its `{name}`, got "
                f"{encode(record)[:120]}"
            )
        return found

    def _require_images(self) -> None:
        lost = np.flatnonzero(self.image_of < 0)
        if len(lost):
            first = self.annotations[lost[0]]
            raise DataError(
                f"{self.path}: {len(lost)} of {len(self.annotations)} annotations are of images that the "
                f"file does not have, the first is {first.get('id')} of image {first['image_id']!r}"
            )


class _Codes:
    """Ids of records as small numbers, so that each is looked up once though its list may come later."""

    def __init__(self) -> None:
        self._known: dict[Hashable, int] = {}
        self._codes = array("q")

    def add(self, id_: Hashable) -> None:
        self._codes.append(self._known.setdefault(id_, len(self._known)))

    def rows(self, row_of: dict[Hashable, int]) -> np.ndarray:
        """int64, one a record: the row of its id, -1 for ids that are not there."""
        rows = np.array([row_of.get(id_, -1) for id_ in self._known], np.int64)
        return rows[np.frombuffer(self._codes, np.int64)] if len(self._codes) else rows


def file_text(members: Iterable[tuple[str, str | Iterable[Piece]]]) -> Iterator[Piece]:
    """The text of an object: each key with its value's text, or with the chunks of a list's records."""
    before = b"{\n"
    for key, value in members:
        yield before + encode(key).encode("ascii") + b":"
        if isinstance(value, str):
            yield value.encode("ascii")
        else:
            yield b"[\n"
            yield from value
            yield b"\n]"
        before = BETWEEN
    yield b"\n}\n"


def is_id(value: object) -> bool:
    """Whether a value can name an image or a category: a number (3.0 is 3) or text."""
    return isinstance(value, (int, str, float)) and not isinstance(value, bool)


def require_members(path: Path, have: Iterable[str], needed: tuple[str, ...]) -> None:
    """Raise a DataError that names the members which a COCO file lacks."""
    have = list(have)
    missing = [key for key in needed if key not in have]
    if missing:
        raise DataError(
            f"{path}: no {', '.join(f'`{key}`' for key in missing)}; expected a COCO file, an object with "
            f"{', '.join(needed)}; this one has {', '.join(have) or 'nothing'}"
        )


def category_ids(path: Path, categories: Any) -> list[Hashable]:
    """The ids of categories; a DataError unless there are some, each with a name and an id of its own."""
    if not isinstance(categories, list) or not categories:
        raise DataError(
            f"{path}: `categories` must be a list with at least one category, got {encode(categories)[:80]}"
        )
    for category in categories:
        sound = isinstance(category, dict) and is_id(category.get("id"))
        if not sound or not isinstance(category.get("name"), str):
            raise DataError(f"{path}: a category needs an `id` and a `name`, got {encode(category)[:120]}")
    ids = [category["id"] for category in categories]
    doubled = [id_ for id_, count in Counter(ids).items() if count > 1]
    if doubled:
        raise DataError(f"{path}: several categories have the id {doubled[0]!r}")
    return ids


def unique_rows(path: Path, ids: list[Hashable]) -> dict[Hashable, int]:
    """Image id -> its place; a DataError that names those which are there more than once."""
    rows = {id_: row for row, id_ in enumerate(ids)}
    if len(rows) < len(ids):
        doubled = [repr(id_) for id_, count in Counter(ids).items() if count > 1]
        raise DataError(
            f"{path}: {len(doubled)} image ids are there more than once: {', '.join(doubled[:5])}"
            f"{', ...' if len(doubled) > 5 else ''}; each image needs its own"
        )
    return rows


def write_whole(target: Path, chunks: Iterable[Piece]) -> None:
    """Write a file whole or not at all: under a hidden name in its folder, then renamed.

    Raises:
        DataError: The folder cannot be made or written, or the disk is full.
    """
    partial = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb", buffering=BUFFER) as file:
            file.writelines(chunks)
        partial.replace(target)
    except OSError as error:
        raise DataError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def require_absent(targets: Iterable[Path], force: bool) -> None:
    """Raise a DataError if files are there already, unless ``force``."""
    there = [target for target in targets if target.exists()]
    if there and not force:
        more = f", and {len(there) - 1} more" if len(there) > 1 else ""
        raise DataError(f"{there[0]} exists already{more}; force (or --force) replaces files")
