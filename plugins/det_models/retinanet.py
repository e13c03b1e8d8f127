"""RetinaNet: Focal Loss for Dense Object Detection (Lin et al., ICCV 2017, arXiv 1708.02002).

A backbone with a feature pyramid (levels P3 to P7, strides 8 to 128). At each cell of each level stand A = 9
anchors: three shapes (1:2, 1:1, 2:1) in three sizes (4 times the stride, times 2^0, 2^(1/3), 2^(2/3)). Two
small networks that do not share weights, but share theirs over all levels, predict for each anchor K
independent class probabilities and four box offsets (section 4, figure 3).

Training: an anchor answers for the object that it overlaps by at least 0.5 (and for one that overlaps no
other anchor more), is background below 0.4, and is left out in between. All anchors enter the
classification loss, a sum over hundreds of thousands of easy backgrounds, which is why it is the focal
loss, eq. 5: ``FL(p_t) = -alpha_t (1 - p_t)^gamma log(p_t)``. Anchors with an object enter the box loss.
Both sums are divided by the number of anchors with an object. The last layer's bias starts so that every
class has the probability pi = 0.01 (section 3.3), otherwise the backgrounds would drown all else in the
first steps.
"""

import itertools
from typing import Annotated

from torch import Tensor, nn

from det_models.anchors import AnchorGenerator, retina_anchors
from det_models.coders import BaseBBoxCoder, DeltaXYWHBBoxCoder
from det_models.dense import DenseHead
from det_models.dense_cfg import DenseTestCfg, DenseTrainCfg
from det_models.detector import SingleStageDetector
from det_models.losses.focal import FocalLoss
from det_models.losses.smooth_l1 import L1Loss
from detcore.nn import ConvModule, ModuleList
from detcore.nn.base_module import DeferredInit
from detcore.nn.build import ConvCfg, NormCfg
from detcore.registry import TASK_UTILS

_PRIOR_PROBABILITY = 0.01  # pi of section 3.3
_INIT_CFG = {
    "type": "Normal",
    "layer": "Conv2d",
    "std": 0.01,
    "override": {"type": "Normal", "name": "retina_cls", "std": 0.01, "bias_prob": _PRIOR_PROBABILITY},
}


class RetinaNet(SingleStageDetector):
    """Backbone, feature pyramid and :class:`RetinaHead`; see this module's docstring."""


class RetinaHead(DenseHead):
    """Classes and boxes of the anchors of every level.

    Args:
        num_classes: K, without background.
        in_channels: Channels of the feature maps.
        stacked_convs: Convolutions before the last one, in each of the two networks.
        feat_channels: Their channels.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of norm layer, None for none.
        anchor_generator: Makes the anchors; by default those of the paper.
        bbox_coder: Turns box offsets into boxes; by default :class:`DeltaXYWHBBoxCoder`.
        reg_decoded_bbox: The box loss compares boxes, not offsets (IoU losses need it).
        loss_cls: Classification loss, by default the focal loss.
        loss_bbox: Box loss, by default L1.
        train_cfg: How to match anchors with ground truth.
        test_cfg: How to turn predictions into boxes.
        init_cfg: How weights are initialised.

    Attributes:
        cls_out_channels: K where the class loss is a sigmoid's, K + 1 where it is a softmax's.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        stacked_convs: int = 4,
        feat_channels: int = 256,
        conv_cfg: ConvCfg = None,
        norm_cfg: NormCfg = None,
        anchor_generator: Annotated[AnchorGenerator | None, TASK_UTILS] = None,
        bbox_coder: Annotated[BaseBBoxCoder | None, TASK_UTILS] = None,
        reg_decoded_bbox: bool = False,
        loss_cls: nn.Module | None = None,
        loss_bbox: nn.Module | None = None,
        train_cfg: DenseTrainCfg | None = None,
        test_cfg: DenseTestCfg | None = None,
        init_cfg: DeferredInit = _INIT_CFG,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.set_up(
            num_classes,
            in_channels,
            prior_generator=anchor_generator or retina_anchors(),
            bbox_coder=bbox_coder or DeltaXYWHBBoxCoder(),
            loss_cls=loss_cls or FocalLoss(),
            loss_bbox=loss_bbox or L1Loss(),
            reg_decoded_bbox=reg_decoded_bbox,
            train_cfg=train_cfg,
            test_cfg=test_cfg,
        )
        self.stacked_convs = stacked_convs
        self.feat_channels = feat_channels
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg
        self._init_layers()

    def _init_layers(self) -> None:
        """Make the layers; a head of a user's own may make others."""
        last_channels = self.feat_channels if self.stacked_convs else self.in_channels
        self.cls_convs = self._tower()
        self.reg_convs = self._tower()
        num_scores = self.num_base_priors * self.cls_out_channels
        num_offsets = self.num_base_priors * self.bbox_coder.encode_size
        self.retina_cls = nn.Conv2d(last_channels, num_scores, 3, padding=1)
        self.retina_reg = nn.Conv2d(last_channels, num_offsets, 3, padding=1)

    def _tower(self) -> ModuleList:
        channels = [self.in_channels] + [self.feat_channels] * self.stacked_convs
        return ModuleList(
            ConvModule(before, after, 3, padding=1, conv_cfg=self.conv_cfg, norm_cfg=self.norm_cfg)
            for before, after in itertools.pairwise(channels)
        )

    def forward_single(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits ``[B, A * cls_out_channels, H, W]`` and encoded boxes ``[B, A * 4, H, W]``."""
        cls_feature = reg_feature = x
        for conv in self.cls_convs:
            cls_feature = conv(cls_feature)
        for conv in self.reg_convs:
            reg_feature = conv(reg_feature)
        return self.retina_cls(cls_feature), self.retina_reg(reg_feature)
