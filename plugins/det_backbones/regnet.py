"""RegNet: Designing Network Design Spaces (Radosavovic et al., CVPR 2020, arXiv 2003.13678), the RegNetX of
table 2.

Blocks are residual bottlenecks without a bottleneck: 1x1, grouped 3x3 and 1x1 convolutions of one width,
which follows from the block's number alone. Widths grow linearly, u_j = w_0 + w_a j (equation 2); each
becomes the nearest w_0 w_m^s with a whole s (equations 3 and 4), to multiples of 8; blocks of one width are
a stage, and a stage's width is rounded to a multiple of its groups' width.
"""
from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, ClassVar, TypedDict

from torch import Tensor, nn

from det_backbones.block_options import DcnCfg, PluginCfg, check_options, plugins_of_stage
from det_backbones.residual import Bottleneck, ResLayer, Style
from det_backbones.stages import arch_of, check_indices, freeze, settle, start_of
from detcore.nn import BaseModule, build_conv_layer, build_norm_layer
from detcore.nn.base_module import DeferredInit
from detcore.nn.build import ConvCfg, NormCfg

_BATCH_NORM = {"type": "BN", "requires_grad": True}


class Arch(TypedDict):
    """What a RegNetX follows from: equations 2 to 4."""

    w0: int
    wa: float
    wm: float
    group_w: int
    depth: int
    bot_mul: float


class XBlock(Bottleneck):
    """The paper's X block: a bottleneck that ends with the channels of its stage (figure 4)."""

    expansion: ClassVar[int] = 1


