"""Every hook that a plugin may implement. A plugin's module marks its implementations with ``@hookimpl``.

Components and commands are told to the host by name and imported when used. Observers see a run go by and
change nothing in it: whatever changes the arithmetic of training is called by name in the loop.
An implementation may leave out arguments that it does not need; a hook or argument that is not on this page
is an error. Observers of all installed and allowed plugins are called, in the order of their scopes.
"""
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from detcore.plugins.checkpoints import CheckpointTable
    from detcore.plugins.commands import CommandTable
    from detcore.registry.scopes import ComponentTable

# The version of this page. A plugin's module states the one it was written for: DETCORE_API = 1.
API_VERSION = 1
OLDEST_API_VERSION = 1

hookspec = pluggy.HookspecMarker("detcore")
hookimpl = pluggy.HookimplMarker("detcore")


@hookspec
def detcore_components(components: "ComponentTable") -> None:
    """Name the scope's components: ``components.add("models", "MyHead", "my_package.head:MyHead")``."""


@hookspec
def detcore_commands(commands: "CommandTable") -> None:
    """Name subcommands of ``detcore``: ``commands.add("serve", "my_package.cli:serve", "Serve a model")``."""


@hookspec
def detcore_checkpoints(checkpoints: "CheckpointTable") -> None:
    """Name what is known of foreign weight files: ``checkpoints.scheme("hub", "my_hub.names:addresses")``."""


@hookspec
def run_started(state: Any) -> None:
    """A run is about to take its first step; ``state`` is the run's train state, to be read only."""


@hookspec
def step_finished(state: Any, report: Any) -> None:
    """A training step ended; ``report`` holds its number and its losses, which may still be on the device."""


@hookspec
def evaluation_finished(state: Any, metrics: dict[str, float]) -> None:
    """An evaluation ended with these figures, for example ``{"coco/bbox_mAP": 0.38}``."""


@hookspec
def checkpoint_saved(state: Any, path: Path) -> None:
    """A checkpoint is complete on disk at ``path``."""


@hookspec
def run_ended(state: Any, reason: str) -> None:
    """A run is over: ``"finished"``, ``"stopped"`` by a signal, or ``"failed"`` with an error."""


OBSERVER_HOOKS = ("run_started", "step_finished", "evaluation_finished", "checkpoint_saved", "run_ended")
