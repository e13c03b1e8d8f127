"""What a training run consists of while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import nn

from detcore.engine.finite import FiniteGuard

if TYPE_CHECKING:
    from detcore.engine.optim_wrapper import OptimWrapper
    from detcore.engine.schedules import ParamSchedules


@dataclass
class TrainState:
    """Everything that one training step reads and changes.

    Attributes:
        model: The detector, or the DDP module around it.
        optim: Optimiser with accumulation, clipping and precision.
        schedules: Learning rate and momentum over the steps.
        device: Where the model lives.
        after_update: Called with this state after every step, in order: EMA, mean teacher.
        step: Steps done so far, which is the index of the step in progress, from 0. The loop adds 1 once
            its hooks have seen the step; ``train_step`` does not.
        epoch: Epochs done so far.
        finite: Keeps watch over losses and gradients.
    """

    model: nn.Module
    optim: OptimWrapper
    schedules: ParamSchedules
    device: torch.device
    after_update: list[Callable[[TrainState], None]] = field(default_factory=list)
    step: int = 0
    epoch: int = 0
    finite: FiniteGuard = field(default_factory=FiniteGuard)
