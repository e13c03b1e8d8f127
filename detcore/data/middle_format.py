"""Reads the manual's own annotation format: ``metainfo`` and ``data_list``."""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from detcore.data.defects import DefectCounter
from detcore.data.json_stream import stream_members
from detcore.data.metainfo import check_classes, match_classes, relabel
from detcore.errors import DataError


def read_middle_format(
    path: str, metainfo: dict[str, Any], defects: DefectCounter, missing_classes: str
) -> Iterator[dict[str, Any]]:
    """Entries of the file, one by one, with labels of the configured classes.

    Args:
        path: JSON or YAML file.
        metainfo: What is known of the data set; the file's facts are added where they are not known yet. If
            its classes differ from the file's, labels are translated by name and other instances left out.
        defects: Counts labels outside the file's classes.
        missing_classes: ``'raise'`` refuses configured classes that the file does not have.

    Raises:
        DataError: The file cannot be read, has no ``data_list`` or lacks a class.
    """
    labels: list[int] | None = None
    waiting: list[dict[str, Any]] = []
    seen = set()
    for key, value in _top_level(path):
        if key == "metainfo" and isinstance(value, Mapping):
            labels = _take_metainfo(path, metainfo, value, missing_classes)
        elif key == "data_list" and isinstance(value, Mapping):
            # Labels can be translated only once the file's classes are known.
            if "metainfo" in seen:
                yield _translated(dict(value), labels, defects)
            else:
                waiting.append(dict(value))
        elif key == "data_list" and value is not None:
            raise DataError(f"{path}: an entry of data_list is no object: {str(value)[:80]!r}")
        seen.add(key)
    for raw in waiting:
        yield _translated(raw, labels, defects)
    if "data_list" not in seen:
        raise DataError(
            f"{path}: no `data_list`; the middle format is an object with `metainfo` and `data_list`, this "
            f"file has {', '.join(sorted(seen)) or 'nothing'}"
        )


def _take_metainfo(
    path: str, metainfo: dict[str, Any], found: Mapping[str, Any], missing_classes: str
) -> list[int] | None:
    """Add the file's facts; the new labels of its classes where they differ from the configured ones."""
    for key, value in found.items():
        metainfo.setdefault(key, check_classes(value) if key == "classes" else value)
    if "classes" not in found or not metainfo["classes"]:
        return None
    classes, file_classes = metainfo["classes"], check_classes(found["classes"])
    if missing_classes == "raise":
        match_classes(classes, file_classes, path)
    return None if classes == file_classes else relabel(file_classes, classes)


def _translated(raw: dict[str, Any], labels: list[int] | None, defects: DefectCounter) -> dict[str, Any]:
    if labels is not None:
        kept = []
        for instance in raw.get("instances") or ():
            label = instance.get("bbox_label")
            if not isinstance(label, int) or not 0 <= label < len(labels):
                defects.add("category-unknown", f"{raw.get('img_path')} label {label}")
            elif labels[label] >= 0:
                kept.append({**instance, "bbox_label": labels[label]})
        raw["instances"] = kept
    return raw


def _top_level(path: str) -> Iterator[tuple[str, object]]:
    """Members of the annotation file, those of ``data_list`` one by one."""
    suffix = Path(path).suffix.lower()
    if suffix in (".pkl", ".pickle"):
        raise DataError(f"{path}: pickled annotations can run code when they are read; convert them to JSON")
    if suffix not in (".yaml", ".yml"):
        yield from stream_members(path, ("data_list",))
        return
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read the annotation file {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise DataError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(content, Mapping):
        raise DataError(f"{path}: the top level must be a mapping")
    for key, value in content.items():
        if key == "data_list" and isinstance(value, list):
            yield key, None
            yield from ((key, element) for element in value)
        else:
            yield key, value
