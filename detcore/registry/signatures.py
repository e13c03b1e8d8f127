"""What a component's signature says about its arguments: names, which are required, and which are parts.

A :class:`Slot` tells for one argument what becomes of a dict (or a list or dict of dicts) in its place.
"""
import dataclasses
import functools
import inspect
import logging
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from typing import Annotated, Any, Literal, NotRequired, Required, Union

from detcore.registry import MODELS, Deferred, Factory, Open, Registry

logger = logging.getLogger(__name__)

Mark = Registry | Deferred | Factory


@dataclasses.dataclass(frozen=True)
class Slot:
    """What an annotation makes of a configured value; each attribute answers for one form of value.

    Attributes:
        part: ``dict(type=...)`` is a component of this registry (built, deferred or a factory).
        settings: A dict fills this dataclass, or has the keys of this TypedDict.
        open: Other keys than those of ``settings`` are fine.
        items: A list or tuple is a sequence of such values.
        entries: A dict without ``type`` is a mapping to such values.
        plain: A dict as it stands is fine, too.
        choices: A string is one of these; empty where it may be any.
    """

    part: Mark | None = None
    settings: type | None = None
    items: "Slot | None" = None
    entries: "Slot | None" = None
    plain: bool = False
    open: bool = False
    choices: tuple[str, ...] = ()

    def __or__(self, other: "Slot") -> "Slot":
        return Slot(
            self.part or other.part,
            self.settings or other.settings,
            self.items or other.items,
            self.entries or other.entries,
            self.plain or other.plain,
            self.open or other.open,
            self.choices + other.choices,
        )

    @property
    def takes_parts(self) -> bool:
        """Whether anything in it is ever built."""
        return any(form is not None for form in (self.part, self.settings, self.items, self.entries))

    @property
    def is_checked(self) -> bool:
        """Whether it tells anything about a value."""
        return self.takes_parts or bool(self.choices)


UNTOUCHED = Slot()


@dataclasses.dataclass(frozen=True)
class Parameters:
    """The arguments that a component takes.

    Attributes:
        slots: Name -> slot, in the signature's order.
        required: Names without default.
        rest: Slot of any other name, None where other names are a mistake.
    """

    slots: dict[str, Slot]
    required: frozenset[str]
    rest: Slot | None


def parameters_of(component: Callable[..., Any]) -> Parameters:
    """The arguments that a class, function or callable object takes; read once for each."""
    try:
        return _cached(component)
    except TypeError:  # unhashable callables are rare, and reading one again costs little
        return _read(component)


@functools.cache
def _cached(component: Callable[..., Any]) -> Parameters:
    return _read(component)


def _read(component: Callable[..., Any]) -> Parameters:
    if typing.is_typeddict(component):
        slots = {name: slot_of(hint) for name, hint in resolved_hints(component).items()}
        return Parameters(slots, frozenset(getattr(component, "__required_keys__", ())), None)
    if isinstance(component, type):
        return _of_class(component)
    function: Any = component.func if isinstance(component, functools.partial) else component
    if isinstance(function, type):
        return _of_callable(component, vars(function).get("__init__", function))
    annotated = hasattr(function, "__annotations__")
    return _of_callable(component, function if annotated else type(function).__call__)


def _of_callable(component: Callable[..., Any], hints_of: Any, *, skip_first: bool = False) -> Parameters:
    try:
        signature = inspect.signature(component)
    except (TypeError, ValueError):  # written in C, without text signature: nothing is known or refused
        return Parameters({}, frozenset(), UNTOUCHED)
    slots: dict[str, Slot] = {}
    required = set()
    rest: Slot | None = None
    hints = resolved_hints(hints_of)
    for parameter in list(signature.parameters.values())[skip_first:]:
        slot = slot_of(hints.get(parameter.name, inspect.Parameter.empty))
        if parameter.kind is parameter.VAR_KEYWORD:
            rest = slot
        elif parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            slots[parameter.name] = slot
            if parameter.default is parameter.empty:
                required.add(parameter.name)
    return Parameters(slots, frozenset(required), rest)


