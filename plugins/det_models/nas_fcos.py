"""NAS-FCOS: Fast Neural Architecture Search for Object Detection (Wang et al., CVPR 2020, arXiv 1906.04423).

FCOS whose pyramid and towers were searched for. The pyramid found (section 4.1, figure 3) merges the
backbone's C3 to C5 two by two in seven cells, each a convolution of either map, the coarser one enlarged, and
one more over both. The results for P3 to P5 get what all levels share added. The towers found (figure 4) are,
for classes and for distances alike, a deformable 3x3 convolution, a plain one, a deformable one and a 1x1.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from det_models.detector import SingleStageDetector
from det_models.fcos import FCOSHead
from det_models.fpn import InChannels
from detcore.errors import ConfigError
from detcore.nn import BaseModule, ConvModule, ModuleDict, ModuleList
from detcore.nn.base_module import DeferredInit
from detcore.nn.build import ConvCfg, NormCfg

_BATCH_NORM = {"type": "BN"}
_CAFFE2_XAVIER = {"type": "Caffe2Xavier", "layer": "Conv2d"}
_USED = 3  # C3 to C5
_HEAD_INIT: list[dict[str, Any]] = [
    _CAFFE2_XAVIER,
    {
        "type": "Normal",
        "std": 0.01,
        "override": [
            {"name": "conv_reg"},
            {"name": "conv_centerness"},
            {"type": "Normal", "name": "conv_cls", "std": 0.01, "bias_prob": 0.01},
        ],
    },
]


class NASFCOS(SingleStageDetector):
    """Backbone, :class:`NASFCOS_FPN` and :class:`NASFCOSHead`; see this module's docstring."""


class ConcatCell(BaseModule):
    """Two maps convolved, brought to the size of the larger one, and merged channel by channel.

    The last convolution has a group for each channel of the result. Behind the concatenation group k holds
    channels 2k and 2k + 1, which both come from the first map in the first half of the result, and from the
    second in the other.

    Args:
        channels: Of all maps.
        conv_second: Whether the second map is convolved, too.
        conv_cfg: Kind of convolution of the two maps.
        norm_cfg: Kind of norm layer behind these convolutions, None for none.
    """

    def __init__(
        self, channels: int, conv_second: bool, conv_cfg: ConvCfg = None, norm_cfg: NormCfg = None
    ) -> None:
        super().__init__()
        kind: dict[str, Any] = {"padding": 1, "bias": True, "conv_cfg": conv_cfg, "norm_cfg": norm_cfg}
        self.input1_conv = ConvModule(channels, channels, 3, **kind)
        self.input2_conv = ConvModule(channels, channels, 3, **kind) if conv_second else None
        self.out_conv = ConvModule(
            2 * channels,
            channels,
            1,
            groups=channels,
            bias=False,
            norm_cfg=_BATCH_NORM,
            order=("norm", "act", "conv"),
        )

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """``Tensor[B, channels, H, W]`` of two maps, of which one is the larger along both axes."""
        size = max(first.shape[2:], second.shape[2:])
        second = second if self.input2_conv is None else self.input2_conv(second)
        merged = torch.cat([_enlarged(self.input1_conv(first), size), _enlarged(second, size)], dim=1)
        out: Tensor = self.out_conv(merged)
        return out


def _enlarged(x: Tensor, size: Sequence[int]) -> Tensor:
    return x if x.shape[2:] == size else F.interpolate(x, size=tuple(size), mode="nearest")


