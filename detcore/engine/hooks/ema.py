"""Switches weight averaging on; the averaging itself is called by name after each step."""
from typing import Any

from torch import nn

from detcore.engine.hooks.base import Hook
from detcore.errors import ConfigError
from detcore.registry import MODELS


class EMAHook(Hook):
    """Keeps an exponential moving average of the weights; evaluations use the averaged ones.

    The runner asks this hook for the average when training begins and puts it into ``state.after_update``.

    Args:
        ema_type: Name of the average, ``ExponentialMovingAverage`` or ``ExpMomentumEMA``.
        strict_load: Accepted for configs of MMDetection; loading is always strict.
        begin_iter: Step from which on weights are averaged; before it the average follows the weights.
        begin_epoch: The same by passes; at most one of both may be set.
        momentum: Weight of the newest weights in the average; None leaves it to ``ema_type``.
        gamma: Steps of the warm-up of ``ExpMomentumEMA``.
        interval: Steps between two updates.
        update_buffers: Average buffers (running means and variances), too.
    """

    priority = "NORMAL"

    def __init__(
        self,
        ema_type: str = "ExponentialMovingAverage",
        strict_load: bool = False,
        begin_iter: int = 0,
        begin_epoch: int = 0,
        momentum: float | None = None,
        gamma: int | None = None,
        interval: int | None = None,
        update_buffers: bool | None = None,
    ) -> None:
        if begin_iter and begin_epoch:
            raise ConfigError("EMAHook takes begin_iter or begin_epoch, not both")
        settings = {
            "momentum": momentum,
            "gamma": gamma,
            "interval": interval,
            "update_buffers": update_buffers,
        }
        self.average: dict[str, Any] = {"type": ema_type}
        self.average.update((name, value) for name, value in settings.items() if value is not None)
        self.begin_iter = begin_iter
        self.begin_epoch = begin_epoch

    def build(self, model: nn.Module, default_scope: str | None = None) -> Any:
        """Make the average of ``model``'s weights."""
        return MODELS.build(dict(self.average), default_scope=default_scope, path="EMAHook", model=model)

    def first_step(self, epoch_length: int | None) -> int:
        """The zero-based step from which on weights are averaged."""
        return self.begin_epoch * (epoch_length or 0) if self.begin_epoch else self.begin_iter
