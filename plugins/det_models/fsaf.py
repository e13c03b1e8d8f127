"""FSAF: Feature Selective Anchor-Free Module for Single-Shot Detection (Zhu et al. 2019, arXiv 1903.00621).

The anchor-free branch of the paper alone: RetinaNet's two networks with one cell in place of nine anchors,
and no rule for which level an object belongs to. Each level would answer for it with the cells in the middle
of the object (:class:`CenterRegionAssigner`, section 3.2); the one that does so best, by the sum of its own
losses there, is the one that learns it (section 3.3, eq. 1-3)::

    level of an object = argmin over levels of mean over its cells of (focal loss + IoU loss)

Boxes are the distances of a cell's centre to its top, bottom, left and right, in parts of four cells
(:class:`TBLRBBoxCoder`). The cells of the other levels are background but for the object's class, and so are
those in the shadow of objects that they do not answer for. Both losses are divided by the number of cells
that learn an object.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from det_models.anchors import AnchorGenerator
from det_models.assign import match_levels
from det_models.coders import BaseBBoxCoder, TBLRBBoxCoder
from det_models.dense import DenseHead
from det_models.dense_cfg import DenseTestCfg, DenseTrainCfg
from det_models.dense_targets import RegressedRows, regressed_rows, valid_priors
from det_models.detector import SingleStageDetector
from det_models.host import reduce_mean
from det_models.losses.focal import FocalLoss
from det_models.losses.iou import IoULoss
from det_models.metainfo import MetaInfo
from det_models.postprocess import flatten_level, flatten_levels
from det_models.towers import conv_tower
from det_models.truth import GroundTruth
from detcore.nn.base_module import DeferredInit
from detcore.nn.build import ConvCfg, NormCfg
from detcore.registry import TASK_UTILS
from detcore.structures import InstanceData

_STRIDES = (8, 16, 32, 64, 128)
_NO_CELL = 1e6  # loss of a level that has no cell for an object
_INIT_CFG = {
    "type": "Normal",
    "layer": "Conv2d",
    "std": 0.01,
    "override": [
        {"type": "Normal", "name": "retina_cls", "std": 0.01, "bias_prob": 0.01},
        {"type": "Normal", "name": "retina_reg", "std": 0.01, "bias": 0.25},
    ],
}


class FSAF(SingleStageDetector):
    """Backbone, feature pyramid and :class:`FSAFHead`; see this module's docstring."""


