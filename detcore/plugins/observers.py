"""Calling the plugins' observers during a run."""
import logging
from collections.abc import Callable, Iterable
from typing import Any

from detcore.errors import PluginError
from detcore.hookspecs import OBSERVER_HOOKS

logger = logging.getLogger(__name__)

Observer = Callable[..., Any]
Names = tuple[str, ...]


class Observers:
    """The observers of all plugins, called in the order of the plugins' scopes.

    ``observers.step_finished(state=state, report=report)`` and its kin call them; see ``detcore.hookspecs``.
    A plugin whose observer raises is reported once and not called again, so that it cannot end a training;
    ``DETCORE_STRICT_PLUGINS=1`` raises instead.

    Args:
        found: ``(scope, hook, function, names of the arguments it takes)`` of each.
        strict: Whether an observer's error ends the run.
    """

    def __init__(self, found: Iterable[tuple[str, str, Observer, Names]], *, strict: bool = False) -> None:
        self._strict = strict
        self._calls: dict[str, list[tuple[str, Observer, Names]]] = {hook: [] for hook in OBSERVER_HOOKS}
        for scope, hook, function, names in found:
            self._calls[hook].append((scope, function, names))

    def __bool__(self) -> bool:
        return any(self._calls.values())

    def run_started(self, *, state: Any) -> None:
        """A run is about to take its first step."""
        self._call("run_started", state=state)

    def step_finished(self, *, state: Any, report: Any) -> None:
        """A training step ended."""
        if self._calls["step_finished"]:
            self._call("step_finished", state=state, report=report)

    def evaluation_finished(self, *, state: Any, metrics: dict[str, float]) -> None:
        """An evaluation ended with these figures."""
        self._call("evaluation_finished", state=state, metrics=metrics)

    def checkpoint_saved(self, *, state: Any, path: Any) -> None:
        """A checkpoint is complete on disk."""
        self._call("checkpoint_saved", state=state, path=path)

    def run_ended(self, *, state: Any, reason: str) -> None:
        """A run is over: "finished", "stopped" or "failed"."""
        self._call("run_ended", state=state, reason=reason)

    def _call(self, hook: str, **arguments: Any) -> None:
        for scope, function, names in list(self._calls[hook]):
            try:
                function(**{name: arguments[name] for name in names})
            except Exception as error:
                if self._strict:
                    raise PluginError(f"observer {hook!r} of plugin {scope!r} failed: {error}") from error
                self._drop(scope, hook, error)

    def _drop(self, scope: str, hook: str, error: Exception) -> None:
        for calls in self._calls.values():
            calls[:] = [call for call in calls if call[0] != scope]
        logger.warning(
            "observer %r of plugin %r failed and is left out from now on: %s: %s",
            hook, scope, type(error).__name__, error, exc_info=logger.isEnabledFor(logging.DEBUG),
        )
