"""The usual box heads: convolutions and linear layers in front of the predictions."""

from typing import Any

from det_models.bbox_heads import BBoxHead
from det_models.conv_fc import Branches
from detcore.nn.build import ConvCfg, NormCfg


class ConvFCBBoxHead(BBoxHead):
    """Common convolutions and linear layers, then those of each prediction.

    Args:
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
        **kwargs: See :class:`~det_models.bbox_heads.BBoxHead`.
    """

    def __init__(
        self,
        num_shared_convs: int = 0,
        num_shared_fcs: int = 0,
        num_cls_convs: int = 0,
        num_cls_fcs: int = 0,
        num_reg_convs: int = 0,
        num_reg_fcs: int = 0,
        conv_out_channels: int = 256,
        fc_out_channels: int = 1024,
        conv_cfg: ConvCfg = None,
        norm_cfg: NormCfg = None,
        **kwargs: Any,
    ) -> None:
        branches = Branches(
            num_shared_convs=num_shared_convs,
            num_shared_fcs=num_shared_fcs,
            num_cls_convs=num_cls_convs,
            num_cls_fcs=num_cls_fcs,
            num_reg_convs=num_reg_convs,
            num_reg_fcs=num_reg_fcs,
            conv_out_channels=conv_out_channels,
            fc_out_channels=fc_out_channels,
            conv_cfg=conv_cfg,
            norm_cfg=norm_cfg,
        )
        super().__init__(branches=branches, **kwargs)


class Shared2FCBBoxHead(BBoxHead):
    """Two common linear layers: the box head of Feature Pyramid Networks (Lin et al. 2017), section 4.2.

    Args:
        fc_out_channels: Numbers that the linear layers give.
        conv_out_channels: Has no effect, like the next two: there are no convolutions.
        conv_cfg: Has no effect.
        norm_cfg: Has no effect.
        **kwargs: See :class:`~det_models.bbox_heads.BBoxHead`.
    """

    def __init__(
        self,
        fc_out_channels: int = 1024,
        conv_out_channels: int = 256,
        conv_cfg: ConvCfg = None,
        norm_cfg: NormCfg = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(branches=Branches(num_shared_fcs=2, fc_out_channels=fc_out_channels), **kwargs)


class Shared4Conv1FCBBoxHead(BBoxHead):
    """Four common convolutions and a linear layer: Group Normalization (Wu and He 2018), section 4.2.

    Args:
        conv_out_channels: Channels of the convolutions.
        fc_out_channels: Numbers that the linear layer gives.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of norm layer, None for none.
        **kwargs: See :class:`~det_models.bbox_heads.BBoxHead`.
    """

    def __init__(
        self,
        conv_out_channels: int = 256,
        fc_out_channels: int = 1024,
        conv_cfg: ConvCfg = None,
        norm_cfg: NormCfg = None,
        **kwargs: Any,
    ) -> None:
        branches = Branches(
            num_shared_convs=4,
            num_shared_fcs=1,
            conv_out_channels=conv_out_channels,
            fc_out_channels=fc_out_channels,
            conv_cfg=conv_cfg,
            norm_cfg=norm_cfg,
        )
        super().__init__(branches=branches, **kwargs)
