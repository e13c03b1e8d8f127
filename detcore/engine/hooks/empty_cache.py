"""Gives cached GPU memory back."""
from typing import Any

import torch

from detcore.engine.hooks.base import Hook


class EmptyCacheHook(Hook):
    """Calls ``torch.cuda.empty_cache()`` at the points that are switched on; does nothing without CUDA."""

    def __init__(
        self, before_epoch: bool = False, after_epoch: bool = True, after_iter: bool = False
    ) -> None:
        self._wanted = {"before_epoch": before_epoch, "after_epoch": after_epoch, "after_iter": after_iter}

    def _before_epoch(self, runner: Any, mode: str = "train") -> None:
        self._empty("before_epoch")

    def _after_epoch(self, runner: Any, mode: str = "train") -> None:
        self._empty("after_epoch")

    def _after_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None, mode: str = "train"
    ) -> None:
        self._empty("after_iter")

    def _empty(self, point: str) -> None:
        if self._wanted[point] and torch.cuda.is_available():
            torch.cuda.empty_cache()
