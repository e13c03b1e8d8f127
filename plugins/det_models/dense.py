"""What heads that predict at every cell of every feature map share."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from det_models.anchors import AnchorGenerator
from det_models.assign import BaseAssigner, match_each
from det_models.coders import BaseBBoxCoder
from det_models.host import host_tensor, reduce_mean
from det_models.postprocess import (
    best_of_levels,
    flatten_level,
    rescale_boxes,
    suppress,
)
from det_models.samplers import BaseSampler, PseudoSampler
from det_models.truth import GroundTruth
from detcore.nn import BaseModule
from detcore.registry import TASK_UTILS
from detcore.structures import DetDataSample, InstanceData

MetaInfo = Mapping[str, Any]
Losses = dict[str, list[Tensor]]


@dataclass(kw_only=True, slots=True)
class DenseTrainCfg:
    """How a dense head is trained (``train_cfg``).

    Attributes:
        assigner: Matches priors with ground truth.
        sampler: Chooses among the matched ones; by default all of them count.
        allowed_border: Pixels that an anchor may reach out of its image and still take part; negative: any.
        pos_weight: Weight of positives in the classification loss; 0 or less for 1.
        debug: Kept for configs; has no effect.
    """

    assigner: Annotated[BaseAssigner, TASK_UTILS]
    sampler: Annotated[BaseSampler | None, TASK_UTILS] = None
    allowed_border: float = -1
    pos_weight: float = -1
    debug: bool = False


@dataclass(kw_only=True, slots=True)
class DenseTestCfg:
    """How a dense head's predictions become boxes (``test_cfg``).

    Attributes:
        nms_pre: Candidates of each level that are decoded; 0 or less for all.
        min_bbox_size: Width and height that a box must exceed, in pixels; negative: all are kept.
        score_thr: Scores up to this are dropped.
        nms: Settings of non-maximum suppression.
        max_per_img: Boxes of an image at most; 0 or less for all.
    """

    nms_pre: int = -1
    min_bbox_size: float = -1
    score_thr: float = 0.0
    nms: dict[str, Any] = field(default_factory=lambda: {"type": "nms", "iou_threshold": 0.5})
    max_per_img: int = -1


@dataclass(slots=True)
class DenseTargets:
    """What A priors of B images are to predict.

    Attributes:
        matches: ``LongTensor[B, A]``: number of the matched box plus one, 0 for background, -1 for neither.
        labels: ``LongTensor[B, A]``, the number of classes for background.
        label_weights: ``Tensor[B, A]``, 0 where a prior does not count.
        avg_factor: What losses are divided by, a scalar on the device, the mean over ranks.
    """

    matches: Tensor
    labels: Tensor
    label_weights: Tensor
    avg_factor: Tensor


@dataclass(slots=True)
class RegressedRows:
    """The rows of a flattened level, ``[B * A]``, that a box loss is reckoned on.

    Attributes:
        index: ``LongTensor[R]``, the rows.
        priors: ``Tensor[R, 4]``, xyxy.
        gt_boxes: ``Tensor[R, 4]``, xyxy, the matched boxes; the prior itself in a row without one.
        weights: ``Tensor[R, 4]``, 1 for matched rows, else 0.
    """

    index: Tensor
    priors: Tensor
    gt_boxes: Tensor
    weights: Tensor


def unpack_gt_instances(
    batch_data_samples: Sequence[DetDataSample],
) -> tuple[list[InstanceData], list[InstanceData] | None, list[dict[str, Any]]]:
    """Ground truth, ignored regions (None where no sample has the field) and metainfo of a batch.

    Raises:
        ValueError: A sample has no ground truth.
    """
    for number, sample in enumerate(batch_data_samples):
        if "gt_instances" not in sample:
            raise ValueError(
                f"sample {number} ({sample.metainfo.get('img_path') or 'no img_path'}) has no gt_instances, "
                "which the loss needs; does its pipeline load annotations and end with PackDetInputs?"
            )
    ignored = None
    if all("ignored_instances" in sample for sample in batch_data_samples):
        ignored = [sample.ignored_instances for sample in batch_data_samples]
    return (
        [sample.gt_instances for sample in batch_data_samples],
        ignored,
        [sample.metainfo for sample in batch_data_samples],
    )


class DenseHead(BaseModule):
    """Base of heads that predict classes and boxes at every prior (anchor, point).

    A head defines its layers, :meth:`forward` and :meth:`loss_by_feat`, and has these attributes:

    Attributes:
        num_classes: Number of classes without background.
        cls_out_channels: Scores per prior: one more than the classes where ``use_sigmoid_cls`` is false.
        use_sigmoid_cls: Whether classes are scored independently, or by a softmax whose last entry is
            background.
        prior_generator: Makes the priors of all levels.
        bbox_coder: Turns regressed numbers into boxes.
        train_cfg: Needed for the loss.
        test_cfg: Needed for predictions.
    """

    num_classes: int
    cls_out_channels: int
    use_sigmoid_cls: bool
    prior_generator: AnchorGenerator
    bbox_coder: BaseBBoxCoder
    train_cfg: DenseTrainCfg | None
    test_cfg: DenseTestCfg | None

    @abstractmethod
    def forward(self, x: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        """Predictions of every level from its map ``Tensor[B, C, H, W]``: class scores, boxes, and so on."""

    @abstractmethod
    def loss_by_feat(self, *args: Any, **kwargs: Any) -> Losses:
        """Losses by name, a scalar a level.

        Takes what :meth:`forward` gave, then ``batch_gt_instances``, ``batch_img_metas`` and
        ``batch_gt_instances_ignore``.
        """

    def loss(self, x: Sequence[Tensor], batch_data_samples: Sequence[DetDataSample]) -> Losses:
        """Losses of a batch, from the feature maps of the neck."""
        instances, ignored, metas = unpack_gt_instances(batch_data_samples)
        return self.loss_by_feat(*self(x), instances, metas, ignored)

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
        losses = self.loss_by_feat(*outs, instances, metas, ignored)
        return losses, self.predict_by_feat(*outs, batch_img_metas=metas, cfg=proposal_cfg)  # type: ignore[misc]

    # -- training --------------------------------------------------------------------------------

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
        priors = torch.cat(list(mlvl_priors))
        valid = self._valid_priors(priors, featmap_sizes, batch_img_metas)
        match = getattr(cfg.assigner, "match", None)
        matches = match(priors, truth, valid) if match else match_each(cfg.assigner, priors, truth, valid)
        sampler = cfg.sampler or PseudoSampler()
        matches = sampler.select(matches)
        weights = (matches >= 0).to(priors.dtype)
        if cfg.pos_weight > 0:
            weights = torch.where(matches > 0, cfg.pos_weight, weights)
        return DenseTargets(
            matches=matches,
            labels=truth.labels_at(matches, self.num_classes),
            label_weights=weights,
            avg_factor=reduce_mean(sampler.avg_factor(matches)),
        )

    def _train_cfg(self) -> DenseTrainCfg:
        if self.train_cfg is None:
            raise ValueError(
                f"{type(self).__name__} was built without train_cfg (an assigner), which its loss needs"
            )
        return self.train_cfg

    def _valid_priors(
        self, priors: Tensor, featmap_sizes: Sequence[tuple[int, int]], batch_img_metas: Sequence[MetaInfo]
    ) -> Tensor | None:
        """``BoolTensor[B, A]``, which priors take part in which image; None for all in all."""
        img_shapes = _each(batch_img_metas, "img_shape")
        pad_shapes = [meta.get("pad_shape", meta["img_shape"])[:2] for meta in batch_img_metas]
        valid = self.prior_generator.batch_valid_flags(featmap_sizes, pad_shapes, priors)
        border = self._train_cfg().allowed_border
        if border >= 0:
            limits = (
                host_tensor([[shape[1], shape[0]] for shape in img_shapes], priors)
                + border
            )
            inside = (priors[None, :, :2] >= -border).all(-1) & (priors[None, :, 2:] < limits[:, None]).all(
                -1
            )
            valid = inside if valid is None else valid & inside
        return valid

    @torch.no_grad()
    def regressed_rows(self, matches: Tensor, priors: Tensor, truth: GroundTruth) -> RegressedRows:
        """Rows of one level that the box loss is reckoned on.

        On the CPU these are the positives, which are few. On a device their number would have to be waited
        for, so there all rows are taken, and those that are not positive get the weight 0: the same sum.

        Args:
            matches: ``LongTensor[B, A]`` of the level (see :class:`DenseTargets`).
            priors: ``Tensor[A, 4]`` of the level, xyxy.
            truth: Ground truth of the B images.
        """
        num_priors = len(priors)
        flat = matches.flatten()
        if matches.device.type == "cpu" and not torch.compiler.is_compiling():
            index = torch.nonzero(flat > 0).flatten()
            if not len(index):  # one row of weight 0, since many a loss cannot do without any
                index = index.new_zeros(1)
        else:
            index = torch.arange(len(flat), device=flat.device)
        match = flat[index]
        image = index // num_priors
        chosen = priors[index % num_priors]
        positive = (match > 0)[:, None]
        boxes = truth.boxes[image, (match - 1).clamp(min=0)].to(chosen.dtype)
        return RegressedRows(
            index=index,
            priors=chosen,
            gt_boxes=torch.where(positive, boxes, chosen),
            weights=positive.to(chosen.dtype).expand(-1, 4),
        )

    def class_loss(
        self, loss_cls: nn.Module, cls_score: Tensor, labels: Tensor, weights: Tensor, avg_factor: Tensor
    ) -> Tensor:
        """Classification loss of one level.

        Args:
            loss_cls: Called with logits ``[N, C]``, labels and weights ``[N]``; or, where it has
                ``takes_maps`` and the map is not channels-last, with ``[N, C, P]`` and ``[N, P]``:
                rearranging a map of hundreds of channels takes as long as its focal loss.
            cls_score: Logits ``Tensor[B, K * C, H, W]``.
            labels: ``LongTensor[B, H * W * K]``, C for background.
            weights: ``Tensor[B, H * W * K]``.
            avg_factor: What the sum is divided by.
        """
        num_scores = self.cls_out_channels
        if not (getattr(loss_cls, "takes_maps", False) and cls_score.is_contiguous()):
            logits = flatten_level(cls_score, num_scores).flatten(0, 1)
            return loss_cls(logits, labels.flatten(), weights.flatten(), avg_factor=avg_factor)
        logits = cls_score.view(-1, num_scores, cls_score.shape[-2:].numel())
        shape = (len(cls_score), logits.shape[-1], -1)
        labels, weights = (each.reshape(shape).transpose(1, 2).flatten(0, 1) for each in (labels, weights))
        return loss_cls(logits, labels, weights, avg_factor=avg_factor)

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
        shapes = [shape[:2] for shape in _each(batch_img_metas, "img_shape")]
        boxes = self.bbox_coder.decode(best.priors, best.bbox_preds, max_shape=shapes)
        if rescale:
            boxes = rescale_boxes(boxes, _each(map(_with_scale_factor, batch_img_metas), "scale_factor"))
        worth = best.scores > cfg.score_thr
        if cfg.min_bbox_size >= 0:
            worth &= (boxes[..., 2:] - boxes[..., :2] > cfg.min_bbox_size).all(-1)
        scores = best.scores if best.factors is None else best.scores * best.factors
        results = []
        for number, kept in enumerate(torch.nonzero(worth)[:, 1].split(worth.sum(1).tolist())):
            instances = InstanceData(
                bboxes=boxes[number, kept], scores=scores[number, kept], labels=best.labels[number, kept]
            )
            results.append(suppress(instances, cfg.nms if with_nms else None, cfg.max_per_img))
        return results


def _with_scale_factor(meta: MetaInfo) -> MetaInfo:
    """A pipeline without a resize writes no factor; the image has its own size then."""
    if "scale_factor" in meta or "ori_shape" not in meta or meta["ori_shape"] != meta.get("img_shape"):
        return meta
    return {**meta, "scale_factor": (1.0, 1.0)}


def _each(batch_img_metas: Iterable[MetaInfo], name: str) -> list[Any]:
    """One metainfo field of every image."""
    metas = list(batch_img_metas)
    for number, meta in enumerate(metas):
        if name not in meta:
            raise ValueError(
                f"sample {number} ({meta.get('img_path') or 'no img_path'}) has no {name} in its metainfo, "
                f"which the head needs; PackDetInputs(meta_keys=...) should keep it. It has "
                f"{', '.join(sorted(meta)) or 'none'}"
            )
    return [meta[name] for meta in metas]
