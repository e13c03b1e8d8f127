"""Swin Transformer: Hierarchical Vision Transformer using Shifted Windows (Liu et al., ICCV 2021, arXiv
2103.14030).

The image becomes tokens of 4x4 pixels. Each stage is a row of blocks, and halves the map at its end (patch
merging, section 3.1). A block lets tokens see those of their own window of 7x7 tokens only, so that its cost
grows with the image and not with its square; every second block moves the windows by half their size, so
that neighbours meet (section 3.2, equation 3). Positions enter as a bias that is learnt for each distance
between two tokens of a window: ``softmax(Q K^T / sqrt(d) + B) V`` (equation 4). Windows over the map's edge
after moving hold tokens from opposite sides, which a mask keeps from seeing each other (figure 4).
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from det_backbones.pretrained import init_converted
from det_backbones.stages import check_indices, freeze, settle, start_of
from det_backbones.swin_weights import converted
from det_backbones.window_attention import ShiftWindowMSA
from detcore.nn import (
    BaseModule,
    DropPath,
    ModuleList,
    build_activation_layer,
    build_norm_layer,
    checkpointed,
)
from detcore.nn.base_module import DeferredInit
from detcore.nn.build import ActCfg, NormCfg
from detcore.nn.patches import PatchEmbed, as_map, fill_corner, resize_positions

_GELU = {"type": "GELU"}
_LAYER_NORM = {"type": "LN"}
_START = [
    {"type": "TruncNormal", "layer": "Linear", "std": 0.02, "bias": 0},
    {"type": "Constant", "layer": "LayerNorm", "val": 1, "bias": 0},
]


class FeedForward(BaseModule):
    """Two linear layers with an activation between them.

    Args:
        embed_dims: Channels of a token.
        hidden: Channels between the layers.
        drop_rate: Chance of a value to be left out in training, after each layer.
        drop_path_rate: Chance of a sample to go past, in training.
        act_cfg: Kind of activation.
    """

    def __init__(
        self, embed_dims: int, hidden: int, drop_rate: float, drop_path_rate: float, act_cfg: dict[str, Any]
    ) -> None:
        super().__init__()
        first = [nn.Linear(embed_dims, hidden), build_activation_layer(act_cfg), nn.Dropout(drop_rate)]
        last = [nn.Linear(hidden, embed_dims), nn.Dropout(drop_rate)]
        self.layers = nn.Sequential(nn.Sequential(*first), *last)
        self.dropout_layer = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """``Tensor[B, N, embed_dims]`` to the same shape."""
        return self.dropout_layer(self.layers(x))


class SwinBlock(BaseModule):
    """Attention within windows, then layers over the channels of each token, both beside a shortcut (figure
    3b).

    Args:
        embed_dims: Channels of a token.
        hidden: Channels of the second part.
        shift: Whether windows are moved by half their size.
        window_size: Tokens of a window, each way.
        drop_rate: Chance of a value to be left out in training.
        drop_path_rate: Chance of a sample to go past a part, in training.
        act_cfg: Kind of activation.
        norm_cfg: Kind of norm layer.
        with_cp: Whether to compute activations again in the backward pass, to save memory.
        **kwargs: Further arguments of :class:`WindowMSA`.
    """

    def __init__(
        self,
        embed_dims: int,
        hidden: int,
        shift: bool,
        window_size: int,
        drop_rate: float,
        drop_path_rate: float,
        act_cfg: dict[str, Any],
        norm_cfg: dict[str, Any],
        with_cp: bool,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.with_cp = with_cp
        shift_size = window_size // 2 if shift else 0
        self.norm1 = build_norm_layer(norm_cfg, embed_dims)[1]
        self.attn = ShiftWindowMSA(
            embed_dims, window_size, shift_size, drop_path_rate, proj_drop_rate=drop_rate, **kwargs
        )
        self.norm2 = build_norm_layer(norm_cfg, embed_dims)[1]
        self.ffn = FeedForward(embed_dims, hidden, drop_rate, drop_path_rate, act_cfg)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """``Tensor[B, H * W, embed_dims]`` to the same shape; ``size`` is (H, W)."""

        def both(x: Tensor) -> Tensor:
            x = x + self.attn(self.norm1(x), size)
            return x + self.ffn(self.norm2(x))

        return checkpointed(self, both, x) if self.with_cp else both(x)


class PatchMerging(BaseModule):
    """Neighbouring tokens side by side, and a linear layer that halves their channels.

    Args:
        in_channels: Channels of a token.
        out_channels: Of a token of the output.
        stride: Tokens that become one, each way.
        norm_cfg: Kind of norm layer, None for none.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, norm_cfg: dict[str, Any] | None
    ) -> None:
        super().__init__()
        self.stride = stride
        neighbours = in_channels * stride**2
        self.norm = nn.Identity() if norm_cfg is None else build_norm_layer(norm_cfg, neighbours)[1]
        self.reduction = nn.Linear(in_channels * stride**2, out_channels, bias=False)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """``Tensor[B, H * W, in_channels]`` to ``Tensor[B, H' * W', out_channels]``, and (H', W')."""
        x = fill_corner(as_map(tokens, size), self.stride, self.stride)
        smaller = x.shape[2] // self.stride, x.shape[3] // self.stride
        x = F.pixel_unshuffle(x, self.stride).flatten(2).transpose(1, 2)
        return self.reduction(self.norm(x)), smaller


