"""What blocks of residual networks may have beside plain convolutions: deformable ones, and plugin layers."""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Required, TypedDict, get_args

from torch import nn

from detcore.nn import build_conv_layer, build_plugin_layer
from detcore.registry import MODELS, Deferred

Position = Literal["after_conv1", "after_conv2", "after_conv3"]
POSITIONS: tuple[Position, ...] = get_args(Position)

DcnCfg = Annotated[dict | None, Deferred(MODELS, allow=("fallback_on_stride", "deformable_groups"))]


class PluginCfg(TypedDict, total=False):
    """A layer that blocks take in.

    Its ``cfg`` may hold a ``postfix``, the end of the name under which blocks hold it; ``stages`` says for
    each stage whether its blocks have it, all do where it is None.
    """

    cfg: Required[Annotated[dict, Deferred(MODELS, allow=("postfix",))]]
    stages: Sequence[bool] | None
    position: Required[Position]


def check_options(
    num_stages: int,
    conv_cfg: Mapping[str, Any] | None,
    dcn: Mapping[str, Any] | None,
    stage_with_dcn: Sequence[bool],
    plugins: Iterable[PluginCfg] | None,
) -> None:
    """Whether the options of a network fit its stages and each other.

    Raises:
        ValueError: They do not.
    """
    if dcn is not None and len(stage_with_dcn) != num_stages:
        raise ValueError(
            f"stage_with_dcn must say yes or no for each of the {num_stages} stages, got {stage_with_dcn}"
        )
    if dcn is not None and conv_cfg is not None and any(stage_with_dcn):
        raise ValueError(f"give dcn or conv_cfg, not both: got dcn {dict(dcn)} and conv_cfg {dict(conv_cfg)}")
    for plugin in plugins or ():
        stages = plugin.get("stages")
        if stages is not None and len(stages) != num_stages:
            raise ValueError(
                f"stages of a plugin must say yes or no for each of the {num_stages} stages, got {stages}"
            )
        if plugin.get("position") not in POSITIONS:
            raise ValueError(
                f"position of a plugin must be one of {', '.join(POSITIONS)}; got {plugin.get('position')!r}"
            )


def plugins_of_stage(plugins: Iterable[PluginCfg] | None, stage: int) -> list[PluginCfg] | None:
    """The plugins that the blocks of a stage have, counted from 0; None where there are none."""
    chosen = []
    for plugin in plugins or ():
        stages = plugin.get("stages")
        if stages is None or stages[stage]:
            chosen.append(plugin)
    return chosen or None


def middle_conv(
    conv_cfg: dict[str, Any] | None,
    dcn: Mapping[str, Any] | None,
    channels: int,
    stride: int,
    dilation: int,
    groups: int,
) -> nn.Module:
    """The 3x3 convolution of a bottleneck.

    Args:
        conv_cfg: Kind of plain convolution.
        dcn: Kind of deformable convolution, None for a plain one. With ``fallback_on_stride`` a convolution
            that strides is plain. ``deformable_groups`` is the older name of ``deform_groups``.
        channels: Of input and output.
        stride: Of the convolution, like the next two.
        dilation: Distance of the kernel's points.
        groups: Groups of channels.

    Raises:
        ValueError: A deformable convolution is to have a ``conv_cfg``.
        ConfigError: The kind of convolution is unknown, or does not take its arguments.
    """
    options: dict[str, Any] = {
        "stride": stride, "padding": dilation, "dilation": dilation, "groups": groups, "bias": False,
    }  # fmt: skip
    kind = dict(dcn or {})
    falls_back = kind.pop("fallback_on_stride", False) and stride > 1
    if dcn is None or falls_back:
        return build_conv_layer(conv_cfg, channels, channels, 3, **options)
    if conv_cfg is not None:
        raise ValueError(f"a deformable convolution has no other kind: conv_cfg must be None, got {conv_cfg}")
    if "deformable_groups" in kind:
        kind.setdefault("deform_groups", kind.pop("deformable_groups"))
    return build_conv_layer(kind, channels, channels, 3, **options)


def add_plugins(
    block: nn.Module, plugins: Iterable[PluginCfg] | None, channels: Mapping[Position, int]
) -> dict[Position, tuple[str, ...]]:
    """Put plugin layers into a block.

    Args:
        block: What gets them as its modules.
        plugins: The layers.
        channels: Position -> channels of the map there.

    Returns:
        Position -> names of the layers there, in the order in which they run.

    Raises:
        ValueError: Two of them would have one name, or one that the block has taken.
        ConfigError: A layer is unknown, or does not take its arguments.
    """
    names: dict[Position, tuple[str, ...]] = dict.fromkeys(POSITIONS, ())
    for plugin in plugins or ():
        cfg, position = dict(plugin["cfg"]), plugin["position"]
        if position not in channels:
            raise ValueError(f"position of a plugin must be one of {', '.join(channels)}; got {position!r}")
        name, layer = build_plugin_layer(cfg, cfg.pop("postfix", ""), in_channels=channels[position])
        if hasattr(block, name):
            raise ValueError(f"the block already has {name!r}: give the plugin {plugin['cfg']} a postfix")
        block.add_module(name, layer)
        names[position] += (name,)
    return names
