"""The blocks of residual networks, and stages of them."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from det_backbones.block_options import PluginCfg, Position, add_plugins, middle_conv
from detcore.nn import BaseModule, Sequential, build_conv_layer, build_norm_layer, checkpointed

Style = Literal["pytorch", "caffe"]


class BasicBlock(BaseModule):
    """Two 3x3 convolutions and a shortcut (He et al. 2016).

    Args:
        inplanes: Channels of the input.
        planes: Channels of the convolutions; the output has ``expansion`` times as many.
        stride: Of the first convolution.
        dilation: Of the first convolution.
        downsample: What brings the shortcut to the output's shape, None where it has it.
        style: Has no meaning here; see :class:`Bottleneck`.
        with_cp: Whether to compute activations again in the backward pass, to save memory.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of normalisation.
        dcn: Only None; see :class:`Bottleneck`.
        plugins: Only None; see :class:`Bottleneck`.
        init_cfg: As of :class:`~detcore.nn.BaseModule`.

    Raises:
        ValueError: It is to have what only a bottleneck may have.
    """

    expansion: ClassVar[int] = 1
    last_norm: ClassVar[str] = "norm2"

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        dilation: int = 1,
        downsample: nn.Module | None = None,
        style: Style = "pytorch",
        with_cp: bool = False,
        conv_cfg: dict[str, Any] | None = None,
        norm_cfg: dict[str, Any] | None = None,
        dcn: dict[str, Any] | None = None,
        plugins: Sequence[PluginCfg] | None = None,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        for name, option in (("dcn", dcn), ("plugins", plugins)):
            if option:
                raise ValueError(f"BasicBlock (depth 18 and 34) has no {name}, Bottleneck has; got {option}")
        norm_cfg = norm_cfg or {"type": "BN"}
        self.norm1_name, norm1 = build_norm_layer(norm_cfg, planes, postfix=1)
        self.norm2_name, norm2 = build_norm_layer(norm_cfg, planes, postfix=2)
        self.conv1 = build_conv_layer(
            conv_cfg, inplanes, planes, 3, stride=stride, padding=dilation, dilation=dilation, bias=False
        )
        self.add_module(self.norm1_name, norm1)
        self.conv2 = build_conv_layer(conv_cfg, planes, planes, 3, padding=1, bias=False)
        self.add_module(self.norm2_name, norm2)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample
        self.with_cp = with_cp

    @property
    def norm1(self) -> nn.Module:
        """Normalisation after the first convolution."""
        return self.get_submodule(self.norm1_name)

    @property
    def norm2(self) -> nn.Module:
        """Normalisation after the second convolution."""
        return self.get_submodule(self.norm2_name)

    def _residual(self, x: Tensor) -> Tensor:
        out = self.relu(getattr(self, self.norm1_name)(self.conv1(x)))
        out = getattr(self, self.norm2_name)(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """``Tensor[B, inplanes, H, W]`` to ``Tensor[B, planes, H / stride, W / stride]``."""
        return self.relu(checkpointed(self, self._residual, x) if self.with_cp else self._residual(x))


class Bottleneck(BaseModule):
    """Convolutions 1x1, 3x3, 1x1 and a shortcut (He et al. 2016; with groups, Xie et al. 2017).

    Args:
        inplanes: Channels of the input.
        planes: Channels of the stage; the output has ``expansion`` times as many.
        stride: Of the 3x3 convolution (``style='pytorch'``) or of the first (``'caffe'``).
        dilation: Of the 3x3 convolution.
        downsample: What brings the shortcut to the output's shape, None where it has it.
        style: Where the stride is.
        with_cp: Whether to compute activations again in the backward pass, to save memory.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of normalisation.
        width: Channels of the 3x3 convolution; ``planes`` where None.
        groups: Groups of the 3x3 convolution.
        dcn: Makes the 3x3 convolution a deformable one: ``dict(type='DCN' | 'DCNv2', deform_groups=1,
            fallback_on_stride=False)``; with ``fallback_on_stride`` only where it does not stride.
        plugins: Layers to take in, ``dict(cfg=dict(type=...), position='after_conv1')`` or after another
            convolution, its normalisation and activation; after the third, before the shortcut is added.
        init_cfg: As of :class:`~detcore.nn.BaseModule`.

    Raises:
        ValueError: There are ``dcn`` and ``conv_cfg``, or plugins of an unknown position or one name.
    """

    expansion: ClassVar[int] = 4
    last_norm: ClassVar[str] = "norm3"

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        dilation: int = 1,
        downsample: nn.Module | None = None,
        style: Style = "pytorch",
        with_cp: bool = False,
        conv_cfg: dict[str, Any] | None = None,
        norm_cfg: dict[str, Any] | None = None,
        width: int | None = None,
        groups: int = 1,
        dcn: dict[str, Any] | None = None,
        plugins: Sequence[PluginCfg] | None = None,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        norm_cfg = norm_cfg or {"type": "BN"}
        width = planes if width is None else width
        first_stride, middle_stride = (1, stride) if style == "pytorch" else (stride, 1)
        self.norm1_name, norm1 = build_norm_layer(norm_cfg, width, postfix=1)
        self.norm3_name, norm3 = build_norm_layer(norm_cfg, planes * self.expansion, postfix=3)
        self.conv1 = build_conv_layer(conv_cfg, inplanes, width, 1, stride=first_stride, bias=False)
        self.add_module(self.norm1_name, norm1)
        self._make_middle(conv_cfg, norm_cfg, dcn, width, middle_stride, dilation, groups)
        self.conv3 = build_conv_layer(conv_cfg, width, planes * self.expansion, 1, bias=False)
        self.add_module(self.norm3_name, norm3)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample
        self.with_cp = with_cp
        channels: dict[Position, int] = {
            "after_conv1": width, "after_conv2": width, "after_conv3": planes * self.expansion,
        }  # fmt: skip
        self.plugin_names = add_plugins(self, plugins, channels)

    def _make_middle(
        self,
        conv_cfg: dict[str, Any] | None,
        norm_cfg: dict[str, Any],
        dcn: dict[str, Any] | None,
        width: int,
        stride: int,
        dilation: int,
        groups: int,
    ) -> None:
        """Make the layers of :meth:`_middle`; variants make others."""
        self.norm2_name, norm2 = build_norm_layer(norm_cfg, width, postfix=2)
        self.conv2 = middle_conv(conv_cfg, dcn, width, stride, dilation, groups)
        self.add_module(self.norm2_name, norm2)

    @property
    def norm1(self) -> nn.Module:
        """Normalisation after the first convolution."""
        return self.get_submodule(self.norm1_name)

    @property
    def norm2(self) -> nn.Module:
        """Normalisation after the second convolution."""
        return self.get_submodule(self.norm2_name)

    @property
    def norm3(self) -> nn.Module:
        """Normalisation after the third convolution."""
        return self.get_submodule(self.norm3_name)

    def _plugged(self, position: Position, out: Tensor) -> Tensor:
        for name in self.plugin_names[position]:
            out = getattr(self, name)(out)
        return out

    def _middle(self, x: Tensor) -> Tensor:
        """The 3x3 convolution with its norm and activation: ``Tensor[B, width, H / stride, W / stride]``."""
        out: Tensor = self.relu(getattr(self, self.norm2_name)(self.conv2(x)))
        return out

    def _residual(self, x: Tensor) -> Tensor:
        out = self.relu(getattr(self, self.norm1_name)(self.conv1(x)))
        out = self._plugged("after_conv1", out)
        out = self._plugged("after_conv2", self._middle(out))
        out = getattr(self, self.norm3_name)(self.conv3(out))
        out = self._plugged("after_conv3", out)
        out += x if self.downsample is None else self.downsample(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """``Tensor[B, inplanes, H, W]`` to ``Tensor[B, planes * 4, H / stride, W / stride]``."""
        return self.relu(checkpointed(self, self._residual, x) if self.with_cp else self._residual(x))


Block = type[BasicBlock] | type[Bottleneck]


class ResLayer(Sequential):
    """One stage: a block that changes shape, then ``num_blocks - 1`` that keep it.

    Args:
        block: Class of the blocks.
        inplanes: Channels of the input.
        planes: Channels of the stage; the output has ``block.expansion`` times as many.
        num_blocks: Number of blocks.
        stride: Of the first block.
        avg_down: Whether the shortcut averages before a 1x1 convolution instead of striding with it.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of normalisation.
        **kwargs: Further arguments of every block.
    """

    def __init__(
        self,
        block: Block,
        inplanes: int,
        planes: int,
        num_blocks: int,
        stride: int = 1,
        avg_down: bool = False,
        conv_cfg: dict[str, Any] | None = None,
        norm_cfg: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        norm_cfg = norm_cfg or {"type": "BN"}
        outplanes = planes * block.expansion
        shortcut = None
        if stride != 1 or inplanes != outplanes:
            shortcut = _shortcut(inplanes, outplanes, stride, avg_down, conv_cfg, norm_cfg)
        kwargs.update(conv_cfg=conv_cfg, norm_cfg=norm_cfg)
        blocks = [block(inplanes, planes, stride=stride, downsample=shortcut, **kwargs)]
        blocks += [block(outplanes, planes, **kwargs) for _ in range(1, num_blocks)]
        super().__init__(*blocks)


def _shortcut(
    inplanes: int,
    outplanes: int,
    stride: int,
    avg_down: bool,
    conv_cfg: dict[str, Any] | None,
    norm_cfg: dict[str, Any],
) -> nn.Sequential:
    layers: list[nn.Module] = []
    if avg_down:
        # With a stride of 1 there is nothing to average, but checkpoints count a layer here.
        pool = nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
        layers.append(nn.Identity() if stride == 1 else pool)
        stride = 1
    layers.append(build_conv_layer(conv_cfg, inplanes, outplanes, 1, stride=stride, bias=False))
    layers.append(build_norm_layer(norm_cfg, outplanes)[1])
    return nn.Sequential(*layers)
