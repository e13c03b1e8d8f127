"""EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks (Tan and Le, ICML 2019, arXiv
1905.11946).

Table 1 is the smallest network, of mobile bottlenecks (Sandler et al. 2018) with squeeze-and-excitation (Hu
et al. 2018). Larger ones are the same with more blocks, more channels and larger images, all grown together
(section 3.3, equation 3): depth and width of b1 to b8 follow from one number. The edge networks (es, em, el;
Gupta and Akin 2020) begin with plain 3x3 convolutions in place of those within each channel, which such
devices do faster.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from det_backbones.mobilenet import divisible_by_8
from det_backbones.stages import KAIMING, arch_of, check_indices, freeze, settle
from detcore.nn import BaseModule, ConvModule, DropPath, ModuleList, Sequential, checkpointed
from detcore.nn.base_module import DeferredInit
from detcore.nn.build import ActCfg, ConvCfg, NormCfg

_ADAPTIVE = {"type": "Conv2dAdaptivePadding"}
_BATCH_NORM = {"type": "BN", "eps": 1e-3}
_SWISH = {"type": "Swish"}


class Row(NamedTuple):
    """A row of table 1: ``blocks`` blocks of one kind."""

    kernel_size: int
    channels: int
    se_ratio: int  # of the channels of a block's input to those that are squeezed; 0 for no squeezing
    stride: int
    expand_ratio: int
    blocks: int
    edge: bool = False
    shortcut: bool = True

    def next(self) -> "Row":
        """The blocks after the first: they do not stride."""
        if self.edge and self.expand_ratio == 3:  # as in the authors' networks: wider, without a shortcut
            return self._replace(stride=1, expand_ratio=4, shortcut=False)
        return self._replace(stride=1)


# Stages of rows; the stem and the last 1x1 convolution stand around them.
_TABLE = (
    (Row(3, 16, 4, 1, 1, 1),),
    (Row(3, 24, 4, 2, 6, 2),),
    (Row(5, 40, 4, 2, 6, 2),),
    (Row(3, 80, 4, 2, 6, 3), Row(5, 112, 4, 1, 6, 3)),
    (Row(5, 192, 4, 2, 6, 4), Row(3, 320, 4, 1, 6, 1)),
)
_EDGE_TABLE = (
    (Row(3, 24, 0, 1, 3, 1, edge=True),),
    (Row(3, 32, 0, 2, 8, 2, edge=True),),
    (Row(3, 48, 0, 2, 8, 4, edge=True),),
    (Row(5, 96, 0, 2, 8, 5), Row(5, 144, 0, 1, 8, 4)),
    (Row(5, 192, 0, 2, 8, 2),),
)


class SqueezeExcitation(BaseModule):
    """Each channel times a number between 0 and 1 that follows from the means of all (Hu et al. 2018).

    Args:
        channels: Of the map.
        squeezed: Channels between the two layers.
        act_cfg: Kind of activation between them.
    """

    def __init__(self, channels: int, squeezed: int, act_cfg: dict[str, Any]) -> None:
        super().__init__()
        self.conv1 = ConvModule(channels, squeezed, 1, act_cfg=act_cfg)
        self.conv2 = ConvModule(squeezed, channels, 1, act_cfg={"type": "Sigmoid"})

    def forward(self, x: Tensor) -> Tensor:
        """``Tensor[B, channels, H, W]`` to the same shape."""
        scale: Tensor = self.conv2(self.conv1(x.mean((2, 3), keepdim=True)))
        return x * scale


class MBConv(BaseModule):
    """Mobile inverted bottleneck: 1x1 to many channels, one within each, squeezing, 1x1 to few; a shortcut.

    Args:
        in_channels: Of the input.
        row: The kind of block.
        drop_path_rate: Chance of a sample to go past, in training, where there is a shortcut.
        with_cp: Whether to compute activations again in the backward pass, to save memory.
        layers: Kinds of convolution, normalisation and activation, as of ``ConvModule``.
    """

    def __init__(
        self,
        in_channels: int,
        row: Row,
        drop_path_rate: float,
        with_cp: bool,
        layers: dict[str, Any],
    ) -> None:
        super().__init__()
        wide = in_channels * row.expand_ratio
        self.with_cp = with_cp
        self.with_shortcut = row.shortcut and row.stride == 1 and in_channels == row.channels
        self.expand_conv = ConvModule(in_channels, wide, 1, **layers) if wide != in_channels else None
        self.depthwise_conv = ConvModule(
            wide, wide, row.kernel_size, stride=row.stride, padding=row.kernel_size // 2, groups=wide,
            **layers,
        )  # fmt: skip
        self.se: SqueezeExcitation | None = None
        if row.se_ratio:
            squeezed = int(wide / (row.se_ratio * row.expand_ratio))
            self.se = SqueezeExcitation(wide, squeezed, layers["act_cfg"])
        self.linear_conv = ConvModule(wide, row.channels, 1, **{**layers, "act_cfg": None})
        self.drop_path = DropPath(drop_path_rate)

    def _residual(self, x: Tensor) -> Tensor:
        out = x if self.expand_conv is None else self.expand_conv(x)
        out = self.depthwise_conv(out)
        out = self.linear_conv(out if self.se is None else self.se(out))
        return x + self.drop_path(out) if self.with_shortcut else out

    def forward(self, x: Tensor) -> Tensor:
        """``Tensor[B, in_channels, H, W]`` to ``Tensor[B, row.channels, H / row.stride, W / row.stride]``."""
        return checkpointed(self, self._residual, x) if self.with_cp else self._residual(x)


class EdgeConv(BaseModule):
    """Block of the edge networks: a plain 3x3 convolution to many channels, 1x1 to few; a shortcut.

    Arguments as of :class:`MBConv`; the last convolution has the stride.
    """

    def __init__(
        self,
        in_channels: int,
        row: Row,
        drop_path_rate: float,
        with_cp: bool,
        layers: dict[str, Any],
    ) -> None:
        super().__init__()
        wide = in_channels * row.expand_ratio
        self.with_cp = with_cp
        self.with_shortcut = row.shortcut and row.stride == 1 and in_channels == row.channels
        self.conv1 = ConvModule(in_channels, wide, row.kernel_size, padding=row.kernel_size // 2, **layers)
        self.conv2 = ConvModule(wide, row.channels, 1, stride=row.stride, **{**layers, "act_cfg": None})
        self.drop_path = DropPath(drop_path_rate)

    def _residual(self, x: Tensor) -> Tensor:
        out = self.conv2(self.conv1(x))
        return x + self.drop_path(out) if self.with_shortcut else out

    def forward(self, x: Tensor) -> Tensor:
        """``Tensor[B, in_channels, H, W]`` to ``Tensor[B, row.channels, H / row.stride, W / row.stride]``."""
        return checkpointed(self, self._residual, x) if self.with_cp else self._residual(x)


class EfficientNet(BaseModule):
    """EfficientNet without classifier: a convolution of stride 2, five stages, a 1x1 convolution.

    Args:
        arch: ``'b0'`` to ``'b8'``, or ``'es'``, ``'em'``, ``'el'`` for the edge networks.
        drop_path_rate: Chance of a sample to go past the last block, in training, growing from 0 at the
            first.
        out_indices: What is returned: 0 is the first convolution, 1 to 5 are the stages, 6 the last
            convolution.
        frozen_stages: So many of those do not train.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of normalisation.
        act_cfg: Kind of activation.
        norm_eval: Whether batch norms use their averages in training, too (their weights still train).
        with_cp: Whether to compute activations of blocks again in the backward pass, to save memory.
        init_cfg: As of :class:`~detcore.nn.BaseModule`; Kaiming's values where None.

    Attributes:
        out_channels: Channels of the maps, one entry each.
        out_strides: Pixels of the image per pixel of the maps, one entry each.

    Raises:
        ValueError: There is no such network or stage.
    """

    arch_settings: ClassVar[dict[str, tuple[float, float]]] = {  # factors of channels and of blocks
        "b0": (1.0, 1.0), "b1": (1.0, 1.1), "b2": (1.1, 1.2), "b3": (1.2, 1.4), "b4": (1.4, 1.8),
        "b5": (1.6, 2.2), "b6": (1.8, 2.6), "b7": (2.0, 3.1), "b8": (2.2, 3.6),
        "es": (1.0, 1.0), "em": (1.0, 1.1), "el": (1.2, 1.4),
    }  # fmt: skip

    def __init__(
        self,
        arch: str = "b0",
        drop_path_rate: float = 0.0,
        out_indices: Sequence[int] = (6,),
        frozen_stages: int = 0,
        conv_cfg: ConvCfg = _ADAPTIVE,
        norm_cfg: NormCfg = _BATCH_NORM,
        act_cfg: ActCfg = _SWISH,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: DeferredInit = KAIMING,
    ) -> None:
        super().__init__(init_cfg)
        check_indices("out_indices", out_indices, 7)
        check_indices("frozen_stages", [frozen_stages], 8)
        self.out_indices, self.frozen_stages = tuple(sorted(out_indices)), frozen_stages
        self.norm_eval = norm_eval
        layers: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        width, depth = arch_of("EfficientNet", arch, self.arch_settings)
        table = scaled(_EDGE_TABLE if arch.startswith("e") else _TABLE, width, depth)
        number = sum(row.blocks for row in itertools.chain(*table))
        rates = torch.linspace(0, drop_path_rate, number, device="cpu").tolist()
        table = table[: self.out_indices[-1]]  # checkpoints of networks that end before hold no more
        channels, step = divisible_by_8(32 * width), 2
        maps = [(channels, step)]
        self.layers = ModuleList([ConvModule(3, channels, 3, stride=2, padding=1, **layers)])
        for stage in table:
            blocks: list[nn.Module] = []
            for row in stage:
                kind = EdgeConv if row.edge else MBConv
                for number in range(row.blocks):
                    now = row if number == 0 else row.next()
                    blocks.append(kind(channels, now, rates.pop(0), with_cp, layers))
                    channels, step = now.channels, step * now.stride
            self.layers.append(Sequential(*blocks))
            maps.append((channels, step))
        if 6 in self.out_indices:
            last = divisible_by_8(1280 * width)
            self.layers.append(ConvModule(channels, last, 1, **layers))
            maps.append((last, step))
        self.out_channels, self.out_strides = zip(*(maps[index] for index in self.out_indices), strict=True)
        freeze(self._frozen())

    def _frozen(self) -> list[nn.Module]:
        return list(self.layers[: self.frozen_stages])

    def train(self, mode: bool = True) -> "EfficientNet":
        """Switch to training, apart from what is frozen and, with ``norm_eval``, from batch norms."""
        super().train(mode)
        if mode:
            settle(self, self._frozen(), self.norm_eval)
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Feature maps in ``out_indices``.

        Args:
            x: ``Tensor[B, 3, H, W]``.

        Returns:
            One ``Tensor[B, out_channels[i], H / out_strides[i], W / out_strides[i]]`` each, rounded up.
        """
        outs = []
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)


def scaled(table: Sequence[Sequence[Row]], width: float, depth: float) -> list[list[Row]]:
    """A table with ``width`` times the channels, in multiples of 8, and ``depth`` times the blocks."""
    return [
        [
            row._replace(channels=divisible_by_8(row.channels * width), blocks=math.ceil(row.blocks * depth))
            for row in stage
        ]
        for stage in table
    ]
