"""Averages of a model's weights over the steps of a run."""

import copy
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from detcore.engine.distributed import unwrap_model
from detcore.engine.state import TrainState
from detcore.errors import ConfigError, TrainingError

logger = logging.getLogger(__name__)


class AveragedModel(nn.Module):
    """A copy of a model whose weights are an average over the steps; :meth:`momentum_at` is the rule.

    The first update copies the model. Buffers that are no numbers with a fraction (counters) are always
    copied.

    Args:
        model: Copied.
        interval: Updates in this many steps; the average is a step of the rule at every such one.
        device: Where the average lives; None: beside the model.
        update_buffers: Average floating-point buffers (BatchNorm statistics), too, instead of copying them.

    Attributes:
        module: The averaged model, without gradients.
        steps: Times :meth:`update_parameters` was called.
    """

    def __init__(
        self,
        model: nn.Module,
        interval: int = 1,
        device: torch.device | str | None = None,
        update_buffers: bool = False,
    ) -> None:
        super().__init__()
        if interval < 1:
            raise ConfigError(f"{type(self).__name__}: interval must be at least 1, got {interval}")
        self.module = copy.deepcopy(unwrap_model(model)).requires_grad_(False)
        if device is not None:
            self.module = self.module.to(device)
        self.interval = interval
        self.update_buffers = update_buffers
        self.steps = 0

    def momentum_at(self, steps: int) -> float:
        """Weight of the newest model: ``average = (1 - momentum) * average + momentum * model``.

        Args:
            steps: Updates before this one.
        """
        raise NotImplementedError

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the averaged model."""
        return self.module(*args, **kwargs)

    def update(self, state: TrainState) -> None:
        """Take in the model after a step; for ``TrainState.after_update``."""
        self.update_parameters(state.model)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take in the weights of a model.

        Raises:
            TrainingError: On the CPU, when they are not finite; the average is untouched then. On an
                accelerator it is left as it was without waiting for the device.
        """
        if self.steps % self.interval == 0:
            averaged = floating_tensors(self.module, self.update_buffers)
            source = floating_tensors(unwrap_model(model), self.update_buffers)
            take_in(averaged, source, self.momentum_at(self.steps) if self.steps else None)
        self._copy_rest(model)
        self.steps += 1

    @torch.no_grad()
    def copy_from(self, model: nn.Module) -> None:
        """Make the average equal to a model without counting a step, for steps before averaging begins."""
        source = unwrap_model(model).state_dict()
        for name, tensor in self.module.state_dict().items():
            tensor.copy_(source[name])

    @contextmanager
    def swap(self, model: nn.Module) -> Iterator[None]:
        """Let a model have the averaged weights in the block, and its own, to the bit, after it."""
        self._exchange(model)
        try:
            yield
        finally:
            self._exchange(model)

    @torch.no_grad()
    def _exchange(self, model: nn.Module) -> None:
        theirs = self._tensors(unwrap_model(model))
        for name, mine in self._tensors(self.module).items():
            kept = mine.clone()
            mine.copy_(theirs[name])
            theirs[name].copy_(kept)

    def _tensors(self, module: nn.Module) -> dict[str, Tensor]:
        """What is averaged, by name."""
        tensors: dict[str, Tensor] = {name: p.data for name, p in module.named_parameters()}
        if self.update_buffers:
            tensors.update({name: b.data for name, b in module.named_buffers()})
        return tensors

    def _copy_rest(self, model: nn.Module) -> None:
        """Copy the buffers that are not averaged."""
        theirs = dict(unwrap_model(model).named_buffers())
        for name, mine in self.module.named_buffers():
            if not (self.update_buffers and mine.is_floating_point()):
                mine.copy_(theirs[name])

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}steps"] = torch.tensor(self.steps)

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        rest = dict(state_dict)
        if f"{prefix}steps" in rest:
            self.steps = int(rest.pop(f"{prefix}steps"))
        else:
            missing_keys.append(f"{prefix}steps")
        super()._load_from_state_dict(
            rest, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


def floating_tensors(module: nn.Module, buffers: bool) -> dict[str, Tensor]:
    """Parameters, and buffers where wanted, that are numbers with a fraction; by name, without gradients."""
    tensors: dict[str, Tensor] = {name: p.data for name, p in module.named_parameters()}
    if buffers:
        tensors.update({name: b.data for name, b in module.named_buffers()})
    return {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}


@torch.no_grad()
def take_in(averaged: Mapping[str, Tensor], source: Mapping[str, Tensor], momentum: float | None) -> None:
    """Make ``average = (1 - momentum) * average + momentum * source`` in place, or a copy where None.

    Args:
        averaged: Tensors by name.
        source: Holds a tensor of the same shape under each of these names.
        momentum: Weight of the newest tensors.

    Raises:
        TrainingError: On the CPU, when ``source`` is not finite; ``averaged`` is untouched then. On an
            accelerator it is left as it was without waiting for the device.
    """
    names = list(averaged)
    old, new = list(averaged.values()), [source[n].to(averaged[n].device) for n in names]
    if not names:
        return
    finite = torch.isfinite(torch.stack(torch._foreach_norm(new)).sum())
    if finite.device.type == "cpu":
        if not finite:
            raise TrainingError(_not_finite(names, new))
    else:
        new = [torch.where(finite, b, a) for a, b in zip(old, new, strict=True)]
    if momentum is None:
        torch._foreach_copy_(old, new)
    else:
        torch._foreach_lerp_(old, new, momentum)


class ExponentialMovingAverage(AveragedModel):
    """``average = (1 - momentum) * average + momentum * model``.

    Args:
        model: Copied.
        momentum: Weight of the newest model, small (not the optimisers' sense of the word).
        interval: See :class:`AveragedModel`.
        device: See :class:`AveragedModel`.
        update_buffers: See :class:`AveragedModel`.
    """

    def __init__(
        self,
        model: nn.Module,
        momentum: float = 0.0002,
        interval: int = 1,
        device: torch.device | str | None = None,
        update_buffers: bool = False,
    ) -> None:
        super().__init__(model, interval, device, update_buffers)
        if not 0 < momentum < 1:
            raise ConfigError(f"{type(self).__name__}: momentum must be between 0 and 1, got {momentum}")
        if momentum > 0.5:
            logger.warning(
                "%s: momentum is the weight of the newest model, and is usually small; got %g",
                type(self).__name__,
                momentum,
            )
        self.momentum = momentum

    def momentum_at(self, steps: int) -> float:
        """The same at every step."""
        return self.momentum


class ExpMomentumEMA(ExponentialMovingAverage):
    """Exponential average whose momentum falls from 1: ``(1 - m) * exp(-(1 + steps) / gamma) + m`` (YOLOX).

    Args:
        model: Copied.
        momentum: What the momentum falls to.
        gamma: Steps in which the excess falls to 1/e.
        interval: See :class:`AveragedModel`.
        device: See :class:`AveragedModel`.
        update_buffers: See :class:`AveragedModel`.
    """

    def __init__(
        self,
        model: nn.Module,
        momentum: float = 0.0002,
        gamma: int = 2000,
        interval: int = 1,
        device: torch.device | str | None = None,
        update_buffers: bool = False,
    ) -> None:
        super().__init__(model, momentum, interval, device, update_buffers)
        _require_positive(self, gamma)
        self.gamma = gamma

    def momentum_at(self, steps: int) -> float:
        """Falls exponentially."""
        return (1 - self.momentum) * math.exp(-(1 + steps) / self.gamma) + self.momentum


class MomentumAnnealingEMA(ExponentialMovingAverage):
    """Exponential average with the momentum ``max(momentum, gamma / (gamma + steps))``.

    Args:
        model: Copied.
        momentum: Lower bound.
        gamma: The larger, the longer the momentum stays large.
        interval: See :class:`AveragedModel`.
        device: See :class:`AveragedModel`.
        update_buffers: See :class:`AveragedModel`.
    """

    def __init__(
        self,
        model: nn.Module,
        momentum: float = 0.0002,
        gamma: int = 100,
        interval: int = 1,
        device: torch.device | str | None = None,
        update_buffers: bool = False,
    ) -> None:
        super().__init__(model, momentum, interval, device, update_buffers)
        _require_positive(self, gamma)
        self.gamma = gamma

    def momentum_at(self, steps: int) -> float:
        """Falls like 1 / steps to its bound."""
        return max(self.momentum, self.gamma / (self.gamma + steps))


class StochasticWeightAverage(AveragedModel):
    """The plain mean of all models taken in (Izmailov et al., arXiv:1803.05407)."""

    def momentum_at(self, steps: int) -> float:
        """One part in the number of models so far."""
        return 1 / (steps // self.interval + 1)


def _require_positive(owner: nn.Module, gamma: int) -> None:
    if gamma <= 0:
        raise ConfigError(f"{type(owner).__name__}: gamma must be above 0, got {gamma}")


def _not_finite(names: list[str], tensors: list[Tensor]) -> str:
    bad = [name for name, tensor in zip(names, tensors, strict=True) if not torch.isfinite(tensor).all()]
    more = f" and {len(bad) - 6} more" if len(bad) > 6 else ""
    return (
        f"the weights are not finite after this step and were not averaged: {', '.join(bad[:6])}{more};"
        " the last checkpoint is good; resume from it with a lower learning rate"
    )
