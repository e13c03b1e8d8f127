"""Ends a training that no longer gets better."""
import logging
import math
from typing import Any

from detcore.engine.hooks.base import Hook
from detcore.engine.hooks.rule import comparison_rule
from detcore.errors import ConfigError

_log = logging.getLogger(__name__)


class EarlyStoppingHook(Hook):
    """Ends the training after ``patience`` validations without an improvement.

    Args:
        monitor: Key of the figure to watch, for example ``coco/bbox_mAP``.
        rule: ``greater`` or ``less``; told from the key where it is left out.
        min_delta: How much better, at least, a figure must be to count.
        strict: Whether a missing figure is an error (else a warning).
        check_finite: End at once when the figure is infinite or NaN.
        patience: Validations without an improvement until the end.
        stopping_threshold: End as soon as the figure is at least this good.
    """

    priority = "LOWEST"

    def __init__(
        self,
        monitor: str,
        rule: str | None = None,
        min_delta: float = 0.1,
        strict: bool = False,
        check_finite: bool = True,
        patience: int = 5,
        stopping_threshold: float | None = None,
    ) -> None:
        self.monitor = monitor
        self.rule = comparison_rule(monitor, rule)
        self.min_delta = abs(min_delta)
        self.strict = strict
        self.check_finite = check_finite
        self.patience = patience
        self.stopping_threshold = stopping_threshold
        self.best: float | None = None
        self.wait_count = 0

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Compare the figure with the best one so far.

        Raises:
            ConfigError: If the figure is missing and ``strict`` is set.
        """
        if runner.train_loop is None or not runner.training:
            return
        if not metrics or self.monitor not in metrics:
            message = f"EarlyStoppingHook watches {self.monitor!r}; there are {sorted(metrics or {})}"
            if self.strict:
                raise ConfigError(message)
            _log.warning(message)
            return
        reason = self._judge(float(metrics[self.monitor]))
        if reason:
            runner.logger.info(
                "early stopping after epoch %d, step %d: %s", runner.epoch, runner.iter, reason
            )
            runner.train_loop.stop_training = True

    def _judge(self, value: float) -> str | None:
        if self.check_finite and not math.isfinite(value):
            return f"{self.monitor} is {value}"
        sign = 1.0 if self.rule == "greater" else -1.0
        if self.stopping_threshold is not None and sign * (value - self.stopping_threshold) >= 0:
            return f"{self.monitor} = {value} reached {self.stopping_threshold}"
        if self.best is None or sign * value >= sign * self.best + self.min_delta:
            self.best, self.wait_count = value, 0
            return None
        self.wait_count += 1
        if self.wait_count >= self.patience:
            return f"{self.monitor} has not passed {self.best} for {self.wait_count} validations"
        return None

    def state_dict(self) -> dict[str, Any]:
        """The best figure and how long it stands."""
        return {"best": self.best, "wait_count": self.wait_count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting."""
        self.best, self.wait_count = state["best"], state["wait_count"]
