"""Checks for hooks."""

import pickle

from detcore.engine.hooks import Hook
from detcore.engine.hooks.order import HookList
from detcore.errors import ConfigError
from detcore.registry import HOOKS
from detcore.testing.building import Source, build, require


def check_hook(source: Source) -> None:
    """Check all that a hook promises without a run.

    It is a :class:`~detcore.engine.hooks.Hook` with a priority; what is named like a point of a run is one,
    and takes the arguments that are given there; what it remembers goes through a checkpoint.

    Args:
        source: ``dict(type=...)``, or a function that builds the hook.

    Raises:
        AssertionError: Says which promise is broken.
    """
    hook = build(source, HOOKS)
    require(isinstance(hook, Hook), f"{type(hook).__name__} must derive from detcore.engine.hooks.Hook")
    try:
        HookList().add(hook)
    except ConfigError as error:
        raise AssertionError(str(error)) from error
    state = hook.state_dict()
    require(isinstance(state, dict), f"state_dict must give a dict, got {type(state).__name__}")
    again = build(source, HOOKS)
    again.load_state_dict(pickle.loads(pickle.dumps(state)))  # noqa: S301  (our own bytes)
    require(again.state_dict().keys() == state.keys(), "load_state_dict must take what state_dict gives")
