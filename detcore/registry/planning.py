"""The plan of a build: every component found and every argument bound, with all problems of a config at once.

Components' annotations say which arguments are parts, see :mod:`detcore.registry.signatures`.
No constructor runs here.
"""
import copy
import typing
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from detcore.errors import DetcoreError
from detcore.registry.core import Deferred, Factory, Registry, default_scope
from detcore.registry.lookup import NameNotFoundError
from detcore.registry.problems import (
    Problem,
    absent_problems,
    argument_problems,
    joined,
    meant_hint,
    unknown_keys,
)
from detcore.registry.signatures import UNTOUCHED, Slot, parameters_of
from detcore.registry.spelling import slip


@dataclass(slots=True)
class Call:
    """A component and its arguments; among them are further plans where parts stand."""

    component: Callable[..., Any]
    arguments: dict[str, Any]
    path: str
    scope: str | None


@dataclass(slots=True)
class Fresh:
    """A plan to hand on as a factory."""

    call: Call


@dataclass(slots=True)
class Several:
    """A list, tuple or dict of plans."""

    plans: Any


class Examiner(Protocol):
    """Looks at what no signature describes; a check has one, a build needs none."""

    def look(self, planner: "Planner", value: Any, path: str, scope: str | None, *, strict: bool) -> None:
        """Find mistakes in a value; ``strict`` where names that nobody knows are mistakes, too."""

    def unknown_name(
        self, registry: Registry, error: NameNotFoundError, given: dict[str, Any], path: str
    ) -> Problem:
        """The problem of a name that no component bears, with what it may have been meant to be."""


