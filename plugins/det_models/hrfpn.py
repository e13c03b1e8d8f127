"""HRFPN, the pyramid over HRNet (Wang et al., TPAMI 2020, arXiv 1908.07919, section 3.3, figure 4c:
HRNetV2p).

All maps are enlarged to the finest one's size and put side by side, a 1x1 convolution mixes them, and the
pyramid is that one map in several sizes, each with a 3x3 convolution of its own.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from det_models.fpn import InChannels
from detcore.errors import ConfigError
from detcore.nn import BaseModule, ConvModule, ModuleList, checkpointed
from detcore.nn.base_module import DeferredInit
from detcore.nn.build import ConvCfg, NormCfg

_CAFFE2_XAVIER = {"type": "Caffe2Xavier", "layer": "Conv2d"}


class HRFPN(BaseModule):
    """Pyramid from one mixture of all maps; see this module's docstring.

    Args:
        in_channels: Channels of the backbone's maps; None or ``'auto'``: the detector asks the backbone.
        out_channels: Channels of every map of the pyramid.
        num_outs: Number of maps of the pyramid.
        pooling_type: How coarser maps are made: ``'AVG'`` or ``'MAX'``.
        conv_cfg: Kind of convolution.
        norm_cfg: Only None: there are no norm layers.
        with_cp: Whether to compute the mixture again in the backward pass, to save memory.
        stride: Of the last convolutions.
        init_cfg: How weights are initialised.

    Attributes:
        out_channels: Channels of each output.
        out_strides: Pixels per cell of each output, known once the detector told the backbone's.

    Raises:
        ConfigError: ``pooling_type`` is unknown, ``in_channels`` is no list, or there is a ``norm_cfg``.
    """

    def __init__(
        self,
        in_channels: InChannels = None,
        out_channels: int = 256,
        num_outs: int = 5,
        pooling_type: Literal["AVG", "MAX"] = "AVG",
        conv_cfg: ConvCfg = None,
        norm_cfg: NormCfg = None,
        with_cp: bool = False,
        stride: int = 1,
        init_cfg: DeferredInit = _CAFFE2_XAVIER,
    ) -> None:
        super().__init__(init_cfg)
        if pooling_type not in ("AVG", "MAX"):
            raise ConfigError(f"HRFPN: pooling_type must be 'AVG' or 'MAX', got {pooling_type!r}")
        if isinstance(in_channels, str) and in_channels != "auto":
            raise ConfigError(
                f"HRFPN: in_channels is a list of numbers, or 'auto' to ask the backbone, got {in_channels!r}"
            )
        if norm_cfg is not None:
            # MMDetection takes one and builds the pyramid without norm layers all the same.
            raise ConfigError(f"HRFPN has no norm layers: norm_cfg must be None, got {norm_cfg}")
        self.num_outs, self.stride, self.with_cp = num_outs, stride, with_cp
        self.pooling = F.avg_pool2d if pooling_type == "AVG" else F.max_pool2d
        self.conv_cfg = conv_cfg
        self.out_channels = (out_channels,) * num_outs
        self.out_strides: tuple[int, ...] | None = None
        self.in_channels: tuple[int, ...] | None = None
        if in_channels is not None and not isinstance(in_channels, str):
            self._build_layers(tuple(in_channels))

    def _build_layers(self, in_channels: tuple[int, ...]) -> None:
        self.in_channels = in_channels
        out = self.out_channels[0]
        self.reduction_conv = ConvModule(sum(in_channels), out, 1, conv_cfg=self.conv_cfg, act_cfg=None)
        self.fpn_convs = ModuleList(
            ConvModule(out, out, 3, stride=self.stride, padding=1, conv_cfg=self.conv_cfg, act_cfg=None)
            for _ in range(self.num_outs)
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
                f"HRFPN: in_channels is {list(self.in_channels)}, but the backbone gives {list(in_channels)}"
            )
        if in_strides is not None:
            self.out_strides = tuple(in_strides[0] * self.stride * 2**i for i in range(self.num_outs))

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Pyramid of a backbone's maps.

        Args:
            inputs: ``Tensor[B, in_channels[i], H_i, W_i]``, finest first.

        Returns:
            ``num_outs`` maps ``Tensor[B, out_channels, H_0 / 2^i / stride, W_0 / 2^i / stride]``.

        Raises:
            ValueError: There are not as many maps as ``in_channels`` says, or the finest is too small to
                pool.
        """
        if self.in_channels is None or len(inputs) != len(self.in_channels):
            raise ValueError(f"HRFPN for channels {self.in_channels} got {len(inputs)} maps")
        size, least = inputs[0].shape[2:], 2 ** (self.num_outs - 1)
        if min(size) < least:
            raise ValueError(f"HRFPN with {self.num_outs} maps needs {least} cells a side, got {tuple(size)}")
        enlarged = [F.interpolate(each, size=size, mode="bilinear") for each in inputs[1:]]
        mixed = torch.cat([inputs[0], *enlarged], dim=1)
        mixed = checkpointed(self, self.reduction_conv, mixed) if self.with_cp else self.reduction_conv(mixed)
        maps = [mixed, *(self.pooling(mixed, 2**i, 2**i) for i in range(1, self.num_outs))]
        return tuple(conv(each) for conv, each in zip(self.fpn_convs, maps, strict=True))
