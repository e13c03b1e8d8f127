"""Which parameters of a timm model belong to its stem and its stages, or to its layers."""

from typing import Any

from timm.models._manipulate import group_parameters
from torch import nn

from det_timm.zoo import on_meta


def layer_ids(model: nn.Module, model_name: str, *, coarse: bool) -> dict[str, int]:
    """The depth of each parameter, counted from the stem (0).

    timm knows it by the names of the whole model; a model cut down to its feature maps has the same names but
    for dots that became underscores.

    Args:
        model: The model, cut down or not.
        model_name: Its name.
        coarse: Count stages; else blocks.

    Returns:
        Name in ``model`` -> depth. What the whole model does not group (pyramids, for example) comes last.
    """
    whole: Any = on_meta(model_name)
    if not hasattr(whole, "group_matcher"):
        return {}
    groups = group_parameters(whole, whole.group_matcher(coarse=coarse))
    depths = {_plain(name): depth for depth, names in groups.items() for name in names}
    last = max(groups, default=0)
    return {name: depths.get(_plain(name), last) for name, _ in model.named_parameters()}


def _plain(name: str) -> str:
    return name.removeprefix("model.").replace(".", "_")
