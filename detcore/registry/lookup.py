"""From the name in a config to the component, and the error that helps when there is none."""
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detcore.errors import PluginError, RegistryError
from detcore.registry.core import REGISTRIES, USER, Registration, Registry
from detcore.registry.scopes import STANDARD_SCOPES, Absence, ComponentTable, Reference, source
from detcore.registry.spelling import ranked

Component = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a misspelt name may have been meant to be.

    Attributes:
        name: As a config writes it.
        distance: How many slips lie between the two.
        reason: Why nobody has it, empty where somebody does.
    """

    name: str
    distance: float
    reason: str = ""


class NameNotFoundError(RegistryError):
    """No component bears the name.

    Attributes:
        name: What was looked for.
        message: The same as a sentence, and where it was looked for.
        hints: What else may help, such as what to install; may be empty.
        absence: What a plugin knows of the name all the same.
        candidates: Close names, nearest first.
    """

    def __init__(
        self,
        name: str,
        message: str,
        hints: str = "",
        absence: Absence | None = None,
        candidates: tuple[Candidate, ...] = (),
    ) -> None:
        self.name = name
        self.message = message
        self.hints = hints
        self.absence = absence
        self.candidates = candidates
        super().__init__(f"{message}\n  {self.suggestion}" if self.suggestion else message)

    @property
    def suggestion(self) -> str:
        """What may help, as one sentence; may be empty."""
        return joined_hints(did_you_mean(self.candidates), self.hints)

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), (self.name, self.message, self.hints, self.absence, self.candidates)


def find(registry: Registry, name: Any, default_scope: str | None) -> Component:
    """The component that a ``type`` string means; see :class:`~detcore.registry.Registry` for the order.

    Raises:
        RegistryError: Nothing bears the name, or two things do.
        PluginError: The scope that was named cannot be used, or the component cannot be imported.
    """
    if not isinstance(name, str) or not name:
        raise RegistryError(f"{registry.name}: `type` must be a name or a class, got {name!r}")
    found = _found(registry, name, default_scope)
    if found is None:
        raise _not_found(registry, name, _searched(name, default_scope))
    return found


def known(registry: Registry, name: str, default_scope: str | None) -> Component | Absence | None:
    """What is known of a name: the component, else why nobody has it, else None."""
    try:
        found = _found(registry, name, default_scope)
    except RegistryError:
        return None
    except PluginError as error:
        return Absence(str(error))
    return found or _absence(registry, name, _searched(name, default_scope))


def _found(registry: Registry, name: str, default_scope: str | None) -> Component | None:
    scope, dot, bare = name.partition(".")
    if not dot:
        return _plain(registry, name, default_scope)
    return _named(registry, source().table(scope), bare) if scope in source().scopes() else None


def _searched(name: str, default_scope: str | None) -> list[str]:
    """The scopes in which a name is looked up."""
    if "." in name:
        return [name.partition(".")[0]]
    first = [] if default_scope is None or default_scope in STANDARD_SCOPES else [default_scope]
    return [*first, *STANDARD_SCOPES]


def _named(registry: Registry, table: ComponentTable, name: str) -> Component | None:
    """What ``'scope.Name'`` means."""
    if table.stands_in:
        # mmengine writes configs in pure Python out with the modules of classes: mmdet.models.necks.fpn.FPN.
        name = name.rpartition(".")[2]
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


def _plain(registry: Registry, name: str, default_scope: str | None) -> Component | None:
    users = registry.registered(USER, name)
    if users is not None and users.forced:
        return users.component
    if default_scope is not None:
        if default_scope not in source().scopes():
            message = f"{name!r} is looked up in the default scope {default_scope!r} first, which is "
            raise NameNotFoundError(name, message + source().describe(default_scope))
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
    return None


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
    tables = [table for table in map(source().try_table, scopes) if table is not None]
    if "." not in name:
        others = [table for table in source().tables_telling("absent") if table.scope not in scopes]
        if not any(_leads_somewhere(registry, table, name) for table in others):
            tables += others
    known = [absence for table in tables if (absence := table.absence(registry.name, bare)) is not None]
    return next((absence for absence in known if absence.takes is not None), known[0] if known else None)


def _leads_somewhere(registry: Registry, table: ComponentTable, name: str) -> bool:
    """Whether a scope's name means what another scope lists, so that it is absent only without that scope."""
    scope, dot, bare = (table.alias_of(registry.name, name) or "").partition(".")
    target = source().try_table(scope) if dot else None
    return target is not None and target.get(registry.name, bare) is not None


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
        return NameNotFoundError(name, message, absence=absence)
    hints = [_other_registries(registry, name), source().provider(name)]
    if "." in name and source().describe(scopes[0]) == "not installed":
        hints.append("a name with a dot means 'scope.Name', never an import path")
    close = tuple(candidates(registry, name))
    missing = NameNotFoundError(name, message + ", ".join(states), joined_hints(*hints), None, close)
    missing.__cause__ = broken  # what a broken plugin would have brought may be what is missing
    return missing


