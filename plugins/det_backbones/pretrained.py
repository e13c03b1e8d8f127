"""Pretrained weights of networks that others wrote: put into our layout on the way in."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from detcore.nn import BaseModule
from detcore.nn.initializers import Pretrained
from detcore.weights.load_into import load_into_module
from detcore.weights.reading import load_state, strip_prefix

Convert = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def init_converted(module: BaseModule, convert: Convert) -> None:
    """As :meth:`detcore.nn.BaseModule.init_weights`, but ``Pretrained`` weights pass through ``convert``.

    Args:
        module: What gets the weights.
        convert: From tensors by the names of their file to tensors by the names of ``module``.

    Raises:
        CheckpointError: Weights cannot be read, or do not fit after conversion.
    """
    given = module.init_cfg
    cfgs = [given] if isinstance(given, Mapping) else list(given or ())
    plain: list[Any] = [cfg for cfg in cfgs if cfg.get("type") != "Pretrained"]
    first_time = not module.is_init
    module.init_cfg = plain
    BaseModule.init_weights(module)
    module.init_cfg = given
    for cfg in cfgs if first_time else ():
        if cfg.get("type") == "Pretrained":
            _load(module, Pretrained(**{key: value for key, value in cfg.items() if key != "type"}), convert)


def _load(module: BaseModule, source: Pretrained, convert: Convert) -> None:
    state = load_state(source.checkpoint, map_location=source.map_location, revise_keys=source.revise_keys)
    if source.prefix is not None:
        state = strip_prefix(state, source.prefix, source=source.checkpoint)
    load_into_module(module, convert(state), allow_mismatch=source.allow_mismatch, source=source.checkpoint)
