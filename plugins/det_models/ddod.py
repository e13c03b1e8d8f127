"""DDOD: Disentangle Your Dense Object Detector (Chen et al., ACM MM 2021, arXiv 2107.02963).

ATSS's detector with three things taken apart that dense heads do together:

- *Which anchors learn what* (section 3.1, label assignment). Classes and boxes have positives of their own,
  both chosen as ATSS does, but by what the anchors predict at the moment: ``score^(1 - alpha) * IoU^alpha``,
  with an alpha of 0.8 for the classes and 0.5 for the boxes.
- *Where they look* (section 3.2, spatial features). The first convolution of either network is deformable.
- *How much a level weighs* (section 3.3, pyramid supervision). Coarse levels have few positives. With N_l the
  positives that level l has had since training began, its losses are multiplied by::

      2 - (N_l - min N) / (max N - min N)

Training: focal loss over all anchors, GIoU loss and cross entropy of the predicted IoU over the positives of
the boxes. In predictions that IoU scales the scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from det_models.anchors import AnchorGenerator, square_anchors
from det_models.assign import BaseAssigner, match_levels
from det_models.coders import BaseBBoxCoder, DeltaXYWHBBoxCoder
from det_models.dense import DenseHead, Losses
from det_models.dense_cfg import DenseTestCfg, DenseTrainCfg
from det_models.dense_targets import DenseTargets, rows_of_levels, sampled_targets, valid_priors
from det_models.detector import SingleStageDetector
from det_models.host import reduce_mean
from det_models.losses.cross_entropy import CrossEntropyLoss
from det_models.losses.focal import FocalLoss
from det_models.losses.iou import GIoULoss
from det_models.metainfo import MetaInfo
from det_models.postprocess import flatten_levels
from det_models.scale import Scale
from det_models.towers import conv_tower, each_level
from det_models.truth import GroundTruth
from detcore.engine.message_hub import MessageHub
from detcore.nn import ModuleList
from detcore.nn.base_module import DeferredInit
from detcore.nn.build import ConvCfg, NormCfg
from detcore.registry import MODELS, TASK_UTILS
from detcore.structures import InstanceData
from detcore.structures.bbox import bbox_overlaps

_NOTE = "ddod/positives_per_level"  # what the run's notes hold, since published checkpoints do not
_GROUP_NORM = {"type": "GN", "num_groups": 32, "requires_grad": True}
_INIT_CFG = {
    "type": "Normal",
    "layer": "Conv2d",
    "std": 0.01,
    "override": {"type": "Normal", "name": "atss_cls", "std": 0.01, "bias_prob": 0.01},
}


class DDOD(SingleStageDetector):
    """Backbone, feature pyramid and :class:`DDODHead`; see this module's docstring."""


@dataclass(kw_only=True, slots=True)
class DDODTrainCfg(DenseTrainCfg):
    """How a DDOD head is trained.

    Attributes:
        reg_assigner: Matches priors with the boxes that they are to predict; ``assigner`` with the classes.
    """

    reg_assigner: Annotated[BaseAssigner, TASK_UTILS]


