"""The second stage of R-CNNs: regions out of proposals, their features, their heads."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from det_models.base_roi_head import BaseRoIHead, Features, Samples, check_features
from det_models.metainfo import MetaInfo
from det_models.refine import split_rows
from det_models.samplers import SamplingResult
from det_models.truth import check_labels, unpack_gt_instances
from det_models.two_stage_cfg import RCNNTestCfg
from detcore.errors import ConfigError
from detcore.registry import MODELS
from detcore.structures import InstanceData
from detcore.structures.bbox import bbox2roi

__all__ = ["BaseRoIHead", "StandardRoIHead", "class_losses", "positive_rows", "sample_regions"]

MASKS_OF_FORWARD = 100  # as many regions get masks in mode 'tensor', where there are no detections yet


class StandardRoIHead(BaseRoIHead):
    """One box head, and one mask head where wanted; arguments as of :class:`BaseRoIHead`."""

    def init_assigner_sampler(self) -> None:
        """Take the assigner and the sampler out of ``train_cfg``."""
        self.bbox_assigner: Any = getattr(self.train_cfg, "assigner", None)
        self.bbox_sampler: Any = getattr(self.train_cfg, "sampler", None)

    def init_bbox_head(self, bbox_roi_extractor: Any, bbox_head: Any) -> None:
        """Take over the box head and its extractor, which may be configs."""
        if bbox_roi_extractor is None:
            raise ConfigError(f"{type(self).__name__} has a bbox_head, but no bbox_roi_extractor")
        self.bbox_roi_extractor: Any = MODELS.build(bbox_roi_extractor)
        self.bbox_head: Any = MODELS.build(bbox_head)
        self._check_features("bbox", self.bbox_roi_extractor, self.bbox_head)

    def init_mask_head(self, mask_roi_extractor: Any, mask_head: Any) -> None:
        """Take over the mask head and its extractor, which may be configs."""
        self.share_roi_extractor = mask_roi_extractor is None
        if mask_roi_extractor is not None:
            self.mask_roi_extractor: Any = MODELS.build(mask_roi_extractor)
        elif not self.with_bbox:
            raise ConfigError(f"{type(self).__name__} has a mask_head, but no extractor of features for it")
        else:
            self.mask_roi_extractor = self.bbox_roi_extractor
        self.mask_head: Any = MODELS.build(mask_head)
        self._check_features("mask", self.mask_roi_extractor, self.mask_head)

    def _check_features(self, kind: str, extractor: Any, head: Any) -> None:
        check_features(kind, extractor, head, shared=self.with_shared_head)

    @property
    def in_channels(self) -> int | None:
        """Channels of the feature maps, where the extractor tells them."""
        return getattr(getattr(self, "bbox_roi_extractor", None), "out_channels", None)

    def forward(
        self,
        x: Features,
        rpn_results_list: Sequence[InstanceData],
        batch_data_samples: Samples | None = None,
    ) -> tuple[Any, ...]:
        """Raw outputs of the heads for all proposals: classes, boxes, and masks of the first hundred."""
        rois = bbox2roi([each.bboxes for each in rpn_results_list])
        results: tuple[Any, ...] = ()
        if self.with_bbox:
            found = self._bbox_forward(x, rois)
            results += (found["cls_score"], found["bbox_pred"])
        if self.with_mask:
            results += (self._mask_forward(x, rois[:MASKS_OF_FORWARD])["mask_preds"],)
        return results

    # -- training --------------------------------------------------------------------------------

    def loss(
        self, x: Features, rpn_results_list: Sequence[InstanceData], batch_data_samples: Samples
    ) -> dict[str, Tensor]:
        """Losses of the box head and of the mask head.

        Args:
            x: ``Tensor[B, C, H_i, W_i]`` a level.
            rpn_results_list: ``bboxes`` of each image, ``Tensor[N, 4]``, xyxy, pixels of the network's input.
            batch_data_samples: ``gt_instances`` and ``ignored_instances`` of each image.
        """
        instances, ignored, _ = unpack_gt_instances(batch_data_samples)
        sampled = self.sample_regions(x, rpn_results_list, instances, ignored)
        losses: dict[str, Tensor] = {}
        found: dict[str, Any] = {}
        if self.with_bbox:
            found = self.bbox_loss(x, sampled)
            losses.update(found["loss_bbox"])
        if self.with_mask:
            losses.update(self.mask_loss(x, sampled, found.get("bbox_feats"), instances)["loss_mask"])
        return losses

    @torch.no_grad()
    def sample_regions(
        self,
        x: Features,
        rpn_results_list: Sequence[InstanceData],
        batch_gt_instances: Sequence[InstanceData],
        batch_gt_instances_ignore: Sequence[InstanceData] | None,
    ) -> list[SamplingResult]:
        """Match each image's proposals with its ground truth and choose those that are learnt from."""
        self._trained()
        if self.with_bbox:
            check_labels([each.labels for each in batch_gt_instances], self.bbox_head.num_classes)
        return sample_regions(
            self.bbox_assigner,
            self.bbox_sampler,
            x,
            rpn_results_list,
            batch_gt_instances,
            batch_gt_instances_ignore,
            partial(class_losses, partial(self._bbox_forward, x), self.bbox_head) if self.with_bbox else None,
        )

    def bbox_loss(self, x: Features, sampling_results: Sequence[SamplingResult]) -> dict[str, Any]:
        """What :meth:`_bbox_forward` gave for the sampled regions, and ``loss_bbox``: losses by name."""
        rois = bbox2roi([result.priors for result in sampling_results])
        found = self._bbox_forward(x, rois)
        losses = self.bbox_head.loss_and_target(
            cls_score=found["cls_score"],
            bbox_pred=found["bbox_pred"],
            rois=rois,
            sampling_results=sampling_results,
            rcnn_train_cfg=self.train_cfg,
        )
        return {**found, "loss_bbox": losses["loss_bbox"]}

    def mask_loss(
        self,
        x: Features,
        sampling_results: Sequence[SamplingResult],
        bbox_feats: Tensor | None,
        batch_gt_instances: Sequence[InstanceData],
    ) -> dict[str, Any]:
        """What :meth:`_mask_forward` gave for the positive regions, and ``loss_mask``: its losses by name."""
        if self.share_roi_extractor:
            assert bbox_feats is not None
            found = self._mask_forward(x, pos_inds=positive_rows(sampling_results), bbox_feats=bbox_feats)
        else:
            found = self._mask_forward(x, bbox2roi([result.pos_priors for result in sampling_results]))
        losses = self.mask_head.loss_and_target(
            mask_preds=found["mask_preds"],
            sampling_results=sampling_results,
            batch_gt_instances=batch_gt_instances,
            rcnn_train_cfg=self.train_cfg,
        )
        return {**found, "loss_mask": losses["loss_mask"]}

    # -- both ------------------------------------------------------------------------------------

    def _bbox_forward(self, x: Features, rois: Tensor) -> dict[str, Any]:
        """Box head on regions.

        Args:
            x: ``Tensor[B, C, H_i, W_i]`` a level.
            rois: ``Tensor[N, 5]``: image number, x1, y1, x2, y2 in pixels of the network's input.

        Returns:
            ``cls_score`` (``Tensor[N, K + 1]``), ``bbox_pred`` (``Tensor[N, K * 4]``) and ``bbox_feats``
            (``Tensor[N, C, h, w]``).
        """
        features = self.bbox_roi_extractor(x[: self.bbox_roi_extractor.num_inputs], rois)
        if self.with_shared_head:
            features = self.shared_head(features)
        cls_score, bbox_pred = self.bbox_head(features)
        return {"cls_score": cls_score, "bbox_pred": bbox_pred, "bbox_feats": features}

    def _mask_forward(
        self,
        x: Features,
        rois: Tensor | None = None,
        pos_inds: Tensor | None = None,
        bbox_feats: Tensor | None = None,
    ) -> dict[str, Any]:
        """Mask head on regions ``Tensor[N, 5]``, or on some of the box head's features ``[M, C, h, w]``.

        Returns:
            ``mask_preds`` (logits ``Tensor[N, K, h, w]``) and ``mask_feats`` (``Tensor[N, C, h, w]``).

        Raises:
            ValueError: Neither or both are given.
        """
        if (rois is None) == (bbox_feats is None or pos_inds is None):
            raise ValueError("_mask_forward takes rois, or pos_inds and bbox_feats")
        if rois is not None:
            features = self.mask_roi_extractor(x[: self.mask_roi_extractor.num_inputs], rois)
            if self.with_shared_head:
                features = self.shared_head(features)
        else:
            assert bbox_feats is not None
            features = bbox_feats[pos_inds]
        return {"mask_preds": self.mask_head(features), "mask_feats": features}

    # -- prediction ------------------------------------------------------------------------------

    def predict_bbox(
        self,
        x: Features,
        batch_img_metas: Sequence[MetaInfo],
        rpn_results_list: Sequence[InstanceData],
        rcnn_test_cfg: RCNNTestCfg | None,
        rescale: bool = False,
    ) -> list[InstanceData]:
        """Boxes of each image; with ``rcnn_test_cfg`` None those of all proposals and classes, undecided."""
        proposals = [each.bboxes for each in rpn_results_list]
        rois = bbox2roi(proposals)
        found = self._bbox_forward(x, rois)
        counts = [len(each) for each in proposals]
        results: list[InstanceData] = self.bbox_head.predict_by_feat(
            rois=rois.split(counts),
            cls_scores=found["cls_score"].split(counts),
            bbox_preds=split_rows(found["bbox_pred"], counts),
            batch_img_metas=batch_img_metas,
            rcnn_test_cfg=rcnn_test_cfg,
            rescale=rescale,
        )
        return results

    def predict_mask(
        self,
        x: Features,
        batch_img_metas: Sequence[MetaInfo],
        results_list: Sequence[InstanceData],
        rescale: bool = False,
    ) -> list[InstanceData]:
        """``results_list`` with ``masks``; see :meth:`BaseRoIHead.predict_mask`."""
        rois = bbox2roi([each.bboxes for each in results_list])
        mask_preds = self._mask_forward(x, rois)["mask_preds"]
        results: list[InstanceData] = self.mask_head.predict_by_feat(
            mask_preds=mask_preds.split([len(each) for each in results_list]),
            results_list=results_list,
            batch_img_metas=batch_img_metas,
            rcnn_test_cfg=self.test_cfg,
            rescale=rescale,
        )
        return results


