"""Separable convolution."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from torch import Tensor

from detcore.nn.base_module import BaseModule, DeferredInit
from detcore.nn.build import ActCfg, NormCfg
from detcore.nn.conv_module import RELU, ConvModule
from detcore.registry import MODELS, Deferred

OwnNormCfg = Annotated[dict | Literal["default"] | None, Deferred(MODELS, allow=("requires_grad",))]
OwnActCfg = Annotated[dict | Literal["default"] | None, Deferred(MODELS)]


class DepthwiseSeparableConvModule(BaseModule):
    """A convolution within each channel, then one across channels (Howard et al. 2017).

    Args:
        in_channels: Of the input.
        out_channels: Of the output.
        kernel_size: Of the first convolution, like the next three.
        stride: Step.
        padding: Pixels added at each side.
        dilation: Distance of the kernel's points.
        norm_cfg: Normalisation of both.
        act_cfg: Activation of both.
        dw_norm_cfg: Normalisation of the first; ``'default'`` is ``norm_cfg``.
        dw_act_cfg: Activation of the first; ``'default'`` is ``act_cfg``.
        pw_norm_cfg: Normalisation of the second; ``'default'`` is ``norm_cfg``.
        pw_act_cfg: Activation of the second; ``'default'`` is ``act_cfg``.
        init_cfg: As of :class:`~detcore.nn.BaseModule`.
        **kwargs: For both, as of :class:`~detcore.nn.ConvModule`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        norm_cfg: NormCfg = None,
        act_cfg: ActCfg = RELU,
        dw_norm_cfg: OwnNormCfg = "default",
        dw_act_cfg: OwnActCfg = "default",
        pw_norm_cfg: OwnNormCfg = "default",
        pw_act_cfg: OwnActCfg = "default",
        init_cfg: DeferredInit = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(init_cfg)
        if "groups" in kwargs:
            raise ValueError("the groups of a separable convolution are given by its channels")
        self.depthwise_conv = ConvModule(
            in_channels,
            in_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=in_channels,
            norm_cfg=_own(dw_norm_cfg, norm_cfg),
            act_cfg=_own(dw_act_cfg, act_cfg),
            **kwargs,
        )
        self.pointwise_conv = ConvModule(
            in_channels,
            out_channels,
            1,
            norm_cfg=_own(pw_norm_cfg, norm_cfg),
            act_cfg=_own(pw_act_cfg, act_cfg),
            **kwargs,
        )

    def forward(self, x: Tensor) -> Tensor:
        """``Tensor[B, in_channels, H, W]`` to ``Tensor[B, out_channels, H', W']``."""
        return self.pointwise_conv(self.depthwise_conv(x))


def _own(cfg: dict[str, Any] | str | None, shared: dict[str, Any] | None) -> dict[str, Any] | None:
    return shared if isinstance(cfg, str) else cfg
