"""AutoAssign: Differentiable Label Assignment for Dense Object Detection (Zhu et al., arXiv 2007.03496).

FCOS's network, in which every point inside an object is its positive and a negative at once, and how much of
either is learnt. A point's confidence in an object is the product of its class score, its objectness o (the
layer that is FCOS's centerness) and how well its box fits (section 3.3, eq. 5)::

    P = P(class) * o * exp(-loss_bbox)

Positive weights (eq. 6-7) come from that confidence and from where points of the object's class usually
lie, a Gaussian around its centre whose mean and width are learnt for each class (:class:`CenterPrior`, eq.
3)::

    w+ = G * exp(3 P) / sum over the object's points

The loss of an object is ``-log(sum of w+ * P)``. Negative weights (eq. 8-9) of a point in the class of an
object that it is inside of fall with the IoU of its box: ``1 - f(1 / (1 - IoU))`` with f to 0..1 over the
object's points; in all other classes they are 1. The loss there is ``-(w- p)^2 log(1 - w- p)`` with p =
P(class) * o. A third loss, one over the sum of G, keeps the Gaussians from growing narrow.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from det_models.coders import BaseBBoxCoder, DistancePointBBoxCoder
from det_models.dense import DenseHead
from det_models.dense_cfg import DenseTestCfg, DenseTrainCfg
from det_models.detector import SingleStageDetector
from det_models.dynamic_k_assign import of_labels
from det_models.host import host_tensor, reduce_mean
from det_models.losses.cross_entropy import entropy_of_probs
from det_models.losses.focal import FocalLoss
from det_models.losses.iou import GIoULoss
from det_models.metainfo import MetaInfo
from det_models.overlaps import BboxOverlaps2D
from det_models.points import MlvlPointGenerator
from det_models.postprocess import flatten_levels
from det_models.scale import Scale
from det_models.towers import conv_tower, each_level
from det_models.truth import GroundTruth
from detcore.nn import ModuleList
from detcore.nn.base_module import DeferredInit
from detcore.nn.build import ConvCfg, NormCfg
from detcore.registry import TASK_UTILS
from detcore.structures import InstanceData

Ranges = Sequence[tuple[float, float]]

_INF = 1e8
_EPS = 1e-12
_SHARPNESS = 3  # of eq. 6: how strongly confident points outweigh the others of their object
_GROUP_NORM = {"type": "GN", "num_groups": 32, "requires_grad": True}
_INIT_CFG = {
    "type": "Normal",
    "layer": "Conv2d",
    "std": 0.01,
    "override": [
        {"type": "Normal", "name": "conv_cls", "std": 0.01, "bias_prob": 0.02},
        {"type": "Normal", "name": "conv_reg", "std": 0.01, "bias": 4.0},
    ],
}


class AutoAssign(SingleStageDetector):
    """Backbone, feature pyramid and :class:`AutoAssignHead`; see this module's docstring."""


class CenterPrior(nn.Module):
    """Where points that answer for an object usually lie, of each class; eq. 3.

    ``G(d) = exp(-(d - mean)^2 / (2 sigma^2))`` along both axes, d from the object's centre in strides.

    Args:
        force_topk: Whether an object without a point inside gets those of greatest prior.
        topk: How many of them.
        num_classes: Number of classes.
        strides: Pixels between neighbouring points, of each level.

    Attributes:
        mean: ``Tensor[num_classes, 2]``, (x, y), in strides.
        sigma: ``Tensor[num_classes, 2]``, likewise.
    """

    def __init__(
        self,
        force_topk: bool = False,
        topk: int = 9,
        num_classes: int = 80,
        strides: Sequence[int] = (8, 16, 32, 64, 128),
    ) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(num_classes, 2))
        self.sigma = nn.Parameter(torch.ones(num_classes, 2))
        self.strides = strides
        self.force_topk = force_topk
        self.topk = topk

    def forward(
        self, mlvl_points: Sequence[Tensor], truth: GroundTruth, inside: Tensor
    ) -> tuple[Tensor, Tensor]:
        """How likely each point answers for each object, before anything is seen.

        Args:
            mlvl_points: ``Tensor[P_i, 2]`` a level, (x, y), pixels.
            truth: Ground truth of the B images.
            inside: ``BoolTensor[B, G, P]``, which points are inside of which box.

        Returns:
            ``Tensor[B, G, P]``, 0 where a point is not the object's; and ``inside``, with the points that
            objects without any were given.
        """
        steps = [torch.full_like(points[:, :1], stride)
                 for points, stride in zip(mlvl_points, self.strides, strict=True)]  # fmt: skip
        points, step = torch.cat(list(mlvl_points)), torch.cat(steps)
        centers = (truth.boxes[..., :2] + truth.boxes[..., 2:]) / 2
        away = (points - centers[:, :, None]) / step - self.mean[truth.labels][:, :, None]
        spread = 2 * self.sigma[truth.labels][:, :, None].square()
        prior = torch.exp(-away.square() / spread).prod(-1)
        if self.force_topk:
            best = prior.detach().topk(min(self.topk, len(points))).indices
            given = torch.zeros_like(inside).scatter(-1, best, True)
            without = truth.mask & ~inside.any(-1)
            inside = inside | (given & without[..., None])
        return torch.where(inside, prior, 0), inside


