"""Cascade R-CNN (Cai and Vasconcelos, CVPR 2018, arXiv 1712.00726): box heads one after another.

Each stage classifies regions and refines their boxes, and is trained on the boxes of the one before, with a
higher overlap for positives (0.5, 0.6, 0.7; section 4): a head is at its best for regions about as good as
those that it was trained on. Boxes do not depend on the class. Ground truth that joined a stage's regions
does not go on to the next. At test time the boxes are the last stage's; scores are averaged over the stages.

With masks (Cascade Mask R-CNN, TPAMI 2019, section 4.4) each stage has a mask head that learns from the
stage's regions; at test time all of them see the final boxes, and their probabilities are averaged.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from det_models.base_roi_head import BaseRoIHead, Features, Samples, check_features
from det_models.metainfo import MetaInfo
from det_models.refine import split_rows
from det_models.roi_head import MASKS_OF_FORWARD, class_losses, sample_regions
from det_models.samplers import SamplingResult
from det_models.truth import check_labels, unpack_gt_instances
from det_models.two_stage import TwoStageDetector
from det_models.two_stage_cfg import RCNNTestCfg, RCNNTrainCfg
from detcore.errors import ConfigError
from detcore.nn import ModuleList
from detcore.nn.base_module import DeferredInit
from detcore.registry import MODELS
from detcore.structures import InstanceData
from detcore.structures.bbox import bbox2roi

Parts = nn.Module | Sequence[nn.Module] | None


class CascadeRCNN(TwoStageDetector):
    """Region proposal network and a :class:`CascadeRoIHead`.

    Arguments as of :class:`~det_models.two_stage.TwoStageDetector`; ``train_cfg.rcnn`` is a list, one entry a
    stage.
    """


class CascadeRoIHead(BaseRoIHead):
    """Box heads, and mask heads where wanted, one after another; see this module's docstring.

    In configs a part may be given once for all stages; each stage gets one of its own.

    Args:
        num_stages: Stages.
        stage_loss_weights: Factor of each stage's losses.
        bbox_roi_extractor: Features of regions for each box head.
        bbox_head: Box heads.
        mask_roi_extractor: Features of regions for each mask head; those of the box heads where None.
        mask_head: Mask heads; None for none.
        shared_head: Not for cascades: None.
        train_cfg: One entry a stage.
        test_cfg: Needed for predictions.
        init_cfg: How the whole starts.

    Raises:
        ConfigError: Another number of parts, weights or settings than of stages.
    """

    def __init__(
        self,
        num_stages: int,
        stage_loss_weights: Sequence[float],
        bbox_roi_extractor: Parts = None,
        bbox_head: Parts = None,
        mask_roi_extractor: Parts = None,
        mask_head: Parts = None,
        shared_head: nn.Module | None = None,
        train_cfg: Sequence[RCNNTrainCfg] | None = None,
        test_cfg: RCNNTestCfg | None = None,
        init_cfg: DeferredInit = None,
    ) -> None:
        if shared_head is not None:
            raise ConfigError("CascadeRoIHead has no shared_head: each stage has its own layers")
        if len(stage_loss_weights) != num_stages:
            raise ConfigError(
                f"{num_stages} stages need as many stage_loss_weights, got {list(stage_loss_weights)}"
            )
        if train_cfg is not None and len(train_cfg) != num_stages:
            raise ConfigError(f"{num_stages} stages need as many train_cfg.rcnn, got {len(train_cfg)}")
        self.num_stages = num_stages
        self.stage_loss_weights = list(stage_loss_weights)
        super().__init__(
            bbox_roi_extractor=bbox_roi_extractor,
            bbox_head=bbox_head,
            mask_roi_extractor=mask_roi_extractor,
            mask_head=mask_head,
            train_cfg=train_cfg,
            test_cfg=test_cfg,
            init_cfg=init_cfg,
        )

    @classmethod
    def prepare_config(cls, cfg: dict[str, Any]) -> dict[str, Any]:
        """A part that is given once is meant for every stage."""
        cfg = dict(cfg)
        for name in ("bbox_roi_extractor", "bbox_head", "mask_roi_extractor", "mask_head"):
            if isinstance(cfg.get(name), dict):
                cfg[name] = [cfg[name]] * int(cfg.get("num_stages", 1))
        return cfg

    def init_assigner_sampler(self) -> None:
        """Take each stage's assigner and sampler out of ``train_cfg``."""
        settings = self.train_cfg or []
        self.bbox_assigner = [each.assigner for each in settings]
        self.bbox_sampler = [each.sampler for each in settings]

    def init_bbox_head(self, bbox_roi_extractor: Any, bbox_head: Any) -> None:
        """Take over the box heads and their extractors, which may be configs."""
        self.bbox_roi_extractor: Any = self._each("bbox_roi_extractor", bbox_roi_extractor)
        self.bbox_head: Any = self._each("bbox_head", bbox_head)
        for extractor, head in zip(self.bbox_roi_extractor, self.bbox_head, strict=True):
            check_features("bbox", extractor, head, shared=False)

    def init_mask_head(self, mask_roi_extractor: Any, mask_head: Any) -> None:
        """Take over the mask heads and their extractors, which may be configs."""
        if mask_roi_extractor is None and not self.with_bbox:
            raise ConfigError("CascadeRoIHead has a mask_head, but no extractor of features for it")
        self.share_roi_extractor = mask_roi_extractor is None
        self.mask_roi_extractor: Any = (
            self.bbox_roi_extractor
            if mask_roi_extractor is None
            else self._each("mask_roi_extractor", mask_roi_extractor)
        )
        self.mask_head: Any = self._each("mask_head", mask_head)
        for extractor, head in zip(self.mask_roi_extractor, self.mask_head, strict=True):
            check_features("mask", extractor, head, shared=False)

    def _each(self, name: str, parts: Any) -> Any:
        built = parts if isinstance(parts, (list, tuple, nn.ModuleList)) else [parts] * self.num_stages
        if len(built) != self.num_stages or any(part is None for part in built):
            raise ConfigError(f"{self.num_stages} stages need as many parts {name}, got {len(built)}")
        return ModuleList(MODELS.build(part) for part in built)

    @property
    def in_channels(self) -> int | None:
        """Channels of the feature maps, where the extractors tell them."""
        extractors: Any = getattr(self, "bbox_roi_extractor", None)
        return getattr(extractors[0], "out_channels", None) if extractors else None

    def forward(
        self,
        x: Features,
        rpn_results_list: Sequence[InstanceData],
        batch_data_samples: Samples,
    ) -> tuple[Any, ...]:
        """Raw outputs for all proposals: scores and boxes of each image, and the masks of each stage."""
        metas = [sample.metainfo for sample in batch_data_samples]
        rois, cls_scores, bbox_preds = self._through_stages(x, rpn_results_list, metas)
        results: tuple[Any, ...] = (cls_scores, bbox_preds)
        if self.with_mask:
            regions, stages = torch.cat(list(rois))[:MASKS_OF_FORWARD], range(self.num_stages)
            results += ([self._mask_forward(stage, x, regions)["mask_preds"] for stage in stages],)
        return results

    # -- training --------------------------------------------------------------------------------

    def loss(
        self, x: Features, rpn_results_list: Sequence[InstanceData], batch_data_samples: Samples
    ) -> dict[str, Tensor]:
        """Losses of all stages: ``s0.loss_cls``, ``s0.acc``, ..., times the weight of the stage."""
        instances, ignored, metas = unpack_gt_instances(batch_data_samples)
        self._trained()
        check_labels([each.labels for each in instances], self.bbox_head[0].num_classes)
        regions: Sequence[InstanceData] = rpn_results_list
        losses: dict[str, Tensor] = {}
        for stage, weight in enumerate(self.stage_loss_weights):
            sampled = self._sample(stage, x, regions, instances, ignored)
            found = self.bbox_loss(stage, x, sampled)
            own = dict(found["loss_bbox"])
            if self.with_mask:
                own.update(self.mask_loss(stage, x, sampled, instances)["loss_mask"])
            for name, value in own.items():
                losses[f"s{stage}.{name}"] = value * weight if "loss" in name else value
            if stage + 1 < self.num_stages:
                regions = self.bbox_head[stage].refine_bboxes(sampled, found, metas)
        return losses

    @torch.no_grad()
    def _sample(
        self,
        stage: int,
        x: Features,
        regions: Sequence[InstanceData],
        instances: Sequence[InstanceData],
        ignored: Sequence[InstanceData] | None,
    ) -> list[SamplingResult]:
        losses_of = partial(class_losses, partial(self._bbox_forward, stage, x), self.bbox_head[stage])
        assigner, sampler = self.bbox_assigner[stage], self.bbox_sampler[stage]
        return sample_regions(assigner, sampler, x, regions, instances, ignored, losses_of)

    def bbox_loss(
        self, stage: int, x: Features, sampling_results: Sequence[SamplingResult]
    ) -> dict[str, Any]:
        """What :meth:`_bbox_forward` gave, ``rois``, ``loss_bbox`` (losses by name) and ``bbox_targets``."""
        rois = bbox2roi([result.priors for result in sampling_results])
        found = self._bbox_forward(stage, x, rois)
        losses = self.bbox_head[stage].loss_and_target(
            cls_score=found["cls_score"],
            bbox_pred=found["bbox_pred"],
            rois=rois,
            sampling_results=sampling_results,
            rcnn_train_cfg=self.train_cfg[stage],
        )
        return {**found, "rois": rois, **losses}

    def mask_loss(
        self,
        stage: int,
        x: Features,
        sampling_results: Sequence[SamplingResult],
        batch_gt_instances: Sequence[InstanceData],
    ) -> dict[str, Any]:
        """What :meth:`_mask_forward` gave for the positive regions, and ``loss_mask``: its losses by name."""
        found = self._mask_forward(stage, x, bbox2roi([result.pos_priors for result in sampling_results]))
        losses = self.mask_head[stage].loss_and_target(
            mask_preds=found["mask_preds"],
            sampling_results=sampling_results,
            batch_gt_instances=batch_gt_instances,
            rcnn_train_cfg=self.train_cfg[stage],
        )
        return {**found, "loss_mask": losses["loss_mask"]}

    # -- both ------------------------------------------------------------------------------------

    def _bbox_forward(self, stage: int, x: Features, rois: Tensor) -> dict[str, Any]:
        """A stage's box head on regions ``Tensor[N, 5]``; see :meth:`StandardRoIHead._bbox_forward`."""
        extractor = self.bbox_roi_extractor[stage]
        features = extractor(x[: extractor.num_inputs], rois)
        cls_score, bbox_pred = self.bbox_head[stage](features)
        return {"cls_score": cls_score, "bbox_pred": bbox_pred, "bbox_feats": features}

    def _mask_forward(self, stage: int, x: Features, rois: Tensor) -> dict[str, Any]:
        """A stage's mask head on regions ``Tensor[N, 5]``: ``mask_preds``, logits ``Tensor[N, K, h, w]``."""
        extractor = self.mask_roi_extractor[stage]
        features = extractor(x[: extractor.num_inputs], rois)
        return {"mask_preds": self.mask_head[stage](features), "mask_feats": features}

    # -- prediction ------------------------------------------------------------------------------

    def predict_bbox(
        self,
        x: Features,
        batch_img_metas: Sequence[MetaInfo],
        rpn_results_list: Sequence[InstanceData],
        rcnn_test_cfg: RCNNTestCfg | None,
        rescale: bool = False,
    ) -> list[InstanceData]:
        """Boxes of each image: those of the last stage, with scores averaged over the stages."""
        rois, cls_scores, bbox_preds = self._through_stages(x, rpn_results_list, batch_img_metas)
        results: list[InstanceData] = self.bbox_head[-1].predict_by_feat(
            rois=rois,
            cls_scores=cls_scores,
            bbox_preds=bbox_preds,
            batch_img_metas=batch_img_metas,
            rcnn_test_cfg=rcnn_test_cfg,
            rescale=rescale,
        )
        return results

    def _through_stages(
        self, x: Features, proposals: Sequence[InstanceData], batch_img_metas: Sequence[MetaInfo]
    ) -> tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Any]]:
        """The last stage's regions ``[N_i, 5]``, mean logits ``[N_i, K + 1]``, and the last encoded boxes."""
        rois = bbox2roi([each.bboxes for each in proposals])
        counts = [len(each.bboxes) for each in proposals]
        total = rois.new_zeros(())
        for stage in range(self.num_stages):
            found = self._bbox_forward(stage, x, rois)
            total = total + found["cls_score"]
            if stage + 1 == self.num_stages:
                break
            scores = found["cls_score"][:, :-1]
            labels = scores.argmax(1) if len(rois) else rois.new_zeros(0, dtype=torch.long)
            parts = zip(
                rois.split(counts),
                labels.split(counts),
                split_rows(found["bbox_pred"], counts),
                batch_img_metas,
                strict=True,
            )
            rois = torch.cat([self.bbox_head[stage].regress_by_class(*part) for part in parts])
        mean = (total / self.num_stages).split(counts)
        return rois.split(counts), mean, split_rows(found["bbox_pred"], counts)

    def predict_mask(
        self,
        x: Features,
        batch_img_metas: Sequence[MetaInfo],
        results_list: Sequence[InstanceData],
        rescale: bool = False,
    ) -> list[InstanceData]:
        """``results_list`` with ``masks``: the mean of the stages' probabilities."""
        rois = bbox2roi([each.bboxes for each in results_list])
        mean: Any = 0
        for stage in range(self.num_stages):
            mean = mean + self._mask_forward(stage, x, rois)["mask_preds"].sigmoid() / self.num_stages
        results: list[InstanceData] = self.mask_head[-1].predict_by_feat(
            mask_preds=mean.split([len(each) for each in results_list]),
            results_list=results_list,
            batch_img_metas=batch_img_metas,
            rcnn_test_cfg=self.test_cfg,
            rescale=rescale,
            activate_map=True,
        )
        return results
