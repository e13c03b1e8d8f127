"""ConvNeXt: A ConvNet for the 2020s (Liu et al., CVPR 2022, arXiv 2201.03545), and its second version (Woo et
al., CVPR 2023, arXiv 2301.00808).

A residual network with the habits of transformers. The image becomes patches of 4x4 pixels; between stages a
layer norm and a 2x2 convolution halve the map (section 2.6). A block is a 7x7 convolution within each
channel, a layer norm over channels, and two linear layers with a GELU between them, the first of which makes
channels four times as many (figure 4); what comes out is scaled by a learnt factor for each channel (layer
scale) and added to the input. The second version leaves the factor out and instead lets channels compete
within the wide layer (global response normalisation, section 3 of the second paper).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, TypedDict

import torch
from torch import Tensor, nn

from det_backbones.stages import arch_of, check_indices, freeze, settle, start_of
from detcore.nn import (
    BaseModule,
    DropPath,
    ModuleList,
    Sequential,
    build_activation_layer,
    build_norm_layer,
    checkpointed,
)
from detcore.nn.base_module import DeferredInit
from detcore.nn.build import ActCfg, NormCfg

_GELU = {"type": "GELU"}
_LAYER_NORM = {"type": "LN2d", "eps": 1e-6}
_START = [
    {"type": "TruncNormal", "layer": ["Conv2d", "Linear"], "std": 0.02, "bias": 0},
    {"type": "Constant", "layer": "LayerNorm", "val": 1, "bias": 0},
]
_EXPANSION = 4


class Arch(TypedDict):
    """Stages of a network: ``depths``, blocks of each, and ``channels``, of each."""

    depths: Sequence[int]
    channels: Sequence[int]


class GlobalResponseNorm(nn.Module):
    """Channels that respond more than the others over the whole map are raised: equations 1 to 3 of the
    second paper.

    Args:
        channels: Of the map.
        eps: Added to the mean response that each one is divided by.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.gamma, self.beta = (nn.Parameter(torch.zeros(channels)) for _ in range(2))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """``Tensor[B, H, W, channels]`` to the same shape."""
        response = x.norm(dim=(1, 2), keepdim=True)
        share = response / (response.mean(dim=-1, keepdim=True) + self.eps)
        return self.gamma * (x * share) + self.beta + x


