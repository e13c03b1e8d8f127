"""Measures what a step takes, and how much of it was waiting for data."""
import time
from typing import Any

from detcore.engine.hooks.base import Hook


class IterTimerHook(Hook):
    """Records ``data_time`` (waiting for the batch) and ``time`` (the whole step), both in seconds."""

    priority = "NORMAL"

    def __init__(self) -> None:
        self._since = time.perf_counter()
        self._data_time = 0.0

    def _before_epoch(self, runner: Any, mode: str = "train") -> None:
        self._since = time.perf_counter()

    def _before_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, mode: str = "train") -> None:
        self._data_time = time.perf_counter() - self._since

    def _after_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None, mode: str = "train"
    ) -> None:
        now = time.perf_counter()
        runner.log_processor.record(mode, {"data_time": self._data_time, "time": now - self._since})
        self._since = now
