"""The definitions of a schema: one for each registry, each component, and each kind of settings."""

import inspect
import json
import re
from collections.abc import Callable
from typing import Any

from detcore.engine.config_schema.arguments import Argument, arguments_of
from detcore.engine.config_schema.docs import summary
from detcore.engine.config_schema.offers import Catalogue, Offer
from detcore.engine.config_schema.shapes import ANYTHING
from detcore.engine.config_schema.values import (
    REFERENCE,
    WHOLE,
    Names,
    Schema,
    default_of,
    reference,
    value_schema,
    whole_schema,
)
from detcore.registry import Registry
from detcore.registry.signatures import Parameters, parameters_of

# What whoever builds a part adds to its config.
SUPPLIED = {
    "data_samplers": {"batch_size", "dataset", "sampler", "seed"},
    "loops": {"dataloader", "evaluator", "runner"},
    "optim_wrapper_constructors": {"optim_wrapper_cfg"},
    "optimizers": {"params"},
    "param_schedulers": {"optimizer"},
    "visualizers": {"save_dir"},
}
# What whoever builds a part takes out of its config.
TAKEN: dict[str, Schema] = {
    "hooks": {
        "priority": {
            "type": ["integer", "string"],
            "description": "When it is called: a name such as NORMAL, or 0 (first) to 100 (last).",
        }
    },
    "loops": {
        "by_epoch": {"type": ["boolean", "null"], "description": "Without type: count in epochs or in steps."}
    },
    "optim_wrappers": {
        "constructor": {"type": ["string", "null"], "description": "Who chooses the parameters' settings."},
        "paramwise_cfg": {"type": ["object", "null", "string"], "pattern": REFERENCE},
    },
    "param_schedulers": {"convert_to_iter_based": {"type": ["boolean", "null"]}},
}
UNTYPED = ".untyped"
EVERYWHERE: Schema = {
    "_scope_": {"type": ["string", "null"], "description": "Where names in here are looked up first."},
    "_delete_": {"type": "boolean", "description": "Replace the base's dict instead of completing it."},
}


