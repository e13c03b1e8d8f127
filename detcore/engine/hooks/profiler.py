"""Profiles training with PyTorch's own profiler."""
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from detcore.engine.hooks.base import Hook
from detcore.errors import ConfigError

_HANDLERS = ("log_trace", "tb_trace")


class ProfilerHook(Hook):
    """Profiles the first steps (or the first pass) of a training and then switches itself off.

    Every process profiles; files are written by the main one, except those of ``tb_trace``, which bear the
    process in their names.

    Args:
        by_epoch: Profile the first pass, else the first ``profile_times`` steps.
        profile_times: See ``by_epoch``; with passes only 1.
        activity_with_cpu: Record what the CPU does.
        activity_with_cuda: Record what the GPU does.
        schedule: Arguments of ``torch.profiler.schedule`` (``wait``, ``warmup``, ``active``, ``repeat``,
            ``skip_first``); None records every step.
        on_trace_ready: What to do with each complete recording: ``dict(type='log_trace', ...)`` logs a table
            (arguments of ``key_averages().table``); ``dict(type='tb_trace', ...)`` writes files for
            TensorBoard's plugin (arguments of ``torch.profiler.tensorboard_trace_handler``; ``dir_name``
            below the run's folder); or a function of the profiler.
        record_shapes: Record the shapes of operators' inputs.
        profile_memory: Record memory.
        with_stack: Record lines of code.
        with_flops: Estimate floating-point operations.
        json_trace_path: File for the whole trace, for ``chrome://tracing`` or Perfetto.

    Raises:
        ConfigError: If a setting makes no sense.
    """

    priority = "VERY_LOW"

    def __init__(
        self,
        *,
        by_epoch: bool = True,
        profile_times: int = 1,
        activity_with_cpu: bool = True,
        activity_with_cuda: bool = False,
        schedule: dict[str, Any] | None = None,
        on_trace_ready: Callable[[Any], None] | dict[str, Any] | None = None,
        record_shapes: bool = False,
        profile_memory: bool = False,
        with_stack: bool = False,
        with_flops: bool = False,
        json_trace_path: str | None = None,
    ) -> None:
        if profile_times < 1 or (by_epoch and profile_times > 1):
            raise ConfigError(
                f"ProfilerHook: profile_times={profile_times}; it must be at least 1, and 1 with "
                "by_epoch=True: a profile of several passes slows the training and fills the memory"
            )
        _check_handler(on_trace_ready)
        kinds = torch.profiler.ProfilerActivity
        wanted = ((kinds.CPU, activity_with_cpu), (kinds.CUDA, activity_with_cuda))
        self._settings: dict[str, Any] = {
            "activities": [kind for kind, on in wanted if on],
            "schedule": None if schedule is None else torch.profiler.schedule(**schedule),
            "record_shapes": record_shapes,
            "profile_memory": profile_memory,
            "with_stack": with_stack,
            "with_flops": with_flops,
        }
        if not self._settings["activities"]:
            raise ConfigError("ProfilerHook: switch activity_with_cpu or activity_with_cuda on")
        self.by_epoch = by_epoch
        self.profile_times = profile_times
        self.on_trace_ready = on_trace_ready
        self.json_trace_path = json_trace_path
        self._profiler: Any = None
        self._steps = 0

    def before_train(self, runner: Any) -> None:
        """Start.

        Raises:
            ConfigError: The training is shorter than the profile.
        """
        limit = runner.max_epochs if self.by_epoch else runner.max_iters
        if self.profile_times > limit:
            raise ConfigError(f"ProfilerHook: profile_times={self.profile_times}, but there are only {limit}")
        self._steps = 0
        self._profiler = torch.profiler.profile(**self._settings, on_trace_ready=self._handler(runner))
        self._profiler.start()
        runner.logger.info("Profiling the first %d %s", self.profile_times, self._unit())

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Tell the profiler that a step is over; stop after the last one."""
        if self._profiler is None:
            return
        self._profiler.step()
        self._steps += 1
        if not self.by_epoch and self._steps == self.profile_times:
            self._stop(runner)

    def after_train_epoch(self, runner: Any) -> None:
        """Stop: a profile is never longer than a pass."""
        if self._profiler is not None:
            self._stop(runner)

    def _stop(self, runner: Any) -> None:
        profiler, self._profiler = self._profiler, None
        profiler.stop()
        if self.json_trace_path is not None and runner.rank == 0:
            path = Path(self.json_trace_path)
            path.parent.mkdir(parents=True, exist_ok=True)
            profiler.export_chrome_trace(str(path))
            runner.logger.info("Wrote the profile to %s", path)

    def _handler(self, runner: Any) -> Callable[[Any], None] | None:
        if not isinstance(self.on_trace_ready, Mapping):
            return self.on_trace_ready
        settings = dict(self.on_trace_ready)
        if settings.pop("type") == "tb_trace":
            folder = Path(runner.run_dir) / settings.pop("dir_name", "tf_tracing_logs")
            runner.logger.info("Profiles for TensorBoard go to %s", folder)
            return torch.profiler.tensorboard_trace_handler(str(folder), **settings)

        def log(profiler: Any) -> None:
            runner.logger.info("Profile:\n%s", profiler.key_averages().table(**settings))

        return log

    def _unit(self) -> str:
        return "pass" if self.by_epoch else "steps"


def _check_handler(handler: Any) -> None:
    if handler is None or callable(handler):
        return
    kind = handler.get("type") if isinstance(handler, Mapping) else handler
    if not isinstance(handler, Mapping) or kind not in _HANDLERS:
        raise ConfigError(
            "ProfilerHook: on_trace_ready must be None, a function, or a dict with a type of "
            f"{', '.join(_HANDLERS)}; got {kind!r}"
        )
