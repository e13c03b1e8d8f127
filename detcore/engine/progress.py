"""A progress bar for terminals, under the log's lines."""
import logging
import time
from typing import Any

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from detcore.engine.hooks import Hook

_SECONDS = 0.25  # between two drawings


class ProgressHook(Hook):
    """Draws how far the training and the evaluation are; reads nothing from the device.

    Args:
        console: Where to draw; the log's lines must go there, too.
    """

    priority = "LOWEST"

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            auto_refresh=False,  # by a thread, whose lock a forked loader worker could inherit held
        )
        self._drawn = 0.0
        self._tasks: dict[str, TaskID] = {}

    def before_run(self, runner: Any) -> None:
        """Begin to draw."""
        self._progress.start()

    def after_run(self, runner: Any) -> None:
        """Draw it a last time, and take it away."""
        self._progress.refresh()
        self.close()

    def before_train(self, runner: Any) -> None:
        """Show the whole training."""
        self._begin("train", runner.max_iters, runner.iter)

    def _before_epoch(self, runner: Any, mode: str = "train") -> None:
        if mode != "train":
            self._begin(mode, len(runner.evaluation_dataloader(mode)), 0)

    def _after_epoch(self, runner: Any, mode: str = "train") -> None:
        if mode in self._tasks and mode != "train":
            self._progress.remove_task(self._tasks.pop(mode))

    def _after_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None, mode: str = "train"
    ) -> None:
        if mode in self._tasks:
            self._progress.advance(self._tasks[mode])
            if time.monotonic() - self._drawn > _SECONDS:
                self._progress.refresh()
                self._drawn = time.monotonic()

    def _begin(self, mode: str, total: int | None, done: int) -> None:
        self._tasks[mode] = self._progress.add_task(mode, total=total, completed=done)

    def close(self) -> None:
        """Stop drawing; may be called more than once."""
        self._progress.stop()


class _ProgressHandler(RichHandler):
    """Log lines above the bar; closing it takes the bar away, also after an error."""

    def __init__(self, hook: ProgressHook, console: Console) -> None:
        super().__init__(console=console, show_path=False, rich_tracebacks=False, log_time_format="%H:%M:%S")
        self._hook = hook

    def close(self) -> None:
        self._hook.close()
        super().close()


def show_progress(runner: Any) -> logging.Handler:
    """Add a bar to the run; returns the handler through which its log must go."""
    console = Console(stderr=True)
    hook = ProgressHook(console)
    runner.register_hook(hook)
    handler = _ProgressHandler(hook, console)
    handler.setFormatter(logging.Formatter("%(message)s"))
    return handler
