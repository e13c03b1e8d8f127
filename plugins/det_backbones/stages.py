"""What backbones share that are a row of stages: weights to start from, and stages that do not train."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from detcore.nn.base_module import DeferredInit

Settings = TypeVar("Settings")

KAIMING: list[dict[str, Any]] = [
    {"type": "Kaiming", "layer": "Conv2d"},
    {"type": "Constant", "val": 1, "layer": ["_BatchNorm", "GroupNorm"]},
]


def start_of(pretrained: str | None, init_cfg: DeferredInit, default: Any = KAIMING) -> Any:
    """The ``init_cfg`` of a backbone: what it was given, or the older ``pretrained``, or its default.

    Raises:
        ValueError: Both are given.
    """
    if pretrained is not None and init_cfg is not None:
        raise ValueError("give pretrained or init_cfg, not both: pretrained is the older name for it")
    if pretrained is not None:
        return {"type": "Pretrained", "checkpoint": pretrained}
    return default if init_cfg is None else init_cfg


def arch_of(
    network: str, arch: str | Settings, known: Mapping[str, Settings], needed: Collection[str] = ()
) -> Settings:
    """The settings of a network, given by its name or themselves.

    Args:
        network: Its class, for errors.
        arch: What a config says.
        known: Networks of the papers.
        needed: Keys without which settings of a user's own are not whole.

    Raises:
        ValueError: There is no such network, or a key is missing.
    """
    if isinstance(arch, str):
        if arch not in known:
            raise ValueError(f"arch of {network} must be one of {', '.join(known)}; got {arch!r}")
        return known[arch]
    missing = {*needed} - {*arch} if isinstance(arch, Mapping) else ()
    if missing:
        raise ValueError(f"arch of {network} needs {', '.join(sorted(missing))}, too; got {arch!r}")
    return arch


def check_indices(name: str, indices: Sequence[int], number: int, least: int = 0) -> None:
    """Whether places among ``number`` stages are some of them.

    Raises:
        ValueError: There are none, or one is below ``least`` or beyond the last stage.
    """
    if not indices or not all(least <= index < number for index in indices):
        raise ValueError(f"{name} must be {least} to {number - 1}, got {tuple(indices)}")


def freeze(modules: Sequence[nn.Module]) -> None:
    """Let modules not train: where no parameter does, autograd records nothing."""
    for module in modules:
        module.eval()
        module.requires_grad_(False)


def settle(network: nn.Module, frozen: Sequence[nn.Module], norm_eval: bool) -> None:
    """After ``train(True)``: what is frozen, and with ``norm_eval`` every batch norm, stays in evaluation.

    Frozen is what no gradient is wanted of: what a hook has thawed stays so.
    """
    for module in frozen:
        if not any(parameter.requires_grad for parameter in module.parameters()):
            module.eval()
    if norm_eval:
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
