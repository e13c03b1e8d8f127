"""Regions that a detector starts from, made beforehand: a table of all images, and its files."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detcore.errors import DataError

FORMAT = "detcore proposals"
_ARRAYS = ("names", "first", "boxes", "scores")


@dataclass
class ProposalTable:
    """Proposals of ``I`` images, ``P`` in all, column by column.

    Attributes:
        names: str (I,), ascending: ``folder/name`` of each image's file.
        first: int64 (I + 1,); image ``i`` has the proposals ``first[i]:first[i + 1]``.
        boxes: float32 (P, 4), xyxy, absolute pixels of the original image.
        scores: float32 (P,).
    """

    names: np.ndarray
    first: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    def of(self, name: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Boxes (n, 4) and scores (n,) of an image, views of the table; None where it is not in there."""
        row = int(np.searchsorted(self.names, name))
        if row == len(self.names) or self.names[row] != name:
            return None
        rows = slice(int(self.first[row]), int(self.first[row + 1]))
        return self.boxes[rows], self.scores[rows]


def image_key(path: str | Path) -> str:
    """By what an image is found among proposals: its file's name with the folder it lies in."""
    parts = Path(path).parts[-2:]
    return "/".join(part for part in parts if part not in ("/", "\\"))


def proposals_from(entries: Iterable[tuple[str, Any, Any]], source: str) -> ProposalTable:
    """A table of (name, boxes, scores) of each image.

    Args:
        entries: Boxes are (n, 4) xyxy, scores (n,); an image without proposals has none of either.
        source: What to call the origin in messages.

    Raises:
        DataError: A shape is wrong, a number is not finite, or an image comes twice; the message names it.
    """
    ordered = sorted(entries, key=lambda entry: entry[0])
    names, boxes, scores = [], [np.zeros((0, 4), np.float32)], [np.zeros(0, np.float32)]
    for name, of_boxes, of_scores in ordered:
        names.append(name)
        boxes.append(_numbers(of_boxes, (-1, 4), "bboxes", name, source))
        scores.append(_numbers(of_scores, (-1,), "scores", name, source))
        if len(boxes[-1]) != len(scores[-1]):
            raise DataError(f"{source}: {name} has {len(boxes[-1])} bboxes and {len(scores[-1])} scores")
    first = np.cumsum([len(one) for one in scores], dtype=np.int64)
    table = ProposalTable(np.array(names, np.str_), first, np.concatenate(boxes), np.concatenate(scores))
    return _checked(table, source)


