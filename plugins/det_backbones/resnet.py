"""ResNet (He et al. 2016) and its variant with a deep stem (He et al. 2019, "bag of tricks", D)."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from det_backbones.block_options import DcnCfg, PluginCfg, check_options, plugins_of_stage
from det_backbones.residual import BasicBlock, Block, Bottleneck, ResLayer, Style
from detcore.nn import BaseModule, build_conv_layer, build_norm_layer
from detcore.nn.base_module import DeferredInit
from detcore.nn.build import ConvCfg, NormCfg

BATCH_NORM = {"type": "BN", "requires_grad": True}


class ResNet(BaseModule):
    """ResNet without classifier: feature maps of its stages.

    Args:
        depth: 18, 34, 50, 101 or 152.
        in_channels: Channels of the image.
        stem_channels: Channels after the stem; ``base_channels`` where None.
        base_channels: Channels of the first stage, which double from stage to stage.
        num_stages: How many of the four stages there are.
        strides: Of the stages.
        dilations: Of the stages.
        out_indices: Stages whose output is returned.
        style: Stride in the 3x3 convolution of a bottleneck (``'pytorch'``) or in the first (``'caffe'``).
        deep_stem: Three 3x3 convolutions instead of one of 7x7.
        avg_down: Shortcuts average before their convolution instead of striding with it.
        frozen_stages: The stem and so many stages do not train: 0 is the stem alone, -1 freezes nothing.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of normalisation.
        norm_eval: Whether batch norms use their averages in training, too (their weights still train).
        dcn: Kind of deformable convolution in place of the 3x3 ones of bottlenecks: ``dict(type='DCN')`` or
            ``'DCNv2'``; see :class:`~det_backbones.residual.Bottleneck`.
        stage_with_dcn: For each stage, whether it has them.
        plugins: Layers that bottlenecks take in: ``dict(cfg=dict(type=...), stages=(False, True, True, True),
            position='after_conv3')``; see :class:`~det_backbones.residual.Bottleneck`.
        with_cp: Whether to compute activations again in the backward pass, to save memory.
        zero_init_residual: Whether blocks start as identities, where no pretrained weights are given.
        pretrained: Older way to write ``init_cfg=dict(type='Pretrained', checkpoint=...)``.
        init_cfg: As of :class:`~detcore.nn.BaseModule`; Kaiming's values where None.

    Attributes:
        out_channels: Channels of the maps, one entry each.
        out_strides: Pixels of the image per pixel of the maps, one entry each.

    Raises:
        ValueError: The depth is unknown, or arguments do not fit each other.

    Example:
        >>> [tuple(f.shape) for f in ResNet(18)(torch.rand(1, 3, 64, 64))]
        [(1, 64, 16, 16), (1, 128, 8, 8), (1, 256, 4, 4), (1, 512, 2, 2)]
    """

    arch_settings: ClassVar[dict[int, tuple[Block, tuple[int, ...]]]] = {
        18: (BasicBlock, (2, 2, 2, 2)),
        34: (BasicBlock, (3, 4, 6, 3)),
        50: (Bottleneck, (3, 4, 6, 3)),
        101: (Bottleneck, (3, 4, 23, 3)),
        152: (Bottleneck, (3, 8, 36, 3)),
    }

    def __init__(
        self,
        depth: int,
        in_channels: int = 3,
        stem_channels: int | None = None,
        base_channels: int = 64,
        num_stages: int = 4,
        strides: Sequence[int] = (1, 2, 2, 2),
        dilations: Sequence[int] = (1, 1, 1, 1),
        out_indices: Sequence[int] = (0, 1, 2, 3),
        style: Style = "pytorch",
        deep_stem: bool = False,
        avg_down: bool = False,
        frozen_stages: int = -1,
        conv_cfg: ConvCfg = None,
        norm_cfg: NormCfg = BATCH_NORM,
        norm_eval: bool = True,
        dcn: DcnCfg = None,
        stage_with_dcn: Sequence[bool] = (False, False, False, False),
        plugins: Sequence[PluginCfg] | None = None,
        with_cp: bool = False,
        zero_init_residual: bool = True,
        pretrained: str | None = None,
        init_cfg: DeferredInit = None,
    ) -> None:
        self._check(depth, num_stages, strides, dilations, out_indices, style, frozen_stages)
        check_options(num_stages, conv_cfg, dcn, stage_with_dcn, plugins)
        if pretrained is not None and init_cfg is not None:
            raise ValueError("give pretrained or init_cfg, not both: pretrained is the older name for it")
        if pretrained is not None:
            init_cfg = {"type": "Pretrained", "checkpoint": pretrained}
        super().__init__(init_cfg)
        self.block, stage_blocks = self.arch_settings[depth]
        self.base_channels = base_channels
        self.deep_stem, self.out_indices = deep_stem, tuple(out_indices)
        self.frozen_stages, self.norm_eval = frozen_stages, norm_eval
        stem_channels = base_channels if stem_channels is None else stem_channels
        block_init = self._default_init(zero_init_residual) if self.init_cfg is None else None
        norm_cfg = norm_cfg or BATCH_NORM
        self._make_stem(in_channels, stem_channels, conv_cfg, norm_cfg)

        inplanes = stem_channels
        self.res_layers: list[str] = []
        for i in range(num_stages):
            planes = base_channels * 2**i
            layer = self.make_res_layer(
                block=self.block, inplanes=inplanes, planes=planes, num_blocks=stage_blocks[i],
                stride=strides[i], dilation=dilations[i], style=style, avg_down=avg_down, with_cp=with_cp,
                conv_cfg=conv_cfg, norm_cfg=norm_cfg, init_cfg=block_init,
                dcn=dcn if dcn is not None and stage_with_dcn[i] else None,
                plugins=plugins_of_stage(plugins, i),
            )
            inplanes = planes * self.block.expansion
            self.res_layers.append(f"layer{i + 1}")
            self.add_module(self.res_layers[-1], layer)
        self.out_channels, self.out_strides = self._outputs(strides)
        self._freeze_stages()

    @classmethod
    def _check(
        cls,
        depth: int,
        num_stages: int,
        strides: Sequence[int],
        dilations: Sequence[int],
        out_indices: Sequence[int],
        style: str,
        frozen_stages: int,
    ) -> None:
        if depth not in cls.arch_settings:
            raise ValueError(f"{cls.__name__} has depth {sorted(cls.arch_settings)}, got {depth}")
        if not 1 <= num_stages <= 4:
            raise ValueError(f"num_stages must be 1 to 4, got {num_stages}")
        if len(strides) != num_stages or len(dilations) != num_stages:
            raise ValueError(
                f"{num_stages} stages need as many strides and dilations, got {strides} and {dilations}"
            )
        if not out_indices or not all(0 <= index < num_stages for index in out_indices):
            raise ValueError(f"out_indices must be among 0 to {num_stages - 1}, got {tuple(out_indices)}")
        if style not in ("pytorch", "caffe"):
            raise ValueError(f"style must be 'pytorch' or 'caffe', got {style!r}")
        if not -1 <= frozen_stages <= num_stages:
            raise ValueError(f"frozen_stages must be -1 to {num_stages}, got {frozen_stages}")

    def _default_init(self, zero_init_residual: bool) -> dict[str, Any] | None:
        """Set what the network starts from without pretrained weights; return what its blocks do."""
        self.init_cfg = [
            {"type": "Kaiming", "layer": "Conv2d"},
            {"type": "Constant", "val": 1, "layer": ["_BatchNorm", "GroupNorm"]},
        ]
        if not zero_init_residual:
            return None
        return {"type": "Constant", "val": 0, "override": {"name": self.block.last_norm}}

    def _make_stem(
        self, in_channels: int, channels: int, conv_cfg: dict[str, Any] | None, norm_cfg: dict[str, Any]
    ) -> None:
        if self.deep_stem:
            layers: list[nn.Module] = []
            half = channels // 2
            for ins, outs, stride in ((in_channels, half, 2), (half, half, 1), (half, channels, 1)):
                layers.append(build_conv_layer(conv_cfg, ins, outs, 3, stride=stride, padding=1, bias=False))
                layers += [build_norm_layer(norm_cfg, outs)[1], nn.ReLU(inplace=True)]
            self.stem = nn.Sequential(*layers)
        else:
            self.conv1 = build_conv_layer(conv_cfg, in_channels, channels, 7, stride=2, padding=3, bias=False)
            self.norm1_name, norm1 = build_norm_layer(norm_cfg, channels, postfix=1)
            self.add_module(self.norm1_name, norm1)
            self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)

    def make_res_layer(self, **kwargs: Any) -> ResLayer:
        """One stage; variants change its blocks' arguments here."""
        return ResLayer(**kwargs)

    def _outputs(self, strides: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        channels, steps, step = [], [], 4
        for i, stride in enumerate(strides):
            step *= stride
            channels.append(self.base_channels * 2**i * self.block.expansion)
            steps.append(step)
        return tuple(channels[i] for i in self.out_indices), tuple(steps[i] for i in self.out_indices)

    @property
    def norm1(self) -> nn.Module:
        """Normalisation of the plain stem."""
        return self.get_submodule(self.norm1_name)

    def _frozen(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        stem = [self.stem] if self.deep_stem else [self.conv1, self.norm1]
        return stem + [self.get_submodule(name) for name in self.res_layers[: self.frozen_stages]]

    def _freeze_stages(self) -> None:
        for module in self._frozen():
            module.eval()
            # Where no parameter trains autograd records nothing: frozen stages cost a forward pass only.
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> ResNet:
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
            x: ``Tensor[B, in_channels, H, W]``.

        Returns:
            One ``Tensor[B, out_channels[i], H / out_strides[i], W / out_strides[i]]`` each, rounded up.
        """
        x = self.stem(x) if self.deep_stem else self.relu(getattr(self, self.norm1_name)(self.conv1(x)))
        x = self.maxpool(x)
        outs = []
        for i, name in enumerate(self.res_layers):
            x = getattr(self, name)(x)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)


class ResNetV1d(ResNet):
    """ResNet with a deep stem and averaging shortcuts; arguments as of :class:`ResNet`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(deep_stem=True, avg_down=True, **kwargs)
