"""Looks for mistakes where no signature tells what a value has to be.

That is the arguments of components that nobody has, free variables of a config, and dicts that a component
takes as they are. A dict with ``type`` is held against whichever registry knows the name; of other dicts only
such keys are reported as look like slips of words that are known there.
"""
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from detcore.registry import lookup
from detcore.registry.core import REGISTRIES, Registry
from detcore.registry.lookup import Candidate, NameNotFoundError
from detcore.registry.planning import Planner
from detcore.registry.problems import Problem, joined, not_given_first
from detcore.registry.scopes import Absence, source
from detcore.registry.signatures import parameters_of
from detcore.registry.spelling import ranked, slip

Known = Callable[..., Any] | Absence
OUTSIDE = "custom_imports may bring it, which need --trust-config"


@dataclass
class Examination:
    """The examiner of one config.

    Attributes:
        used: How often the config writes each ``type``; settles between names that are equally close.
        imports_pending: Whether modules that the config names were not imported.
    """

    used: Counter[str] = field(default_factory=Counter)
    imports_pending: bool = False
    _known: dict[tuple[str, str | None], list[tuple[Registry, Known]]] = field(default_factory=dict)
    _words: dict[str, list[str]] = field(default_factory=dict)

    def look(self, planner: Planner, value: Any, path: str, scope: str | None, *, strict: bool) -> None:
        """See :class:`~detcore.registry.planning.Examiner`."""
        if isinstance(value, list | tuple):
            for index, each in enumerate(value):
                if isinstance(each, dict | list | tuple):
                    place = planner.moved(each, joined(path, index))
                    self.look(planner, each, place, scope, strict=strict)
        elif isinstance(value, dict):
            scope = value.get("_scope_", scope)
            if isinstance(value.get("type"), str):
                self._look_at_part(planner, value, path, scope, strict)
            else:
                self._look_at_keys(planner, value, path, strict)
                self._look_inside(planner, value, path, scope, strict)

    def unknown_name(
        self, registry: Registry, error: NameNotFoundError, given: dict[str, Any], path: str
    ) -> Problem:
        """See :class:`~detcore.registry.planning.Examiner`."""
        if self.imports_pending:
            return self._pending(error.name, path)
        scope, dot, _ = error.name.partition(".")
        if dot and source().describe(scope).startswith("not installed: "):
            return Problem(path, error.message, error.hints, error)  # similar names are not what is missing
        best = self._by_fit([(registry, each) for each in error.candidates], given)
        hint = lookup.joined_hints(lookup.did_you_mean([each for _, each in best]), error.hints)
        # Where a name is close, the scopes that were searched are of no interest.
        message = error.message.partition("; searched: ")[0] if best else error.message
        return Problem(path, message, hint, error)

    def words(self, key: str) -> list[str]:
        """What plugins tell of a place; see :meth:`ComponentTable.words`."""
        if key not in self._words:
            self._words[key] = lookup.words(key)
            if "_" in key and key.endswith("_cfg"):  # `head_norm_cfg` is a `norm_cfg`
                self._words[key] = [*self._words[key], *self.words(key.partition("_")[2])]
        return self._words[key]

    def everywhere(self, name: str, scope: str | None) -> list[tuple[Registry, Known]]:
        """All registries that know a name, with what they know."""
        if (name, scope) not in self._known:
            pairs = ((each, lookup.known(each, name, scope)) for each in REGISTRIES.values())
            self._known[name, scope] = [(each, found) for each, found in pairs if found is not None]
        return self._known[name, scope]

    def _look_at_part(
        self, planner: Planner, value: dict[str, Any], path: str, scope: str | None, strict: bool
    ) -> None:
        key, name = _key(path), value["type"]
        if name in self.words(f"{key}.type"):
            self._look_at_keys(planner, value, path, strict)
            self._look_inside(planner, value, path, scope, strict)
            return
        found = self.everywhere(name, scope)
        if not found:
            self._unknown_anywhere(planner, value, path, strict)
            self._look_inside(planner, value, path, scope, strict)
            return
        registry, _ = min(found, key=lambda each: self._misfit(each[1], value))
        inner = planner if strict else Planner(examiner=self)
        inner.part(registry, value, path, scope, complete=False, allow=tuple(self.words(key)))
        if not strict:
            for problem in inner.problems:
                planner.note(replace(problem, severity="warning"))

    def _pending(self, name: str, path: str) -> Problem:
        return Problem(path, f"{name!r} is unknown: {OUTSIDE}", severity="warning", subject=f"pending.{name}")

    def _unknown_anywhere(self, planner: Planner, value: dict[str, Any], path: str, strict: bool) -> None:
        name = value["type"]
        if self.imports_pending:
            planner.note(self._pending(name, path))
            return
        own = [Candidate(word, slips) for slips, word in ranked(name, self.words(f"{_key(path)}.type"))]
        near = [(each, found) for each in REGISTRIES.values() for found in lookup.candidates(each, name)]
        best = self._by_fit(near, value)
        if not strict:
            own = [each for each in own if each.distance <= 1]
            meant = slip(name, [each.name for _, each in best])
            best = [pair for pair in best if pair[1].name == meant]
        if strict or own or best:
            close = sorted([*own, *(each for _, each in best)], key=lambda each: each.distance)
            hint = lookup.did_you_mean(close)
            severity: Any = "error" if strict else "warning"
            planner.note(Problem(path, f"nothing is called {name!r}", hint, severity=severity))

    def _look_at_keys(self, planner: Planner, value: Mapping[Any, Any], path: str, strict: bool) -> None:
        key = _key(path)
        known = self.words(key)
        for each, inner in value.items():
            if not isinstance(each, str) or each in known or each in ("type", "_scope_"):
                continue
            meant = slip(each, not_given_first(known, value))
            if meant is None and "type" not in value and isinstance(inner, str) and slip(each, ["type"]):
                is_name = self.everywhere(inner, None) or inner in self.words(f"{key}.type")
                meant = "type" if is_name else None
            if meant is not None:
                severity: Any = "error" if strict else "warning"
                text = f"the key {each!r} is not known here"
                planner.note(Problem(joined(path, each), text, f"did you mean {meant!r}?", severity=severity))

    def _look_inside(
        self, planner: Planner, value: Mapping[Any, Any], path: str, scope: str | None, strict: bool
    ) -> None:
        for each, inner in value.items():
            if isinstance(inner, dict | list | tuple):
                self.look(planner, inner, planner.moved(inner, joined(path, each)), scope, strict=strict)

    def _by_fit(
        self, candidates: list[tuple[Registry, Candidate]], given: Mapping[Any, Any]
    ) -> list[tuple[Registry, Candidate]]:
        """Nearest first; of equals those that take the given arguments, then those that the config uses."""

        def badness(pair: tuple[Registry, Candidate]) -> tuple[float, float, int, bool]:
            registry, candidate = pair
            what = lookup.known(registry, candidate.name, None)
            misfit = 0.0 if what is None else self._misfit(what, given)
            return candidate.distance, misfit, -self.used[candidate.name], bool(candidate.reason)

        nearest = min((each.distance for _, each in candidates), default=0.0)
        close = sorted((pair for pair in candidates if pair[1].distance <= nearest + 1), key=badness)
        kept: dict[str, tuple[Registry, Candidate]] = {}
        for pair in close:
            kept.setdefault(pair[1].name, pair)
        return list(kept.values())

    def _misfit(self, what: Known, given: Mapping[Any, Any]) -> float:
        """How badly arguments fit a component: one for each that it does not take, half for each missing."""
        names = {name for name in given if name not in ("type", "_scope_")}
        if isinstance(what, Absence):
            return 0.25 if what.takes is None or "*" in what.takes else float(len(names - set(what.takes)))
        known = parameters_of(what)
        unknown = 0 if known.rest is not None else len(names - set(known.slots))
        return unknown + 0.5 * len(known.required - names)


def _key(path: str) -> str:
    """The last part of a path that is no index."""
    return next((part for part in reversed(path.split(".")) if not part.isdigit()), "")