def write_proposals(path: str | Path, table: ProposalTable) -> None:
    """Write proposals, whole or not at all; what is read back is equal bit for bit.

    Args:
        path: ``.npz`` (arrays, small and fast) or ``.json`` (for other programs).
        table: What to write.

    Raises:
        DataError: The file has another ending.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.tmp")
    if path.suffix == ".npz":
        with partial.open("wb") as file:
            np.savez(file, **{name: getattr(table, name) for name in _ARRAYS})
    elif path.suffix == ".json":
        images = {}
        for row, name in enumerate(table.names.tolist()):
            rows = slice(int(table.first[row]), int(table.first[row + 1]))
            images[name] = {"bboxes": table.boxes[rows].tolist(), "scores": table.scores[rows].tolist()}
        partial.write_text(json.dumps({"format": FORMAT, "images": images}), encoding="utf-8")
    else:
        raise DataError(f"proposals are written to .npz or .json, got {str(path)!r}")
    partial.replace(path)


def read_proposals(path: str | Path) -> ProposalTable:
    """Read what `write_proposals` wrote.

    Raises:
        DataError: The file cannot be read, is something else, or holds what are no proposals.
    """
    path = Path(path)
    try:
        if path.suffix == ".npz":
            return _read_arrays(path)
        if path.suffix == ".json":
            return proposals_of_content(json.loads(path.read_text(encoding="utf-8")), str(path))
    except OSError as error:
        raise DataError(f"cannot read the proposals {path}: {error.strerror or error}") from error
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise DataError(f"{path} is damaged, or no file of proposals: {error}") from error
    raise DataError(f"proposals are read from .npz or .json, got {str(path)!r}")


def proposals_of_content(content: Any, source: str) -> ProposalTable:
    """A table of ``{name: dict(bboxes, scores)}``, which may stand under ``images``.

    Raises:
        DataError: It is something else.
    """
    images = content.get("images", content) if isinstance(content, Mapping) else content
    if not isinstance(images, Mapping):
        kind = "a list" if isinstance(images, Sequence) else f"a {type(images).__name__}"
        raise DataError(
            f"{source}: proposals are a dict of the images' names (folder/name), this is {kind}; files of "
            "MMDetection 2.x, which go by the order of the images, must be written anew"
        )
    for name, entry in images.items():
        if not (isinstance(name, str) and isinstance(entry, Mapping) and {"bboxes", "scores"} <= set(entry)):
            raise DataError(
                f"{source}: {name!r} needs a dict with bboxes and scores, got {str(entry)[:60]!r}"
            )
    entries = ((name, entry["bboxes"], entry["scores"]) for name, entry in images.items())
    return proposals_from(entries, source)


def _read_arrays(path: Path) -> ProposalTable:
    with path.open("rb") as file:
        arrays = np.load(file, allow_pickle=False)
        known = set(getattr(arrays, "files", ()))
        missing = [name for name in _ARRAYS if name not in known]
        if missing:
            raise DataError(f"{path}: no array {missing[0]!r}; proposals are {', '.join(_ARRAYS)}")
        names, first, boxes, scores = (arrays[name] for name in _ARRAYS)
    fits = (
        names.ndim == 1 and names.dtype.kind == "U" and first.shape == (len(names) + 1,)
        and first.dtype.kind in "iu" and boxes.dtype.kind == scores.dtype.kind == "f"
        and scores.shape == (len(boxes),) and boxes.shape == (len(boxes), 4)
        and first[0] == 0 and first[-1] == len(boxes) and bool((np.diff(first.astype(np.int64)) >= 0).all())
    )
    if not fits:
        shapes = ", ".join(f"{name} {array.dtype} {array.shape}" for name, array in
                           zip(_ARRAYS, (names, first, boxes, scores), strict=True))
        raise DataError(f"{path}: these arrays are no proposals: {shapes}")
    table = ProposalTable(
        names, first.astype(np.int64), boxes.astype(np.float32, copy=False),
        scores.astype(np.float32, copy=False),
    )
    return _checked(table, str(path))


def _checked(table: ProposalTable, source: str) -> ProposalTable:
    """The table; its numbers are finite and its names ascend, each once."""
    if (table.names[1:] <= table.names[:-1]).any():
        row = int(np.argmax(table.names[1:] <= table.names[:-1])) + 1
        raise DataError(f"{source}: images must ascend, each once; {str(table.names[row])!r} does not")
    finite = np.isfinite(table.boxes).all(1) & np.isfinite(table.scores)
    if not finite.all():
        row = int(np.searchsorted(table.first, int(np.argmin(finite)), side="right")) - 1
        raise DataError(f"{source}: the proposals of {table.names[row]} hold NaN or infinite numbers")
    return table


def _numbers(value: Any, shape: tuple[int, ...], what: str, name: str, source: str) -> np.ndarray:
    """float32 of that shape (-1: any length)."""
    try:
        array = np.asarray(value, np.float32)
    except (TypeError, ValueError):
        raise DataError(f"{source}: {what} of {name} are no numbers: {str(value)[:60]!r}") from None
    if array.size == 0 and array.ndim <= len(shape):
        return np.zeros((0, *shape[1:]), np.float32)
    if array.ndim != len(shape) or array.shape[1:] != shape[1:]:
        wanted = "(n, 4)" if len(shape) == 2 else "(n,)"
        raise DataError(f"{source}: {what} of {name} must have shape {wanted}, got {array.shape}")
    return array
