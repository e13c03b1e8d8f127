"""Convolutions, then linear layers: the branches of heads over regions."""

from dataclasses import dataclass

from torch import nn

from detcore.nn import ConvModule, ModuleList
from detcore.nn.build import ConvCfg, NormCfg


@dataclass(kw_only=True, slots=True)
class Branches:
    """Layers in front of a box head's predictions: common ones, then those of each prediction.

    Attributes:
        num_shared_convs: Common 3x3 convolutions.
        num_shared_fcs: Common linear layers behind them.
        num_cls_convs: Convolutions for the classes alone.
        num_cls_fcs: Linear layers for the classes alone.
        num_reg_convs: Convolutions for the boxes alone.
        num_reg_fcs: Linear layers for the boxes alone.
        conv_out_channels: Channels of the convolutions.
        fc_out_channels: Numbers that the linear layers give.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of norm layer, None for none.

    Raises:
        ValueError: Convolutions of a prediction would stand behind common linear layers.
    """

    num_shared_convs: int = 0
    num_shared_fcs: int = 0
    num_cls_convs: int = 0
    num_cls_fcs: int = 0
    num_reg_convs: int = 0
    num_reg_fcs: int = 0
    conv_out_channels: int = 256
    fc_out_channels: int = 1024
    conv_cfg: ConvCfg = None
    norm_cfg: NormCfg = None

    def __post_init__(self) -> None:
        if self.num_shared_fcs and (self.num_cls_convs or self.num_reg_convs):
            raise ValueError(
                f"{self.num_shared_fcs} shared linear layers leave no cells for the convolutions of each "
                f"prediction, of which there are {self.num_cls_convs} and {self.num_reg_convs}"
            )


@dataclass(frozen=True, slots=True)
class Width:
    """How many numbers a region has: channels, and the cells that are flattened into them in the end."""

    channels: int
    area: int

    @property
    def flat(self) -> int:
        """Numbers of a flattened region."""
        return self.channels * self.area


def conv_fc_branch(
    width: Width, num_convs: int, num_fcs: int, branches: Branches
) -> tuple[ModuleList, ModuleList, Width]:
    """The layers of one branch.

    Args:
        width: What goes in.
        num_convs: 3x3 convolutions.
        num_fcs: Linear layers behind them.
        branches: Kinds and sizes of the layers.

    Returns:
        Convolutions, linear layers, and what comes out.
    """
    convs, linears = ModuleList(), ModuleList()
    out = branches.conv_out_channels
    for _ in range(num_convs):
        convs.append(
            ConvModule(
                width.channels, out, 3, padding=1, conv_cfg=branches.conv_cfg, norm_cfg=branches.norm_cfg
            )
        )
        width = Width(out, width.area)
    for _ in range(num_fcs):
        linears.append(nn.Linear(width.flat, branches.fc_out_channels))
        width = Width(branches.fc_out_channels, 1)
    return convs, linears, width
