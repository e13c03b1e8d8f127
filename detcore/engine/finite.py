"""Finding losses and gradients that are not finite, with a message that says where they came from."""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from detcore.errors import TrainingError

logger = logging.getLogger(__name__)

MAX_IMAGES = 32
"""More images than this are counted in a message, not listed."""


@dataclass
class StepRecord:
    """What is known about one step, kept until its flags have been read.

    Attributes:
        step: Index of the step, from 0.
        losses: Every entry the model returned, each a detached Tensor[] (lists and maps reduced).
        images: One line for each image of the batch.
        flags: Tensor[] bool on the device, True where something was finite.
    """

    step: int
    losses: dict[str, Tensor]
    images: list[str]
    flags: list[Tensor] = field(default_factory=list)


class FiniteGuard:
    """Keeps non-finite losses and gradients away from the weights.

    On the CPU a flag costs nothing to read: the error is raised before the optimiser steps. On an accelerator
    reading would make the step wait for the device, so the flag stays there (the optimiser wrapper makes that
    step harmless by it) and :meth:`raise_if_broken` raises when it is called: by the loop before it writes
    a log line, validates or saves a checkpoint.

    Args:
        deferred: True: flags are never read in the step; False: always; None: by the device of the loss.
        max_pending: After so many unread steps the flags are read without being asked.
    """

    def __init__(self, *, deferred: bool | None = None, max_pending: int = 200) -> None:
        self.deferred = deferred
        self.max_pending = max_pending
        self.pending: list[StepRecord] = []

    def is_deferred(self, tensor: Tensor) -> bool:
        """Whether the flag of a value on this device is left on the device."""
        return tensor.device.type != "cpu" if self.deferred is None else self.deferred

    def begin(self, step: int, losses: Mapping[str, Tensor], batch: Any) -> None:
        """Start the record of a step; what follows in that step is blamed on it."""
        if len(self.pending) >= self.max_pending:
            self.raise_if_broken()
        self.pending.append(StepRecord(step, dict(losses), describe_images(batch)))

    def check_loss(self, total: Tensor) -> None:
        """Judge the summed loss.

        Args:
            total: Tensor[].

        Raises:
            TrainingError: When it is not finite and may be read now.
        """
        finite = torch.isfinite(total.detach())
        if self.is_deferred(total):
            self._current().flags.append(finite)
        elif not finite:
            self._fail("the loss is not finite")

    def check_gradients(self, finite: Tensor, model: nn.Module | None) -> None:
        """Judge the gradients by one flag.

        Args:
            finite: Tensor[] bool, True when every gradient is finite.
            model: Names the parameters in the message.

        Raises:
            TrainingError: When they are not finite and may be read now.
        """
        if self.is_deferred(finite):
            self._current().flags.append(finite)
        elif not finite:
            self._fail("the loss is finite but its gradients are not" + _broken_gradients(model))

    def end(self) -> None:
        """Forget a step whose flags have all been read already."""
        if self.pending and not self.pending[-1].flags:
            self.pending.pop()

    def raise_if_broken(self) -> None:
        """Read all flags that are still on the device: one wait for everything since the last call.

        Raises:
            TrainingError: Naming the first step with a loss or gradient that was not finite.
        """
        records, self.pending = self.pending, []
        flags = [flag for record in records for flag in record.flags]
        if not flags or bool(torch.stack(flags).all()):
            return
        for record in records:
            if not all(bool(flag) for flag in record.flags):
                raise TrainingError(
                    _message(
                        record, "the loss or its gradients were not finite; the weights were kept from them"
                    )
                )

    def _current(self) -> StepRecord:
        if not self.pending:
            self.pending.append(StepRecord(-1, {}, []))
        return self.pending[-1]

    def _fail(self, what: str) -> None:
        record = self._current()
        self.pending = []
        raise TrainingError(_message(record, what + "; the weights are those before this step"))


def non_finite_names(tensors: Mapping[str, Any]) -> list[str]:
    """Names of the floating-point tensors that hold NaN or infinity, for a last look before saving."""
    return [
        name
        for name, value in tensors.items()
        if isinstance(value, Tensor) and value.is_floating_point() and not torch.isfinite(value).all()
    ]


def describe_images(batch: Any) -> list[str]:
    """One line for each image of a batch: its path and id, as far as its data sample tells.

    Args:
        batch: ``dict(inputs=..., data_samples=[...])``; with several branches ``data_samples`` is a dict of
            lists, None for an image that is not in the branch.
    """
    samples = batch.get("data_samples") if isinstance(batch, Mapping) else None
    lines = [_describe_sample(sample) for sample in _flatten(samples) if sample is not None]
    return list(dict.fromkeys(lines)) if isinstance(samples, Mapping) else lines  # two views, one image


def _flatten(samples: Any) -> Iterable[Any]:
    if isinstance(samples, Mapping):
        for branch in samples.values():
            yield from _flatten(branch)
    elif isinstance(samples, Sequence):
        yield from samples


def _describe_sample(sample: Any) -> str:
    info = getattr(sample, "metainfo", {}) or {}
    path, identity = info.get("img_path"), info.get("img_id")
    if path is not None:
        return f"{path} (id {identity})" if identity is not None else str(path)
    return f"id {identity}" if identity is not None else "an image without path or id"


def _message(record: StepRecord, what: str) -> str:
    values = {name: float(value) for name, value in record.losses.items()}
    bad = [f"{name}={value}" for name, value in values.items() if not math.isfinite(value)]
    good = [f"{name}={value:.6g}" for name, value in values.items() if math.isfinite(value)]
    lines = [f"step {record.step}: {what}."]
    if bad:
        lines.append(f"  not finite: {', '.join(bad)}")
    if good:
        lines.append(f"  finite: {', '.join(good)}")
    if record.images:
        more = len(record.images) - MAX_IMAGES
        listed = ", ".join(record.images[:MAX_IMAGES]) + (f" and {more} more" if more > 0 else "")
        lines.append(f"  images: {listed}")
    lines.append(
        "  Look at the boxes of these images first; then try a lower learning rate, a longer warm-up,"
        " clip_grad, or bfloat16 instead of float16."
    )
    return "\n".join(lines)


def _broken_gradients(model: nn.Module | None) -> str:
    if model is None:
        return ""
    names = non_finite_names({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    listed = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    return f" (parameters: {listed})" if names else ""
