"""The manual's example of a head and a RoI head of one's own: other imports, and layers where it has dots.

``force``, because we have components of these names ourselves.
"""

from det_models.bbox_heads import BBoxHead
from det_models.roi_head import StandardRoIHead
from torch import Tensor, nn

from detcore.nn import ConvModule, ModuleList
from detcore.registry import MODELS


@MODELS.register_module(force=True)
class DoubleConvFCBBoxHead(BBoxHead):
    def __init__(
        self,
        num_convs: int = 0,
        num_fcs: int = 0,
        conv_out_channels: int = 1024,
        fc_out_channels: int = 1024,
        conv_cfg=None,
        norm_cfg=dict(type="BN"),  # noqa: B006, C408
        init_cfg=dict(  # noqa: B006, C408
            type="Normal",
            override=[
                dict(type="Normal", name="fc_cls", std=0.01),  # noqa: C408
                dict(type="Normal", name="fc_reg", std=0.001),  # noqa: C408
                dict(type="Xavier", name="fc_branch", distribution="uniform"),  # noqa: C408
            ],
        ),
        **kwargs,
    ) -> None:
        kwargs.setdefault("with_avg_pool", True)
        super().__init__(init_cfg=init_cfg, **kwargs)
        assert self.with_avg_pool
        out = conv_out_channels
        self.conv_branch = ModuleList(
            ConvModule(
                out if number else self.in_channels, out, 3, padding=1, conv_cfg=conv_cfg, norm_cfg=norm_cfg
            )
            for number in range(num_convs)
        )
        self.fc_branch = ModuleList(
            nn.Linear(fc_out_channels if number else self.in_channels * self.roi_feat_area, fc_out_channels)
            for number in range(num_fcs)
        )
        reg_numbers = 4 if self.reg_class_agnostic else 4 * self.num_classes
        self.fc_reg = nn.Linear(conv_out_channels, reg_numbers)
        self.fc_cls = nn.Linear(fc_out_channels, self.num_classes + 1)

    def forward(self, x_cls: Tensor, x_reg: Tensor) -> tuple[Tensor, Tensor]:
        for conv in self.conv_branch:
            x_reg = conv(x_reg)
        x_reg = self.avg_pool(x_reg).flatten(1)
        x_cls = x_cls.flatten(1)
        for linear in self.fc_branch:
            x_cls = self.relu(linear(x_cls))
        return self.fc_cls(x_cls), self.fc_reg(x_reg)


@MODELS.register_module(force=True)
class DoubleHeadRoIHead(StandardRoIHead):
    def __init__(self, reg_roi_scale_factor: float, **kwargs):
        super().__init__(**kwargs)
        self.reg_roi_scale_factor = reg_roi_scale_factor

    def _bbox_forward(self, x: tuple[Tensor], rois: Tensor) -> dict:
        bbox_cls_feats = self.bbox_roi_extractor(x[: self.bbox_roi_extractor.num_inputs], rois)
        bbox_reg_feats = self.bbox_roi_extractor(
            x[: self.bbox_roi_extractor.num_inputs], rois, roi_scale_factor=self.reg_roi_scale_factor
        )
        if self.with_shared_head:
            bbox_cls_feats = self.shared_head(bbox_cls_feats)
            bbox_reg_feats = self.shared_head(bbox_reg_feats)
        cls_score, bbox_pred = self.bbox_head(bbox_cls_feats, bbox_reg_feats)
        return {"cls_score": cls_score, "bbox_pred": bbox_pred, "bbox_feats": bbox_cls_feats}