class Definitions:
    """Makes definitions when they are first referred to.

    Args:
        catalogue: What is installed.

    Attributes:
        made: Name -> definition.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self.made: dict[str, Schema] = {}
        self.names = Names(self.parts, self.settings)
        self._catalogue = catalogue
        self._components: dict[str, dict[str, list[str]]] = {}
        self._variants: dict[str, tuple[Registry, tuple[str, ...]]] = {}

    def finish(self) -> None:
        """Make what could not be made before all components of a registry were known."""
        while self._variants:
            name, (registry, allow) = self._variants.popitem()
            self._with_further_keys(name, registry, allow)

    def parts(self, registry: Registry, allow: tuple[str, ...] = ()) -> str:
        """The name of the definition of a registry's parts, with further keys that are fine there."""
        name = "+".join([registry.name.upper(), *allow])
        if name not in self.made:
            self.made[name] = {}  # parts may hold parts of their own kind
            if allow:
                self._variants[name] = (registry, allow)
            else:
                self._registry(name, registry)
        return name

    def components(self, registry: Registry) -> dict[str, list[str]]:
        """Name of the definition of each component of a registry -> what configs may call it."""
        self.parts(registry)
        return self._components[registry.name]

    def settings(self, kind: type, is_open: bool) -> str:
        """The name of the definition of a dataclass or TypedDict."""
        name = _identifier(f"{kind.__module__}.{kind.__qualname__}") + ("+" if is_open else "")
        if name not in self.made:
            self.made[name] = self.made[WHOLE + name] = {}
            known = parameters_of(kind)
            arguments = arguments_of(kind)
            self.made[name] = {
                "title": kind.__name__,
                **self._described(kind),
                "properties": {**self._properties(arguments), **EVERYWHERE},
                **({} if is_open else {"additionalProperties": False}),
            }
            self.made[WHOLE + name] = self._whole(known, arguments, frozenset())
        return name

    def _registry(self, name: str, registry: Registry) -> None:
        offers = self._catalogue.offers(registry)
        components = self._components[registry.name] = self._merged(registry, offers.known)
        kinds = [each for names in components.values() for each in names]
        self.made[name + UNTYPED] = self._untyped(components)
        self.made[name] = {
            "properties": {"type": _type_schema(sorted(kinds), offers.patterns)},
            "if": {"required": ["type"]},
            "then": {
                "allOf": [
                    {"if": _is_one_of(names), "then": reference(each)} for each, names in components.items()
                ]
            },
            "else": reference(name + UNTYPED),
        }
        wholes = [
            {"if": _is_one_of(names), "then": reference(WHOLE + each)}
            for each, names in components.items()
            if self.made[WHOLE + each]
        ]
        self.made[WHOLE + name] = {"required": ["type"], **({"allOf": wholes} if wholes else {})}

    def _untyped(self, components: dict[str, list[str]]) -> Schema:
        """A dict whose type a base says: what its arguments are wherever a component has them."""
        ways: dict[str, dict[str, Schema]] = {}
        for component in components:
            for key, schema in self.made[component]["properties"].items():
                known = {**schema, "description": "", "default": ""}
                text = json.dumps(known, sort_keys=True)
                ways.setdefault(key, {}).setdefault(text, reference(f"{component}/properties/{key}"))
        properties = {
            key: each[0] if len(each) == 1 else {"anyOf": each}
            for key, each in ((key, list(found.values())) for key, found in ways.items())
        }
        closed = all(self.made[each].get("additionalProperties") is False for each in components)
        return {"properties": properties, **({"additionalProperties": False} if closed else {})}

    def _merged(self, registry: Registry, offers: list[Offer]) -> dict[str, list[str]]:
        """Definitions of the components; those that say the same (names made on demand) are one."""
        seen: dict[str, str] = {}
        components: dict[str, list[str]] = {}
        for offer in offers:
            made = self._guarded(registry, offer)
            if made is None:
                continue
            text = json.dumps([{**made[0], "title": "", "description": ""}, made[1]], sort_keys=True)
            name = seen.setdefault(text, _identifier(f"{registry.name.upper()}.{offer.label}"))
            if name not in self.made:
                self.made[name], self.made[WHOLE + name] = made
            components.setdefault(name, []).extend(offer.names)
        return components

    def _guarded(self, registry: Registry, offer: Offer) -> tuple[Schema, Schema] | None:
        try:
            return self._component(registry, offer)
        except Exception as error:  # a signature or docstring may be an object of a plugin's own
            what = f"{registry.name} {offer.label}: {type(error).__name__}: {error}"
            self._catalogue.left_out.append(what)
            return None

    def _component(self, registry: Registry, offer: Offer) -> tuple[Schema, Schema]:
        known, arguments = parameters_of(offer.component), arguments_of(offer.component)
        taken = TAKEN.get(registry.name, {})
        schema: Schema = {
            "title": getattr(offer.component, "__name__", offer.label),
            **self._described(offer.component),
            "properties": {"type": {}, **self._properties(arguments), **taken, **EVERYWHERE},
        }
        if known.rest is None:
            schema["additionalProperties"] = False
        elif known.rest.is_checked:
            schema["additionalProperties"] = value_schema(ANYTHING, known.rest, self.names)
        return schema, self._whole(known, arguments, SUPPLIED.get(registry.name, frozenset()))

    def _described(self, component: Callable[..., Any]) -> Schema:
        text = summary(component)
        return {"description": text} if text else {}

    def _properties(self, arguments: dict[str, Argument]) -> Schema:
        return {
            name: {
                **({"description": argument.doc} if argument.doc else {}),
                **value_schema(argument.shape, argument.slot, self.names),
                **({} if argument.default is inspect.Parameter.empty else default_of(argument.default)),
            }
            for name, argument in arguments.items()
        }

    def _whole(
        self, known: Parameters, arguments: dict[str, Argument], supplied: "frozenset[str] | set[str]"
    ) -> Schema:
        required = [name for name in arguments if name in known.required and name not in supplied]
        inner = {name: whole_schema(each.slot, self.names) for name, each in arguments.items()}
        properties = {name: each for name, each in inner.items() if each}
        return {
            **({"required": required} if required else {}),
            **({"properties": properties} if properties else {}),
        }

    def _with_further_keys(self, name: str, registry: Registry, allow: tuple[str, ...]) -> None:
        ways = []
        for component, names in self.components(registry).items():
            twin = "+".join([component, *allow])
            self.made[twin] = _extended(component, self.made[component], allow)
            ways.append({"if": _is_one_of(names), "then": reference(twin)})
        self.made[name] = {**self.made[self.parts(registry)], "then": {"allOf": ways}}


def _identifier(text: str) -> str:
    """The text as a part of an address: what has a meaning there is written as its number."""
    return re.sub(r"[^\w.]", lambda match: f"-{ord(match[0]):x}-", text, flags=re.ASCII)


def _extended(name: str, component: Schema, allow: tuple[str, ...]) -> Schema:
    """A component's definition with further keys."""
    own = {key: reference(f"{name}/properties/{key}") for key in component["properties"]}
    further: Schema = {key: {} for key in allow}
    return {**component, "properties": {**further, **own}}


def _is_one_of(names: list[str]) -> Schema:
    kind = {"const": names[0]} if len(names) == 1 else {"enum": names}
    return {"properties": {"type": kind}, "required": ["type"]}


def _type_schema(names: list[str], patterns: list[str]) -> Schema:
    """A known name, a reference, or a name that is made on demand."""
    texts = [{"type": "string", "pattern": pattern} for pattern in (REFERENCE, *patterns)]
    return {"anyOf": [{"enum": names}, *texts]}
