"""FoveaBox: Beyond Anchor-based Object Detection (Kong et al., TIP 2020, arXiv 1904.03797).

No anchors: cells predict classes and, where an object is, its box. Two rules say which cell answers for which
object (section III-B):

- a level is there for objects of a size, the square root of their area between two bounds that are r_l / eta
  and r_l * eta in the paper; those of neighbours overlap: an object may belong to several levels, eq. 1-2;
- there the fovea answers for it, the middle part of the box, shrunk to ``sigma`` in width and height, eq. 3;
  where foveae overlap, that of the smallest object.

A box is told by the distances of the cell's centre to its sides, in parts of the level's base length and as
logarithms, eq. 4. They are learnt by smooth L1, divided by the number of cells in a fovea; the classes by the
focal loss over all cells, divided by that number plus one for each image.

With ``with_deform`` (feature alignment, section III-D) the classes are predicted from features that a
deformable convolution gathers, whose offsets follow from the predicted box.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from det_models.coders import BaseBBoxCoder, DistancePointBBoxCoder
from det_models.dense import DenseHead
from det_models.dense_cfg import DenseTestCfg
from det_models.dense_targets import regressed_rows
from det_models.detector import SingleStageDetector
from det_models.host import host_tensor, reduce_mean
from det_models.losses.focal import FocalLoss
from det_models.losses.smooth_l1 import SmoothL1Loss
from det_models.metainfo import MetaInfo
from det_models.points import MlvlPointGenerator, centers_of
from det_models.postprocess import Candidates, flatten_levels
from det_models.towers import conv_tower
from det_models.truth import GroundTruth
from detcore.nn import BaseModule, ConvModule, DeformConv2d, Sequential
from detcore.nn.base_module import DeferredInit
from detcore.nn.build import ConvCfg, NormCfg
from detcore.registry import TASK_UTILS
from detcore.structures import InstanceData
from detcore.structures.bbox import bbox2distance

_LIMIT = 16.0  # distances are learnt as between a 16th of the base length and 16 times it
_INIT_CFG = {
    "type": "Normal",
    "layer": "Conv2d",
    "std": 0.01,
    "override": {"type": "Normal", "name": "conv_cls", "std": 0.01, "bias_prob": 0.01},
}
_ALIGN_INIT_CFG = {
    "type": "Normal",
    "layer": "Conv2d",
    "std": 0.1,
    "override": {"type": "Normal", "name": "conv_adaption", "std": 0.01},
}


class FOVEA(SingleStageDetector):
    """Backbone, feature pyramid and :class:`FoveaHead`; see this module's docstring."""


