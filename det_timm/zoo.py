"""What is known of timm's models without their weights: names, classes, feature maps.

Models are built on PyTorch's meta device for that, which takes a tenth of a second and no memory.
"""

import dataclasses
import difflib
import functools
import inspect
import logging
import re
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from timm.models._registry import _deprecated_models, _model_to_module
from torch import nn

from det_timm._timm import timm
from detcore.errors import ConfigError

logger = logging.getLogger(__name__)

# What a class name means by itself: the variant that its paper or timm's documentation leads with.
DEFAULT_VARIANTS = {
    "ByobNet": "resnet32ts",
    "ConvNeXt": "convnext_tiny",
    "DenseNet": "densenet121",
    "EfficientNet": "efficientnet_b0",
    "HighResolutionNet": "hrnet_w18",
    "MaxxVit": "maxvit_tiny_tf_224",
    "MobileNetV3": "mobilenetv3_large_100",
    "NormFreeNet": "nf_resnet50",
    "RegNet": "regnety_032",
    "ResNet": "resnet50",
    "ResNetV2": "resnetv2_50",
    "SwinTransformer": "swin_tiny_patch4_window7_224",
    "SwinTransformerV2": "swinv2_tiny_window8_256",
    "VGG": "vgg16_bn",
    "VisionTransformer": "vit_small_patch16_224",
}

# What the backbone takes by itself, whatever the model.
BACKBONE_ARGUMENTS = (
    "features_only", "pretrained", "checkpoint_path", "in_channels", "out_indices", "pyramid",
    "frozen_stages", "norm_eval", "with_cp", "init_cfg",
)  # fmt: skip

_OPEN_ENDED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclasses.dataclass(frozen=True)
class FeatureMap:
    """One map that a model can give.

    Attributes:
        channels: Its channels.
        stride: Pixels of the image per pixel of the map; whole, but where patches of 7 or 14 are resampled.
    """

    channels: int
    stride: float


def is_model(name: str) -> bool:
    """Whether timm has a model of that name, with or without a tag of weights (``resnet50.a1_in1k``)."""
    return isinstance(name, str) and bool(timm.is_model(name))


def current_name(name: str) -> str:
    """What timm calls a model today: older names are followed, with one warning a process.

    Raises:
        ConfigError: timm has no such model; names the closest.
    """
    if isinstance(name, str):
        name = re.sub(r"^(hf[-_]hub:)?timm/", "", name)  # as the hub spells timm's own models
    check_model(name)
    return _renamed(name) or name


@functools.cache
def _renamed(name: str) -> str | None:
    today: str | None = _deprecated_models.get(name)
    if today is not None:
        logger.warning("timm calls the model %r %r today", name, today)
    return today


def model_names() -> list[str]:
    """All models of timm, sorted."""
    return list(timm.list_models())


def check_model(name: str) -> None:
    """Refuse what is no model of timm.

    Raises:
        ConfigError: Names the closest.
    """
    if not isinstance(name, str) or not is_model(name):
        close = difflib.get_close_matches(str(name), [*model_names(), *class_modules()], n=3)
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else "see `detcore timm list`"
        raise ConfigError(f"timm {timm.__version__} has no model {name!r}; {hint}")
    tag = name.partition(".")[2]
    if tag and name not in timm.list_models(f"{name.partition('.')[0]}.*", pretrained=True):
        tags = ", ".join(timm.list_models(f"{name.partition('.')[0]}.*", pretrained=True)) or "none"
        raise ConfigError(f"timm {timm.__version__} has no weights {name!r}; there are {tags}")


@functools.cache
def class_modules() -> dict[str, str]:
    """Name of a model's class -> the module of timm that defines it and models of it."""
    import timm.models as root

    found = {}
    for module in sorted(set(_model_to_module.values())):
        for name, value in vars(getattr(root, module)).items():
            own = inspect.isclass(value) and value.__module__ == f"timm.models.{module}"
            if own and issubclass(value, nn.Module) and hasattr(value, "forward_features"):
                found[name] = module
    return found


def variants(class_name: str) -> list[str]:
    """The models of a class, sorted.

    Raises:
        ConfigError: timm has no such class.
    """
    module = class_modules().get(class_name)
    if module is None:
        close = difflib.get_close_matches(class_name, class_modules(), n=3)
        hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise ConfigError(f"timm {timm.__version__} has no model class {class_name!r}{hint}")
    return [name for name in timm.list_models(module=module) if class_of(name) == class_name]


