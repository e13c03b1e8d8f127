"""FCOS: Fully Convolutional One-Stage Object Detection (Tian et al., ICCV 2019, arXiv 1904.01355).

A backbone with a feature pyramid (levels P3 to P7, strides 8 to 128) and no anchors: every cell of every
level is a point at the cell's centre. Two small networks, shared by all levels, predict for each point K
independent class probabilities, the distances (l, t, r, b) to the four sides of its box, eq. 1, as the
exponential of what the layer gives times a factor learnt for each level (section 3.2), and its centerness
(section 3.3).

Training: a point inside a box answers for it if the farthest of the four sides is as far away as the level is
there for (up to 64 pixels on P3, 64 to 128 on P4, ...). Inside several boxes it answers for the smallest. All
other points are background. All points enter the classification loss, a focal loss divided by the number of
points with an object. These alone enter the box loss, an IoU loss weighted by their centerness, eq. 3::

    centerness = sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b))

and the loss of the centerness itself, a cross entropy. In predictions it scales the scores, which sinks the
boxes that points far from the middle of their object see badly.

Later additions by the same authors are arguments: only points near the middle of a box answer for it
(``center_sampling``), distances in strides instead of exponentials (``norm_on_bbox``), centerness beside the
distances instead of the classes (``centerness_on_reg``), a deformable last layer (``dcn_on_last_conv``).
"""
import itertools
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from det_models.coders import BaseBBoxCoder, DistancePointBBoxCoder
from det_models.dense import DenseHead
from det_models.dense_cfg import DenseTestCfg, DenseTrainCfg
from det_models.detector import SingleStageDetector
from det_models.host import reduce_mean
from det_models.losses.cross_entropy import CrossEntropyLoss
from det_models.losses.focal import FocalLoss
from det_models.losses.iou import IoULoss
from det_models.metainfo import MetaInfo
from det_models.points import MlvlPointGenerator
from det_models.postprocess import flatten_level
from det_models.scale import Scale
from det_models.truth import GroundTruth
from detcore.nn import ConvModule, ModuleList
from detcore.nn.base_module import DeferredInit
from detcore.nn.build import ConvCfg, NormCfg
from detcore.registry import MODELS, TASK_UTILS
from detcore.structures import InstanceData
from detcore.structures.bbox import bbox2distance

Ranges = Sequence[tuple[float, float]]

_INF = 1e8
_GROUP_NORM = {"type": "GN", "num_groups": 32, "requires_grad": True}
_INIT_CFG = {
    "type": "Normal",
    "layer": "Conv2d",
    "std": 0.01,
    "override": {"type": "Normal", "name": "conv_cls", "std": 0.01, "bias_prob": 0.01},
}


class FCOS(SingleStageDetector):
    """Backbone, feature pyramid and :class:`FCOSHead`; see this module's docstring."""


