"""Tells the model which pass it is in."""
from typing import Any

from detcore.engine.hooks.base import Hook


class SetEpochInfoHook(Hook):
    """Calls ``model.set_epoch(epoch)`` before each pass, for models whose loss depends on it."""

    def before_train_epoch(self, runner: Any) -> None:
        """Tell the model, and those of its parts that ask for it."""
        for module in runner.model.modules():
            set_epoch = getattr(module, "set_epoch", None)
            if callable(set_epoch):
                set_epoch(runner.epoch)
