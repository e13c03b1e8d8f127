"""GFL: Generalized Focal Loss (Li et al., NeurIPS 2020, arXiv 2006.04388).

ATSS without its centerness, and with two changes of what is predicted.

The score of a class is the quality of the box, too: the IoU of the predicted box with its object is what the
score of the object's class is to be (section 3, eq. 4, :class:`QualityFocalLoss`). So training and ranking go
by one number, where centerness and classes were two that never met before the test.

Each side of a box is a distribution over the distances 0 to n strides (``reg_max``), not one number: its mean
is the distance (eq. 5), and the two whole numbers around the true distance are to be likely (eq. 6,
:class:`DistributionFocalLoss`). A side that cannot be seen well may be wide.

Training: the anchors' centres answer for objects as in ATSS. Boxes (GIoU) and distributions are weighted by
the highest score of the cell, and divided by the sum of these weights over the batch.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from det_models.anchors import AnchorGenerator, square_anchors
from det_models.coders import BaseBBoxCoder, DistancePointBBoxCoder
from det_models.dense import DenseHead, Losses
from det_models.dense_cfg import DenseTestCfg, DenseTrainCfg
from det_models.dense_targets import RegressedRows, rows_of_levels
from det_models.detector import SingleStageDetector
from det_models.host import host_tensor, reduce_mean
from det_models.losses.gfocal import DistributionFocalLoss, QualityFocalLoss
from det_models.losses.iou import GIoULoss
from det_models.metainfo import MetaInfo
from det_models.points import centers_of
from det_models.postprocess import Candidates
from det_models.scale import Scale
from det_models.towers import conv_tower, each_level
from det_models.truth import GroundTruth
from detcore.nn import ModuleList
from detcore.nn.base_module import DeferredInit
from detcore.nn.build import ConvCfg, NormCfg
from detcore.registry import MODELS, TASK_UTILS
from detcore.structures import InstanceData
from detcore.structures.bbox import bbox2distance, bbox_overlaps

_GROUP_NORM = {"type": "GN", "num_groups": 32, "requires_grad": True}
_INIT_CFG = {
    "type": "Normal",
    "layer": "Conv2d",
    "std": 0.01,
    "override": {"type": "Normal", "name": "gfl_cls", "std": 0.01, "bias_prob": 0.01},
}


class GFL(SingleStageDetector):
    """Backbone, feature pyramid and :class:`GFLHead`; see this module's docstring."""


class Integral(nn.Module):
    """Mean of distributions over the numbers 0 to ``reg_max``; eq. 5.

    Args:
        reg_max: Greatest number.

    Attributes:
        project: The numbers, ``Tensor[reg_max + 1]``.
    """

    project: Tensor

    def __init__(self, reg_max: int = 16) -> None:
        super().__init__()
        self.reg_max = reg_max
        self.register_buffer("project", torch.linspace(0, reg_max, reg_max + 1))

    def forward(self, x: Tensor) -> Tensor:
        """Means ``Tensor[..., 4]`` of logits ``Tensor[..., 4 * (reg_max + 1)]``."""
        return F.linear(x.unflatten(-1, (-1, self.reg_max + 1)).softmax(-1), self.project)