class FCOSHead(DenseHead):
    """Classes, boxes and centerness of the points of every level.

    Args:
        num_classes: K, without background.
        in_channels: Channels of the feature maps.
        regress_ranges: (least, greatest) distance to the farthest side, in pixels, that a level answers for.
        center_sampling: Only points near the middle of a box answer for it.
        center_sample_radius: How near, in strides, along each axis.
        norm_on_bbox: Predict distances in strides, not their logarithms.
        centerness_on_reg: Predict the centerness from the features of the distances, not of the classes.
        feat_channels: Channels of the convolutions before the last one.
        stacked_convs: Their number, in each of the two networks.
        strides: Pixels between neighbouring points, of each level.
        dcn_on_last_conv: Make the last of these convolutions a deformable one.
        conv_bias: Whether they have a bias; ``'auto'``: where they have no norm layer.
        loss_cls: Classification loss, by default the focal loss.
        loss_bbox: Box loss; it gets boxes. By default the logarithm of the IoU.
        loss_centerness: Loss of the centerness, by default binary cross entropy.
        bbox_coder: Turns distances into boxes.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of norm layer, None for none.
        train_cfg: Has no effect: there is nothing to choose. Two-stage detectors give one to any head.
        test_cfg: How to turn predictions into boxes.
        init_cfg: How weights are initialised.

    Raises:
        ValueError: Not one range a stride.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        regress_ranges: Ranges = ((-1, 64), (64, 128), (128, 256), (256, 512), (512, _INF)),
        center_sampling: bool = False,
        center_sample_radius: float = 1.5,
        norm_on_bbox: bool = False,
        centerness_on_reg: bool = False,
        feat_channels: int = 256,
        stacked_convs: int = 4,
        strides: Sequence[int] = (4, 8, 16, 32, 64),
        dcn_on_last_conv: bool = False,
        conv_bias: bool | Literal["auto"] = "auto",
        loss_cls: nn.Module | None = None,
        loss_bbox: nn.Module | None = None,
        loss_centerness: nn.Module | None = None,
        bbox_coder: Annotated[BaseBBoxCoder | None, TASK_UTILS] = None,
        conv_cfg: ConvCfg = None,
        norm_cfg: NormCfg = _GROUP_NORM,
        train_cfg: DenseTrainCfg | None = None,
        test_cfg: DenseTestCfg | None = None,
        init_cfg: DeferredInit = _INIT_CFG,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if len(regress_ranges) != len(strides):
            raise ValueError(f"{len(regress_ranges)} regress_ranges for {len(strides)} strides {strides}")
        self.set_up(
            num_classes,
            in_channels,
            prior_generator=MlvlPointGenerator(strides),
            bbox_coder=bbox_coder or DistancePointBBoxCoder(),
            loss_cls=loss_cls or FocalLoss(),
            loss_bbox=loss_bbox or IoULoss(),
            train_cfg=train_cfg,
            test_cfg=test_cfg,
        )
        self.loss_centerness: nn.Module = MODELS.build(loss_centerness or CrossEntropyLoss(use_sigmoid=True))
        self.regress_ranges = regress_ranges
        self.center_sampling = center_sampling
        self.center_sample_radius = center_sample_radius
        self.norm_on_bbox = norm_on_bbox
        self.centerness_on_reg = centerness_on_reg
        self.feat_channels = feat_channels
        self.stacked_convs = stacked_convs
        self.strides = strides
        self.dcn_on_last_conv = dcn_on_last_conv
        self.conv_bias = conv_bias
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg
        self._init_layers()

    def _init_layers(self) -> None:
        """Make the layers; a head of a user's own may make others."""
        last_channels = self.feat_channels if self.stacked_convs else self.in_channels
        self.cls_convs = self._tower()
        self.reg_convs = self._tower()
        self.conv_cls = nn.Conv2d(last_channels, self.cls_out_channels, 3, padding=1)
        self.conv_reg = nn.Conv2d(last_channels, self.bbox_coder.encode_size, 3, padding=1)
        self.conv_centerness = nn.Conv2d(last_channels, 1, 3, padding=1)
        self.scales = ModuleList(Scale() for _ in self.strides)

    def _tower(self) -> ModuleList:
        channels = [self.in_channels] + [self.feat_channels] * self.stacked_convs
        kinds: list[Any] = [self.conv_cfg] * self.stacked_convs
        if self.dcn_on_last_conv:
            kinds[-1:] = [{"type": "DCNv2"}]
        return ModuleList(
            ConvModule(
                before, after, 3, padding=1, conv_cfg=kind, norm_cfg=self.norm_cfg, bias=self.conv_bias
            )
            for (before, after), kind in zip(itertools.pairwise(channels), kinds, strict=True)
        )

    def forward(self, x: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        """Class logits, distances and logits of the centerness, a list of each; see :meth:`forward_single`.

        Args:
            x: ``Tensor[B, in_channels, H, W]`` a level.
        """
        if len(x) != len(self.strides):
            raise ValueError(f"{len(x)} feature maps for {len(self.strides)} strides {self.strides}")
        return tuple(map(list, zip(*map(self.forward_single, x, self.scales, self.strides), strict=True)))

    def forward_single(  # type: ignore[override]  # the arguments that users' heads redefine it with
        self, x: Tensor, scale: nn.Module, stride: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Predictions of one level.

        Args:
            x: ``Tensor[B, in_channels, H, W]``.
            scale: Multiplies the level's distances, before the exponential.
            stride: Pixels between the level's points.

        Returns:
            Class logits ``Tensor[B, cls_out_channels, H, W]``, distances to left, top, right, bottom
            ``Tensor[B, 4, H, W]`` in float32, and logits of the centerness ``Tensor[B, 1, H, W]``. Distances
            are in pixels; with ``norm_on_bbox`` in strides while training.
        """
        cls_feature = reg_feature = x
        for conv in self.cls_convs:
            cls_feature = conv(cls_feature)
        for conv in self.reg_convs:
            reg_feature = conv(reg_feature)
        centerness = self.conv_centerness(reg_feature if self.centerness_on_reg else cls_feature)
        distances = scale(self.conv_reg(reg_feature).float())
        if not self.norm_on_bbox:
            distances = distances.exp()
        else:
            distances = distances.clamp(min=0) * (1 if self.training else stride)
        return self.conv_cls(cls_feature), distances, centerness

    # -- training --------------------------------------------------------------------------------

    def loss_by_feat(  # type: ignore[override]  # one output more
        self,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        centernesses: Sequence[Tensor],
        batch_gt_instances: Sequence[InstanceData],
        batch_img_metas: Sequence[MetaInfo],
        batch_gt_instances_ignore: Sequence[InstanceData] | None = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            cls_scores: Class logits, as from :meth:`forward`.
            bbox_preds: Distances, as from :meth:`forward`.
            centernesses: Logits of the centerness, as from :meth:`forward`.
            batch_gt_instances: ``bboxes`` (``Tensor[N, 4]``, xyxy, pixels of the input) and ``labels`` of
                each image.
            batch_img_metas: Not needed.
            batch_gt_instances_ignore: Not looked at: points in these regions are background.

        Returns:
            ``loss_cls``, ``loss_bbox`` and ``loss_centerness``, a scalar each.
        """
        sizes = [(score.shape[-2], score.shape[-1]) for score in cls_scores]
        points = self.prior_generator.grid_priors(sizes, device=cls_scores[0].device)
        labels, bbox_targets = self.get_targets(points, batch_gt_instances)
        if self.norm_on_bbox and not self.training:
            bbox_preds = [pred / stride for pred, stride in zip(bbox_preds, self.strides, strict=True)]
        all_labels = torch.cat(list(labels))
        positive = (all_labels >= 0) & (all_labels < self.num_classes)
        num_positives = reduce_mean(positive.sum().float()).clamp(min=1)
        num_images = len(cls_scores[0])
        rows = _rows_with_objects(positive)
        loss_bbox, loss_centerness = self._box_losses(
            centers=torch.cat([level.repeat(num_images, 1) for level in points])[rows],
            distances=_all_rows(bbox_preds)[rows],
            logits=_all_rows(centernesses)[rows, 0].float(),
            targets=torch.cat(list(bbox_targets))[rows],
            positive=positive[rows],
            num_positives=num_positives,
        )
        loss_cls = self._class_loss(cls_scores, labels, num_positives)
        return {"loss_cls": loss_cls, "loss_bbox": loss_bbox, "loss_centerness": loss_centerness}

    def _box_losses(
        self,
        *,
        centers: Tensor,
        distances: Tensor,
        logits: Tensor,
        targets: Tensor,
        positive: Tensor,
        num_positives: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Losses of the boxes and of the centerness, from R points of which ``positive`` have an object."""
        # The others have the weight 0. But what is no number stays none times 0, so they get a box, too.
        distances = torch.where(positive[:, None], distances, 1)
        targets = torch.where(positive[:, None], targets, 1)
        centerness = self.centerness_target(targets)
        weights = centerness * positive
        loss_bbox = self.loss_bbox(
            self.bbox_coder.decode(centers, distances),
            self.bbox_coder.decode(centers, targets),
            weight=weights,
            avg_factor=reduce_mean(weights.sum()).clamp(min=1e-6),
        )
        loss_centerness = self.loss_centerness(
            logits, centerness, weight=positive.float(), avg_factor=num_positives
        )
        return loss_bbox, loss_centerness

    def _class_loss(
        self, cls_scores: Sequence[Tensor], labels: Sequence[Tensor], avg_factor: Tensor
    ) -> Tensor:
        if not getattr(self.loss_cls, "takes_maps", False):
            loss: Tensor = self.loss_cls(
                _all_rows(cls_scores).float(), torch.cat(list(labels)), avg_factor=avg_factor
            )
            return loss
        levels = []  # a sum over entries, and so over levels: nothing of all the logits is copied
        for score, flat in zip(cls_scores, labels, strict=True):
            by_image = flat.view(len(score), -1)
            weights = torch.ones_like(by_image, dtype=torch.float32)
            levels.append(self.class_loss(self.loss_cls, score, by_image, weights, avg_factor))
        return torch.stack(levels).sum()

    @torch.no_grad()
    def get_targets(  # type: ignore[override]  # the arguments that users' heads call and redefine it with
        self, points: Sequence[Tensor], batch_gt_instances: Sequence[InstanceData]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """What the points of a batch are to predict.

        Args:
            points: ``Tensor[P, 2]`` a level, (x, y), pixels of the input.
            batch_gt_instances: ``bboxes`` and ``labels`` of each of the B images.

        Returns:
            For each level labels ``LongTensor[B * P]``, ``num_classes`` for background, and distances to
            left, top, right, bottom ``Tensor[B * P, 4]``, in pixels, with ``norm_on_bbox`` in strides;
            whatever for background. Image by image.
        """
        truth = GroundTruth.pack(batch_gt_instances, num_classes=self.num_classes)
        labels, bbox_targets = [], []
        for level_points, stride, limits in zip(points, self.strides, self.regress_ranges, strict=True):
            zones = truth.boxes
            if self.center_sampling:
                zones = middle_of(truth.boxes, stride * self.center_sample_radius)
            matches = smallest_boxes(level_points, truth.boxes, zones, limits)
            distances = bbox2distance(level_points, truth.boxes_at(matches))
            labels.append(truth.labels_at(matches, self.num_classes).flatten())
            bbox_targets.append((distances / stride if self.norm_on_bbox else distances).flatten(0, 1))
        return labels, bbox_targets

    def centerness_target(self, pos_bbox_targets: Tensor) -> Tensor:
        """Centerness ``Tensor[N]``, 0 at the sides to 1 in the middle, of distances ``Tensor[N, 4]``."""
        left, top, right, bottom = pos_bbox_targets.unbind(-1)
        across = torch.minimum(left, right) / torch.maximum(left, right)
        along = torch.minimum(top, bottom) / torch.maximum(top, bottom)
        return (across * along).sqrt()

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
        if self.norm_on_bbox and self.training:  # proposals while training come from distances in strides
            bbox_preds = [pred * stride for pred, stride in zip(bbox_preds, self.strides, strict=True)]
        return super().predict_by_feat(
            cls_scores, bbox_preds, score_factors, batch_img_metas, cfg, rescale, with_nms
        )


def smallest_boxes(points: Tensor, boxes: Tensor, zones: Tensor, limits: tuple[float, float]) -> Tensor:
    """For each point the smallest of the boxes in whose zone it is, and that are of a size for its level.

    Args:
        points: ``Tensor[P, 2]``, (x, y), absolute pixels.
        boxes: ``Tensor[B, G, 4]``, xyxy, absolute pixels; boxes without an inside (padding) have no points.
        zones: ``Tensor[B, G, 4]``, the part of each box whose points answer for it.
        limits: Least and greatest distance from point to farthest side, in pixels, both included.

    Returns:
        ``LongTensor[B, P]``, number of the box plus one, 0 for none.
    """
    x, y = points[:, :1], points[:, 1:]
    left, top, right, bottom = zones[:, None].unbind(-1)
    inside = (x > left) & (x < right) & (y > top) & (y < bottom)
    left, top, right, bottom = boxes[:, None].unbind(-1)
    across = torch.maximum(x - left, right - x)
    farthest = torch.maximum(across, torch.maximum(y - top, bottom - y))
    fits = inside & (farthest >= limits[0]) & (farthest <= limits[1])
    area = (right - left) * (bottom - top)
    smallest, number = torch.where(fits, area, torch.inf).min(-1)
    return torch.where(smallest < torch.inf, number + 1, 0)


def middle_of(boxes: Tensor, radius: float) -> Tensor:
    """The part of boxes ``Tensor[..., 4]`` within ``radius`` of their centre along each axis, in pixels."""
    center = (boxes[..., :2] + boxes[..., 2:]) / 2
    return torch.cat(
        (
            torch.maximum(center - radius, boxes[..., :2]),
            torch.minimum(center + radius, boxes[..., 2:]),
        ),
        dim=-1,
    )


def _all_rows(levels: Sequence[Tensor]) -> Tensor:
    """Maps ``Tensor[B, E, H, W]`` of all levels as ``Tensor[N, E]``: level by level, image by image."""
    return torch.cat([flatten_level(level, level.shape[1]).flatten(0, 1) for level in levels])


def _rows_with_objects(positive: Tensor) -> Tensor:
    """Rows ``LongTensor[R]`` that box losses are reckoned on, those of ``BoolTensor[N]`` among them.

    On the CPU these are the positives, which are few. On a device their number would have to be waited for,
    so there all rows are taken. Never none, since many a loss cannot do without any.
    """
    if positive.device.type != "cpu" or torch.compiler.is_compiling():
        return torch.arange(len(positive), device=positive.device)
    rows = torch.nonzero(positive).flatten()
    return rows if len(rows) else rows.new_zeros(1)
