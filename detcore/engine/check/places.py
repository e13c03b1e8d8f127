"""Where in which file a problem stands, and problems that are one mistake seen at several places."""
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from detcore.config import Config
from detcore.config.document import ConfigDict, origins_of
from detcore.registry.lookup import NameNotFoundError
from detcore.registry.problems import Problem

Place = tuple[str, int]


def origin(cfg: Any, path: str) -> Place | None:
    """File and line that set the value at a path, or the nearest around it; None where nothing is known."""
    value: Any = cfg._tree if isinstance(cfg, Config) else cfg
    found: Place | None = None
    rest = path
    while rest:
        key, inner, rest = _step(value, rest)
        if inner is None and not rest:
            break
        if isinstance(value, ConfigDict):
            found = origins_of(value).get(key, found)
        value = inner
    return found


def _step(value: Any, path: str) -> tuple[Any, Any, str]:
    """The next key of a path (keys may hold dots, so the longest that fits), its value, and the rest."""
    parts = path.split(".")
    if isinstance(value, Mapping):
        for end in range(len(parts), 0, -1):
            key = ".".join(parts[:end])
            if key in value:
                return key, value[key], ".".join(parts[end:])
    elif isinstance(value, list | tuple) and parts[0].isdigit() and int(parts[0]) < len(value):
        return int(parts[0]), value[int(parts[0])], ".".join(parts[1:])
    return parts[0], None, ""


def shown(place: Place | None) -> str:
    """``file:line``; the file alone where lines are unknown, empty where nothing is."""
    if place is None:
        return ""
    return f"{place[0]}:{place[1]}" if place[1] else place[0]


def located(cfg: Any, problems: Iterable[Problem]) -> list[Problem]:
    """The problems with file and line, errors first, one for each mistake."""
    merged: dict[Any, Problem] = {}
    also: dict[Any, list[str]] = {}
    for each in problems:
        named = f"{each.path}.type" if isinstance(each.cause, NameNotFoundError) else each.path
        problem = replace(each, where=each.where or shown(origin(cfg, named)))
        key = _identity(problem)
        if key not in merged:
            merged[key] = problem
        elif problem.path != merged[key].path:
            also.setdefault(key, []).append(problem.path)
            if problem.severity == "error" and merged[key].severity == "warning":
                merged[key] = replace(merged[key], severity="error")
    found = [_with_places(problem, also.get(key, [])) for key, problem in merged.items()]
    return sorted(found, key=lambda problem: problem.severity != "error")


def _identity(problem: Problem) -> Any:
    if problem.subject:
        return problem.subject
    # A list that two loaders share has one origin; without origins the same words are the same mistake.
    return problem.where, problem.path.rpartition(".")[2], problem.message, problem.suggestion


def _with_places(problem: Problem, paths: list[str]) -> Problem:
    others = list(dict.fromkeys(path for path in paths if path != problem.path))
    if not others:
        return problem
    more = f", and {len(others) - 3} more" if len(others) > 3 else ""
    return replace(problem, message=f"{problem.message} (also at {', '.join(others[:3])}{more})")