def sample_regions(
    assigner: Any,
    sampler: Any,
    x: Features,
    proposals: Sequence[InstanceData],
    batch_gt_instances: Sequence[InstanceData],
    batch_gt_instances_ignore: Sequence[InstanceData] | None,
    losses_of: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> list[SamplingResult]:
    """Match each image's proposals with its ground truth and choose those that are learnt from.

    Args:
        assigner: Has ``assign``.
        sampler: Has ``sample``; is offered ``feats``, the image's feature maps, and ``hardness``, see
            :class:`~det_models.samplers_balanced.OHEMSampler`.
        x: ``Tensor[B, C, H_i, W_i]`` a level.
        proposals: ``bboxes`` of each image.
        batch_gt_instances: ``bboxes`` and ``labels`` of each image.
        batch_gt_instances_ignore: ``bboxes`` of each image in which nothing is to be learnt.
        losses_of: Classification losses of regions ``Tensor[N, 5]`` with labels ``LongTensor[N]``.
    """
    results = []
    for number, (regions, instances) in enumerate(zip(proposals, batch_gt_instances, strict=True)):
        ignored = None if batch_gt_instances_ignore is None else batch_gt_instances_ignore[number]
        candidates = InstanceData(priors=regions.bboxes)
        assigned = assigner.assign(candidates, instances, ignored)

        def hardness(boxes: Tensor, labels: Tensor, number: int = number) -> Tensor:
            assert losses_of is not None
            return losses_of(torch.cat([boxes.new_full((len(boxes), 1), number), boxes], 1), labels)

        features = [level[number : number + 1] for level in x]
        results.append(sampler.sample(assigned, candidates, instances, feats=features, hardness=hardness))
    return results


def class_losses(
    forward: Callable[[Tensor], dict[str, Any]], head: Any, rois: Tensor, labels: Tensor
) -> Tensor:
    """Classification losses ``Tensor[N]`` of regions ``Tensor[N, 5]``; label -1 is background."""
    cls_score = forward(rois)["cls_score"]
    labels = torch.where(labels < 0, head.num_classes, labels)
    losses: dict[str, Tensor] = head.loss(
        cls_score, None, rois, labels, torch.ones_like(cls_score[:, 0]), reduction_override="none"
    )
    return losses["loss_cls"]


def positive_rows(sampling_results: Sequence[SamplingResult]) -> Tensor:
    """``BoolTensor[N]``, which of the sampled regions of a batch are positives."""
    flags = []
    for result in sampling_results:
        flags.append(torch.ones_like(result.pos_inds, dtype=torch.bool))
        flags.append(torch.zeros_like(result.neg_inds, dtype=torch.bool))
    return torch.cat(flags)
