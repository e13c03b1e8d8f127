"""Feature pyramid network (Lin et al. 2017)."""

from collections.abc import Sequence
from typing import Any, Literal, TypedDict

import torch.nn.functional as F
from torch import Tensor

from detcore.errors import ConfigError
from detcore.nn import BaseModule, ConvModule, ModuleList
from detcore.nn.base_module import DeferredInit
from detcore.nn.build import ActCfg, ConvCfg, NormCfg

_EXTRA_SOURCES = ("on_input", "on_lateral", "on_output")
InChannels = Sequence[int] | Literal["auto"] | None
XAVIER = {"type": "Xavier", "layer": "Conv2d", "distribution": "uniform"}


class UpsampleCfg(TypedDict, total=False):
    """Arguments of ``torch.nn.functional.interpolate``."""

    scale_factor: float
    mode: Literal["nearest", "nearest-exact", "bilinear", "bicubic", "area"]
    align_corners: bool | None
    recompute_scale_factor: bool | None
    antialias: bool


class FPN(BaseModule):
    """Pyramid of feature maps with equal channels, figure 3 of the paper.

    Each map of the backbone goes through a 1x1 convolution (lateral); from the coarsest down, each is
    enlarged and added to the next finer one; a 3x3 convolution smooths every sum. Coarser maps than the
    backbone's are made by pooling or by more convolutions of stride 2.

    Args:
        in_channels: Channels of the backbone's maps; None or ``'auto'``: the detector asks the backbone.
        out_channels: Channels of every map of the pyramid.
        num_outs: Number of maps of the pyramid.
        start_level: First of the backbone's maps that is used.
        end_level: Last one that is used; -1 for the last there is. No coarser maps are made where one is left
            out.
        add_extra_convs: How coarser maps are made: by pooling (False), or by convolutions over the backbone's
            last map (``'on_input'``, True), the last lateral (``'on_lateral'``) or the last output
            (``'on_output'``).
        relu_before_extra_convs: ReLU before those convolutions but the first.
        no_norm_on_lateral: Leave the norm layers of the laterals out.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of norm layer, None for none.
        act_cfg: Kind of activation, None for none.
        upsample_cfg: Arguments of ``interpolate``; the size comes from the finer map unless ``scale_factor``
            is set.
        init_cfg: How weights are initialised.

    Attributes:
        out_channels: Channels of each output.
        out_strides: Pixels per cell of each output, known once the detector told the backbone's.

    Raises:
        ConfigError: Levels and numbers do not fit.
    """

    def __init__(
        self,
        in_channels: InChannels = None,
        out_channels: int = 256,
        num_outs: int = 5,
        start_level: int = 0,
        end_level: int = -1,
        add_extra_convs: bool | str = False,
        relu_before_extra_convs: bool = False,
        no_norm_on_lateral: bool = False,
        conv_cfg: ConvCfg = None,
        norm_cfg: NormCfg = None,
        act_cfg: ActCfg = None,
        upsample_cfg: UpsampleCfg | None = None,
        init_cfg: DeferredInit = XAVIER,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        what = type(self).__name__
        if add_extra_convs is True:
            add_extra_convs = "on_input"
        if add_extra_convs and add_extra_convs not in _EXTRA_SOURCES:
            raise ConfigError(
                f"{what}: add_extra_convs is a bool or one of {_EXTRA_SOURCES}, got {add_extra_convs!r}"
            )
        self.num_outs = num_outs
        self.start_level = start_level
        self.end_level = end_level
        self.add_extra_convs = add_extra_convs
        self.relu_before_extra_convs = relu_before_extra_convs
        self.upsample_cfg: dict[str, Any] = {**(upsample_cfg or {"mode": "nearest"})}
        self.out_channels = (out_channels,) * num_outs
        self.out_strides: tuple[int, ...] | None = None
        self.in_channels: tuple[int, ...] | None = None
        self.no_norm_on_lateral = no_norm_on_lateral
        self.conv_cfg, self.norm_cfg, self.act_cfg = conv_cfg, norm_cfg, act_cfg
        if isinstance(in_channels, str) and in_channels != "auto":
            raise ConfigError(
                f"{what}: in_channels is a list, or 'auto' to ask the backbone, got {in_channels!r}"
            )
        if in_channels is not None and not isinstance(in_channels, str):
            self._build_layers(tuple(in_channels))

    def _conv(self, in_channels: int, kernel_size: int, stride: int = 1, lateral: bool = False) -> ConvModule:
        return ConvModule(
            in_channels,
            self.out_channels[0],
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            conv_cfg=self.conv_cfg,
            norm_cfg=None if lateral and self.no_norm_on_lateral else self.norm_cfg,
            act_cfg=self.act_cfg,
            inplace=False,
        )

    def _build_layers(self, in_channels: tuple[int, ...]) -> None:
        self.in_channels = in_channels
        last = self._check_levels(in_channels)
        self.lateral_convs = ModuleList(
            self._conv(channels, 1, lateral=True) for channels in in_channels[self.start_level : last]
        )
        used, out = len(self.lateral_convs), self.out_channels[0]
        self.fpn_convs = ModuleList(self._conv(out, 3) for _ in range(used))
        if self.add_extra_convs:
            for number in range(self.num_outs - used):
                on_input = number == 0 and self.add_extra_convs == "on_input"
                self.fpn_convs.append(self._conv(in_channels[last - 1] if on_input else out, 3, stride=2))

    def _check_levels(self, in_channels: tuple[int, ...]) -> int:
        """One more than the last of the backbone's maps that is used."""
        what, total = type(self).__name__, len(in_channels)
        to_the_end = self.end_level in (-1, total - 1)
        last = total if to_the_end else self.end_level + 1
        used = last - self.start_level
        if not 0 <= self.start_level < last <= total:
            raise ConfigError(
                f"{what}: levels {self.start_level} to {last - 1} of a backbone with {total} maps"
            )
        if self.num_outs < used or (not to_the_end and self.num_outs != used):
            wanted = (
                f"at least {used}"
                if to_the_end
                else f"{used}, because end_level is not the backbone's last map"
            )
            raise ConfigError(f"{what}: num_outs must be {wanted}, got {self.num_outs}")
        return last

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
            strides = list(in_strides[self.start_level :][: len(self.lateral_convs)])
            while len(strides) < self.num_outs:
                strides.append(strides[-1] * 2)
            self.out_strides = tuple(strides)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Pyramid of a backbone's maps.

        Args:
            inputs: ``Tensor[B, in_channels[i], H_i, W_i]``, finest first.

        Returns:
            ``num_outs`` maps ``Tensor[B, out_channels, H_i, W_i]``, finest first.
        """
        if self.in_channels is None or len(inputs) != len(self.in_channels):
            name = type(self).__name__
            raise ValueError(f"{name} for channels {self.in_channels} got {len(inputs)} maps")
        maps = inputs[self.start_level :]
        laterals = [lateral(each) for lateral, each in zip(self.lateral_convs, maps, strict=False)]
        for level in range(len(laterals) - 1, 0, -1):
            laterals[level - 1] = laterals[level - 1] + self._enlarge(laterals[level], laterals[level - 1])
        outputs = self._smooth(laterals)
        while len(outputs) < self.num_outs:
            outputs.append(self._coarser(outputs, laterals, maps))
        return tuple(outputs)

    def _smooth(self, laterals: list[Tensor]) -> list[Tensor]:
        """The outputs of the levels that the backbone has."""
        return [conv(each) for conv, each in zip(self.fpn_convs, laterals, strict=False)]

    def _enlarge(self, coarse: Tensor, fine: Tensor) -> Tensor:
        if "scale_factor" in self.upsample_cfg:
            return F.interpolate(coarse, **self.upsample_cfg)
        return F.interpolate(coarse, size=fine.shape[2:], **self.upsample_cfg)

    def _coarser(self, outputs: list[Tensor], laterals: list[Tensor], maps: Sequence[Tensor]) -> Tensor:
        """The next map beyond those there are."""
        if not self.add_extra_convs:
            return F.max_pool2d(outputs[-1], kernel_size=1, stride=2)
        source = outputs[-1]
        if len(outputs) == len(laterals):
            if self.add_extra_convs == "on_input":
                source = maps[len(laterals) - 1]
            elif self.add_extra_convs == "on_lateral":
                source = laterals[-1]
        elif self.relu_before_extra_convs:
            source = F.relu(source)
        conv: Tensor = self.fpn_convs[len(outputs)](source)
        return conv
