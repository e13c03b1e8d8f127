"""Darknet-53: YOLOv3 (Redmon and Farhadi 2018, arXiv 1804.02767), table 1."""

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from det_backbones.stages import check_indices, freeze, settle, start_of
from detcore.nn import BaseModule, ConvModule, Sequential
from detcore.nn.base_module import DeferredInit
from detcore.nn.build import ActCfg, ConvCfg, NormCfg

_BATCH_NORM = {"type": "BN", "requires_grad": True}
_LEAKY = {"type": "LeakyReLU", "negative_slope": 0.1}


class ResBlock(BaseModule):
    """A 1x1 convolution to half the channels, a 3x3 convolution back, and a shortcut.

    Args:
        in_channels: Of input and output, an even number.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of normalisation.
        act_cfg: Kind of activation.
    """

    def __init__(
        self,
        in_channels: int,
        conv_cfg: ConvCfg = None,
        norm_cfg: NormCfg = _BATCH_NORM,
        act_cfg: ActCfg = _LEAKY,
    ) -> None:
        super().__init__()
        half = in_channels // 2
        layers: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        self.conv1 = ConvModule(in_channels, half, 1, **layers)
        self.conv2 = ConvModule(half, in_channels, 3, padding=1, **layers)

    def forward(self, x: Tensor) -> Tensor:
        """``Tensor[B, in_channels, H, W]`` to the same shape."""
        out: Tensor = x + self.conv2(self.conv1(x))
        return out


class Darknet(BaseModule):
    """Darknet without classifier: a convolution, then five stages, each a convolution of stride 2 and blocks.

    Args:
        depth: 53.
        out_indices: What is returned: 0 is the first convolution, 1 to 5 the stages.
        frozen_stages: So many of these six do not train; 0 and below freeze nothing.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of normalisation.
        act_cfg: Kind of activation.
        norm_eval: Whether batch norms use their averages in training, too (their weights still train).
        pretrained: Older way to write ``init_cfg=dict(type='Pretrained', checkpoint=...)``.
        init_cfg: As of :class:`~detcore.nn.BaseModule`; Kaiming's values where None.

    Attributes:
        out_channels: Channels of the maps, one entry each.
        out_strides: Pixels of the image per pixel of the maps, one entry each.

    Raises:
        ValueError: The depth is unknown, or there is no such stage.
    """

    arch_settings: ClassVar[dict[int, tuple[int, ...]]] = {53: (1, 2, 8, 8, 4)}  # depth -> blocks of a stage

    def __init__(
        self,
        depth: int = 53,
        out_indices: Sequence[int] = (3, 4, 5),
        frozen_stages: int = -1,
        conv_cfg: ConvCfg = None,
        norm_cfg: NormCfg = _BATCH_NORM,
        act_cfg: ActCfg = _LEAKY,
        norm_eval: bool = True,
        pretrained: str | None = None,
        init_cfg: DeferredInit = None,
    ) -> None:
        super().__init__(start_of(pretrained, init_cfg))
        if depth not in self.arch_settings:
            raise ValueError(f"Darknet has depth {sorted(self.arch_settings)}, got {depth}")
        num_blocks = self.arch_settings[depth]
        check_indices("out_indices", out_indices, len(num_blocks) + 1)
        check_indices("frozen_stages", [frozen_stages], len(num_blocks) + 2, least=-1)
        self.out_indices, self.frozen_stages = tuple(sorted(out_indices)), frozen_stages
        self.norm_eval = norm_eval
        layers: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        self.conv1 = ConvModule(3, 32, 3, padding=1, **layers)
        self.stages = ["conv1"]
        for number, count in enumerate(num_blocks, start=1):
            channels = 32 * 2**number
            stage = Sequential()
            stage.add_module("conv", ConvModule(channels // 2, channels, 3, stride=2, padding=1, **layers))
            for block in range(count):
                stage.add_module(f"res{block}", ResBlock(channels, **layers))
            self.stages.append(f"conv_res_block{number}")
            self.add_module(self.stages[-1], stage)
        self.out_channels = tuple(32 * 2**index for index in self.out_indices)
        self.out_strides = tuple(2**index for index in self.out_indices)
        freeze(self._frozen())

    def _frozen(self) -> list[nn.Module]:
        return [self.get_submodule(name) for name in self.stages[: max(0, self.frozen_stages)]]

    def train(self, mode: bool = True) -> "Darknet":
        """Switch to training, apart from what is frozen and, with ``norm_eval``, from batch norms."""
        super().train(mode)
        if mode:
            settle(self, self._frozen(), self.norm_eval)
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Feature maps in ``out_indices``.

        Args:
            x: ``Tensor[B, 3, H, W]``.

        Returns:
            One ``Tensor[B, out_channels[i], H / out_strides[i], W / out_strides[i]]`` each, rounded up.
        """
        outs = []
        for number, name in enumerate(self.stages[: self.out_indices[-1] + 1]):
            x = getattr(self, name)(x)
            if number in self.out_indices:
                outs.append(x)
        return tuple(outs)
