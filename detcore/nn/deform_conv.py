"""Deformable convolutions as layers: with offsets that are given, and with offsets that are learnt."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from detcore.nn.base_module import BaseModule
from detcore.ops.deform_conv import deform_conv2d, modulated_deform_conv2d

Size = int | Sequence[int]


class OffsetConv(nn.Conv2d, BaseModule):
    """The convolution that tells the offsets; it starts at zero, so that the kernel starts undeformed.

    That holds whatever an ``init_cfg`` around says about ``Conv2d``: random offsets are never meant by it.
    Arguments as of ``nn.Conv2d``.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Any, **kwargs: Any) -> None:
        super().__init__(in_channels, out_channels, kernel_size, **kwargs)
        self._zero()

    def init_weights(self) -> None:
        """Back to zero."""
        self._zero()
        self.is_init = True

    def forward(self, x: Tensor) -> Tensor:
        """In the precision of its weights, also under autocast: what comes out are coordinates."""
        device = x.device.type
        narrowed = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        with torch.autocast(device, enabled=False) if narrowed else contextlib.nullcontext():
            out: Tensor = super().forward(x.to(self.weight.dtype))
        return out

    def _zero(self) -> None:
        nn.init.zeros_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class _Deformable(nn.Module):
    """What both kinds have: the kernel's shape and its weights."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size,
        padding: Size,
        dilation: Size,
        groups: int,
        deform_groups: int,
    ) -> None:
        super().__init__()
        for name, channels, parts in (
            ("groups", in_channels, groups),
            ("groups", out_channels, groups),
            ("deform_groups", in_channels, deform_groups),
        ):
            if parts < 1 or channels % parts:
                raise ValueError(f"{channels} channels cannot be cut into {parts} {name}")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride = _pair(kernel_size), _pair(stride)
        self.padding, self.dilation = _pair(padding), _pair(dilation)
        self.groups, self.deform_groups = groups, deform_groups
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *self.kernel_size))

    def _offset_conv(self, values: int) -> OffsetConv:
        """A convolution to ``values`` numbers for each point of the kernel of each group."""
        points = self.deform_groups * self.kernel_size[0] * self.kernel_size[1]
        return OffsetConv(
            self.in_channels,
            values * points,
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
        )

    def extra_repr(self) -> str:
        """Arguments, for ``repr``."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, "
            f"deform_groups={self.deform_groups}"
        )


class DeformConv2d(_Deformable):
    """:func:`~detcore.ops.deform_conv2d` with weights of its own; the offsets are given.

    Args:
        in_channels: Of the input.
        out_channels: Of the output.
        kernel_size: As of ``nn.Conv2d``, like the next four.
        stride: Step.
        padding: Pixels added at each side.
        dilation: Distance of the kernel's points.
        groups: Groups of channels that are convolved apart.
        deform_groups: Groups of channels with offsets of their own.
        bias: There is none: only False.
        im2col_step: Has no meaning here; taken so that configs need not be changed.

    Raises:
        ValueError: ``bias`` is true, or the channels cannot be cut into the groups.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        deform_groups: int = 1,
        bias: bool = False,
        im2col_step: int = 32,
    ) -> None:
        if bias:
            raise ValueError(f"{type(self).__name__} has no bias: bias must be False, got {bias!r}")
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, deform_groups
        )
        self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Kaiming's uniform values."""
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        """``Tensor[B, out_channels, H', W']``; ``offset`` as of :func:`~detcore.ops.deform_conv2d`."""
        return deform_conv2d(
            x, offset, self.weight, self.stride, self.padding, self.dilation, self.groups, self.deform_groups
        )


class DeformConv2dPack(DeformConv2d):
    """Deformable convolution that learns its offsets by a convolution; ``DCN`` in configs.

    Arguments as of :class:`DeformConv2d`. Names in the state dict: ``weight``, ``conv_offset.weight``,
    ``conv_offset.bias``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        deform_groups: int = 1,
        bias: bool = False,
        im2col_step: int = 32,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, deform_groups, bias
        )
        self.conv_offset = self._offset_conv(2)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """``Tensor[B, in_channels, H, W]`` to ``Tensor[B, out_channels, H', W']``."""
        return super().forward(x, self.conv_offset(x))


class ModulatedDeformConv2d(_Deformable):
    """:func:`~detcore.ops.modulated_deform_conv2d` with weights of its own; offsets and mask are given.

    Args:
        in_channels: As of :class:`DeformConv2d`, like the next seven.
        out_channels: Of the output.
        kernel_size: Of the kernel.
        stride: Step.
        padding: Pixels added at each side.
        dilation: Distance of the kernel's points.
        groups: Groups of channels that are convolved apart.
        deform_groups: Groups of channels with offsets and masks of their own.
        bias: Whether there is one.

    Raises:
        ValueError: The channels cannot be cut into the groups.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        deform_groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, deform_groups
        )
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform values within 1 / sqrt(input channels * points of the kernel); the bias is 0."""
        bound = 1 / math.sqrt(self.in_channels * self.kernel_size[0] * self.kernel_size[1])
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def init_weights(self) -> None:
        """The weights keep what they were drawn as, or what an ``init_cfg`` around made them.

        :class:`~detcore.nn.ConvModule` gives no values of its own to a convolution that has this method.
        """

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        """``Tensor[B, out_channels, H', W']``; maps as of :func:`~detcore.ops.modulated_deform_conv2d`."""
        geometry = self.stride, self.padding, self.dilation, self.groups, self.deform_groups
        return modulated_deform_conv2d(x, offset, mask, self.weight, self.bias, *geometry)


class ModulatedDeformConv2dPack(ModulatedDeformConv2d):
    """Deformable convolution that learns its offsets and its mask by a convolution; ``DCNv2`` in configs.

    The last third of that convolution's channels, through a sigmoid, is the mask: it starts at 1/2. Arguments
    as of :class:`ModulatedDeformConv2d`. Names in the state dict: ``weight``, ``bias``,
    ``conv_offset.weight``, ``conv_offset.bias``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        deform_groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, deform_groups, bias
        )
        self.conv_offset = self._offset_conv(3)

    def init_weights(self) -> None:
        """The offsets start at zero again; the weights stay."""
        self.conv_offset.init_weights()

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """``Tensor[B, in_channels, H, W]`` to ``Tensor[B, out_channels, H', W']``."""
        told = self.conv_offset(x)
        points = told.size(1) // 3
        return super().forward(x, told[:, : 2 * points], told[:, 2 * points :].sigmoid())
