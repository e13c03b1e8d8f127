"""One training step, on one screen."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from detcore.engine.distributed import unwrap_model
from detcore.engine.state import TrainState
from detcore.errors import TrainingError

Losses = Mapping[str, Tensor | list[Tensor]]
"""What a detector's ``loss`` returns: entries named ``*loss*`` are summed, others (``acc``) only logged."""


@dataclass
class StepReport:
    """What one step tells the logs. Tensors stay on the device until somebody reads them.

    Attributes:
        step: Index of the step, from 0.
        losses: ``loss`` (the sum) and every entry of the model, each a detached Tensor[].
        grad_norm: Tensor[] before clipping; None in a step that only accumulated.
        lr: Learning rate of the first parameter group during this step.
        data_time: Seconds spent waiting for the batch; set by the loop.
        step_time: Seconds from one step's end to the next's; set by the loop.
    """

    step: int
    losses: dict[str, Tensor]
    grad_norm: Tensor | None = None
    lr: float = 0.0
    data_time: float = 0.0
    step_time: float = 0.0


def train_step(state: TrainState, batch: dict[str, Any]) -> StepReport:
    """Do one step: loss, gradients, update, schedules, averages.

    Args:
        state: The run; its ``step`` is left for the loop to advance.
        batch: As the data loader collated it, before the data preprocessor.

    Raises:
        TrainingError: When the loss cannot be summed or, on the CPU, when it or its gradients are not finite.
    """
    with state.optim.forward_context(state.model, state.device.type, state.step):
        losses = compute_losses(state.model, batch)
        total = sum_losses(losses)
    report = StepReport(state.step, scalars(losses, total), lr=state.optim.get_lr()["lr"][0])
    require_finite(total, report.losses, state, batch)
    state.optim.backward_and_step(total, state.step, model=state.model, guard=state.finite)
    report.grad_norm = state.optim.last_grad_norm
    state.schedules.step_iteration()
    for update in state.after_update:
        update(state)
    state.finite.end()
    return report


def compute_losses(model: nn.Module, batch: dict[str, Any]) -> Losses:
    """Move, normalise and pad a batch, then ask the detector for its losses.

    Args:
        model: A detector with a ``data_preprocessor``, or the DDP module around one.
        batch: ``dict(inputs=[Tensor[C, H, W], ...], data_samples=[...])``.
    """
    detector: Any = unwrap_model(model)
    data = detector.data_preprocessor(batch, True)
    return model(**data, mode="loss")


def sum_losses(losses: Losses) -> Tensor:
    """Sum the entries whose name holds ``loss``: Tensor[].

    A tensor with several elements counts by its mean, a list by the sum over its tensors.

    Raises:
        TrainingError: When no entry is a loss, or one is neither a tensor nor a list of tensors.
    """
    if not isinstance(losses, Mapping):
        raise TrainingError(f"the model's loss must be a dict of tensors, got {type(losses).__name__}")
    parts = [_scalar(name, value) for name, value in losses.items() if "loss" in name]
    if not parts:
        raise TrainingError(
            f"no entry of the model's losses has 'loss' in its name: {', '.join(losses) or 'none'}"
        )
    return sum(parts[1:], parts[0])


def scalars(losses: Losses, total: Tensor) -> dict[str, Tensor]:
    """Detached Tensor[] of every entry, ``loss`` (the sum) first."""
    entries = {name: _scalar(name, value).detach() for name, value in losses.items()}
    return {"loss": total.detach(), **{name: value for name, value in entries.items() if name != "loss"}}


def require_finite(total: Tensor, losses: Mapping[str, Tensor], state: TrainState, batch: Any = None) -> None:
    """Refuse a loss that is not finite: at once on the CPU, when the flag is read on an accelerator.

    Args:
        total: Tensor[], the summed loss.
        losses: Detached entries for the message.
        state: The run.
        batch: Its images are named in the message.

    Raises:
        TrainingError: Naming step, entries and images.
    """
    state.finite.begin(state.step, losses, batch)
    state.finite.check_loss(total)


def _scalar(name: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.mean() if value.ndim else value
    if isinstance(value, list | tuple) and value and all(isinstance(part, Tensor) for part in value):
        return torch.stack([part.mean() if part.ndim else part for part in value]).sum()
    kind = type(value).__name__
    raise TrainingError(
        f"entry '{name}' of the model's losses must be a tensor or a list of tensors, got {kind}"
    )
