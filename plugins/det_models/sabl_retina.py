"""SABL for RetinaNet: Side-Aware Boundary Localization (Wang et al., ECCV 2020, arXiv 1912.04260).

One square at each cell in place of nine anchors. Each side of its box is found by itself: first in which of S
buckets near the square's edge the side lies, then where in the bucket (:class:`BucketingBBoxCoder`). How sure
the buckets are of a box is a factor of its score.

Training: a square overlaps an object as well as the best of the nine anchors of RetinaNet would that stand
around the same cell (:class:`ApproxMaxIoUAssigner`), so as many cells answer for objects as there. The
classes are those of RetinaNet, with its focal loss. Squares with an object learn which bucket is the nearest
to each side (binary cross entropy of every bucket), and the nearest ones their offset (smooth L1).
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn

from det_models.anchors import AnchorGenerator, retina_anchors
from det_models.approx_assign import ApproxMaxIoUAssigner
from det_models.assign import match_levels
from det_models.bucketing_coder import BucketingBBoxCoder
from det_models.dense import DenseHead, Losses
from det_models.dense_cfg import DenseTestCfg, DenseTrainCfg
from det_models.dense_targets import DenseTargets, rows_of_levels, sampled_targets, valid_priors
from det_models.losses.cross_entropy import CrossEntropyLoss
from det_models.losses.focal import FocalLoss
from det_models.losses.smooth_l1 import SmoothL1Loss
from det_models.metainfo import MetaInfo
from det_models.postprocess import Candidates
from det_models.towers import conv_tower
from det_models.truth import GroundTruth
from detcore.nn.base_module import DeferredInit
from detcore.nn.build import ConvCfg, NormCfg
from detcore.registry import MODELS, TASK_UTILS
from detcore.structures import InstanceData

_INIT_CFG = {
    "type": "Normal",
    "layer": "Conv2d",
    "std": 0.01,
    "override": {"type": "Normal", "name": "retina_cls", "std": 0.01, "bias_prob": 0.01},
}


class SABLRetinaHead(DenseHead):
    """Classes and sides of the squares of every level.

    Args:
        num_classes: K, without background.
        in_channels: Channels of the feature maps.
        stacked_convs: Convolutions before the last one, in each of the two networks.
        feat_channels: Their channels.
        approx_anchor_generator: Makes the shapes that each square stands for; by default RetinaNet's anchors.
        square_anchor_generator: Makes the squares, one a cell; by default of 4 strides.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of norm layer, None for none.
        bbox_coder: Turns buckets into boxes; by default 14 of them along each axis of thrice the square.
        reg_decoded_bbox: Has no effect: buckets and offsets are compared.
        train_cfg: How to match squares with ground truth.
        test_cfg: How to turn predictions into boxes.
        loss_cls: Classification loss, by default the focal loss.
        loss_bbox_cls: Loss of the buckets, by default 1.5 times their binary cross entropy.
        loss_bbox_reg: Loss of the offsets, by default 1.5 times smooth L1.
        init_cfg: How weights are initialised.

    Attributes:
        side_num: S, the buckets of a side.
        approxs_per_octave: Shapes that each square stands for.

    Raises:
        ValueError: The squares are not one a cell, or not around the shapes that they stand for.
    """

    bbox_coder: BucketingBBoxCoder

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        stacked_convs: int = 4,
        feat_channels: int = 256,
        approx_anchor_generator: Annotated[AnchorGenerator | None, TASK_UTILS] = None,
        square_anchor_generator: Annotated[AnchorGenerator | None, TASK_UTILS] = None,
        conv_cfg: ConvCfg = None,
        norm_cfg: NormCfg = None,
        bbox_coder: Annotated[BucketingBBoxCoder | None, TASK_UTILS] = None,
        reg_decoded_bbox: bool = False,
        train_cfg: DenseTrainCfg | None = None,
        test_cfg: DenseTestCfg | None = None,
        loss_cls: nn.Module | None = None,
        loss_bbox_cls: nn.Module | None = None,
        loss_bbox_reg: nn.Module | None = None,
        init_cfg: DeferredInit = _INIT_CFG,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        strides = (8, 16, 32, 64, 128)
        self.set_up(
            num_classes,
            in_channels,
            prior_generator=square_anchor_generator or AnchorGenerator(strides, ratios=[1.0], scales=[4]),
            bbox_coder=bbox_coder or BucketingBBoxCoder(num_buckets=14, scale_factor=3.0),
            loss_cls=loss_cls or FocalLoss(),
            loss_bbox=loss_bbox_reg or SmoothL1Loss(beta=1 / 9, loss_weight=1.5),
            reg_decoded_bbox=reg_decoded_bbox,
            train_cfg=train_cfg,
            test_cfg=test_cfg,
        )
        self.loss_bbox_reg = self.loss_bbox
        self.loss_bbox_cls: nn.Module = MODELS.build(
            loss_bbox_cls or CrossEntropyLoss(use_sigmoid=True, loss_weight=1.5)
        )
        self.square_anchor_generator = self.prior_generator
        self.approx_anchor_generator: AnchorGenerator = TASK_UTILS.build(
            approx_anchor_generator or retina_anchors()
        )
        self._check_squares()
        self.approxs_per_octave = self.approx_anchor_generator.num_base_priors[0]
        self.side_num = self.bbox_coder.side_num
        self.stacked_convs = stacked_convs
        self.feat_channels = feat_channels
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg
        self._init_layers()

    def _check_squares(self) -> None:
        squares, approxs = self.square_anchor_generator, self.approx_anchor_generator
        if self.num_base_priors != 1 or squares.strides != approxs.strides:
            raise ValueError(
                f"square_anchor_generator makes one square a cell on the strides of approx_anchor_generator; "
                f"got {self.num_base_priors} on {squares.strides} for shapes on {approxs.strides}"
            )
        if squares.scales.is_meta:  # sizes without values: there is nothing to compare
            return
        if squares.scales[0] != approxs.scales[0]:
            raise ValueError(
                f"squares are of the first scale of the shapes that they stand for, "
                f"got {float(squares.scales[0])} for {float(approxs.scales[0])}"
            )

    def _init_layers(self) -> None:
        """Make the layers; a head of a user's own may make others."""
        tower = (self.in_channels, self.feat_channels, self.stacked_convs, self.conv_cfg, self.norm_cfg)
        self.cls_convs, self.reg_convs = conv_tower(*tower), conv_tower(*tower)
        channels = self.feat_channels if self.stacked_convs else self.in_channels
        self.retina_cls = nn.Conv2d(channels, self.cls_out_channels, 3, padding=1)
        self.retina_bbox_reg = nn.Conv2d(channels, 4 * self.side_num, 3, padding=1)
        self.retina_bbox_cls = nn.Conv2d(channels, 4 * self.side_num, 3, padding=1)

    def forward_single(  # type: ignore[override]  # two maps for the boxes
        self, x: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Predictions of one level from its map ``Tensor[B, in_channels, H, W]``.

        Returns:
            Class logits ``Tensor[B, cls_out_channels, H, W]``; logits and offsets of the buckets of left,
            right, top, bottom, ``Tensor[B, 4 * S, H, W]`` each.
        """
        reg_feature = self.reg_convs(x)
        sides = self.retina_bbox_cls(reg_feature), self.retina_bbox_reg(reg_feature)
        return self.retina_cls(self.cls_convs(x)), sides

    # -- training --------------------------------------------------------------------------------

    def loss_by_feat(  # type: ignore[override]
        self,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[tuple[Tensor, Tensor]],
        batch_gt_instances: Sequence[InstanceData],
        batch_img_metas: Sequence[MetaInfo],
        batch_gt_instances_ignore: Sequence[InstanceData] | None = None,
    ) -> Losses:
        """Losses of every level.

        Args:
            cls_scores: Class logits, as from :meth:`forward`.
            bbox_preds: Logits and offsets of the buckets, as from :meth:`forward`.
            batch_gt_instances: ``bboxes`` (``Tensor[N, 4]``, xyxy, pixels of the input) and ``labels`` of
                each image.
            batch_img_metas: ``img_shape`` and ``pad_shape`` of each image.
            batch_gt_instances_ignore: ``bboxes`` of each image in which nothing is to be learnt.

        Returns:
            ``loss_cls``, ``loss_bbox_cls`` and ``loss_bbox_reg``, a scalar a level each.
        """
        truth = GroundTruth.pack(batch_gt_instances, batch_gt_instances_ignore, self.num_classes)
        squares, targets = self.match_levels(cls_scores, truth, batch_img_metas)
        size, number = 4 * self.side_num, targets.avg_factor
        losses: Losses = {
            "loss_cls": self.class_losses(cls_scores, targets.labels, targets.label_weights, number),
            "loss_bbox_cls": [],
            "loss_bbox_reg": [],
        }
        levels = rows_of_levels(targets.matches, squares, truth)
        for (logits, offsets), rows in zip(bbox_preds, levels, strict=True):
            wanted, matched = self.bbox_coder.encode(rows.priors, rows.gt_boxes), rows.weights[:, :1]
            loss_cls = self.loss_bbox_cls(
                rows.of(logits, size),
                wanted.labels,
                wanted.label_weights * matched,
                avg_factor=number * size,
            )
            loss_reg = self.loss_bbox_reg(
                rows.of(offsets, size),
                wanted.offsets,
                wanted.offset_weights * matched,
                avg_factor=number * 4 * self.bbox_coder.offset_topk,
            )
            losses["loss_bbox_cls"].append(loss_cls)
            losses["loss_bbox_reg"].append(loss_reg)
        return losses

    @torch.no_grad()
    def get_targets(
        self,
        mlvl_priors: Sequence[Tensor],
        featmap_sizes: Sequence[tuple[int, int]],
        truth: GroundTruth,
        batch_img_metas: Sequence[MetaInfo],
    ) -> DenseTargets:
        """Match all squares, by the shapes that they stand for; see :meth:`DenseHead.get_targets`.

        A square takes part where any of its shapes does.
        """
        cfg, squares = self._train_cfg(), torch.cat(list(mlvl_priors))
        approxs = self.approx_anchor_generator.grid_priors(featmap_sizes, device=squares.device)
        valid = valid_priors(
            self.approx_anchor_generator, approxs, featmap_sizes, batch_img_metas, cfg.allowed_border
        )
        if valid is not None:
            valid = valid.unflatten(1, (-1, self.approxs_per_octave)).any(-1)
        if isinstance(cfg.assigner, ApproxMaxIoUAssigner):
            shapes = torch.cat(approxs).unflatten(0, (-1, self.approxs_per_octave))
            matches = cfg.assigner.match(squares, truth, valid, shapes)
        else:  # by the squares themselves
            matches = match_levels(cfg.assigner, mlvl_priors, truth, valid)
        return sampled_targets(matches, cfg, truth, self.num_classes)

    # -- prediction ------------------------------------------------------------------------------

    def predict_by_feat(  # type: ignore[override]
        self,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[tuple[Tensor, Tensor]],
        batch_img_metas: Sequence[MetaInfo] = (),
        cfg: DenseTestCfg | None = None,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> list[InstanceData]:
        """Boxes from what :meth:`forward` gave; see :meth:`DenseHead.predict_by_feat`."""
        sides = [torch.cat(pair, dim=1) for pair in bbox_preds]
        return super().predict_by_feat(cls_scores, sides, None, batch_img_metas, cfg, rescale, with_nms)

    def decode_candidates(self, best: Candidates, shapes: Sequence[tuple[int, int]]) -> Tensor:
        """Boxes from their buckets, whose sureness becomes the factor of the scores.

        See :meth:`DenseHead.decode_candidates`.
        """
        boxes, best.factors = self.bbox_coder.decode(best.priors, best.bbox_preds.chunk(2, dim=-1), shapes)
        return boxes
