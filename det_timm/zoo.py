"""What is known of timm's models without their weights: names, classes, feature maps.

Models are built on PyTorch's meta device for that, which takes a tenth of a second and no memory.
"""

import dataclasses
import difflib
import functools
import inspect
import warnings
from collections.abc import Iterator
from typing import Any

import timm
import torch
from timm.models._registry import _model_to_module
from torch import nn

from detcore.errors import ConfigError

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
    return bool(timm.is_model(name))


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
    chosen = DEFAULT_VARIANTS.get(class_name)
    if chosen is not None and is_model(chosen):
        return chosen
    names = (name for name in _by_preference(class_modules().get(class_name, "")))
    found = next((name for name in names if class_of(name) == class_name), None)
    if found is None:
        variants(class_name)  # says so if there is no such class
        raise ConfigError(f"no model of timm {timm.__version__} is built as {class_name!r} alone")
    return found


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
            return timm.create_model(model_name, **arguments)


def feature_maps(model_name: str, **arguments: Any) -> tuple[FeatureMap, ...]:
    """Every map that a model can give, in the order in which they are computed.

    Args:
        model_name: A model of timm.
        **arguments: Of the model.

    Raises:
        ConfigError: It has none, or does not take the arguments.
    """
    return _feature_maps(model_name, tuple(sorted(arguments.items(), key=repr)))


def _feature_maps(model_name: str, arguments: tuple[tuple[str, Any], ...]) -> tuple[FeatureMap, ...]:
    check_model(model_name)
    try:
        model = on_meta(model_name, features_only=True, **dict(arguments))
    except (TypeError, AttributeError, RuntimeError, AssertionError, ValueError) as error:
        raise ConfigError(f"timm's {model_name} cannot give feature maps: {error}") from error
    info: Any = model.feature_info
    return tuple(FeatureMap(each["num_chs"], each["reduction"]) for each in info.info)


def flexible_arguments(model_name: str) -> dict[str, Any]:
    """The arguments by which a model takes images of any size, as far as its class has such."""
    taken = inspect.signature(type(on_meta(model_name)).__init__).parameters
    wanted = {"dynamic_img_size": True, "dynamic_img_pad": True, "strict_img_size": False}
    return {name: value for name, value in wanted.items() if name in taken}
