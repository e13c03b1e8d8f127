"""The stacks of convolutions that one-stage heads put between feature maps and predictions."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from detcore.nn import ConvModule, Sequential
from detcore.nn.build import ConvCfg, NormCfg


def conv_tower(
    in_channels: int,
    feat_channels: int,
    num_convs: int,
    conv_cfg: ConvCfg = None,
    norm_cfg: NormCfg = None,
    last_conv_cfg: ConvCfg = None,
    bias: bool | Literal["auto"] = "auto",
    first_conv_cfg: ConvCfg = None,
) -> Sequential:
    """3x3 convolutions with norm layer and ReLU, one after another; none gives its input as it is.

    Args:
        in_channels: Channels of the feature maps.
        feat_channels: Channels of every convolution.
        num_convs: How many there are.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of norm layer, None for none.
        last_conv_cfg: Kind of the last convolution where it is another one.
        bias: Whether they have a bias; ``'auto'``: where they have no norm layer.
        first_conv_cfg: Kind of the first convolution where it is another one.
    """
    channels = [in_channels] + [feat_channels] * num_convs
    kinds = [conv_cfg] * num_convs
    if last_conv_cfg is not None:
        kinds[-1:] = [last_conv_cfg]
    if first_conv_cfg is not None:
        kinds[:1] = [first_conv_cfg]
    return Sequential(
        *(
            ConvModule(before, after, 3, padding=1, conv_cfg=kind, norm_cfg=norm_cfg, bias=bias)
            for (before, after), kind in zip(itertools.pairwise(channels), kinds, strict=True)
        )
    )


def each_level(
    forward_single: Callable[..., tuple[Tensor, ...]],
    x: Sequence[Tensor],
    *parts: Sequence[Any] | nn.ModuleList,
) -> tuple[list[Tensor], ...]:
    """What ``forward_single`` gives of every map, with what belongs to its level: a list of each.

    Args:
        forward_single: Called with a map and one of each of the parts.
        x: ``Tensor[B, C, H, W]`` a level.
        parts: A module or number a level.

    Raises:
        ValueError: Another number of maps than the head has levels.
    """
    if any(len(part) != len(x) for part in parts):
        raise ValueError(f"{len(x)} feature maps for a head of {len(parts[0])} levels")
    return tuple(map(list, zip(*map(forward_single, x, *parts), strict=True)))
