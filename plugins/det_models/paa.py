"""PAA: Probabilistic Anchor Assignment with IoU Prediction (Kim and Lee, ECCV 2020, arXiv 2007.08103).

The network of ATSS, whose centerness is the IoU of the predicted box here, and no fixed rule for which anchor
answers for which object. All anchors that overlap an object at all (``pos_iou_thr`` 0.1) first say how badly
they do with it, the sum of their focal and GIoU losses. Two Gaussians are fitted to these losses of each
object, and the anchors of the lower one are its positives (section 3.1-3.2, :mod:`det_models.paa_assign`).
The others become background.

Training: focal loss over all anchors, divided by the number of positives; GIoU loss of the positives,
weighted by their IoU and divided by its sum; cross entropy of the predicted IoU (section 3.3).

Predictions are ranked by ``sqrt(score * IoU)``. After the suppression of doubles the boxes left are averaged
with those around them of their class, the more the nearer and the surer (score voting, section 3.4)::

    box = sum_i p_i box_i / sum_i p_i,    p_i = score_i * exp(-(1 - IoU(box, box_i))^2 / 0.025)
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn

from det_models.anchors import AnchorGenerator, square_anchors
from det_models.atss import add_atss_layers
from det_models.coders import BaseBBoxCoder, DeltaXYWHBBoxCoder
from det_models.dense import DenseHead
from det_models.dense_cfg import DenseTestCfg, DenseTrainCfg
from det_models.dense_targets import RegressedRows, regressed_rows
from det_models.detector import SingleStageDetector
from det_models.host import reduce_mean
from det_models.losses.cross_entropy import CrossEntropyLoss
from det_models.losses.focal import FocalLoss
from det_models.losses.iou import GIoULoss
from det_models.metainfo import MetaInfo, each_meta, with_scale_factor
from det_models.paa_assign import Covariance, likely_positives
from det_models.postprocess import flatten_level, flatten_levels, rescale_boxes, suppress
from det_models.towers import each_level
from det_models.truth import GroundTruth
from detcore.nn import ModuleList, Sequential
from detcore.nn.base_module import DeferredInit
from detcore.nn.build import ConvCfg, NormCfg
from detcore.registry import MODELS, TASK_UTILS
from detcore.structures import InstanceData
from detcore.structures.bbox import bbox_overlaps

_VOTING_SPREAD = 0.025  # sigma_t of section 3.4
_VOTING_IOU = 0.01  # boxes that overlap no more do not vote
_GROUP_NORM = {"type": "GN", "num_groups": 32, "requires_grad": True}
_INIT_CFG = {
    "type": "Normal",
    "layer": "Conv2d",
    "std": 0.01,
    "override": {"type": "Normal", "name": "atss_cls", "std": 0.01, "bias_prob": 0.01},
}


class PAA(SingleStageDetector):
    """Backbone, feature pyramid and :class:`PAAHead`; see this module's docstring."""


