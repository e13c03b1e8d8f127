"""The optimiser in its wrapper: accumulation, clipping, precision, and no update by non-finite gradients."""

import inspect
import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Annotated, Any, Literal, TypedDict, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_value_, clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from detcore.engine.finite import FiniteGuard
from detcore.errors import CheckpointError, ConfigError, TrainingError
from detcore.registry import OPTIMIZERS, Deferred

logger = logging.getLogger(__name__)

OWN_STATE = ("loss_scaler", "base_param_settings", "accumulated_gradients", "num_backward")


class ClipGradCfg(TypedDict, total=False):
    """``clip_grad``: by the norm over all parameters, or each element by its value."""

    type: Literal["norm", "value"]
    max_norm: float
    norm_type: float
    error_if_nonfinite: bool
    foreach: bool | None
    clip_value: float


class OptimWrapper:
    """Turns losses into updates, in the numbers' own precision.

    Args:
        optimizer: Any of torch's optimisers whose ``step`` needs no closure.
        accumulative_counts: Steps whose gradients are averaged into one update.
        clip_grad: ``dict(max_norm=10, norm_type=2)`` clips by the norm over all parameters,
            ``dict(type='value', clip_value=0.5)`` each element.

    Attributes:
        max_steps: Steps of the whole run where known; the last, incomplete round of accumulation is then
            averaged over its own steps and applied.
        last_grad_norm: Tensor[] before clipping, of the last update; None while only accumulating.
    """

    def __init__(
        self,
        optimizer: Annotated[Optimizer, Deferred(OPTIMIZERS)],
        accumulative_counts: int = 1,
        clip_grad: ClipGradCfg | None = None,
    ) -> None:
        if not isinstance(accumulative_counts, int) or accumulative_counts < 1:
            raise ConfigError(
                f"accumulative_counts must be a whole number from 1 on, got {accumulative_counts!r}"
            )
        if not isinstance(optimizer, Optimizer):
            raise ConfigError(
                f"{type(self).__name__} wraps a built optimizer, got {type(optimizer).__name__};"
                " build_optim_wrapper(model, cfg) builds both from a config"
            )
        closure = inspect.signature(type(optimizer).step).parameters.get("closure")
        if closure is not None and closure.default is closure.empty:
            raise ConfigError(
                f"{type(optimizer).__name__} evaluates the loss several times in one step (its step needs a"
                " closure), which training here does not do; choose another optimiser"
            )
        self.optimizer = optimizer
        self.accumulative_counts = accumulative_counts
        self.clip_kind, self.clip_settings = _parse_clip(clip_grad)
        self.max_steps: int | None = None
        self.last_grad_norm: Tensor | None = None
        self.num_backward = 0
        self._own_guard = FiniteGuard()
        # Schedules act on this as on a group, so that logs can show the rate before any multiplier.
        groups = optimizer.param_groups
        self.base_settings: dict[str, Any] | None = (
            {**optimizer.defaults, "params": []} if len(groups) > 1 else None
        )

    # --- the step ---------------------------------------------------------------------------------------

    def autocast(self, device_type: str) -> AbstractContextManager:
        """Context in which the forward pass runs."""
        return nullcontext()

    @contextmanager
    def forward_context(self, model: nn.Module, device_type: str, step: int) -> Iterator[None]:
        """Precision, and no exchange of gradients in steps that only accumulate."""
        with ExitStack() as stack:
            if not self.will_step(step) and hasattr(model, "no_sync"):
                stack.enter_context(cast(Any, model).no_sync())
            stack.enter_context(self.autocast(device_type))
            yield

    def will_step(self, step: int) -> bool:
        """Whether the optimiser updates at the end of this step (index from 0)."""
        return (step + 1) % self.accumulative_counts == 0 or step + 1 == self.max_steps

    def loss_divisor(self, step: int) -> int:
        """Number of steps that share the update this step belongs to."""
        if self.max_steps is None:
            return self.accumulative_counts
        leftover = self.max_steps % self.accumulative_counts
        in_leftover = self.max_steps - leftover <= step < self.max_steps
        return leftover if in_leftover else self.accumulative_counts

    def backward_and_step(
        self, total: Tensor, step: int, *, model: nn.Module | None = None, guard: FiniteGuard | None = None
    ) -> None:
        """Gradients of the loss; and, where a round of accumulation ends, the update.

        Args:
            total: Tensor[], the summed loss.
            step: Index of the step, from 0.
            model: Names parameters in messages.
            guard: Has judged the loss, and judges the gradients; None judges both here.

        Raises:
            TrainingError: When the loss depends on no parameter, or (on the CPU) gradients are not finite.
        """
        if not total.requires_grad:
            raise TrainingError(
                "the loss depends on no trainable parameter, so there is nothing to learn from it"
            )
        if guard is None:
            guard = self._own_guard
            guard.begin(step, {"loss": total.detach()}, None)
            guard.check_loss(total)
        divisor = self.loss_divisor(step)
        self._backward(total / divisor if divisor > 1 else total)
        self.num_backward = step + 1
        self.last_grad_norm = None
        if self.will_step(step):
            self._update(total, model, guard)
            self.optimizer.zero_grad(set_to_none=True)
        if guard is self._own_guard:
            guard.end()

    def update_params(self, loss: Tensor) -> None:
        """``backward_and_step`` for loops of one's own: counts the steps by itself."""
        self.backward_and_step(loss, self.num_backward)

    def _backward(self, loss: Tensor) -> None:
        loss.backward()

    def _update(self, total: Tensor, model: nn.Module | None, guard: FiniteGuard) -> None:
        gradients = self._gradients()
        if not gradients:
            return
        norm = self._norm(gradients)
        finite = self._all_finite(gradients, norm)
        guard.check_gradients(finite, model)
        self._clip(gradients, norm)
        if guard.is_deferred(total):
            step_unless(self.optimizer, ~(finite & torch.isfinite(total.detach())), gradients)
        else:
            self.optimizer.step()

    def _gradients(self) -> list[Tensor]:
        return [
            p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None
        ]

    def _norm(self, gradients: list[Tensor]) -> Tensor:
        norm_type = self.clip_settings.get("norm_type", 2.0) if self.clip_kind == "norm" else 2.0
        self.last_grad_norm = get_total_norm(gradients, norm_type)
        return self.last_grad_norm

    def _all_finite(self, gradients: list[Tensor], norm: Tensor) -> Tensor:
        if any(gradient.dtype == torch.float16 for gradient in gradients):
            norm = get_total_norm(gradients, float("inf"))  # squares of finite halves overflow
        return torch.isfinite(norm)

    def _clip(self, gradients: list[Tensor], norm: Tensor) -> None:
        parameters = [
            p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None
        ]
        if self.clip_kind == "norm":
            clip_grads_with_norm_(parameters, self.clip_settings["max_norm"], norm)
        elif self.clip_kind == "value":
            clip_grad_value_(parameters, self.clip_settings["clip_value"])

    # --- what schedules, logs and users' loops ask --------------------------------------------------------

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The optimiser's groups; with several, also one without parameters that holds the base settings."""
        groups = self.optimizer.param_groups
        return groups if self.base_settings is None else [*groups, self.base_settings]

    @property
    def defaults(self) -> dict[str, Any]:
        """The optimiser's default settings."""
        return self.optimizer.defaults

    def get_lr(self) -> dict[str, list[float]]:
        """``lr`` of each group, and ``base_lr`` (before multipliers) where there are several groups."""
        rates = {"lr": [float(group["lr"]) for group in self.optimizer.param_groups]}
        if self.base_settings is not None:
            rates["base_lr"] = [float(self.base_settings["lr"])]
        return rates

    def get_momentum(self) -> dict[str, list[float]]:
        """``momentum`` of each group: SGD's momentum, Adam's first beta, else 0."""
        groups = self.optimizer.param_groups
        return {"momentum": [g["momentum"] if "momentum" in g else g.get("betas", (0.0,))[0] for g in groups]}

    def zero_grad(self) -> None:
        """Drop all gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    # --- state --------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's state, and in the middle of a round of accumulation the gradients so far."""
        state = {**self.optimizer.state_dict(), "num_backward": self.num_backward}
        if self.base_settings is not None:
            state["base_param_settings"] = {k: v for k, v in self.base_settings.items() if k != "params"}
        if not self.will_step(self.num_backward - 1):
            state["accumulated_gradients"] = {
                i: p.grad.detach() for i, p in enumerate(self._parameters()) if p.grad is not None
            }
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved state.

        Raises:
            CheckpointError: When it belongs to other parameter groups.
        """
        try:
            self.optimizer.load_state_dict({k: v for k, v in state.items() if k not in OWN_STATE})
        except (ValueError, KeyError) as error:
            raise CheckpointError(
                f"the saved optimiser state does not fit this optimiser: {error}; was paramwise_cfg, the"
                " optimiser or the set of frozen parameters changed since it was saved?"
            ) from error
        if self.base_settings is not None:
            saved = {k: v for k, v in state.get("base_param_settings", {}).items() if k != "params"}
            self.base_settings.update(saved)
        self.num_backward = int(state.get("num_backward", 0))
        parameters = self._parameters()
        for i, gradient in state.get("accumulated_gradients", {}).items():
            parameters[i].grad = gradient.to(parameters[i].device, copy=True)

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(accumulative_counts={self.accumulative_counts},"
            f" clip={self.clip_settings}, optimizer={self.optimizer!r})"
        )


def step_unless(optimizer: Optimizer, broken: Tensor, gradients: list[Tensor]) -> None:
    """Update, unless a flag that is still on the device says no, without reading it.

    Gradients of a broken step become zero. Fused optimisers also get the flag itself and leave weights and
    state exactly as they were; the others make a step with zero gradients, in which momentum and weight decay
    act as ever. Either way no value that is not finite enters the weights or the optimiser's state.

    Args:
        optimizer: Holds the parameters of ``gradients``.
        broken: Tensor[] bool.
        gradients: Tensors of any shape, changed in place.
    """
    for gradient in gradients:
        gradient.masked_fill_(broken.to(gradient.device), 0.0)
    if not getattr(optimizer, "_step_supports_amp_scaling", False) or not start_momentum(optimizer):
        optimizer.step()
        return
    holder: Any = optimizer
    holder.grad_scale, holder.found_inf = None, broken.float()
    try:
        optimizer.step()
    finally:
        del holder.grad_scale, holder.found_inf


def start_momentum(optimizer: Optimizer) -> bool:
    """Give fused SGD its momentum buffers: it would keep uninitialised ones if its first step is left out.

    Returns:
        Whether the next step may be left out; not so where dampening makes the first step a special one.
    """
    if not isinstance(optimizer, torch.optim.SGD):
        return True
    ready = True
    for group in optimizer.param_groups:
        if group.get("fused") and group["momentum"]:
            for parameter in group["params"]:
                if parameter.grad is None or optimizer.state[parameter].get("momentum_buffer") is not None:
                    continue
                if group["dampening"]:
                    ready = False
                else:
                    optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return ready


def _parse_clip(clip_grad: Mapping[str, Any] | None) -> tuple[str, dict[str, Any]]:
    if not clip_grad:
        return "", {}
    settings = dict(clip_grad)
    kind = settings.pop("type", "value" if "clip_value" in settings else "norm")
    known = {
        "norm": {"max_norm", "norm_type", "error_if_nonfinite", "foreach"},
        "value": {"clip_value", "foreach"},
    }
    if kind not in known:
        raise ConfigError(f"clip_grad: type must be 'norm' or 'value', got {kind!r}")
    unknown = sorted(set(settings) - known[kind])
    needed = "max_norm" if kind == "norm" else "clip_value"
    if unknown:
        raise ConfigError(
            f"clip_grad: unknown {', '.join(unknown)}; type '{kind}' takes {', '.join(sorted(known[kind]))}"
        )
    if not isinstance(settings.get(needed), int | float) or settings[needed] <= 0:
        raise ConfigError(f"clip_grad: {needed} must be a number above 0, got {settings.get(needed)!r}")
    settings["norm_type"] = float(settings.get("norm_type", 2.0))
    return kind, settings
