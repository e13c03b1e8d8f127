"""NAS-FPN: Learning Scalable Feature Pyramid Architecture for Object Detection (Ghiasi et al., CVPR 2019,
arXiv 1904.07392).

A search has found how the maps of a pyramid are best merged two by two; the pyramid found, figure 6, is seven
merging cells, and is stacked several times. A cell resizes two maps to one size and merges them, by a sum,
or by global pooling: ``x + sigmoid(mean(x)) * y``, the finer map's view weighed by what the other holds
(figure 3). ReLU, a 3x3 convolution and a norm layer follow.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from det_models.fpn import InChannels
from detcore.errors import ConfigError
from detcore.nn import BaseModule, ConvModule, ModuleDict, ModuleList
from detcore.nn.base_module import DeferredInit
from detcore.nn.build import NormCfg

_CAFFE2_XAVIER = {"type": "Caffe2Xavier", "layer": "Conv2d"}
_LEVELS = 5  # P3 to P7


class MergingCell(BaseModule):
    """Two maps resized to one size and merged; figure 3.

    Args:
        channels: Of all maps.
        kind: ``'sum'``, or ``'gp'`` for global pooling, which weighs the first map by the second's means.
        norm_cfg: Kind of norm layer, None for none.
        with_out_conv: Whether activation, convolution and norm follow.
    """

    def __init__(
        self, channels: int, kind: Literal["sum", "gp"], norm_cfg: dict[str, Any] | None, with_out_conv: bool
    ) -> None:
        super().__init__()
        self.kind = kind
        self.out_conv: ConvModule | None = None
        if with_out_conv:
            self.out_conv = ConvModule(
                channels, channels, 3, padding=1, bias=True, norm_cfg=norm_cfg, order=("act", "conv", "norm")
            )

    def forward(self, first: Tensor, second: Tensor, size: Sequence[int]) -> Tensor:
        """``Tensor[B, channels, H, W]`` of two of any sizes; ``size`` is (H, W)."""
        first, second = _resized(first, size), _resized(second, size)
        if self.kind == "gp":
            first = first * second.mean((2, 3), keepdim=True).sigmoid()
        merged = first + second
        return merged if self.out_conv is None else self.out_conv(merged)


def _resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """A map of ``size`` (H, W): enlarged by copies, or made smaller by maxima."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    if x.shape[2] < size[0] or x.shape[3] < size[1]:
        return F.interpolate(x, size=tuple(size), mode="nearest")
    return F.adaptive_max_pool2d(x, tuple(size))


