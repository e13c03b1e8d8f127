"""Stops a run whose loss is no number."""
from typing import Any

import torch

from detcore.engine.hooks.base import Hook
from detcore.errors import TrainingError


class CheckInvalidLossHook(Hook):
    """Looks at the loss every ``interval`` steps (which waits for the device then).

    The training step itself keeps losses that are not finite from the weights; this hook only makes sure that
    a run on a GPU ends soon after.
    """

    def __init__(self, interval: int = 50) -> None:
        self.interval = interval

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Check the loss of this step.

        Raises:
            TrainingError: If it is infinite or no number.
        """
        if outputs is None or not self.every_n_train_iters(runner, self.interval):
            return
        bad = {
            name: float(value)
            for name, value in outputs.items()
            if isinstance(value, torch.Tensor) and not bool(torch.isfinite(value).all())
        }
        if bad:
            raise TrainingError(f"loss is infinite or NaN after step {runner.iter + 1}: {bad}")
