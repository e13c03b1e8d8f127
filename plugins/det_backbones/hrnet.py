"""HRNet: Deep High-Resolution Representation Learning for Visual Recognition (Wang et al., TPAMI 2020, arXiv
1908.07919).

The finest map, a quarter of the image, is kept through the whole network. Each stage adds a branch of half
the resolution of the coarsest (figure 2). A module of a stage runs its branches side by side and then fuses
them: branch i gets the sum of all branches, coarser ones through a 1x1 convolution and enlarged, finer ones
through 3x3 convolutions of stride 2 (figure 3, equation 1).
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypedDict

import torch.nn.functional as F
from torch import Tensor, nn

from det_backbones.residual import BasicBlock, Block, Bottleneck, ResLayer
from det_backbones.stages import settle, start_of
from detcore.nn import BaseModule, ModuleList, Sequential, build_conv_layer, build_norm_layer
from detcore.nn.base_module import DeferredInit
from detcore.nn.build import ConvCfg, NormCfg

_BATCH_NORM = {"type": "BN"}
_BLOCKS: dict[str, Block] = {"BASIC": BasicBlock, "BOTTLENECK": Bottleneck}
_STAGES = ("stage1", "stage2", "stage3", "stage4")


class StageCfg(TypedDict):
    """A stage: its modules, and of each branch the blocks and channels (times the block's expansion)."""

    num_modules: int
    num_branches: int
    block: Literal["BASIC", "BOTTLENECK"]
    num_blocks: Sequence[int]
    num_channels: Sequence[int]


class ExtraCfg(TypedDict):
    """The four stages."""

    stage1: StageCfg
    stage2: StageCfg
    stage3: StageCfg
    stage4: StageCfg


class Layers:
    """Convolutions as the whole network has them.

    Args:
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of normalisation.
    """

    def __init__(self, conv_cfg: dict[str, Any] | None, norm_cfg: dict[str, Any]) -> None:
        self.conv_cfg, self.norm_cfg = conv_cfg, norm_cfg

    def conv(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, relu: bool = True
    ) -> nn.Sequential:
        """Convolution, normalisation and, with ``relu``, activation."""
        options: dict[str, Any] = {"stride": stride, "padding": kernel_size // 2, "bias": False}
        conv = build_conv_layer(self.conv_cfg, in_channels, out_channels, kernel_size, **options)
        norm = build_norm_layer(self.norm_cfg, out_channels)[1]
        return nn.Sequential(conv, norm, *([nn.ReLU(inplace=True)] if relu else []))

    def halvings(self, in_channels: int, out_channels: int, number: int, relu_last: bool) -> nn.Sequential:
        """So many 3x3 convolutions of stride 2, of which the last changes the channels."""
        steps = [self.conv(in_channels, in_channels, 3, stride=2) for _ in range(number - 1)]
        return nn.Sequential(*steps, self.conv(in_channels, out_channels, 3, stride=2, relu=relu_last))


class HRModule(BaseModule):
    """Branches side by side, and their fusion.

    Args:
        block: Class of the blocks.
        num_blocks: Of each branch.
        channels: Of each branch, what comes in and what goes out.
        planes: Of each branch, the channels of its blocks, without their expansion.
        num_outs: Branches that are fused: all, or the finest alone.
        layers: Makes the convolutions of the fusion.
        options: Further arguments of the blocks.
    """

    def __init__(
        self,
        block: Block,
        num_blocks: Sequence[int],
        channels: Sequence[int],
        planes: Sequence[int],
        num_outs: int,
        layers: Layers,
        options: dict[str, Any],
    ) -> None:
        super().__init__()
        self.branches = ModuleList(
            ResLayer(block, inner, plane, blocks, **options)
            for inner, plane, blocks in zip(channels, planes, num_blocks, strict=True)
        )
        self.fuse_layers = ModuleList(
            ModuleList(self._way(source, target, channels, layers) for source in range(len(channels)))
            for target in range(num_outs)
        )

    @staticmethod
    def _way(source: int, target: int, channels: Sequence[int], layers: Layers) -> nn.Module:
        """What a branch goes through on its way to another, but for enlarging."""
        if source == target:
            return nn.Identity()
        if source > target:
            return layers.conv(channels[source], channels[target], 1, relu=False)
        return layers.halvings(channels[source], channels[target], target - source, relu_last=False)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The maps of the branches, finest first; each a fusion of all."""
        maps = [branch(each) for branch, each in zip(self.branches, maps, strict=True)]
        return [self._fused(target, ways, maps) for target, ways in enumerate(self.fuse_layers)]

    @staticmethod
    def _fused(target: int, ways: Any, maps: Sequence[Tensor]) -> Tensor:
        total: Tensor | None = None
        for source, (way, each) in enumerate(zip(ways, maps, strict=True)):
            term = way(each)
            if source > target:  # to the finer map's own size: that need not be a multiple of the coarser's
                term = F.interpolate(term, size=maps[target].shape[2:], mode="nearest")
            total = term if total is None else total + term
        assert total is not None
        return F.relu(total)


class HRNet(BaseModule):
    """HRNet without classifier: the four maps of the last stage.

    Args:
        extra: The stages: ``dict(stage1=dict(num_modules=1, num_branches=1, block='BOTTLENECK',
            num_blocks=(4,), num_channels=(64,)), stage2=..., stage3=..., stage4=...)`` with one branch more
            from stage to stage.
        in_channels: Channels of the image.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of normalisation.
        norm_eval: Whether batch norms use their averages in training, too (their weights still train).
        with_cp: Whether to compute activations of blocks again in the backward pass, to save memory.
        zero_init_residual: Whether blocks start as identities, where no pretrained weights are given.
        multiscale_output: Whether all maps are returned, not the finest alone.
        pretrained: Older way to write ``init_cfg=dict(type='Pretrained', checkpoint=...)``.
        init_cfg: As of :class:`~detcore.nn.BaseModule`; Kaiming's values where None.

    Attributes:
        out_channels: Channels of the maps, one entry each.
        out_strides: Pixels of the image per pixel of the maps, one entry each.

    Raises:
        ValueError: The stages do not fit.
    """

    def __init__(
        self,
        extra: ExtraCfg,
        in_channels: int = 3,
        conv_cfg: ConvCfg = None,
        norm_cfg: NormCfg = _BATCH_NORM,
        norm_eval: bool = True,
        with_cp: bool = False,
        zero_init_residual: bool = False,
        multiscale_output: bool = True,
        pretrained: str | None = None,
        init_cfg: DeferredInit = None,
    ) -> None:
        self._check(extra)
        pretrains = pretrained is not None or init_cfg is not None
        super().__init__(start_of(pretrained, init_cfg))
        self.extra, self.norm_eval = extra, norm_eval
        self.zero_init_residual = zero_init_residual and not pretrains
        norm_cfg = norm_cfg or _BATCH_NORM
        self.options: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "with_cp": with_cp}
        layers = Layers(conv_cfg, norm_cfg)
        self._make_stem(in_channels)
        first: Any = extra["stage1"]
        block = _BLOCKS[first["block"]]
        planes, number = first["num_channels"][0], first["num_blocks"][0]
        self.layer1 = ResLayer(block, 64, planes, number, **self._block_options(block))
        channels = [planes * block.expansion]
        for number in (2, 3, 4):
            cfg: Any = extra[f"stage{number}"]  # type: ignore[literal-required]
            finest_alone = number == 4 and not multiscale_output
            wanted = [planes * _BLOCKS[cfg["block"]].expansion for planes in cfg["num_channels"]]
            self.add_module(f"transition{number - 1}", self._transition(channels, wanted, layers))
            self.add_module(f"stage{number}", self._stage(cfg, wanted, finest_alone, layers))
            channels = wanted
        outs = len(channels) if multiscale_output else 1
        self.out_channels, self.out_strides = tuple(channels[:outs]), (4, 8, 16, 32)[:outs]

    @staticmethod
    def _check(extra: ExtraCfg) -> None:
        for branches, name in enumerate(_STAGES, start=1):
            cfg: Any = extra.get(name)
            if cfg is None:
                raise ValueError(f"extra of HRNet needs {', '.join(_STAGES)}; {name} is missing")
            lengths = {key: len(cfg[key]) for key in ("num_blocks", "num_channels")}
            if cfg["num_branches"] != branches or set(lengths.values()) != {branches}:
                raise ValueError(
                    f"extra.{name} of HRNet must have num_branches={branches} and as many num_blocks and "
                    f"num_channels; got num_branches={cfg['num_branches']} and {lengths}"
                )
            if cfg["block"] not in _BLOCKS:
                raise ValueError(
                    f"extra.{name}.block of HRNet must be one of {', '.join(_BLOCKS)}, got {cfg['block']!r}"
                )

    def _make_stem(self, in_channels: int) -> None:
        """Two 3x3 convolutions of stride 2."""
        conv_cfg, norm_cfg = self.options["conv_cfg"], self.options["norm_cfg"]
        self.norm1_name, norm1 = build_norm_layer(norm_cfg, 64, postfix=1)
        self.norm2_name, norm2 = build_norm_layer(norm_cfg, 64, postfix=2)
        self.conv1 = build_conv_layer(conv_cfg, in_channels, 64, 3, stride=2, padding=1, bias=False)
        self.add_module(self.norm1_name, norm1)
        self.conv2 = build_conv_layer(conv_cfg, 64, 64, 3, stride=2, padding=1, bias=False)
        self.add_module(self.norm2_name, norm2)
        self.relu = nn.ReLU(inplace=True)

    def _block_options(self, block: Block) -> dict[str, Any]:
        zero = {"type": "Constant", "val": 0, "override": {"name": block.last_norm}}
        return {**self.options, "init_cfg": zero if self.zero_init_residual else None}

    @staticmethod
    def _transition(given: Sequence[int], wanted: Sequence[int], layers: Layers) -> nn.ModuleList:
        """Branches of the next stage from those of the last: as they are or with other channels; one more."""
        ways: list[nn.Module] = [
            nn.Identity() if before == after else layers.conv(before, after, 3)
            for before, after in zip(given, wanted, strict=False)
        ]
        return nn.ModuleList([*ways, layers.halvings(given[-1], wanted[-1], 1, relu_last=True)])

    def _stage(self, cfg: Any, channels: Sequence[int], finest_alone: bool, layers: Layers) -> Sequential:
        block, number = _BLOCKS[cfg["block"]], cfg["num_modules"]
        outs = [len(channels)] * number
        if finest_alone:
            outs[-1] = 1
        options = self._block_options(block)
        parts = (block, cfg["num_blocks"], channels, cfg["num_channels"])
        return Sequential(*(HRModule(*parts, num_outs, layers, options) for num_outs in outs))

    def train(self, mode: bool = True) -> HRNet:
        """Switch to training, with ``norm_eval`` apart from batch norms."""
        super().train(mode)
        if mode:
            settle(self, [], self.norm_eval)
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """The maps of the last stage, finest first.

        Args:
            x: ``Tensor[B, in_channels, H, W]``.

        Returns:
            One ``Tensor[B, out_channels[i], H / out_strides[i], W / out_strides[i]]`` each, rounded up.
        """
        x = self.relu(getattr(self, self.norm1_name)(self.conv1(x)))
        x = self.relu(getattr(self, self.norm2_name)(self.conv2(x)))
        maps = [self.layer1(x)]
        for number in (2, 3, 4):
            ways = getattr(self, f"transition{number - 1}")
            maps = [way(each) for way, each in zip(ways, [*maps, maps[-1]], strict=True)]
            maps = getattr(self, f"stage{number}")(maps)
        return tuple(maps)
