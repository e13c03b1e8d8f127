"""Writes what the log processor gathered: a readable line, a JSON line, and the visualisation backends."""
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detcore.engine.hooks.base import Hook
from detcore.engine.hooks.local_files import require_local
from detcore.errors import ConfigError


class LoggerHook(Hook):
    """Writes the smoothed losses at intervals and the figures of every evaluation.

    Tensors are read from the device only here, once per ``interval`` steps.

    Args:
        interval: Steps between two lines.
        ignore_last: Leave out the line for a rest of a pass that is shorter than ``interval``.
        interval_exp_name: Steps between two lines that repeat the experiment's name.
        log_metric_by_epoch: Number evaluations by the pass (else by the step) in the backends.
        out_dir: Folder that the run's logs are copied to when it is complete, into a folder of the work
            folder's name. What resuming needs (``log.jsonl``, checkpoints) stays in the work folder.
        out_suffix: Ends of the names of files of the run's own folder that are copied.
        keep_local: Keep those files after they were copied.
        file_client_args: The older name of ``backend_args``.
        backend_args: None or ``dict(backend='local')``.

    Raises:
        ConfigError: If a setting makes no sense.
    """

    priority = "BELOW_NORMAL"

    def __init__(
        self,
        interval: int = 10,
        ignore_last: bool = True,
        interval_exp_name: int = 1000,
        log_metric_by_epoch: bool = True,
        out_dir: str | Path | None = None,
        out_suffix: str | Sequence[str] = (".json", ".log", ".py", "yaml"),
        keep_local: bool = True,
        file_client_args: dict[str, Any] | None = None,
        backend_args: dict[str, Any] | None = None,
    ) -> None:
        require_local(self, out_dir, backend_args, file_client_args)
        for name, value in (("interval", interval), ("interval_exp_name", interval_exp_name)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"LoggerHook: {name} must be a positive integer, got {value!r}")
        self.interval = interval
        self.ignore_last = ignore_last
        self.interval_exp_name = interval_exp_name
        self.log_metric_by_epoch = log_metric_by_epoch
        self.out_dir = out_dir
        self.out_suffix = (out_suffix,) if isinstance(out_suffix, str) else tuple(out_suffix)
        self.keep_local = keep_local

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

    def after_run(self, runner: Any) -> None:
        """Copy the logs to ``out_dir``."""
        if self.out_dir is None or runner.rank != 0:
            return
        target, source = Path(self.out_dir) / Path(runner.work_dir).name, Path(runner.run_dir)
        runner.logger.info("The logs are copied to %s", target)
        for path in sorted(source.rglob("*")):
            if path.is_file() and path.name.endswith(self.out_suffix):
                copied = target / path.relative_to(source)
                copied.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copied)
                if not self.keep_local:
                    path.unlink()

    def _write_metrics(self, runner: Any, mode: str, metrics: dict[str, float] | None) -> None:
        scalars, line = runner.log_processor.evaluation_entry(runner, metrics or {}, mode)
        runner.logger.info(line)
        by_epoch = self.log_metric_by_epoch and runner.log_processor.by_epoch
        runner.write_scalars(mode, scalars, step=runner.epoch if by_epoch else runner.iter)
