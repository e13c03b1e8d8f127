"""Deformable convolution: the points of the kernel lie where a map of offsets puts them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Pair = int | tuple[int, int]


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
    deform_groups: int = 1,
    bias: Literal[False] = False,
    im2col_step: int = 32,
) -> Tensor:
    """Deformable convolution (Dai et al. 2017): values between pixels are interpolated, outside they are 0.

    Half-precision arguments are computed in float32: offsets are coordinates.

    Args:
        input: ``Tensor[B, C, H, W]``.
        offset: ``Tensor[B, 2 * deform_groups * kh * kw, H', W']``, pixels: for each group of channels and
            each point of the kernel, row by row, how far it is moved down, then how far to the right.
        weight: ``Tensor[out_channels, C / groups, kh, kw]``.
        stride: Of the kernel, like the next two.
        padding: Pixels of 0 around the input.
        dilation: Distance of the kernel's points before they are moved.
        groups: Groups of channels that are convolved apart.
        deform_groups: Groups of channels with offsets of their own.
        bias: There is none: only False.
        im2col_step: Has no meaning here; taken so that calls need not be changed.

    Returns:
        ``Tensor[B, out_channels, H', W']``, of the type of ``input``.

    Raises:
        ValueError: Shapes do not fit each other, or the kernel does not fit into the input.
    """
    if bias:
        raise ValueError("deform_conv2d has no bias; modulated_deform_conv2d has one")
    return _convolved(input, offset, None, weight, None, (stride, padding, dilation), groups, deform_groups)


def modulated_deform_conv2d(
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
    deform_groups: int = 1,
) -> Tensor:
    """Deformable convolution whose points have weights of their own at every place (Zhu et al. 2019).

    Args:
        input: As of :func:`deform_conv2d`, like all that is not named here.
        offset: The same.
        mask: ``Tensor[B, deform_groups * kh * kw, H', W']``, what each sampled value is multiplied by.
        weight: The same.
        bias: ``Tensor[out_channels]``, or None.
        stride: The same.
        padding: The same.
        dilation: The same.
        groups: The same.
        deform_groups: The same.

    Returns:
        ``Tensor[B, out_channels, H', W']``, of the type of ``input``.

    Raises:
        ValueError: Shapes do not fit each other, or the kernel does not fit into the input.
    """
    return _convolved(input, offset, mask, weight, bias, (stride, padding, dilation), groups, deform_groups)


def _convolved(
    input: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    geometry: tuple[Pair, Pair, Pair],
    groups: int,
    deform_groups: int,
) -> Tensor:
    stride, padding, dilation = (_pair(each) for each in geometry)
    _check_channels(input, weight, groups, deform_groups)
    size = _output_size(input.shape[2:], weight.shape[2:], stride, padding, dilation)
    points = deform_groups * weight.size(2) * weight.size(3)
    _check_map("offset", offset, (input.size(0), 2 * points, *size))
    if mask is not None:
        _check_map("mask", mask, (input.size(0), points, *size))
    wide = torch.promote_types(input.dtype, torch.float32)
    import torchvision  # see nms.py

    out: Tensor = torchvision.ops.deform_conv2d(
        input.to(wide),
        offset.to(wide),
        weight.to(wide),
        None if bias is None else bias.to(wide),
        stride,
        padding,
        dilation,
        None if mask is None else mask.to(wide),
    )
    return out.to(input.dtype)


def _check_channels(input: Tensor, weight: Tensor, groups: int, deform_groups: int) -> None:
    if input.dim() != 4 or weight.dim() != 4:
        raise ValueError(
            f"input must be [B, C, H, W] and weight [out_channels, C / groups, kh, kw], "
            f"got shapes {tuple(input.shape)} and {tuple(weight.shape)}"
        )
    if input.size(1) != weight.size(1) * groups or weight.size(0) % groups:
        raise ValueError(
            f"{groups} groups of a weight of shape {tuple(weight.shape)} need {weight.size(1) * groups} "
            f"input channels and a multiple of {groups} output channels; the input has shape "
            f"{tuple(input.shape)}"
        )
    if input.size(1) % deform_groups:
        raise ValueError(f"{input.size(1)} channels cannot be cut into {deform_groups} deform_groups")


def _output_size(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[int, int]:
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    room = [s + 2 * p for s, p in zip(size, padding, strict=True)]
    if room[0] < reach[0] or room[1] < reach[1]:
        raise ValueError(
            f"a kernel that reaches over {reach[0]} x {reach[1]} pixels does not fit into an input of "
            f"{size[0]} x {size[1]} with padding {tuple(padding)}"
        )
    return (room[0] - reach[0]) // stride[0] + 1, (room[1] - reach[1]) // stride[1] + 1


def _check_map(name: str, given: Tensor, expected: tuple[int, ...]) -> None:
    if tuple(given.shape) != expected:
        raise ValueError(f"{name} must have shape {expected} here, got {tuple(given.shape)}")


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))
