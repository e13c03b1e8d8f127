"""What is wrong with a config: the problem itself, and those of arguments and keys that nobody takes."""
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from detcore.errors import ConfigError
from detcore.registry.signatures import UNTOUCHED, Parameters, parameters_of
from detcore.registry.spelling import ranked, slip


@dataclass(frozen=True)
class Problem:
    """One mistake in a config.

    Attributes:
        path: Where it stands: ``model.bbox_head.num_clases``.
        message: What is wrong.
        suggestion: What may help; may be empty.
        cause: The exception behind it, if there is one: that of a broken plugin, for example.
        severity: Whether it stops a run.
        where: ``file:line``, where known.
        subject: What it is about; problems of one subject are one problem that shows at several places.
    """

    path: str
    message: str
    suggestion: str = ""
    cause: BaseException | None = field(default=None, compare=False, repr=False)
    severity: Literal["error", "warning"] = "error"
    where: str = ""
    subject: str = field(default="", compare=False, repr=False)

    def __str__(self) -> str:
        head = f"{self.where}: " if self.where else ""
        text = f"{head}{self.path or '(top level)'}: {self.message}"
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


def argument_problems(
    component: Callable[..., Any],
    given: dict[str, Any],
    path: str,
    *,
    complete: bool = True,
    allow: tuple[str, ...] = (),
    supplied: Collection[str] = (),
) -> Iterator[Problem]:
    """Unknown and, if ``complete``, missing arguments of a component."""
    known = parameters_of(component)
    unknown = list(_unknown(name_of(component), known, given, path, allow))
    yield from unknown
    hinted = " ".join(problem.suggestion for problem in unknown)
    for name in known.slots if complete else ():
        if name in given or name in supplied or repr(name) in hinted:
            continue
        if name in known.required:
            yield Problem(joined(path, name), f"{name_of(component)} needs the argument {name!r}")


def _unknown(
    owner: str, known: Parameters, given: dict[str, Any], path: str, allow: tuple[str, ...]
) -> Iterator[Problem]:
    for name in given:
        if name in known.slots or name in allow:
            continue
        if known.rest is None or not isinstance(name, str):
            message = f"{owner} takes no argument {name!r}"
            yield Problem(joined(path, name), message, _closest(str(name), [*known.slots, *allow], given))


def absent_problems(
    name: str, takes: tuple[str, ...] | None, given: dict[str, Any], path: str, allow: tuple[str, ...]
) -> Iterator[Problem]:
    """Arguments that a component would not take if it were there."""
    known = Parameters(dict.fromkeys(takes or (), UNTOUCHED), frozenset(), None)
    if takes is not None and "*" not in takes:
        yield from _unknown(name, known, given, path, allow)
    elif takes is not None:
        yield from unknown_keys(known, given, path, is_open=True)


def unknown_keys(known: Parameters, given: dict[str, Any], path: str, *, is_open: bool) -> Iterator[Problem]:
    """Keys of a dict that are not known; where others are fine, only those that look like slips."""
    for name in given:
        if name in known.slots:
            continue
        meant = slip(str(name), not_given_first(known.slots, given)) if is_open else None
        if meant is not None:
            yield Problem(joined(path, name), "this key is not known here", f"did you mean {meant!r}?")
        elif not is_open:
            hint = _closest(str(name), list(known.slots), given).replace("it takes ", "there are ")
            yield Problem(joined(path, name), f"there is no key {name!r} here", hint)


def _closest(name: str, known: list[str], given: dict[str, Any]) -> str:
    """What a name was meant to be: rather an argument that is not given yet; `type` is one everywhere."""
    close = meant_hint(name, [*not_given_first([*known, "type"], given), "_scope_"])
    return close or (f"it takes {', '.join(sorted(known))}" if known else "it takes no arguments")


def not_given_first(known: Iterable[str], given: Collection[Any]) -> list[str]:
    """Names in the order in which a misspelt one probably means them."""
    return sorted(known, key=lambda name: name in given)


def meant_hint(name: str, known: Iterable[str]) -> str:
    """``did you mean 'x'?``, or an empty string where nothing is near."""
    close = ranked(name, known)
    return f"did you mean {close[0][1]!r}?" if close else ""


def joined(path: str, key: Any) -> str:
    """``path.key``, or ``key`` at the top."""
    return f"{path}.{key}" if path else str(key)


def name_of(component: Callable[..., Any]) -> str:
    """How messages call a component."""
    return getattr(component, "__name__", None) or repr(component)
