"""Switches weight averaging on; the averaging itself is called by name after each step."""
from typing import Any

from torch import nn

from detcore.engine.hooks.base import Hook
from detcore.errors import ConfigError
from detcore.registry import MODELS

_OWN = ("ema_type", "strict_load", "begin_iter", "begin_epoch")


class EMAHook(Hook):
    """Keeps an exponential moving average of the weights; evaluations use the averaged ones.

    The runner asks this hook for the average when training begins and puts it into ``state.after_update``.

    Args:
        ema_type: Name of the average, such as ``ExponentialMovingAverage`` or ``ExpMomentumEMA``.
        strict_load: Accepted for configs of MMDetection; loading is always strict.
        begin_iter: Number of the first step, from 1, whose weights are averaged; before it the average
            follows the weights.
        begin_epoch: The same by passes; at most one of both may be set.
        **settings: What ``ema_type`` takes: ``momentum``, ``gamma``, ``interval``, ``update_buffers``,
            ``device``, or what an average of your own does.

    Raises:
        ConfigError: ``begin_iter`` or ``begin_epoch`` makes no sense.
    """

    priority = "NORMAL"

    def __init__(
        self,
        ema_type: str = "ExponentialMovingAverage",
        strict_load: bool = False,
        begin_iter: int = 0,
        begin_epoch: int = 0,
        **settings: Any,
    ) -> None:
        if begin_iter and begin_epoch:
            raise ConfigError("EMAHook takes begin_iter or begin_epoch, not both")
        if begin_iter < 0 or begin_epoch < 0:
            raise ConfigError(
                f"EMAHook: begin_iter={begin_iter}, begin_epoch={begin_epoch}; both count from 0 up"
            )
        self.average = {"type": ema_type, **settings}
        self.begin_iter = begin_iter
        self.begin_epoch = begin_epoch

    @classmethod
    def prepare_config(cls, cfg: dict[str, Any]) -> dict[str, Any]:
        """Check what is for the average before anything is built.

        Raises:
            ConfigError: ``ema_type`` is unknown or does not take one of the settings.
        """
        settings = {name: value for name, value in cfg.items() if name not in (*_OWN, "priority")}
        kind = cfg.get("ema_type", "ExponentialMovingAverage")
        problems = MODELS.check({**settings, "type": kind, "model": None})
        if problems:
            raise ConfigError("; ".join(map(str, problems)))
        return cfg

    def build(self, model: nn.Module, default_scope: str | None = None) -> Any:
        """Make the average of ``model``'s weights."""
        return MODELS.build(dict(self.average), default_scope=default_scope, path="EMAHook", model=model)

    def before_train(self, runner: Any) -> None:
        """Refuse an average that would never begin.

        Raises:
            ConfigError: It begins after the end of the training.
        """
        for name, begin, end in (
            ("begin_epoch", self.begin_epoch, runner.max_epochs),
            ("begin_iter", self.begin_iter, runner.max_iters),
        ):
            if begin > end:
                raise ConfigError(f"EMAHook: {name}={begin} begins after the end of the training, {end}")

    def first_step(self, epoch_length: int | None) -> int:
        """The zero-based step from which on weights are averaged."""
        if self.begin_epoch:
            return (self.begin_epoch - 1) * (epoch_length or 0)
        return max(self.begin_iter - 1, 0)
