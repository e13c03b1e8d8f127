"""The rules for a data set's classes and other facts about it."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from detcore.errors import DataError


class MetaInfo(TypedDict, total=False):
    """What ``metainfo`` usually holds; a data set may have facts of its own."""

    classes: Any
    palette: Any


class DataPrefix(TypedDict, total=False):
    """The folders that ``data_prefix`` usually holds; a data set may have others."""

    img: str
    img_path: str
    seg: str
    seg_map_path: str
    sub_data_root: str


class BackendArgs(TypedDict, total=False):
    """``backend_args``: where files are read from."""

    backend: str


def merge_metainfo(defaults: Mapping[str, Any], given: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a data set's class says about itself, overridden by what the config says.

    Raises:
        DataError: ``given`` is no mapping, or its classes are no sequence of names.
    """
    if given is not None and not isinstance(given, Mapping):
        raise DataError(
            f"metainfo must be a dict such as dict(classes=('cat', 'dog')), got {type(given).__name__}"
        )
    merged = {**copy.deepcopy(dict(defaults)), **copy.deepcopy(dict(given or {}))}
    if merged.get("classes") is not None:
        merged["classes"] = check_classes(merged["classes"])
    return merged


def check_classes(classes: Any) -> tuple[str, ...]:
    """The class names as a tuple.

    Raises:
        DataError: One string in place of a sequence, a name that is no string, or a name given twice.
    """
    if isinstance(classes, str):
        raise DataError(
            f"metainfo.classes is the string {classes!r}, which would be read letter by letter; "
            f"one class is written ({classes!r},) with a comma"
        )
    if not isinstance(classes, Sequence) or not all(isinstance(name, str) for name in classes):
        raise DataError(f"metainfo.classes must be a tuple of names such as ('cat', 'dog'), got {classes!r}")
    doubled = sorted({name for name in classes if classes.count(name) > 1})
    if doubled:
        raise DataError(f"metainfo.classes names these classes twice: {', '.join(doubled)}")
    return tuple(classes)


def match_classes(classes: Sequence[str], available: Sequence[str], source: str) -> None:
    """Hold the configured classes against those of the annotation file.

    Raises:
        DataError: A class that the file does not have; the message shows the closest names.
    """
    missing = [name for name in classes if name not in available]
    if not missing:
        return
    hints = []
    for name in missing[:10]:
        close = difflib.get_close_matches(name, available, n=3, cutoff=0.5)
        folded = [other for other in available if other.casefold().strip() == name.casefold().strip()]
        close = folded or close
        hints.append(f"{name!r}" + (f" (did you mean {', '.join(map(repr, close))}?)" if close else ""))
    more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
    listed = ", ".join(map(repr, available[:20])) + (", ..." if len(available) > 20 else "")
    example = ", ".join(map(repr, available[:3])) + (", ..." if len(available) > 3 else ",")
    raise DataError(
        f"{source} has no class {', '.join(hints)}{more}.\n"
        f"  It has {len(available)}: {listed}\n"
        f"  Name the classes to learn by metainfo=dict(classes=({example})), spelt as in the file; a file "
        "that leaves out some classes on purpose is read with missing_classes='allow'."
    )


def relabel(file_classes: Sequence[str], classes: Sequence[str]) -> list[int]:
    """For each class of the file its label among the configured ones, -1 where it is not wanted."""
    wanted = {name: label for label, name in enumerate(classes)}
    return [wanted.get(name, -1) for name in file_classes]
