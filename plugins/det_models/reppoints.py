"""RepPoints: Point Set Representation for Object Detection (Yang et al., ICCV 2019, arXiv 1904.11490).

An object is a set of n = 9 points in place of a box. At each cell of a feature pyramid stands one point, the
object's presumable centre. From it the head predicts n offsets, the first points. They are where a deformable
convolution looks: what it sees there gives the classes, and offsets from the first points to the refined ones
(section 3.3, figure 2).

Points are turned into a box, the pseudo box, by a function through which the gradient flows (section 3.2):
the least and greatest coordinates (``minmax``), those of the first four points (``partial_minmax``), or mean
and deviation of the coordinates, the latter times learnt factors (``moment``). With ``use_grid_points`` the
head is that of a box in disguise, for comparison: four numbers, and the points stand on the box's grid.

Training: the nearest point on the level of an object's size answers for it at first
(:class:`PointAssigner`); the pseudo boxes of the first points are then matched by overlap, and that match
decides on classes and refined points. Losses: smooth L1 of either set of pseudo boxes in parts of
``point_base_scale`` strides, and the focal loss.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from det_models.assign import MaxIoUAssigner, match_each
from det_models.coders import BaseBBoxCoder, DistancePointBBoxCoder, clip_boxes
from det_models.dense import DenseHead, Losses
from det_models.dense_cfg import DenseTestCfg, DenseTrainCfg, DictLike
from det_models.dense_targets import rows_of_levels, valid_priors
from det_models.detector import SingleStageDetector
from det_models.host import host_tensor, reduce_mean
from det_models.losses.focal import FocalLoss
from det_models.losses.smooth_l1 import SmoothL1Loss
from det_models.metainfo import MetaInfo
from det_models.point_assign import PointAssigner
from det_models.points import MlvlPointGenerator
from det_models.postprocess import Candidates, flatten_level
from det_models.samplers import PseudoSampler
from det_models.towers import conv_tower
from det_models.truth import GroundTruth, unpack_gt_instances
from detcore.nn.base_module import DeferredInit
from detcore.nn.build import ConvCfg, NormCfg
from detcore.nn.deform_conv import DeformConv2d
from detcore.registry import MODELS, TASK_UTILS
from detcore.structures import DetDataSample, InstanceData

_INIT_CFG = {
    "type": "Normal",
    "layer": "Conv2d",
    "std": 0.01,
    "override": {"type": "Normal", "name": "reppoints_cls_out", "std": 0.01, "bias_prob": 0.01},
}


class RepPointsDetector(SingleStageDetector):
    """Backbone, feature pyramid and :class:`RepPointsHead`; see this module's docstring."""


@dataclass(kw_only=True, slots=True)
class RepPointsTrainCfg(DictLike):
    """How a RepPoints head is trained.

    Attributes:
        init: How points are matched with ground truth at first.
        refine: How the boxes of the first points are.
    """

    init: DenseTrainCfg
    refine: DenseTrainCfg