class DDODHead(DenseHead):
    """Classes, boxes and their IoU of the anchors of every level.

    Args:
        num_classes: K, without background.
        in_channels: Channels of the feature maps.
        stacked_convs: Convolutions before the last one, in each of the two networks.
        conv_cfg: Kind of convolution.
        use_dcn: Whether the first convolution of either network is deformable.
        norm_cfg: Kind of norm layer, None for none.
        loss_iou: Loss of the predicted IoU, by default binary cross entropy.
        feat_channels: Channels of the convolutions before the last one.
        anchor_generator: Makes the anchors; by default a square of 8 strides a cell.
        bbox_coder: Turns box offsets into boxes; by default :class:`DeltaXYWHBBoxCoder`.
        reg_decoded_bbox: Has no effect: boxes are compared.
        loss_cls: Classification loss, by default the focal loss.
        loss_bbox: Box loss, by default twice the GIoU loss.
        train_cfg: How to match anchors with ground truth, for classes and for boxes.
        test_cfg: How to turn predictions into boxes.
        init_cfg: How weights are initialised.

    Attributes:
        cls_num_pos_samples_per_level: ``Tensor[levels]``, positives of each level since training began, the
            mean over ranks; no part of the state dict, but of a run's own checkpoints.
    """

    cls_num_pos_samples_per_level: Tensor

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        stacked_convs: int = 4,
        conv_cfg: ConvCfg = None,
        use_dcn: bool = True,
        norm_cfg: NormCfg = _GROUP_NORM,
        loss_iou: nn.Module | None = None,
        feat_channels: int = 256,
        anchor_generator: Annotated[AnchorGenerator | None, TASK_UTILS] = None,
        bbox_coder: Annotated[BaseBBoxCoder | None, TASK_UTILS] = None,
        reg_decoded_bbox: bool = False,
        loss_cls: nn.Module | None = None,
        loss_bbox: nn.Module | None = None,
        train_cfg: DDODTrainCfg | None = None,
        test_cfg: DenseTestCfg | None = None,
        init_cfg: DeferredInit = _INIT_CFG,
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
        self.loss_iou: nn.Module = MODELS.build(loss_iou or CrossEntropyLoss(use_sigmoid=True))
        self.stacked_convs = stacked_convs
        self.feat_channels = feat_channels
        self.conv_cfg = conv_cfg
        self.use_dcn = use_dcn
        self.norm_cfg = norm_cfg
        counts = torch.zeros(self.prior_generator.num_levels)
        self.register_buffer("cls_num_pos_samples_per_level", counts, persistent=False)
        self._init_layers()

    def _init_layers(self) -> None:
        """Make the layers; a head of a user's own may make others."""
        first: ConvCfg = {"type": "DCN", "deform_groups": 1} if self.use_dcn else None
        tower = (self.in_channels, self.feat_channels, self.stacked_convs, self.conv_cfg, self.norm_cfg)
        self.cls_convs, self.reg_convs = (conv_tower(*tower, first_conv_cfg=first) for _ in range(2))
        channels = self.feat_channels if self.stacked_convs else self.in_channels
        num_priors = self.num_base_priors
        self.atss_cls = nn.Conv2d(channels, num_priors * self.cls_out_channels, 3, padding=1)
        self.atss_reg = nn.Conv2d(channels, num_priors * self.bbox_coder.encode_size, 3, padding=1)
        self.atss_iou = nn.Conv2d(channels, num_priors, 3, padding=1)
        self.scales = ModuleList(Scale() for _ in range(self.prior_generator.num_levels))

    def forward(self, x: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        """Class logits, encoded boxes and logits of the IoU, a list of each.

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
            ``Tensor[B, A * 4, H, W]`` in float32, and logits of the IoU ``Tensor[B, A, H, W]``.
        """
        cls_feature, reg_feature = self.cls_convs(x), self.reg_convs(x)
        encoded = scale(self.atss_reg(reg_feature)).float()
        return self.atss_cls(cls_feature), encoded, self.atss_iou(reg_feature)

    # -- training --------------------------------------------------------------------------------

    def loss_by_feat(  # type: ignore[override]  # one output more
        self,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        iou_preds: Sequence[Tensor],
        batch_gt_instances: Sequence[InstanceData],
        batch_img_metas: Sequence[MetaInfo],
        batch_gt_instances_ignore: Sequence[InstanceData] | None = None,
    ) -> Losses:
        """Losses of every level.

        Args:
            cls_scores: Class logits, as from :meth:`forward`.
            bbox_preds: Encoded boxes, as from :meth:`forward`.
            iou_preds: Logits of the IoU, as from :meth:`forward`.
            batch_gt_instances: ``bboxes`` (``Tensor[N, 4]``, xyxy, pixels of the input) and ``labels`` of
                each image.
            batch_img_metas: ``img_shape`` and ``pad_shape`` of each image.
            batch_gt_instances_ignore: ``bboxes`` of each image in which nothing is to be learnt.

        Returns:
            ``loss_cls``, ``loss_bbox`` and ``loss_iou``, a scalar a level each.
        """
        truth = GroundTruth.pack(batch_gt_instances, batch_gt_instances_ignore, self.num_classes)
        mlvl_priors, for_classes, for_boxes = self._both_targets(
            cls_scores, bbox_preds, truth, batch_img_metas
        )
        lengths = [len(priors) for priors in mlvl_priors]
        factors = self.level_factors(for_classes.matches, lengths)
        loss_cls = self.class_losses(
            cls_scores, for_classes.labels, for_classes.label_weights, for_classes.avg_factor
        )
        losses: Losses = {
            "loss_cls": [loss * factor for loss, factor in zip(loss_cls, factors, strict=True)],
            "loss_bbox": [],
            "loss_iou": [],
        }
        factors = self.level_factors(for_boxes.matches, lengths)
        for number, rows in enumerate(rows_of_levels(for_boxes.matches, mlvl_priors, truth)):
            positive = rows.weights[:, 0]
            encoded = rows.of(bbox_preds[number], self.bbox_coder.encode_size)
            boxes = self.bbox_coder.decode(rows.priors, encoded)
            overlaps = bbox_overlaps(boxes.detach(), rows.gt_boxes, is_aligned=True) * positive
            logits, total = rows.of(iou_preds[number], 1)[:, 0], for_boxes.avg_factor
            loss_bbox = self.loss_bbox(boxes, rows.gt_boxes, positive, avg_factor=total)
            loss_iou = self.loss_iou(logits, overlaps, positive, avg_factor=total)
            losses["loss_bbox"].append(loss_bbox * factors[number])
            losses["loss_iou"].append(loss_iou * factors[number])
        return losses

    @torch.no_grad()
    def _both_targets(
        self,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        truth: GroundTruth,
        batch_img_metas: Sequence[MetaInfo],
    ) -> tuple[list[Tensor], DenseTargets, DenseTargets]:
        """The priors of every level, and what all of them are to predict: of classes, and of boxes."""
        cfg = self._train_cfg()
        if not isinstance(cfg, DDODTrainCfg):
            raise ValueError("DDODHead needs a reg_assigner beside the assigner in its train_cfg")
        sizes = [(score.shape[-2], score.shape[-1]) for score in cls_scores]
        mlvl_priors = self.prior_generator.grid_priors(sizes, device=cls_scores[0].device)
        valid = valid_priors(self.prior_generator, mlvl_priors, sizes, batch_img_metas, cfg.allowed_border)
        logits = flatten_levels(cls_scores, self.cls_out_channels)
        encoded = flatten_levels(bbox_preds, self.bbox_coder.encode_size)
        predicted = (logits, self.bbox_coder.decode(torch.cat(mlvl_priors), encoded))
        both = []
        for assigner in (cfg.assigner, cfg.reg_assigner):
            if getattr(assigner, "alpha", None) is None:
                matches = match_levels(assigner, mlvl_priors, truth, valid)
            else:  # one that goes by predictions
                matches = assigner.match_levels(  # type: ignore[attr-defined]
                    mlvl_priors, truth, valid, predicted
                )
            both.append(sampled_targets(matches, cfg, truth, self.num_classes))
        return mlvl_priors, both[0], both[1]

    @torch.no_grad()
    def level_factors(self, matches: Tensor, lengths: Sequence[int]) -> Tensor:
        """How much each level weighs, ``Tensor[levels]`` in 1 to 2, after its positives have been counted in.

        Args:
            matches: ``LongTensor[B, A]`` of all levels (see :class:`DenseTargets`).
            lengths: Priors of each level.
        """
        found = torch.stack([(level > 0).sum() for level in matches.split(list(lengths), dim=1)])
        self._recall()
        counts = self.cls_num_pos_samples_per_level
        counts += reduce_mean(found.float())
        return 2 - (counts - counts.min()) / (counts.max() - counts.min()).clamp(min=1e-10)

    def _recall(self) -> None:
        """Take up what was counted before the run was resumed, and let its checkpoints keep the counts."""
        hub, counts = MessageHub.get_current_instance(), self.cls_num_pos_samples_per_level
        noted = hub.get_info(_NOTE)
        if noted is counts:
            return
        if noted is not None:
            counts.copy_(noted)
        hub.update_info(_NOTE, counts)
