"""From the name in a config to the component, and the error that helps when there is none."""
import difflib
from collections.abc import Callable, Iterator
from typing import Any

from detcore.errors import PluginError, RegistryError
from detcore.registry.core import REGISTRIES, USER, Registration, Registry
from detcore.registry.scopes import STANDARD_SCOPES, Absence, ComponentTable, Reference, source

Component = Callable[..., Any]


class NameNotFoundError(RegistryError):
    """No component bears the name.

    Attributes:
        message: What was looked for, and where.
        suggestion: Close names and what to install; may be empty.
        absence: What a plugin knows of the name all the same.
    """

    def __init__(self, message: str, suggestion: str, absence: Absence | None = None) -> None:
        super().__init__(f"{message}\n  {suggestion}" if suggestion else message)
        self.message = message
        self.suggestion = suggestion
        self.absence = absence

    def __reduce__(self) -> tuple[type, tuple[str, str, Absence | None]]:
        return type(self), (self.message, self.suggestion, self.absence)


def find(registry: Registry, name: Any, default_scope: str | None) -> Component:
    """The component that a ``type`` string means; see :class:`~detcore.registry.Registry` for the order.

    Raises:
        RegistryError: Nothing bears the name, or two things do.
        PluginError: The scope that was named cannot be used, or the component cannot be imported.
    """
    if not isinstance(name, str) or not name:
        raise RegistryError(f"{registry.name}: `type` must be a name or a class, got {name!r}")
    scope, dot, bare = name.partition(".")
    if dot:
        found = _named(registry, source().table(scope), bare) if scope in source().scopes() else None
        if found is None:
            raise _not_found(registry, name, [scope])
        return found
    return _plain(registry, name, default_scope)


def _named(registry: Registry, table: ComponentTable, name: str) -> Component | None:
    """What ``'scope.Name'`` means."""
    found = _in_scope(registry, table, name)
    users = registry.registered(USER, name)
    # A package that we stand in for had one registry for its own names and for its users' modules.
    if table.stands_in and users is not None and (found is None or users.forced):
        return users.component
    return found


def standard_reference(registry: Registry, name: str) -> Reference | None:
    """Who of the standard scopes lists the name; imports no component."""
    for scope in STANDARD_SCOPES:
        table = source().try_table(scope)
        reference = None if table is None else table.get(registry.name, name)
        if reference is not None:
            return reference
    return None


def _plain(registry: Registry, name: str, default_scope: str | None) -> Component:
    users = registry.registered(USER, name)
    if users is not None and users.forced:
        return users.component
    if default_scope is not None:
        if default_scope not in source().scopes():
            message = f"{name!r} is looked up in the default scope {default_scope!r} first, which is "
            raise NameNotFoundError(message + source().describe(default_scope), "")
        found = _in_scope(registry, source().table(default_scope), name)
        if found is not None:
            _refuse_ambiguity(registry, name, default_scope, found, users)
            return found
    if users is not None:
        return users.component
    for scope in STANDARD_SCOPES:
        table = source().try_table(scope) if scope != default_scope else None
        found = None if table is None else _in_scope(registry, table, name)
        if found is not None:
            return found
    searched = list(STANDARD_SCOPES)
    if default_scope is not None and default_scope not in searched:
        searched.insert(0, default_scope)
    raise _not_found(registry, name, searched)


def _refuse_ambiguity(
    registry: Registry, name: str, scope: str, found: Component, users: Registration | None
) -> None:
    if users is not None and users.component is not found:
        raise RegistryError(
            f"{registry.name}: {name!r} is both in the default scope {scope!r} and registered by "
            f"{users.where}; write '{scope}.{name}', or register yours with force=True or another name"
        )


def _in_scope(registry: Registry, table: ComponentTable, name: str) -> Component | None:
    reference = table.get(registry.name, name)
    registration = registry.registered(table.scope, name)
    if reference is not None:
        component = reference.load()
        if registration is None or registration.component is component:
            return component
        if not registration.forced:
            raise RegistryError(
                f"{registry.name}: {name!r} stands twice in scope {table.scope!r} ({table.owner}): "
                f"as {reference.target} in its table, and registered by {registration.where}"
            )
    if registration is not None:
        return registration.component
    meant = table.alias_of(registry.name, name)
    if meant is not None:
        return _aliased(registry, meant)
    for resolver in table.resolvers(registry.name):
        try:
            made = resolver.resolve.load()(name)
        except Exception as error:
            error.add_note(f"while {resolver.resolve.target} of {table.owner} resolved {table.scope}.{name}")
            raise
        if made is not None:
            return made
    return None


