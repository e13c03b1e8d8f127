"""Layers from the small dicts of configs: ``norm_cfg``, ``conv_cfg``, ``act_cfg``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from detcore.errors import ConfigError
from detcore.registry import MODELS, Deferred

# Annotations for constructors: checked with the config, passed on as they are.
ConvCfg = Annotated[dict | None, Deferred(MODELS)]
NormCfg = Annotated[dict | None, Deferred(MODELS, allow=("requires_grad",))]
ActCfg = Annotated[dict | None, Deferred(MODELS)]
LinearCfg = Annotated[dict | None, Deferred(MODELS)]

_NO_INPLACE = ("Tanh", "PReLU", "Sigmoid", "HSigmoid", "Swish", "GELU", "Clip", "Clamp")


def build_conv_layer(cfg: Mapping[str, Any] | None, *args: Any, **kwargs: Any) -> nn.Module:
    """A convolution; ``nn.Conv2d`` where there is no ``cfg``.

    Args:
        cfg: ``dict(type=...)`` with further arguments.
        *args: Arguments of the layer: in_channels, out_channels, kernel_size, ...
        **kwargs: Further arguments.

    Raises:
        ConfigError: ``cfg`` has no ``type``, or the layer does not take its arguments.
    """
    if cfg is None:
        return nn.Conv2d(*args, **kwargs)
    make, arguments = _read(cfg, "conv_cfg")
    return _made(make, "conv_cfg", cfg, *args, **{**kwargs, **arguments})


def build_norm_layer(
    cfg: Mapping[str, Any], num_features: int, postfix: int | str = ""
) -> tuple[str, nn.Module]:
    """A normalisation layer and the name under which modules hold it.

    Args:
        cfg: ``dict(type='BN', requires_grad=True)`` and the like; eps is 1e-5 unless it says so.
        num_features: Channels.
        postfix: End of the name: ``1`` gives ``bn1``.

    Returns:
        ``(name, layer)``; names begin with ``bn``, ``gn``, ``ln``, ``in`` by the kind of layer.

    Raises:
        ConfigError: ``cfg`` has no ``type``, or the layer does not take its arguments.
    """
    make, arguments = _read(cfg, "norm_cfg")
    requires_grad = arguments.pop("requires_grad", True)
    arguments.setdefault("eps", 1e-5)
    if make is nn.GroupNorm or (isinstance(make, type) and issubclass(make, nn.GroupNorm)):
        if "num_groups" not in arguments:
            raise ConfigError(f"norm_cfg {dict(cfg)} needs num_groups")
        layer = _made(make, "norm_cfg", cfg, num_channels=num_features, **arguments)
    else:
        layer = _made(make, "norm_cfg", cfg, num_features, **arguments)
    for parameter in layer.parameters():
        parameter.requires_grad = requires_grad
    return f"{_abbreviation(type(layer))}{postfix}", layer


def build_activation_layer(cfg: Mapping[str, Any]) -> nn.Module:
    """An activation from ``dict(type='ReLU', inplace=True)`` and the like.

    Raises:
        ConfigError: ``cfg`` has no ``type``, or the layer does not take its arguments.
    """
    make, arguments = _read(cfg, "act_cfg")
    return _made(make, "act_cfg", cfg, **arguments)


def with_inplace(cfg: Mapping[str, Any], inplace: bool) -> dict[str, Any]:
    """``act_cfg`` with ``inplace`` set, where it is not and the activation knows it."""
    known = str(cfg.get("type")).rpartition(".")[2] not in _NO_INPLACE
    return {"inplace": inplace, **cfg} if known else dict(cfg)


def build_linear_layer(cfg: Mapping[str, Any] | None, *args: Any, **kwargs: Any) -> nn.Module:
    """A linear layer; ``nn.Linear`` where there is no ``cfg``.

    Args:
        cfg: ``dict(type=...)`` with further arguments.
        *args: Arguments of the layer: in_features, out_features, ...
        **kwargs: Further arguments.

    Raises:
        ConfigError: ``cfg`` has no ``type``, or the layer does not take its arguments.
    """
    if cfg is None:
        return nn.Linear(*args, **kwargs)
    make, arguments = _read(cfg, "linear_cfg")
    return _made(make, "linear_cfg", cfg, *args, **{**kwargs, **arguments})


def build_padding_layer(cfg: Mapping[str, Any], *args: Any, **kwargs: Any) -> nn.Module:
    """Padding of two-dimensional maps: ``dict(type='zero' | 'reflect' | 'replicate')``."""
    make, arguments = _read(cfg, "padding cfg")
    return _made(make, "padding cfg", cfg, *args, **{**kwargs, **arguments})


def build_upsample_layer(cfg: Mapping[str, Any], *args: Any, **kwargs: Any) -> nn.Module:
    """Upsampling: ``type`` is ``'nearest'``, ``'bilinear'``, ``'deconv'`` or ``'pixel_shuffle'``.

    Raises:
        ConfigError: ``cfg`` has no ``type``, or the layer does not take its arguments.
    """
    make, arguments = _read(cfg, "upsample_cfg")
    if make is nn.Upsample:
        arguments.setdefault("mode", str(cfg["type"]).rpartition(".")[2])
    return _made(make, "upsample_cfg", cfg, *args, **{**kwargs, **arguments})


def build_plugin_layer(
    cfg: Mapping[str, Any], postfix: int | str = "", **kwargs: Any
) -> tuple[str, nn.Module]:
    """A layer that blocks of a backbone take in, and the name under which they hold it.

    Args:
        cfg: ``dict(type=...)`` with further arguments.
        postfix: End of the name.
        **kwargs: Further arguments of the layer: ``in_channels``.

    Returns:
        ``(name, layer)``: the name is the class's ``_abbr_``, or else the class's own in lower case with
        underscores (``ContextBlock`` is ``context_block``), and the postfix.

    Raises:
        ConfigError: ``cfg`` has no ``type``, or the layer does not take its arguments.
    """
    make, arguments = _read(cfg, "plugin cfg")
    layer = _made(make, "plugin cfg", cfg, **{**kwargs, **arguments})
    name = getattr(make, "_abbr_", None) or _in_lower_case(getattr(make, "__name__", type(layer).__name__))
    return f"{name}{postfix}", layer


def _in_lower_case(name: str) -> str:
    """An underscore before each word that begins with a capital: ``NL2dBlock`` is ``nl2d_block``."""
    return re.sub(r"(?<=[a-z\d])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).replace("-", "_").lower()


def is_norm(layer: nn.Module, exclude: type | tuple[type, ...] = ()) -> bool:
    """Whether a layer normalises (batch, instance, group or layer norm), other than those to ``exclude``."""
    return isinstance(layer, (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm)) and not isinstance(
        layer, exclude
    )


def _read(cfg: Mapping[str, Any], what: str) -> tuple[Any, dict[str, Any]]:
    """The class that a small config names, and its arguments."""
    if not isinstance(cfg, Mapping) or "type" not in cfg:
        raise ConfigError(f"{what} must be a dict with `type`, got {cfg!r}")
    arguments = {key: value for key, value in cfg.items() if key not in ("type", "_scope_")}
    return MODELS.get(cfg["type"], default_scope=cfg.get("_scope_")), arguments


def _made(make: Any, what: str, cfg: Mapping[str, Any], *args: Any, **kwargs: Any) -> nn.Module:
    try:
        return make(*args, **kwargs)
    except TypeError as error:
        raise ConfigError(f"{what} {dict(cfg)}: {error}") from error


def _abbreviation(kind: type) -> Literal["in", "bn", "gn", "ln"] | str:
    """How modules name a layer of this class; checkpoints depend on it."""
    own = getattr(kind, "_abbr_", None)
    if own is not None:
        return str(own)
    known = ((_InstanceNorm, "in"), (_BatchNorm, "bn"), (nn.GroupNorm, "gn"), (nn.LayerNorm, "ln"))
    for base, name in known:
        if issubclass(kind, base):
            return name
    words = (("batch", "bn"), ("group", "gn"), ("layer", "ln"), ("instance", "in"))
    return next((name for word, name in words if word in kind.__name__.lower()), "norm_layer")
