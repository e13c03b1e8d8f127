"""Values that layers start from; each function fills ``weight`` and ``bias`` of one layer."""

from __future__ import annotations

import math
from typing import Any, Literal

from torch import Tensor, nn

Distribution = Literal["normal", "uniform"]


def _weight(module: nn.Module) -> Tensor | None:
    weight: Any = getattr(module, "weight", None)
    return weight if isinstance(weight, Tensor) else None


def _fill_bias(module: nn.Module, value: float) -> None:
    bias: Any = getattr(module, "bias", None)
    if isinstance(bias, Tensor):
        nn.init.constant_(bias, value)


def _checked(distribution: str) -> str:
    if distribution not in ("normal", "uniform"):
        raise ValueError(f"distribution must be 'normal' or 'uniform', got {distribution!r}")
    return distribution


def constant_init(module: nn.Module, val: float, bias: float = 0) -> None:
    """All weights ``val``."""
    weight = _weight(module)
    if weight is not None:
        nn.init.constant_(weight, val)
    _fill_bias(module, bias)


def xavier_init(
    module: nn.Module, gain: float = 1, bias: float = 0, distribution: Distribution = "normal"
) -> None:
    """Glorot and Bengio 2010: variance 2 / (fan in + fan out), times ``gain`` squared."""
    uniform = _checked(distribution) == "uniform"
    weight = _weight(module)
    if weight is not None:
        (nn.init.xavier_uniform_ if uniform else nn.init.xavier_normal_)(weight, gain=gain)
    _fill_bias(module, bias)


def normal_init(module: nn.Module, mean: float = 0, std: float = 1, bias: float = 0) -> None:
    """Weights of a normal distribution."""
    weight = _weight(module)
    if weight is not None:
        nn.init.normal_(weight, mean, std)
    _fill_bias(module, bias)


def trunc_normal_init(
    module: nn.Module, mean: float = 0, std: float = 1, a: float = -2, b: float = 2, bias: float = 0
) -> None:
    """Weights of a normal distribution between the absolute bounds ``a`` and ``b``."""
    weight = _weight(module)
    if weight is not None:
        nn.init.trunc_normal_(weight, mean, std, a, b)
    _fill_bias(module, bias)


def uniform_init(module: nn.Module, a: float = 0, b: float = 1, bias: float = 0) -> None:
    """Weights uniform between ``a`` and ``b``."""
    weight = _weight(module)
    if weight is not None:
        nn.init.uniform_(weight, a, b)
    _fill_bias(module, bias)


def kaiming_init(
    module: nn.Module,
    a: float = 0,
    mode: Literal["fan_in", "fan_out"] = "fan_out",
    nonlinearity: str = "relu",
    bias: float = 0,
    distribution: Distribution = "normal",
) -> None:
    """He et al. 2015: variance gain squared / fan; ``nonlinearity`` and its slope ``a`` set the gain."""
    uniform = _checked(distribution) == "uniform"
    weight = _weight(module)
    if weight is not None:
        fill: Any = nn.init.kaiming_uniform_ if uniform else nn.init.kaiming_normal_
        fill(weight, a=a, mode=mode, nonlinearity=nonlinearity)
    _fill_bias(module, bias)


def caffe2_xavier_init(module: nn.Module, bias: float = 0) -> None:
    """Caffe2's XavierFill: uniform with variance 1 / fan in."""
    kaiming_init(module, a=1, mode="fan_in", nonlinearity="leaky_relu", bias=bias, distribution="uniform")


def bias_init_with_prob(prior_prob: float) -> float:
    """The bias with which a sigmoid starts at ``prior_prob`` (Lin et al. 2017, section 3.3).

    Raises:
        ValueError: ``prior_prob`` is not between 0 and 1.
    """
    if not 0 < prior_prob < 1:
        raise ValueError(f"prior_prob must be between 0 and 1, got {prior_prob}")
    return -math.log((1 - prior_prob) / prior_prob)
