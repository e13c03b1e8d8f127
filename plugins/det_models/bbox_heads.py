"""Heads that classify regions and refine their boxes: the second stage of R-CNNs.

Fast R-CNN (Girshick 2015), section 2.3: from a region's features a softmax over K classes and background, and
for each class four box offsets. Both losses are divided by the number of sampled regions; boxes count where
the region has an object.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from det_models.coders import BaseBBoxCoder, DeltaXYWHBBoxCoder, clip_boxes
from det_models.conv_fc import Branches, Width, conv_fc_branch
from det_models.losses.accuracy import accuracy
from det_models.losses.cross_entropy import CrossEntropyLoss
from det_models.losses.smooth_l1 import SmoothL1Loss
from det_models.metainfo import MetaInfo, each_meta, with_scale_factor
from det_models.postprocess import rescale_boxes
from det_models.refine import of_class, refined
from det_models.samplers import SamplingResult
from det_models.two_stage_cfg import RCNNTestCfg, RCNNTrainCfg
from detcore.nn import BaseModule, build_linear_layer
from detcore.nn.base_module import DeferredInit
from detcore.nn.build import LinearCfg
from detcore.ops import multiclass_nms
from detcore.registry import MODELS, TASK_UTILS
from detcore.structures import InstanceData

Targets = tuple[Any, Any, Any, Any]  # labels, label weights, box targets, box weights

_LINEAR = {"type": "Linear"}
_INIT_FC_CLS = {"type": "Normal", "std": 0.01, "override": {"name": "fc_cls"}}
_INIT_FC_REG = {"type": "Normal", "std": 0.001, "override": {"name": "fc_reg"}}
_INIT_FCS = {
    "type": "Xavier",
    "distribution": "uniform",
    "override": [{"name": "shared_fcs"}, {"name": "cls_fcs"}, {"name": "reg_fcs"}],
}


class BBoxHead(BaseModule):
    """Classes and boxes of regions from their features: one linear layer each, behind the ``branches``.

    Args:
        with_avg_pool: Average a region's features over its cells first.
        with_cls: Predict classes.
        with_reg: Predict boxes.
        roi_feat_size: Height and width of a region's features.
        in_channels: Their channels.
        num_classes: K, without background.
        bbox_coder: Turns offsets into boxes; by default that of Fast R-CNN.
        reg_class_agnostic: One box a region, not one for each class.
        reg_decoded_bbox: The box loss compares boxes, not offsets (IoU losses need it).
        reg_predictor_cfg: Kind of the last layer of boxes.
        cls_predictor_cfg: Kind of the last layer of classes.
        loss_cls: Classification loss, by default the cross entropy of a softmax.
        loss_bbox: Box loss, by default smooth L1.
        branches: Layers in front of the predictions.
        init_cfg: How weights are initialised; by default as in the papers.

    Raises:
        ValueError: Neither classes nor boxes are predicted, or there is no class.
    """

    def __init__(
        self,
        with_avg_pool: bool = False,
        with_cls: bool = True,
        with_reg: bool = True,
        roi_feat_size: int | tuple[int, int] = 7,
        in_channels: int = 256,
        num_classes: int = 80,
        bbox_coder: Annotated[BaseBBoxCoder | None, TASK_UTILS] = None,
        reg_class_agnostic: bool = False,
        reg_decoded_bbox: bool = False,
        reg_predictor_cfg: LinearCfg = _LINEAR,
        cls_predictor_cfg: LinearCfg = _LINEAR,
        loss_cls: nn.Module | None = None,
        loss_bbox: nn.Module | None = None,
        branches: Branches | None = None,
        init_cfg: DeferredInit = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if not (with_cls or with_reg):
            raise ValueError("with_cls and with_reg are both off, there is nothing to predict")
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        self.with_avg_pool, self.with_cls, self.with_reg = with_avg_pool, with_cls, with_reg
        self.roi_feat_size: tuple[int, int] = _pair(roi_feat_size)
        self.roi_feat_area = self.roi_feat_size[0] * self.roi_feat_size[1]
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.reg_class_agnostic = reg_class_agnostic
        self.reg_decoded_bbox = reg_decoded_bbox
        self.reg_predictor_cfg, self.cls_predictor_cfg = reg_predictor_cfg, cls_predictor_cfg
        coder = DeltaXYWHBBoxCoder(target_stds=(0.1, 0.1, 0.2, 0.2)) if bbox_coder is None else bbox_coder
        self.bbox_coder: BaseBBoxCoder = TASK_UTILS.build(coder)
        self.loss_cls: nn.Module = MODELS.build(loss_cls or CrossEntropyLoss())
        self.loss_bbox: nn.Module = MODELS.build(loss_bbox or SmoothL1Loss())
        if with_avg_pool:
            self.avg_pool = nn.AvgPool2d(self.roi_feat_size)
        self.relu = nn.ReLU(inplace=True)
        if init_cfg is None:
            self.init_cfg = [_INIT_FC_CLS] * with_cls + [_INIT_FC_REG] * with_reg + [_INIT_FCS]
        self._make_layers(branches or Branches())

    def _make_layers(self, branches: Branches) -> None:
        shared = Width(self.in_channels, 1 if self.with_avg_pool else self.roi_feat_area)
        self.shared_convs, self.shared_fcs, shared = conv_fc_branch(
            shared, branches.num_shared_convs, branches.num_shared_fcs, branches
        )
        self.cls_convs, self.cls_fcs, of_cls = conv_fc_branch(
            shared, branches.num_cls_convs, branches.num_cls_fcs, branches
        )
        self.reg_convs, self.reg_fcs, of_reg = conv_fc_branch(
            shared, branches.num_reg_convs, branches.num_reg_fcs, branches
        )
        if self.with_cls:
            self.fc_cls = build_linear_layer(self.cls_predictor_cfg, of_cls.flat, self.cls_channels)
        if self.with_reg:
            self.fc_reg = build_linear_layer(self.reg_predictor_cfg, of_reg.flat, self.reg_channels)

    @property
    def cls_channels(self) -> int:
        """Scores of a region."""
        return self.num_classes + 1

    @property
    def reg_channels(self) -> int:
        """Numbers of a region's boxes."""
        return self.bbox_coder.encode_size * (1 if self.reg_class_agnostic else self.num_classes)

    def forward(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Predictions for N regions.

        Args:
            x: ``Tensor[N, in_channels, h, w]``.

        Returns:
            Logits ``Tensor[N, K + 1]``, background last, and encoded boxes ``Tensor[N, K * 4]`` (``[N, 4]``
            where they do not depend on the class).
        """
        for conv in self.shared_convs:
            x = conv(x)
        if len(self.shared_fcs):
            x = self._flat(x)
        for linear in self.shared_fcs:
            x = self.relu(linear(x))
        cls_score = self.fc_cls(self._branch(x, self.cls_convs, self.cls_fcs)) if self.with_cls else None
        bbox_pred = self.fc_reg(self._branch(x, self.reg_convs, self.reg_fcs)) if self.with_reg else None
        return cls_score, bbox_pred

    def _branch(self, x: Tensor, convs: nn.ModuleList, linears: nn.ModuleList) -> Tensor:
        for conv in convs:
            x = conv(x)
        x = self._flat(x)
        for linear in linears:
            x = self.relu(linear(x))
        return x

    def _flat(self, x: Tensor) -> Tensor:
        if x.dim() > 2 and self.with_avg_pool:
            x = self.avg_pool(x)
        return x.flatten(1)

    # -- training --------------------------------------------------------------------------------

    @torch.no_grad()
    def get_targets(
        self, sampling_results: Sequence[SamplingResult], rcnn_train_cfg: RCNNTrainCfg, concat: bool = True
    ) -> Targets:
        """What the sampled regions of a batch are to predict.

        Args:
            sampling_results: One an image.
            rcnn_train_cfg: Its ``pos_weight`` is used.
            concat: Give one tensor for all images, or a list with one an image.

        Returns:
            Labels ``LongTensor[N]`` (K for background), their weights ``Tensor[N]``, box targets
            ``Tensor[N, 4]`` and their weights ``Tensor[N, 4]``, in the order of ``SamplingResult.priors``.
        """
        each = [
            self._get_targets_single(
                one.pos_priors, one.neg_priors, one.pos_gt_bboxes, one.pos_gt_labels, rcnn_train_cfg
            )
            for one in sampling_results
        ]
        columns = zip(*each, strict=True)
        labels, label_weights, targets, weights = (torch.cat(c) if concat else list(c) for c in columns)
        return labels, label_weights, targets, weights

    def _get_targets_single(
        self,
        pos_priors: Tensor,
        neg_priors: Tensor,
        pos_gt_bboxes: Tensor,
        pos_gt_labels: Tensor,
        cfg: RCNNTrainCfg,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """:meth:`get_targets` of one image with P positives and Q negatives, boxes ``Tensor[P or Q, 4]``."""
        num_pos, number = len(pos_priors), len(pos_priors) + len(neg_priors)
        labels = pos_gt_labels.new_full((number,), self.num_classes, dtype=torch.long)
        label_weights = pos_priors.new_ones(number)
        bbox_targets, bbox_weights = pos_priors.new_zeros(number, 4), pos_priors.new_zeros(number, 4)
        labels[:num_pos] = pos_gt_labels
        if cfg.pos_weight > 0:
            label_weights[:num_pos] = cfg.pos_weight
        own = pos_gt_bboxes if self.reg_decoded_bbox else self.bbox_coder.encode(pos_priors, pos_gt_bboxes)
        bbox_targets[:num_pos] = own
        bbox_weights[:num_pos] = 1
        return labels, label_weights, bbox_targets, bbox_weights

    def loss_and_target(
        self,
        cls_score: Tensor,
        bbox_pred: Tensor,
        rois: Tensor,
        sampling_results: Sequence[SamplingResult],
        rcnn_train_cfg: RCNNTrainCfg,
        concat: bool = True,
        reduction_override: str | None = None,
    ) -> dict[str, Any]:
        """Losses and what they were reckoned against.

        Args:
            cls_score: Logits ``Tensor[N, K + 1]``.
            bbox_pred: Encoded boxes ``Tensor[N, K * 4]``.
            rois: ``Tensor[N, 5]``: image number, x1, y1, x2, y2 in pixels of the network's input.
            sampling_results: One an image.
            rcnn_train_cfg: Settings.
            concat: See :meth:`get_targets`.
            reduction_override: Reduction of this call.

        Returns:
            ``loss_bbox``, the losses by name, and ``bbox_targets``, what :meth:`get_targets` gave.
        """
        targets = self.get_targets(sampling_results, rcnn_train_cfg, concat=concat)
        losses = self.loss(cls_score, bbox_pred, rois, *targets, reduction_override=reduction_override)
        return {"loss_bbox": losses, "bbox_targets": targets}

    def loss(
        self,
        cls_score: Tensor | None,
        bbox_pred: Tensor | None,
        rois: Tensor,
        labels: Tensor,
        label_weights: Tensor,
        bbox_targets: Tensor | None = None,
        bbox_weights: Tensor | None = None,
        reduction_override: str | None = None,
    ) -> dict[str, Tensor]:
        """``loss_cls``, ``acc`` (per cent of right classes) and ``loss_bbox``; see :meth:`get_targets`."""
        losses: dict[str, Tensor] = {}
        if cls_score is not None:
            avg_factor = (label_weights > 0).sum().clamp(min=1)
            if cls_score.numel():
                losses["loss_cls"] = self.loss_cls(
                    cls_score,
                    labels,
                    label_weights,
                    avg_factor=avg_factor,
                    reduction_override=reduction_override,
                )
                losses["acc"] = accuracy(cls_score, labels)
            else:
                losses["loss_cls"] = cls_score.sum()
        if bbox_pred is not None and bbox_targets is not None and bbox_weights is not None:
            losses["loss_bbox"] = self._box_loss(
                bbox_pred, rois, labels, bbox_targets, bbox_weights, reduction_override
            )
        return losses

    def _box_loss(
        self,
        bbox_pred: Tensor,
        rois: Tensor,
        labels: Tensor,
        bbox_targets: Tensor,
        bbox_weights: Tensor,
        reduction_override: str | None,
    ) -> Tensor:
        rows = torch.nonzero((labels >= 0) & (labels < self.num_classes)).flatten()
        if not len(rows):
            return bbox_pred[rows].sum()
        own = bbox_pred[rows].float()
        if not self.reg_class_agnostic:
            own = of_class(own, labels[rows], self.num_classes)
        if self.reg_decoded_bbox:
            own = self.bbox_coder.decode(rois[rows, 1:], own)
        loss: Tensor = self.loss_bbox(
            own,
            bbox_targets[rows],
            bbox_weights[rows],
            avg_factor=len(bbox_targets),
            reduction_override=reduction_override,
        )
        return loss

    # -- prediction ------------------------------------------------------------------------------

    def predict_by_feat(
        self,
        rois: Sequence[Tensor],
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor | None],
        batch_img_metas: Sequence[MetaInfo],
        rcnn_test_cfg: RCNNTestCfg | None = None,
        rescale: bool = False,
    ) -> list[InstanceData]:
        """Boxes of a batch.

        Args:
            rois: ``Tensor[N_i, 5]`` an image.
            cls_scores: Logits ``Tensor[N_i, K + 1]`` an image.
            bbox_preds: Encoded boxes ``Tensor[N_i, K * 4]`` an image, or None for the regions themselves.
            batch_img_metas: ``img_shape`` of each image, and ``scale_factor`` where ``rescale``.
            rcnn_test_cfg: Settings; without any, all classes of all regions are returned undecided.
            rescale: Give boxes in pixels of the original images.

        Returns:
            ``bboxes`` (``Tensor[M, 4]``, xyxy, absolute pixels), ``scores`` and ``labels`` (``Tensor[M]``) of
            each image, best first; without settings ``bboxes`` ``[N_i, K * 4]``, ``scores`` ``[N_i, K + 1]``.
        """
        return [
            self._predict_by_feat_single(*parts, rescale=rescale, rcnn_test_cfg=rcnn_test_cfg)
            for parts in zip(rois, cls_scores, bbox_preds, batch_img_metas, strict=True)
        ]

    def _predict_by_feat_single(
        self,
        roi: Tensor,
        cls_score: Tensor,
        bbox_pred: Tensor | None,
        img_meta: MetaInfo,
        rescale: bool = False,
        rcnn_test_cfg: RCNNTestCfg | None = None,
    ) -> InstanceData:
        """:meth:`predict_by_feat` of one image."""
        scores = self.probabilities(cls_score)
        (shape,) = each_meta([img_meta], "img_shape")
        boxes = roi[:, 1:5]
        if bbox_pred is not None:
            boxes = self.bbox_coder.decode(boxes, bbox_pred.float(), max_shape=shape[:2])
        else:
            boxes = clip_boxes(boxes, shape[:2])
        if rescale and len(boxes):
            factors = each_meta([with_scale_factor(img_meta)], "scale_factor")
            boxes = rescale_boxes(boxes.view(1, -1, 4), factors).view(boxes.shape)
        if rcnn_test_cfg is None:
            return InstanceData(bboxes=boxes, scores=scores)
        dets, labels = multiclass_nms(
            boxes, scores, rcnn_test_cfg.score_thr, rcnn_test_cfg.nms, rcnn_test_cfg.max_per_img
        )
        return InstanceData(bboxes=dets[:, :4], scores=dets[:, 4], labels=labels)

    def probabilities(self, cls_score: Tensor) -> Tensor:
        """Scores ``Tensor[N, K + 1]`` in 0..1 of logits, in float32."""
        return F.softmax(cls_score.float(), dim=-1)

    # -- cascades --------------------------------------------------------------------------------

    def refine_bboxes(
        self,
        sampling_results: Sequence[SamplingResult],
        bbox_results: dict[str, Any],
        batch_img_metas: Sequence[MetaInfo],
    ) -> list[InstanceData]:
        """Regions of the next stage: those of this one where its predictions move them, without ground truth.

        Args:
            sampling_results: What this stage was trained on, one an image.
            bbox_results: Its ``rois`` (``Tensor[N, 5]``), ``cls_score``, ``bbox_pred``, ``bbox_targets``.
            batch_img_metas: ``img_shape`` of each image.

        Returns:
            ``bboxes``, ``Tensor[M_i, 4]``, xyxy, of each image.
        """
        return refined(self, sampling_results, bbox_results, batch_img_metas)

    def regress_by_class(
        self, priors: Tensor, label: Tensor, bbox_pred: Tensor, img_meta: MetaInfo
    ) -> Tensor:
        """One image's regions, moved as one class would move them; of the shape of ``priors``.

        Args:
            priors: ``Tensor[N, 4]``, xyxy, or ``Tensor[N, 5]`` with the image's number in front.
            label: ``LongTensor[N]``, the class whose box is taken.
            bbox_pred: ``Tensor[N, K * 4]``, or ``[N, 4]`` where boxes do not depend on the class.
            img_meta: ``img_shape``.
        """
        if not self.reg_class_agnostic:
            bbox_pred = of_class(bbox_pred, label, self.num_classes)
        (shape,) = each_meta([img_meta], "img_shape")
        boxes = self.bbox_coder.decode(priors[:, -4:], bbox_pred.float(), max_shape=shape[:2])
        return torch.cat([priors[:, :-4], boxes], dim=1)
