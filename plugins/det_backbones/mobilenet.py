"""MobileNetV2: Inverted Residuals and Linear Bottlenecks (Sandler et al., CVPR 2018, arXiv 1801.04381)."""

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from det_backbones.stages import check_indices, freeze, settle, start_of
from detcore.nn import BaseModule, ConvModule, Sequential, checkpointed
from detcore.nn.base_module import DeferredInit
from detcore.nn.build import ActCfg, ConvCfg, NormCfg

_BATCH_NORM = {"type": "BN"}
_RELU6 = {"type": "ReLU6"}


class InvertedResidual(BaseModule):
    """From few channels to many and back, with a shortcut between the few: section 3.3, table 1.

    A 1x1 convolution widens the map (left out where it would not), a 3x3 convolution within each channel
    strides, and a 1x1 convolution without activation narrows it again: an activation would lose what is in so
    few channels. The shortcut is there where input and output have one shape.

    Args:
        in_channels: Of the input.
        out_channels: Of the output.
        expand_ratio: How many times the channels are between them.
        stride: Of the 3x3 convolution.
        with_cp: Whether to compute activations again in the backward pass, to save memory.
        layers: Kinds of convolution, normalisation and activation, as of ``ConvModule``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        expand_ratio: float,
        stride: int,
        with_cp: bool,
        layers: dict[str, Any],
    ) -> None:
        super().__init__()
        self.with_shortcut = stride == 1 and in_channels == out_channels
        self.with_cp = with_cp
        wide = round(in_channels * expand_ratio)
        if expand_ratio != 1:
            self.expand_conv: ConvModule | None = ConvModule(in_channels, wide, 1, **layers)
        else:
            self.expand_conv = None
        self.depthwise_conv = ConvModule(wide, wide, 3, stride=stride, padding=1, groups=wide, **layers)
        self.linear_conv = ConvModule(wide, out_channels, 1, **{**layers, "act_cfg": None})

    def _residual(self, x: Tensor) -> Tensor:
        out = x if self.expand_conv is None else self.expand_conv(x)
        out = self.linear_conv(self.depthwise_conv(out))
        return x + out if self.with_shortcut else out

    def forward(self, x: Tensor) -> Tensor:
        """``Tensor[B, in_channels, H, W]`` to ``Tensor[B, out_channels, H / stride, W / stride]``."""
        return checkpointed(self, self._residual, x) if self.with_cp else self._residual(x)


class MobileNetV2(BaseModule):
    """MobileNetV2 without classifier: a convolution of stride 2, seven stages, a 1x1 convolution (table 2).

    Args:
        widen_factor: Of all channels; the last convolution has never less than 1280.
        out_indices: What is returned: 0 to 6 are the stages, 7 the last convolution.
        frozen_stages: The first convolution and so many stages do not train: 0 is the convolution alone, -1
            freezes nothing.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of normalisation.
        act_cfg: Kind of activation.
        norm_eval: Whether batch norms use their averages in training, too (their weights still train).
        with_cp: Whether to compute activations again in the backward pass, to save memory.
        pretrained: Older way to write ``init_cfg=dict(type='Pretrained', checkpoint=...)``.
        init_cfg: As of :class:`~detcore.nn.BaseModule`; Kaiming's values where None.

    Attributes:
        out_channels: Channels of the maps, one entry each.
        out_strides: Pixels of the image per pixel of the maps, one entry each.

    Raises:
        ValueError: There is no such stage.
    """

    arch_settings: ClassVar[tuple[tuple[int, int, int, int], ...]] = (  # expansion, channels, blocks, stride
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )

    def __init__(
        self,
        widen_factor: float = 1.0,
        out_indices: Sequence[int] = (1, 2, 4, 7),
        frozen_stages: int = -1,
        conv_cfg: ConvCfg = None,
        norm_cfg: NormCfg = _BATCH_NORM,
        act_cfg: ActCfg = _RELU6,
        norm_eval: bool = False,
        with_cp: bool = False,
        pretrained: str | None = None,
        init_cfg: DeferredInit = None,
    ) -> None:
        super().__init__(start_of(pretrained, init_cfg))
        num_maps = len(self.arch_settings) + 1
        check_indices("out_indices", out_indices, num_maps)
        check_indices("frozen_stages", [frozen_stages], num_maps, least=-1)
        self.out_indices, self.frozen_stages = tuple(sorted(out_indices)), frozen_stages
        self.norm_eval = norm_eval
        layers: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        channels = divisible_by_8(32 * widen_factor)
        self.conv1 = ConvModule(3, channels, 3, stride=2, padding=1, **layers)
        self.layers: list[str] = []
        step, maps = 2, []
        for number, (expand_ratio, planes, num_blocks, stride) in enumerate(self.arch_settings, start=1):
            wanted = divisible_by_8(planes * widen_factor)
            blocks = [
                InvertedResidual(channels, wanted, expand_ratio, stride, with_cp, layers),
                *(
                    InvertedResidual(wanted, wanted, expand_ratio, 1, with_cp, layers)
                    for _ in range(1, num_blocks)
                ),
            ]
            self.layers.append(f"layer{number}")
            self.add_module(self.layers[-1], Sequential(*blocks))
            channels, step = wanted, step * stride
            maps.append((channels, step))
        last = int(1280 * max(1.0, widen_factor))
        self.layers.append("conv2")
        self.conv2 = ConvModule(channels, last, 1, **layers)
        maps.append((last, step))
        self.out_channels, self.out_strides = zip(*(maps[index] for index in self.out_indices), strict=True)
        freeze(self._frozen())

    def _frozen(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        return [self.conv1, *(self.get_submodule(name) for name in self.layers[: self.frozen_stages])]

    def train(self, mode: bool = True) -> "MobileNetV2":
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
        x = self.conv1(x)
        outs = []
        for number, name in enumerate(self.layers[: self.out_indices[-1] + 1]):
            x = getattr(self, name)(x)
            if number in self.out_indices:
                outs.append(x)
        return tuple(outs)


def divisible_by_8(channels: float) -> int:
    """The multiple of 8 next to a number of channels, at least 8 and not below nine tenths of it."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest
