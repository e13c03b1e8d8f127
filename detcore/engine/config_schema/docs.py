"""What docstrings say of a component and of its arguments."""

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

_SECTIONS = ("Args:", "Arguments:", "Parameters:", "Attributes:", "Keyword Args:")
_ROLE = re.compile(r":\w+:`~?([^`]*)`")
_ENTRY = re.compile(r"\*{0,2}(?P<name>\w+)\s*(?:\([^:]*\))?\s*:\s*(?P<text>.*)")


def summary(component: Any) -> str:
    """The first paragraph of the docstring, as one line; empty where there is none of its own."""
    text = inspect.cleandoc(getattr(component, "__doc__", None) or "")
    return _plain(text.split("\n\n", 1)[0].split())


def _plain(words: list[str]) -> str:
    """Text for editors, which know Markdown but not the marks of Python's documentation."""
    return _ROLE.sub(r"`\1`", " ".join(words)).replace("``", "`")


def argument_docs(component: Callable[..., Any]) -> dict[str, str]:
    """What the sections on arguments say of each; a class's own docstring before those of its parents."""
    owners = component.__mro__ if isinstance(component, type) else (component,)
    found: dict[str, str] = {}
    for owner in owners:
        if owner is object:
            continue
        for documented in (owner, vars(owner).get("__init__") if isinstance(owner, type) else None):
            for name, text in _entries(getattr(documented, "__doc__", None) or ""):
                found.setdefault(name, text)
    return found


def _entries(docstring: str) -> Iterator[tuple[str, str]]:
    """``name: text`` of every entry in the sections; lines that are indented deeper go on with an entry."""
    lines = iter([*inspect.cleandoc(docstring).splitlines(), "end"])
    inside, indent = False, 0
    name, texts = "", list[str]()
    for line in lines:
        depth = len(line) - len(line.lstrip())
        if line.strip() and depth == 0:
            if name:
                yield name, _plain(texts)
            name, inside, indent = "", line.strip() in _SECTIONS, 0
            continue
        if not inside or not line.strip():
            continue
        indent = indent or depth
        entry = _ENTRY.fullmatch(line.strip()) if depth == indent else None
        if entry is not None:
            if name:
                yield name, _plain(texts)
            name, texts = entry["name"], [entry["text"]]
        elif name:
            texts.append(line.strip())
