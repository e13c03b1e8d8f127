"""ATSS: Bridging the Gap between Anchor-based and Anchor-free Detection (Zhang et al., arXiv 1912.02424).

What makes RetinaNet and FCOS differ, the paper finds, is neither anchors nor points but which of them answer
for which object. So this is RetinaNet with one square anchor a cell and the head of FCOS, two small networks
with group norm that all levels share, and its choice of positives (:class:`ATSSAssigner`, algorithm 1): each
object's nearest anchors of every level are candidates, and mean plus deviation of their overlaps is the
object's own threshold. There is no number to tune but how many candidates a level has.

Training: all anchors enter the classification loss, the focal loss. Those with an object enter the box loss,
a GIoU loss weighted by the centerness of the anchor's centre in the object (FCOS, eq. 3)::

    centerness = sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b))

and the loss of the predicted centerness, a cross entropy. Classes and centerness are divided by the number of
anchors with an object, boxes by the sum of their weights. In predictions the centerness scales the scores.
"""

from collections.abc import Sequence
from typing import Annotated, Any

from torch import Tensor, nn

from det_models.anchors import AnchorGenerator, square_anchors
from det_models.coders import BaseBBoxCoder, DeltaXYWHBBoxCoder
from det_models.dense import DenseHead, Losses
from det_models.dense_cfg import DenseTestCfg, DenseTrainCfg
from det_models.dense_targets import RegressedRows, rows_of_levels
from det_models.detector import SingleStageDetector
from det_models.host import reduce_mean
from det_models.losses.cross_entropy import CrossEntropyLoss
from det_models.losses.focal import FocalLoss
from det_models.losses.iou import GIoULoss
from det_models.metainfo import MetaInfo
from det_models.points import centerness_of, centers_of
from det_models.scale import Scale
from det_models.towers import conv_tower, each_level
from det_models.truth import GroundTruth
from detcore.nn import ModuleList, Sequential
from detcore.nn.base_module import DeferredInit
from detcore.nn.build import ConvCfg, NormCfg
from detcore.registry import MODELS, TASK_UTILS
from detcore.structures import InstanceData

_GROUP_NORM = {"type": "GN", "num_groups": 32, "requires_grad": True}
_INIT_CFG = {
    "type": "Normal",
    "layer": "Conv2d",
    "std": 0.01,
    "override": {"type": "Normal", "name": "atss_cls", "std": 0.01, "bias_prob": 0.01},
}


class ATSS(SingleStageDetector):
    """Backbone, feature pyramid and :class:`ATSSHead`; see this module's docstring."""


