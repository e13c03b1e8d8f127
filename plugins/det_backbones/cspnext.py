"""CSPNeXt, the backbone of RTMDet (Lyu et al. 2022, arXiv 2212.07784, section 3.1)."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import nn

from det_backbones.csp_darknet import KAIMING, CSPBackbone, Stage
from detcore.nn import ConvModule
from detcore.nn.base_module import DeferredInit
from detcore.nn.build import ActCfg, ConvCfg, NormCfg
from detcore.nn.csp import BATCH_NORM

_SILU = {"type": "SiLU"}


class CSPNeXt(CSPBackbone):
    """CSPDarknet with a stem of three convolutions, and blocks that look at 5x5 pixels in each channel.

    Fewer and wider blocks than CSPDarknet's see as much of the image in less time.

    Args:
        arch: ``'P5'`` (maps to stride 32) or ``'P6'`` (to stride 64).
        deepen_factor: Factor of the numbers of blocks.
        widen_factor: Factor of the channels.
        out_indices: What is returned: 0 for the stem, 1 for the first stage, ...
        frozen_stages: The stem and so many stages do not train: 0 is the stem alone, -1 freezes nothing.
        use_depthwise: Whether the stages' 3x3 convolutions are separable, too.
        expand_ratio: Channels of each half of a stage, in parts of its output.
        arch_ovewrite: The stages themselves, each (in_channels, out_channels, num_blocks, add_identity,
            use_spp), in place of ``arch``. Spelt as configs do.
        spp_kernel_sizes: Squares that the last stage takes maxima over.
        channel_attention: Weigh the channels of each stage.
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
    """

    arch_settings: ClassVar[dict[str, tuple[Stage, ...]]] = {
        "P5": (
            (64, 128, 3, True, False),
            (128, 256, 6, True, False),
            (256, 512, 6, True, False),
            (512, 1024, 3, False, True),
        ),
        "P6": (
            (64, 128, 3, True, False),
            (128, 256, 6, True, False),
            (256, 512, 6, True, False),
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
        expand_ratio: float = 0.5,
        arch_ovewrite: Sequence[Sequence[Any]] | None = None,
        spp_kernel_sizes: Sequence[int] = (5, 9, 13),
        channel_attention: bool = True,
        conv_cfg: ConvCfg = None,
        norm_cfg: NormCfg = BATCH_NORM,
        act_cfg: ActCfg = _SILU,
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
            spp_sizes=spp_kernel_sizes,
            norm_eval=norm_eval,
            kinds={"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg},
            csp={
                "expand_ratio": expand_ratio,
                "use_cspnext_block": True,
                "channel_attention": channel_attention,
            },
        )

    def _make_stem(self, channels: int, kinds: dict[str, Any]) -> nn.Module:
        half = channels // 2
        steps = ((3, half, 2), (half, half, 1), (half, channels, 1))
        return nn.Sequential(
            *(ConvModule(ins, outs, 3, stride=stride, padding=1, **kinds) for ins, outs, stride in steps)
        )
