"""VFNet: VarifocalNet, an IoU-aware Dense Object Detector (Zhang et al., CVPR 2021, arXiv 2008.13367).

FCOS with ATSS's choice of positives (:class:`ATSSAssigner`), without centerness, and with three parts of its
own (section 3):

- the score of a class is the quality of the box, too (IACS): the IoU of the refined box with its object is
  what the score of the object's class is to be, and 0 that of the others (:class:`VarifocalLoss`, eq. 2);
- each point first predicts distances (l, t, r, b), then looks at the picture at nine points of that box, its
  centre, corners and the middles of its sides: a deformable convolution whose offsets follow from the
  distances (the star-shaped feature, section 3.3);
- from the star the distances are predicted once more, as factors (section 3.4), and the classes as well.

Training: the losses of first and refined boxes (GIoU) are weighted by the boxes' own IoU and divided by the
sum of these weights; the classes' loss is divided by the number of points with an object. A tenth of the
star's gradient goes back into the first distances (``gradient_mul``).
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from det_models.anchors import AnchorGenerator, square_anchors
from det_models.coders import BaseBBoxCoder, DistancePointBBoxCoder
from det_models.dense import DenseHead
from det_models.dense_cfg import DenseTestCfg, DenseTrainCfg
from det_models.dense_targets import RegressedRows, regressed_rows
from det_models.detector import SingleStageDetector
from det_models.fcos import Ranges, middle_of, smallest_boxes
from det_models.host import reduce_mean
from det_models.losses.focal import FocalLoss
from det_models.losses.iou import GIoULoss
from det_models.losses.varifocal import VarifocalLoss
from det_models.metainfo import MetaInfo
from det_models.points import centers_of
from det_models.postprocess import Candidates, flatten_levels
from det_models.scale import Scale
from det_models.towers import conv_tower, each_level
from det_models.truth import GroundTruth, unpack_gt_instances
from detcore.nn import ConvModule, DeformConv2d, ModuleList
from detcore.nn.base_module import DeferredInit
from detcore.nn.build import ConvCfg, NormCfg
from detcore.registry import MODELS, TASK_UTILS
from detcore.structures import DetDataSample, InstanceData
from detcore.structures.bbox import bbox_overlaps

_INF = 1e8
_GROUP_NORM = {"type": "GN", "num_groups": 32, "requires_grad": True}
_INIT_CFG = {
    "type": "Normal",
    "layer": "Conv2d",
    "std": 0.01,
    "override": {"type": "Normal", "name": "vfnet_cls", "std": 0.01, "bias_prob": 0.01},
}


class VFNet(SingleStageDetector):
    """Backbone, feature pyramid and :class:`VFNetHead`; see this module's docstring."""