def _extent(registry: Registry, table: ComponentTable) -> str:
    own = [*table.names(registry.name), *registry.registered_names(table.scope)]
    count = len(own) + len(table.alias_names(registry.name))
    return f"{count} names" + (" and a resolver" if table.resolvers(registry.name) else "")


def did_you_mean(candidates: Sequence[Candidate]) -> str:
    """``did you mean 'X' or 'Y'?`` for the best few, or an empty string; says so of what nobody has."""
    if not candidates:
        return ""
    first = candidates[0]
    near = [each for each in candidates if each.distance <= first.distance + 1]
    same = [each for each in near if each.reason == first.reason][:3]
    note = f" ({first.reason})" if first.reason else ""
    return f"did you mean {' or '.join(repr(each.name) for each in same)}?{note}"


def joined_hints(*hints: str) -> str:
    """Hints as one sentence, empty ones left out."""
    return "; ".join(hint for hint in hints if hint)


def candidates(registry: Registry, name: str) -> list[Candidate]:
    """What a name may have been meant to be, over all scopes, nearest first; ours before what nobody has."""
    scope, dot, bare = name.rpartition(".")
    there: dict[str, list[str]] = {}
    for full in _all_names(registry, resolvers_of=scope):
        there.setdefault(full.rpartition(".")[2], []).append(full)
    reasons = _absent_names(registry, there)
    found = [
        Candidate(full, slips, reasons.get(near, ""))
        for slips, near in ranked(bare, [*there, *reasons])
        for full in there.get(near, [near])
        if full != name
    ]
    if found or dot:
        return found
    # Names made on demand may need a large import for their listing, so they come last.
    made = {full.rpartition(".")[2]: full for full in _all_names(registry, resolvers_of=None)}
    return [Candidate(made[near], slips) for slips, near in ranked(bare, made)]


def _absent_names(registry: Registry, there: Mapping[str, Any]) -> dict[str, str]:
    """Names that nobody has, with the reason that whoever knows most of them gives."""
    known: dict[str, Absence] = {}
    for table in source().tables_telling("absent"):
        for name in table.absent_names(registry.name):
            absence = table.absence(registry.name, name)
            better = name not in known or known[name].takes is None
            if absence is not None and name not in there and better:
                known[name] = absence
    return {name: absence.reason for name, absence in known.items()}


def _all_names(registry: Registry, *, resolvers_of: str | None) -> Iterator[str]:
    """All listed names, and those that the resolvers of one scope (None: of all) can make."""
    yield from registry.registered_names(USER)
    for scope in source().scopes():
        table = source().try_table(scope)
        if table is None:
            continue
        prefix = "" if scope in STANDARD_SCOPES else f"{scope}."
        listed = table.names(registry.name) + registry.registered_names(scope)
        if resolvers_of is None or scope == resolvers_of:
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


def words(key: str) -> list[str]:
    """What all scopes tell of places that no signature describes; see :meth:`ComponentTable.words`."""
    tables = source().tables_telling("words")
    return list(dict.fromkeys(word for table in tables for word in table.words_of(key)))


def _other_registries(registry: Registry, name: str) -> str:
    """Says so when the name is right and only the place in the config is wrong."""
    bare = name.rpartition(".")[2]
    tables = [table for table in map(source().loaded_table, source().scopes()) if table is not None]
    for other in REGISTRIES.values():
        listed = other.registered(USER, bare) or any(table.get(other.name, bare) for table in tables)
        if other is not registry and listed:
            return f"{bare!r} is one of {other.name.upper()}, which cannot stand here"
    return ""
