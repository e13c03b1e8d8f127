"""The hooks of a run in the order of their priority, checked when they are added."""
import difflib
import inspect
from collections.abc import Iterator
from typing import Any

from detcore.engine.hooks.base import PRIORITIES, Hook
from detcore.errors import ConfigError

_POINTS: dict[str, tuple[str, ...]] = {
    "before_run": (),
    "after_run": (),
    **{f"{when}_{mode}": () for mode in ("train", "val", "test") for when in ("before", "after")},
    **{f"before_{mode}_epoch": () for mode in ("train", "val", "test")},
    "after_train_epoch": (),
    "after_val_epoch": ("metrics",),
    "after_test_epoch": ("metrics",),
    **{f"before_{mode}_iter": ("batch_idx", "data_batch") for mode in ("train", "val", "test")},
    **{f"after_{mode}_iter": ("batch_idx", "data_batch", "outputs") for mode in ("train", "val", "test")},
    "before_save_checkpoint": ("checkpoint",),
    "after_save_checkpoint": ("checkpoint",),
    "after_load_checkpoint": ("checkpoint",),
}
_SHARED = {"epoch": ("_before_epoch", "_after_epoch"), "iter": ("_before_iter", "_after_iter")}


def priority_value(priority: str | int) -> int:
    """The number behind a priority.

    Raises:
        ConfigError: If it is neither a known name nor an integer from 0 to 100.
    """
    if isinstance(priority, str) and priority.upper() in PRIORITIES:
        return PRIORITIES[priority.upper()]
    if isinstance(priority, int) and not isinstance(priority, bool) and 0 <= priority <= 100:
        return priority
    raise ConfigError(
        f"a hook's priority must be an integer from 0 to 100 or one of {', '.join(PRIORITIES)}; "
        f"got {priority!r}"
    )


class HookList:
    """Hooks in the order in which they run; a point that no hook overrides costs one look-up."""

    def __init__(self) -> None:
        self._entries: list[tuple[int, Hook]] = []
        self._at: dict[str, list[Hook]] = {point: [] for point in _POINTS}

    def __iter__(self) -> Iterator[Hook]:
        return (hook for _, hook in self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, hook: Hook, priority: str | int | None = None) -> None:
        """Take ``hook`` in, behind those of the same priority.

        Raises:
            ConfigError: If it is no hook, a method's name looks like a misspelt point, or a point's arguments
                do not fit.
        """
        check_hook(hook)
        value = priority_value(hook.priority if priority is None else priority)
        self._entries.append((value, hook))
        self._entries.sort(key=lambda entry: entry[0])
        for point in _POINTS:
            self._at[point] = [hook for hook in self if _overrides(hook, point)]

    def call(self, point: str, runner: Any, **arguments: Any) -> None:
        """Call every hook that overrides ``point``.

        Raises:
            ConfigError: If there is no such point.
        """
        try:
            hooks = self._at[point]
        except KeyError:
            raise ConfigError(f"there is no hook point {point!r}; there are {', '.join(_POINTS)}") from None
        for hook in hooks:
            getattr(hook, point)(runner, **arguments)

    def find(self, kind: type) -> list[Any]:
        """The hooks of class ``kind``, in their order."""
        return [hook for hook in self if isinstance(hook, kind)]

    def state_dict(self) -> dict[str, Any]:
        """The state of each hook that has one, under its class name (``Name``, ``Name.1``, ...)."""
        states = ((name, hook.state_dict()) for name, hook in self._named())
        return {name: state for name, state in states if state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Give each hook its part of what `state_dict` gave; hooks that are new keep their initial state."""
        for name, hook in self._named():
            if name in state:
                hook.load_state_dict(state[name])

    def _named(self) -> Iterator[tuple[str, Hook]]:
        seen: dict[str, int] = {}
        for hook in self:
            name = type(hook).__name__
            count = seen.get(name, 0)
            seen[name] = count + 1
            yield (f"{name}.{count}" if count else name), hook


def check_hook(hook: object) -> None:
    """Hold a hook against the points that exist.

    Raises:
        ConfigError: If it is no `Hook`, a method's name looks like a misspelt point, or the arguments of a
            point are not those it is called with.
    """
    cls = type(hook)
    if not isinstance(hook, Hook):
        raise ConfigError(
            f"a hook must derive from detcore.engine.hooks.Hook; got {cls.__module__}.{cls.__name__}"
        )
    for base in cls.__mro__:
        if base in (Hook, object):
            continue
        for name, value in vars(base).items():
            if callable(value) and not name.startswith("_"):
                _check_method(hook, name)


def _check_method(hook: Hook, name: str) -> None:
    where = f"{type(hook).__name__}.{name}"
    if name not in _POINTS:
        if difflib.get_close_matches(name, _POINTS, n=1, cutoff=0.84):
            close = difflib.get_close_matches(name, _POINTS, n=3, cutoff=0.7)
            raise ConfigError(
                f"{where} is not a point of a run and would never be called; did you mean "
                f"{' or '.join(close)}? (prefix a method of your own with an underscore)"
            )
        return
    try:
        inspect.signature(getattr(hook, name)).bind(object(), **dict.fromkeys(_POINTS[name]))
    except TypeError as error:
        expected = ", ".join(("self", "runner", *_POINTS[name]))
        got = f"{name}{inspect.signature(getattr(type(hook), name))}"
        raise ConfigError(f"{where} must be callable as {name}({expected}); it is {got}: {error}") from None


def _overrides(hook: Hook, point: str) -> bool:
    cls = type(hook)
    if getattr(cls, point) is not getattr(Hook, point):
        return True
    when, _, rest = point.partition("_")
    shared = _SHARED.get(rest.rpartition("_")[2], ())
    return any(
        name.startswith(f"_{when}") and getattr(cls, name) is not getattr(Hook, name) for name in shared
    )
