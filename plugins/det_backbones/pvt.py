"""Pyramid Vision Transformer (Wang et al., ICCV 2021, arXiv 2102.12122), and its second version (Wang et
al., CVMJ 2022, arXiv 2106.13797).

Four stages, each of which makes tokens of the map before it, and passes them through blocks of attention and
of two layers over channels. Every token sees the whole image, at a cost that stays small because keys and
values come from a map that a convolution has made R times smaller each way (spatial reduction, figure 4,
equations 1 to 4 of the first paper). The second version takes overlapping patches, has no learnt positions,
and puts a 3x3 convolution within each channel between the two layers, which knows where it is by the zeros
around the map (section 3 of the second paper).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from det_backbones.pretrained import init_converted
from det_backbones.pvt_weights import converted
from det_backbones.stages import check_indices, start_of
from detcore.nn import BaseModule, DropPath, ModuleList, build_activation_layer, build_norm_layer
from detcore.nn.base_module import DeferredInit
from detcore.nn.build import ActCfg, NormCfg
from detcore.nn.patches import PatchEmbed, as_map, resize_positions

_GELU = {"type": "GELU"}
_LAYER_NORM = {"type": "LN", "eps": 1e-6}
_START = [
    {"type": "TruncNormal", "layer": "Linear", "std": 0.02, "bias": 0},
    {"type": "Constant", "layer": "LayerNorm", "val": 1, "bias": 0},
    # Normal with variance 2 / fan out: Kaiming's values for a ReLU.
    {"type": "Kaiming", "layer": "Conv2d", "mode": "fan_out", "nonlinearity": "relu", "bias": 0},
]


class SpatialReductionAttention(BaseModule):
    """Attention of all tokens to those of a smaller map, beside a shortcut.

    Args:
        embed_dims: Channels of a token.
        num_heads: Heads.
        sr_ratio: How many times smaller the map of keys and values is, each way.
        qkv_bias: Whether queries, keys and values have a bias.
        attn_drop_rate: Chance of a weight of attention to be left out in training.
        proj_drop_rate: Chance of a value of the output to be left out in training.
        drop_path_rate: Chance of a sample to go past, in training.
        norm_cfg: Kind of norm layer.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        sr_ratio: int,
        qkv_bias: bool,
        attn_drop_rate: float,
        proj_drop_rate: float,
        drop_path_rate: float,
        norm_cfg: dict[str, Any],
    ) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(
            embed_dims, num_heads, dropout=attn_drop_rate, bias=qkv_bias, batch_first=True
        )
        self.proj_drop = nn.Dropout(proj_drop_rate)
        self.dropout_layer = DropPath(drop_path_rate)
        self.sr: nn.Conv2d | None = None
        if sr_ratio > 1:
            self.sr = nn.Conv2d(embed_dims, embed_dims, sr_ratio, stride=sr_ratio)
            self.norm = build_norm_layer(norm_cfg, embed_dims)[1]

    def forward(self, x: Tensor, size: tuple[int, int], shortcut: Tensor) -> Tensor:
        """``Tensor[B, H * W, embed_dims]`` to the same shape; ``size`` is (H, W)."""
        seen = x
        if self.sr is not None:
            seen = self.norm(self.sr(as_map(x, size)).flatten(2).transpose(1, 2))
        out = self.attn(x, seen, seen, need_weights=False)[0]
        return shortcut + self.dropout_layer(self.proj_drop(out))


class MixFFN(BaseModule):
    """Two 1x1 convolutions with an activation between them, and in the second version a 3x3 one, by a
    shortcut.

    Args:
        embed_dims: Channels of a token.
        hidden: Channels between the layers.
        use_conv: Whether there is a 3x3 convolution within each channel between them.
        drop_rate: Chance of a value to be left out in training, after each layer.
        drop_path_rate: Chance of a sample to go past, in training.
        act_cfg: Kind of activation.
    """

    def __init__(
        self,
        embed_dims: int,
        hidden: int,
        use_conv: bool,
        drop_rate: float,
        drop_path_rate: float,
        act_cfg: dict[str, Any],
    ) -> None:
        super().__init__()
        middle = [nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)] if use_conv else []
        self.layers = nn.Sequential(
            nn.Conv2d(embed_dims, hidden, 1),
            *middle,
            build_activation_layer(act_cfg),
            nn.Dropout(drop_rate),
            nn.Conv2d(hidden, embed_dims, 1),
            nn.Dropout(drop_rate),
        )
        self.dropout_layer = DropPath(drop_path_rate)

    def forward(self, x: Tensor, size: tuple[int, int], shortcut: Tensor) -> Tensor:
        """``Tensor[B, H * W, embed_dims]`` to the same shape; ``size`` is (H, W)."""
        out = self.layers(as_map(x, size)).flatten(2).transpose(1, 2)
        return shortcut + self.dropout_layer(out)


