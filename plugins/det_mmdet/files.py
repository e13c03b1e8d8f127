"""What ``mmengine.fileio`` did for JSON, YAML and text files, on local paths."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import yaml

from detcore.errors import DataError

PathLike = str | os.PathLike[str]
_FORMATS = {"json": "json", "yaml": "yaml", "yml": "yaml"}
_PICKLES = ("pkl", "pickle")


def load(file: PathLike | IO[str], file_format: str | None = None) -> Any:
    """What a JSON or YAML file holds.

    Args:
        file: Path, or an open text file (then ``file_format`` is needed).
        file_format: ``'json'`` or ``'yaml'``; by default by the name's ending.

    Raises:
        DataError: Another format, or a file that cannot be read or is not in its format.
    """
    kind = _format_of(file, file_format)
    try:
        if not isinstance(file, str | os.PathLike):
            return _parsed(kind, file.read())
        return _parsed(kind, Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"cannot read {_name(file)} as {kind}: {error}") from error


def dump(
    obj: Any, file: PathLike | IO[str] | None = None, file_format: str | None = None, **kwargs: Any
) -> Any:
    """Write plain data as JSON or YAML; the text itself where there is no file.

    Numpy's numbers and arrays are written as numbers and lists, sets and tuples as lists.

    Args:
        obj: Plain data.
        file: Path (folders are made), an open text file, or None.
        file_format: ``'json'`` or ``'yaml'``; by default by the name's ending.
        **kwargs: Settings of ``json.dumps`` or ``yaml.safe_dump``.

    Raises:
        DataError: Another format, or data that the format cannot hold.
    """
    kind = _format_of(file, file_format)
    try:
        text = json.dumps(obj, default=_plain, **kwargs) if kind == "json" else yaml.safe_dump(obj, **kwargs)
    except (TypeError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"cannot write {_name(file)} as {kind}: {error}") from error
    if file is None:
        return text
    if not isinstance(file, str | os.PathLike):
        return file.write(text)
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return None


def list_from_file(
    filename: PathLike, prefix: str = "", offset: int = 0, max_num: int = 0, encoding: str = "utf-8"
) -> list[str]:
    """The lines of a text file, without their ends.

    Args:
        filename: Path.
        prefix: Put in front of every line.
        offset: Lines to leave out at the beginning.
        max_num: Lines at most; 0 for all.
        encoding: Of the file.
    """
    lines = Path(filename).read_text(encoding=encoding).split("\n")
    if lines and not lines[-1]:
        lines.pop()
    chosen = lines[offset : offset + max_num if max_num > 0 else None]
    return [prefix + line.rstrip("\r") for line in chosen]


def dict_from_file(
    filename: PathLike, key_type: Callable[[str], Any] = str, encoding: str = "utf-8"
) -> dict[Any, Any]:
    """First word of every line -> the word after it, or the list of those after it.

    Raises:
        DataError: A line of one word.
    """
    found: dict[Any, Any] = {}
    for number, line in enumerate(list_from_file(filename, encoding=encoding), 1):
        key, *values = line.split()
        if not values:
            raise DataError(
                f"{_name(filename)}:{number}: a key and at least one value are needed, got {line!r}"
            )
        found[key_type(key)] = values[0] if len(values) == 1 else values
    return found


def check_file_exist(filename: PathLike, msg_tmpl: str = 'file "{}" does not exist') -> None:
    """Nothing where the file is there.

    Raises:
        FileNotFoundError: It is not.
    """
    if not Path(filename).is_file():
        raise FileNotFoundError(msg_tmpl.format(filename))


def mkdir_or_exist(dir_name: PathLike, mode: int = 0o777) -> None:
    """Make a folder with those above it, unless it is there; nothing for an empty name."""
    if dir_name:
        Path(dir_name).expanduser().mkdir(mode=mode, parents=True, exist_ok=True)


def scandir(
    dir_path: PathLike,
    suffix: str | tuple[str, ...] | None = None,
    recursive: bool = False,
    case_sensitive: bool = True,
) -> Iterator[str]:
    """Paths of the files in a folder, relative to it; hidden ones are left out.

    Args:
        dir_path: The folder.
        suffix: Ending or endings of the names wanted.
        recursive: Look into folders below as well.
        case_sensitive: Whether upper and lower case differ in endings.
    """
    root = Path(dir_path)
    endings = (suffix,) if isinstance(suffix, str) else suffix
    if endings and not case_sensitive:
        endings = tuple(ending.lower() for ending in endings)
    for path in sorted(root.rglob("*") if recursive else root.iterdir()):
        inner = path.relative_to(root)
        name = path.name if case_sensitive else path.name.lower()
        hidden = any(part.startswith(".") for part in inner.parts)
        if path.is_file() and not hidden and (endings is None or name.endswith(endings)):
            yield str(inner)


def _format_of(file: Any, given: str | None) -> str:
    ending = given or (Path(file).suffix[1:] if isinstance(file, str | os.PathLike) else "")
    if ending.lower() in _PICKLES:
        raise DataError(
            f"{_name(file)}: pickles can run code when they are read, so they are neither read nor written; "
            "use JSON or YAML"
        )
    try:
        return _FORMATS[ending.lower()]
    except KeyError:
        wanted = "file_format='json' or 'yaml'" if not ending else "json, yaml or yml"
        raise DataError(f"{_name(file)}: the format {ending!r} is not known; give {wanted}") from None


def _parsed(kind: str, text: str) -> Any:
    return json.loads(text) if kind == "json" else yaml.safe_load(text)


def _plain(value: Any) -> Any:
    """Numpy's numbers and arrays, sets and mappings as what JSON knows."""
    if isinstance(value, set | frozenset):
        return list(value)
    if isinstance(value, Mapping):
        return dict(value)
    for method in ("tolist", "item"):
        if hasattr(value, method):
            return getattr(value, method)()
    raise TypeError(f"{type(value).__name__} is no plain data")


def _name(file: Any) -> str:
    return str(file) if isinstance(file, str | os.PathLike) else getattr(file, "name", "the data")