def _of_class(cls: type) -> Parameters:
    """Parameters of a constructor, where ``**kwargs`` stands for the parent's.

    Inherited parameters are never required here: the child may pass them itself, which no signature tells.
    If the child names all of the parent's parameters, its ``**kwargs`` are for someone else: any name does.
    """
    owners = [owner for owner in cls.__mro__ if "__init__" in vars(owner) and not _takes_nothing(owner)]
    if not owners:
        makes = next(owner for owner in cls.__mro__ if "__new__" in vars(owner))
        if makes is object:
            return Parameters({}, frozenset(), None)
        return _of_callable(cls, makes.__new__)
    own = _of_constructor(owners[0])
    slots, rest = dict(own.slots), own.rest
    for owner in owners[1:]:
        if rest is None or rest.takes_parts:
            break
        parent = _of_constructor(owner)
        new = {name: slot for name, slot in parent.slots.items() if name not in slots}
        if not new and parent.slots:
            break
        slots.update(new)
        rest = parent.rest
    return Parameters(slots, own.required, rest)


def _of_constructor(owner: type) -> Parameters:
    init = vars(owner)["__init__"]
    # A dataclass's fields may come from parents in other modules; get_type_hints of the class resolves those.
    return _of_callable(init, owner if dataclasses.is_dataclass(owner) else init, skip_first=True)


def _takes_nothing(owner: type) -> bool:
    return owner is object or owner is _module_class()


def _module_class() -> type | None:
    """``torch.nn.Module`` if torch has been imported: an annotation cannot mean it before."""
    torch_nn = sys.modules.get("torch.nn")
    return getattr(torch_nn, "Module", None)


def resolved_hints(owner: Any) -> dict[str, Any]:
    """Resolved annotations; one that cannot be resolved is left out, with a warning."""
    try:
        return typing.get_type_hints(owner, include_extras=True)
    except Exception:
        hints: dict[str, Any] = {}
    for name, annotation in getattr(owner, "__annotations__", {}).items():
        alone = types.SimpleNamespace(__annotations__={name: annotation})
        scope = getattr(inspect.unwrap(owner), "__globals__", None) or vars(sys.modules[owner.__module__])
        try:
            hints.update(typing.get_type_hints(alone, globalns=scope, include_extras=True))
        except Exception as error:
            where = f"{owner.__module__}.{getattr(owner, '__qualname__', owner)}"
            logger.warning(
                "annotation %r of %s(%s) cannot be resolved (%s: %s); a config for it is passed on unbuilt",
                annotation, where, name, type(error).__name__, error,
            )
    return hints


def slot_of(hint: Any) -> Slot:
    """The slot that an annotation describes."""
    return _slot(hint, None)


def _slot(hint: Any, marked: Mark | None) -> Slot:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        found = [meta for meta in arguments[1:] if isinstance(meta, Mark)]
        slot = _slot(arguments[0], found[0] if found else marked)
        is_open = any(isinstance(meta, Open) for meta in arguments[1:])
        return dataclasses.replace(slot, open=True) if is_open else slot
    if origin in (Required, NotRequired):
        return _slot(arguments[0], marked)
    if origin is Literal:
        return Slot(choices=tuple(each for each in arguments if isinstance(each, str)))
    if origin is Union or origin is types.UnionType:
        slot = functools.reduce(lambda left, right: left | right, (_slot(each, marked) for each in arguments))
        free = any(each in (str, Any, object) for each in arguments)
        return dataclasses.replace(slot, choices=()) if free else slot
    if origin is not None and isinstance(origin, type) and origin is not type:
        return _container_slot(origin, arguments, marked)
    return _leaf_slot(hint, marked)


def _container_slot(origin: type, arguments: tuple[Any, ...], marked: Mark | None) -> Slot:
    if issubclass(origin, Sequence | Set) or origin in (Collection, Iterable):
        inner = [_slot(each, marked) for each in arguments if each is not Ellipsis]
        slot = functools.reduce(lambda left, right: left | right, inner, UNTOUCHED)
        return Slot(items=slot) if slot.is_checked else UNTOUCHED
    if issubclass(origin, Mapping):
        slot = _slot(arguments[-1], None if isinstance(marked, Deferred) else marked)
        if slot.is_checked:
            return Slot(part=marked, entries=slot)
        return Slot(part=marked, plain=marked is None)
    return _leaf_slot(origin, marked)


def _leaf_slot(hint: Any, marked: Mark | None) -> Slot:
    if hint is type(None):
        return UNTOUCHED
    if marked is not None:
        several = hint in (Any, object, list, tuple, Sequence, Collection, Iterable)
        return Slot(part=marked, items=Slot(part=marked) if several else None)
    if not isinstance(hint, type):
        return UNTOUCHED
    module = _module_class()
    if module is not None and issubclass(hint, module):
        return Slot(part=MODELS)
    if dataclasses.is_dataclass(hint) or typing.is_typeddict(hint):
        return Slot(settings=hint)
    return Slot(plain=True) if issubclass(hint, Mapping) else UNTOUCHED