class PVTBlock(BaseModule):
    """Attention, then layers over channels; each sees normalised tokens.

    Args:
        embed_dims: Channels of a token.
        attention: Further arguments of :class:`SpatialReductionAttention`.
        feed_forward: Further arguments of :class:`MixFFN`.
        norm_cfg: Kind of norm layer.
    """

    def __init__(
        self,
        embed_dims: int,
        attention: dict[str, Any],
        feed_forward: dict[str, Any],
        norm_cfg: dict[str, Any],
    ) -> None:
        super().__init__()
        self.norm1 = build_norm_layer(norm_cfg, embed_dims)[1]
        self.attn = SpatialReductionAttention(embed_dims, norm_cfg=norm_cfg, **attention)
        self.norm2 = build_norm_layer(norm_cfg, embed_dims)[1]
        self.ffn = MixFFN(embed_dims, **feed_forward)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """``Tensor[B, H * W, embed_dims]`` to the same shape; ``size`` is (H, W)."""
        x = self.attn(self.norm1(x), size, shortcut=x)
        return self.ffn(self.norm2(x), size, shortcut=x)


class AbsolutePositionEmbedding(BaseModule):
    """Learnt positions, added to tokens; of a grid of another size they are interpolated.

    Args:
        grid: Rows and columns that are learnt.
        embed_dims: Channels of a token.
        drop_rate: Chance of a value to be left out in training.
    """

    def __init__(self, grid: tuple[int, int], embed_dims: int, drop_rate: float) -> None:
        super().__init__()
        self.grid = grid
        self.pos_embed = nn.Parameter(torch.zeros(1, grid[0] * grid[1], embed_dims))
        self.drop = nn.Dropout(drop_rate)

    def init_weights(self) -> None:
        """Small random values."""
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.is_init = True

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """``Tensor[B, H * W, embed_dims]`` to the same shape; ``size`` is (H, W)."""
        return self.drop(x + resize_positions(self.pos_embed, self.grid, size, mode="bilinear"))


