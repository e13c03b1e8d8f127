"""The optimiser wrapper whose forward pass runs in half precision."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Annotated, Any, TypedDict

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from detcore.engine.finite import FiniteGuard
from detcore.engine.optim_wrapper import ClipGradCfg, OptimWrapper, start_momentum
from detcore.errors import ConfigError
from detcore.registry import OPTIMIZERS, Deferred

DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}


class LossScaleCfg(TypedDict, total=False):
    """``loss_scale``: arguments of ``torch.amp.GradScaler``."""

    init_scale: float
    growth_factor: float
    backoff_factor: float
    growth_interval: int


class AmpOptimWrapper(OptimWrapper):
    """The forward pass in half precision, the weights and the update in the weights' own.

    float16 scales the loss so that small gradients survive; a step whose gradients overflow is left out and
    the scale lowered, which is normal in the first steps. With ``fused=True`` in the optimiser this needs no
    wait for the GPU. bfloat16 needs no scale.

    Args:
        optimizer: As in :class:`OptimWrapper`.
        loss_scale: ``'dynamic'``, a fixed factor, or arguments of ``torch.amp.GradScaler``.
        dtype: ``'float16'``, ``'bfloat16'`` or a torch dtype; None takes float16 on CUDA and bfloat16 on the
            CPU.
        use_fsdp: Only False; sharded training is not part of this version.
        accumulative_counts: As in :class:`OptimWrapper`.
        clip_grad: As in :class:`OptimWrapper`; acts on unscaled gradients.
    """

    def __init__(
        self,
        optimizer: Annotated[Optimizer, Deferred(OPTIMIZERS)],
        loss_scale: str | float | LossScaleCfg = "dynamic",
        dtype: str | torch.dtype | None = None,
        use_fsdp: bool = False,
        accumulative_counts: int = 1,
        clip_grad: ClipGradCfg | None = None,
    ) -> None:
        if use_fsdp:
            raise ConfigError(
                "AmpOptimWrapper: use_fsdp=True needs weights that are sharded over the processes; here each "
                "process holds all of them (DDP)"
            )
        super().__init__(optimizer, accumulative_counts, clip_grad)
        device = self._parameters()[0].device.type
        self.dtype = _parse_dtype(dtype, device)
        settings, self.fixed_scale = _parse_loss_scale(loss_scale)
        if self.dtype == torch.float16 and any(
            group.get("fused") and group.get("momentum") and group.get("dampening")
            for group in optimizer.param_groups
        ):
            raise ConfigError(
                "fused SGD with dampening cannot leave out its first step, as float16 may need;"
                " use foreach=True or bfloat16"
            )
        self.scaler = torch.amp.GradScaler(device, enabled=self.dtype == torch.float16, **settings)

    def autocast(self, device_type: str) -> AbstractContextManager:
        """Mixed precision on this kind of device."""
        return torch.autocast(device_type, dtype=self.dtype)

    def _backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()

    def _update(self, total: Tensor, model: nn.Module | None, guard: FiniteGuard) -> None:
        if not self.scaler.is_enabled():
            super()._update(total, model, guard)
            return
        gradients = self._gradients()
        if not gradients:
            return
        start_momentum(self.optimizer)
        self.scaler.unscale_(self.optimizer)
        self._clip(gradients, self._norm(gradients))
        self.scaler.step(self.optimizer)
        self.scaler.update(self.fixed_scale)

    def state_dict(self) -> dict[str, Any]:
        """Also the loss scale and its growth counter."""
        return {**super().state_dict(), "loss_scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved state; one saved without a scaler leaves this scaler as it is."""
        super().load_state_dict(state)
        if state.get("loss_scaler") and self.scaler.is_enabled():
            self.scaler.load_state_dict(dict(state["loss_scaler"]))


def _parse_dtype(dtype: str | torch.dtype | None, device: str) -> torch.dtype:
    if dtype is None:
        return torch.bfloat16 if device == "cpu" else torch.float16
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise ConfigError(f"dtype '{dtype}' is unknown; available: {', '.join(DTYPES)}")
    return DTYPES[dtype]


def _parse_loss_scale(loss_scale: str | float | Mapping[str, Any]) -> tuple[dict[str, Any], float | None]:
    if loss_scale == "dynamic":
        return {}, None
    if isinstance(loss_scale, int | float) and not isinstance(loss_scale, bool) and loss_scale > 0:
        return {"init_scale": float(loss_scale)}, float(loss_scale)
    if isinstance(loss_scale, Mapping):
        return dict(loss_scale), None
    raise ConfigError(f"loss_scale must be 'dynamic', a number above 0 or a dict, got {loss_scale!r}")
