"""CenterNet's head over a pyramid, from Probabilistic two-stage detection (Zhou et al., arXiv 2103.07461).

The first stage of CenterNet2, as a detector of one stage (section 4 and the authors' code): FCOS's points and
towers without the centerness. Scores are CenterNet's heat maps instead, on every level alike.

Training: the heat map of a class is ``exp(-d^2 / r^2)`` for a point at distance d from the nearest centre of
an object, 1 at the object's own cell of every level, with r growing with the square root of the object's area
(``hm_min_overlap``) from ``hm_min_radius`` on. Its loss spares places by their target
(:class:`GaussianFocalLoss`). Positives are named apart from it: of the 3x3 points around the object's centre
on every level its own cell on a level of its size, and those, ``more_pos_topk`` at most, whose predicted box
is good already (a GIoU loss below ``more_pos_thresh``).

Boxes are learnt by the same 3x3 points as far as they are inside of the object and on a level of its size,
that is, half its diagonal is in the level's range; a point of several objects by the one whose Gaussian is
highest there.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from det_models.coders import BaseBBoxCoder, DistancePointBBoxCoder
from det_models.dense import DenseHead
from det_models.dense_cfg import DenseTestCfg, DenseTrainCfg
from det_models.dense_targets import RegressedRows, regressed_rows
from det_models.fcos import Ranges
from det_models.host import host_tensor, reduce_mean
from det_models.losses.gaussian_focal import GaussianFocalLoss
from det_models.losses.iou import GIoULoss
from det_models.metainfo import MetaInfo
from det_models.points import MlvlPointGenerator, centers_of
from det_models.postprocess import flatten_levels
from det_models.scale import Scale
from det_models.towers import conv_tower, each_level
from det_models.truth import GroundTruth
from detcore.nn import ModuleList
from detcore.nn.base_module import DeferredInit
from detcore.nn.build import ConvCfg, NormCfg
from detcore.registry import TASK_UTILS
from detcore.structures import InstanceData

_INF = 1e9
_LEAST_HEAT = 1e-4
_SURE = 1e-4  # probabilities are held this far from 0 and 1 in the loss
_GROUP_NORM = {"type": "GN", "num_groups": 32, "requires_grad": True}
_INIT_CFG = {
    "type": "Normal",
    "layer": "Conv2d",
    "std": 0.01,
    "override": {"type": "Normal", "name": "conv_cls", "std": 0.01, "bias_prob": 0.01},
}


class CenterNetUpdateHead(DenseHead):
    """Heat maps and boxes of the points of every level.

    Args:
        num_classes: K, without background.
        in_channels: Channels of the feature maps.
        regress_ranges: (least, greatest) half diagonal of an object, in pixels, that a level is there for.
        hm_min_radius: Least r of a Gaussian, in pixels.
        hm_min_overlap: IoU that a box off by r still has, which says how r grows with the area.
        more_pos_thresh: Box loss below which a point near the centre is a positive.
        more_pos_topk: How many of them at most; those that are as good as the last are none.
        soft_weight_on_reg: Whether boxes count by the heat of their point; else all alike.
        loss_cls: Loss of the heat maps, by default the focal loss for Gaussians, 1/4 for the positives.
        loss_bbox: Box loss; it gets boxes. By default twice the GIoU loss.
        norm_cfg: Kind of norm layer, None for none.
        train_cfg: Has no effect: there is nothing to choose.
        test_cfg: How to turn predictions into boxes.
        feat_channels: Channels of the convolutions before the last one.
        stacked_convs: Their number, in each of the two networks.
        strides: Pixels between neighbouring points, of each level.
        dcn_on_last_conv: Make the last of these convolutions a deformable one.
        conv_bias: Whether they have a bias; ``'auto'``: where they have no norm layer.
        bbox_coder: Turns distances into boxes.
        conv_cfg: Kind of convolution.
        init_cfg: How weights are initialised.

    Raises:
        ValueError: Not one range a stride.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        regress_ranges: Ranges = ((0, 80), (64, 160), (128, 320), (256, 640), (512, _INF)),
        hm_min_radius: float = 4,
        hm_min_overlap: float = 0.8,
        more_pos_thresh: float = 0.2,
        more_pos_topk: int = 9,
        soft_weight_on_reg: bool = False,
        loss_cls: nn.Module | None = None,
        loss_bbox: nn.Module | None = None,
        norm_cfg: NormCfg = _GROUP_NORM,
        train_cfg: DenseTrainCfg | None = None,
        test_cfg: DenseTestCfg | None = None,
        feat_channels: int = 256,
        stacked_convs: int = 4,
        strides: Sequence[int] = (4, 8, 16, 32, 64),
        dcn_on_last_conv: bool = False,
        conv_bias: bool | Literal["auto"] = "auto",
        bbox_coder: Annotated[BaseBBoxCoder | None, TASK_UTILS] = None,
        conv_cfg: ConvCfg = None,
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
            loss_cls=loss_cls or GaussianFocalLoss(pos_weight=0.25, neg_weight=0.75),
            loss_bbox=loss_bbox or GIoULoss(loss_weight=2.0),
            train_cfg=train_cfg,
            test_cfg=test_cfg,
        )
        self.use_sigmoid_cls, self.cls_out_channels = True, num_classes  # whatever the loss says
        self.regress_ranges = regress_ranges
        self.hm_min_radius = hm_min_radius
        self.delta = (1 - hm_min_overlap) / (1 + hm_min_overlap)
        self.more_pos_thresh = more_pos_thresh
        self.more_pos_topk = more_pos_topk
        self.soft_weight_on_reg = soft_weight_on_reg
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
        last: Any = {"type": "DCNv2"} if self.dcn_on_last_conv else None
        tower = (self.in_channels, self.feat_channels, self.stacked_convs, self.conv_cfg, self.norm_cfg, last)
        self.cls_convs, self.reg_convs = (conv_tower(*tower, bias=self.conv_bias) for _ in range(2))
        channels = self.feat_channels if self.stacked_convs else self.in_channels
        self.conv_cls = nn.Conv2d(channels, self.cls_out_channels, 3, padding=1)
        self.conv_reg = nn.Conv2d(channels, 4, 3, padding=1)
        self.scales = ModuleList(Scale() for _ in self.strides)

    def forward(self, x: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        """Logits of the heat maps and distances, a list of each.

        Args:
            x: ``Tensor[B, in_channels, H, W]`` a level.
        """
        return each_level(self.forward_single, x, self.scales, self.strides)

    def forward_single(  # type: ignore[override]  # the arguments that users' heads redefine it with
        self, x: Tensor, scale: nn.Module, stride: int
    ) -> tuple[Tensor, Tensor]:
        """Predictions of one level.

        Args:
            x: ``Tensor[B, in_channels, H, W]``.
            scale: Multiplies the level's distances.
            stride: Pixels between the level's points.

        Returns:
            Logits ``Tensor[B, num_classes, H, W]``, and distances to left, top, right, bottom ``Tensor[B, 4,
            H, W]`` in float32: in pixels, while training in strides.
        """
        distances = scale(self.conv_reg(self.reg_convs(x))).float().clamp(min=0)
        return self.conv_cls(self.cls_convs(x)), distances * (1 if self.training else stride)

    def _in_pixels(self, bbox_preds: Sequence[Tensor]) -> list[Tensor]:
        """Distances as from :meth:`forward`, in pixels."""
        steps = self.strides if self.training else [1] * len(self.strides)
        return [pred * step for pred, step in zip(bbox_preds, steps, strict=True)]

    # -- training --------------------------------------------------------------------------------

    def loss_by_feat(  # type: ignore[override]  # scalars
        self,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        batch_gt_instances: Sequence[InstanceData],
        batch_img_metas: Sequence[MetaInfo],
        batch_gt_instances_ignore: Sequence[InstanceData] | None = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            cls_scores: Logits of the heat maps, as from :meth:`forward`.
            bbox_preds: Distances, as from :meth:`forward`.
            batch_gt_instances: ``bboxes`` (``Tensor[N, 4]``, xyxy, pixels of the input) and ``labels`` of
                each image. One without any is all background. (In MMDetection the heat of such an image is
                the number of classes, not 0, and its loss therefore 79^4 times as large on COCO.)
            batch_img_metas: Not needed.
            batch_gt_instances_ignore: Not looked at: points in these regions are background.

        Returns:
            ``loss_cls`` and ``loss_bbox``, a scalar each.
        """
        sizes = [(score.shape[-2], score.shape[-1]) for score in cls_scores]
        mlvl_points = self.prior_generator.grid_priors(sizes, device=cls_scores[0].device)
        truth = GroundTruth.pack(batch_gt_instances, num_classes=self.num_classes)
        heat, matches = self.get_targets(mlvl_points, truth)
        distances = flatten_levels(self._in_pixels(bbox_preds), 4)
        places, chosen = self.more_positives(distances.detach(), truth, sizes)
        prob = flatten_levels(cls_scores, self.num_classes).float().sigmoid().clamp(_SURE, 1 - _SURE)
        loss_cls = self.loss_cls(
            prob.flatten(0, 1),
            heat.flatten(0, 1),
            pos_inds=places.flatten(),
            pos_labels=truth.labels[..., None].expand_as(places).flatten(),
            pos_mask=chosen.flatten(),
            avg_factor=reduce_mean(chosen.sum().float()).clamp(min=1),
        )
        # Points are boxes without extent to what takes the rows of those that boxes are learnt by.
        rows = regressed_rows(matches, torch.cat(mlvl_points).repeat(1, 2), truth)
        return {"loss_cls": loss_cls, "loss_bbox": self._box_loss_of(distances.flatten(0, 1), heat, rows)}

    def _box_loss_of(self, distances: Tensor, heat: Tensor, rows: RegressedRows) -> Tensor:
        """Box loss of R rows of the distances ``Tensor[B * P, 4]``, pixels, and heat ``Tensor[B, P, C]``."""
        weights = rows.weights[:, 0]
        # What overflowed where there is no object stays no number times the weight 0.
        sides = torch.where(weights[:, None] > 0, distances[rows.index], 1)
        if self.soft_weight_on_reg:
            weights = weights * heat.amax(-1).flatten()[rows.index]
        boxes = self.bbox_coder.decode(centers_of(rows.priors), sides)
        total = reduce_mean(weights.sum()).clamp(min=1)
        loss: Tensor = self.loss_bbox(boxes, rows.gt_boxes, weight=weights, avg_factor=total)
        return loss

    @torch.no_grad()
    def get_targets(  # type: ignore[override]  # nothing is matched by an assigner
        self, mlvl_points: Sequence[Tensor], truth: GroundTruth
    ) -> tuple[Tensor, Tensor]:
        """What the P points of all levels are to predict.

        Args:
            mlvl_points: ``Tensor[P_i, 2]`` a level, (x, y), pixels of the input.
            truth: Ground truth of the B images.

        Returns:
            Heat ``Tensor[B, P, num_classes]`` in 0..1, and matches ``LongTensor[B, P]``: the number of the
            object that a point's box is learnt from plus one, 0 for none.
        """
        centers = (truth.boxes[..., :2] + truth.boxes[..., 2:]) / 2
        area = (truth.boxes[..., 2:] - truth.boxes[..., :2]).prod(-1)
        spread = (2 * self.delta**2 * area).clamp(min=self.hm_min_radius**2)[:, None]
        heats, matches = [], []
        for points, stride, fits in zip(mlvl_points, self.strides, self._on_levels(truth), strict=True):
            own_cell = ((centers / stride).floor() + 0.5) * stride
            away = points[:, None] - own_cell[:, None]
            distance = (points[:, None] - centers[:, None]).square().sum(-1) / spread
            distance = torch.where((away == 0).all(-1), 0, distance)
            inside = (points[:, None] > truth.boxes[:, None, :, :2]).all(-1)
            inside &= (points[:, None] < truth.boxes[:, None, :, 2:]).all(-1)
            answers = inside & (away.abs() <= stride).all(-1) & fits[:, None]
            nearest, number = torch.where(answers, distance, torch.inf).min(-1)
            matches.append(torch.where(nearest < torch.inf, number + 1, 0))
            value = torch.exp(-distance) * truth.mask[:, None]
            value = torch.where(value < _LEAST_HEAT, 0, value)
            heat = value.new_zeros(*value.shape[:2], self.num_classes)
            heats.append(heat.scatter_reduce_(2, truth.labels[:, None].expand_as(value), value, "amax"))
        return torch.cat(heats, dim=1), torch.cat(matches, dim=1)

    def _on_levels(self, truth: GroundTruth) -> list[Tensor]:
        """``BoolTensor[B, G]`` a level, which objects are of a size for it: by half their diagonal."""
        half = (truth.boxes[..., 2:] - truth.boxes[..., :2]).square().sum(-1).sqrt() / 2
        return [truth.mask & (half >= least) & (half <= most) for least, most in self.regress_ranges]

    @torch.no_grad()
    def more_positives(
        self, distances: Tensor, truth: GroundTruth, sizes: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """The points near the objects' centres, and which of them are positives of the heat maps.

        Args:
            distances: ``Tensor[B, P, 4]``, predicted, in pixels.
            truth: Ground truth of the B images, padded to G objects.
            sizes: (h, w) of each of the L levels' maps.

        Returns:
            Rows ``LongTensor[B, G, 9 L]`` of the flattened ``[B * P]``, and ``BoolTensor[B, G, 9 L]``.
        """
        strides = host_tensor(list(self.strides), distances)[:, None]
        limits = host_tensor([(width, height) for height, width in sizes], truth.labels)[:, None]
        lengths = [height * width for height, width in sizes]
        starts = host_tensor([sum(lengths[:level]) for level in range(len(lengths))], truth.labels)
        nine = host_tensor([(x, y) for y in (-1, 0, 1) for x in (-1, 0, 1)], truth.labels)
        centers = (truth.boxes[..., :2] + truth.boxes[..., 2:]) / 2
        cells = (centers[:, :, None] / strides).floor().long()[..., None, :] + nine  # [B, G, L, 9, 2]
        on_map = ((cells >= 0) & (cells < limits)).all(-1)
        cells = cells.clamp(min=0).minimum(limits - 1)
        places = starts[:, None] + cells[..., 1] * limits[..., 0] + cells[..., 0]
        images = torch.arange(len(distances), device=places.device)[:, None, None, None]
        points = ((cells + 0.5) * strides[:, None]).flatten(0, -2)
        boxes = truth.boxes[:, :, None, None].expand(*places.shape, 4).flatten(0, -2)
        found = self.bbox_coder.decode(points, distances[images, places].flatten(0, -2))
        loss = self.loss_bbox(found, boxes, reduction_override="none").view_as(places)
        loss = loss / getattr(self.loss_bbox, "loss_weight", 1.0)
        inside = ((points >= boxes[:, :2]) & (points <= boxes[:, 2:])).all(-1).view_as(places)
        may = on_map & inside & truth.mask[..., None, None]
        loss = torch.where(may, loss, torch.inf)
        # The fifth of nine is the centre's own cell.
        own = may[..., 4] & torch.stack(self._on_levels(truth), dim=-1)
        loss[..., 4] = torch.where(own, 0, loss[..., 4])
        loss = loss.flatten(2)
        worst = loss.kthvalue(min(self.more_pos_topk, loss.shape[-1]), dim=-1, keepdim=True).values
        return (places + images * distances.shape[1]).flatten(2), loss < worst.clamp(max=self.more_pos_thresh)

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
        boxes = self._in_pixels(bbox_preds)
        return super().predict_by_feat(
            cls_scores, boxes, score_factors, batch_img_metas, cfg, rescale, with_nms
        )