class NASFPN(BaseModule):
    """Five maps, P3 to P7, merged as the search has found; see this module's docstring.

    Args:
        in_channels: Channels of the backbone's maps; None or ``'auto'``: the detector asks the backbone.
        out_channels: Channels of every map of the pyramid.
        num_outs: Only 5: the search was for five maps.
        stack_times: How many times the cells are stacked.
        start_level: First of the backbone's maps that is used.
        end_level: Last one that is used; -1 for the last there is.
        norm_cfg: Kind of norm layer, None for none.
        init_cfg: How weights are initialised.

    Attributes:
        out_channels: Channels of each output.
        out_strides: Pixels per cell of each output, known once the detector told the backbone's.

    Raises:
        ConfigError: Levels and numbers do not fit.
    """

    # Name -> kind of cell, its two maps, and the map that it makes; in the order in which they run. Names are
    # those of levels, with the results of earlier cells in their place; 'a' and 'b' are kept beside P4.
    cells: ClassVar[dict[str, tuple[Literal["sum", "gp"], str, str, str]]] = {
        "gp_64_4": ("gp", "6", "4", "a"),
        "sum_44_4": ("sum", "a", "4", "b"),
        "sum_43_3": ("sum", "b", "3", "3"),
        "sum_34_4": ("sum", "3", "b", "4"),
        "gp_43_5": ("gp", "4", "3", "to 5"),
        "sum_55_5": ("sum", "5", "to 5", "5"),
        "gp_54_7": ("gp", "5", "b", "to 7"),
        "sum_77_7": ("sum", "7", "to 7", "7"),
        "gp_75_6": ("gp", "7", "5", "6"),
    }

    def __init__(
        self,
        in_channels: InChannels = None,
        out_channels: int = 256,
        num_outs: int = 5,
        stack_times: int = 7,
        start_level: int = 0,
        end_level: int = -1,
        norm_cfg: NormCfg = None,
        init_cfg: DeferredInit = _CAFFE2_XAVIER,
    ) -> None:
        super().__init__(init_cfg)
        if num_outs != _LEVELS:
            raise ConfigError(f"NASFPN: num_outs must be {_LEVELS}, as the search was; got {num_outs}")
        if isinstance(in_channels, str) and in_channels != "auto":
            raise ConfigError(
                f"NASFPN: in_channels is a list, or 'auto' to ask the backbone; got {in_channels!r}"
            )
        self.start_level, self.end_level = start_level, end_level
        self.stack_times, self.norm_cfg = stack_times, norm_cfg
        self.out_channels = (out_channels,) * num_outs
        self.out_strides: tuple[int, ...] | None = None
        self.in_channels: tuple[int, ...] | None = None
        if in_channels is not None and not isinstance(in_channels, str):
            self._build_layers(tuple(in_channels))

    def _build_layers(self, in_channels: tuple[int, ...]) -> None:
        self.in_channels, out = in_channels, self.out_channels[0]
        last = len(in_channels) if self.end_level == -1 else self.end_level + 1
        used = in_channels[self.start_level : last]
        if not 0 <= self.start_level < last <= len(in_channels) or len(used) > _LEVELS:
            raise ConfigError(
                f"NASFPN: levels {self.start_level} to {last - 1} of a backbone with {len(in_channels)} "
                f"maps, of which at most {_LEVELS} can be used"
            )
        self.lateral_convs = ModuleList(self._conv(channels) for channels in used)
        self.extra_downsamples = ModuleList(
            nn.Sequential(self._conv(out), nn.MaxPool2d(2, 2)) for _ in range(_LEVELS - len(used))
        )
        self.fpn_stages = ModuleList(
            ModuleDict(
                {
                    name: MergingCell(out, kind, self.norm_cfg, with_out_conv=not made.startswith("to"))
                    for name, (kind, _, _, made) in self.cells.items()
                }
            )
            for _ in range(self.stack_times)
        )

    def _conv(self, channels: int) -> ConvModule:
        return ConvModule(channels, self.out_channels[0], 1, norm_cfg=self.norm_cfg, act_cfg=None)

    def connect(self, in_channels: Sequence[int], in_strides: Sequence[int] | None = None) -> None:
        """Hear from the detector what the backbone gives.

        Args:
            in_channels: Channels of each of its maps.
            in_strides: Pixels per cell of each of its maps.

        Raises:
            ConfigError: This neck was built for other channels.
        """
        if self.in_channels is None:
            self._build_layers(tuple(in_channels))
        elif self.in_channels != tuple(in_channels):
            raise ConfigError(
                f"NASFPN: in_channels is {list(self.in_channels)}, but the backbone gives {list(in_channels)}"
            )
        if in_strides is not None:
            strides = list(in_strides[self.start_level :][: len(self.lateral_convs)])
            while len(strides) < _LEVELS:
                strides.append(strides[-1] * 2)
            self.out_strides = tuple(strides)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Pyramid of a backbone's maps.

        Args:
            inputs: ``Tensor[B, in_channels[i], H_i, W_i]``, finest first.

        Returns:
            Five maps ``Tensor[B, out_channels, H_i, W_i]``, finest first.

        Raises:
            ValueError: There are not as many maps as ``in_channels`` says.
        """
        if self.in_channels is None or len(inputs) != len(self.in_channels):
            raise ValueError(f"NASFPN for channels {self.in_channels} got {len(inputs)} maps")
        used = inputs[self.start_level :][: len(self.lateral_convs)]
        maps = [lateral(each) for lateral, each in zip(self.lateral_convs, used, strict=True)]
        for downsample in self.extra_downsamples:
            maps.append(downsample(maps[-1]))
        named = dict(zip("34567", maps, strict=True))
        sizes = {name: each.shape[2:] for name, each in named.items()}
        stages: Any = self.fpn_stages
        for stage in stages:
            for name, (_, first, second, made) in self.cells.items():
                named[made] = stage[name](named[first], named[second], sizes[name[-1]])
        return tuple(named[level] for level in "34567")
