"""Gives a set of images without categories those of another file, so that it loads as a data set."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detcore.data.coco_text import (
    BETWEEN,
    Piece,
    category_ids,
    encode,
    file_text,
    is_id,
    require_absent,
    require_members,
    unique_rows,
    write_whole,
)
from detcore.data.json_stream import stream_members
from detcore.errors import DataError

LISTS = ("images", "annotations")
_SHOWN = 5  # names of categories in a message


@dataclass(frozen=True)
class WithCategories:
    """What `add_categories` wrote: the file, its numbers of images and annotations, its categories' names.

    ``uncategorised`` is the number of annotations whose category is not among them.
    """

    path: Path
    images: int
    annotations: int
    categories: tuple[str, ...]
    uncategorised: int


def add_categories(
    image_info: str | Path, instances: str | Path, out: str | Path, *, force: bool = False
) -> WithCategories:
    """Write a COCO file's content with the categories of another one, for unlabelled images.

    All that is in the file is kept; ``annotations`` becomes an empty list where it is missing.

    Args:
        image_info: A COCO file, usually with neither ``annotations`` nor ``categories``.
        instances: The COCO file that has the categories.
        out: The file to write, neither of these two.
        force: Replace other categories in ``image_info``, and ``out`` where it is there.

    Returns:
        What was written.

    Raises:
        DataError: A file cannot be read or is not COCO, image ids are not unique, ``image_info`` has other
            categories, ``out`` exists or cannot be written.
    """
    source, giver, target = Path(image_info), Path(instances), Path(out)
    _require_other(target, (source, giver))
    require_absent([target], force)
    content = _images(source)
    categories = _categories(giver)
    if content.get("categories") not in (None, [], categories) and not force:
        raise DataError(
            f"{source} has categories of its own ({_named(content['categories'])}), others than {giver} "
            f"({_named(categories)}); force (or --force) replaces them"
        )
    content["categories"] = categories
    write_whole(target, file_text((key, _text(key, value)) for key, value in content.items()))
    known = set(category_ids(giver, categories))
    strays = sum(_category_of(annotation) not in known for annotation in content["annotations"])
    names = tuple(category["name"] for category in categories)
    return WithCategories(target, len(content["images"]), len(content["annotations"]), names, strays)


def _require_other(target: Path, sources: tuple[Path, ...]) -> None:
    for source in sources:
        if target.resolve() == source.resolve():
            raise DataError(f"{target} is to be written, and is one of the files to read; name another one")


def _images(path: Path) -> dict[str, Any]:
    """The members of the file; ``annotations`` is there."""
    content: dict[str, Any] = dict(stream_members(path, ()))
    require_members(path, content, ("images",))
    if content.get("annotations") is None:
        content["annotations"] = []
    for key in LISTS:
        records: Any = content[key]
        if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
            raise DataError(f"{path}: `{key}` must be a list of objects, got {encode(records)[:80]}")
    ids = [image.get("id") for image in content["images"]]
    if not all(map(is_id, ids)):
        raise DataError(f"{path}: every image needs a number or text as its `id`")
    unique_rows(path, ids)
    return content


def _categories(path: Path) -> list[dict[str, Any]]:
    """The categories of a COCO file, whose other records are passed over one by one."""
    seen: dict[str, Any] = {}
    for key, value in stream_members(path, LISTS):
        seen[key] = value
        if key == "categories":
            break  # what comes behind them is not needed
    require_members(path, seen, ("categories",))
    categories: list[dict[str, Any]] = seen["categories"]
    category_ids(path, categories)
    return categories


def _category_of(annotation: dict[str, Any]) -> Any:
    id_ = annotation.get("category_id")
    return id_ if is_id(id_) else None


def _named(categories: Any) -> str:
    if not isinstance(categories, list):
        return encode(categories)[:80]
    names = [str(each.get("name") if isinstance(each, dict) else each) for each in categories]
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _text(key: str, value: Any) -> str | list[Piece]:
    if key not in LISTS:
        return encode(value)
    return [BETWEEN.join(encode(record).encode("ascii") for record in value)]