class ConvNeXtBlock(BaseModule):
    """Depthwise convolution and two layers over channels, beside a shortcut (figure 4).

    Args:
        channels: Of input and output.
        norm_cfg: Kind of norm layer.
        act_cfg: Kind of activation.
        linear_pw_conv: Layers over channels are linear ones, else 1x1 convolutions: the same numbers, in
            weights of another shape.
        use_grn: Whether there is global response normalisation between them.
        drop_path_rate: Chance of a sample to go past, in training.
        layer_scale_init_value: What the learnt factors start from; none where it is 0.
        with_cp: Whether to compute activations again in the backward pass, to save memory.
    """

    def __init__(
        self,
        channels: int,
        norm_cfg: dict[str, Any],
        act_cfg: dict[str, Any],
        linear_pw_conv: bool,
        use_grn: bool,
        drop_path_rate: float,
        layer_scale_init_value: float,
        with_cp: bool,
    ) -> None:
        super().__init__()
        self.linear_pw_conv, self.with_cp = linear_pw_conv, with_cp
        self.depthwise_conv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = build_norm_layer(norm_cfg, channels)[1]
        wide = _EXPANSION * channels
        kind: Any = nn.Linear if linear_pw_conv else lambda i, o: nn.Conv2d(i, o, 1)
        self.pointwise_conv1, self.pointwise_conv2 = kind(channels, wide), kind(wide, channels)
        self.act = build_activation_layer(act_cfg)
        self.grn = GlobalResponseNorm(wide) if use_grn else None
        self.gamma: nn.Parameter | None = None
        if layer_scale_init_value > 0:
            self.gamma = nn.Parameter(torch.full((channels,), float(layer_scale_init_value)))
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """``Tensor[B, channels, H, W]`` to the same shape."""
        return checkpointed(self, self._both, x) if self.with_cp else self._both(x)

    def _both(self, x: Tensor) -> Tensor:
        out = self.norm(self.depthwise_conv(x))
        if self.linear_pw_conv:
            out = self._across(out.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        else:
            out = self._across(out)
        if self.gamma is not None:
            out = out * self.gamma[:, None, None]
        return x + self.drop_path(out)

    def _across(self, x: Tensor) -> Tensor:
        """The layers over channels; channels are last, unless the layers are convolutions."""
        x = self.act(self.pointwise_conv1(x))
        if self.grn is not None:
            x = self.grn(x) if self.linear_pw_conv else self.grn(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.pointwise_conv2(x)


class ConvNeXt(BaseModule):
    """ConvNeXt without classifier: feature maps of its stages. Arguments and weights have MMPretrain's names.

    Args:
        arch: Name of a network of the papers (:attr:`arch_settings`), or its stages.
        in_channels: Channels of the image.
        stem_patch_size: Pixels of a patch, each way.
        norm_cfg: Kind of norm layer.
        act_cfg: Kind of activation.
        linear_pw_conv: As of :class:`ConvNeXtBlock`, like the next one.
        use_grn: Global response normalisation, as in the second version.
        drop_path_rate: Chance of a sample to go past the last block, growing from 0 at the first.
        layer_scale_init_value: What the learnt factors of blocks start from; none where it is 0, as in the
            second version.
        out_indices: Stage whose output is returned, or several; each output has a norm layer of its own.
            Negative numbers count from the last.
        frozen_stages: So many stages do not train, with what leads to each.
        gap_before_final_norm: For classifiers: the last map is averaged to one vector an image. Detectors
            need maps, so it must be False where the last stage is among ``out_indices``.
        with_cp: Whether to compute activations of blocks again in the backward pass, to save memory.
        init_cfg: As of :class:`~detcore.nn.BaseModule`; small random values where None.

    Attributes:
        out_channels: Channels of the maps, one entry each.
        out_strides: Pixels of the image per pixel of the maps, one entry each.

    Raises:
        ValueError: There is no such network, or arguments do not fit each other.
    """

    arch_settings: ClassVar[dict[str, Arch]] = {
        name: {"depths": depths, "channels": tuple(width * 2**stage for stage in range(4))}
        for name, depths, width in (
            ("atto", (2, 2, 6, 2), 40),
            ("femto", (2, 2, 6, 2), 48),
            ("pico", (2, 2, 6, 2), 64),
            ("nano", (2, 2, 8, 2), 80),
            ("tiny", (3, 3, 9, 3), 96),
            ("small", (3, 3, 27, 3), 96),
            ("base", (3, 3, 27, 3), 128),
            ("large", (3, 3, 27, 3), 192),
            ("xlarge", (3, 3, 27, 3), 256),
            ("huge", (3, 3, 27, 3), 352),
        )
    }

    def __init__(
        self,
        arch: str | Arch = "tiny",
        in_channels: int = 3,
        stem_patch_size: int = 4,
        norm_cfg: NormCfg = _LAYER_NORM,
        act_cfg: ActCfg = _GELU,
        linear_pw_conv: bool = True,
        use_grn: bool = False,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float = 1e-6,
        out_indices: int | Sequence[int] = -1,
        frozen_stages: int = 0,
        gap_before_final_norm: bool = False,
        with_cp: bool = False,
        init_cfg: DeferredInit = None,
    ) -> None:
        super().__init__(start_of(None, init_cfg, _START))
        depths, channels = self._stages_of(arch)
        self.out_indices = _chosen(out_indices, len(depths))
        check_indices("frozen_stages", [frozen_stages], len(depths) + 1)
        if gap_before_final_norm and len(depths) - 1 in self.out_indices:
            raise ValueError(
                "gap_before_final_norm makes a vector of the last map, which is of no use to a detector: set "
                f"it to False, or leave stage {len(depths) - 1} out of out_indices"
            )
        self.frozen_stages = frozen_stages
        norm_cfg, act_cfg = norm_cfg or _LAYER_NORM, act_cfg or _GELU
        options: dict[str, Any] = {
            "norm_cfg": norm_cfg, "act_cfg": act_cfg, "linear_pw_conv": linear_pw_conv, "use_grn": use_grn,
            "layer_scale_init_value": layer_scale_init_value, "with_cp": with_cp,
        }  # fmt: skip
        rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist()
        stem = nn.Conv2d(in_channels, channels[0], stem_patch_size, stride=stem_patch_size)
        self.downsample_layers = ModuleList([Sequential(stem, build_norm_layer(norm_cfg, channels[0])[1])])
        self.stages = ModuleList()
        for i, (depth, width) in enumerate(zip(depths, channels, strict=True)):
            if i:
                before = channels[i - 1]
                halving = nn.Conv2d(before, width, 2, stride=2)
                self.downsample_layers.append(Sequential(build_norm_layer(norm_cfg, before)[1], halving))
            blocks = (ConvNeXtBlock(width, drop_path_rate=rates.pop(0), **options) for _ in range(depth))
            self.stages.append(Sequential(*blocks))
            if i in self.out_indices:
                self.add_module(f"norm{i}", build_norm_layer(norm_cfg, width)[1])
        self.out_channels = tuple(channels[i] for i in self.out_indices)
        self.out_strides = tuple(stem_patch_size * 2**i for i in self.out_indices)
        freeze(self._frozen())

    @classmethod
    def _stages_of(cls, arch: str | Arch) -> tuple[list[int], list[int]]:
        """Blocks and channels of each stage."""
        arch = arch_of("ConvNeXt", arch, cls.arch_settings, Arch.__required_keys__)
        depths, channels = list(arch["depths"]), list(arch["channels"])
        if len(depths) != len(channels) or not depths:
            raise ValueError(f"arch of ConvNeXt needs depths and channels of each stage, got {dict(arch)}")
        return depths, channels

    def _frozen(self) -> list[nn.Module]:
        return [*self.downsample_layers[: self.frozen_stages], *self.stages[: self.frozen_stages]]

    def train(self, mode: bool = True) -> ConvNeXt:
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
            One ``Tensor[B, out_channels[i], H / out_strides[i], W / out_strides[i]]`` each, rounded down.
        """
        outs = []
        for i, (downsample, stage) in enumerate(zip(self.downsample_layers, self.stages, strict=True)):
            x = stage(downsample(x))
            if i in self.out_indices:
                outs.append(getattr(self, f"norm{i}")(x).contiguous())
        return tuple(outs)


def _chosen(out_indices: int | Sequence[int], num_stages: int) -> tuple[int, ...]:
    """Numbers of stages, counted from the first."""
    given = [out_indices] if isinstance(out_indices, int) else list(out_indices)
    check_indices("out_indices", given, num_stages, least=-num_stages)
    return tuple(sorted(index % num_stages for index in given))
