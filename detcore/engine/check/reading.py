"""Reading a config of which nothing is certain yet: what is malformed counts as empty here.

That it is malformed is said by whoever checks that place.
"""
from collections.abc import Iterator, Mapping
from typing import Any


def table(value: Any) -> Mapping[str, Any]:
    """The value if it is a dict, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def entries(value: Any) -> list[Any]:
    """The items of a list or tuple; a dict counts as a list of one, anything else as none."""
    if isinstance(value, Mapping):
        return [value]
    return list(value) if isinstance(value, list | tuple) else []


def number(value: Any) -> float | None:
    """The value if it is a number."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def name_of_type(value: Any) -> str:
    """The ``type`` of a dict without its scope, as text; empty where there is none."""
    kind = table(value).get("type")
    name = kind if isinstance(kind, str) else getattr(kind, "__name__", "")
    return str(name).rpartition(".")[2]


def dicts(value: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """All dicts in a value with their paths, the outer before the inner."""
    if isinstance(value, Mapping):
        yield path, value
        for key, inner in value.items():
            yield from dicts(inner, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from dicts(inner, f"{path}.{index}")


def datasets(value: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The data sets that read something, inside wrappers of data sets."""
    cfg = table(value)
    if isinstance(cfg.get("dataset"), Mapping):
        yield from datasets(cfg["dataset"], f"{path}.dataset")
    elif isinstance(cfg.get("datasets"), list | tuple):
        for index, inner in enumerate(cfg["datasets"]):
            yield from datasets(inner, f"{path}.datasets.{index}")
    elif cfg:
        yield path, cfg
