"""Blocks of cross stage partial networks (CSP), which backbones and necks of YOLOX and RTMDet are made of.

A CSP layer sends half of its channels through a row of blocks and the other half past them (Wang et al. 2020,
CSPNet, arXiv 1911.11929, figure 2). Its blocks are those of Darknet, or of CSPNeXt with their 5x5 depthwise
convolution (Lyu et al. 2022, RTMDet, arXiv 2212.07784, figure 3).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from detcore.nn.base_module import BaseModule, DeferredInit, Sequential
from detcore.nn.build import ActCfg, ConvCfg, NormCfg
from detcore.nn.conv_module import ConvModule
from detcore.nn.depthwise import DepthwiseSeparableConvModule

BATCH_NORM = {"type": "BN", "momentum": 0.03, "eps": 0.001}
SWISH = {"type": "Swish"}


def conv_kind(use_depthwise: bool) -> type[ConvModule] | type[DepthwiseSeparableConvModule]:
    """The class of 3x3 convolutions: plain, or one within each channel and one across them."""
    return DepthwiseSeparableConvModule if use_depthwise else ConvModule


class DarknetBottleneck(BaseModule):
    """A 1x1 and a 3x3 convolution, and a shortcut around both (Redmon and Farhadi 2018, YOLOv3).

    Args:
        in_channels: Of the input.
        out_channels: Of the output.
        expansion: Channels between the two convolutions, in parts of ``out_channels``.
        add_identity: Add the input where it has as many channels as the output.
        use_depthwise: Make the 3x3 convolution a separable one.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of norm layer.
        act_cfg: Kind of activation.
        init_cfg: How weights are initialised.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        expansion: float = 0.5,
        add_identity: bool = True,
        use_depthwise: bool = False,
        conv_cfg: ConvCfg = None,
        norm_cfg: NormCfg = BATCH_NORM,
        act_cfg: ActCfg = SWISH,
        init_cfg: DeferredInit = None,
    ) -> None:
        super().__init__(init_cfg)
        hidden = int(out_channels * expansion)
        kinds: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        self.conv1 = ConvModule(in_channels, hidden, 1, **kinds)
        self.conv2 = conv_kind(use_depthwise)(hidden, out_channels, 3, stride=1, padding=1, **kinds)
        self.add_identity = add_identity and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """``Tensor[B, in_channels, H, W]`` to ``Tensor[B, out_channels, H, W]``."""
        out: Tensor = self.conv2(self.conv1(x))
        return out + x if self.add_identity else out


class CSPNeXtBlock(BaseModule):
    """A 3x3 and a separable 5x5 convolution, and a shortcut around both: RTMDet, figure 3b.

    Args:
        in_channels: Of the input.
        out_channels: Of the output.
        expansion: Channels between the two convolutions, in parts of ``out_channels``.
        add_identity: Add the input where it has as many channels as the output.
        use_depthwise: Make the 3x3 convolution a separable one, too.
        kernel_size: Of the second convolution.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of norm layer.
        act_cfg: Kind of activation.
        init_cfg: How weights are initialised.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        expansion: float = 0.5,
        add_identity: bool = True,
        use_depthwise: bool = False,
        kernel_size: int = 5,
        conv_cfg: ConvCfg = None,
        norm_cfg: NormCfg = BATCH_NORM,
        act_cfg: ActCfg = SWISH,
        init_cfg: DeferredInit = None,
    ) -> None:
        super().__init__(init_cfg)
        hidden = int(out_channels * expansion)
        kinds: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        self.conv1 = conv_kind(use_depthwise)(in_channels, hidden, 3, stride=1, padding=1, **kinds)
        self.conv2 = DepthwiseSeparableConvModule(
            hidden, out_channels, kernel_size, stride=1, padding=kernel_size // 2, **kinds
        )
        self.add_identity = add_identity and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """``Tensor[B, in_channels, H, W]`` to ``Tensor[B, out_channels, H, W]``."""
        out: Tensor = self.conv2(self.conv1(x))
        return out + x if self.add_identity else out


class ChannelAttention(BaseModule):
    """Each channel times a factor in 0..1 that follows from the means of all channels.

    Args:
        channels: Of input and output.
        init_cfg: How weights are initialised.
    """

    def __init__(self, channels: int, init_cfg: DeferredInit = None) -> None:
        super().__init__(init_cfg)
        self.fc = nn.Conv2d(channels, channels, 1)
        self.act = nn.Hardsigmoid(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """``Tensor[B, channels, H, W]`` to the same shape; means are taken in float32."""
        means = x.mean((2, 3), keepdim=True, dtype=torch.float32).to(x.dtype)
        factors: Tensor = self.act(self.fc(means))
        return x * factors


class CSPLayer(BaseModule):
    """Half of the channels through a row of blocks, half past them, then both together.

    Args:
        in_channels: Of the input.
        out_channels: Of the output.
        expand_ratio: Channels of each half, in parts of ``out_channels``.
        num_blocks: How many blocks there are.
        add_identity: Whether blocks have a shortcut.
        use_depthwise: Whether the 3x3 convolutions of blocks are separable.
        use_cspnext_block: Blocks of :class:`CSPNeXtBlock` in place of :class:`DarknetBottleneck`.
        channel_attention: Weigh the channels of both halves (:class:`ChannelAttention`).
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of norm layer.
        act_cfg: Kind of activation.
        init_cfg: How weights are initialised.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        expand_ratio: float = 0.5,
        num_blocks: int = 1,
        add_identity: bool = True,
        use_depthwise: bool = False,
        use_cspnext_block: bool = False,
        channel_attention: bool = False,
        conv_cfg: ConvCfg = None,
        norm_cfg: NormCfg = BATCH_NORM,
        act_cfg: ActCfg = SWISH,
        init_cfg: DeferredInit = None,
    ) -> None:
        super().__init__(init_cfg)
        block = CSPNeXtBlock if use_cspnext_block else DarknetBottleneck
        half = int(out_channels * expand_ratio)
        kinds: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        self.main_conv = ConvModule(in_channels, half, 1, **kinds)
        self.short_conv = ConvModule(in_channels, half, 1, **kinds)
        self.final_conv = ConvModule(2 * half, out_channels, 1, **kinds)
        self.blocks = Sequential(
            *(block(half, half, 1.0, add_identity, use_depthwise, **kinds) for _ in range(num_blocks))
        )
        self.attention = ChannelAttention(2 * half) if channel_attention else None

    def forward(self, x: Tensor) -> Tensor:
        """``Tensor[B, in_channels, H, W]`` to ``Tensor[B, out_channels, H, W]``."""
        both = torch.cat((self.blocks(self.main_conv(x)), self.short_conv(x)), dim=1)
        if self.attention is not None:
            both = self.attention(both)
        out: Tensor = self.final_conv(both)
        return out
