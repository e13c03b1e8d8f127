"""Attention of tokens to those of their own window, as in Swin Transformer (Liu et al. 2021, section 3.2)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcore.nn import BaseModule, DropPath

_FAR = -100.0  # added to what tokens must not see; e^-100 is nothing beside e^0


class WindowMSA(BaseModule):
    """Self-attention of many heads within windows, with biases for distances: equation 4.

    Args:
        embed_dims: Channels of a token.
        num_heads: Heads.
        window_size: Tokens of a window, each way.
        qkv_bias: Whether queries, keys and values have a bias.
        qk_scale: Factor of products of queries and keys; 1 / sqrt(channels of a head) where None.
        attn_drop_rate: Chance of a weight of attention to be left out in training.
        proj_drop_rate: Chance of a value of the output to be left out in training.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        window_size: int,
        qkv_bias: bool,
        qk_scale: float | None,
        attn_drop_rate: float,
        proj_drop_rate: float,
    ) -> None:
        super().__init__()
        self.num_heads, self.scale, self.attn_drop_rate = num_heads, qk_scale, attn_drop_rate
        distances = (2 * window_size - 1) ** 2
        self.relative_position_bias_table = nn.Parameter(torch.zeros(distances, num_heads))
        self.relative_position_index: Tensor
        self.register_buffer("relative_position_index", relative_positions(window_size))
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.proj_drop = nn.Dropout(proj_drop_rate)

    def init_weights(self) -> None:
        """The biases start small; the rest as an ``init_cfg`` around says."""
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.is_init = True

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attention within windows.

        Args:
            x: ``Tensor[B, windows, N, C]``.
            mask: ``Tensor[windows, N, N]``, added to what each token's view of another weighs, or None.

        Returns:
            The same shape.
        """
        # [3, B, windows, heads, N, C / heads]
        q, k, v = self.qkv(x).unflatten(3, (3, self.num_heads, -1)).permute(3, 0, 1, 4, 2, 5)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)[None]
        if mask is not None:  # every image has the same windows
            bias = (bias + mask[:, None]).repeat(len(x), 1, 1, 1)
        drop = self.attn_drop_rate if self.training else 0.0
        q, k, v = (each.flatten(0, 1) for each in (q, k, v))  # the fast kernels know one dimension of batches
        seen = F.scaled_dot_product_attention(q, k, v, bias.to(q.dtype), dropout_p=drop, scale=self.scale)
        return self.proj_drop(self.proj(seen.transpose(1, 2).flatten(2).view_as(x)))


def relative_positions(size: int) -> Tensor:
    """Which bias each token of a window has for each other: ``Tensor[N, N]``, int64, N = ``size`` squared."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    down = rows.flatten()[:, None] - rows.flatten()[None] + size - 1
    right = columns.flatten()[:, None] - columns.flatten()[None] + size - 1
    return down * (2 * size - 1) + right


class ShiftWindowMSA(BaseModule):
    """Attention within windows of a map, which may be moved by half a window.

    Args:
        embed_dims: Channels of a token.
        window_size: Tokens of a window, each way.
        shift_size: Tokens by which windows are moved, down and right.
        drop_path_rate: Chance of a sample to go past, in training.
        **kwargs: Further arguments of :class:`WindowMSA`.
    """

    def __init__(
        self, embed_dims: int, window_size: int, shift_size: int, drop_path_rate: float, **kwargs: Any
    ) -> None:
        super().__init__()
        self.window_size, self.shift_size = window_size, shift_size
        self.w_msa = WindowMSA(embed_dims, window_size=window_size, **kwargs)
        self.drop = DropPath(drop_path_rate)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """``Tensor[B, H * W, C]`` to the same shape; ``size`` is (H, W)."""
        window, shift, (height, width) = self.window_size, self.shift_size, size
        x = tokens.unflatten(1, size)
        x = F.pad(x, (0, 0, 0, -width % window, 0, -height % window))
        rows, columns = x.shape[1] // window, x.shape[2] // window
        mask = None
        if shift:
            x = torch.roll(x, (-shift, -shift), dims=(1, 2))
            mask = self._mask(rows, columns, x)
        x = x.unflatten(2, (columns, window)).unflatten(1, (rows, window)).transpose(2, 3).flatten(3, 4)
        x = self.w_msa(x.flatten(1, 2), mask)  # [B, rows * columns, window^2, C]
        x = x.unflatten(2, (window, window)).unflatten(1, (rows, columns)).transpose(2, 3)
        x = x.flatten(3, 4).flatten(1, 2)
        if shift:
            x = torch.roll(x, (shift, shift), dims=(1, 2))
        return self.drop(x[:, :height, :width].flatten(1, 2))

    def _mask(self, rows: int, columns: int, like: Tensor) -> Tensor:
        """``Tensor[windows, N, N]``: 0 for tokens that lay side by side, far below for others."""
        window, shift = self.window_size, self.shift_size
        down, right = (
            _parts(number * window, window, shift, like.device).unflatten(0, (number, window))
            for number in (rows, columns)
        )
        part = down[:, None, :, None] * 3 + right[None, :, None, :]  # [rows, columns, window, window]
        part = part.flatten(2).flatten(0, 1)
        apart = part[:, :, None] != part[:, None, :]
        return torch.zeros(apart.shape, dtype=like.dtype, device=like.device).masked_fill_(apart, _FAR)


def _parts(length: int, window: int, shift: int, device: torch.device) -> Tensor:
    """For each row of a moved map: 0 before the last window, 1 in it, 2 for what came round the edge."""
    at = torch.arange(length, device=device)
    return (at >= length - window).long() + (at >= length - shift).long()
