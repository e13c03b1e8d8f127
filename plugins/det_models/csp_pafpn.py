"""Path aggregation pyramids of CSP layers: the necks of YOLOX and RTMDet.

PANet (Liu et al. 2018, arXiv 1803.01534, figure 1b): from the coarsest map down, each is enlarged and joined
with the next finer one; then from the finest up, each is reduced and joined with the next coarser one. Here
maps are joined by standing side by side, and a CSP layer works on both.
"""

import itertools
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from det_models.fpn import UpsampleCfg
from detcore.errors import ConfigError
from detcore.nn import BaseModule, ConvModule, CSPLayer, ModuleList
from detcore.nn.base_module import DeferredInit
from detcore.nn.build import ActCfg, ConvCfg, NormCfg
from detcore.nn.csp import BATCH_NORM, SWISH, conv_kind

InChannels = Sequence[int] | Literal["auto"] | None

_UPSAMPLE: UpsampleCfg = {"scale_factor": 2, "mode": "nearest"}
_KAIMING = {
    "type": "Kaiming",
    "layer": "Conv2d",
    "a": 5**0.5,
    "distribution": "uniform",
    "mode": "fan_in",
    "nonlinearity": "leaky_relu",
}


class CSPPAFPN(BaseModule):
    """Base of the two necks below.

    Attributes:
        out_channels: Channels of each output.
        out_strides: Pixels per cell of each output, known once the detector told the backbone's.
        csp: Arguments of CSP layers that are the neck's own.
    """

    csp: ClassVar[dict[str, Any]] = {}

    def set_up(
        self,
        in_channels: InChannels,
        out_channels: int,
        *,
        num_csp_blocks: int,
        use_depthwise: bool,
        expand_ratio: float,
        upsample_cfg: UpsampleCfg,
        kinds: dict[str, Any],
    ) -> None:
        """Take over the arguments, and make the layers where the backbone's channels are known.

        Raises:
            ConfigError: ``in_channels`` is a word other than ``'auto'``, or maps are not enlarged by 2.
        """
        name = type(self).__name__
        if isinstance(in_channels, str) and in_channels != "auto":
            raise ConfigError(
                f"{name}: in_channels is a list of numbers, or 'auto' for the backbone's, got {in_channels!r}"
            )
        if upsample_cfg.get("scale_factor", 2) != 2:
            raise ConfigError(
                f"{name}: each map is twice as fine as the next, so upsample_cfg has scale_factor=2, got "
                f"{upsample_cfg.get('scale_factor')}"
            )
        self.width = out_channels
        self.use_depthwise = use_depthwise
        # The size comes from the finer map, which may have an odd one.
        self.upsample_cfg: dict[str, Any] = {**upsample_cfg}
        self.upsample_cfg.pop("scale_factor", None)
        self.kinds = kinds
        self.layer = {"expand_ratio": expand_ratio, "num_blocks": num_csp_blocks, "add_identity": False}
        self.in_channels: tuple[int, ...] | None = None
        self.out_channels: tuple[int, ...] | None = None
        self.out_strides: tuple[int, ...] | None = None
        if in_channels is not None and not isinstance(in_channels, str):
            self._build_layers(tuple(in_channels))

    def _build_layers(self, channels: tuple[int, ...]) -> None:
        if len(channels) < 2:
            raise ConfigError(f"{type(self).__name__} joins 2 maps or more, got in_channels={list(channels)}")
        self.in_channels, self.out_channels = channels, (self.width,) * len(channels)
        pairs = list(itertools.pairwise(channels))
        self.reduce_layers = ModuleList(
            ConvModule(coarse, fine, 1, **self.kinds) for fine, coarse in reversed(pairs)
        )
        self.top_down_blocks = ModuleList(self._csp(2 * fine, fine) for fine, _ in reversed(pairs))
        self.downsamples = ModuleList(
            conv_kind(self.use_depthwise)(fine, fine, 3, stride=2, padding=1, **self.kinds)
            for fine, _ in pairs
        )
        self.bottom_up_blocks = ModuleList(self._csp(2 * fine, coarse) for fine, coarse in pairs)
        self.out_convs = ModuleList(self._out_conv(each, self.width) for each in channels)

    def _csp(self, in_channels: int, out_channels: int) -> CSPLayer:
        options = {**self.csp, **self.layer, **self.kinds}
        return CSPLayer(in_channels, out_channels, use_depthwise=self.use_depthwise, **options)

    def _out_conv(self, in_channels: int, out_channels: int) -> BaseModule:
        """What gives a map the neck's channels."""
        return ConvModule(in_channels, out_channels, 1, **self.kinds)

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
                f"{type(self).__name__}: in_channels is {list(self.in_channels)}, but the backbone gives "
                f"{list(in_channels)}"
            )
        if in_strides is not None:
            self.out_strides = tuple(in_strides)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Pyramid of a backbone's maps.

        Args:
            inputs: ``Tensor[B, in_channels[i], H_i, W_i]``, finest first, each twice as fine as the next.

        Returns:
            As many maps ``Tensor[B, out_channels, H_i, W_i]``, finest first.
        """
        if self.in_channels is None or len(inputs) != len(self.in_channels):
            raise ValueError(f"{type(self).__name__} for channels {self.in_channels} got {len(inputs)} maps")
        reduced, coarse = [], inputs[-1]  # coarsest first
        for reduce, block, fine in zip(
            self.reduce_layers, self.top_down_blocks, reversed(inputs[:-1]), strict=True
        ):
            reduced.append(reduce(coarse))
            enlarged = F.interpolate(reduced[-1], size=fine.shape[2:], **self.upsample_cfg)
            coarse = block(torch.cat((enlarged, fine), dim=1))
        outputs = [coarse]
        for down, block, beside in zip(
            self.downsamples, self.bottom_up_blocks, reversed(reduced), strict=True
        ):
            outputs.append(block(torch.cat((down(outputs[-1]), beside), dim=1)))
        return tuple(conv(each) for conv, each in zip(self.out_convs, outputs, strict=True))


class YOLOXPAFPN(CSPPAFPN):
    """The neck of YOLOX: CSP layers of Darknet blocks.

    Args:
        in_channels: Channels of the backbone's maps; None or ``'auto'``: the detector asks the backbone.
        out_channels: Channels of every map of the pyramid.
        num_csp_blocks: Blocks of each CSP layer.
        use_depthwise: Whether 3x3 convolutions are separable (YOLOX-Nano).
        upsample_cfg: How maps are enlarged to the size of the next finer one.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of norm layer.
        act_cfg: Kind of activation.
        init_cfg: How weights are initialised.

    Attributes:
        out_channels: Channels of each output.
        out_strides: Pixels per cell of each output, known once the detector told the backbone's.

    Raises:
        ConfigError: The backbone has fewer than two maps, or the factor of ``upsample_cfg`` is not 2.
    """

    def __init__(
        self,
        in_channels: InChannels = None,
        out_channels: int = 256,
        num_csp_blocks: int = 3,
        use_depthwise: bool = False,
        upsample_cfg: UpsampleCfg = _UPSAMPLE,
        conv_cfg: ConvCfg = None,
        norm_cfg: NormCfg = BATCH_NORM,
        act_cfg: ActCfg = SWISH,
        init_cfg: DeferredInit = _KAIMING,
    ) -> None:
        super().__init__(init_cfg)
        self.set_up(
            in_channels,
            out_channels,
            num_csp_blocks=num_csp_blocks,
            use_depthwise=use_depthwise,
            expand_ratio=0.5,
            upsample_cfg=upsample_cfg,
            kinds={"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg},
        )


class CSPNeXtPAFPN(CSPPAFPN):
    """The neck of RTMDet: CSP layers of CSPNeXt blocks, and 3x3 convolutions before the head.

    Args:
        in_channels: Channels of the backbone's maps; None or ``'auto'``: the detector asks the backbone.
        out_channels: Channels of every map of the pyramid.
        num_csp_blocks: Blocks of each CSP layer.
        use_depthwise: Whether all 3x3 convolutions are separable.
        expand_ratio: Channels of each half of a CSP layer, in parts of its output.
        upsample_cfg: How maps are enlarged to the size of the next finer one.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of norm layer.
        act_cfg: Kind of activation.
        init_cfg: How weights are initialised.

    Attributes:
        out_channels: Channels of each output.
        out_strides: Pixels per cell of each output, known once the detector told the backbone's.

    Raises:
        ConfigError: The backbone has fewer than two maps, or the factor of ``upsample_cfg`` is not 2.
    """

    csp: ClassVar[dict[str, Any]] = {"use_cspnext_block": True}

    def __init__(
        self,
        in_channels: InChannels = None,
        out_channels: int = 256,
        num_csp_blocks: int = 3,
        use_depthwise: bool = False,
        expand_ratio: float = 0.5,
        upsample_cfg: UpsampleCfg = _UPSAMPLE,
        conv_cfg: ConvCfg = None,
        norm_cfg: NormCfg = BATCH_NORM,
        act_cfg: ActCfg = SWISH,
        init_cfg: DeferredInit = _KAIMING,
    ) -> None:
        super().__init__(init_cfg)
        self.set_up(
            in_channels,
            out_channels,
            num_csp_blocks=num_csp_blocks,
            use_depthwise=use_depthwise,
            expand_ratio=expand_ratio,
            upsample_cfg=upsample_cfg,
            kinds={"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg},
        )

    def _out_conv(self, in_channels: int, out_channels: int) -> BaseModule:
        return conv_kind(self.use_depthwise)(in_channels, out_channels, 3, padding=1, **self.kinds)
