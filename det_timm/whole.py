"""The whole of a model up to its classifier, as a backbone of one map."""

from typing import Any

import torch
from torch import Tensor, nn

from det_timm.zoo import FeatureMap, check_model, explain_arguments, on_meta
from detcore.errors import ConfigError


def without_classifier(model: nn.Module) -> nn.Module:
    """Take the pooling and the classifier off a model, in place.

    Raises:
        ConfigError: It cannot do without them.
    """
    try:
        model.reset_classifier(0, "")  # type: ignore[operator]
    except (TypeError, AttributeError, AssertionError, ValueError, NotImplementedError) as error:
        raise ConfigError(
            f"timm's {type(model).__name__} cannot do without its pooling ({error}): features_only=True"
        ) from error
    return model


def channels_last(output: Any, channels: set[int]) -> bool:
    """Whether a model's output is ``Tensor[B, H, W, C]`` rather than ``Tensor[B, C, H, W]``.

    Raises:
        ConfigError: It is neither.
    """
    if isinstance(output, Tensor) and output.ndim == 4:
        if output.shape[1] in channels:
            return False
        if output.shape[3] in channels:
            return True
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    raise ConfigError(f"it gives no map but {shape}, features_only=True gives the maps inside it")


def whole_map(model_name: str, **arguments: Any) -> FeatureMap:
    """The one map that a whole model gives, told by running it without numbers.

    Raises:
        ConfigError: It gives none, or does not take the arguments.
    """
    check_model(model_name)
    try:
        model: Any = without_classifier(on_meta(model_name, **arguments))
    except (TypeError, RuntimeError, ValueError, KeyError, AssertionError) as error:
        raise ConfigError(
            explain_arguments(model_name, error) or f"timm cannot build {model_name} like this: {error}"
        ) from error
    size = image_size(model, arguments)
    device = next(model.parameters()).device
    with torch.no_grad():
        output = model.eval()(torch.empty(2, arguments.get("in_chans", 3), *size, device=device))
    try:
        last = channels_last(output, map_channels(model))
    except ConfigError as error:
        raise ConfigError(f"timm's {model_name} with features_only=False: {error}") from None
    channels, height = (output.shape[3], output.shape[1]) if last else output.shape[1:3]
    return FeatureMap(channels, round(size[0] / height))


def map_channels(model: Any) -> set[int]:
    """The numbers of channels that a whole model's map may have."""
    return {int(model.num_features), int(getattr(model, "head_hidden_size", None) or model.num_features)}


def image_size(model: nn.Module, arguments: dict[str, Any]) -> tuple[int, int]:
    """Height and width of images that a model takes for certain."""
    given = arguments.get("img_size")
    if given is not None:
        return (given, given) if isinstance(given, int) else tuple(given)
    inner: Any = getattr(model, "model", model)
    configured: Any = getattr(model, "pretrained_cfg", None) or getattr(inner, "pretrained_cfg", None) or {}
    return tuple(configured.get("input_size", (3, 224, 224))[1:])
