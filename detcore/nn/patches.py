"""Images as tokens: what transformers of several families share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from detcore.nn.base_module import BaseModule
from detcore.nn.build import NormCfg, build_norm_layer


class PatchEmbed(BaseModule):
    """One token a patch of the image, or of a map: a convolution and a norm layer.

    Names in the state dict: ``projection`` and ``norm``.

    Args:
        in_channels: Of the input.
        embed_dims: Channels of a token.
        kernel_size: Pixels that a token sees, each way.
        stride: Pixels from token to token.
        padding: Pixels added at each side.
        fill_corner: Whether zeros are added at the right and the bottom until the last token is whole.
        norm_cfg: Kind of norm layer over the channels of a token, None for none.
    """

    def __init__(
        self,
        in_channels: int,
        embed_dims: int,
        kernel_size: int,
        stride: int,
        padding: int = 0,
        fill_corner: bool = False,
        norm_cfg: NormCfg = None,
    ) -> None:
        super().__init__()
        self.stride, self.kernel_size, self.fill_corner = stride, kernel_size, fill_corner
        self.projection = nn.Conv2d(in_channels, embed_dims, kernel_size, stride=stride, padding=padding)
        self.norm = None if norm_cfg is None else build_norm_layer(norm_cfg, embed_dims)[1]

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """``Tensor[B, in_channels, H, W]`` to ``Tensor[B, H' * W', embed_dims]``, by rows, and (H', W')."""
        if self.fill_corner:
            x = fill_corner(x, self.kernel_size, self.stride)
        x = self.projection(x)
        tokens = x.flatten(2).transpose(1, 2)
        return (tokens if self.norm is None else self.norm(tokens)), (x.shape[2], x.shape[3])


def fill_corner(x: Tensor, kernel_size: int, stride: int) -> Tensor:
    """Zeros at the right and the bottom of a map, so that the last patch each way is whole.

    Args:
        x: ``Tensor[B, C, H, W]``.
        kernel_size: Pixels of a patch, each way.
        stride: Pixels from patch to patch.

    Returns:
        The map, larger where it was not so already.
    """
    height, width = (
        max((-(-side // stride) - 1) * stride + kernel_size - side, 0) for side in (x.shape[2], x.shape[3])
    )
    return F.pad(x, (0, width, 0, height)) if height or width else x


def as_map(tokens: Tensor, size: Sequence[int]) -> Tensor:
    """Tokens ``Tensor[B, H * W, C]``, row by row, as a map ``Tensor[B, C, H, W]``; ``size`` is (H, W)."""
    return tokens.transpose(1, 2).unflatten(2, tuple(size))


def resize_positions(positions: Tensor, before: Sequence[int], after: Sequence[int], mode: str) -> Tensor:
    """Learnt positions for another number of tokens.

    Args:
        positions: ``Tensor[1, H * W, C]`` of a grid ``before`` (H, W).
        before: Rows and columns.
        after: Rows and columns that are wanted.
        mode: As of ``torch.nn.functional.interpolate``.

    Returns:
        ``Tensor[1, H' * W', C]``; the same tensor where nothing changes.
    """
    if tuple(before) == tuple(after):
        return positions
    resized: Any = F.interpolate(as_map(positions, before), size=tuple(after), mode=mode, align_corners=False)
    return resized.flatten(2).transpose(1, 2)
