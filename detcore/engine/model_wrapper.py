"""What ``model_wrapper_cfg`` and its kin say about how the model and the run are wrapped."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from detcore.engine.settings import RunConfig
from detcore.errors import ConfigError
from detcore.registry import RUNNERS

logger = logging.getLogger(__name__)

_DDP = ("MMDistributedDataParallel", "DistributedDataParallel")
_OTHERS = {
    "MMSeparateDistributedDataParallel": "it is for models whose parts have optimisers of their own",
    "MMFullyShardedDataParallel": "weights are not sharded over processes here",
    "DataParallel": "several GPUs are driven by a process each (--gpus N)",
    "MMDeepSpeedEngineWrapper": "it needs another training framework",
    "ColossalAIModelWrapper": "it needs another training framework",
    "CollosalAIModelWrapper": "it needs another training framework",
}
_TAKEN = ("find_unused_parameters", "broadcast_buffers", "static_graph", "bucket_cap_mb")
_DECIDED = {
    "device_ids": "the launcher decides",
    "output_device": "the launcher decides",
    "process_group": "the launcher decides",
    "dim": "batches are lists of images",
    "check_reduction": "torch does not know it any more",
    "gradient_as_bucket_view": "it is always on",
}


def ddp_settings(cfg: RunConfig) -> dict[str, Any]:
    """Arguments of `distributed.wrap_model` that a config asks for.

    Without ``model_wrapper_cfg`` these are the config's own ``find_unused_parameters``, ``broadcast_buffers``
    (off unless set), ``static_graph`` and ``sync_bn``. With it, its settings hold, and buffers are broadcast
    unless it says otherwise.

    Args:
        cfg: The whole config.

    Raises:
        ConfigError: Another wrapper than DDP, or a setting that has no meaning here.
    """
    settings: dict[str, Any] = {"sync_batch_norm": _sync_batch_norm(cfg.get("sync_bn"))}
    given = cfg.get("model_wrapper_cfg")
    if given is None:
        names = ("find_unused_parameters", "broadcast_buffers", "static_graph")
        return {**settings, **{name: bool(cfg.get(name, False)) for name in names}}
    if not isinstance(given, Mapping):
        raise ConfigError(f"model_wrapper_cfg must be a dict, got {type(given).__name__}")
    _check_kind(str(given.get("type", _DDP[0])).rpartition(".")[2])
    settings["broadcast_buffers"] = True
    for name, value in given.items():
        if name in _DECIDED:
            raise ConfigError(f"model_wrapper_cfg.{name} cannot be set: {_DECIDED[name]}")
        if name not in (*_TAKEN, "type", "detect_anomalous_params"):
            known = ", ".join((*_TAKEN, "detect_anomalous_params"))
            raise ConfigError(f"model_wrapper_cfg.{name} is unknown; it takes {known}")
        if name in _TAKEN:
            settings[name] = value
    return settings


def check_runner_type(cfg: RunConfig) -> None:
    """Refuse a config that asks for another runner: ``runner_type='FlexibleRunner'`` and the like.

    Raises:
        RegistryError: Nobody has a runner of that name; the message says why.
        ConfigError: It is a user's own, which has to be started by a script of theirs.
    """
    kind = cfg.get("runner_type") or "Runner"
    if str(kind).rpartition(".")[2] == "Runner":
        return
    RUNNERS.get(kind, default_scope=cfg.get("default_scope"))
    raise ConfigError(
        f"runner_type={kind!r} is a runner of your own: start it as {kind}.from_cfg(cfg) in a script; this "
        "one is Runner"
    )


def watch_unused(model: nn.Module, cfg: RunConfig) -> None:
    """Log parameters without influence on the loss, where ``model_wrapper_cfg`` asks for that.

    Args:
        model: The detector.
        cfg: The whole config; ``model_wrapper_cfg.detect_anomalous_params`` is looked at.
    """
    if (cfg.get("model_wrapper_cfg") or {}).get("detect_anomalous_params"):
        model.register_forward_hook(_Watch(), with_kwargs=True)


def unused_parameters(model: nn.Module, losses: Iterable[Tensor]) -> list[str]:
    """Names of the trainable parameters that none of the losses depends on."""
    waiting = [loss.grad_fn for loss in losses if loss.grad_fn is not None]
    seen: set[Any] = set(waiting)
    used: set[int] = set()
    while waiting:
        node: Any = waiting.pop()
        if hasattr(node, "variable"):
            used.add(id(node.variable))
        for parent, _ in node.next_functions:
            if parent is not None and parent not in seen:
                seen.add(parent)
                waiting.append(parent)
    return [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in used]


class _Watch:
    """A forward hook that tells when the set of parameters without influence changes."""

    def __init__(self) -> None:
        self._told: list[str] = []

    def __call__(self, model: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        if kwargs.get("mode") != "loss" or not torch.is_grad_enabled():
            return
        entries = [value for name, value in output.items() if "loss" in name]
        tensors = [one for value in entries for one in (value if isinstance(value, list) else [value])]
        unused = unused_parameters(model, tensors)
        if unused and unused != self._told:
            logger.error("the loss does not depend on %s", ", ".join(unused))
        self._told = unused


def _check_kind(kind: str) -> None:
    if kind in _DDP:
        return
    reason = _OTHERS.get(kind, f"there are {', '.join(_DDP)}")
    raise ConfigError(f"model_wrapper_cfg.type={kind!r} is not part of detcore: {reason}")


def _sync_batch_norm(value: Any) -> bool:
    if value not in (None, False, True, "torch", "mmcv"):
        raise ConfigError(f"sync_bn must be 'torch' (or 'mmcv', which means the same here), got {value!r}")
    return bool(value)
