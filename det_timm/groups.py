"""Which parameters of a timm model belong to its stem and its stages, or to its layers; which are idle."""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from timm.models._features import FeatureListNet
from timm.models._manipulate import group_parameters
from torch import Tensor, nn

from det_timm.whole import image_size
from det_timm.zoo import on_meta


def layer_ids(model: nn.Module, model_name: str, *, coarse: bool, **arguments: Any) -> dict[str, int]:
    """The depth of each parameter, counted from the stem (0).

    timm knows it by the names of the whole model; a model cut down to its feature maps has the same names but
    for dots that became underscores. Where timm does not know it, the model's parts count in their order, up
    to the first map together.

    Args:
        model: The model, cut down or not.
        model_name: Its name.
        coarse: Count stages; else blocks, where timm knows them.
        **arguments: Of the model.

    Returns:
        Name in ``model`` -> depth. What the whole model does not group comes last.
    """
    whole: Any = on_meta(model_name, **arguments)
    names = [name for name, _ in model.named_parameters()]
    if not hasattr(whole, "group_matcher"):
        return _by_parts(model, names)
    groups = group_parameters(whole, whole.group_matcher(coarse=coarse))
    depths = {plain(name): depth for depth, members in groups.items() for name in members}
    last = max(groups, default=0)
    return {name: depths.get(plain(name), last) for name in names}


def plain(name: str) -> str:
    """A parameter's name in the whole model and in the parts of it that give maps, made equal."""
    return name.removeprefix("model.").removeprefix("body.").replace(".", "_")


def _by_parts(model: nn.Module, names: list[str]) -> dict[str, int]:
    parts = list(dict.fromkeys(name.split(".")[0] for name in names))
    taken = list(getattr(model, "return_layers", ()))  # the parts that give maps
    if len(parts) < 2 or not taken:
        return {}
    first = parts.index(taken[0]) if taken[0] in parts else 0
    depth = {part: max(0, index - first) for index, part in enumerate(parts)}
    return {name: depth[name.split(".")[0]] for name in names}


def idle_parameters(model: nn.Module, create: Callable[[], nn.Module], arguments: dict[str, Any]) -> set[str]:
    """Names of parameters that no map depends on: blocks behind the last one, norms of the classifier.

    A twin without numbers is run for it, forwards and backwards.

    Args:
        model: The model, cut down to its maps.
        create: Builds another one.
        arguments: Of the model.
    """
    if isinstance(model, FeatureListNet):  # ends behind its last map
        return set()
    size = image_size(model, arguments)
    try:
        with torch.device("meta"):
            twin = create()
            maps = twin(torch.empty(2, arguments.get("in_chans", 3), *size))
            outputs = [maps] if isinstance(maps, Tensor) else list(itertools.chain(maps))
            sum(each.float().sum() for each in outputs).backward()  # type: ignore[union-attr]
    except (RuntimeError, NotImplementedError):  # it reads numbers out of tensors
        return set()
    return {name for name, each in twin.named_parameters() if each.grad is None}
