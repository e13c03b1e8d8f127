"""JSON Schema of a value: what its annotation allows, with the parts and settings that may stand in it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from detcore.config.display import to_json
from detcore.engine.config_schema.shapes import ANYTHING, Shape, json_type
from detcore.registry import Deferred, Factory, Registry
from detcore.registry.signatures import UNTOUCHED, Slot

Schema = dict[str, Any]

REFERENCE = r"\$\{|\{\{"
"""A text with ``${key}`` or ``{{ ... }}`` may stand for a value of any kind."""
WHOLE = "whole."
"""Names of definitions that say what must be there begin so; the others say what may be there."""


@dataclass(frozen=True)
class Names:
    """Names of definitions; asking for one has it made.

    Attributes:
        parts: Of a registry, with further keys that its dicts may have there.
        settings: Of a dataclass or TypedDict, and whether it takes other keys.
    """

    parts: Callable[[Registry, tuple[str, ...]], str]
    settings: Callable[[type, bool], str]


def reference(name: str) -> Schema:
    """A reference to a definition."""
    return {"$ref": f"#/$defs/{name}"}


def value_schema(shape: Shape, slot: Slot, names: Names) -> Schema:
    """What may stand for an argument.

    A file that has bases may leave out what they say, so nothing is required here but within lists, which a
    base's are replaced by as a whole; see :func:`whole_schema`.

    Args:
        shape: The values that the annotation allows.
        slot: What becomes of dicts in it.
        names: Gives names of definitions.
    """
    schema: Schema = {}
    types = shape.types | ({"object"} if slot.part or slot.settings else set())
    if "number" in types:
        types -= {"integer"}
    if not shape.anything and (types or shape.literals):
        schema = _typed(types, shape.literals)
    if shape.anything or "object" in types:
        schema |= _object(shape, slot, names)
    if shape.anything or "array" in types:
        schema |= _array(shape, slot, names)
    return schema


def _typed(types: frozenset[str], literals: tuple[Any, ...]) -> Schema:
    free = "string" in types
    single = [each for each in dict.fromkeys(literals) if json_type(each) not in types]
    if single:
        ways: list[Schema] = [{"enum": single}]
        ways += [{"type": sorted(types)}] if types else []
        ways += [] if free else [{"type": "string", "pattern": REFERENCE}]
        return {"anyOf": ways}
    if free:
        return {"type": _one_or_many(types)}
    return {"type": _one_or_many(types | {"string"}), "pattern": REFERENCE}


def _one_or_many(types: frozenset[str]) -> str | list[str]:
    return next(iter(types)) if len(types) == 1 else sorted(types)


def _object(shape: Shape, slot: Slot, names: Names) -> Schema:
    if slot.settings is not None:
        other = reference(names.settings(slot.settings, slot.open))
    elif slot.entries is not None or shape.entries not in (None, ANYTHING):
        inner = value_schema(shape.entries or ANYTHING, slot.entries or UNTOUCHED, names)
        other = {"additionalProperties": inner} if inner else {}
    else:
        other = {}
    if slot.part is None:
        return other
    part = reference(_part_name(slot, names))
    return {"if": {"required": ["type"]}, "then": part, "else": other} if other else part


def _array(shape: Shape, slot: Slot, names: Names) -> Schema:
    found: Schema = {}
    if shape.items is not None or slot.items is not None:
        inner = slot.items or UNTOUCHED
        item, whole = value_schema(shape.items or ANYTHING, inner, names), whole_schema(inner, names)
        item = {"allOf": [item, whole]} if whole else item
        found = {"items": item} if item else {}
    if shape.length is not None:
        found |= {"minItems": shape.length[0], "maxItems": shape.length[1]}
    return found


def _part_name(slot: Slot, names: Names) -> str:
    if isinstance(slot.part, Registry):
        return names.parts(slot.part, ())
    assert isinstance(slot.part, Deferred | Factory)
    return names.parts(slot.part.registry, getattr(slot.part, "allow", ()))


def whole_schema(slot: Slot, names: Names) -> Schema:
    """What must be there in a value that no base completes; empty where nothing must."""
    if slot.settings is not None:
        found = reference(WHOLE + names.settings(slot.settings, slot.open))
    elif slot.entries is not None:
        inner = whole_schema(slot.entries, names)
        found = {"additionalProperties": inner} if inner else {}
    else:
        found = {}
    if slot.part is None:
        return found
    part: Schema = {"required": ["type"]}
    if isinstance(slot.part, Registry):
        part = reference(WHOLE + names.parts(slot.part, ()))
    if not found and not slot.plain:
        return part
    return {"if": {"required": ["type"]}, "then": part, **({"else": found} if found else {})}


def default_of(value: Any) -> Schema:
    """An argument's default, where a file can hold it."""
    if json_type(value) is None:
        return {}
    plain = to_json(value)
    return {"default": plain} if _is_plain(value) else {}


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(each) for key, each in value.items())
    if isinstance(value, list | tuple | set):
        return all(map(_is_plain, value))
    return json_type(value) is not None