class RegNet(BaseModule):
    """RegNetX without classifier: feature maps of its stages.

    Args:
        arch: Name of a published network, ``'regnetx_3.2gf'``, or the numbers that one follows from.
        in_channels: Channels of the image.
        stem_channels: Channels after the stem, a 3x3 convolution of stride 2.
        base_channels: Has no meaning here; taken so that configs need not be changed.
        strides: Of the stages.
        dilations: Of the stages.
        out_indices: Stages whose output is returned.
        style: Stride in the 3x3 convolution of a block (``'pytorch'``) or in the first (``'caffe'``).
        deep_stem: Only False: the paper has one stem.
        avg_down: Shortcuts average before their convolution instead of striding with it.
        frozen_stages: The stem and so many stages do not train: 0 is the stem alone, -1 freezes nothing.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of normalisation.
        norm_eval: Whether batch norms use their averages in training, too (their weights still train).
        dcn: As of :class:`~det_backbones.resnet.ResNet`, like the next two.
        stage_with_dcn: For each stage, whether its 3x3 convolutions are deformable.
        plugins: Layers that blocks take in.
        with_cp: Whether to compute activations again in the backward pass, to save memory.
        zero_init_residual: Whether blocks start as identities, where no pretrained weights are given.
        pretrained: Older way to write ``init_cfg=dict(type='Pretrained', checkpoint=...)``.
        init_cfg: As of :class:`~detcore.nn.BaseModule`; Kaiming's values where None.

    Attributes:
        out_channels: Channels of the maps, one entry each.
        out_strides: Pixels of the image per pixel of the maps, one entry each.

    Raises:
        ValueError: There is no such network, or arguments do not fit each other.
    """

    arch_settings: ClassVar[dict[str, Arch]] = {
        name: {"w0": w0, "wa": wa, "wm": wm, "group_w": group_w, "depth": depth, "bot_mul": 1.0}
        for name, w0, wa, wm, group_w, depth in (
            ("regnetx_400mf", 24, 24.48, 2.54, 16, 22),
            ("regnetx_800mf", 56, 35.73, 2.28, 16, 16),
            ("regnetx_1.6gf", 80, 34.01, 2.25, 24, 18),
            ("regnetx_3.2gf", 88, 26.31, 2.25, 48, 25),
            ("regnetx_4.0gf", 96, 38.65, 2.43, 40, 23),
            ("regnetx_6.4gf", 184, 60.83, 2.07, 56, 17),
            ("regnetx_8.0gf", 80, 49.56, 2.88, 120, 23),
            ("regnetx_12gf", 168, 73.36, 2.37, 112, 19),
        )
    }

    def __init__(
        self,
        arch: str | Arch,
        in_channels: int = 3,
        stem_channels: int = 32,
        base_channels: int = 32,
        strides: Sequence[int] = (2, 2, 2, 2),
        dilations: Sequence[int] = (1, 1, 1, 1),
        out_indices: Sequence[int] = (0, 1, 2, 3),
        style: Style = "pytorch",
        deep_stem: bool = False,
        avg_down: bool = False,
        frozen_stages: int = -1,
        conv_cfg: ConvCfg = None,
        norm_cfg: NormCfg = _BATCH_NORM,
        norm_eval: bool = True,
        dcn: DcnCfg = None,
        stage_with_dcn: Sequence[bool] = (False, False, False, False),
        plugins: Sequence[PluginCfg] | None = None,
        with_cp: bool = False,
        zero_init_residual: bool = True,
        pretrained: str | None = None,
        init_cfg: DeferredInit = None,
    ) -> None:
        pretrains = pretrained is not None or init_cfg is not None
        super().__init__(start_of(pretrained, init_cfg))
        self.stage_widths, self.stage_blocks, self.stage_groups = self._stages_of(arch)
        num_stages = len(self.stage_widths)
        self._check(num_stages, strides, dilations, out_indices, frozen_stages, deep_stem)
        check_options(num_stages, conv_cfg, dcn, stage_with_dcn, plugins)
        self.out_indices, self.frozen_stages = tuple(out_indices), frozen_stages
        self.norm_eval = norm_eval
        norm_cfg = norm_cfg or _BATCH_NORM
        half: dict[str, Any] = {"stride": 2, "padding": 1, "bias": False}
        self.conv1 = build_conv_layer(conv_cfg, in_channels, stem_channels, 3, **half)
        self.norm1_name, norm1 = build_norm_layer(norm_cfg, stem_channels, postfix=1)
        self.add_module(self.norm1_name, norm1)
        self.relu = nn.ReLU(inplace=True)
        zero = {"type": "Constant", "val": 0, "override": {"name": XBlock.last_norm}}
        options: dict[str, Any] = {
            "style": style, "avg_down": avg_down, "with_cp": with_cp,
            "conv_cfg": conv_cfg, "norm_cfg": norm_cfg,
            "init_cfg": zero if zero_init_residual and not pretrains else None,
        }  # fmt: skip
        before, step, maps = stem_channels, 2, []
        self.res_layers: list[str] = []
        for i, (width, blocks) in enumerate(zip(self.stage_widths, self.stage_blocks, strict=True)):
            inner, groups = self.stage_groups[i]
            layer = ResLayer(
                XBlock, before, width, blocks, stride=strides[i], dilation=dilations[i],
                width=inner, groups=groups,
                dcn=dcn if dcn is not None and stage_with_dcn[i] else None,
                plugins=plugins_of_stage(plugins, i), **options,
            )  # fmt: skip
            self.res_layers.append(f"layer{i + 1}")
            self.add_module(self.res_layers[-1], layer)
            before, step = width, step * strides[i]
            maps.append((width, step))
        self.out_channels, self.out_strides = zip(*(maps[index] for index in self.out_indices), strict=True)
        freeze(self._frozen())

    @classmethod
    def _stages_of(cls, arch: str | Arch) -> tuple[list[int], list[int], list[tuple[int, int]]]:
        """Of each stage: its width, its number of blocks, and width and groups of its 3x3 convolutions."""
        arch = arch_of("RegNet", arch, cls.arch_settings, Arch.__required_keys__)
        every = block_widths(arch["w0"], arch["wa"], arch["wm"], arch["depth"])
        widths, blocks, groups = [], [], []
        for width, same in itertools.groupby(every):
            inner = round(width * arch["bot_mul"])
            group_width = min(arch["group_w"], inner)
            inner = round(inner / group_width) * group_width
            widths.append(int(inner / arch["bot_mul"]))
            blocks.append(len(list(same)))
            groups.append((inner, inner // group_width))
        return widths, blocks, groups

    @staticmethod
    def _check(
        num_stages: int,
        strides: Sequence[int],
        dilations: Sequence[int],
        out_indices: Sequence[int],
        frozen_stages: int,
        deep_stem: bool,
    ) -> None:
        if len(strides) != num_stages or len(dilations) != num_stages:
            raise ValueError(
                f"{num_stages} stages need as many strides and dilations, got {strides} and {dilations}"
            )
        check_indices("out_indices", out_indices, num_stages)
        check_indices("frozen_stages", [frozen_stages], num_stages + 1, least=-1)
        if deep_stem:
            raise ValueError("RegNet has no deep stem: deep_stem must be False")

    def _frozen(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        stages = [self.get_submodule(name) for name in self.res_layers[: self.frozen_stages]]
        return [self.conv1, self.get_submodule(self.norm1_name), *stages]

    def train(self, mode: bool = True) -> RegNet:
        """Switch to training, apart from what is frozen and, with ``norm_eval``, from batch norms."""
        super().train(mode)
        if mode:
            settle(self, self._frozen(), self.norm_eval)
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Feature maps of the stages in ``out_indices``.

        Args:
            x: ``Tensor[B, in_channels, H, W]``.

        Returns:
            One ``Tensor[B, out_channels[i], H / out_strides[i], W / out_strides[i]]`` each, rounded up.
        """
        x = self.relu(getattr(self, self.norm1_name)(self.conv1(x)))
        outs = []
        for i, name in enumerate(self.res_layers):
            x = getattr(self, name)(x)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)


def block_widths(w0: int, wa: float, wm: float, depth: int) -> list[int]:
    """Width of every block, in multiples of 8: equations 2 to 4.

    Args:
        w0: Width of the first block.
        wa: What is added from block to block, before widths are quantised.
        wm: Ratio of the widths of neighbouring stages.
        depth: Number of blocks.

    Returns:
        ``depth`` widths, each at least as large as the one before.
    """
    exponents = [round(math.log((w0 + wa * j) / w0) / math.log(wm)) for j in range(depth)]
    return [round(w0 * wm**exponent / 8) * 8 for exponent in exponents]
