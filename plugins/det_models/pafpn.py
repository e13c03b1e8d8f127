"""PAFPN: Path Aggregation Network for Instance Segmentation (Liu et al., CVPR 2018, arXiv 1803.01534).

In a feature pyramid a detail of the finest map reaches the coarsest through the whole backbone. Section 3.1
adds a short way up: N2 = P2, and from the finest map up N(i+1) = conv(P(i+1) + conv(N(i), stride 2)), figure
1b. As in the toolbox that this one follows, the sum goes up, and the last convolution is that of the output
alone.
"""

from typing import Any

from torch import Tensor

from det_models.fpn import FPN, XAVIER, InChannels
from detcore.nn import ModuleList
from detcore.nn.base_module import DeferredInit
from detcore.nn.build import ActCfg, ConvCfg, NormCfg


class PAFPN(FPN):
    """Feature pyramid with a second way, from the finest map up; see this module's docstring.

    Args:
        in_channels: Channels of the backbone's maps; None or ``'auto'``: the detector asks the backbone.
        out_channels: Channels of every map of the pyramid.
        num_outs: Number of maps of the pyramid.
        start_level: As of :class:`~det_models.fpn.FPN`, like all that follow.
        end_level: Last of the backbone's maps that is used.
        add_extra_convs: How coarser maps are made.
        relu_before_extra_convs: ReLU before the convolutions of coarser maps but the first.
        no_norm_on_lateral: Leave the norm layers of the laterals out.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of norm layer, None for none.
        act_cfg: Kind of activation, None for none.
        init_cfg: How weights are initialised.

    Raises:
        ConfigError: Levels and numbers do not fit.
    """

    def __init__(
        self,
        in_channels: InChannels = None,
        out_channels: int = 256,
        num_outs: int = 5,
        start_level: int = 0,
        end_level: int = -1,
        add_extra_convs: bool | str = False,
        relu_before_extra_convs: bool = False,
        no_norm_on_lateral: bool = False,
        conv_cfg: ConvCfg = None,
        norm_cfg: NormCfg = None,
        act_cfg: ActCfg = None,
        init_cfg: DeferredInit = XAVIER,
    ) -> None:
        options: dict[str, Any] = {
            "start_level": start_level, "end_level": end_level, "add_extra_convs": add_extra_convs,
            "relu_before_extra_convs": relu_before_extra_convs, "no_norm_on_lateral": no_norm_on_lateral,
            "conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg, "init_cfg": init_cfg,
        }  # fmt: skip
        super().__init__(in_channels, out_channels, num_outs, **options)

    def _build_layers(self, in_channels: tuple[int, ...]) -> None:
        super()._build_layers(in_channels)
        steps, channels = len(self.lateral_convs) - 1, self.out_channels[0]
        self.downsample_convs = ModuleList(self._conv(channels, 3, stride=2) for _ in range(steps))
        self.pafpn_convs = ModuleList(self._conv(channels, 3) for _ in range(steps))

    def _smooth(self, laterals: list[Tensor]) -> list[Tensor]:
        maps = super()._smooth(laterals)
        for level, downsample in enumerate(self.downsample_convs):
            maps[level + 1] = maps[level + 1] + downsample(maps[level])
        return [maps[0], *(conv(each) for conv, each in zip(self.pafpn_convs, maps[1:], strict=True))]