class ATSSHead(DenseHead):
    """Classes, boxes and centerness of the anchors of every level.

    Args:
        num_classes: K, without background.
        in_channels: Channels of the feature maps.
        pred_kernel_size: Kernel of the last convolutions.
        stacked_convs: Convolutions before the last one, in each of the two networks.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of norm layer, None for none.
        reg_decoded_bbox: The box loss compares boxes, not offsets (IoU losses need it).
        loss_centerness: Loss of the centerness, by default binary cross entropy.
        init_cfg: How weights are initialised.
        feat_channels: Channels of the convolutions before the last one.
        anchor_generator: Makes the anchors; by default a square of 8 strides a cell.
        bbox_coder: Turns box offsets into boxes; by default :class:`DeltaXYWHBBoxCoder`.
        loss_cls: Classification loss, by default the focal loss.
        loss_bbox: Box loss, by default twice the GIoU loss.
        train_cfg: How to match anchors with ground truth.
        test_cfg: How to turn predictions into boxes.
    """

    cls_convs: Sequential
    reg_convs: Sequential
    atss_cls: nn.Conv2d
    atss_reg: nn.Conv2d
    atss_centerness: nn.Conv2d
    scales: ModuleList

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        pred_kernel_size: int = 3,
        stacked_convs: int = 4,
        conv_cfg: ConvCfg = None,
        norm_cfg: NormCfg = _GROUP_NORM,
        reg_decoded_bbox: bool = True,
        loss_centerness: nn.Module | None = None,
        init_cfg: DeferredInit = _INIT_CFG,
        feat_channels: int = 256,
        anchor_generator: Annotated[AnchorGenerator | None, TASK_UTILS] = None,
        bbox_coder: Annotated[BaseBBoxCoder | None, TASK_UTILS] = None,
        loss_cls: nn.Module | None = None,
        loss_bbox: nn.Module | None = None,
        train_cfg: DenseTrainCfg | None = None,
        test_cfg: DenseTestCfg | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.set_up(
            num_classes,
            in_channels,
            prior_generator=anchor_generator or square_anchors(),
            bbox_coder=bbox_coder or DeltaXYWHBBoxCoder(),
            loss_cls=loss_cls or FocalLoss(),
            loss_bbox=loss_bbox or GIoULoss(loss_weight=2.0),
            reg_decoded_bbox=reg_decoded_bbox,
            train_cfg=train_cfg,
            test_cfg=test_cfg,
        )
        self.loss_centerness: nn.Module = MODELS.build(loss_centerness or CrossEntropyLoss(use_sigmoid=True))
        self.pred_kernel_size = pred_kernel_size
        self.stacked_convs = stacked_convs
        self.feat_channels = feat_channels
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg
        self._init_layers()

    def _init_layers(self) -> None:
        """Make the layers; a head of a user's own may make others."""
        add_atss_layers(self)

    def forward(self, x: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        """Class logits, encoded boxes and logits of the centerness, a list of each.

        Args:
            x: ``Tensor[B, in_channels, H, W]`` a level.
        """
        return each_level(self.forward_single, x, self.scales)

    def forward_single(  # type: ignore[override]  # the arguments that users' heads redefine it with
        self, x: Tensor, scale: nn.Module
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Predictions of one level.

        Args:
            x: ``Tensor[B, in_channels, H, W]``.
            scale: Multiplies the level's encoded boxes.

        Returns:
            For A anchors a cell class logits ``Tensor[B, A * cls_out_channels, H, W]``, encoded boxes
            ``Tensor[B, A * 4, H, W]`` in float32, and logits of the centerness ``Tensor[B, A, H, W]``.
        """
        cls_feature, reg_feature = self.cls_convs(x), self.reg_convs(x)
        encoded = scale(self.atss_reg(reg_feature)).float()
        return self.atss_cls(cls_feature), encoded, self.atss_centerness(reg_feature)

    def loss_by_feat(  # type: ignore[override]  # one output more
        self,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        centernesses: Sequence[Tensor],
        batch_gt_instances: Sequence[InstanceData],
        batch_img_metas: Sequence[MetaInfo],
        batch_gt_instances_ignore: Sequence[InstanceData] | None = None,
    ) -> Losses:
        """Losses of every level.

        Args:
            cls_scores: Class logits, as from :meth:`forward`.
            bbox_preds: Encoded boxes, as from :meth:`forward`.
            centernesses: Logits of the centerness, as from :meth:`forward`.
            batch_gt_instances: ``bboxes`` (``Tensor[N, 4]``, xyxy, pixels of the input) and ``labels`` of
                each image.
            batch_img_metas: ``img_shape`` and ``pad_shape`` of each image.
            batch_gt_instances_ignore: ``bboxes`` of each image in which nothing is to be learnt.

        Returns:
            ``loss_cls``, ``loss_bbox`` and ``loss_centerness``, a scalar a level each.
        """
        truth = GroundTruth.pack(batch_gt_instances, batch_gt_instances_ignore, self.num_classes)
        mlvl_priors, targets = self.match_levels(cls_scores, truth, batch_img_metas)
        losses: Losses = {
            "loss_cls": self.class_losses(
                cls_scores, targets.labels, targets.label_weights, targets.avg_factor
            ),
            "loss_bbox": [],
            "loss_centerness": [],
        }
        total = targets.avg_factor.new_zeros(())
        for number, rows in enumerate(rows_of_levels(targets.matches, mlvl_priors, truth)):
            centerness, positive = self.centerness_target(rows.priors, rows.gt_boxes), rows.weights[:, 0]
            weights = centerness * positive
            total = total + weights.sum()
            encoded = rows.of(bbox_preds[number], self.bbox_coder.encode_size)
            logits = rows.of(centernesses[number], 1)[:, 0]
            losses["loss_bbox"].append(self._box_loss_of(rows, encoded, weights))
            losses["loss_centerness"].append(
                self.loss_centerness(logits, centerness, weight=positive, avg_factor=targets.avg_factor)
            )
        total = reduce_mean(total).clamp(min=1)
        losses["loss_bbox"] = [loss / total for loss in losses["loss_bbox"]]
        return losses

    def _box_loss_of(self, rows: RegressedRows, encoded: Tensor, weights: Tensor) -> Tensor:
        """Sum of the box losses of R rows from ``encoded`` (``Tensor[R, 4]``), times ``weights``, ``[R]``."""
        pred, wanted = encoded, rows.gt_boxes
        if self.reg_decoded_bbox:
            pred = self.bbox_coder.decode(rows.priors, encoded)
        else:
            wanted = self.bbox_coder.encode(rows.priors, rows.gt_boxes)
        loss: Tensor = self.loss_bbox(pred, wanted, weight=weights[:, None].expand(-1, 4), avg_factor=1.0)
        return loss

    def centerness_target(self, anchors: Tensor, gts: Tensor) -> Tensor:
        """Centerness ``Tensor[N]``, 0 at the sides to 1 in the middle, of the centres of anchors.

        Args:
            anchors: ``Tensor[N, 4]``, xyxy.
            gts: ``Tensor[N, 4]``, xyxy, the object of each. Whose centre is outside has the centerness 0:
                assigners that go by overlap choose such anchors, too.
        """
        return centerness_of(centers_of(anchors), gts)


def add_atss_layers(head: Any) -> None:
    """Give a head with ATSS's arguments its layers, under their names: for PAA's, too."""
    tower = (head.in_channels, head.feat_channels, head.stacked_convs, head.conv_cfg, head.norm_cfg)
    head.cls_convs, head.reg_convs = conv_tower(*tower), conv_tower(*tower)
    channels = head.feat_channels if head.stacked_convs else head.in_channels
    kernel, padding = head.pred_kernel_size, head.pred_kernel_size // 2
    num_scores = head.num_base_priors * head.cls_out_channels
    num_offsets = head.num_base_priors * head.bbox_coder.encode_size
    head.atss_cls = nn.Conv2d(channels, num_scores, kernel, padding=padding)
    head.atss_reg = nn.Conv2d(channels, num_offsets, kernel, padding=padding)
    head.atss_centerness = nn.Conv2d(channels, head.num_base_priors, kernel, padding=padding)
    head.scales = ModuleList(Scale() for _ in range(head.prior_generator.num_levels))