class FSAFHead(DenseHead):
    """Classes and boxes of the cells of every level.

    Args:
        num_classes: K, without background.
        in_channels: Channels of the feature maps.
        score_threshold: Kept for configs; has no effect.
        init_cfg: How weights are initialised.
        stacked_convs: Convolutions before the last one, in each of the two networks.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of norm layer, None for none.
        anchor_generator: Makes the cells; by default squares of one stride.
        feat_channels: Channels of the convolutions before the last one.
        bbox_coder: Turns distances into boxes; by default :class:`TBLRBBoxCoder`.
        reg_decoded_bbox: The box loss compares boxes, not distances (IoU losses need it).
        loss_cls: Classification loss, by default the focal loss.
        loss_bbox: Box loss, by default the logarithm of the IoU.
        train_cfg: How to match cells with ground truth.
        test_cfg: How to turn predictions into boxes.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        score_threshold: float | None = None,
        init_cfg: DeferredInit = _INIT_CFG,
        stacked_convs: int = 4,
        conv_cfg: ConvCfg = None,
        norm_cfg: NormCfg = None,
        anchor_generator: Annotated[AnchorGenerator | None, TASK_UTILS] = None,
        feat_channels: int = 256,
        bbox_coder: Annotated[BaseBBoxCoder | None, TASK_UTILS] = None,
        reg_decoded_bbox: bool = True,
        loss_cls: nn.Module | None = None,
        loss_bbox: nn.Module | None = None,
        train_cfg: DenseTrainCfg | None = None,
        test_cfg: DenseTestCfg | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.set_up(
            num_classes,
            in_channels,
            prior_generator=anchor_generator or AnchorGenerator(_STRIDES, ratios=[1.0], scales=[1]),
            bbox_coder=bbox_coder or TBLRBBoxCoder(),
            loss_cls=loss_cls or FocalLoss(),
            loss_bbox=loss_bbox or IoULoss(),
            reg_decoded_bbox=reg_decoded_bbox,
            train_cfg=train_cfg,
            test_cfg=test_cfg,
        )
        self.score_threshold = score_threshold
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
        num_scores = self.num_base_priors * self.cls_out_channels
        num_distances = self.num_base_priors * self.bbox_coder.encode_size
        self.retina_cls = nn.Conv2d(channels, num_scores, 3, padding=1)
        self.retina_reg = nn.Conv2d(channels, num_distances, 3, padding=1)
        self.relu = nn.ReLU()

    def forward_single(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits ``[B, A * cls_out_channels, H, W]`` and distances ``[B, A * 4, H, W]``, 0 or more."""
        return self.retina_cls(self.cls_convs(x)), self.relu(self.retina_reg(self.reg_convs(x)))

    def loss_by_feat(
        self,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        batch_gt_instances: Sequence[InstanceData],
        batch_img_metas: Sequence[MetaInfo],
        batch_gt_instances_ignore: Sequence[InstanceData] | None = None,
    ) -> dict[str, Any]:
        """Losses of every level.

        Args:
            cls_scores: Class logits, as from :meth:`forward`.
            bbox_preds: Distances, as from :meth:`forward`.
            batch_gt_instances: ``bboxes`` (``Tensor[N, 4]``, xyxy, pixels of the input) and ``labels`` of
                each image.
            batch_img_metas: ``img_shape`` and ``pad_shape`` of each image.
            batch_gt_instances_ignore: ``bboxes`` of each image in which nothing is to be learnt.

        Returns:
            ``loss_cls`` and ``loss_bbox``, a scalar a level each; and for the log ``num_pos``, cells of an
            image that learn an object, and ``pos_recall``, per cent of them that score its class best and
            above one half.
        """
        truth = GroundTruth.pack(batch_gt_instances, batch_gt_instances_ignore, self.num_classes)
        mlvl_priors, matches, weights = self._targets(cls_scores, truth, batch_img_metas)
        lengths = [len(priors) for priors in mlvl_priors]
        rows = regressed_rows(matches, torch.cat(mlvl_priors), truth)
        labels = truth.labels_at(matches, self.num_classes)
        class_losses = self._class_losses(cls_scores, labels, weights, lengths)
        box_losses = self._box_losses(bbox_preds, rows)
        level = _level_of(rows.index, lengths)
        number = (rows.index // sum(lengths)) * truth.boxes.shape[1] + matches.flatten()[rows.index] - 1
        positive = rows.weights[:, 0] > 0
        own = (class_losses.detach().flatten(0, 1)[rows.index].sum(-1) + box_losses.detach()).float()
        best = _best_levels(own, level, number, positive, (len(lengths), truth.mask.numel()))
        learnt = positive & (level == best[number.clamp(min=0)])
        class_losses = self._without_unlearnt(class_losses, labels, rows.index, positive & ~learnt)
        total = reduce_mean(torch.stack((learnt.sum(), (matches == 0).sum().clamp(min=1))).float())
        total = torch.where(total[0] > 0, total[0], total[1])
        by_level = torch.zeros(len(lengths), device=level.device)
        return {
            "loss_cls": [each.sum() / total for each in class_losses.split(lengths, dim=1)],
            "loss_bbox": list(by_level.index_add(0, level, box_losses * learnt) / total),
            "num_pos": learnt.sum().float() / len(truth),
            "pos_recall": self._recall(cls_scores, labels.flatten()[rows.index], rows.index, learnt),
        }

    @torch.no_grad()
    def _targets(
        self, cls_scores: Sequence[Tensor], truth: GroundTruth, batch_img_metas: Sequence[MetaInfo]
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """Priors of every level, matches ``LongTensor[B, A]`` and weights of classes ``[B, A, K]``."""
        cfg = self._train_cfg()
        sizes = [(score.shape[-2], score.shape[-1]) for score in cls_scores]
        mlvl_priors = self.prior_generator.grid_priors(sizes, device=cls_scores[0].device)
        valid = valid_priors(self.prior_generator, mlvl_priors, sizes, batch_img_metas, cfg.allowed_border)
        shadows = None
        if hasattr(cfg.assigner, "match_with_shadows"):
            matches, shadows = cfg.assigner.match_with_shadows(torch.cat(mlvl_priors), truth, valid)
        else:
            matches = match_levels(cfg.assigner, mlvl_priors, truth, valid)
        weights = (matches >= 0).to(mlvl_priors[0].dtype)
        if cfg.pos_weight > 0:
            weights = torch.where(matches > 0, cfg.pos_weight, weights)
        weights = weights[..., None].repeat(1, 1, self.cls_out_channels)
        if shadows is not None:
            classes = truth.labels[:, None].expand_as(shadows)
            weights = weights.scatter_reduce(2, classes, (~shadows).to(weights.dtype), "prod")
        return mlvl_priors, matches, weights

    def _class_losses(
        self, cls_scores: Sequence[Tensor], labels: Tensor, weights: Tensor, lengths: Sequence[int]
    ) -> Tensor:
        """Class loss of every prior and class, ``Tensor[B, A, K]``."""
        levels = []
        wanted = zip(labels.split(lengths, dim=1), weights.split(lengths, dim=1), strict=True)
        for score, (label, weight) in zip(cls_scores, wanted, strict=True):
            logits = flatten_level(score, self.cls_out_channels)
            flat = (logits.flatten(0, 1), label.flatten(), weight.flatten(0, 1))
            levels.append(self.loss_cls(*flat, reduction_override="none").view_as(logits))
        return torch.cat(levels, dim=1)

    def _box_losses(self, bbox_preds: Sequence[Tensor], rows: RegressedRows) -> Tensor:
        """Box loss of each of R rows, ``Tensor[R]``, 0 without an object."""
        pred = flatten_levels(bbox_preds, self.bbox_coder.encode_size).flatten(0, 1)[rows.index].float()
        pred, wanted = pred.clamp(min=1e-4), rows.gt_boxes  # no box without an area
        if self.reg_decoded_bbox:
            pred = self.bbox_coder.decode(rows.priors, pred)
        else:
            wanted = self.bbox_coder.encode(rows.priors, rows.gt_boxes)
        losses: Tensor = self.loss_bbox(pred, wanted, rows.weights, reduction_override="none")
        return losses.sum(-1) if losses.ndim == 2 else losses

    def _without_unlearnt(
        self, class_losses: Tensor, labels: Tensor, index: Tensor, unlearnt: Tensor
    ) -> Tensor:
        """Class losses without those of the own class in rows whose level does not learn their object."""
        own = labels.flatten()[index].clamp(max=class_losses.shape[-1] - 1)
        places = index * class_losses.shape[-1] + own
        kept = torch.ones_like(class_losses).flatten()
        kept = kept.index_put((places,), (~unlearnt).to(kept.dtype))
        return class_losses * kept.view_as(class_losses)

    @torch.no_grad()
    def _recall(self, cls_scores: Sequence[Tensor], labels: Tensor, index: Tensor, learnt: Tensor) -> Tensor:
        """Per cent of the learnt rows whose best score is that of their class and above one half."""
        logits = flatten_levels(cls_scores, self.cls_out_channels).flatten(0, 1)[index].float()
        scores = logits.sigmoid() if self.use_sigmoid_cls else logits.softmax(-1)
        best, found = scores.max(-1)
        hit = (found == labels) & (best > 0.5) & learnt
        return 100 * hit.sum() / learnt.sum().clamp(min=1)


def _level_of(index: Tensor, lengths: Sequence[int]) -> Tensor:
    """Levels ``LongTensor[R]`` of rows ``LongTensor[R]`` of the flattened ``[B, A]``."""
    place, level, start = index % sum(lengths), torch.zeros_like(index), 0
    for length in lengths[:-1]:
        start += length
        level += place >= start
    return level


def _best_levels(
    losses: Tensor, level: Tensor, number: Tensor, positive: Tensor, size: tuple[int, int]
) -> Tensor:
    """The level that answers best for each object.

    Args:
        losses: ``Tensor[R]`` of R cells.
        level: ``LongTensor[R]``, where each of them is.
        number: ``LongTensor[R]``, the object that it would answer for.
        positive: ``BoolTensor[R]``, whether there is one.
        size: Number of levels and of objects.

    Returns:
        ``LongTensor[objects]``, the level with the least mean loss.
    """
    place = torch.where(positive, level * size[1] + number, 0)
    sums = losses.new_zeros(size[0] * size[1]).index_add(0, place, torch.where(positive, losses, 0))
    counts = torch.zeros_like(sums).index_add(0, place, positive.to(sums.dtype))
    means = torch.where(counts > 0, sums / counts.clamp(min=1), _NO_CELL)
    return means.view(size).argmin(0)
