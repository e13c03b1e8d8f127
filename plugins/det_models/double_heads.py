"""Double Head R-CNN (Wu et al., CVPR 2020, arXiv 1904.06493): linear layers classify, convolutions locate.

A region's class comes from a head of linear layers, its box from one of convolutions, a residual block that
widens the features and bottleneck blocks behind it, then the mean over the cells (section 5). The region that
the box is predicted from is enlarged, so that there is something around the object to see.
"""

import itertools
from typing import Any

from torch import Tensor, nn

from det_models.base_roi_head import Features
from det_models.bbox_heads import BBoxHead
from det_models.roi_head import StandardRoIHead
from detcore.nn import BaseModule, ConvModule, ModuleList, build_conv_layer, build_norm_layer
from detcore.nn.base_module import DeferredInit
from detcore.nn.build import ConvCfg, NormCfg

_BATCH_NORM = {"type": "BN"}
_INIT_CFG = {
    "type": "Normal",
    "override": [
        {"type": "Normal", "name": "fc_cls", "std": 0.01},
        {"type": "Normal", "name": "fc_reg", "std": 0.001},
        {"type": "Xavier", "name": "fc_branch", "distribution": "uniform"},
    ],
}


class DoubleHeadRoIHead(StandardRoIHead):
    """A second stage whose box head gets the features of each region twice.

    Args:
        reg_roi_scale_factor: Factor by which regions are enlarged for the box.
        **kwargs: See :class:`~det_models.roi_head.BaseRoIHead`.
    """

    def __init__(self, reg_roi_scale_factor: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.reg_roi_scale_factor = reg_roi_scale_factor

    def _bbox_forward(self, x: Features, rois: Tensor) -> dict[str, Any]:
        """Box head on regions ``Tensor[N, 5]``; see :meth:`StandardRoIHead._bbox_forward`."""
        maps = x[: self.bbox_roi_extractor.num_inputs]
        cls_feats = self.bbox_roi_extractor(maps, rois)
        reg_feats = self.bbox_roi_extractor(maps, rois, roi_scale_factor=self.reg_roi_scale_factor)
        if self.with_shared_head:
            cls_feats, reg_feats = self.shared_head(cls_feats), self.shared_head(reg_feats)
        cls_score, bbox_pred = self.bbox_head(cls_feats, reg_feats)
        return {"cls_score": cls_score, "bbox_pred": bbox_pred, "bbox_feats": cls_feats}


class DoubleConvFCBBoxHead(BBoxHead):
    """Classes by linear layers, boxes by convolutions; see this module's docstring.

    Args:
        num_convs: Bottleneck blocks behind the block that widens.
        num_fcs: Linear layers.
        conv_out_channels: Channels of the convolutions.
        fc_out_channels: Numbers that the linear layers give.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of norm layer.
        init_cfg: How weights are initialised.
        **kwargs: See :class:`~det_models.bbox_heads.BBoxHead`.
    """

    def __init__(
        self,
        num_convs: int = 0,
        num_fcs: int = 0,
        conv_out_channels: int = 1024,
        fc_out_channels: int = 1024,
        conv_cfg: ConvCfg = None,
        norm_cfg: NormCfg = _BATCH_NORM,
        init_cfg: DeferredInit = _INIT_CFG,
        **kwargs: Any,
    ) -> None:
        if num_convs < 1 or num_fcs < 1:
            raise ValueError(f"num_convs and num_fcs must be at least 1, got {num_convs} and {num_fcs}")
        kwargs.setdefault("with_avg_pool", True)
        super().__init__(init_cfg=init_cfg, **kwargs)
        self.num_convs, self.num_fcs = num_convs, num_fcs
        norm = norm_cfg or _BATCH_NORM
        self.res_block = _WideningBlock(self.in_channels, conv_out_channels, conv_cfg, norm)
        self.conv_branch = ModuleList(
            _BottleneckBlock(conv_out_channels, conv_cfg, norm) for _ in range(num_convs)
        )
        numbers = [self.in_channels * self.roi_feat_area, *[fc_out_channels] * num_fcs]
        self.fc_branch = ModuleList(
            nn.Linear(before, after) for before, after in itertools.pairwise(numbers)
        )
        self.fc_reg = nn.Linear(conv_out_channels, self.reg_channels)
        self.fc_cls = nn.Linear(fc_out_channels, self.cls_channels)

    def forward(self, x_cls: Tensor, x_reg: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Logits ``[N, K + 1]`` and encoded boxes ``[N, K * 4]`` for features ``Tensor[N, C, h, w]``."""
        x_reg = self.res_block(x_reg)
        for block in self.conv_branch:
            x_reg = block(x_reg)
        if self.with_avg_pool:
            x_reg = self.avg_pool(x_reg)
        x_cls = x_cls.flatten(1)
        for linear in self.fc_branch:
            x_cls = self.relu(linear(x_cls))
        return self.fc_cls(x_cls), self.fc_reg(x_reg.flatten(1))


class _WideningBlock(BaseModule):
    """A residual block to other channels: a 3x3 and a 1x1 convolution, beside one of 1x1."""

    def __init__(self, in_channels: int, out_channels: int, conv_cfg: ConvCfg, norm_cfg: NormCfg) -> None:
        super().__init__()
        cfg: dict[str, Any] = {"bias": False, "conv_cfg": conv_cfg, "norm_cfg": norm_cfg}
        self.conv1 = ConvModule(in_channels, in_channels, 3, padding=1, **cfg)
        self.conv2 = ConvModule(in_channels, out_channels, 1, act_cfg=None, **cfg)
        self.conv_identity = ConvModule(in_channels, out_channels, 1, act_cfg=None, **cfg)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """``Tensor[N, out_channels, h, w]`` for ``Tensor[N, in_channels, h, w]``."""
        added: Tensor = self.relu(self.conv2(self.conv1(x)) + self.conv_identity(x))
        return added


class _BottleneckBlock(BaseModule):
    """ResNet's bottleneck block that keeps channels and size."""

    def __init__(self, channels: int, conv_cfg: ConvCfg, norm_cfg: NormCfg) -> None:
        super().__init__()
        inner = channels // 4
        layers = ((channels, inner, 1), (inner, inner, 3), (inner, channels, 1))
        self.norm_names: list[str] = []
        for number, (before, after, kernel) in enumerate(layers, 1):
            conv = build_conv_layer(conv_cfg, before, after, kernel, padding=kernel // 2, bias=False)
            name, norm = build_norm_layer(norm_cfg or _BATCH_NORM, after, postfix=number)
            self.add_module(f"conv{number}", conv)
            self.add_module(name, norm)
            self.norm_names.append(name)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """``Tensor[N, channels, h, w]`` for the same."""
        out = x
        for number, name in enumerate(self.norm_names, 1):
            out = getattr(self, name)(getattr(self, f"conv{number}")(out))
            if number < len(self.norm_names):
                out = self.relu(out)
        added: Tensor = self.relu(out + x)
        return added