class VFNetHead(DenseHead):
    """Classes with their quality, and boxes in two steps, of the points of every level.

    Args:
        num_classes: K, without background.
        in_channels: Channels of the feature maps.
        regress_ranges: (least, greatest) distance to the farthest side, in pixels, that a level is there for.
        center_sampling: Without ATSS: only points near the middle of a box answer for it.
        center_sample_radius: How near, in strides, along each axis.
        sync_num_pos: Divide by the mean number of positives over all ranks, not by that of each.
        gradient_mul: Part of the star's gradient that goes back into the first distances.
        bbox_norm_type: First distances are predicted in parts of the greatest distance of their level
            (``'reg_denom'``), or in strides.
        loss_cls_fl: Classification loss without ``use_vfl``, by default the focal loss.
        use_vfl: Whether scores are to be qualities, by ``loss_cls``.
        loss_cls: Loss of labels and qualities, by default :class:`VarifocalLoss`.
        loss_bbox: Loss of the first boxes, by default one and a half times the GIoU loss.
        loss_bbox_refine: Loss of the refined ones, by default twice the GIoU loss.
        norm_cfg: Kind of norm layer, None for none.
        use_atss: Whether the assigner chooses the positives; else they are those of FCOS.
        reg_decoded_bbox: Has no effect: boxes are compared.
        anchor_generator: Makes the anchors that are matched with objects, one a cell; by default a square of
            8 strides. Their centres are the points.
        init_cfg: How weights are initialised.
        stacked_convs: Convolutions before the last ones, in each of the two networks.
        feat_channels: Their channels.
        strides: Pixels between neighbouring points, of each level.
        dcn_on_last_conv: Make the last of these convolutions a deformable one.
        conv_bias: Whether they have a bias; ``'auto'``: where they have no norm layer.
        conv_cfg: Kind of convolution.
        bbox_coder: Turns distances into boxes.
        train_cfg: How to match anchors with ground truth.
        test_cfg: How to turn predictions into boxes.

    Raises:
        ValueError: More than one anchor a cell, or ranges, anchors and strides are not of the same levels.
    """

    dcn_base_offset: Tensor

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        regress_ranges: Ranges = ((-1, 64), (64, 128), (128, 256), (256, 512), (512, _INF)),
        center_sampling: bool = False,
        center_sample_radius: float = 1.5,
        sync_num_pos: bool = True,
        gradient_mul: float = 0.1,
        bbox_norm_type: Literal["reg_denom", "stride"] = "reg_denom",
        loss_cls_fl: nn.Module | None = None,
        use_vfl: bool = True,
        loss_cls: nn.Module | None = None,
        loss_bbox: nn.Module | None = None,
        loss_bbox_refine: nn.Module | None = None,
        norm_cfg: NormCfg = _GROUP_NORM,
        use_atss: bool = True,
        reg_decoded_bbox: bool = True,
        anchor_generator: Annotated[AnchorGenerator | None, TASK_UTILS] = None,
        init_cfg: DeferredInit = _INIT_CFG,
        stacked_convs: int = 4,
        feat_channels: int = 256,
        strides: Sequence[int] = (8, 16, 32, 64, 128),
        dcn_on_last_conv: bool = False,
        conv_bias: bool | Literal["auto"] = "auto",
        conv_cfg: ConvCfg = None,
        bbox_coder: Annotated[BaseBBoxCoder | None, TASK_UTILS] = None,
        train_cfg: DenseTrainCfg | None = None,
        test_cfg: DenseTestCfg | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        anchors = anchor_generator or square_anchors(strides)
        if not use_atss:  # FCOS's points are in the middle of their cells
            anchors = square_anchors(strides, center_offset=0.5)
        quality_loss = loss_cls or VarifocalLoss()
        self.set_up(
            num_classes,
            in_channels,
            prior_generator=anchors,
            bbox_coder=bbox_coder or DistancePointBBoxCoder(),
            loss_cls=quality_loss if use_vfl else loss_cls_fl or FocalLoss(),
            loss_bbox=loss_bbox or GIoULoss(loss_weight=1.5),
            reg_decoded_bbox=reg_decoded_bbox,
            train_cfg=train_cfg,
            test_cfg=test_cfg,
        )
        same = [tuple(each) for each in self.prior_generator.strides] == [(each, each) for each in strides]
        if self.num_base_priors != 1 or not same or len(regress_ranges) != len(strides):
            raise ValueError(
                f"VFNetHead takes one anchor a cell of each of its levels, got {self.num_base_priors} of "
                f"strides {self.prior_generator.strides}, strides {list(strides)} and {len(regress_ranges)} "
                "regress_ranges"
            )
        self.loss_bbox_refine: nn.Module = MODELS.build(loss_bbox_refine or GIoULoss(loss_weight=2.0))
        self.regress_ranges = regress_ranges
        self.center_sampling = center_sampling
        self.center_sample_radius = center_sample_radius
        self.sync_num_pos = sync_num_pos
        self.gradient_mul = gradient_mul
        self.use_vfl = use_vfl
        self.use_atss = use_atss
        self.strides = strides
        farthest = [limits[1] for limits in regress_ranges]
        farthest[-1] = 2 * farthest[-2] if len(farthest) > 1 else farthest[-1]  # the last has no limit
        self.reg_denoms = farthest if bbox_norm_type == "reg_denom" else list(strides)
        self.stacked_convs = stacked_convs
        self.feat_channels = feat_channels
        self.dcn_on_last_conv = dcn_on_last_conv
        self.conv_bias = conv_bias
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg
        self._init_layers()

    def _init_layers(self) -> None:
        """Make the layers; a head of a user's own may make others."""
        last: Any = {"type": "DCNv2"} if self.dcn_on_last_conv else None
        size = (self.in_channels, self.feat_channels, self.stacked_convs)
        kind: dict[str, Any] = {"conv_cfg": self.conv_cfg, "norm_cfg": self.norm_cfg, "bias": self.conv_bias}
        self.cls_convs = conv_tower(*size, last_conv_cfg=last, **kind)
        self.reg_convs = conv_tower(*size, last_conv_cfg=last, **kind)
        channels = self.feat_channels if self.stacked_convs else self.in_channels
        self.relu = nn.ReLU()
        self.vfnet_reg_conv = ConvModule(channels, channels, 3, padding=1, **kind)
        self.vfnet_reg = nn.Conv2d(channels, 4, 3, padding=1)
        self.scales = ModuleList(Scale() for _ in self.strides)
        self.vfnet_reg_refine_dconv = DeformConv2d(channels, channels, 3, padding=1)
        self.vfnet_reg_refine = nn.Conv2d(channels, 4, 3, padding=1)
        self.scales_refine = ModuleList(Scale() for _ in self.strides)
        self.vfnet_cls_dconv = DeformConv2d(channels, channels, 3, padding=1)
        self.vfnet_cls = nn.Conv2d(channels, self.cls_out_channels, 3, padding=1)
        places = torch.arange(-1.0, 2.0)  # where a kernel of 3x3 looks by itself, (y, x) by row and column
        own = torch.stack(torch.meshgrid(places, places, indexing="ij"), dim=-1)
        self.register_buffer("dcn_base_offset", own.view(1, -1, 1, 1), persistent=False)

    def forward(self, x: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        """Class logits, in training the first distances, and the refined ones, a list of each.

        Args:
            x: ``Tensor[B, in_channels, H, W]`` a level.
        """
        scores, first, refined = self._both_steps(x)
        return (scores, first, refined) if self.training else (scores, refined)

    def _both_steps(self, x: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        parts = (self.scales, self.scales_refine, self.strides, self.reg_denoms)
        return each_level(self.forward_single, x, *parts)

    def forward_single(  # type: ignore[override]  # the arguments that users' heads redefine it with
        self, x: Tensor, scale: nn.Module, scale_refine: nn.Module, stride: int, reg_denom: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Predictions of one level.

        Args:
            x: ``Tensor[B, in_channels, H, W]``.
            scale: Multiplies the level's first distances, before the exponential.
            scale_refine: Likewise the factors that refine them.
            stride: Pixels between the level's points.
            reg_denom: Pixels that the first distances are predicted in parts of.

        Returns:
            Class logits ``Tensor[B, cls_out_channels, H, W]``, first and refined distances to left, top,
            right, bottom, ``Tensor[B, 4, H, W]`` each, in pixels and float32.
        """
        cls_feature, reg_feature = self.cls_convs(x), self.reg_convs(x)
        first = scale(self.vfnet_reg(self.vfnet_reg_conv(reg_feature))).float().exp() * reg_denom
        offset = self.star_dcn_offset(first, self.gradient_mul, stride)
        reg_feature = self.relu(self.vfnet_reg_refine_dconv(reg_feature, offset))
        factors = scale_refine(self.vfnet_reg_refine(reg_feature)).float().exp()
        cls_feature = self.relu(self.vfnet_cls_dconv(cls_feature, offset))
        return self.vfnet_cls(cls_feature), first, factors * first.detach()

    def star_dcn_offset(self, bbox_pred: Tensor, gradient_mul: float, stride: int) -> Tensor:
        """Where a kernel of 3x3 has to look to see the nine points of a box.

        Args:
            bbox_pred: Distances to left, top, right, bottom ``Tensor[B, 4, H, W]``, in pixels.
            gradient_mul: Part of the gradient that goes into them.
            stride: Pixels of a cell.

        Returns:
            ``Tensor[B, 18, H, W]``, (y, x) of each point in cells, less where the kernel looks by itself.
        """
        distances = torch.lerp(bbox_pred.detach(), bbox_pred, gradient_mul) / stride
        left, top, right, bottom = distances.unbind(1)
        rows, columns = (-top, torch.zeros_like(top), bottom), (-left, torch.zeros_like(left), right)
        points = [value for y in rows for x in columns for value in (y, x)]
        return torch.stack(points, dim=1) - self.dcn_base_offset

    # -- training --------------------------------------------------------------------------------

    def loss(self, x: Sequence[Tensor], batch_data_samples: Sequence[DetDataSample]) -> Any:
        """Losses of a batch, from the feature maps of the neck; in evaluation, too."""
        instances, ignored, metas = unpack_gt_instances(batch_data_samples)
        scores, first, refined = self._both_steps(x)
        return self.loss_by_feat(scores, first, refined, instances, metas, ignored)

    def loss_by_feat(  # type: ignore[override]  # one output more
        self,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        bbox_preds_refine: Sequence[Tensor],
        batch_gt_instances: Sequence[InstanceData],
        batch_img_metas: Sequence[MetaInfo],
        batch_gt_instances_ignore: Sequence[InstanceData] | None = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            cls_scores: Class logits, as from :meth:`forward`.
            bbox_preds: First distances, as from :meth:`forward`.
            bbox_preds_refine: Refined distances, as from :meth:`forward`.
            batch_gt_instances: ``bboxes`` (``Tensor[N, 4]``, xyxy, pixels of the input) and ``labels`` of
                each image.
            batch_img_metas: ``img_shape`` and ``pad_shape`` of each image.
            batch_gt_instances_ignore: ``bboxes`` of each image in which no point is to have an object. With
                ``use_vfl`` such points are background, as in the authors' code.

        Returns:
            ``loss_cls``, ``loss_bbox`` and ``loss_bbox_rf``, a scalar each.
        """
        truth = GroundTruth.pack(batch_gt_instances, batch_gt_instances_ignore, self.num_classes)
        priors, matches, weights = self._matches(cls_scores, truth, batch_img_metas)
        rows = regressed_rows(matches, priors, truth)
        loss_bbox, _ = self._box_loss_of(self.loss_bbox, bbox_preds, rows)
        loss_bbox_rf, overlaps = self._box_loss_of(self.loss_bbox_refine, bbox_preds_refine, rows)
        num_positives = (matches > 0).sum().float()
        if self.sync_num_pos:
            num_positives = reduce_mean(num_positives)
        labels = truth.labels_at(matches, self.num_classes)
        target: Any = labels
        if self.use_vfl:
            quality = overlaps.new_zeros(labels.numel()).index_put((rows.index,), overlaps).view_as(labels)
            target, weights = (labels, quality), torch.ones_like(weights)
        loss_cls = self.class_losses(cls_scores, target, weights, num_positives.clamp(min=1))
        return {"loss_cls": torch.stack(loss_cls).sum(), "loss_bbox": loss_bbox, "loss_bbox_rf": loss_bbox_rf}

    def _box_loss_of(
        self, loss: nn.Module, bbox_preds: Sequence[Tensor], rows: RegressedRows
    ) -> tuple[Tensor, Tensor]:
        """Loss of R boxes, weighted by their IoU; and these, ``Tensor[R]``, 0 without an object."""
        positive = rows.weights[:, 0]
        distances = flatten_levels(bbox_preds, 4).flatten(0, 1)[rows.index]
        # What overflowed where there is no object stays no number times the weight 0.
        distances = torch.where(positive[:, None] > 0, distances, 1)
        boxes = self.bbox_coder.decode(centers_of(rows.priors), distances)
        overlaps = bbox_overlaps(boxes.detach(), rows.gt_boxes, is_aligned=True).clamp(min=1e-6) * positive
        total = reduce_mean(overlaps.sum()).clamp(min=1)
        return loss(boxes, rows.gt_boxes, weight=overlaps, avg_factor=total), overlaps

    def _matches(
        self, cls_scores: Sequence[Tensor], truth: GroundTruth, batch_img_metas: Sequence[MetaInfo]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Anchors ``Tensor[A, 4]``, matches ``LongTensor[B, A]`` and weights ``Tensor[B, A]``."""
        if self.use_atss:
            mlvl_priors, targets = self.match_levels(cls_scores, truth, batch_img_metas)
            return torch.cat(mlvl_priors), targets.matches, targets.label_weights
        sizes = [(score.shape[-2], score.shape[-1]) for score in cls_scores]
        mlvl_priors = self.prior_generator.grid_priors(sizes, device=cls_scores[0].device)
        levels = []
        for priors, stride, limits in zip(mlvl_priors, self.strides, self.regress_ranges, strict=True):
            zones = truth.boxes
            if self.center_sampling:
                zones = middle_of(truth.boxes, stride * self.center_sample_radius)
            levels.append(smallest_boxes(centers_of(priors), truth.boxes, zones, limits))
        matches = torch.cat(levels, dim=1)
        return torch.cat(mlvl_priors), matches, torch.ones_like(matches, dtype=torch.float32)

    # -- prediction ------------------------------------------------------------------------------

    def predict_by_feat(
        self,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        bbox_preds_refine: Sequence[Tensor] | None = None,
        batch_img_metas: Sequence[MetaInfo] = (),
        cfg: DenseTestCfg | None = None,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> list[InstanceData]:
        """Boxes from what :meth:`forward` gave, the refined ones; see :meth:`DenseHead.predict_by_feat`."""
        boxes = bbox_preds if bbox_preds_refine is None else bbox_preds_refine
        return super().predict_by_feat(cls_scores, boxes, None, batch_img_metas, cfg, rescale, with_nms)

    def decode_candidates(self, best: Candidates, shapes: Sequence[tuple[int, int]]) -> Tensor:
        """Boxes around the centres of the anchors; see :meth:`DenseHead.decode_candidates`."""
        return self.bbox_coder.decode(centers_of(best.priors), best.bbox_preds, max_shape=shapes)
