"""Writing a config: as Python in the dialect that configs are read in, as YAML or as JSON."""
import keyword
import math
from collections.abc import Iterator
from typing import Any

from detcore.config.placeholders import PLACEHOLDER
from detcore.config.references import REFERENCE
from detcore.config.values import MAX_DEPTH, a_kind
from detcore.errors import ConfigError

WIDTH = 100
_INDENT = "    "


def to_text(tree: Any, suffix: str) -> str:
    """The text of a config in the format of a file suffix.

    Raises:
        ConfigError: Unknown suffix, or a value that the format cannot hold.
    """
    if suffix == ".py":
        return pretty(tree)
    if suffix == ".json":
        import json

        return json.dumps(_plain(tree, ""), indent=2, ensure_ascii=False) + "\n"
    if suffix in (".yaml", ".yml"):
        from detcore.config.yaml_format import dump_yaml

        return dump_yaml(_plain(tree, ""), WIDTH)
    raise ConfigError(f"a config is written as .py, .yaml, .yml or .json, not {suffix!r}")


def pretty(tree: dict[Any, Any]) -> str:
    """A config as Python: one ``key = value`` a key, nested dicts as ``dict(...)``.

    Raises:
        ConfigError: A top-level key is no name, or a value is no data.
    """
    blocks = []
    for key, value in tree.items():
        if not _is_name(key) or (key.startswith("__") or key == "_base_"):
            raise ConfigError(f"the top-level key {key!r} cannot be written as Python; write .yaml or .json")
        blocks.append(f"{key} = {_layout(value, '', len(key) + 3, str(key), 0)}\n")
    return "".join(blocks)


def _is_name(key: Any) -> bool:
    return isinstance(key, str) and key.isascii() and key.isidentifier() and not keyword.iskeyword(key)


def _layout(value: Any, indent: str, used: int, path: str, depth: int) -> str:
    """The value's text on one line where it fits, else one item a line."""
    if depth > MAX_DEPTH:
        raise ConfigError(f"{path} is nested more than {MAX_DEPTH} levels deep")
    if not isinstance(value, (dict, list, tuple, set)) or not value:
        return _leaf(value, path)
    room = WIDTH - len(indent) - used
    flat = _flat(value, path, room, depth)
    if flat is not None:
        return flat
    inner = indent + _INDENT
    opening, closing = _brackets(value)
    lines = [
        f"{inner}{head}{_layout(item, inner, len(head) + 1, where, depth + 1)},\n"
        for head, item, where in _items(value, path)
    ]
    return f"{opening}\n{''.join(lines)}{indent}{closing}"


def _flat(value: Any, path: str, room: int, depth: int) -> str | None:
    """The value on one line, or None where it is longer than the room or holds dicts within dicts."""
    if room < 0 or depth > MAX_DEPTH:
        return None
    if not isinstance(value, (dict, list, tuple, set)) or not value:
        leaf = _leaf(value, path)
        return leaf if len(leaf) <= room else None
    parts = []
    opening, closing = _brackets(value)
    left = room - 2
    for head, item, where in _items(value, path):
        text = _flat(item, where, left - len(head), depth + 1)
        if text is None:
            return None
        parts.append(head + text)
        left -= len(parts[-1]) + 2
        if left < -3:
            return None
    comma = "," if isinstance(value, tuple) and len(value) == 1 else ""
    text = f"{opening}{', '.join(parts)}{comma}{closing}"
    return text if len(text) <= room else None


def _brackets(value: Any) -> tuple[str, str]:
    if isinstance(value, dict):
        return ("dict(", ")") if all(map(_is_name, value)) else ("{", "}")
    if isinstance(value, set):
        return "{", "}"
    return ("(", ")") if isinstance(value, tuple) else ("[", "]")


def _items(value: Any, path: str) -> Iterator[tuple[str, Any, str]]:
    """What stands before each item, the item, and its path."""
    if isinstance(value, dict):
        names = all(map(_is_name, value))
        for key, item in value.items():
            yield (f"{key}=" if names else f"{_key(key, path)}: "), item, f"{path}.{key}"
    else:
        for i, item in enumerate(sorted(value, key=repr) if isinstance(value, set) else value):
            yield "", item, f"{path}.{i}"


def _key(key: Any, path: str) -> str:
    return repr(_escape_braces(key)) if isinstance(key, str) else _layout(key, "", 0, path, 0)


def _leaf(value: Any, path: str) -> str:
    if isinstance(value, str):
        return repr(escape(str(value)))
    if value is None or isinstance(value, (bool, int)):
        return repr(value)
    if isinstance(value, float):
        return f"float({str(value)!r})" if math.isinf(value) or math.isnan(value) else repr(float(value))
    if isinstance(value, (dict, list, tuple, set)):  # only empty ones come here
        if isinstance(value, set):
            return "set()"
        return "{}" if isinstance(value, dict) else "".join(_brackets(value))
    if isinstance(value, range):
        return repr(value)
    return _leaf(foreign(value, path), path)


def foreign(value: Any, path: str) -> Any:
    """What stands in a file for a value that code has put into a config.

    Raises:
        ConfigError: There is no text for it.
    """
    from pathlib import PurePath

    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, type) or callable(value):
        return f"{value.__module__}.{getattr(value, '__qualname__', type(value).__name__)}"
    item = getattr(value, "item", None)  # numpy's scalars
    if item is not None and getattr(value, "ndim", None) == 0:
        return item()
    raise ConfigError(f"{path}: {a_kind(value)} cannot be written into a config")


def escape(text: str) -> str:
    """A string that reads back as it is, although it looks like it holds placeholders or references."""
    return REFERENCE.sub(lambda match: "$" + match[0], _escape_braces(text))


def _escape_braces(text: str) -> str:
    """All that keys need: references in them are not replaced."""
    return text.replace("{{", "{{'{{'}}") if PLACEHOLDER.search(text) else text


def _plain(value: Any, path: str, depth: int = 0) -> Any:
    """The value in what YAML and JSON know: tuples, sets and ranges become lists."""
    if depth > MAX_DEPTH:
        raise ConfigError(f"{path} is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise ConfigError(f"{path}: the key {key!r} is no string; YAML and JSON cannot hold it")
        where = f"{path}." if path else ""
        return {_escape_braces(key): _plain(item, f"{where}{key}", depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple, range)):
        return [_plain(item, f"{path}.{i}", depth + 1) for i, item in enumerate(value)]
    if isinstance(value, set):
        return sorted((_plain(item, path, depth + 1) for item in value), key=repr)
    if isinstance(value, str):
        return escape(str(value))
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return _plain(foreign(value, path), path, depth + 1)