class FeatureAlign(BaseModule):
    """Features gathered from where the predicted box is.

    Args:
        in_channels: Of the map.
        out_channels: Of the result.
        kernel_size: Of the deformable convolution.
        deform_groups: Groups of channels that look at places of their own.
        init_cfg: How weights are initialised.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        deform_groups: int = 4,
        init_cfg: DeferredInit = _ALIGN_INIT_CFG,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.conv_offset = nn.Conv2d(4, 2 * deform_groups * kernel_size**2, 1, bias=False)
        self.conv_adaption = DeformConv2d(
            in_channels, out_channels, kernel_size, padding=kernel_size // 2, deform_groups=deform_groups
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor, shape: Tensor) -> Tensor:
        """``Tensor[B, out_channels, H, W]`` from a map and the distances to the sides, ``[B, 4, H, W]``."""
        out: Tensor = self.relu(self.conv_adaption(x, self.conv_offset(shape)))
        return out


class FoveaHead(DenseHead):
    """Classes and boxes of the cells of every level.

    Args:
        num_classes: K, without background.
        in_channels: Channels of the feature maps.
        base_edge_list: Base length of each level, in pixels.
        scale_ranges: (least, greatest) square root of the area of objects that a level is there for, pixels.
        sigma: Width and height of the fovea in parts of the box's.
        with_deform: Align the features of the classes with the predicted boxes.
        deform_groups: Groups of channels of that alignment.
        init_cfg: How weights are initialised.
        feat_channels: Channels of the convolutions before the last one.
        stacked_convs: Their number, in each of the two networks.
        strides: Pixels between neighbouring cells, of each level.
        dcn_on_last_conv: Make the last of these convolutions a deformable one.
        conv_bias: Whether they have a bias; ``'auto'``: where they have no norm layer.
        loss_cls: Classification loss, by default the focal loss with gamma 1.5 and alpha 0.4.
        loss_bbox: Loss of the logarithms of distances, by default smooth L1.
        bbox_coder: Turns distances into boxes.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of norm layer, None for none.
        train_cfg: Has no effect: there is nothing to choose. Configs give an empty one.
        test_cfg: How to turn predictions into boxes.

    Raises:
        ValueError: Base lengths, ranges and strides are not of the same levels; or ``with_deform`` over maps
            of other channels than ``feat_channels``.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        base_edge_list: Sequence[float] = (16, 32, 64, 128, 256),
        scale_ranges: Sequence[tuple[float, float]] = ((8, 32), (16, 64), (32, 128), (64, 256), (128, 512)),
        sigma: float = 0.4,
        with_deform: bool = False,
        deform_groups: int = 4,
        init_cfg: DeferredInit = _INIT_CFG,
        feat_channels: int = 256,
        stacked_convs: int = 4,
        strides: Sequence[int] = (4, 8, 16, 32, 64),
        dcn_on_last_conv: bool = False,
        conv_bias: bool | Literal["auto"] = "auto",
        loss_cls: nn.Module | None = None,
        loss_bbox: nn.Module | None = None,
        bbox_coder: Annotated[BaseBBoxCoder | None, TASK_UTILS] = None,
        conv_cfg: ConvCfg = None,
        norm_cfg: NormCfg = None,
        train_cfg: Any = None,
        test_cfg: DenseTestCfg | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if not len(base_edge_list) == len(scale_ranges) == len(strides):
            raise ValueError(
                f"base_edge_list, scale_ranges and strides have one entry a level, got "
                f"{len(base_edge_list)}, {len(scale_ranges)} and {len(strides)}"
            )
        if with_deform and in_channels != feat_channels:
            raise ValueError(
                f"with_deform aligns the maps themselves, so feat_channels={feat_channels} must be "
                f"in_channels={in_channels}"
            )
        self.set_up(
            num_classes,
            in_channels,
            prior_generator=MlvlPointGenerator(strides),
            bbox_coder=bbox_coder or DistancePointBBoxCoder(),
            loss_cls=loss_cls or FocalLoss(gamma=1.5, alpha=0.4),
            loss_bbox=loss_bbox or SmoothL1Loss(beta=0.11),
            test_cfg=test_cfg,
        )
        self.base_edge_list = base_edge_list
        self.scale_ranges = scale_ranges
        self.sigma = sigma
        self.with_deform = with_deform
        self.deform_groups = deform_groups
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
        size = (self.in_channels, self.feat_channels, self.stacked_convs)
        kind: dict[str, Any] = {"conv_cfg": self.conv_cfg, "norm_cfg": self.norm_cfg}
        tower = {**kind, "last_conv_cfg": last, "bias": self.conv_bias}
        channels = self.feat_channels if self.stacked_convs else self.in_channels
        self.reg_convs = conv_tower(*size, **tower)
        self.conv_reg = nn.Conv2d(channels, 4, 3, padding=1)
        if self.with_deform:
            self.feature_adaption = FeatureAlign(
                self.feat_channels, self.feat_channels, deform_groups=self.deform_groups
            )
            channels = 4 * self.feat_channels
            self.cls_convs = Sequential(
                ConvModule(self.feat_channels, channels, 3, padding=1, **kind),
                ConvModule(channels, channels, 1, **kind),
            )
        else:
            self.cls_convs = conv_tower(*size, **tower)
        self.conv_cls = nn.Conv2d(channels, self.cls_out_channels, 3, padding=1)

    def forward_single(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits ``[B, cls_out_channels, H, W]`` and logarithms of distances ``[B, 4, H, W]``."""
        distances = self.conv_reg(self.reg_convs(x)).float()
        if self.with_deform:
            x = self.feature_adaption(x, distances.exp())
        return self.conv_cls(self.cls_convs(x)), distances

    # -- training --------------------------------------------------------------------------------

    def loss_by_feat(  # type: ignore[override]  # sums over levels
        self,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        batch_gt_instances: Sequence[InstanceData],
        batch_img_metas: Sequence[MetaInfo],
        batch_gt_instances_ignore: Sequence[InstanceData] | None = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            cls_scores: Class logits, as from :meth:`forward`.
            bbox_preds: Logarithms of distances, as from :meth:`forward`.
            batch_gt_instances: ``bboxes`` (``Tensor[N, 4]``, xyxy, pixels of the input) and ``labels`` of
                each image.
            batch_img_metas: Not needed.
            batch_gt_instances_ignore: Not looked at: cells in these regions are background.

        Returns:
            ``loss_cls`` and ``loss_bbox``, a scalar each.
        """
        truth = GroundTruth.pack(batch_gt_instances, num_classes=self.num_classes)
        sizes = [(score.shape[-2], score.shape[-1]) for score in cls_scores]
        matches = torch.cat(self.match_foveae(sizes, truth), dim=1)
        count = (matches > 0).sum().float()
        count, count_and_images = reduce_mean(torch.stack((count, count + len(truth))))
        # Squares of twice the base length around the cells' centres carry both through the choice of rows.
        rows = regressed_rows(matches, self._squares(sizes, cls_scores[0]), truth)
        base = (rows.priors[:, 2] - rows.priors[:, 0])[:, None] / 2
        parts = bbox2distance(centers_of(rows.priors), rows.gt_boxes) / base
        wanted = parts.clamp(1 / _LIMIT, _LIMIT).log()
        pred = flatten_levels(bbox_preds, 4).flatten(0, 1)[rows.index]
        labels = truth.labels_at(matches, self.num_classes)
        weights = torch.ones_like(matches, dtype=torch.float32)
        loss_cls = self.class_losses(cls_scores, labels, weights, count_and_images)
        return {
            "loss_cls": torch.stack(loss_cls).sum(),
            "loss_bbox": self.loss_bbox(pred, wanted, rows.weights, avg_factor=count.clamp(min=1)),
        }

    def match_foveae(self, sizes: Sequence[tuple[int, int]], truth: GroundTruth) -> list[Tensor]:
        """Which object the cells of each level answer for, if one.

        Args:
            sizes: (h, w) of each level's map.
            truth: Ground truth of the B images.

        Returns:
            ``LongTensor[B, h * w]`` a level: number of the box plus one, 0 for none.
        """
        width, height = (truth.boxes[..., 2:] - truth.boxes[..., :2]).unbind(-1)
        edge = (width * height).clamp(min=0).sqrt()
        levels = []
        for size, stride, (least, greatest) in zip(sizes, self.strides, self.scale_ranges, strict=True):
            wanted = truth.mask & (edge >= least) & (edge <= greatest)
            inside = in_fovea(size, truth.boxes / stride, self.sigma) & wanted[..., None]
            smallest, number = torch.where(inside, edge[..., None], torch.inf).min(1)
            levels.append(torch.where(smallest < torch.inf, number + 1, 0))
        return levels

    def _squares(self, sizes: Sequence[tuple[int, int]], like: Tensor) -> Tensor:
        """Squares ``Tensor[P, 4]``, xyxy, of twice the base length around the cells of all levels."""
        points = self.prior_generator.grid_priors(sizes, device=like.device)
        around = zip(points, self.base_edge_list, strict=True)
        return torch.cat([torch.cat((level - base, level + base), dim=1) for level, base in around])

    # -- prediction ------------------------------------------------------------------------------

    def decode_candidates(self, best: Candidates, shapes: Sequence[tuple[int, int]]) -> Tensor:
        """Boxes from logarithms of distances; see :meth:`DenseHead.decode_candidates`.

        They end at the last pixel, not behind it, as in the authors' code and so in published figures.
        """
        base = host_tensor(self.base_edge_list, best.bbox_preds)[best.levels]
        distances = best.bbox_preds.exp() * base[..., None]
        last_pixels = [(height - 1, width - 1) for height, width in shapes]
        return self.bbox_coder.decode(best.priors, distances, max_shape=last_pixels)


def in_fovea(size: tuple[int, int], boxes: Tensor, sigma: float) -> Tensor:
    """Which cells of a map are in the middle parts of boxes.

    Args:
        size: (h, w) of the map.
        boxes: ``Tensor[B, G, 4]``, xyxy, in cells.
        sigma: Width and height of the middle parts in parts of the boxes'.

    Returns:
        ``BoolTensor[B, G, h * w]``.
    """
    center, half = centers_of(boxes), (boxes[..., 2:] - boxes[..., :2]) * (0.5 * sigma)
    inside = []
    for axis, length in ((1, size[0]), (0, size[1])):
        first = (center - half - 0.5)[..., axis].ceil().clamp(0, length - 1)
        last = (center + half - 0.5)[..., axis].floor().clamp(0, length - 1)
        cells = torch.arange(length, device=boxes.device)
        inside.append((cells >= first[..., None]) & (cells <= last[..., None]))
    rows, columns = inside
    return (rows[..., :, None] & columns[..., None, :]).flatten(-2)