class AutoAssignHead(DenseHead):
    """Classes, boxes and objectness of the points of every level.

    Args:
        num_classes: K, without background.
        in_channels: Channels of the feature maps.
        force_topk: Whether an object without a point inside gets those of greatest prior.
        topk: How many of them.
        pos_loss_weight: Factor of the loss of objects.
        neg_loss_weight: Factor of the loss of all that is none.
        center_loss_weight: Factor of the loss of the Gaussians.
        regress_ranges: Has no effect, like the next four: all levels compete for every object.
        center_sampling: Has no effect.
        center_sample_radius: Has no effect.
        norm_on_bbox: Has no effect: distances are predicted in strides.
        centerness_on_reg: Has no effect: objectness is predicted from the features of the distances.
        feat_channels: Channels of the convolutions before the last one.
        stacked_convs: Their number, in each of the two networks.
        strides: Pixels between neighbouring points, of each level.
        dcn_on_last_conv: Make the last of these convolutions a deformable one.
        conv_bias: Whether they have a bias; ``'auto'``: where they have no norm layer.
        loss_cls: Not reckoned with; whether it is over sigmoids, as it must be, tells the number of scores.
        loss_bbox: Box loss, by default five times the GIoU loss.
        loss_centerness: Has no effect.
        bbox_coder: Turns distances into boxes.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of norm layer, None for none.
        train_cfg: Has no effect: there is nothing to choose.
        test_cfg: How to turn predictions into boxes.
        init_cfg: How weights are initialised.

    Raises:
        ValueError: A class loss that is not over sigmoids.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        force_topk: bool = False,
        topk: int = 9,
        pos_loss_weight: float = 0.25,
        neg_loss_weight: float = 0.75,
        center_loss_weight: float = 0.75,
        regress_ranges: Ranges = ((-1, 64), (64, 128), (128, 256), (256, 512), (512, _INF)),
        center_sampling: bool = False,
        center_sample_radius: float = 1.5,
        norm_on_bbox: bool = False,
        centerness_on_reg: bool = False,
        feat_channels: int = 256,
        stacked_convs: int = 4,
        strides: Sequence[int] = (4, 8, 16, 32, 64),
        dcn_on_last_conv: bool = False,
        conv_bias: bool | Literal["auto"] = True,
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
        self.set_up(
            num_classes,
            in_channels,
            prior_generator=MlvlPointGenerator(strides, offset=0),
            bbox_coder=bbox_coder or DistancePointBBoxCoder(),
            loss_cls=loss_cls or FocalLoss(),
            loss_bbox=loss_bbox or GIoULoss(loss_weight=5.0),
            train_cfg=train_cfg,
            test_cfg=test_cfg,
        )
        if not self.use_sigmoid_cls:
            raise ValueError("AutoAssignHead scores classes by sigmoids: loss_cls must have use_sigmoid=True")
        self.pos_loss_weight = pos_loss_weight
        self.neg_loss_weight = neg_loss_weight
        self.center_loss_weight = center_loss_weight
        self.feat_channels = feat_channels
        self.stacked_convs = stacked_convs
        self.strides = strides
        self.dcn_on_last_conv = dcn_on_last_conv
        self.conv_bias = conv_bias
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg
        self._init_layers()
        self.center_prior = CenterPrior(force_topk, topk, num_classes, strides)

    def _init_layers(self) -> None:
        """Make the layers; a head of a user's own may make others."""
        last: Any = {"type": "DCNv2"} if self.dcn_on_last_conv else None
        tower = (self.in_channels, self.feat_channels, self.stacked_convs, self.conv_cfg, self.norm_cfg, last)
        self.cls_convs, self.reg_convs = (conv_tower(*tower, bias=self.conv_bias) for _ in range(2))
        channels = self.feat_channels if self.stacked_convs else self.in_channels
        self.conv_cls = nn.Conv2d(channels, self.cls_out_channels, 3, padding=1)
        self.conv_reg = nn.Conv2d(channels, 4, 3, padding=1)
        self.conv_centerness = nn.Conv2d(channels, 1, 3, padding=1)
        self.scales = ModuleList(Scale() for _ in self.strides)

    def forward(self, x: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        """Class logits, distances and logits of the objectness, a list of each.

        Args:
            x: ``Tensor[B, in_channels, H, W]`` a level.
        """
        return each_level(self.forward_single, x, self.scales, self.strides)

    def forward_single(  # type: ignore[override]  # the arguments that users' heads redefine it with
        self, x: Tensor, scale: nn.Module, stride: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Predictions of one level.

        Args:
            x: ``Tensor[B, in_channels, H, W]``.
            scale: Multiplies the level's distances.
            stride: Pixels between the level's points.

        Returns:
            Class logits ``Tensor[B, cls_out_channels, H, W]``, distances to left, top, right, bottom
            ``Tensor[B, 4, H, W]``, in pixels and float32, and logits of the objectness ``[B, 1, H, W]``.
        """
        reg_feature = self.reg_convs(x)
        distances = scale(self.conv_reg(reg_feature)).float().clamp(min=0) * stride
        return self.conv_cls(self.cls_convs(x)), distances, self.conv_centerness(reg_feature)

    # -- training --------------------------------------------------------------------------------

    def loss_by_feat(  # type: ignore[override]  # one output more
        self,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        objectnesses: Sequence[Tensor],
        batch_gt_instances: Sequence[InstanceData],
        batch_img_metas: Sequence[MetaInfo],
        batch_gt_instances_ignore: Sequence[InstanceData] | None = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            cls_scores: Class logits, as from :meth:`forward`.
            bbox_preds: Distances, as from :meth:`forward`.
            objectnesses: Logits of the objectness, as from :meth:`forward`.
            batch_gt_instances: ``bboxes`` (``Tensor[N, 4]``, xyxy, pixels of the input) and ``labels`` of
                each image.
            batch_img_metas: Not needed.
            batch_gt_instances_ignore: Not looked at: points in these regions are negatives.

        Returns:
            ``loss_pos``, ``loss_neg`` and ``loss_center``, a scalar each.
        """
        truth = GroundTruth.pack(batch_gt_instances, None, self.num_classes)
        sizes = [(score.shape[-2], score.shape[-1]) for score in cls_scores]
        mlvl_points = self.prior_generator.grid_priors(sizes, device=cls_scores[0].device)
        points = torch.cat(mlvl_points)
        prior, inside = self.center_prior(mlvl_points, truth, points_of(truth.boxes, points))
        boxes = self.bbox_coder.decode(points, flatten_levels(bbox_preds, 4))
        joint = flatten_levels(cls_scores, self.cls_out_channels).float().sigmoid()
        joint = joint * flatten_levels(objectnesses, 1).float().sigmoid()
        total = prior.detach().sum()
        num_objects = host_tensor(float(sum(truth.counts)), total)  # type: ignore[arg-type]
        num_objects, total = reduce_mean(torch.stack((num_objects, total))).clamp(min=1)
        fit = torch.exp(-self._box_losses(boxes, truth.boxes, inside))
        loss_pos = self._positive_loss(of_labels(joint, truth.labels) * fit, prior, truth.mask)
        loss_neg = self._negative_loss(joint, self._negative_weights(boxes.detach(), truth, inside))
        return {
            "loss_pos": loss_pos / num_objects,
            "loss_neg": loss_neg / total,
            "loss_center": self._center_loss(prior, inside, truth),
        }

    def _box_losses(self, boxes: Tensor, gt_boxes: Tensor, inside: Tensor) -> Tensor:
        """Loss of every pair that counts, ``Tensor[B, G, P]``, 0 elsewhere.

        On the CPU only these pairs, which are few, are looked at. On a device their number would have to be
        waited for.

        Args:
            boxes: Predicted, ``Tensor[B, P, 4]``, xyxy.
            gt_boxes: ``Tensor[B, G, 4]``, xyxy.
            inside: ``BoolTensor[B, G, P]``, which pairs count.
        """
        if inside.device.type == "cpu" and not torch.compiler.is_compiling():
            image, number, place = torch.nonzero(inside, as_tuple=True)
            found = self.loss_bbox(boxes[image, place], gt_boxes[image, number], reduction_override="none")
            return found.new_zeros(inside.shape).index_put((image, number, place), found)
        pairs = (*inside.shape, 4)
        predicted, wanted = boxes[:, None].expand(pairs), gt_boxes[:, :, None].expand(pairs)
        found = self.loss_bbox(
            predicted.reshape(-1, 4), wanted.reshape(-1, 4), reduction_override="none"
        ).view(inside.shape)
        return torch.where(inside, found, 0)

    def _positive_loss(self, confidence: Tensor, prior: Tensor, mask: Tensor) -> Tensor:
        """Sum over all objects; from confidences and priors ``Tensor[B, G, P]``, and which boxes are any."""
        weights = (_SHARPNESS * confidence).exp() * prior
        weights = weights / weights.sum(-1, keepdim=True).clamp(min=_EPS)
        together = (confidence * weights).sum(-1).clamp(max=1)  # a hair above 1 by rounding is no probability
        losses = entropy_of_probs(together, torch.ones_like(together)) * mask
        return losses.sum() * self.pos_loss_weight

    def _negative_loss(self, joint: Tensor, weights: Tensor) -> Tensor:
        """Sum over all points and classes, of ``Tensor[B, P, C]`` each."""
        prob = joint * weights
        return (prob.square() * entropy_of_probs(prob, torch.zeros_like(prob))).sum() * self.neg_loss_weight

    @torch.no_grad()
    def _negative_weights(self, boxes: Tensor, truth: GroundTruth, inside: Tensor) -> Tensor:
        """How much each point is a negative of each class, ``Tensor[B, P, C]``.

        Args:
            boxes: Predicted, ``Tensor[B, P, 4]``, xyxy.
            truth: Ground truth of the B images.
            inside: ``BoolTensor[B, G, P]``, which points are which object's.
        """
        best = BboxOverlaps2D()(truth.boxes, boxes).amax(1, keepdim=True)  # with whichever of the objects
        rising = 1 / (1 - best).clamp(min=_EPS)
        least = torch.where(inside, rising, torch.inf).amin(-1, keepdim=True)
        most = torch.where(inside, rising, -torch.inf).amax(-1, keepdim=True)
        share = (rising - least + _EPS) / (most - least + _EPS)
        # Of several objects of one class around a point, the last one counts.
        labels = truth.labels
        later = torch.ones(labels.shape[1], labels.shape[1], device=labels.device).triu(1)
        later = later * (labels[:, :, None] == labels[:, None])
        last = inside & (torch.bmm(later, inside.float()) == 0)
        weights = boxes.new_ones(*boxes.shape[:2], self.num_classes)
        places = labels[:, None].expand(-1, boxes.shape[1], -1)
        return weights.scatter_add(2, places, -torch.where(last, share, 0).transpose(1, 2))

    def _center_loss(self, prior: Tensor, inside: Tensor, truth: GroundTruth) -> Tensor:
        """Mean over images of objects over priors; from ``Tensor[B, G, P]`` and which points are whose."""
        sums = prior.sum((1, 2))
        some = inside.flatten(1).any(1)
        losses = host_tensor(truth.counts, sums) / torch.where(some, sums, 1).clamp(min=_EPS)
        return torch.where(some, losses, 0).mean() * self.center_loss_weight


def points_of(boxes: Tensor, points: Tensor) -> Tensor:
    """Which points ``Tensor[P, 2]`` are inside of boxes ``Tensor[B, G, 4]``: ``BoolTensor[B, G, P]``."""
    after = points - boxes[:, :, None, :2]
    before = boxes[:, :, None, 2:] - points
    return torch.minimum(after, before).amin(-1) > 0