class PyramidVisionTransformer(BaseModule):
    """PVT without classifier: feature maps of its stages.

    Args:
        pretrain_img_size: Side of the images, or (height, width), that positions are learnt for.
        in_channels: Channels of the image.
        embed_dims: Channels of a head; a stage has as many heads times as many.
        num_stages: How many stages there are.
        num_layers: Blocks of each stage.
        num_heads: Heads of each stage.
        patch_sizes: Pixels of the map before that a token of each stage sees, each way.
        strides: Pixels of that map from token to token.
        paddings: Pixels that are added at each side of that map.
        sr_ratios: How many times smaller the map of keys and values is, in each stage.
        out_indices: Stages whose output is returned.
        mlp_ratios: How many times the channels are between the two layers of a block, in each stage.
        qkv_bias: Whether queries, keys and values have a bias.
        drop_rate: Chance of a value to be left out in training.
        attn_drop_rate: Chance of a weight of attention to be left out in training.
        drop_path_rate: Chance of a sample to go past a part of the last block, growing from 0 at the first.
        use_abs_pos_embed: Whether tokens get learnt positions.
        norm_after_stage: Whether stages end with a norm layer.
        use_conv_ffn: Whether blocks have a 3x3 convolution between their two layers.
        act_cfg: Kind of activation.
        norm_cfg: Kind of norm layer.
        pretrained: Older way to write ``init_cfg=dict(type='Pretrained', checkpoint=...)``.
        convert_weights: Whether pretrained weights are in the layout of the authors' own network.
        init_cfg: As of :class:`~detcore.nn.BaseModule`; small random values where None. In configs,
            ``dict(checkpoint=...)`` is one of type ``Pretrained``.

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
        embed_dims: int = 64,
        num_stages: int = 4,
        num_layers: Sequence[int] = (3, 4, 6, 3),
        num_heads: Sequence[int] = (1, 2, 5, 8),
        patch_sizes: Sequence[int] = (4, 2, 2, 2),
        strides: Sequence[int] = (4, 2, 2, 2),
        paddings: Sequence[int] = (0, 0, 0, 0),
        sr_ratios: Sequence[int] = (8, 4, 2, 1),
        out_indices: Sequence[int] = (0, 1, 2, 3),
        mlp_ratios: Sequence[float] = (8, 8, 4, 4),
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        use_abs_pos_embed: bool = True,
        norm_after_stage: bool = False,
        use_conv_ffn: bool = False,
        act_cfg: ActCfg = _GELU,
        norm_cfg: NormCfg = _LAYER_NORM,
        pretrained: str | None = None,
        convert_weights: bool = True,
        init_cfg: DeferredInit | dict[str, Any] = None,
    ) -> None:
        each_stage = {
            "num_layers": num_layers, "num_heads": num_heads, "patch_sizes": patch_sizes, "strides": strides,
            "paddings": paddings, "sr_ratios": sr_ratios, "mlp_ratios": mlp_ratios,
        }  # fmt: skip
        short = {name: value for name, value in each_stage.items() if len(value) != num_stages}
        if short:
            raise ValueError(f"{num_stages} stages need one entry each, got {short}")
        check_indices("out_indices", out_indices, num_stages)
        super().__init__(start_of(pretrained, init_cfg, _START))
        self.convert_weights, self.use_abs_pos_embed = convert_weights, use_abs_pos_embed
        self.out_indices = tuple(out_indices)
        norm_cfg, act_cfg = norm_cfg or _LAYER_NORM, act_cfg or _GELU
        rows, columns = (
            (pretrain_img_size,) * 2 if isinstance(pretrain_img_size, int) else tuple(pretrain_img_size)
        )
        rates = torch.linspace(0, drop_path_rate, sum(num_layers), device="cpu").tolist()
        self.layers = ModuleList()
        before, step, maps = in_channels, 1, []
        for i in range(num_stages):
            channels, step = embed_dims * num_heads[i], step * strides[i]
            patches = PatchEmbed(
                before, channels, patch_sizes[i], strides[i], padding=paddings[i], norm_cfg=norm_cfg
            )
            parts: list[nn.Module] = []
            if use_abs_pos_embed:
                parts.append(AbsolutePositionEmbedding((rows // step, columns // step), channels, drop_rate))
            for _ in range(num_layers[i]):
                rate = rates.pop(0)
                attention = {
                    "num_heads": num_heads[i], "sr_ratio": sr_ratios[i], "qkv_bias": qkv_bias,
                    "attn_drop_rate": attn_drop_rate, "proj_drop_rate": drop_rate, "drop_path_rate": rate,
                }  # fmt: skip
                feed_forward = {
                    "hidden": int(mlp_ratios[i] * channels), "use_conv": use_conv_ffn, "drop_rate": drop_rate,
                    "drop_path_rate": rate, "act_cfg": act_cfg,
                }  # fmt: skip
                parts.append(PVTBlock(channels, attention, feed_forward, norm_cfg))
            last = build_norm_layer(norm_cfg, channels)[1] if norm_after_stage else nn.Identity()
            self.layers.append(ModuleList([patches, ModuleList(parts), last]))
            before = channels
            maps.append((channels, step))
        self.out_channels, self.out_strides = zip(*(maps[index] for index in self.out_indices), strict=True)

    @classmethod
    def prepare_config(cls, cfg: dict[str, Any]) -> dict[str, Any]:
        """Older configs name a checkpoint alone: that is one of pretrained weights."""
        init_cfg = cfg.get("init_cfg")
        if isinstance(init_cfg, dict) and "checkpoint" in init_cfg and "type" not in init_cfg:
            cfg = {**cfg, "init_cfg": {"type": "Pretrained", **init_cfg}}
        return cfg

    def init_weights(self) -> None:
        """As :meth:`detcore.nn.BaseModule.init_weights`; the authors' weights are converted first."""
        if self.convert_weights:
            init_converted(self, lambda state: converted(state, self.use_abs_pos_embed))
        else:
            super().init_weights()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Feature maps of the stages in ``out_indices``.

        Args:
            x: ``Tensor[B, in_channels, H, W]``.

        Returns:
            One ``Tensor[B, out_channels[i], H / out_strides[i], W / out_strides[i]]`` each, rounded down, in
            the second version up.
        """
        outs = []
        layers: Any = self.layers
        for i, (patches, parts, norm) in enumerate(layers):
            tokens, size = patches(x)
            for part in parts:
                tokens = part(tokens, size)
            x = as_map(norm(tokens), size).contiguous()
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)


class PyramidVisionTransformerV2(PyramidVisionTransformer):
    """The second version: overlapping patches, no learnt positions, a convolution in each block.

    Args:
        **kwargs: As of :class:`PyramidVisionTransformer`, but for those that make the version.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            patch_sizes=(7, 3, 3, 3),
            paddings=(3, 1, 1, 1),
            use_abs_pos_embed=False,
            norm_after_stage=True,
            use_conv_ffn=True,
            **kwargs,
        )