class NASFCOS_FPN(BaseModule):
    """Three of a backbone's maps merged as the search has found, and coarser ones behind them.

    Args:
        in_channels: Channels of the backbone's maps; None or ``'auto'``: the detector asks the backbone.
        out_channels: Channels of every map of the pyramid.
        num_outs: Number of maps; those behind the third are each a strided convolution of the one before.
        start_level: First of the backbone's maps that is used.
        end_level: Last one that is used; -1 for the last there is.
        add_extra_convs: Has no effect: there are always convolutions.
        conv_cfg: Kind of convolution of the cells.
        norm_cfg: Kind of norm layer behind these.
        init_cfg: How weights are initialised.

    Attributes:
        out_channels: Channels of each output.
        out_strides: Pixels per cell of each output, known once the detector told the backbone's.

    Raises:
        ConfigError: Levels and numbers do not fit.
    """

    # Name -> the two maps that a cell merges, and whether the second is convolved, in the order in which they
    # run. Maps are numbered: 0 to 2 are C3 to C5, 3 is the first cell's, and so on. Checkpoints hold the
    # names.
    cells: ClassVar[dict[str, tuple[int, int, bool]]] = {
        "c22_1": (2, 2, True),
        "c22_2": (2, 2, True),
        "c32": (3, 2, False),
        "c02": (0, 2, False),
        "c42": (4, 2, True),
        "c36": (3, 6, True),
        "c61": (6, 1, True),
    }
    _RESULTS = (9, 8, 7)  # the maps that P3 to P5 come from
    _SHARED = 5  # the one that is added to all of them

    def __init__(
        self,
        in_channels: InChannels = None,
        out_channels: int = 256,
        num_outs: int = 5,
        start_level: int = 1,
        end_level: int = -1,
        add_extra_convs: bool = False,
        conv_cfg: ConvCfg = None,
        norm_cfg: NormCfg = None,
        init_cfg: DeferredInit = None,
    ) -> None:
        super().__init__(init_cfg)
        if num_outs < _USED:
            raise ConfigError(f"NASFCOS_FPN: num_outs must be at least {_USED}, got {num_outs}")
        if isinstance(in_channels, str) and in_channels != "auto":
            raise ConfigError(
                f"NASFCOS_FPN: in_channels is a list, or 'auto' to ask the backbone; got {in_channels!r}"
            )
        self.start_level, self.end_level = start_level, end_level
        self.conv_cfg, self.norm_cfg = conv_cfg, norm_cfg
        self.out_channels = (out_channels,) * num_outs
        self.out_strides: tuple[int, ...] | None = None
        self.in_channels: tuple[int, ...] | None = None
        if in_channels is not None and not isinstance(in_channels, str):
            self._build_layers(tuple(in_channels))

    def _build_layers(self, in_channels: tuple[int, ...]) -> None:
        self.in_channels, out = in_channels, self.out_channels[0]
        last = len(in_channels) if self.end_level == -1 else self.end_level + 1
        used = in_channels[self.start_level : last]
        if self.start_level < 0 or last > len(in_channels) or len(used) != _USED:
            raise ConfigError(
                f"NASFCOS_FPN: the search was for {_USED} maps, got levels {self.start_level} to {last - 1} "
                f"of a backbone with {len(in_channels)} maps"
            )
        self.adapt_convs = ModuleList(
            (ConvModule(each, out, 1, bias=False, norm_cfg=_BATCH_NORM) for each in used),
            init_cfg=_CAFFE2_XAVIER,
        )
        self.fpn = ModuleDict(
            {
                name: ConcatCell(out, conv_second, self.conv_cfg, self.norm_cfg)
                for name, (_, _, conv_second) in self.cells.items()
            }
        )
        coarser: dict[str, Any] = {"stride": 2, "padding": 1, "order": ("act", "norm", "conv")}
        self.extra_downsamples = ModuleList(
            (
                # Not in place: what is activated is a result of the pyramid, too.
                ConvModule(out, out, 3, act_cfg={"type": "ReLU"} if level else None, inplace=False, **coarser)
                for level in range(len(self.out_channels) - _USED)
            ),
            init_cfg=_CAFFE2_XAVIER,
        )

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
                f"NASFCOS_FPN: in_channels is {list(self.in_channels)}, but the backbone gives "
                f"{list(in_channels)}"
            )
        if in_strides is not None:
            strides = list(in_strides[self.start_level :][:_USED])
            while len(strides) < len(self.out_channels):
                strides.append(strides[-1] * 2)
            self.out_strides = tuple(strides)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Pyramid of a backbone's maps.

        Args:
            inputs: ``Tensor[B, in_channels[i], H_i, W_i]``, finest first.

        Returns:
            ``num_outs`` maps ``Tensor[B, out_channels, H_i, W_i]``, finest first.

        Raises:
            ValueError: There are not as many maps as ``in_channels`` says.
        """
        if self.in_channels is None or len(inputs) != len(self.in_channels):
            raise ValueError(f"NASFCOS_FPN for channels {self.in_channels} got {len(inputs)} maps")
        used = inputs[self.start_level :][:_USED]
        maps = [adapt(each) for adapt, each in zip(self.adapt_convs, used, strict=True)]
        for name, (first, second, _) in self.cells.items():
            maps.append(self.fpn[name](maps[first], maps[second]))
        pyramid = []
        for number, level in zip(self._RESULTS, used, strict=True):
            own = maps[number]
            pyramid.append(_resized(own + _resized(maps[self._SHARED], own.shape[2:]), level.shape[2:]))
        for downsample in self.extra_downsamples:
            pyramid.append(downsample(pyramid[-1]))
        return tuple(pyramid)


def _resized(x: Tensor, size: Sequence[int]) -> Tensor:
    return x if x.shape[2:] == size else F.interpolate(x, size=tuple(size), mode="bilinear")


class NASFCOSHead(FCOSHead):
    """FCOS's head with the towers that the search has found.

    Args:
        num_classes: Without background.
        in_channels: Channels of the feature maps.
        init_cfg: How weights are initialised.
        **kwargs: As of :class:`~det_models.fcos.FCOSHead`; those that say what the towers are (numbers and
            kinds of convolutions, their biases) have no effect.
    """

    def __init__(
        self, num_classes: int, in_channels: int, init_cfg: DeferredInit = _HEAD_INIT, **kwargs: Any
    ) -> None:
        super().__init__(num_classes, in_channels, init_cfg=init_cfg, **kwargs)

    def _init_layers(self) -> None:
        self.stacked_convs = 4
        super()._init_layers()

    def _tower(self) -> ModuleList:
        feat = self.feat_channels
        plain: dict[str, Any] = {"norm_cfg": self.norm_cfg, "bias": False}
        deformable: dict[str, Any] = {
            "norm_cfg": self.norm_cfg, "bias": True, "conv_cfg": {"type": "DCNv2", "deform_groups": 2}
        }  # fmt: skip
        return ModuleList(
            [
                ConvModule(self.in_channels, feat, 3, padding=1, **deformable),
                ConvModule(feat, feat, 3, padding=1, **plain),
                ConvModule(feat, feat, 3, padding=1, **deformable),
                ConvModule(feat, feat, 1, **plain),
            ]
        )