@dataclass
class Planner:
    """Makes plans and collects what is wrong on the way.

    Attributes:
        problems: What was found so far.
        examiner: Looks further than a build needs.
    """

    problems: list[Problem] = field(default_factory=list)
    examiner: Examiner | None = None
    # Where a dict stood before a prepare_config moved it. It is kept, so that no other object gets its id.
    _origins: dict[int, tuple[str, Any]] = field(default_factory=dict)

    def part(
        self,
        registry: Registry,
        cfg: dict[str, Any],
        path: str,
        scope: str | None,
        *,
        complete: bool = True,
        allow: tuple[str, ...] = (),
        supplied: Collection[str] = (),
    ) -> Call | None:
        """Plan ``dict(type=...)``.

        Args:
            registry: Where its ``type`` is looked up.
            cfg: The dict; the values in it may end up in the built object.
            path: Where it stands in the config.
            scope: Default scope there.
            complete: Whether all required arguments must be given.
            allow: Keys that are fine though the component does not take them.
            supplied: Arguments that whoever builds it will add.

        Returns:
            The plan, or None if it has problems that leave nothing to plan.
        """
        given = dict(cfg)
        scope = given.pop("_scope_", scope)
        if "type" not in given:
            self._without_type(registry, given, path)
            self._look_at(given, path, scope)
            return None
        name = given.pop("type")
        try:
            component = registry.get(name, default_scope=scope)
            with default_scope(scope):
                given = self._prepared(component, given, path)
        except NameNotFoundError as error:
            self._not_found(registry, error, given, path, scope, allow)
            return None
        except Exception as error:  # a plugin's module or prepare_config may raise anything: one problem more
            self._failed(path, error)
            self._look_at(given, path, scope)
            return None
        return self._call(component, given, path, scope, complete=complete, allow=allow, supplied=supplied)

    def _without_type(self, registry: Registry, given: dict[str, Any], path: str) -> None:
        message = f"a dict for {registry.name.upper()} needs `type`"
        meant = [key for key in given if isinstance(key, str) and slip(key, ["type"])]
        if meant:
            self.note(Problem(joined(path, meant[0]), message, "did you mean 'type'?"))
            return
        found = f", it has only {', '.join(map(repr, given))}" if given else ""
        self.note(Problem(path, message + found))

    def _not_found(
        self,
        registry: Registry,
        error: NameNotFoundError,
        given: dict[str, Any],
        path: str,
        scope: str | None,
        allow: tuple[str, ...],
    ) -> None:
        """A name that nobody has: what is known of it is checked all the same."""
        if error.absence is not None:
            bare = error.name.rpartition(".")[2]
            subject = f"{registry.name}.{bare}"
            self.note(Problem(path, error.message, error.suggestion, error, subject=subject))
            for problem in absent_problems(bare, error.absence.takes, given, path, allow):
                self.note(problem)
        elif self.examiner is not None:
            self.note(self.examiner.unknown_name(registry, error, given, path))
        else:
            self.note(Problem(path, error.message, error.suggestion, error))
        self._look_at(given, path, scope)

    def _look_at(self, given: Any, path: str, scope: str | None, *, strict: bool = True) -> None:
        if self.examiner is None:
            return
        for key, value in given.items():
            if isinstance(value, dict | list | tuple):
                where = self.moved(value, joined(path, key))
                self.examiner.look(self, value, where, scope, strict=strict)

    def _prepared(self, component: Callable[..., Any], given: dict[str, Any], path: str) -> dict[str, Any]:
        prepare = getattr(component, "prepare_config", None)
        if prepare is None:
            return given
        self._remember(given, path)
        return dict(prepare(given))

    def _remember(self, value: Any, path: str) -> None:
        children: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in children:
            if isinstance(inner, dict | list):
                where = joined(path, key)
                self._origins.setdefault(id(inner), (where, inner))
                self._remember(inner, where)

    def _call(
        self,
        component: Callable[..., Any],
        given: dict[str, Any],
        path: str,
        scope: str | None,
        *,
        complete: bool = True,
        allow: tuple[str, ...] = (),
        supplied: Collection[str] = (),
    ) -> Call:
        found = argument_problems(
            component, given, path, complete=complete, allow=allow, supplied=supplied
        )
        for problem in found:
            self.note(problem)
        return Call(component, self._arguments(component, given, path, scope), path, scope)

    def _arguments(
        self, component: Callable[..., Any], given: dict[str, Any], path: str, scope: str | None
    ) -> dict[str, Any]:
        known = parameters_of(component)
        other = known.rest or UNTOUCHED
        return {
            name: self.value(known.slots.get(name, other), value, joined(path, name), scope)
            for name, value in given.items()
        }

    def value(self, slot: Slot, value: Any, path: str, scope: str | None) -> Any:
        """Plan one argument.

        Args:
            slot: What its annotation says.
            value: What the config says.
            path: Where that stands.
            scope: Default scope there.

        Returns:
            The value, or a plan in its place.
        """
        if isinstance(value, str) and slot.choices and value not in slot.choices:
            text = f"must be one of {', '.join(map(repr, slot.choices))}, got {value!r}"
            self.note(Problem(path, text, meant_hint(value, slot.choices)))
        if not isinstance(value, dict | list | tuple):
            return value
        path = self.moved(value, path)
        if not slot.is_checked:
            if self.examiner is not None:
                self.examiner.look(self, value, path, scope, strict=False)
            return value
        if isinstance(value, dict):
            return self._dict(slot, value, path, scope)
        if slot.items is not None:
            plans = [self.value(slot.items, each, joined(path, i), scope) for i, each in enumerate(value)]
            return Several(tuple(plans) if isinstance(value, tuple) else plans)
        if slot.part is not None and any(isinstance(each, dict) for each in value):
            self._add(path, f"expected one dict(type=...), got a {type(value).__name__} of {len(value)}")
        return value

    def _dict(self, slot: Slot, value: dict[str, Any], path: str, scope: str | None) -> Any:
        if slot.part is not None and "type" in value:
            return self._part_for(slot.part, value, path, scope)
        if slot.settings is not None:
            given = dict(value)
            scope = given.pop("_scope_", scope)
            if typing.is_typeddict(slot.settings):
                return self._table(slot, given, path, scope)
            return self._call(slot.settings, given, path, scope)
        if slot.entries is not None:
            entries = slot.entries
            return Several(
                {key: self.value(entries, each, joined(path, key), scope) for key, each in value.items()}
            )
        if slot.part is not None and not slot.plain:
            return self._part_for(slot.part, value, path, scope)
        if self.examiner is not None:
            self.examiner.look(self, value, path, scope, strict=False)
        return value

    def _table(self, slot: Slot, given: dict[str, Any], path: str, scope: str | None) -> Any:
        """A dict that stays one, whose keys are known."""
        assert slot.settings is not None
        known = parameters_of(slot.settings)
        for problem in unknown_keys(known, given, path, is_open=slot.open):
            self.note(problem)
        for name in sorted(known.required - set(given)):
            self.note(Problem(path, f"the key {name!r} is missing"))
        return Several(self._arguments(slot.settings, given, path, scope))

    def _part_for(
        self, kind: Registry | Deferred | Factory, value: dict[str, Any], path: str, scope: str | None
    ) -> Any:
        if isinstance(kind, Registry):
            return self.part(kind, value, path, scope)
        if isinstance(kind, Factory):
            call = self.part(kind.registry, value, path, scope, complete=False)
            return None if call is None else Fresh(call)
        # Planned only to see its problems, on a copy, because a prepare_config may change what it is given.
        self.part(kind.registry, copied(value), path, scope, complete=False, allow=kind.allow)
        return value

    def _add(self, path: str, message: str) -> None:
        self.note(Problem(path, message))

    def note(self, problem: Problem) -> None:
        """Remember a problem; the same one counts once."""
        if problem not in self.problems:  # the same dict may have been handed to several parts
            self.problems.append(problem)

    def moved(self, value: Any, path: str) -> str:
        """Where a dict or list stood before a ``prepare_config`` moved it; ``path`` if none did."""
        return self._origins.get(id(value), (path, None))[0]

    def _failed(self, path: str, error: Exception) -> None:
        message = str(error) if isinstance(error, DetcoreError) else f"{type(error).__name__}: {error}"
        self.note(Problem(path, message, cause=error))


def copied(value: Any) -> Any:
    """A copy of nested dicts, lists, tuples and plans that shares everything else."""
    if isinstance(value, Call):
        return Call(value.component, copied(value.arguments), value.path, value.scope)
    if isinstance(value, Several):
        return Several(copied(value.plans))
    if isinstance(value, dict):
        twin = copy.copy(value)
        for key, inner in value.items():
            dict.__setitem__(twin, key, copied(inner))
        return twin
    if isinstance(value, list):
        several = copy.copy(value)
        several[:] = map(copied, value)
        return several
    return tuple(map(copied, value)) if type(value) is tuple else value
