"""The arguments of a component, with all that a schema says of them."""

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Iterator
from typing import Any

from detcore.engine.config_schema.docs import argument_docs
from detcore.engine.config_schema.shapes import Shape, shape_of, widened
from detcore.registry.signatures import Slot, parameters_of, resolved_hints

_MISSING = inspect.Parameter.empty


@dataclasses.dataclass(frozen=True)
class Argument:
    """One argument.

    Attributes:
        slot: What becomes of dicts in it.
        shape: The values that its annotation allows.
        default: Its default; ``inspect.Parameter.empty`` where it has none, or none that is known.
        doc: What the docstring says.
    """

    slot: Slot
    shape: Shape
    default: Any
    doc: str


def arguments_of(component: Callable[..., Any]) -> dict[str, Argument]:
    """The arguments of a class or function, the fields of a dataclass or the keys of a TypedDict."""
    hints, defaults = _described(component)
    docs = argument_docs(component)
    found = {}
    for name, slot in parameters_of(component).slots.items():
        default = defaults.get(name, _MISSING)
        shape = shape_of(hints.get(name, Any))
        if default is not _MISSING:
            shape = widened(shape, default)
        found[name] = Argument(slot, shape, default, docs.get(name, ""))
    return found


def _described(component: Callable[..., Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Annotations and defaults by name, of a parent's arguments too, which ``**kwargs`` may stand for."""
    hints: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    for function, hints_of in _functions(component):
        resolved = resolved_hints(hints_of)
        for name, parameter in _parameters(function).items():
            hints.setdefault(name, resolved.get(name, _own_hint(parameter)))
            defaults.setdefault(name, parameter.default)
    if typing.is_typeddict(component):
        hints = resolved_hints(component)
    return hints, defaults


def _functions(component: Any) -> Iterator[tuple[Any, Any]]:
    """What has the signature, and what has its annotations."""
    if not isinstance(component, type):
        inner = component.func if isinstance(component, functools.partial) else component
        yield component, vars(inner).get("__init__", inner) if isinstance(inner, type) else inner
        return
    for owner in component.__mro__:
        own = vars(owner).get("__init__", vars(owner).get("__new__"))
        if owner is not object and own is not None:
            own = getattr(own, "__func__", own)  # of a static `__new__`
            yield own, owner if dataclasses.is_dataclass(owner) else own


def _parameters(function: Any) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # written in C
        return {}


def _own_hint(parameter: inspect.Parameter) -> Any:
    unresolved = parameter.annotation is _MISSING or isinstance(parameter.annotation, str)
    return Any if unresolved else parameter.annotation