def _aliased(registry: Registry, meant: str) -> Component | None:
    scope, dot, bare = meant.partition(".")
    for each in [scope] if dot else STANDARD_SCOPES:
        table = source().try_table(each)
        found = None if table is None else _in_scope(registry, table, bare if dot else meant)
        if found is not None:
            return found
    return None


def _absence(registry: Registry, name: str, scopes: list[str]) -> Absence | None:
    """What a scope says of a name that is not there: one that was searched, or for a plain name any other."""
    bare = name.rpartition(".")[2]
    others = [] if "." in name else [scope for scope in source().scopes() if scope not in scopes]
    for scope in (*scopes, *others):
        table = source().try_table(scope)
        absence = None if table is None else table.absence(registry.name, bare)
        if absence is not None:
            return absence
    return None


def _not_found(registry: Registry, name: str, scopes: list[str]) -> NameNotFoundError:
    message = f"there is no {name!r} in {registry.name.upper()}; searched: "
    states = [] if "." in name else [f"your modules ({len(registry.registered_names(USER))} names)"]
    broken = None
    for scope in scopes:
        try:
            states.append(f"{scope} ({_extent(registry, source().table(scope))})")
        except PluginError as error:
            states.append(f"{scope} ({source().describe(scope)})")
            broken = broken or (error if error.__cause__ is not None else None)
    absence = _absence(registry, name, scopes)
    if absence is not None:
        message = f"there is no {name!r} in {registry.name.upper()}: {absence.reason}"
        return NameNotFoundError(message, "", absence)
    hints = [_close_names(registry, name), _other_registries(registry, name), source().provider(name)]
    if "." in name and source().describe(scopes[0]) == "not installed":
        hints.append("a name with a dot means 'scope.Name', never an import path")
    missing = NameNotFoundError(message + ", ".join(states), "; ".join(hint for hint in hints if hint))
    missing.__cause__ = broken  # what a broken plugin would have brought may be what is missing
    return missing


def _extent(registry: Registry, table: ComponentTable) -> str:
    count = len(table.names(registry.name)) + len(registry.registered_names(table.scope))
    return f"{count} names" + (" and a resolver" if table.resolvers(registry.name) else "")


def _close_names(registry: Registry, name: str) -> str:
    """``did you mean ...?`` over all scopes, or an empty string."""
    wanted = name.rpartition(".")[2].lower()
    known: dict[str, list[str]] = {}
    for full in _all_names(registry):
        known.setdefault(full.rpartition(".")[2].lower(), []).append(full)
    close = difflib.get_close_matches(wanted, known, n=3, cutoff=0.6)
    names = [full for lowered in close for full in known[lowered] if full != name]
    return f"did you mean {' or '.join(map(repr, names[:4]))}?" if names else ""


def _all_names(registry: Registry) -> Iterator[str]:
    yield from registry.registered_names(USER)
    for scope in source().scopes():
        table = source().try_table(scope)
        if table is None:
            continue
        prefix = "" if scope in STANDARD_SCOPES else f"{scope}."
        listed = table.names(registry.name) + registry.registered_names(scope)
        for resolver in table.resolvers(registry.name):
            listed += _resolvable(resolver.names)
        for name in listed:
            yield prefix + name


def _resolvable(names: Reference | None) -> list[str]:
    if names is None:
        return []
    try:
        return [str(name) for name in names.load()()]
    except Exception:  # a suggestion that cannot be made must not hide the error that it would explain
        return []


def _other_registries(registry: Registry, name: str) -> str:
    """Says so when the name is right and only the place in the config is wrong."""
    bare = name.rpartition(".")[2]
    tables = [table for table in map(source().loaded_table, source().scopes()) if table is not None]
    for other in REGISTRIES.values():
        listed = other.registered(USER, bare) or any(table.get(other.name, bare) for table in tables)
        if other is not registry and listed:
            return f"{bare!r} is one of {other.name.upper()}, which cannot stand here"
    return ""
