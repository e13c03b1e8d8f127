"""Values of a config as one line for people, and as strict JSON for programs."""

import math
from typing import Any

_TAIL = 12
"""Characters kept of the end of a text that is shortened: the end of a path tells more than its middle."""


def one_line(value: Any, limit: int | None = None) -> str:
    """The value in Python's notation, dicts as ``dict(a=1)``.

    Args:
        value: Anything that a config may hold; what is no data shows as its ``repr``.
        limit: Length from which the text is shortened by ``...`` in its middle; None for the whole.
    """
    text = _text(value)
    if limit is None or len(text) <= limit:
        return text
    return f"{text[: limit - _TAIL - 3]}...{text[-_TAIL:]}"


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return _dict_text(value)
    if type(value) is list:
        return f"[{', '.join(map(_text, value))}]"
    if type(value) is tuple:
        return f"({', '.join(map(_text, value))}{',' if len(value) == 1 else ''})"
    if type(value) is set and value:
        return f"{{{', '.join(sorted(map(_text, value)))}}}"
    return _safe_repr(value)


def _dict_text(value: dict[Any, Any]) -> str:
    if value and all(isinstance(key, str) and key.isidentifier() for key in value):
        return f"dict({', '.join(f'{key}={_text(item)}' for key, item in value.items())})"
    return f"{{{', '.join(f'{_text(key)}: {_text(item)}' for key, item in value.items())}}}"


def _safe_repr(value: Any) -> str:
    try:
        text = repr(value)
    except Exception as error:  # an object of a config that was run as Python; it must not hide the others
        text = f"<{type(value).__name__} whose repr fails: {type(error).__name__}>"
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def to_json(value: Any) -> Any:
    """The value in what strict JSON knows.

    Tuples become lists, sets sorted lists; ``nan`` and ``inf`` become strings, as does what is no data (its
    ``repr``); a dict with keys that are no strings becomes a list of ``[key, value]``.
    """
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value):
            return {str(key): to_json(item) for key, item in value.items()}
        return [[to_json(key), to_json(item)] for key, item in value.items()]
    if type(value) in (list, tuple):
        return [to_json(item) for item in value]
    if type(value) is set:
        return [to_json(item) for item in sorted(value, key=repr)]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    return str(value) if isinstance(value, str) else _safe_repr(value)
