"""Formatting of values into text, without the parts of Python's formats that reach further."""

import re
import string
from typing import Any

from detcore.config.values import Budget, a_kind, measure
from detcore.errors import ConfigError

_SPEC = re.compile(r"(?:.?[<>=^])?[-+ ]?#?0?\d{0,2}[,_]?(?:\.\d{1,2})?[bcdeEfFgGosxX%]?", re.DOTALL)
_PERCENT = re.compile(r"%(?:\(\w+\))?[-+ #0]*\d{0,2}(?:\.\d{1,2})?[sdifFeEgGxXor%]")


def format_value(value: Any, spec: str, budget: Budget) -> str:
    """``format(value, spec)`` with widths below 100 and without attribute access.

    Raises:
        ConfigError: The format is not one of the plain ones.
    """
    if not spec:
        return to_str(value, budget)
    if not _SPEC.fullmatch(spec) or not isinstance(value, (str, int, float)):
        raise ConfigError(f"the format {spec[:20]!r} of {a_kind(value)} is not allowed in a config")
    budget.charge(len(value) if isinstance(value, str) else 1)
    return format(value, spec)


def percent(text: str, values: Any, budget: Budget) -> str:
    """``text % values`` with widths below 100.

    Raises:
        ConfigError: The text holds a conversion that is not one of the plain ones.
    """
    rest = _PERCENT.sub("", text)
    if "%" in rest:
        raise ConfigError("only plain %s, %d, %f, ... with widths below 100 are allowed in a config")
    budget.charge(len(text))
    for _ in range(text.count("%") if isinstance(values, dict) else 1):  # %(name)s may repeat a long value
        measure(values, budget)
    return text % (dict(values) if isinstance(values, dict) else values)


def to_str(value: Any, budget: Budget) -> str:
    """``str(value)``, paid for."""
    measure(value, budget)
    return str(_builtin(value))


def to_repr(value: Any, budget: Budget) -> str:
    """``repr(value)``, paid for."""
    measure(value, budget)
    return repr(_builtin(value))


def _builtin(value: Any) -> Any:
    """Our own dicts print as dicts, also within lists; the value has been measured, so this ends."""
    if isinstance(value, dict):
        return {key: _builtin(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)([_builtin(item) for item in value])
    return value


def str_format(budget: Budget, target: str, /, *args: Any, **kwargs: Any) -> str:
    """``target.format(...)`` that reads no attributes.

    Raises:
        ConfigError: A field reads an attribute or an item, or has a format that is not plain.
    """
    budget.charge(len(target))
    out: list[str] = []
    position = 0
    for text, name, spec, conversion in string.Formatter().parse(target):
        out.append(text)
        if name is None:
            continue
        if not re.fullmatch(r"\w*", name):
            raise ConfigError(f"str.format may not read attributes or items in a config: {{{name[:40]}}}")
        if spec and "{" in spec:
            raise ConfigError("a format within a format is not allowed in a config")
        if name == "" or name.isdigit():
            value = args[int(name) if name else position]
            position += 1
        else:
            value = kwargs[name]
        out.append(format_value(converted(value, conversion, budget), spec or "", budget))
    return "".join(out)


def converted(value: Any, conversion: str | None, budget: Budget) -> Any:
    """What ``!r``, ``!s`` or ``!a`` makes of a value."""
    if not conversion:
        return value
    if conversion == "s":
        return to_str(value, budget)
    text = to_repr(value, budget)
    return ascii(text)[1:-1] if conversion == "a" and not text.isascii() else text
