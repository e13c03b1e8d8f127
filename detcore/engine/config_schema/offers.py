"""Which components are there, and by which names configs may ask for them."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from detcore.errors import DetcoreError
from detcore.plugins import host
from detcore.registry.core import USER, Registry
from detcore.registry.scopes import STANDARD_SCOPES, ComponentTable, Reference

logger = logging.getLogger(__name__)

Component = Callable[..., Any]


@dataclass
class Offer:
    """A component of a registry.

    Attributes:
        label: Its first full name, ``scope.Name``.
        component: The class or function.
        names: Everything that a config may write as ``type`` for it.
    """

    label: str
    component: Component
    names: list[str] = field(default_factory=list)


@dataclass
class Offers:
    """What one registry has.

    Attributes:
        known: The components.
        patterns: Patterns of names that are made on demand and that nobody lists.
    """

    known: list[Offer]
    patterns: list[str]


class Catalogue:
    """Everything that is installed, allowed and importable.

    Args:
        default_scope: Where plain names are looked up first.

    Attributes:
        left_out: What could not be used, and why.
    """

    def __init__(self, default_scope: str | None = None) -> None:
        self.default_scope = default_scope
        self.left_out: list[str] = []
        self._offers: dict[str, Offers] = {}
        self._tables: dict[str, ComponentTable] = {"detcore": host().table("detcore")}
        for record in host().load_all(quiet=True):
            if record.table is not None:
                self._tables[record.scope] = record.table
            elif record.status != "blocked":
                self.left_out.append(f"plugin {record.scope!r} ({record.owner}): {record.reason}")

    def offers(self, registry: Registry) -> Offers:
        """The components of a registry with all their names; imports every one of them, once."""
        if registry.name not in self._offers:
            self._offers[registry.name] = self._found(registry)
        return self._offers[registry.name]

    def _found(self, registry: Registry) -> Offers:
        full: dict[str, Component] = {}
        patterns: list[str] = []
        for scope, table in self._tables.items():
            full.update(self._listed(registry, scope, table))
            for name, component in self._resolved(registry, scope, table, patterns):
                full.setdefault(name, component)
        users = {name: _registered(registry, USER, name) for name in registry.registered_names(USER)}
        full.update(self._aliases(registry, full, users))
        found = self._grouped({**self._plain(registry, full, users), **full})
        return Offers(found, sorted(set(patterns)))

    def _listed(
        self, registry: Registry, scope: str, table: ComponentTable
    ) -> Iterator[tuple[str, Component]]:
        for name in registry.registered_names(scope):
            yield f"{scope}.{name}", _registered(registry, scope, name)
        for name in table.names(registry.name):
            made, reference = registry.registered(scope, name), table.get(registry.name, name)
            if reference is None or (made is not None and made.forced):
                continue
            component = self._loaded(reference, f"{registry.name} {scope}.{name}")
            if component is not None:
                yield f"{scope}.{name}", component

    def _resolved(
        self, registry: Registry, scope: str, table: ComponentTable, patterns: list[str]
    ) -> Iterator[tuple[str, Component]]:
        """Components made on demand, of the names that are listed; there may be more (``timm.name.tag``)."""
        for resolver in table.resolvers(registry.name):
            patterns.append(rf"^{scope}\.")
            if resolver.names is None:
                patterns += [r"^[^.]+$"] if scope in STANDARD_SCOPES else []
                continue
            what = f"{registry.name} {scope}.* (made by {resolver.resolve.target})"
            names, resolve = self._loaded(resolver.names, what), self._loaded(resolver.resolve, what)
            if names is None or resolve is None:
                continue
            try:
                for name in names():
                    component = resolve(name)
                    if component is not None:
                        yield f"{scope}.{name}", component
            except Exception as error:  # a plugin's own code
                self._leave_out(what, error)

    def _aliases(
        self, registry: Registry, full: dict[str, Component], users: dict[str, Component]
    ) -> Iterator[tuple[str, Component]]:
        for scope, table in self._tables.items():
            for name in table.alias_names(registry.name):
                meant = table.alias_of(registry.name, name) or name
                places = [meant] if "." in meant else [f"{each}.{meant}" for each in STANDARD_SCOPES]
                component = next((full[place] for place in places if place in full), None)
                if component is not None and f"{scope}.{name}" not in full:
                    yield f"{scope}.{name}", component
            for name, component in users.items() if table.stands_in else ():
                yield f"{scope}.{name}", component

    def _plain(
        self, registry: Registry, full: dict[str, Component], users: dict[str, Component]
    ) -> dict[str, Component]:
        """Names without a scope, by the order of the look-up: the last that says a name here wins."""
        found: dict[str, Component] = {}
        forced = {name for name in users if (made := registry.registered(USER, name)) and made.forced}
        for scope in reversed(STANDARD_SCOPES):
            found |= _of_scope(full, scope)
        found |= users
        if self.default_scope is not None:
            found |= _of_scope(full, self.default_scope)
        return found | {name: users[name] for name in forced}

    def _grouped(self, names: dict[str, Component]) -> list[Offer]:
        """One offer a component, its names sorted, plain ones first."""
        offers: dict[int, Offer] = {}
        for name, component in sorted(names.items(), key=lambda each: ("." in each[0], each[0])):
            offer = offers.setdefault(id(component), Offer(name, component))
            offer.names.append(name)
        for offer in offers.values():
            standard = [name for name in offer.names if name.partition(".")[0] in STANDARD_SCOPES]
            offer.label = next((name for name in standard if "." in name), offer.names[0])
        return list(offers.values())

    def _loaded(self, reference: Reference, what: str) -> Any:
        try:
            component = reference.load()
        except (DetcoreError, SystemExit) as error:  # a module may even leave the program at import
            self._leave_out(what, error)
            return None
        if callable(component):
            return component
        self.left_out.append(f"{what}: {component!r} is neither a class nor a function")
        return None

    def _leave_out(self, what: str, error: BaseException) -> None:
        text = str(error) if isinstance(error, DetcoreError) else f"{type(error).__name__}: {error}"
        self.left_out.append(f"{what}: {text.splitlines()[0] if text else 'no message'}")
        logger.debug("%s is left out of the schema", what, exc_info=error)


def _registered(registry: Registry, scope: str, name: str) -> Component:
    made = registry.registered(scope, name)
    assert made is not None
    return made.component


def _of_scope(full: dict[str, Component], scope: str) -> dict[str, Component]:
    return {name.partition(".")[2]: each for name, each in full.items() if name.startswith(f"{scope}.")}
