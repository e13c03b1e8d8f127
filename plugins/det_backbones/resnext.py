"""ResNeXt (Xie et al. 2017)."""
from __future__ import annotations

import math
from typing import Any, ClassVar

from det_backbones.residual import Block, Bottleneck, ResLayer
from det_backbones.resnet import ResNet


class ResNeXt(ResNet):
    """ResNet whose bottlenecks work in groups.

    Args:
        groups: Groups of the 3x3 convolutions (the paper's cardinality).
        base_width: Channels of a group in the first stage.
        **kwargs: As of :class:`~det_backbones.resnet.ResNet`; depth is 50, 101 or 152.
    """

    arch_settings: ClassVar[dict[int, tuple[Block, tuple[int, ...]]]] = {
        50: (Bottleneck, (3, 4, 6, 3)),
        101: (Bottleneck, (3, 4, 23, 3)),
        152: (Bottleneck, (3, 8, 36, 3)),
    }

    def __init__(self, groups: int = 1, base_width: int = 4, **kwargs: Any) -> None:
        self._groups = groups
        self._base_width = base_width
        super().__init__(**kwargs)

    def make_res_layer(self, **kwargs: Any) -> ResLayer:
        """One stage of grouped bottlenecks."""
        width = kwargs["planes"]
        if self._groups > 1:
            width = math.floor(width * (self._base_width / self.base_channels)) * self._groups
        return super().make_res_layer(groups=self._groups, width=width, **kwargs)
