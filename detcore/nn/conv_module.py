"""Convolution, normalisation and activation as one block."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal, cast

from torch import Tensor, nn

from detcore.nn.base_module import BaseModule, DeferredInit
from detcore.nn.build import (
    ActCfg,
    ConvCfg,
    NormCfg,
    build_activation_layer,
    build_conv_layer,
    build_norm_layer,
    with_inplace,
)
from detcore.nn.init import constant_init, kaiming_init

logger = logging.getLogger(__name__)
RELU = {"type": "ReLU"}


class ConvModule(BaseModule):
    """Convolution, then normalisation, then activation, or in another ``order``.

    The convolution starts with Kaiming's values and the normalisation with 1; an ``init_cfg`` of this module
    or of one around it replaces them. Names in the state dict: ``conv``, and ``bn``, ``gn``, ... by kind.

    Args:
        in_channels: Of the input.
        out_channels: Of the output.
        kernel_size: As of ``nn.Conv2d``, like the next four.
        stride: Step.
        padding: Pixels added at each side.
        dilation: Distance of the kernel's points.
        groups: Groups of channels.
        bias: ``'auto'`` adds one where there is no normalisation.
        conv_cfg: Kind of convolution; ``nn.Conv2d`` where None.
        norm_cfg: Kind of normalisation; none where None.
        act_cfg: Kind of activation; none where None.
        inplace: Whether the activation overwrites its input.
        with_spectral_norm: Whether to normalise the weights' largest singular value.
        padding_mode: ``'zeros'``, ``'reflect'``, ``'replicate'`` or ``'circular'``.
        order: Of ``'conv'``, ``'norm'`` and ``'act'``.
        init_cfg: As of :class:`~detcore.nn.BaseModule`.

    Raises:
        ConfigError: A config has no ``type``, or the layer does not take its arguments.
        ValueError: ``order`` is no order of these three.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool | Literal["auto"] = "auto",
        conv_cfg: ConvCfg = None,
        norm_cfg: NormCfg = None,
        act_cfg: ActCfg = RELU,
        inplace: bool = True,
        with_spectral_norm: bool = False,
        padding_mode: str = "zeros",
        order: Sequence[str] = ("conv", "norm", "act"),
        init_cfg: DeferredInit = None,
    ) -> None:
        super().__init__(init_cfg)
        if sorted(order) != ["act", "conv", "norm"]:
            raise ValueError(f"order must hold 'conv', 'norm' and 'act', each once; got {tuple(order)}")
        self.order = tuple(order)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.with_norm, self.with_activation = norm_cfg is not None, act_cfg is not None
        self.with_bias = not self.with_norm if bias == "auto" else bias
        self.conv = build_conv_layer(
            conv_cfg,
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=self.with_bias,
            # Kinds of convolution that know zeros only need not take the argument.
            **({} if padding_mode == "zeros" else {"padding_mode": padding_mode}),
        )
        self.norm_name: str | None = None
        if norm_cfg is not None:
            after = self.order.index("norm") > self.order.index("conv")
            self.norm_name, norm = build_norm_layer(norm_cfg, out_channels if after else in_channels)
            self.add_module(self.norm_name, norm)
        if act_cfg is not None:
            self.activate = build_activation_layer(with_inplace(act_cfg, inplace))
        self._fill(act_cfg)
        if with_spectral_norm:
            self.conv = nn.utils.parametrizations.spectral_norm(self.conv)
        self._steps = self._in_order()

    def _fill(self, act_cfg: dict[str, Any] | None) -> None:
        """Values to start from where no ``init_cfg`` has others; convolutions with their own keep those."""
        if not hasattr(self.conv, "init_weights"):
            leaky = act_cfg is not None and act_cfg["type"] == "LeakyReLU"
            slope = act_cfg.get("negative_slope", 0.01) if leaky and act_cfg is not None else 0
            kaiming_init(self.conv, a=slope, nonlinearity="leaky_relu" if leaky else "relu")
        if self.norm is not None:
            constant_init(self.norm, 1)

    def _in_order(self) -> tuple[str, ...]:
        """Names of the layers that there are, in the order in which they run."""
        activate = "activate" if self.with_activation else None
        present = {"conv": "conv", "norm": self.norm_name, "act": activate}
        return tuple(name for step in self.order if (name := present[step]) is not None)

    @property
    def norm(self) -> nn.Module | None:
        """The normalisation layer."""
        return None if self.norm_name is None else cast(nn.Module, getattr(self, self.norm_name))

    def forward(self, x: Tensor, activate: bool = True, norm: bool = True) -> Tensor:
        """``Tensor[B, in_channels, H, W]`` to ``Tensor[B, out_channels, H', W']``.

        Args:
            x: The input.
            activate: False leaves the activation out.
            norm: False leaves the normalisation out.
        """
        for name in self._steps:
            if (name == "activate" and not activate) or (name == self.norm_name and not norm):
                continue
            x = getattr(self, name)(x)
        return x