class GFLHead(DenseHead):
    """Classes with their quality, and distributions of the sides, of every cell of every level.

    Args:
        num_classes: K, without background.
        in_channels: Channels of the feature maps.
        stacked_convs: Convolutions before the last one, in each of the two networks.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of norm layer, None for none.
        loss_dfl: Loss of the distributions, by default a quarter of :class:`DistributionFocalLoss`.
        bbox_coder: Turns distances into boxes.
        reg_max: n, the greatest distance in strides.
        init_cfg: How weights are initialised.
        feat_channels: Channels of the convolutions before the last one.
        anchor_generator: Makes the anchors that are matched with objects, one a cell; by default of 8
            strides, square. Distances count from their centres.
        reg_decoded_bbox: Has no effect: boxes are compared.
        loss_cls: Classification loss, by default :class:`QualityFocalLoss`; its targets are labels and
            qualities.
        loss_bbox: Box loss, by default twice the GIoU loss.
        train_cfg: How to match anchors with ground truth.
        test_cfg: How to turn predictions into boxes.

    Raises:
        ValueError: More than one anchor a cell, or strides that differ along the axes.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        stacked_convs: int = 4,
        conv_cfg: ConvCfg = None,
        norm_cfg: NormCfg = _GROUP_NORM,
        loss_dfl: nn.Module | None = None,
        bbox_coder: Annotated[BaseBBoxCoder | None, TASK_UTILS] = None,
        reg_max: int = 16,
        init_cfg: DeferredInit = _INIT_CFG,
        feat_channels: int = 256,
        anchor_generator: Annotated[AnchorGenerator | None, TASK_UTILS] = None,
        reg_decoded_bbox: bool = False,
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
            bbox_coder=bbox_coder or DistancePointBBoxCoder(),
            loss_cls=loss_cls or QualityFocalLoss(),
            loss_bbox=loss_bbox or GIoULoss(loss_weight=2.0),
            reg_decoded_bbox=reg_decoded_bbox,
            train_cfg=train_cfg,
            test_cfg=test_cfg,
        )
        strides = self.prior_generator.strides
        if self.num_base_priors != 1 or any(width != height for width, height in strides):
            raise ValueError(
                f"GFLHead takes one anchor a cell and equal strides along both axes, got "
                f"{self.num_base_priors} and {strides}"
            )
        self.loss_dfl: nn.Module = MODELS.build(loss_dfl or DistributionFocalLoss(loss_weight=0.25))
        self.strides = [stride for stride, _ in strides]
        self.reg_max = reg_max
        self.integral = Integral(reg_max)
        self.stacked_convs = stacked_convs
        self.feat_channels = feat_channels
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg
        self._init_layers()

    def _init_layers(self) -> None:
        """Make the layers; a head of a user's own may make others."""
        tower = (self.in_channels, self.feat_channels, self.stacked_convs, self.conv_cfg, self.norm_cfg)
        self.cls_convs, self.reg_convs = conv_tower(*tower), conv_tower(*tower)
        channels = self.feat_channels if self.stacked_convs else self.in_channels
        self.gfl_cls = nn.Conv2d(channels, self.cls_out_channels, 3, padding=1)
        self.gfl_reg = nn.Conv2d(channels, 4 * (self.reg_max + 1), 3, padding=1)
        self.scales = ModuleList(Scale() for _ in self.strides)

    def forward(self, x: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        """Class logits and logits of the distributions, a list of each.

        Args:
            x: ``Tensor[B, in_channels, H, W]`` a level.
        """
        return each_level(self.forward_single, x, self.scales)

    def forward_single(  # type: ignore[override]  # the arguments that users' heads redefine it with
        self, x: Tensor, scale: nn.Module
    ) -> tuple[Tensor, Tensor]:
        """Predictions of one level.

        Args:
            x: ``Tensor[B, in_channels, H, W]``.
            scale: Multiplies the level's logits of distributions.

        Returns:
            Class logits ``Tensor[B, cls_out_channels, H, W]`` and logits of the distributions of left, top,
            right, bottom ``Tensor[B, 4 * (reg_max + 1), H, W]`` in float32.
        """
        return self.gfl_cls(self.cls_convs(x)), scale(self.gfl_reg(self.reg_convs(x))).float()

    # -- training --------------------------------------------------------------------------------

    def loss_by_feat(
        self,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        batch_gt_instances: Sequence[InstanceData],
        batch_img_metas: Sequence[MetaInfo],
        batch_gt_instances_ignore: Sequence[InstanceData] | None = None,
    ) -> Losses:
        """Losses of every level.

        Args:
            cls_scores: Class logits, as from :meth:`forward`.
            bbox_preds: Logits of the distributions, as from :meth:`forward`.
            batch_gt_instances: ``bboxes`` (``Tensor[N, 4]``, xyxy, pixels of the input) and ``labels`` of
                each image.
            batch_img_metas: ``img_shape`` and ``pad_shape`` of each image.
            batch_gt_instances_ignore: ``bboxes`` of each image in which nothing is to be learnt.

        Returns:
            ``loss_cls``, ``loss_bbox`` and ``loss_dfl``, a scalar a level each.
        """
        truth = GroundTruth.pack(batch_gt_instances, batch_gt_instances_ignore, self.num_classes)
        mlvl_priors, targets = self.match_levels(cls_scores, truth, batch_img_metas)
        losses: Losses = {"loss_bbox": [], "loss_dfl": []}
        qualities, total = [], targets.avg_factor.new_zeros(())
        for number, rows in enumerate(rows_of_levels(targets.matches, mlvl_priors, truth)):
            best_score = cls_scores[number].detach().float().amax(1, keepdim=True).sigmoid()
            weights = rows.of(best_score, 1)[:, 0] * rows.weights[:, 0]
            logits = rows.of(bbox_preds[number], 4 * (self.reg_max + 1))
            loss_bbox, loss_dfl, overlaps = self._box_losses(rows, logits, self.strides[number], weights)
            losses["loss_bbox"].append(loss_bbox)
            losses["loss_dfl"].append(loss_dfl)
            quality = overlaps.new_zeros(best_score.numel()).index_put(
                (rows.index,), overlaps * rows.weights[:, 0]
            )
            qualities.append(quality.view(len(best_score), -1))
            total = total + weights.sum()
        total = reduce_mean(total).clamp(min=1)
        losses = {name: [loss / total for loss in levels] for name, levels in losses.items()}
        wanted = (targets.labels, torch.cat(qualities, dim=1))
        loss_cls = self.class_losses(cls_scores, wanted, targets.label_weights, targets.avg_factor)
        return {"loss_cls": loss_cls, **losses}

    def _box_losses(
        self, rows: RegressedRows, logits: Tensor, stride: int, weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Weighted sums of the losses of R boxes and of their distributions, and the boxes' quality ``[R]``.

        Args:
            rows: What to predict.
            logits: Of the distributions, ``Tensor[R, 4 * (reg_max + 1)]``.
            stride: Pixels between the level's cells.
            weights: ``Tensor[R]``.
        """
        points, wanted = centers_of(rows.priors) / stride, rows.gt_boxes / stride
        boxes = self.bbox_coder.decode(points, self.integral(logits))
        loss_bbox = self.loss_bbox(boxes, wanted, weight=weights, avg_factor=1.0)
        distances = bbox2distance(points, wanted, self.reg_max)
        loss_dfl = self.loss_dfl(
            logits.reshape(-1, self.reg_max + 1),
            distances.flatten(),
            weight=weights[:, None].expand(-1, 4).flatten(),
            avg_factor=4.0,
        )
        overlaps = bbox_overlaps(boxes.detach(), wanted, is_aligned=True)
        return loss_bbox, loss_dfl, overlaps

    # -- prediction ------------------------------------------------------------------------------

    def decode_candidates(self, best: Candidates, shapes: Sequence[tuple[int, int]]) -> Tensor:
        """Boxes from the distributions; see :meth:`DenseHead.decode_candidates`."""
        strides = host_tensor(self.strides, best.bbox_preds)[best.levels]
        distances = self.integral(best.bbox_preds) * strides[..., None]
        return self.bbox_coder.decode(centers_of(best.priors), distances, max_shape=shapes)
