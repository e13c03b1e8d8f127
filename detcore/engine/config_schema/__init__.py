"""A JSON Schema of the configs that what is installed can run, for editors of YAML and JSON.

What may stand in a config and what must be there are two sets of definitions, because a file that has bases
may leave out what they say: the definitions whose names begin with ``whole.`` are for files without.
"""

import re
from dataclasses import dataclass
from typing import Any

from detcore.config.document import closest
from detcore.engine.config_schema.definitions import Definitions
from detcore.engine.config_schema.offers import Catalogue, Offer
from detcore.engine.config_schema.places import top_level
from detcore.engine.config_schema.values import WHOLE, Schema, reference
from detcore.errors import RegistryError
from detcore.registry.core import REGISTRIES, Registry

DIALECT = "https://json-schema.org/draft/2020-12/schema"


@dataclass(frozen=True)
class ConfigSchema:
    """A schema, and what is not in it.

    Attributes:
        schema: The JSON Schema, draft 2020-12.
        left_out: What is broken or cannot be imported, a line each.
    """

    schema: dict[str, Any]
    left_out: list[str]


def schema_of_configs(default_scope: str | None = None) -> ConfigSchema:
    """The schema of whole configs.

    Args:
        default_scope: Where plain names are looked up first, for configs that set it.
    """
    catalogue = Catalogue(default_scope)
    definitions = Definitions(catalogue)
    may, must = top_level(definitions)
    definitions.finish()
    root: Schema = {
        "title": "A config of detcore",
        "type": "object",
        "properties": may,
        "if": {"not": {"required": ["_base_"]}},
        "then": {"properties": must},
    }
    return ConfigSchema(_document(root, definitions.made), catalogue.left_out)


def schema_of_registry(name: str, default_scope: str | None = None) -> ConfigSchema:
    """The schema of one ``dict(type=...)`` of a registry.

    Args:
        name: ``MODELS``, in any case.
        default_scope: As for :func:`schema_of_configs`.

    Raises:
        RegistryError: There is no such registry.
    """
    registry = REGISTRIES.get(name.lower())
    if registry is None:
        known = [each.upper() for each in REGISTRIES]
        raise RegistryError(f"there is no registry {name!r}{closest(name.upper(), known)}")
    catalogue = Catalogue(default_scope)
    definitions = Definitions(catalogue)
    parts = definitions.parts(registry)
    return _of_part([reference(parts), reference(WHOLE + parts)], definitions, catalogue)


def schema_of_component(name: str, default_scope: str | None = None) -> ConfigSchema:
    """The schema of the config of one component.

    Args:
        name: What a config writes as ``type``.
        default_scope: As for :func:`schema_of_configs`.

    Raises:
        RegistryError: No registry has a component of that name.
    """
    catalogue = Catalogue(default_scope)
    definitions = Definitions(catalogue)
    found: list[tuple[Registry, Offer]] = []
    names: list[str] = []
    for registry in REGISTRIES.values():
        for offer in catalogue.offers(registry).known:
            names += offer.names
            if name in offer.names:
                found.append((registry, offer))
    if not found:
        raise RegistryError(f"nothing is called {name!r}{closest(name, names)}")
    ways = [_one_of_a_registry(registry, offer, definitions) for registry, offer in found]
    return _of_part([{"anyOf": ways} if len(ways) > 1 else ways[0]], definitions, catalogue)


def _one_of_a_registry(registry: Registry, offer: Offer, definitions: Definitions) -> Schema:
    parts = definitions.parts(registry)
    kind: Schema = {"properties": {"type": {"enum": offer.names}}}
    return {"allOf": [kind, reference(parts), reference(WHOLE + parts)]}


def _of_part(ways: list[Schema], definitions: Definitions, catalogue: Catalogue) -> ConfigSchema:
    definitions.finish()
    root = {"type": "object", "required": ["type"], "allOf": ways}
    return ConfigSchema(_document(root, definitions.made), catalogue.left_out)


def _document(root: Schema, made: dict[str, Schema]) -> Schema:
    """The schema with the definitions that it refers to, directly or through others."""
    reached: dict[str, Schema] = {}
    waiting = list(_references(root))
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached[name] = made[name]
            waiting += _references(made[name])
    return {"$schema": DIALECT, **root, "$defs": dict(sorted(reached.items()))}


def _references(schema: Any) -> list[str]:
    """The definitions that a schema refers to."""
    if isinstance(schema, list):
        return [name for each in schema for name in _references(each)]
    if not isinstance(schema, dict):
        return []
    target = schema.get("$ref")
    own = re.findall(r"^#/\$defs/([^/]+)", target) if isinstance(target, str) else []
    return own + [name for each in schema.values() for name in _references(each)]