class RepPointsHead(DenseHead):
    """Classes and point sets of the points of every level.

    Args:
        num_classes: K, without background.
        in_channels: Channels of the feature maps.
        point_feat_channels: Channels between the last two convolutions of each branch.
        num_points: n, the square of an odd number.
        gradient_mul: Part of the gradient that goes from the deformable convolutions into the first points.
        point_strides: Pixels between neighbouring points, of each level.
        point_base_scale: Strides that boxes are compared in parts of.
        loss_cls: Classification loss, by default the focal loss.
        loss_bbox_init: Loss of the first boxes, by default half of smooth L1.
        loss_bbox_refine: Loss of the refined ones, by default smooth L1.
        use_grid_points: Whether four numbers make a box, on whose grid the points stand.
        center_init: Whether the first points are offsets from the cell, or else from a grid around it.
        transform_method: How points become a box.
        moment_mul: Part of the gradient that goes into the learnt factors of ``'moment'``.
        init_cfg: How weights are initialised.
        feat_channels: Channels of the convolutions before.
        stacked_convs: Their number, in each of the two networks.
        strides: Has no effect, like the next four.
        dcn_on_last_conv: Has no effect.
        conv_bias: Has no effect.
        loss_bbox: Has no effect.
        bbox_coder: Has no effect.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of norm layer, None for none.
        train_cfg: How to match points and boxes with ground truth.
        test_cfg: How to turn predictions into boxes.

    Raises:
        ValueError: ``num_points`` is no square of an odd number, or the method is unknown.
    """

    dcn_base_offset: Tensor

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        point_feat_channels: int = 256,
        num_points: int = 9,
        gradient_mul: float = 0.1,
        point_strides: Sequence[int] = (8, 16, 32, 64, 128),
        point_base_scale: float = 4,
        loss_cls: nn.Module | None = None,
        loss_bbox_init: nn.Module | None = None,
        loss_bbox_refine: nn.Module | None = None,
        use_grid_points: bool = False,
        center_init: bool = True,
        transform_method: Literal["minmax", "partial_minmax", "moment"] = "moment",
        moment_mul: float = 0.01,
        init_cfg: DeferredInit = _INIT_CFG,
        feat_channels: int = 256,
        stacked_convs: int = 4,
        strides: Sequence[int] = (4, 8, 16, 32, 64),
        dcn_on_last_conv: bool = False,
        conv_bias: bool | Literal["auto"] = "auto",
        loss_bbox: nn.Module | None = None,
        bbox_coder: Annotated[BaseBBoxCoder | None, TASK_UTILS] = None,
        conv_cfg: ConvCfg = None,
        norm_cfg: NormCfg = None,
        train_cfg: RepPointsTrainCfg | None = None,
        test_cfg: DenseTestCfg | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        side = math.isqrt(num_points)
        if num_points < 1 or side**2 != num_points or side % 2 == 0:
            raise ValueError(f"num_points must be the square of an odd number (1, 9, 25), got {num_points}")
        self.set_up(
            num_classes,
            in_channels,
            prior_generator=MlvlPointGenerator(point_strides, offset=0.0),
            bbox_coder=bbox_coder or DistancePointBBoxCoder(),
            loss_cls=loss_cls or FocalLoss(),
            loss_bbox=loss_bbox or SmoothL1Loss(),
            train_cfg=train_cfg,
            test_cfg=test_cfg,
        )
        self.loss_bbox_init: nn.Module = MODELS.build(
            loss_bbox_init or SmoothL1Loss(beta=1 / 9, loss_weight=0.5)
        )
        self.loss_bbox_refine: nn.Module = MODELS.build(loss_bbox_refine or SmoothL1Loss(beta=1 / 9))
        self.point_feat_channels = point_feat_channels
        self.num_points = num_points
        self.dcn_kernel = side
        self.gradient_mul = gradient_mul
        self.point_strides = point_strides
        self.point_base_scale = point_base_scale
        self.use_grid_points = use_grid_points
        self.center_init = center_init
        if transform_method not in ("minmax", "partial_minmax", "moment"):
            raise ValueError(
                f"transform_method is minmax, partial_minmax or moment, got {transform_method!r}"
            )
        self.transform_method = transform_method
        if transform_method == "moment":
            self.moment_transfer = nn.Parameter(torch.zeros(2))
            self.moment_mul = moment_mul
        self.feat_channels = feat_channels
        self.stacked_convs = stacked_convs
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg
        self._init_layers()

    def _init_layers(self) -> None:
        """Make the layers; a head of a user's own may make others."""
        tower = (self.in_channels, self.feat_channels, self.stacked_convs, self.conv_cfg, self.norm_cfg)
        self.cls_convs, self.reg_convs = conv_tower(*tower), conv_tower(*tower)
        channels = self.feat_channels if self.stacked_convs else self.in_channels
        width, kernel, padding = self.point_feat_channels, self.dcn_kernel, self.dcn_kernel // 2
        numbers = 4 if self.use_grid_points else 2 * self.num_points
        self.relu = nn.ReLU()
        self.reppoints_cls_conv = DeformConv2d(channels, width, kernel, padding=padding)
        self.reppoints_cls_out = nn.Conv2d(width, self.cls_out_channels, 1)
        self.reppoints_pts_init_conv = nn.Conv2d(channels, width, 3, padding=1)
        self.reppoints_pts_init_out = nn.Conv2d(width, numbers, 1)
        self.reppoints_pts_refine_conv = DeformConv2d(channels, width, kernel, padding=padding)
        self.reppoints_pts_refine_out = nn.Conv2d(width, numbers, 1)
        places = torch.arange(-float(padding), padding + 1)  # where the kernel looks by itself, (y, x)
        own = torch.stack(torch.meshgrid(places, places, indexing="ij"), dim=-1)
        self.register_buffer("dcn_base_offset", own.reshape(1, -1, 1, 1), persistent=False)

    def forward(self, x: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        """Class logits, and in training first and refined points, else boxes; a list of each.

        Args:
            x: ``Tensor[B, in_channels, H, W]`` a level.
        """
        scores, first, refined = super().forward(x)
        return (scores, first, refined) if self.training else (scores, [*map(self.points2bbox, refined)])

    def forward_single(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Predictions of one level from its map ``Tensor[B, in_channels, H, W]``.

        Returns:
            Class logits ``Tensor[B, cls_out_channels, H, W]``, first and refined points ``Tensor[B, 2 * n, H,
            W]``, (y, x) of each, in strides from the cell and float32.
        """
        cls_feature, pts_feature = self.cls_convs(x), self.reg_convs(x)
        first = self.reppoints_pts_init_out(self.relu(self.reppoints_pts_init_conv(pts_feature))).float()
        scale = self.point_base_scale / 2
        boxes = first.new_full((1, 4, 1, 1), scale)
        boxes = torch.cat((-boxes[:, :2], boxes[:, 2:]), dim=1)  # around the cell
        if self.use_grid_points:
            first, boxes = self.gen_grid_from_reg(first, boxes)
        elif not self.center_init:
            first = first + self.dcn_base_offset / self.dcn_base_offset.max() * scale
        offset = torch.lerp(first.detach(), first, self.gradient_mul) - self.dcn_base_offset
        scores = self.reppoints_cls_out(self.relu(self.reppoints_cls_conv(cls_feature, offset)))
        seen = self.relu(self.reppoints_pts_refine_conv(pts_feature, offset))
        refined = self.reppoints_pts_refine_out(seen).float()
        if self.use_grid_points:
            refined, _ = self.gen_grid_from_reg(refined, boxes.detach())
        else:
            refined = refined + first.detach()
        return scores, first, refined

    def points2bbox(self, pts: Tensor, y_first: bool = True) -> Tensor:
        """Pseudo boxes ``Tensor[N, 4, ...]``, xyxy, of points ``Tensor[N, 2 * n, ...]``.

        Args:
            pts: (y, x) of each point, one after another.
            y_first: False where they are (x, y).
        """
        pairs = pts.unflatten(1, (-1, 2)).transpose(1, 2)  # [N, 2, n, ...]
        pairs = pairs.flip(1) if y_first else pairs
        if self.transform_method == "moment":
            middle, spread = pairs.mean(2), pairs.std(2)
            transfer = torch.lerp(self.moment_transfer.detach(), self.moment_transfer, self.moment_mul)
            half = spread * transfer.exp().view(1, 2, *[1] * (spread.ndim - 2))
            return torch.cat((middle - half, middle + half), dim=1)
        if self.transform_method == "partial_minmax":
            pairs = pairs[:, :, :4]
        return torch.cat((pairs.amin(2), pairs.amax(2)), dim=1)

    def gen_grid_from_reg(self, reg: Tensor, previous_boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes, and the points of their grids.

        Args:
            reg: ``Tensor[B, 4, H, W]``, shift of the centre in parts of the size, logarithm of its change.
            previous_boxes: ``Tensor[B or 1, 4, H or 1, W or 1]``, xyxy, which they lead from.

        Returns:
            ``Tensor[B, 2 * n, H, W]``, (y, x) of each point, row by row, and ``Tensor[B, 4, H, W]``, xyxy.
        """
        before, after = previous_boxes.split(2, dim=1)
        size = (after - before).clamp(min=1e-6)
        grown = size * reg[:, 2:].exp()
        corner = (before + after) / 2 + size * reg[:, :2] - grown / 2
        steps = torch.linspace(0, 1, self.dcn_kernel, device=reg.device).view(1, 1, -1, 1, 1)
        x, y = (corner[:, :, None] + grown[:, :, None] * steps).unbind(1)  # [B, side, H, W] each
        both = torch.stack(torch.broadcast_tensors(y[:, :, None], x[:, None]), dim=3)
        return both.flatten(1, 3), torch.cat((corner, corner + grown), dim=1)

    # -- training --------------------------------------------------------------------------------

    def loss(self, x: Sequence[Tensor], batch_data_samples: Sequence[DetDataSample]) -> Losses:
        """Losses of a batch, from the feature maps of the neck; in evaluation, too."""
        instances, ignored, metas = unpack_gt_instances(batch_data_samples)
        scores, first, refined = super().forward(x)
        return self.loss_by_feat(scores, first, refined, instances, metas, ignored)

    def loss_by_feat(  # type: ignore[override]  # one output more
        self,
        cls_scores: Sequence[Tensor],
        pts_preds_init: Sequence[Tensor],
        pts_preds_refine: Sequence[Tensor],
        batch_gt_instances: Sequence[InstanceData],
        batch_img_metas: Sequence[MetaInfo],
        batch_gt_instances_ignore: Sequence[InstanceData] | None = None,
    ) -> Losses:
        """Losses of every level.

        Args:
            cls_scores: Class logits, as from :meth:`forward`.
            pts_preds_init: First points, as from :meth:`forward` in training.
            pts_preds_refine: Refined points, likewise.
            batch_gt_instances: ``bboxes`` (``Tensor[N, 4]``, xyxy, pixels of the input) and ``labels`` of
                each image.
            batch_img_metas: ``img_shape`` and ``pad_shape`` of each image.
            batch_gt_instances_ignore: ``bboxes`` of each image in which nothing is to be learnt.

        Returns:
            ``loss_cls``, ``loss_pts_init`` and ``loss_pts_refine``, a scalar a level each.
        """
        truth = GroundTruth.pack(batch_gt_instances, batch_gt_instances_ignore, self.num_classes)
        sizes = [(score.shape[-2], score.shape[-1]) for score in cls_scores]
        points = self.prior_generator.grid_priors(  # type: ignore[call-arg]
            sizes, device=cls_scores[0].device, with_stride=True
        )
        valid = valid_priors(self.prior_generator, points, sizes, batch_img_metas)
        first = self._matched(points, truth, valid)
        second = self._matched(points, truth, valid, pts_preds_init)
        weights = (second.matches >= 0).float()
        if second.pos_weight > 0:
            weights = torch.where(second.matches > 0, second.pos_weight, weights)
        labels = truth.labels_at(second.matches, self.num_classes)
        return {
            "loss_cls": self.class_losses(cls_scores, labels, weights, second.avg_factor),
            "loss_pts_init": self._points_losses(self.loss_bbox_init, pts_preds_init, first, points, truth),
            "loss_pts_refine": self._points_losses(
                self.loss_bbox_refine, pts_preds_refine, second, points, truth
            ),
        }

    def _points_losses(
        self,
        loss: nn.Module,
        pts_preds: Sequence[Tensor],
        found: "_Matched",
        points: Sequence[Tensor],
        truth: GroundTruth,
    ) -> list[Tensor]:
        """Loss of every level's pseudo boxes."""
        losses = []
        for number, rows in enumerate(rows_of_levels(found.matches, points, truth)):
            stride = self.point_strides[number]
            offsets = self.points2bbox(rows.of(pts_preds[number], 2 * self.num_points)) * stride
            boxes, unit = offsets + rows.priors[:, :2].repeat(1, 2), self.point_base_scale * stride
            losses.append(
                loss(boxes / unit, rows.gt_boxes / unit, rows.weights, avg_factor=found.avg_factor)
            )
        return losses

    @torch.no_grad()
    def _matched(
        self,
        points: Sequence[Tensor],
        truth: GroundTruth,
        valid: Tensor | None,
        pts_preds: Sequence[Tensor] | None = None,
    ) -> "_Matched":
        """Match points ``Tensor[A_i, 4]``, with strides; or, where points are predicted, their boxes."""
        given: Any = self._train_cfg()
        cfg: DenseTrainCfg = given.init if pts_preds is None else given.refine
        every = torch.cat(list(points))
        if pts_preds is not None:
            boxes = [flatten_level(self.points2bbox(level), 4) for level in pts_preds]
            priors = torch.cat(boxes, dim=1) * every[:, 2:3] + every[:, :2].repeat(1, 2)
        elif isinstance(cfg.assigner, PointAssigner):
            priors = every
        else:
            half = every[:, 2:] * (self.point_base_scale / 2)
            priors = torch.cat((every[:, :2] - half, every[:, :2] + half), dim=1)
        if isinstance(cfg.assigner, MaxIoUAssigner | PointAssigner):
            matches = cfg.assigner.match(priors, truth, valid)
        else:
            matches = match_each(cfg.assigner, priors, truth, valid)
        sampler = cfg.sampler or PseudoSampler()
        matches = sampler.select(matches)
        return _Matched(matches, reduce_mean(sampler.avg_factor(matches).float()), cfg.pos_weight)

    # -- prediction ------------------------------------------------------------------------------

    def predict_by_feat(
        self,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        pts_preds_refine: Sequence[Tensor] | None = None,
        batch_img_metas: Sequence[MetaInfo] = (),
        cfg: DenseTestCfg | None = None,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> list[InstanceData]:
        """Boxes from what :meth:`forward` gave, in training, too; see :meth:`DenseHead.predict_by_feat`."""
        if pts_preds_refine is not None:
            bbox_preds = [self.points2bbox(level) for level in pts_preds_refine]
        return super().predict_by_feat(cls_scores, bbox_preds, None, batch_img_metas, cfg, rescale, with_nms)

    def decode_candidates(self, best: Candidates, shapes: Sequence[tuple[int, int]]) -> Tensor:
        """Boxes around their cells; see :meth:`DenseHead.decode_candidates`."""
        strides = host_tensor(self.point_strides, best.bbox_preds)[best.levels]
        return clip_boxes(best.bbox_preds * strides[..., None] + best.priors.repeat(1, 1, 2), shapes)


@dataclass(slots=True)
class _Matched:
    """Which box each of A points answers for (``LongTensor[B, A]``), what losses are divided by."""

    matches: Tensor
    avg_factor: Tensor
    pos_weight: float
