"""Res2Net: a New Multi-scale Backbone Architecture (Gao et al., TPAMI 2021, arXiv 1904.01169).

A bottleneck whose 3x3 convolution is cut into s groups of channels, one after the other: y1 = x1 goes past
the convolutions, K2 sees x2, and each further one sees its own group and what the one before it made,
y_i = K_i(x_i + y_(i-1)) (equation 1; as in the authors' networks, the group without convolution is the last).
One block so sees through fields of s sizes. The networks here are their ``v1d`` ones: three convolutions in
the stem, and shortcuts that average.
"""
from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from det_backbones.block_options import middle_conv
from det_backbones.residual import Block, Bottleneck, ResLayer, Style
from det_backbones.resnet import ResNet
from detcore.nn import ModuleList, build_norm_layer
from detcore.nn.base_module import DeferredInit

_V1D: dict[str, Any] = {"style": "pytorch", "deep_stem": True, "avg_down": True}


class Bottle2neck(Bottleneck):
    """Convolutions 1x1, a row of 3x3 ones, 1x1, and a shortcut: figure 2b.

    Args:
        inplanes: Channels of the input.
        planes: Channels of the stage; the output has ``expansion`` times as many.
        scales: Groups of channels, of which all but the last have a 3x3 convolution.
        width: Channels of a group.
        **kwargs: As of :class:`~det_backbones.residual.Bottleneck`.

    Attributes:
        leads_stage: Whether the block is the first of its stage: there each convolution sees its own group
            only, because the one before it may stride.
    """

    def __init__(self, inplanes: int, planes: int, *, scales: int, width: int, **kwargs: Any) -> None:
        self.scales, self.width, self.leads_stage = scales, width, False
        super().__init__(inplanes, planes, width=scales * width, **kwargs)

    def _make_middle(
        self,
        conv_cfg: dict[str, Any] | None,
        norm_cfg: dict[str, Any],
        dcn: dict[str, Any] | None,
        width: int,
        stride: int,
        dilation: int,
        groups: int,
    ) -> None:
        self.middle_stride = stride
        numbers = range(self.scales - 1)
        self.convs = ModuleList(
            middle_conv(conv_cfg, dcn, self.width, stride, dilation, groups) for _ in numbers
        )
        self.bns = ModuleList(build_norm_layer(norm_cfg, self.width)[1] for _ in numbers)

    def _middle(self, x: Tensor) -> Tensor:
        *parts, last = x.split(self.width, dim=1)
        outs: list[Tensor] = []
        for part, conv, norm in zip(parts, self.convs, self.bns, strict=True):
            seen = part if self.leads_stage or not outs else part + outs[-1]
            outs.append(F.relu(norm(conv(seen))))
        if self.middle_stride != 1:
            last = F.avg_pool2d(last, 3, stride=self.middle_stride, padding=1)
        return torch.cat([*outs, last], dim=1)


class Res2Net(ResNet):
    """ResNet of bottlenecks that work at several scales.

    Args:
        scales: Groups of channels of a block.
        base_width: Channels of a group, where a stage has 64.
        style: Only ``'pytorch'``: the stride is in the 3x3 convolutions.
        deep_stem: Only True: three 3x3 convolutions.
        avg_down: Only True: shortcuts average before their convolution.
        pretrained: Older way to write ``init_cfg=dict(type='Pretrained', checkpoint=...)``.
        init_cfg: As of :class:`~detcore.nn.BaseModule`; Kaiming's values where None.
        **kwargs: As of :class:`~det_backbones.resnet.ResNet`; depth is 50, 101 or 152.

    Raises:
        ValueError: The depth is unknown, there is one scale only, it is to be another network than ``v1d``,
            or arguments do not fit each other.
    """

    arch_settings: ClassVar[dict[int, tuple[Block, tuple[int, ...]]]] = {
        50: (Bottle2neck, (3, 4, 6, 3)),
        101: (Bottle2neck, (3, 4, 23, 3)),
        152: (Bottle2neck, (3, 8, 36, 3)),
    }

    def __init__(
        self,
        scales: int = 4,
        base_width: int = 26,
        style: Style = "pytorch",
        deep_stem: bool = True,
        avg_down: bool = True,
        pretrained: str | None = None,
        init_cfg: DeferredInit = None,
        **kwargs: Any,
    ) -> None:
        if scales < 2:
            raise ValueError(f"scales must be at least 2 (one is a plain bottleneck, ResNet), got {scales}")
        kind: dict[str, Any] = {"style": style, "deep_stem": deep_stem, "avg_down": avg_down}
        if kind != _V1D:
            # MMDetection takes other values and builds the v1d network all the same.
            raise ValueError(f"Res2Net is a v1d network, {_V1D}, whose weights are published; got {kind}")
        self.scales, self.base_width = scales, base_width
        super().__init__(**kind, pretrained=pretrained, init_cfg=init_cfg, **kwargs)

    def make_res_layer(self, **kwargs: Any) -> ResLayer:
        """One stage, whose first block is told that it is that."""
        width = int(kwargs["planes"] * (self.base_width / self.base_channels))
        layer = super().make_res_layer(scales=self.scales, width=width, **kwargs)
        first: Any = layer[0]
        first.leads_stage = True
        return layer
