"""The plan of a build: every component found and every argument bound, with all problems of a config at once.

Components' annotations say which arguments are parts, see :mod:`detcore.registry.signatures`.
No constructor runs here.
"""
import copy
import difflib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from detcore.errors import ConfigError, DetcoreError
from detcore.registry.core import Deferred, Factory, Registry, default_scope
from detcore.registry.lookup import NameNotFoundError
from detcore.registry.signatures import UNTOUCHED, Slot, parameters_of


@dataclass(frozen=True)
class Problem:
    """One mistake in a config.

    Attributes:
        path: Where it stands: ``model.bbox_head.num_clases``.
        message: What is wrong.
        suggestion: What may help; may be empty.
        cause: The exception behind it, if there is one: that of a broken plugin, for example.
    """

    path: str
    message: str
    suggestion: str = ""
    cause: BaseException | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        text = f"{self.path or '(top level)'}: {self.message}"
        return f"{text}; {self.suggestion}" if self.suggestion else text


class InvalidConfigError(ConfigError):
    """A config that cannot be built; chains the first exception behind its problems.

    Attributes:
        problems: All that is wrong with it.
    """

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        head = "" if len(problems) == 1 else f"{len(problems)} problems in the config:\n  "
        super().__init__(head + "\n  ".join(map(str, problems)))
        self.__cause__ = next((problem.cause for problem in problems if problem.cause is not None), None)

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), ([replace(problem, cause=None) for problem in self.problems],)


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


@dataclass
class Planner:
    """Makes plans and collects what is wrong on the way.

    Attributes:
        problems: What was found so far.
    """

    problems: list[Problem] = field(default_factory=list)
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
    ) -> Call | None:
        """Plan ``dict(type=...)``.

        Args:
            registry: Where its ``type`` is looked up.
            cfg: The dict; the values in it may end up in the built object.
            path: Where it stands in the config.
            scope: Default scope there.
            complete: Whether all required arguments must be given.
            allow: Keys that are fine though the component does not take them.

        Returns:
            The plan, or None if it has problems that leave nothing to plan.
        """
        given = dict(cfg)
        scope = given.pop("_scope_", scope)
        if "type" not in given:
            found = f", it has only {', '.join(map(repr, given))}" if given else ""
            self._add(path, f"a dict for {registry.name.upper()} needs `type`{found}")
            return None
        try:
            component = registry.get(given.pop("type"), default_scope=scope)
            with default_scope(scope):
                given = self._prepared(component, given, path)
        except Exception as error:  # a plugin's module or prepare_config may raise anything: one problem more
            self._failed(path, error)
            return None
        return self._call(component, given, path, scope, complete=complete, allow=allow)

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
    ) -> Call:
        for problem in argument_problems(component, given, path, complete=complete, allow=allow):
            self._note(problem)
        known = parameters_of(component)
        plans = {}
        for name, value in given.items():
            slot = known.slots.get(name) or known.rest or UNTOUCHED
            plans[name] = self._value(slot, value, joined(path, name), scope)
        return Call(component, plans, path, scope)

    def _value(self, slot: Slot, value: Any, path: str, scope: str | None) -> Any:
        if not slot.takes_parts or not isinstance(value, dict | list | tuple):
            return value
        path = self._origins.get(id(value), (path, None))[0]
        if isinstance(value, dict):
            return self._dict(slot, value, path, scope)
        if slot.items is not None:
            plans = [self._value(slot.items, each, joined(path, i), scope) for i, each in enumerate(value)]
            return Several(tuple(plans) if isinstance(value, tuple) else plans)
        if slot.part is not None and any(isinstance(each, dict) for each in value):
            self._add(path, f"expected one dict(type=...), got a {type(value).__name__} of {len(value)}")
        return value

    def _dict(self, slot: Slot, value: dict[str, Any], path: str, scope: str | None) -> Any:
        if slot.part is not None and "type" in value:
            return self._part_for(slot.part, value, path, scope)
        if slot.settings is not None:
            given = dict(value)
            return self._call(slot.settings, given, path, given.pop("_scope_", scope))
        if slot.entries is not None:
            entries = slot.entries
            return Several(
                {key: self._value(entries, each, joined(path, key), scope) for key, each in value.items()}
            )
        if slot.part is not None and not slot.plain:
            return self._part_for(slot.part, value, path, scope)
        return value

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
        self._note(Problem(path, message))

    def _note(self, problem: Problem) -> None:
        if problem not in self.problems:  # the same dict may have been handed to several parts
            self.problems.append(problem)

    def _failed(self, path: str, error: Exception) -> None:
        if isinstance(error, NameNotFoundError):
            self._note(Problem(path, error.message, error.suggestion, error))
        else:
            message = str(error) if isinstance(error, DetcoreError) else f"{type(error).__name__}: {error}"
            self._note(Problem(path, message, cause=error))


def argument_problems(
    component: Callable[..., Any],
    given: dict[str, Any],
    path: str,
    *,
    complete: bool = True,
    allow: tuple[str, ...] = (),
) -> Iterator[Problem]:
    """Unknown and, if ``complete``, missing arguments of a component."""
    known = parameters_of(component)
    for name in given:
        if name in known.slots or name in allow:
            continue
        if known.rest is None or not isinstance(name, str):
            message = f"{name_of(component)} takes no argument {name!r}"
            yield Problem(joined(path, name), message, _closest(str(name), [*known.slots, *allow]))
    if complete:
        for name in known.slots:
            if name in known.required and name not in given:
                yield Problem(joined(path, name), f"{name_of(component)} needs the argument {name!r}")


def _closest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"it takes {', '.join(sorted(known))}" if known else "it takes no arguments"


def joined(path: str, key: Any) -> str:
    """``path.key``, or ``key`` at the top."""
    return f"{path}.{key}" if path else str(key)


def name_of(component: Callable[..., Any]) -> str:
    """How messages call a component."""
    return getattr(component, "__name__", None) or repr(component)


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
