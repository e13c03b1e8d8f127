"""TOOD: Task-aligned One-stage Object Detection (Feng et al., ICCV 2021, arXiv 2108.07755).

A detector with one anchor a cell whose two tasks, telling what and where an object is, are to do well at the
same anchors.

The head (section 3.1) has one stack of convolutions for both. :class:`TaskDecomposition` weighs its layers
for each task (eq. 2-4). Two small networks see all layers and move the predictions towards one another: one
gives a factor of the scores, ``sqrt(sigmoid(z) * sigmoid(m))`` (eq. 5), the other says for each side of a box
at which place nearby to read it (eq. 6).

Task alignment learning (section 3.2): anchors are chosen, and weighed, by ``t = score^alpha * IoU^beta`` (eq.
8, :class:`TaskAlignedAssigner`). Scaled so that the best t of each object is the best IoU of its anchors,
that is what their scores are to become (eq. 9-11)::

    loss_cls = sum over positives |t - s|^2 BCE(s, t)  +  sum over negatives s^2 BCE(s, 0)

and the weight of their GIoU loss (eq. 12). Both are divided by the sum of t. For the first passes, while
predictions mean little, anchors are those of ATSS, the loss is the focal loss, and boxes weigh by their
centerness.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from det_models.anchors import AnchorGenerator, square_anchors
from det_models.assign import BaseAssigner, match_levels
from det_models.coders import BaseBBoxCoder, DeltaXYWHBBoxCoder
from det_models.dense import DenseHead, Losses
from det_models.dense_cfg import DenseTestCfg, DenseTrainCfg
from det_models.dense_targets import rows_of_levels, valid_priors
from det_models.detector import SingleStageDetector
from det_models.host import reduce_mean
from det_models.losses.focal import FocalLoss
from det_models.losses.gfocal import QualityFocalLoss
from det_models.losses.iou import GIoULoss
from det_models.metainfo import MetaInfo
from det_models.points import centerness_of, centers_of
from det_models.postprocess import Candidates, flatten_level, flatten_levels
from det_models.samplers import PseudoSampler
from det_models.scale import Scale
from det_models.task_aligned_assign import TaskAlignedAssigner, scaled_metrics
from det_models.task_decomposition import TaskDecomposition, read_sides, sigmoid_geometric_mean
from det_models.towers import each_level
from det_models.truth import GroundTruth
from detcore.engine.message_hub import MessageHub
from detcore.nn import ConvModule, ModuleList, Sequential
from detcore.nn.base_module import DeferredInit
from detcore.nn.build import ConvCfg, NormCfg
from detcore.registry import MODELS, TASK_UTILS
from detcore.structures import InstanceData
from detcore.structures.bbox import distance2bbox

_GROUP_NORM = {"type": "GN", "num_groups": 32, "requires_grad": True}
_RARE: dict[str, Any] = {"type": "Normal", "std": 0.01, "bias_prob": 0.01}
_PLAIN: dict[str, Any] = {"type": "Normal", "layer": "Conv2d", "std": 0.01}
_INIT_CFG = {**_PLAIN, "override": {**_RARE, "name": "tood_cls"}}


class TOOD(SingleStageDetector):
    """Backbone, feature pyramid and :class:`TOODHead`; see this module's docstring."""

    def set_epoch(self, epoch: int) -> None:
        """Tell the head which pass this is, in place of the run's own count."""
        self.bbox_head.epoch = epoch


@dataclass(kw_only=True, slots=True)
class TOODTrainCfg(DenseTrainCfg):
    """How a TOOD head is trained.

    Attributes:
        initial_epoch: Passes before anchors are chosen by their alignment.
        initial_assigner: Matches priors with ground truth until then.
        alpha: Power of the scores in the alignment.
        beta: Power of the overlaps.
    """

    initial_assigner: Annotated[BaseAssigner, TASK_UTILS]
    initial_epoch: int = 4
    alpha: float = 1
    beta: float = 6


