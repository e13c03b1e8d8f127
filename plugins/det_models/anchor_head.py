"""The base that users' own anchor-based heads derive from, with MMDetection's arguments and methods."""

from typing import Annotated

from torch import Tensor, nn

from det_models.anchors import AnchorGenerator, pyramid_anchors
from det_models.coders import BaseBBoxCoder, DeltaXYWHBBoxCoder
from det_models.dense import DenseHead
from det_models.dense_cfg import DenseTestCfg, DenseTrainCfg
from det_models.losses.cross_entropy import CrossEntropyLoss
from det_models.losses.smooth_l1 import SmoothL1Loss
from detcore.nn.base_module import DeferredInit
from detcore.registry import TASK_UTILS

_INIT_CFG = {"type": "Normal", "layer": "Conv2d", "std": 0.01}


class AnchorHead(DenseHead):
    """Classes and boxes of the anchors of every level, by one convolution each.

    Derived heads redefine ``_init_layers`` and ``forward_single``, and may redefine ``loss_by_feat_single``,
    ``loss_by_feat`` and ``predict_by_feat``.

    Args:
        num_classes: Without background.
        in_channels: Channels of the feature maps.
        feat_channels: Channels of the layers of derived heads.
        anchor_generator: Makes the anchors; by default three shapes in three sizes on strides 4 to 64.
        bbox_coder: Turns box offsets into boxes.
        reg_decoded_bbox: The box loss compares boxes, not offsets (IoU losses need it).
        loss_cls: Classification loss, by default the cross entropy of independent classes.
        loss_bbox: Box loss, by default smooth L1.
        train_cfg: How to match anchors with ground truth.
        test_cfg: How to turn predictions into boxes.
        init_cfg: How weights are initialised.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        feat_channels: int = 256,
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
            prior_generator=anchor_generator or pyramid_anchors(),
            bbox_coder=bbox_coder or DeltaXYWHBBoxCoder(clip_border=True),
            loss_cls=loss_cls or CrossEntropyLoss(use_sigmoid=True),
            loss_bbox=loss_bbox or SmoothL1Loss(beta=1 / 9),
            reg_decoded_bbox=reg_decoded_bbox,
            train_cfg=train_cfg,
            test_cfg=test_cfg,
        )
        self.feat_channels = feat_channels
        self._init_layers()

    def _init_layers(self) -> None:
        """Make the layers."""
        self.conv_cls = nn.Conv2d(self.in_channels, self.num_base_priors * self.cls_out_channels, 1)
        self.conv_reg = nn.Conv2d(self.in_channels, self.num_base_priors * self.bbox_coder.encode_size, 1)

    def forward_single(self, x: Tensor) -> tuple[Tensor, ...]:
        """Class logits and encoded boxes of one level; see :meth:`DenseHead.forward_single`."""
        return self.conv_cls(x), self.conv_reg(x)
