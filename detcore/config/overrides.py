"""Overrides from the command line: ``--cfg-options model.backbone.depth=101 train_pipeline.1.prob=0.3``."""
import re
from collections.abc import Iterable, Mapping
from typing import Any

from detcore.config.document import ConfigDict, closest, config_dict, origins_of, to_config
from detcore.config.files import SUFFIXES
from detcore.config.merge import merge
from detcore.config.references import References
from detcore.config.values import Budget, LimitError, a_kind
from detcore.errors import ConfigError

_QUOTED = re.compile(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"", re.DOTALL)
_BRACKETS = {"(": ")", "[": "]", "{": "}"}
_WORDS = {"true": True, "false": False}
ORIGIN = "--cfg-options"


def apply_options(tree: ConfigDict, options: Mapping[str, Any], *, resolve: bool = True) -> ConfigDict:
    """A config with overrides laid over it; the given one stays as it is.

    Args:
        tree: The config.
        options: Values by dotted path; a number in a path is an index where the config has a list there.
        resolve: Whether ``${key}`` in the new values is replaced at once.

    Raises:
        ConfigError: A path leads through a plain value, past a list's end, or through another override.
    """
    result = _merged(tree, options)
    if resolve and any("${" in repr(value) for value in options.values()):
        references = References(result, Budget())
        try:
            options = {path: references.resolve(to_config(value)) for path, value in options.items()}
        except LimitError as error:
            raise ConfigError(f"{ORIGIN}: {error}") from None
        result = _merged(tree, options)
    return result


def _merged(tree: ConfigDict, options: Mapping[str, Any]) -> ConfigDict:
    nested = ConfigDict()
    for path, value in options.items():
        parts = path.split(".") if isinstance(path, str) else []
        if not all(parts) or not parts:
            raise ConfigError(f"{ORIGIN}: {path!r} is no path; write key.key.0.key=value")
        _check_path(tree, parts)
        _insert(nested, parts, to_config(value))
    try:
        return merge(nested, tree, list_keys=True)
    except ConfigError as error:
        raise ConfigError(f"{ORIGIN}: {error}") from None


def _insert(nested: ConfigDict, parts: list[str], value: Any) -> None:
    target = nested
    for i, part in enumerate(parts[:-1]):
        if part not in target:
            dict.__setitem__(target, part, config_dict({}, {}))
            origins_of(target)[part] = (ORIGIN, 0)
        inner = target[part]
        if not isinstance(inner, ConfigDict):
            raise ConfigError(f"{ORIGIN}: {'.'.join(parts)} and {'.'.join(parts[: i + 1])} contradict")
        target = inner
    dict.__setitem__(target, parts[-1], value)
    origins_of(target)[parts[-1]] = (ORIGIN, 0)


def _check_path(tree: ConfigDict, parts: list[str]) -> None:
    """Walk as far as the config knows the path; what lies beyond a dict is new, beyond a value wrong."""
    value: Any = tree
    for i, part in enumerate(parts):
        done = ".".join(parts[:i])
        if isinstance(value, dict):
            if part not in value:
                return
            value = value[part]
        elif isinstance(value, (list, tuple)):
            if not re.fullmatch(r"-?\d+", part, re.ASCII):
                raise ConfigError(f"{ORIGIN}: {done} is a list of {len(value)} items, {part!r} is no index")
            if not -len(value) <= int(part) < len(value):
                raise ConfigError(f"{ORIGIN}: {done} has {len(value)} items, so there is no {done}.{part}")
            value = value[int(part)]
        else:
            owner = _lookup(tree, parts[: i - 1])
            containers = [key for key, item in owner.items() if isinstance(item, (dict, list))]
            near = closest(parts[i - 1], containers)
            hint = near if "did you mean" in near else ""
            what = f"{done} is {a_kind(value)} ({value!r:.40})"
            raise ConfigError(f"{ORIGIN}: {what}, so {part!r} cannot be set in it{hint}")


def _lookup(tree: Any, parts: list[str]) -> Mapping[Any, Any]:
    for part in parts:
        tree = tree[part] if isinstance(tree, dict) else tree[int(part)]
    return tree if isinstance(tree, dict) else {}


def parse_cfg_options(arguments: Iterable[str]) -> dict[str, Any]:
    """Read ``key=value`` arguments.

    Values are ints, floats, ``True``/``False``, ``None``, lists ``[a,b]`` or ``a,b``, tuples ``(a,b)``, dicts
    ``{a: 1}``, nested at will; anything else, and what stands in quotes, is a string.

    Args:
        arguments: What follows ``--cfg-options``; a shell has removed one level of quotes already.

    Raises:
        ConfigError: An argument has no ``=``, or brackets or quotes that do not match.
    """
    options: dict[str, Any] = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals or not key.strip():
            # A second config, as of a shell's *.py, arrives here, too.
            hint = "; a command takes one config" if argument.endswith(SUFFIXES) else ""
            raise ConfigError(f"{ORIGIN}: expected key=value, got {argument!r}{hint}")
        try:
            options[key.strip()] = _value(text.strip(), 0)
        except ConfigError as error:
            raise ConfigError(f"{ORIGIN}: {argument!r}: {error}") from None
    return options


def _value(text: str, depth: int) -> Any:
    if depth > 50:
        raise ConfigError("nested too deeply")
    if _QUOTED.fullmatch(text):
        unquoted = text[1:-1]
        return _value(unquoted, depth + 1) if _bracketed(unquoted) else _unescaped(unquoted)
    parts = _split(text, ",")
    if depth == 0 and len(parts) > 1:
        return [_value(part, depth + 1) for part in _without_last_empty(parts)]
    if not _bracketed(text):
        return _scalar(text)
    inner = _without_last_empty(_split(text[1:-1], ","))
    if text[0] == "{":
        return dict(_pair(part, depth) for part in inner)
    values = [_value(part, depth + 1) for part in inner]
    return tuple(values) if text[0] == "(" else values


def _bracketed(text: str) -> bool:
    return len(text) > 1 and _BRACKETS.get(text[0]) == text[-1] and len(_split(text, None)) == 1


def _unescaped(text: str) -> str:
    return re.sub(r"\\(['\"\\])", r"\1", text)


def _pair(text: str, depth: int) -> tuple[Any, Any]:
    parts = _split(text, ":")
    if len(parts) < 2:
        raise ConfigError(f"expected 'key: value' in a dict, got {text!r}")
    return _value(parts[0], depth + 1), _value(":".join(parts[1:]).strip(), depth + 1)


def _without_last_empty(parts: list[str]) -> list[str]:
    return parts[:-1] if parts[-1] == "" else parts


def _split(text: str, separator: str | None) -> list[str]:
    """Split at separators outside of brackets and quotes; with None, where the first bracket has closed."""
    closing: list[str] = []
    parts: list[str] = []
    start = i = 0
    while i < len(text):
        char = text[i]
        if char in "'\"" and (quoted := _QUOTED.match(text, i)):
            i = quoted.end()
            continue
        if char in _BRACKETS:
            closing.append(_BRACKETS[char])
        elif char in ")]}":
            if not closing or closing.pop() != char:
                raise ConfigError(f"the brackets do not match at {text[i:][:20]!r}; put text into quotes")
            if separator is None and not closing and i + 1 < len(text):
                return [text[: i + 1], text[i + 1 :]]
        elif char == separator and not closing:
            parts.append(text[start:i].strip())
            start = i + 1
        i += 1
    if closing:
        raise ConfigError(f"{closing[-1]!r} is missing; put text into quotes")
    return [*parts, text[start:].strip()]


def _scalar(text: str) -> Any:
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    return None if text == "None" else text