class SwinStage(BaseModule):
    """A row of blocks, and what takes their output to the next stage.

    Args:
        blocks: The blocks.
        downsample: Patch merging; None at the last stage.
    """

    def __init__(self, blocks: ModuleList, downsample: PatchMerging | None) -> None:
        super().__init__()
        self.blocks, self.downsample = blocks, downsample


class SwinTransformer(BaseModule):
    """Swin Transformer without classifier: feature maps of its stages.

    Args:
        pretrain_img_size: Side of the images, or (height, width), that absolute positions are learnt for.
        in_channels: Channels of the image.
        embed_dims: Channels of the first stage, which double from stage to stage.
        patch_size: Pixels of a token, each way.
        window_size: Tokens of a window, each way.
        mlp_ratio: How many times the channels are between the layers of a block's second part.
        depths: Blocks of each stage.
        num_heads: Heads of each stage.
        strides: Pixels from token to token, and how many tokens each way become one after each stage.
        out_indices: Stages whose output is returned, before its tokens are merged.
        qkv_bias: Whether queries, keys and values have a bias.
        qk_scale: What products of queries and keys are multiplied with; 1 / sqrt(channels of a head) where
            None.
        patch_norm: Whether tokens are normalised at first and where they are merged.
        drop_rate: Chance of a value to be left out in training.
        attn_drop_rate: Chance of a weight of attention to be left out in training.
        drop_path_rate: Chance of a sample to go past a part of the last block, growing from 0 at the first.
        use_abs_pos_embed: Whether tokens get learnt positions in the image, too.
        act_cfg: Kind of activation.
        norm_cfg: Kind of norm layer.
        with_cp: Whether to compute activations of blocks again in the backward pass, to save memory.
        pretrained: Older way to write ``init_cfg=dict(type='Pretrained', checkpoint=...)``.
        convert_weights: Whether pretrained weights are in the layout of the authors' own network.
        frozen_stages: The first tokens and so many stages do not train: 0 is the tokens alone, -1 freezes
            nothing.
        init_cfg: As of :class:`~detcore.nn.BaseModule`; small random values where None.

    Attributes:
        out_channels: Channels of the maps, one entry each.
        out_strides: Pixels of the image per pixel of the maps, one entry each.

    Raises:
        ValueError: Arguments do not fit each other.
    """

    def __init__(
        self,
        pretrain_img_size: int | Sequence[int] = 224,
        in_channels: int = 3,
        embed_dims: int = 96,
        patch_size: int = 4,
        window_size: int = 7,
        mlp_ratio: float = 4,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        strides: Sequence[int] = (4, 2, 2, 2),
        out_indices: Sequence[int] = (0, 1, 2, 3),
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        patch_norm: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        use_abs_pos_embed: bool = False,
        act_cfg: ActCfg = _GELU,
        norm_cfg: NormCfg = _LAYER_NORM,
        with_cp: bool = False,
        pretrained: str | None = None,
        convert_weights: bool = False,
        frozen_stages: int = -1,
        init_cfg: DeferredInit = None,
    ) -> None:
        num_stages = len(depths)
        if not num_stages == len(num_heads) == len(strides):
            raise ValueError(
                f"depths, num_heads and strides must be equally many, got {depths}, {num_heads} and {strides}"
            )
        if strides[0] != patch_size:
            raise ValueError(
                f"tokens do not overlap: strides[0] must be patch_size, {patch_size}; got {strides[0]}"
            )
        check_indices("out_indices", out_indices, num_stages)
        check_indices("frozen_stages", [frozen_stages], num_stages + 1, least=-1)
        super().__init__(start_of(pretrained, init_cfg, _START))
        self.convert_weights = convert_weights
        self.out_indices, self.frozen_stages = tuple(sorted(out_indices)), frozen_stages
        norm_cfg, act_cfg = norm_cfg or _LAYER_NORM, act_cfg or _GELU
        norm_of_patches = norm_cfg if patch_norm else None
        self.patch_embed = PatchEmbed(
            in_channels, embed_dims, patch_size, strides[0], fill_corner=True, norm_cfg=norm_of_patches
        )
        sides = [pretrain_img_size] * 2 if isinstance(pretrain_img_size, int) else list(pretrain_img_size)
        self.grid = (sides[0] // patch_size, sides[1] // patch_size)
        self.absolute_pos_embed: nn.Parameter | None = None
        if use_abs_pos_embed:
            self.absolute_pos_embed = nn.Parameter(torch.zeros(1, self.grid[0] * self.grid[1], embed_dims))
        self.drop_after_pos = nn.Dropout(drop_rate)
        options: dict[str, Any] = {
            "window_size": window_size, "qkv_bias": qkv_bias, "qk_scale": qk_scale, "drop_rate": drop_rate,
            "attn_drop_rate": attn_drop_rate, "act_cfg": act_cfg, "norm_cfg": norm_cfg, "with_cp": with_cp,
        }  # fmt: skip
        rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist()
        self.stages = ModuleList()
        step, maps, channels = strides[0], [], embed_dims
        for i, depth in enumerate(depths):
            blocks = ModuleList(
                SwinBlock(
                    channels, int(mlp_ratio * channels), shift=number % 2 == 1, num_heads=num_heads[i],
                    drop_path_rate=rates.pop(0), **options,
                )
                for number in range(depth)
            )  # fmt: skip
            is_last = i == num_stages - 1
            merging = (
                None if is_last else PatchMerging(channels, 2 * channels, strides[i + 1], norm_of_patches)
            )
            self.stages.append(SwinStage(blocks, merging))
            maps.append((channels, step))
            if i in self.out_indices:
                self.add_module(f"norm{i}", build_norm_layer(norm_cfg, channels)[1])
            if not is_last:
                channels, step = 2 * channels, step * strides[i + 1]
        self.out_channels, self.out_strides = zip(*(maps[index] for index in self.out_indices), strict=True)
        freeze(self._frozen())
        if self.frozen_stages >= 0 and self.absolute_pos_embed is not None:
            self.absolute_pos_embed.requires_grad = False

    def init_weights(self) -> None:
        """As :meth:`detcore.nn.BaseModule.init_weights`; the authors' weights are converted first."""
        if self.absolute_pos_embed is not None and not self.is_init:
            nn.init.trunc_normal_(self.absolute_pos_embed, std=0.02)
        if self.convert_weights:
            init_converted(self, lambda state: converted(state, self))
        else:
            super().init_weights()

    def _frozen(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        norms = [f"norm{i}" for i in range(self.frozen_stages) if i in self.out_indices]
        stages = list(self.stages[: self.frozen_stages])
        return [self.patch_embed, self.drop_after_pos, *(self.get_submodule(name) for name in norms), *stages]

    def train(self, mode: bool = True) -> SwinTransformer:
        """Switch to training, apart from what is frozen."""
        super().train(mode)
        if mode:
            settle(self, self._frozen(), norm_eval=False)
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Feature maps of the stages in ``out_indices``.

        Args:
            x: ``Tensor[B, in_channels, H, W]``.

        Returns:
            One ``Tensor[B, out_channels[i], H / out_strides[i], W / out_strides[i]]`` each, rounded up.
        """
        tokens, size = self.patch_embed(x)
        if self.absolute_pos_embed is not None:
            tokens = tokens + resize_positions(self.absolute_pos_embed, self.grid, size, mode="bicubic")
        tokens = self.drop_after_pos(tokens)
        outs = []
        stages: Any = self.stages
        for i, stage in enumerate(stages):
            for block in stage.blocks:
                tokens = block(tokens, size)
            if i in self.out_indices:
                outs.append(as_map(getattr(self, f"norm{i}")(tokens), size).contiguous())
            if stage.downsample is not None:
                tokens, size = stage.downsample(tokens, size)
        return tuple(outs)