def default_variant(class_name: str) -> str:
    """The model that a class's name means by itself.

    Raises:
        ConfigError: timm has no such class, or no model of it.
    """
    found = first_variant(class_name)
    if found is None:
        variants(class_name)  # says so if there is no such class
        raise ConfigError(f"no model of timm {timm.__version__} is built as {class_name!r} alone")
    return found


def first_variant(class_name: str) -> str | None:
    """The same; None for classes that only parts of models have."""
    chosen = DEFAULT_VARIANTS.get(class_name)
    if chosen is not None and is_model(chosen):
        return chosen
    names = _by_preference(class_modules().get(class_name, ""))
    return next((name for name in names if class_of(name) == class_name), None)


def _by_preference(module: str) -> Iterator[str]:
    """Models with published weights first, tests last; within these, as timm sorts them."""
    names = timm.list_models(module=module) if module else []
    yield from sorted(names, key=lambda name: (name.startswith("test_"), not timm.is_model_pretrained(name)))


@functools.cache
def class_of(model_name: str) -> str:
    """Name of the class that a model is built as."""
    return type(on_meta(model_name)).__name__


def on_meta(model_name: str, **arguments: Any) -> nn.Module:
    """A model without memory; on the CPU where it cannot be built otherwise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # models warn of what training them from scratch would need
        try:
            with torch.device("meta"):
                return timm.create_model(model_name, **arguments)
        except (NotImplementedError, RuntimeError):  # it reads numbers out of tensors while it is built
            with torch.random.fork_rng(devices=[]), torch.device("cpu"):
                return timm.create_model(model_name, **arguments)


def feature_maps(model_name: str, **arguments: Any) -> tuple[FeatureMap, ...]:
    """Every map that a model can give, in the order in which they are computed.

    Args:
        model_name: A model of timm.
        **arguments: Of the model.

    Raises:
        ConfigError: It has none, or does not take the arguments.
    """
    info: Any = _features_on_meta(model_name, arguments).feature_info
    return tuple(FeatureMap(each["num_chs"], each["reduction"]) for each in info.info)


def default_indices(model_name: str, **arguments: Any) -> tuple[int, ...]:
    """The maps that timm itself gives where nobody chooses.

    Raises:
        ConfigError: The model has none, or does not take the arguments.
    """
    info: Any = _features_on_meta(model_name, arguments).feature_info
    return tuple(info.out_indices)


def _features_on_meta(model_name: str, arguments: dict[str, Any]) -> nn.Module:
    check_model(model_name)
    try:
        return on_meta(model_name, features_only=True, **arguments)
    except (TypeError, AttributeError, RuntimeError, AssertionError, ValueError, KeyError) as error:
        raise ConfigError(
            explain_arguments(model_name, error) or f"timm's {model_name} cannot give feature maps: {error}"
        ) from error


def explain_arguments(model_name: str, error: Exception) -> str:
    """What to say of an argument that a model does not take; empty if the error is another one."""
    wrong = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if wrong is None:
        return ""
    taken = [name for name in _arguments(model_name) if name not in ("self", "in_chans")]
    taken = list(dict.fromkeys((*BACKBONE_ARGUMENTS, *taken)))
    close = difflib.get_close_matches(wrong[1], taken, n=3)
    names = " or ".join(map(repr, close)) if close else ""
    hint = f"did you mean {names}?" if close else f"there are {', '.join(taken)}"
    return f"timm's {model_name} takes no argument {wrong[1]!r}; {hint}"


def flexible_arguments(model_name: str) -> dict[str, Any]:
    """The arguments by which a model takes images of any size, as far as its class has such."""
    taken = _arguments(model_name)
    wanted = {"dynamic_img_size": True, "dynamic_img_pad": True, "strict_img_size": False}
    return {name: value for name, value in wanted.items() if name in taken}


@functools.cache
def _arguments(model_name: str) -> tuple[str, ...]:
    """Names of the arguments of a model's class, and of its bases as far as it hands others on to them."""
    found: dict[str, None] = {}
    for cls in type(on_meta(model_name)).__mro__:
        if "__init__" not in vars(cls):
            continue
        parameters = inspect.signature(vars(cls)["__init__"]).parameters
        named = [name for name, each in parameters.items() if each.kind not in _OPEN_ENDED]
        found |= dict.fromkeys(named)
        if not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
            break
    return tuple(found)