class PAAHead(DenseHead):
    """Classes, boxes and their IoU of the anchors of every level.

    Args:
        num_classes: K, without background.
        in_channels: Channels of the feature maps.
        topk: Candidates of an object on each level.
        score_voting: Whether boxes are averaged with those around them.
        covariance_type: Of the two Gaussians: ``'tied'`` for one variance, any other for one each.
        pred_kernel_size: Kernel of the last convolutions.
        stacked_convs: Convolutions before the last one, in each of the two networks.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of norm layer, None for none.
        reg_decoded_bbox: Has no effect: boxes are compared.
        loss_centerness: Loss of the predicted IoU, by default half of binary cross entropy.
        init_cfg: How weights are initialised.
        feat_channels: Channels of the convolutions before the last one.
        anchor_generator: Makes the anchors; by default a square of 8 strides a cell.
        bbox_coder: Turns box offsets into boxes; by default :class:`DeltaXYWHBBoxCoder`.
        loss_cls: Classification loss over sigmoids, by default the focal loss.
        loss_bbox: Box loss, by default 1.3 times the GIoU loss.
        train_cfg: How to find the anchors that may answer for an object.
        test_cfg: How to turn predictions into boxes.

    Raises:
        ValueError: No candidates, or a class loss that is not over sigmoids.
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
        topk: int = 9,
        score_voting: bool = True,
        covariance_type: Covariance = "diag",
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
            loss_bbox=loss_bbox or GIoULoss(loss_weight=1.3),
            reg_decoded_bbox=reg_decoded_bbox,
            train_cfg=train_cfg,
            test_cfg=test_cfg,
        )
        if topk < 1:
            raise ValueError(f"topk is a number of candidates, at least 1, got {topk}")
        if not self.use_sigmoid_cls:
            raise ValueError("PAAHead scores classes by sigmoids: loss_cls must have use_sigmoid=True")
        half = CrossEntropyLoss(use_sigmoid=True, loss_weight=0.5)
        self.loss_centerness: nn.Module = MODELS.build(loss_centerness or half)
        self.topk = topk
        self.with_score_voting = score_voting
        self.covariance_type = covariance_type
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
        """Class logits, encoded boxes and logits of the IoU, a list of each.

        Args:
            x: ``Tensor[B, in_channels, H, W]`` a level.
        """
        return each_level(self.forward_single, x, self.scales)

    def forward_single(  # type: ignore[override]  # the arguments that users' heads redefine it with
        self, x: Tensor, scale: nn.Module
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Predictions of one level, as of :meth:`ATSSHead.forward_single`, with the IoU as centerness."""
        cls_feature, reg_feature = self.cls_convs(x), self.reg_convs(x)
        encoded = scale(self.atss_reg(reg_feature)).float()
        return self.atss_cls(cls_feature), encoded, self.atss_centerness(reg_feature)

    # -- training --------------------------------------------------------------------------------

    def loss_by_feat(  # type: ignore[override]  # one output more
        self,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        iou_preds: Sequence[Tensor],
        batch_gt_instances: Sequence[InstanceData],
        batch_img_metas: Sequence[MetaInfo],
        batch_gt_instances_ignore: Sequence[InstanceData] | None = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            cls_scores: Class logits, as from :meth:`forward`.
            bbox_preds: Encoded boxes, as from :meth:`forward`.
            iou_preds: Logits of the IoU, as from :meth:`forward`.
            batch_gt_instances: ``bboxes`` (``Tensor[N, 4]``, xyxy, pixels of the input) and ``labels`` of
                each image.
            batch_img_metas: ``img_shape`` and ``pad_shape`` of each image.
            batch_gt_instances_ignore: ``bboxes`` of each image in which nothing is to be learnt.

        Returns:
            ``loss_cls``, ``loss_bbox`` and ``loss_iou``, a scalar each.
        """
        truth = GroundTruth.pack(batch_gt_instances, batch_gt_instances_ignore, self.num_classes)
        mlvl_priors, targets = self.match_levels(cls_scores, truth, batch_img_metas)
        priors, lengths = torch.cat(mlvl_priors), [len(level) for level in mlvl_priors]
        encoded = flatten_levels(bbox_preds, self.bbox_coder.encode_size)
        losses = self._prior_losses(
            cls_scores, encoded, targets.labels, regressed_rows(targets.matches, priors, truth)
        )
        kept = likely_positives(
            losses, targets.matches, lengths, truth.boxes.shape[1], self.topk, self.covariance_type
        )
        matches = torch.where((targets.matches > 0) & ~kept, 0, targets.matches)
        rows = regressed_rows(matches, priors, truth)
        positive = rows.weights[:, 0]
        boxes = self.bbox_coder.decode(rows.priors, encoded.flatten(0, 1)[rows.index])
        overlaps = bbox_overlaps(boxes.detach(), rows.gt_boxes, is_aligned=True)
        sums = torch.stack(((matches > 0).sum().float(), (overlaps * positive).sum()))
        num_positives, total = reduce_mean(sums)
        labels = truth.labels_at(matches, self.num_classes)
        loss_cls = self.class_losses(
            cls_scores, labels, targets.label_weights, num_positives.clamp(min=len(truth))
        )
        loss_bbox = self.loss_bbox(
            boxes, rows.gt_boxes, overlaps.clamp(min=1e-12) * positive, avg_factor=total
        )
        loss_iou = self.loss_centerness(
            flatten_levels(iou_preds, 1).flatten()[rows.index],
            overlaps,
            weight=positive,
            avg_factor=num_positives.clamp(min=1),
        )
        return {"loss_cls": torch.stack(loss_cls).sum(), "loss_bbox": loss_bbox, "loss_iou": loss_iou}

    @torch.no_grad()
    def _prior_losses(
        self, cls_scores: Sequence[Tensor], encoded: Tensor, labels: Tensor, rows: RegressedRows
    ) -> Tensor:
        """How badly priors do with the object that they are matched with.

        Args:
            cls_scores: Class logits of every level.
            encoded: Boxes of all levels, ``Tensor[B, A, 4]``.
            labels: Classes of the objects, ``LongTensor[B, A]``.
            rows: Those that are matched.

        Returns:
            ``Tensor[B, A]``, 0 without an object.
        """
        logits = flatten_levels(cls_scores, self.cls_out_channels).flatten(0, 1)[rows.index]
        wanted = (labels.flatten()[rows.index], rows.weights[:, 0])
        cls_loss = self.loss_cls(logits, *wanted, reduction_override="none").sum(-1)
        boxes = self.bbox_coder.decode(rows.priors, encoded.flatten(0, 1)[rows.index])
        box_loss = self.loss_bbox(boxes, rows.gt_boxes, rows.weights, reduction_override="none")
        losses = encoded.new_zeros(encoded.shape[:2]).flatten()
        return losses.index_put((rows.index,), cls_loss + box_loss).view(encoded.shape[:2])

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
        cfg = cfg or self.test_cfg
        if cfg is None or score_factors is None:
            raise ValueError(f"{type(self).__name__} predicts from test_cfg and the logits of the IoU")
        scores, priors, encoded = self._best_priors(cls_scores, bbox_preds, score_factors, cfg.nms_pre)
        shapes = [shape[:2] for shape in each_meta(batch_img_metas, "img_shape")]
        boxes = self.bbox_coder.decode(priors, encoded, max_shape=shapes)
        if rescale:
            boxes = rescale_boxes(boxes, each_meta(map(with_scale_factor, batch_img_metas), "scale_factor"))
        worth = scores > cfg.score_thr
        if cfg.min_bbox_size >= 0:
            worth &= (boxes[..., 2:] - boxes[..., :2] > cfg.min_bbox_size).all(-1, keepdim=True)
        results = []
        for number in range(len(boxes)):
            place, label = torch.nonzero(worth[number], as_tuple=True)
            found = InstanceData(
                bboxes=boxes[number, place], scores=scores[number, place, label], labels=label
            )
            kept = suppress(found, cfg.nms if with_nms else None, cfg.max_per_img)
            if with_nms and self.with_score_voting and len(kept):
                kept.bboxes = vote(kept, found)
            results.append(kept)
        return results

    def _best_priors(
        self,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        iou_preds: Sequence[Tensor],
        limit: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The best priors of every level with all their classes.

        Returns:
            ``sqrt(score * IoU)`` ``Tensor[B, N, K]``, priors and encoded boxes ``Tensor[B, N, 4]``.
        """
        sizes = [(score.shape[-2], score.shape[-1]) for score in cls_scores]
        levels = []
        for score, pred, iou, priors in zip(
            cls_scores,
            bbox_preds,
            iou_preds,
            self.prior_generator.grid_priors(sizes, device=cls_scores[0].device),
            strict=True,
        ):
            logits, encoded = flatten_level(score, self.cls_out_channels), flatten_level(pred, 4)
            factor = flatten_level(iou, 1).float().sigmoid()
            count = min(limit, len(priors)) if limit > 0 else len(priors)
            best = logits.amax(-1).float().sigmoid() * factor[..., 0]
            rows = best.topk(count).indices[..., None]
            chosen = logits.gather(1, rows.expand(-1, -1, logits.shape[-1])).float().sigmoid()
            levels.append((
                (chosen * factor.gather(1, rows)).sqrt(),
                priors[rows[..., 0]],
                encoded.gather(1, rows.expand(-1, -1, 4)).float(),
            ))  # fmt: skip
        scores, anchors, boxes = (torch.cat(parts, dim=1) for parts in zip(*levels, strict=True))
        return scores, anchors, boxes


def vote(kept: InstanceData, found: InstanceData) -> Tensor:
    """Boxes ``Tensor[N, 4]`` averaged with those around them of their class.

    Args:
        kept: What the suppression of doubles left: ``bboxes`` (xyxy) and ``labels`` of N predictions.
        found: What there was before, with ``scores``.
    """
    overlaps = bbox_overlaps(kept.bboxes, found.bboxes)
    counted = (kept.labels[:, None] == found.labels) & (overlaps > _VOTING_IOU)
    votes = torch.exp(-((1 - overlaps) ** 2) / _VOTING_SPREAD) * found.scores * counted
    total = votes.sum(1, keepdim=True)
    voted = votes @ found.bboxes / total.clamp(min=torch.finfo(total.dtype).tiny)
    return torch.where(total > 0, voted, kept.bboxes)  # a box without an area overlaps not even itself
