"""Writes what the log processor gathered: a readable line, a JSON line, and the visualisation backends."""
from typing import Any

from detcore.engine.hooks.base import Hook
from detcore.errors import ConfigError


class LoggerHook(Hook):
    """Writes the smoothed losses at intervals and the figures of every evaluation.

    Tensors are read from the device only here, once per ``interval`` steps.

    Args:
        interval: Steps between two lines.
        ignore_last: Leave out the line for a rest of a pass that is shorter than ``interval``.
        interval_exp_name: Steps between two lines that repeat the experiment's name.
        log_metric_by_epoch: Number evaluations by the pass (else by the step) in the backends.
        out_dir: Accepted for configs of MMDetection; the log stands in the work folder.
        keep_local: Accepted for configs of MMDetection.
        backend_args: Accepted for configs of MMDetection.
    """

    priority = "BELOW_NORMAL"

    def __init__(
        self,
        interval: int = 10,
        ignore_last: bool = True,
        interval_exp_name: int = 1000,
        log_metric_by_epoch: bool = True,
        out_dir: str | None = None,
        keep_local: bool = True,
        backend_args: dict[str, Any] | None = None,
    ) -> None:
        for name, value in (("interval", interval), ("interval_exp_name", interval_exp_name)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"LoggerHook: {name} must be a positive integer, got {value!r}")
        self.interval = interval
        self.ignore_last = ignore_last
        self.interval_exp_name = interval_exp_name
        self.log_metric_by_epoch = log_metric_by_epoch

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Write a line at every ``interval``-th step of the pass.

        Raises:
            TrainingError: A loss since the last line was not finite.
        """
        if self.every_n_train_iters(runner, self.interval_exp_name):
            runner.logger.info("Exp name: %s", runner.experiment_name)
        if not self.every_n_inner_iters(batch_idx, self.interval):
            length = runner.train_loop.epoch_length
            if length is None or batch_idx + 1 != length or (self.ignore_last and length > self.interval):
                return
        runner.state.finite.raise_if_broken()
        scalars, line = runner.log_processor.train_entry(runner, batch_idx)
        runner.logger.info(line)
        runner.write_scalars("train", scalars, step=runner.iter + 1)

    def _after_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None, mode: str = "train"
    ) -> None:
        if mode == "train" or batch_idx + 1 == len(runner.evaluation_dataloader(mode)):
            return
        if self.every_n_inner_iters(batch_idx, self.interval):
            runner.logger.info(runner.log_processor.progress_line(runner, batch_idx, mode))

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Write the figures of a validation."""
        self._write_metrics(runner, "val", metrics)

    def after_test_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Write the figures of a test."""
        self._write_metrics(runner, "test", metrics)

    def _write_metrics(self, runner: Any, mode: str, metrics: dict[str, float] | None) -> None:
        scalars, line = runner.log_processor.evaluation_entry(runner, metrics or {}, mode)
        runner.logger.info(line)
        by_epoch = self.log_metric_by_epoch and runner.log_processor.by_epoch
        runner.write_scalars(mode, scalars, step=runner.epoch if by_epoch else runner.iter)