@dataclass(slots=True)
class AlignedTargets:
    """What A priors of B images are to predict.

    Attributes:
        matches: ``LongTensor[B, A]``, number of the box plus one, 0 for background, -1 for neither.
        weights: ``Tensor[B, A]``, of the classes; 0 where a prior does not count.
        metrics: ``Tensor[B, A]``, the alignment to reach, 1 for all positives at first; 0 without a box.
        initial: Whether these are the first passes.
    """

    matches: Tensor
    weights: Tensor
    metrics: Tensor
    initial: bool


class TOODHead(DenseHead):
    """Classes and boxes of the anchors of every level.

    Args:
        num_classes: K, without background.
        in_channels: Channels of the feature maps.
        num_dcn: How many of the convolutions, from the first, are deformable.
        anchor_type: ``'anchor_free'``: boxes are distances from the anchor's centre, in strides;
            ``'anchor_based'``: what ``bbox_coder`` makes of the anchor.
        initial_loss_cls: Classification loss of the first passes; by default the focal loss of probabilities.
        pred_kernel_size: Has no effect, like ``loss_centerness``.
        stacked_convs: Convolutions that both tasks share.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of norm layer, None for none.
        reg_decoded_bbox: Has no effect: boxes are compared.
        loss_centerness: Has no effect.
        init_cfg: How weights are initialised.
        feat_channels: Channels of the convolutions.
        anchor_generator: Makes the anchors, one a cell; by default a square of 8 strides.
        bbox_coder: Turns box offsets into boxes where the head is anchor-based.
        loss_cls: Classification loss, by default :class:`QualityFocalLoss`; of probabilities.
        loss_bbox: Box loss, by default twice the GIoU loss.
        train_cfg: How to match anchors with ground truth, at first and later.
        test_cfg: How to turn predictions into boxes.

    Attributes:
        epoch: The pass that the losses are of; None: what the run says, 0 without one.

    Raises:
        ValueError: More than one anchor a cell, strides that differ along the axes, losses of logits, or an
            assigner that does not go by alignment.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        num_dcn: int = 0,
        anchor_type: Literal["anchor_free", "anchor_based"] = "anchor_free",
        initial_loss_cls: nn.Module | None = None,
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
        train_cfg: TOODTrainCfg | None = None,
        test_cfg: DenseTestCfg | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.set_up(
            num_classes,
            in_channels,
            prior_generator=anchor_generator or square_anchors(),
            bbox_coder=bbox_coder or DeltaXYWHBBoxCoder(),
            loss_cls=loss_cls or QualityFocalLoss(activated=True),
            loss_bbox=loss_bbox or GIoULoss(loss_weight=2.0),
            reg_decoded_bbox=reg_decoded_bbox,
            train_cfg=train_cfg,
            test_cfg=test_cfg,
        )
        self.initial_loss_cls: nn.Module = MODELS.build(initial_loss_cls or FocalLoss(activated=True))
        self.num_dcn = num_dcn
        self.anchor_type = anchor_type
        self.stacked_convs = stacked_convs
        self.feat_channels = feat_channels
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg
        self.epoch: int | None = None
        self._check()
        self.strides = [stride for stride, _ in self.prior_generator.strides]
        self._init_layers()

    def _check(self) -> None:
        strides = self.prior_generator.strides
        if self.num_base_priors != 1 or any(width != height for width, height in strides):
            raise ValueError(
                f"TOODHead takes one anchor a cell and equal strides along both axes, got "
                f"{self.num_base_priors} and {strides}"
            )
        for name in ("initial_loss_cls", "loss_cls"):
            loss = getattr(self, name)
            if not (self.use_sigmoid_cls and getattr(loss, "activated", True)):
                raise ValueError(
                    f"TOODHead gives probabilities: {name} must be over sigmoids, activated=True, got {loss}"
                )
        cfg = self.train_cfg
        if cfg is not None and not isinstance(cfg.assigner, TaskAlignedAssigner):
            raise ValueError(
                "TOODHead matches by TaskAlignedAssigner, got train_cfg.assigner of type "
                f"{type(cfg.assigner).__name__}"
            )

    def _init_layers(self) -> None:
        """Make the layers; a head of a user's own may make others."""
        deformable: Any = {"type": "DCNv2", "deform_groups": 4}
        width, total = self.feat_channels, self.feat_channels * self.stacked_convs
        self.inter_convs = ModuleList(
            ConvModule(
                width if number else self.in_channels,
                width,
                3,
                padding=1,
                conv_cfg=deformable if number < self.num_dcn else self.conv_cfg,
                norm_cfg=self.norm_cfg,
            )
            for number in range(self.stacked_convs)
        )
        size = (width, self.stacked_convs, self.stacked_convs * 8, self.conv_cfg, self.norm_cfg)
        self.cls_decomp, self.reg_decomp = TaskDecomposition(*size), TaskDecomposition(*size)
        self.tood_cls = nn.Conv2d(width, self.cls_out_channels, 3, padding=1)
        self.tood_reg = nn.Conv2d(width, 4, 3, padding=1)
        self.cls_prob_module = Sequential(
            nn.Conv2d(total, width // 4, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width // 4, 1, 3, padding=1),
            init_cfg={**_PLAIN, "override": {**_RARE, "name": "2"}},
        )
        self.reg_offset_module = Sequential(
            nn.Conv2d(total, width // 4, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width // 4, 4 * 2, 3, padding=1),
            init_cfg={**_PLAIN, "std": 0.001},
        )
        self.scales = ModuleList(Scale() for _ in self.strides)

    def forward(self, x: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        """Class probabilities and boxes in strides, a list of each.

        Args:
            x: ``Tensor[B, in_channels, H, W]`` a level.
        """
        return each_level(self.forward_single, x, self.scales, range(len(self.strides)))

    def forward_single(  # type: ignore[override]  # what each level needs beside its map
        self, x: Tensor, scale: nn.Module, level: int
    ) -> tuple[Tensor, Tensor]:
        """Predictions of one level.

        Args:
            x: ``Tensor[B, in_channels, H, W]``.
            scale: Multiplies the level's distances.
            level: Its number.

        Returns:
            Class probabilities ``Tensor[B, cls_out_channels, H, W]`` and boxes ``Tensor[B, 4, H, W]``, xyxy,
            in strides, both in float32.
        """
        layers = []
        for conv in self.inter_convs:
            x = conv(x)
            layers.append(x)
        every = torch.cat(layers, dim=1)
        means = F.adaptive_avg_pool2d(every, 1)
        logits = self.tood_cls(self.cls_decomp(every, means))
        scores = sigmoid_geometric_mean(logits, self.cls_prob_module(every))
        boxes = self._boxes_of(self.tood_reg(self.reg_decomp(every, means)), scale, level)
        return scores, read_sides(boxes, self.reg_offset_module(every).float())

    def _boxes_of(self, regressed: Tensor, scale: nn.Module, level: int) -> Tensor:
        """Boxes ``Tensor[B, 4, H, W]``, in strides, of what the last layer gives."""
        size = (regressed.shape[-2], regressed.shape[-1])
        anchors = self.prior_generator.single_level_grid_priors(size, level, device=regressed.device)
        if self.anchor_type == "anchor_free":
            distances = flatten_level(scale(regressed.exp()).float(), 4)
            boxes = distance2bbox(centers_of(anchors) / self.strides[level], distances)
        else:
            boxes = self.bbox_coder.decode(anchors, flatten_level(scale(regressed).float(), 4))
            boxes = boxes / self.strides[level]
        return boxes.transpose(1, 2).reshape(regressed.shape)

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
            cls_scores: Class probabilities, as from :meth:`forward`.
            bbox_preds: Boxes in strides, as from :meth:`forward`.
            batch_gt_instances: ``bboxes`` (``Tensor[N, 4]``, xyxy, pixels of the input) and ``labels`` of
                each image.
            batch_img_metas: ``img_shape`` and ``pad_shape`` of each image.
            batch_gt_instances_ignore: ``bboxes`` of each image that the assigner of the first passes may look
                at; the later one does not.

        Returns:
            ``loss_cls`` and ``loss_bbox``, a scalar a level each.
        """
        truth = GroundTruth.pack(batch_gt_instances, batch_gt_instances_ignore, self.num_classes)
        sizes = [(score.shape[-2], score.shape[-1]) for score in cls_scores]
        mlvl_priors = self.prior_generator.grid_priors(sizes, device=cls_scores[0].device)
        found = self.aligned_targets(mlvl_priors, cls_scores, bbox_preds, truth, batch_img_metas)
        lengths = [len(priors) for priors in mlvl_priors]
        metrics = found.metrics.split(lengths, dim=1)
        loss_bbox, total = [], found.metrics.new_zeros(())
        for number, rows in enumerate(rows_of_levels(found.matches, mlvl_priors, truth)):
            if found.initial:
                weights = centerness_of(centers_of(rows.priors), rows.gt_boxes) * rows.weights[:, 0]
            else:
                weights = metrics[number].flatten()[rows.index]
            total = total + weights.sum()
            boxes, wanted = rows.of(bbox_preds[number], 4), rows.gt_boxes / self.strides[number]
            loss_bbox.append(self.loss_bbox(boxes, wanted, weight=weights, avg_factor=1.0))
        sum_of_metrics, total = reduce_mean(torch.stack((found.metrics.sum(), total))).clamp(min=1)
        loss = self.initial_loss_cls if found.initial else self.loss_cls
        labels = truth.labels_at(found.matches, self.num_classes).split(lengths, dim=1)
        loss_cls = [
            self.class_loss(loss, score, label if found.initial else (label, metric), weight, sum_of_metrics)
            for score, label, metric, weight in zip(
                cls_scores, labels, metrics, found.weights.split(lengths, dim=1), strict=True
            )
        ]
        return {"loss_cls": loss_cls, "loss_bbox": [each / total for each in loss_bbox]}

    @torch.no_grad()
    def aligned_targets(
        self,
        mlvl_priors: Sequence[Tensor],
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        truth: GroundTruth,
        batch_img_metas: Sequence[MetaInfo],
    ) -> AlignedTargets:
        """Match all priors of a batch with its ground truth, as this pass does."""
        cfg = self._train_cfg()
        if not isinstance(cfg, TOODTrainCfg):
            raise ValueError("TOODHead needs an initial_assigner beside the assigner in its train_cfg")
        epoch = self.epoch
        if epoch is None:
            epoch = MessageHub.get_current_instance().get_info("epoch") or 0
        sizes = [(score.shape[-2], score.shape[-1]) for score in cls_scores]
        valid = valid_priors(self.prior_generator, mlvl_priors, sizes, batch_img_metas, cfg.allowed_border)
        initial, sampler = epoch < cfg.initial_epoch, cfg.sampler or PseudoSampler()
        if initial:
            matches = sampler.select(match_levels(cfg.initial_assigner, mlvl_priors, truth, valid))
            metrics = (matches > 0).float()
        else:
            boxes = [pred * stride for pred, stride in zip(bbox_preds, self.strides, strict=True)]
            assert isinstance(cfg.assigner, TaskAlignedAssigner)
            found = cfg.assigner.match_predictions(
                torch.cat(list(mlvl_priors)),
                flatten_levels(boxes, 4),
                flatten_levels(cls_scores, self.cls_out_channels),
                truth,
                valid,
                alpha=cfg.alpha,
                beta=cfg.beta,
            )
            matches = found.matches = sampler.select(found.matches)
            metrics = scaled_metrics(found, truth.boxes.shape[1])
        weights = (matches >= 0).float()
        if cfg.pos_weight > 0:
            weights = torch.where(matches > 0, cfg.pos_weight, weights)
        return AlignedTargets(matches, weights, metrics, initial)

    # -- prediction ------------------------------------------------------------------------------

    def predict_by_feat(
        self,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        score_factors: Sequence[Tensor] | None = None,
        batch_img_metas: Sequence[MetaInfo] = (),
        cfg: DenseTestCfg | None = None,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> list[InstanceData]:
        """Boxes from what :meth:`forward` gave; see :meth:`DenseHead.predict_by_feat`."""
        logits = [score.logit() for score in cls_scores]  # what the rest takes and makes scores of
        boxes = [pred * stride for pred, stride in zip(bbox_preds, self.strides, strict=True)]
        return super().predict_by_feat(logits, boxes, None, batch_img_metas, cfg, rescale, with_nms)

    def decode_candidates(self, best: Candidates, shapes: Sequence[tuple[int, int]]) -> Tensor:
        """The boxes as they are, not cut to the images; see :meth:`DenseHead.decode_candidates`."""
        return best.bbox_preds
