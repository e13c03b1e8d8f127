"""CSPDarknet (YOLOv4, Bochkovskiy et al. 2020; as in YOLOX, Ge et al. 2021, arXiv 2107.08430)."""
from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from detcore.nn import BaseModule, ConvModule, CSPLayer
from detcore.nn.base_module import DeferredInit
from detcore.nn.build import ActCfg, ConvCfg, NormCfg
from detcore.nn.csp import BATCH_NORM, SWISH, conv_kind

# Channels before and after a stage, blocks, whether those have shortcuts, whether it pools in several sizes.
Stage = tuple[int, int, int, bool, bool]
KAIMING = {
    "type": "Kaiming",
    "layer": "Conv2d",
    "a": math.sqrt(5),
    "distribution": "uniform",
    "mode": "fan_in",
    "nonlinearity": "leaky_relu",
}


class Focus(BaseModule):
    """Half the height and width and four times the channels, then a convolution; nothing is left out.

    Args:
        in_channels: Of the image.
        out_channels: Of the map.
        kernel_size: Of the convolution.
        stride: Of the convolution.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of norm layer.
        act_cfg: Kind of activation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        conv_cfg: ConvCfg = None,
        norm_cfg: NormCfg = BATCH_NORM,
        act_cfg: ActCfg = SWISH,
    ) -> None:
        super().__init__()
        self.conv = ConvModule(
            in_channels * 4, out_channels, kernel_size, stride, (kernel_size - 1) // 2,
            conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg,
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """``Tensor[B, in_channels, H, W]`` to ``Tensor[B, out_channels, H / 2, W / 2]``.

        Raises:
            ValueError: Height or width is odd.
        """
        if x.shape[-2] % 2 or x.shape[-1] % 2:
            raise ValueError(f"Focus takes images of even height and width, got {tuple(x.shape[-2:])}")
        # Of each square of four pixels: upper left, lower left, upper right, lower right.
        corners = [x[..., row::2, column::2] for column in (0, 1) for row in (0, 1)]
        out: Tensor = self.conv(torch.cat(corners, dim=1))
        return out


class SPPBottleneck(BaseModule):
    """Spatial pyramid pooling: a map and its maxima over squares of several sizes, between 1x1 convolutions.

    Args:
        in_channels: Of the input; half of them are pooled.
        out_channels: Of the output.
        kernel_sizes: Sides of the squares, odd.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of norm layer.
        act_cfg: Kind of activation.
        init_cfg: How weights are initialised.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_sizes: Sequence[int] = (5, 9, 13),
        conv_cfg: ConvCfg = None,
        norm_cfg: NormCfg = BATCH_NORM,
        act_cfg: ActCfg = SWISH,
        init_cfg: DeferredInit = None,
    ) -> None:
        super().__init__(init_cfg)
        half = in_channels // 2
        kinds: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        self.conv1 = ConvModule(in_channels, half, 1, **kinds)
        self.poolings = nn.ModuleList(nn.MaxPool2d(side, 1, side // 2) for side in kernel_sizes)
        self.conv2 = ConvModule(half * (len(kernel_sizes) + 1), out_channels, 1, **kinds)

    def forward(self, x: Tensor) -> Tensor:
        """``Tensor[B, in_channels, H, W]`` to ``Tensor[B, out_channels, H, W]``."""
        x = self.conv1(x)
        out: Tensor = self.conv2(torch.cat([x, *(pool(x) for pool in self.poolings)], dim=1))
        return out


class CSPBackbone(BaseModule):
    """Base of CSPDarknet and CSPNeXt: a stem of stride 2 and stages of stride 2.

    Derived classes make the stem and say what a stage's CSP layer is like.

    Attributes:
        arch_settings: Name of the architecture -> its stages.
        out_channels: Channels of the maps, one entry each.
        out_strides: Pixels of the image per pixel of the maps, one entry each.
    """

    arch_settings: ClassVar[dict[str, tuple[Stage, ...]]]

    def set_up(
        self,
        stages: Sequence[Sequence[Any]],
        *,
        deepen_factor: float,
        widen_factor: float,
        out_indices: Sequence[int],
        frozen_stages: int,
        use_depthwise: bool,
        spp_sizes: Sequence[int],
        norm_eval: bool,
        kinds: dict[str, Any],
        csp: dict[str, Any],
    ) -> None:
        """Make stem and stages.

        Args:
            stages: Their settings, for factors of 1.
            deepen_factor: Factor of the numbers of blocks.
            widen_factor: Factor of the channels.
            out_indices: What is returned: 0 for the stem, 1 for the first stage, ...
            frozen_stages: The stem and so many stages do not train; -1 freezes nothing.
            use_depthwise: Whether 3x3 convolutions are separable.
            spp_sizes: Of the squares of :class:`SPPBottleneck`.
            norm_eval: Whether batch norms use their averages in training, too.
            kinds: ``conv_cfg``, ``norm_cfg`` and ``act_cfg``.
            csp: Further arguments of :class:`~detcore.nn.CSPLayer`.

        Raises:
            ValueError: ``out_indices`` or ``frozen_stages`` are none of the stages.
        """
        name, last = type(self).__name__, len(stages)
        if not out_indices or not all(0 <= index <= last for index in out_indices):
            raise ValueError(f"{name}: out_indices must be among 0 to {last}, got {tuple(out_indices)}")
        if not -1 <= frozen_stages <= last:
            raise ValueError(f"{name}: frozen_stages must be -1 to {last}, got {frozen_stages}")
        self.out_indices, self.frozen_stages, self.norm_eval = tuple(out_indices), frozen_stages, norm_eval
        channels = [int(stages[0][0] * widen_factor)]
        self.stem = self._make_stem(channels[0], kinds)
        self.layers = ["stem"]
        for number, (before, after, blocks, add_identity, use_spp) in enumerate(stages, start=1):
            ins, outs = int(before * widen_factor), int(after * widen_factor)
            parts: list[nn.Module] = [conv_kind(use_depthwise)(ins, outs, 3, stride=2, padding=1, **kinds)]
            if use_spp:
                parts.append(SPPBottleneck(outs, outs, spp_sizes, **kinds))
            num_blocks = max(round(blocks * deepen_factor), 1)
            csp_layer = CSPLayer(
                outs, outs, num_blocks=num_blocks, add_identity=add_identity,
                use_depthwise=use_depthwise, **csp, **kinds,
            )  # fmt: skip
            parts.append(csp_layer)
            channels.append(outs)
            self.layers.append(f"stage{number}")
            self.add_module(self.layers[-1], nn.Sequential(*parts))
        self.out_channels = tuple(channels[index] for index in self.out_indices)
        self.out_strides = tuple(2 ** (index + 1) for index in self.out_indices)
        self._freeze_stages()

    @classmethod
    def stages_of(cls, arch: str, overwrite: Sequence[Sequence[Any]] | None) -> Sequence[Sequence[Any]]:
        """Settings of the stages: ``overwrite`` where given, else the architecture's.

        Raises:
            ValueError: There is no such architecture, or a stage has other than five settings.
        """
        if overwrite is None and arch not in cls.arch_settings:
            raise ValueError(f"{cls.__name__}: arch is one of {', '.join(cls.arch_settings)}, got {arch!r}")
        stages = cls.arch_settings[arch] if overwrite is None else overwrite
        if not stages or any(len(stage) != 5 for stage in stages):
            raise ValueError(
                f"{cls.__name__}: a stage is (in_channels, out_channels, num_blocks, add_identity, use_spp), "
                f"got arch_ovewrite={overwrite}"
            )
        return stages

    @abstractmethod
    def _make_stem(self, channels: int, kinds: dict[str, Any]) -> nn.Module:
        """From the image to ``channels`` at half its size."""

    def _frozen(self) -> list[nn.Module]:
        return [self.get_submodule(name) for name in self.layers[: self.frozen_stages + 1]]

    def _freeze_stages(self) -> None:
        for module in self._frozen():
            module.eval()
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> CSPBackbone:
        """Switch to training, apart from what is frozen and, with ``norm_eval``, from batch norms.

        Frozen is what no gradient is wanted of: what a hook has thawed stays so.
        """
        super().train(mode)
        for module in self._frozen():
            if not any(parameter.requires_grad for parameter in module.parameters()):
                module.eval()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Feature maps of the stages in ``out_indices``.

        Args:
            x: ``Tensor[B, 3, H, W]``.

        Returns:
            One ``Tensor[B, out_channels[i], H / out_strides[i], W / out_strides[i]]`` each, rounded up.
        """
        outs = []
        for number, name in enumerate(self.layers):
            x = getattr(self, name)(x)
            if number in self.out_indices:
                outs.append(x)
        return tuple(outs)


class CSPDarknet(CSPBackbone):
    """CSPDarknet as YOLOX has it: :class:`Focus`, and CSP stages, the last with :class:`SPPBottleneck`.

    Args:
        arch: ``'P5'`` (maps to stride 32) or ``'P6'`` (to stride 64).
        deepen_factor: Factor of the numbers of blocks.
        widen_factor: Factor of the channels.
        out_indices: What is returned: 0 for the stem, 1 for the first stage, ...
        frozen_stages: The stem and so many stages do not train: 0 is the stem alone, -1 freezes nothing.
        use_depthwise: Whether 3x3 convolutions are separable (YOLOX-Nano).
        arch_ovewrite: The stages themselves, each (in_channels, out_channels, num_blocks, add_identity,
            use_spp), in place of ``arch``. Spelt as configs do.
        spp_kernal_sizes: Squares that maxima are taken over. Spelt as configs do.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of norm layer.
        act_cfg: Kind of activation.
        norm_eval: Whether batch norms use their averages in training, too (their weights still train).
        init_cfg: How weights are initialised.

    Attributes:
        out_channels: Channels of the maps, one entry each.
        out_strides: Pixels of the image per pixel of the maps, one entry each.

    Raises:
        ValueError: There is no such architecture, or arguments do not fit it.

    Example:
        >>> [tuple(f.shape) for f in CSPDarknet(widen_factor=0.25)(torch.rand(1, 3, 64, 64))]
        [(1, 64, 8, 8), (1, 128, 4, 4), (1, 256, 2, 2)]
    """

    arch_settings: ClassVar[dict[str, tuple[Stage, ...]]] = {
        "P5": (
            (64, 128, 3, True, False),
            (128, 256, 9, True, False),
            (256, 512, 9, True, False),
            (512, 1024, 3, False, True),
        ),
        "P6": (
            (64, 128, 3, True, False),
            (128, 256, 9, True, False),
            (256, 512, 9, True, False),
            (512, 768, 3, True, False),
            (768, 1024, 3, False, True),
        ),
    }

    def __init__(
        self,
        arch: str = "P5",
        deepen_factor: float = 1.0,
        widen_factor: float = 1.0,
        out_indices: Sequence[int] = (2, 3, 4),
        frozen_stages: int = -1,
        use_depthwise: bool = False,
        arch_ovewrite: Sequence[Sequence[Any]] | None = None,
        spp_kernal_sizes: Sequence[int] = (5, 9, 13),
        conv_cfg: ConvCfg = None,
        norm_cfg: NormCfg = BATCH_NORM,
        act_cfg: ActCfg = SWISH,
        norm_eval: bool = False,
        init_cfg: DeferredInit = KAIMING,
    ) -> None:
        super().__init__(init_cfg)
        self.set_up(
            self.stages_of(arch, arch_ovewrite),
            deepen_factor=deepen_factor,
            widen_factor=widen_factor,
            out_indices=out_indices,
            frozen_stages=frozen_stages,
            use_depthwise=use_depthwise,
            spp_sizes=spp_kernal_sizes,
            norm_eval=norm_eval,
            kinds={"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg},
            csp={},
        )

    def _make_stem(self, channels: int, kinds: dict[str, Any]) -> nn.Module:
        return Focus(3, channels, kernel_size=3, **kinds)
