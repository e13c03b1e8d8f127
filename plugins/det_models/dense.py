"""What heads that predict at every cell of every feature map share."""

import logging
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from det_models.anchors import AnchorGenerator
from det_models.assign import match_levels
from det_models.coders import BaseBBoxCoder
from det_models.dense_cfg import DenseTestCfg, DenseTrainCfg, as_settings
from det_models.dense_targets import (
    DenseTargets,
    Targets,
    as_tuple,
    regressed_rows,
    sampled_targets,
    valid_priors,
)
from det_models.metainfo import MetaInfo, each_meta, with_scale_factor
from det_models.postprocess import Candidates, best_of_levels, flatten_level, rescale_boxes, suppress
from det_models.truth import GroundTruth, unpack_gt_instances
from detcore.nn import BaseModule
from detcore.registry import MODELS, TASK_UTILS
from detcore.structures import DetDataSample, InstanceData

logger = logging.getLogger(__name__)

Losses = dict[str, list[Tensor]]

# Methods of MMDetection's heads that are not called, as they take one image; and what to redefine instead.
_NOT_CALLED = {
    "_get_targets_single": "loss_by_feat",
    "_predict_by_feat_single": "predict_by_feat",
    "_bbox_post_process": "predict_by_feat",
}


class DenseHead(BaseModule):
    """Base of heads that predict classes and boxes at every prior (anchor, point).

    A head makes its layers and defines :meth:`forward_single`, which is asked for every level; the losses
    here are those of heads whose priors are boxes that are matched with ground truth.

    Args:
        init_cfg: How weights are initialised.

    Attributes:
        num_classes: Number of classes without background.
        in_channels: Channels of the feature maps.
        use_sigmoid_cls: Whether classes are scored independently, or by a softmax whose last entry is
            background.
        cls_out_channels: Scores per prior: one more than the classes where ``use_sigmoid_cls`` is false.
        prior_generator: Makes the priors of all levels.
        num_base_priors: Priors at each cell.
        bbox_coder: Turns regressed numbers into boxes.
        reg_decoded_bbox: The box loss compares boxes, not regressed numbers (IoU losses need it).
        train_cfg: Needed for the loss.
        test_cfg: Needed for predictions.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, instead in _NOT_CALLED.items():
            ours = getattr(cls, instead).__module__.startswith("det_models.")  # here, or in one of our heads
            if name in vars(cls) and ours:
                logger.warning("%s.%s is not called; redefine %s instead", cls.__name__, name, instead)

    def set_up(
        self,
        num_classes: int,
        in_channels: int,
        *,
        prior_generator: Any,
        bbox_coder: Any,
        loss_cls: Any,
        loss_bbox: Any,
        reg_decoded_bbox: bool = False,
        train_cfg: Any = None,
        test_cfg: Any = None,
    ) -> None:
        """Take over what the head consists of besides its layers: the attributes of this class.

        Parts and settings may be configs, as heads of users' own got them.

        Raises:
            ValueError: There is no class, or levels have different numbers of priors at a cell.
        """
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.loss_cls: nn.Module = MODELS.build(loss_cls)
        self.loss_bbox: nn.Module = MODELS.build(loss_bbox)
        self.use_sigmoid_cls = bool(getattr(self.loss_cls, "use_sigmoid", False))
        self.cls_out_channels = num_classes if self.use_sigmoid_cls else num_classes + 1
        self.prior_generator: AnchorGenerator = TASK_UTILS.build(prior_generator)
        self.bbox_coder: BaseBBoxCoder = TASK_UTILS.build(bbox_coder)
        self.reg_decoded_bbox = reg_decoded_bbox
        self.train_cfg: DenseTrainCfg | None = as_settings(DenseTrainCfg, train_cfg)
        self.test_cfg: DenseTestCfg | None = as_settings(DenseTestCfg, test_cfg)
        kinds = set(self.prior_generator.num_base_priors)
        if len(kinds) != 1:
            raise ValueError(f"levels share weights, so they need equally many priors a cell; got {kinds}")
        self.num_base_priors: int = kinds.pop()

    def forward(self, x: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        """Predictions of every level.

        Args:
            x: ``Tensor[B, in_channels, H, W]`` a level.

        Returns:
            What :meth:`forward_single` gives, a list of each: one entry a level.
        """
        return tuple(map(list, zip(*map(self.forward_single, x), strict=True)))

    @abstractmethod
    def forward_single(self, x: Tensor) -> tuple[Tensor, ...]:
        """Predictions of one level from its map ``Tensor[B, in_channels, H, W]``.

        Returns:
            Class logits ``Tensor[B, K * cls_out_channels, H, W]`` and encoded boxes ``Tensor[B, K * E, H,
            W]`` for K priors a cell; some heads add more.
        """

    def loss(self, x: Sequence[Tensor], batch_data_samples: Sequence[DetDataSample]) -> Losses:
        """Losses of a batch, from the feature maps of the neck."""
        instances, ignored, metas = unpack_gt_instances(batch_data_samples)
        outs: Any = self(x)
        return self.loss_by_feat(*outs, instances, metas, ignored)  # type: ignore[call-arg]

    def predict(
        self, x: Sequence[Tensor], batch_data_samples: Sequence[DetDataSample], rescale: bool = False
    ) -> list[InstanceData]:
        """Boxes of a batch, from the feature maps of the neck; see :meth:`predict_by_feat`."""
        metas = [sample.metainfo for sample in batch_data_samples]
        outs: Any = self(x)
        return self.predict_by_feat(*outs, batch_img_metas=metas, rescale=rescale)  # type: ignore[misc]

    def loss_and_predict(
        self,
        x: Sequence[Tensor],
        batch_data_samples: Sequence[DetDataSample],
        proposal_cfg: DenseTestCfg | None = None,
    ) -> tuple[Losses, list[InstanceData]]:
        """Both from one forward pass: for heads whose boxes are the proposals of another."""
        instances, ignored, metas = unpack_gt_instances(batch_data_samples)
        outs: Any = self(x)
        losses = self.loss_by_feat(*outs, instances, metas, ignored)  # type: ignore[call-arg]
        with torch.no_grad():  # where a proposal is does not train the head that made it
            proposals = self.predict_by_feat(*outs, batch_img_metas=metas, cfg=proposal_cfg)  # type: ignore[misc]
        return losses, proposals

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
            bbox_preds: Encoded boxes, as from :meth:`forward`.
            batch_gt_instances: ``bboxes`` (``Tensor[N, 4]``, xyxy, pixels of the input) and ``labels`` of
                each image.
            batch_img_metas: ``img_shape`` and ``pad_shape`` of each image.
            batch_gt_instances_ignore: ``bboxes`` of each image in which nothing is to be learnt.

        Returns:
            ``loss_cls`` and ``loss_bbox``, a scalar a level each.
        """
        truth = GroundTruth.pack(batch_gt_instances, batch_gt_instances_ignore, self.num_classes)
        mlvl_priors, targets = self.match_levels(cls_scores, truth, batch_img_metas)
        lengths = [len(priors) for priors in mlvl_priors]
        losses: Losses = {"loss_cls": [], "loss_bbox": []}
        every = type(self).loss_by_feat_single is not DenseHead.loss_by_feat_single
        for cls_score, bbox_pred, priors, labels, weights, matches in zip(
            cls_scores,
            bbox_preds,
            mlvl_priors,
            targets.labels.split(lengths, dim=1),
            targets.label_weights.split(lengths, dim=1),
            targets.matches.split(lengths, dim=1),
            strict=True,
        ):
            rows = regressed_rows(matches, priors, truth, every=every)
            wanted = rows.gt_boxes
            if not self.reg_decoded_bbox:
                wanted = self.bbox_coder.encode(rows.priors, rows.gt_boxes)
            if every:
                boxes = (each.unflatten(0, matches.shape) for each in (rows.priors, wanted, rows.weights))
                anchors, bbox_targets, bbox_weights = boxes
                level = (cls_score, bbox_pred, anchors, labels, weights, bbox_targets, bbox_weights)
                loss_cls, loss_bbox = self.loss_by_feat_single(*level, avg_factor=targets.avg_factor)
            else:
                loss_cls = self.class_loss(self.loss_cls, cls_score, labels, weights, targets.avg_factor)
                pred = flatten_level(bbox_pred, self.bbox_coder.encode_size).flatten(0, 1)[rows.index]
                loss_bbox = self._box_loss(pred, rows.priors, wanted, rows.weights, targets.avg_factor)
            losses["loss_cls"].append(loss_cls)
            losses["loss_bbox"].append(loss_bbox)
        return losses

    def loss_by_feat_single(
        self,
        cls_score: Tensor,
        bbox_pred: Tensor,
        anchors: Tensor,
        labels: Tensor,
        label_weights: Tensor,
        bbox_targets: Tensor,
        bbox_weights: Tensor,
        avg_factor: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Losses of one level from the targets of all its priors, for heads of users' own that redefine it.

        Args:
            cls_score: Logits ``Tensor[B, K * cls_out_channels, H, W]``.
            bbox_pred: Encoded boxes ``Tensor[B, K * E, H, W]``.
            anchors: ``Tensor[B, A, 4]``, xyxy, for A = H * W * K priors.
            labels: ``LongTensor[B, A]``, ``num_classes`` for background.
            label_weights: ``Tensor[B, A]``, 0 where a prior does not count.
            bbox_targets: ``Tensor[B, A, 4]``, encoded boxes, or boxes where ``reg_decoded_bbox``.
            bbox_weights: ``Tensor[B, A, 4]``, 1 for priors with an object, else 0.
            avg_factor: What the sums are divided by.
        """
        loss_cls = self.class_loss(self.loss_cls, cls_score, labels, label_weights, avg_factor)
        pred = flatten_level(bbox_pred, self.bbox_coder.encode_size).flatten(0, 1)
        priors, targets, weights = (each.flatten(0, 1) for each in (anchors, bbox_targets, bbox_weights))
        return loss_cls, self._box_loss(pred, priors, targets, weights, avg_factor)

    def _box_loss(
        self, pred: Tensor, priors: Tensor, targets: Tensor, weights: Tensor, avg_factor: Tensor
    ) -> Tensor:
        pred = self.bbox_coder.decode(priors, pred.float()) if self.reg_decoded_bbox else pred.float()
        loss: Tensor = self.loss_bbox(pred, targets, weights, avg_factor=avg_factor)
        return loss

    # -- training --------------------------------------------------------------------------------

    def match_levels(
        self, cls_scores: Sequence[Tensor], truth: GroundTruth, batch_img_metas: Sequence[MetaInfo]
    ) -> tuple[list[Tensor], DenseTargets]:
        """The priors of every level, ``Tensor[A_i, 4]``, and what those of all levels are to predict."""
        sizes = [(score.shape[-2], score.shape[-1]) for score in cls_scores]
        mlvl_priors = self.prior_generator.grid_priors(sizes, device=cls_scores[0].device)
        return mlvl_priors, self.get_targets(mlvl_priors, sizes, truth, batch_img_metas)

    @torch.no_grad()
    def get_targets(
        self,
        mlvl_priors: Sequence[Tensor],
        featmap_sizes: Sequence[tuple[int, int]],
        truth: GroundTruth,
        batch_img_metas: Sequence[MetaInfo],
    ) -> DenseTargets:
        """Match all priors of a batch with its ground truth.

        Args:
            mlvl_priors: ``Tensor[A_i, 4]`` a level, xyxy.
            featmap_sizes: (h, w) of each level's map.
            truth: Ground truth of the B images.
            batch_img_metas: ``pad_shape`` and ``img_shape`` of each image.
        """
        cfg = self._train_cfg()
        valid = valid_priors(
            self.prior_generator, mlvl_priors, featmap_sizes, batch_img_metas, cfg.allowed_border
        )
        matches = match_levels(cfg.assigner, mlvl_priors, truth, valid)
        return sampled_targets(matches, cfg, truth, self.num_classes)

    def _train_cfg(self) -> DenseTrainCfg:
        if self.train_cfg is None:
            raise ValueError(
                f"{type(self).__name__} was built without train_cfg (an assigner), which its loss needs"
            )
        return self.train_cfg

    def class_losses(
        self, cls_scores: Sequence[Tensor], labels: Targets, weights: Tensor, avg_factor: Tensor
    ) -> list[Tensor]:
        """Classification loss of every level, from the targets of all priors; see :meth:`class_loss`."""
        sizes = [score.shape[-2:].numel() * self.num_base_priors for score in cls_scores]
        parts = [each.split(sizes, dim=1) for each in as_tuple(labels)]
        levels: list[Targets] = list(zip(*parts, strict=True)) if isinstance(labels, tuple) else [*parts[0]]
        return [
            self.class_loss(self.loss_cls, *level, avg_factor)
            for level in zip(cls_scores, levels, weights.split(sizes, dim=1), strict=True)
        ]

    def class_loss(
        self, loss_cls: nn.Module, cls_score: Tensor, labels: Targets, weights: Tensor, avg_factor: Tensor
    ) -> Tensor:
        """Classification loss of one level.

        Args:
            loss_cls: Called with logits ``[N, C]``, labels and weights ``[N]``; or, where it has
                ``takes_maps`` and the map is not channels-last, with ``[N, C, P]`` and ``[N, P]``:
                rearranging a map of hundreds of channels takes as long as its focal loss.
            cls_score: Logits ``Tensor[B, K * C, H, W]``.
            labels: ``LongTensor[B, H * W * K]``, C for background; or a tuple, these and what more it needs.
            weights: ``Tensor[B, H * W * K]``.
            avg_factor: What the sum is divided by.
        """
        num_scores = self.cls_out_channels
        rows = [weights, *as_tuple(labels)]
        if not (getattr(loss_cls, "takes_maps", False) and cls_score.is_contiguous()):
            logits = flatten_level(cls_score, num_scores).flatten(0, 1)
            rows = [each.flatten() for each in rows]
        else:
            logits = cls_score.view(-1, num_scores, cls_score.shape[-2:].numel())
            shape = (len(cls_score), logits.shape[-1], -1)
            rows = [each.reshape(shape).transpose(1, 2).flatten(0, 1) for each in rows]
        target = tuple(rows[1:]) if isinstance(labels, tuple) else rows[1]
        return loss_cls(logits, target, rows[0], avg_factor=avg_factor)

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
        """Boxes from what :meth:`forward` gave.

        Args:
            cls_scores: Logits ``Tensor[B, K * cls_out_channels, H, W]`` a level.
            bbox_preds: Encoded boxes ``Tensor[B, K * encode_size, H, W]`` a level.
            score_factors: Logits ``Tensor[B, K, H, W]`` a level whose sigmoid the scores are multiplied by
                (centerness), or None.
            batch_img_metas: ``img_shape`` of each image, and ``scale_factor`` where ``rescale``.
            cfg: Settings in place of ``test_cfg``.
            rescale: Give boxes in pixels of the original images.
            with_nms: Suppress doubles.

        Returns:
            ``bboxes`` (``Tensor[N, 4]``, xyxy, absolute pixels), ``scores`` and ``labels`` (``Tensor[N]``) of
            each image, best first.
        """
        cfg = cfg or self.test_cfg
        if cfg is None:
            raise ValueError(f"{type(self).__name__} was built without test_cfg, which its predictions need")
        sizes = [(score.shape[-2], score.shape[-1]) for score in cls_scores]
        best = best_of_levels(
            cls_scores,
            bbox_preds,
            score_factors,
            self.prior_generator.grid_priors(sizes, device=cls_scores[0].device),
            num_scores=self.cls_out_channels,
            use_sigmoid=self.use_sigmoid_cls,
            limit=cfg.nms_pre,
            score_thr=cfg.score_thr,
        )
        shapes = [shape[:2] for shape in each_meta(batch_img_metas, "img_shape")]
        boxes = self.decode_candidates(best, shapes)
        if rescale:
            boxes = rescale_boxes(boxes, each_meta(map(with_scale_factor, batch_img_metas), "scale_factor"))
        worth = best.scores > cfg.score_thr
        if cfg.min_bbox_size >= 0:
            worth &= (boxes[..., 2:] - boxes[..., :2] > cfg.min_bbox_size).all(-1)
        scores = best.scores if best.factors is None else best.scores * best.factors
        groups, further = self.suppression_groups(best), self.candidate_fields(best)
        results = []
        for number, kept in enumerate(torch.nonzero(worth)[:, 1].split(worth.sum(1).tolist())):
            instances = InstanceData(
                bboxes=boxes[number, kept], scores=scores[number, kept], labels=best.labels[number, kept]
            )
            instances.set_data({name: each[number, kept] for name, each in further.items()})
            nms = cfg.nms if with_nms else None
            results.append(suppress(instances, nms, cfg.max_per_img, groups[number, kept]))
        return results

    def decode_candidates(self, best: Candidates, shapes: Sequence[tuple[int, int]]) -> Tensor:
        """Boxes ``Tensor[B, N, 4]``, xyxy, pixels of the input, within the images' (h, w)."""
        return self.bbox_coder.decode(best.priors, best.bbox_preds, max_shape=shapes)

    def suppression_groups(self, best: Candidates) -> Tensor:
        """Within which boxes suppress one another, ``LongTensor[B, N]``: classes, unless a head says else."""
        return best.labels

    def candidate_fields(self, best: Candidates) -> dict[str, Tensor]:
        """What else results are to hold of candidates, ``Tensor[B, N, ...]`` by name, if a head says so."""
        return {}
