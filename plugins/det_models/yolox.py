"""YOLOX: Exceeding YOLO Series in 2021 (Ge et al., arXiv 2107.08430).

CSPDarknet with a path aggregation pyramid (strides 8, 16, 32) and no anchors: every cell of every level
predicts one box, from the cell's upper left corner (x, y) and stride s. For the network's (a, b, c, d)::

    centre = (x + a s, y + b s)        size = (s e^c, s e^d)

Two small networks of each level's own (the decoupled head, section 2.1) predict K independent class
probabilities, and the box with its objectness: the probability that there is an object at all. The score of a
class is the product of both.

Training: which cells answer for which object follows from what they predict (:class:`SimOTAAssigner`). All
cells enter the loss of the objectness; those with an object the loss of the class, whose target is the IoU of
the predicted box, and of the box, ``1 - IoU^2``. Each sum is divided by the number of cells with an object.
In the last epochs, without mosaic and mixup, the network's own four numbers are compared with the ideal ones,
too (L1; ``use_l1``, which :class:`YOLOXModeSwitchHook` sets).
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from det_models.coders import BaseBBoxCoder, MaxShape, clip_boxes
from det_models.dense import DenseHead
from det_models.dense_cfg import DenseTestCfg, DenseTrainCfg
from det_models.dense_targets import RegressedRows, regressed_rows
from det_models.detector import SingleStageDetector
from det_models.dynamic_k_assign import PredictedMatches, match_predictions
from det_models.host import reduce_mean
from det_models.losses.cross_entropy import CrossEntropyLoss
from det_models.losses.gfocal import quality_targets
from det_models.losses.iou import IoULoss
from det_models.losses.smooth_l1 import L1Loss
from det_models.metainfo import MetaInfo, each_meta, with_scale_factor
from det_models.points import MlvlPointGenerator
from det_models.postprocess import flatten_levels, rescale_boxes, suppress
from det_models.truth import GroundTruth
from detcore.nn import ModuleList, Sequential, bias_init_with_prob
from detcore.nn.base_module import DeferredInit
from detcore.nn.build import ActCfg, ConvCfg, NormCfg
from detcore.nn.csp import BATCH_NORM, SWISH, conv_kind
from detcore.registry import MODELS
from detcore.structures import InstanceData

_PRIOR_PROBABILITY = 0.01
_EPS = 1e-8  # so that the logarithm of a box without width stays finite
_KAIMING = {
    "type": "Kaiming",
    "layer": "Conv2d",
    "a": 5**0.5,
    "distribution": "uniform",
    "mode": "fan_in",
    "nonlinearity": "leaky_relu",
}


class YOLOX(SingleStageDetector):
    """Backbone, path aggregation pyramid and :class:`YOLOXHead`; see this module's docstring."""


class CellBBoxCoder(BaseBBoxCoder):
    """Boxes from cells: the shift of the centre from the cell's corner and the logarithm of the size.

    Both in parts of the cell's size; see this module's docstring.
    """

    def encode(self, bboxes: Tensor, gt_bboxes: Tensor) -> Tensor:
        """Numbers ``Tensor[..., 4]`` that lead from cells to boxes, both ``Tensor[..., 4]``, xyxy."""
        corner, size = bboxes[..., :2], bboxes[..., 2:] - bboxes[..., :2]
        center, sides = (gt_bboxes[..., :2] + gt_bboxes[..., 2:]) / 2, gt_bboxes[..., 2:] - gt_bboxes[..., :2]
        return torch.cat(((center - corner) / size, (sides / size + _EPS).log()), dim=-1)

    def decode(self, bboxes: Tensor, pred_bboxes: Tensor, max_shape: MaxShape | None = None) -> Tensor:
        """Boxes ``Tensor[..., 4]``, xyxy, from cells and predicted numbers, both ``Tensor[..., 4]``."""
        corner, size = bboxes[..., :2], bboxes[..., 2:] - bboxes[..., :2]
        center, half = corner + pred_bboxes[..., :2] * size, pred_bboxes[..., 2:].exp() * size / 2
        boxes = torch.cat((center - half, center + half), dim=-1)
        return boxes if max_shape is None else clip_boxes(boxes, max_shape)


class YOLOXHead(DenseHead):
    """Classes, box and objectness of the cells of every level.

    Args:
        num_classes: K.
        in_channels: Channels of the feature maps.
        feat_channels: Channels of the convolutions before the last one.
        stacked_convs: Their number, in each of a level's two networks.
        strides: Pixels between neighbouring cells, of each level.
        use_depthwise: Make these convolutions separable (YOLOX-Nano).
        dcn_on_last_conv: Make the last of them a deformable one.
        conv_bias: Whether they have a bias; ``'auto'``: where they have no norm layer.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of norm layer, None for none.
        act_cfg: Kind of activation.
        loss_cls: Classification loss, by default binary cross entropy; its targets are ``Tensor[N, K]``.
        loss_bbox: Box loss; it gets boxes. By default five times ``1 - IoU^2``.
        loss_obj: Loss of the objectness, by default binary cross entropy.
        loss_l1: Loss of the network's own numbers in the last epochs, by default L1.
        train_cfg: How to match cells with ground truth; assigners get the square roots of the scores.
        test_cfg: How to turn predictions into boxes; ``nms_pre`` and ``min_bbox_size`` have no effect.
        init_cfg: How weights are initialised.

    Attributes:
        use_l1: Whether ``loss_l1`` counts.

    Raises:
        ValueError: A loss has another reduction than ``'sum'``: sums are divided by the number of cells with
            an object here.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        feat_channels: int = 256,
        stacked_convs: int = 2,
        strides: Sequence[int] = (8, 16, 32),
        use_depthwise: bool = False,
        dcn_on_last_conv: bool = False,
        conv_bias: bool | Literal["auto"] = "auto",
        conv_cfg: ConvCfg = None,
        norm_cfg: NormCfg = BATCH_NORM,
        act_cfg: ActCfg = SWISH,
        loss_cls: nn.Module | None = None,
        loss_bbox: nn.Module | None = None,
        loss_obj: nn.Module | None = None,
        loss_l1: nn.Module | None = None,
        train_cfg: DenseTrainCfg | None = None,
        test_cfg: DenseTestCfg | None = None,
        init_cfg: DeferredInit = _KAIMING,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.set_up(
            num_classes,
            in_channels,
            prior_generator=MlvlPointGenerator(strides, offset=0),
            bbox_coder=CellBBoxCoder(),
            loss_cls=loss_cls or CrossEntropyLoss(use_sigmoid=True, reduction="sum"),
            loss_bbox=loss_bbox or IoULoss(mode="square", eps=1e-16, reduction="sum", loss_weight=5.0),
            train_cfg=train_cfg,
            test_cfg=test_cfg,
        )
        self.loss_obj: nn.Module = MODELS.build(
            loss_obj or CrossEntropyLoss(use_sigmoid=True, reduction="sum")
        )
        self.loss_l1: nn.Module = MODELS.build(loss_l1 or L1Loss(reduction="sum"))
        self._check_reductions()
        self.use_l1 = False
        self.cls_out_channels = num_classes
        self.feat_channels = feat_channels
        self.stacked_convs = stacked_convs
        self.strides = strides
        self.use_depthwise = use_depthwise
        self.dcn_on_last_conv = dcn_on_last_conv
        self.conv_bias = conv_bias
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg
        self.act_cfg = act_cfg
        self._init_layers()

    def _check_reductions(self) -> None:
        for name in ("loss_cls", "loss_bbox", "loss_obj", "loss_l1"):
            reduction = getattr(getattr(self, name), "reduction", "sum")
            if reduction != "sum":
                raise ValueError(
                    f"YOLOXHead divides sums by the number of cells with an object: {name}.reduction must be "
                    f"'sum', got {reduction!r}"
                )

    def _init_layers(self) -> None:
        """Make the layers; a head of a user's own may make others."""
        channels = self.feat_channels if self.stacked_convs else self.in_channels
        self.multi_level_cls_convs = ModuleList(self._tower() for _ in self.strides)
        self.multi_level_reg_convs = ModuleList(self._tower() for _ in self.strides)
        self.multi_level_conv_cls, self.multi_level_conv_reg, self.multi_level_conv_obj = (
            ModuleList(nn.Conv2d(channels, size, 1) for _ in self.strides)
            for size in (self.cls_out_channels, 4, 1)
        )

    def _tower(self) -> Sequential:
        kinds: list[Any] = [self.conv_cfg] * self.stacked_convs
        if self.dcn_on_last_conv:
            kinds[-1:] = [{"type": "DCNv2"}]
        return Sequential(
            *(
                conv_kind(self.use_depthwise)(
                    self.feat_channels if number else self.in_channels, self.feat_channels, 3,
                    stride=1, padding=1, conv_cfg=kind, norm_cfg=self.norm_cfg, act_cfg=self.act_cfg,
                    bias=self.conv_bias,
                )
                for number, kind in enumerate(kinds)
            )
        )  # fmt: skip

    def init_weights(self) -> None:
        """Initialise the weights; classes and objects start as rare."""
        fresh = not self.is_init
        super().init_weights()
        if fresh:
            for conv in (*self.multi_level_conv_cls, *self.multi_level_conv_obj):
                nn.init.constant_(conv.bias, bias_init_with_prob(_PRIOR_PROBABILITY))

    def forward(self, x: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        """Class logits, boxes and logits of the objectness, a list of each.

        Args:
            x: ``Tensor[B, in_channels, H, W]`` a level.

        Returns:
            ``Tensor[B, num_classes, H, W]``, ``Tensor[B, 4, H, W]`` and ``Tensor[B, 1, H, W]`` a level.

        Raises:
            ValueError: Another number of maps than the head has levels.
        """
        if len(x) != len(self.strides):
            raise ValueError(f"{len(x)} feature maps for {len(self.strides)} strides {tuple(self.strides)}")
        levels = zip(
            x,
            self.multi_level_cls_convs,
            self.multi_level_reg_convs,
            self.multi_level_conv_cls,
            self.multi_level_conv_reg,
            self.multi_level_conv_obj,
            strict=True,
        )
        return tuple(map(list, zip(*(self.forward_single(*level) for level in levels), strict=True)))

    def forward_single(  # type: ignore[override]  # each level has layers of its own
        self,
        x: Tensor,
        cls_convs: nn.Module,
        reg_convs: nn.Module,
        conv_cls: nn.Module,
        conv_reg: nn.Module,
        conv_obj: nn.Module,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Predictions of one level from its map ``Tensor[B, in_channels, H, W]``, by its layers."""
        reg_feature = reg_convs(x)
        return conv_cls(cls_convs(x)), conv_reg(reg_feature), conv_obj(reg_feature)

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
            bbox_preds: Boxes, as from :meth:`forward`.
            objectnesses: Logits of the objectness, as from :meth:`forward`.
            batch_gt_instances: ``bboxes`` (``Tensor[N, 4]``, xyxy, pixels of the input) and ``labels`` of
                each image.
            batch_img_metas: Not needed.
            batch_gt_instances_ignore: Not looked at, unless by an assigner of a user's own.

        Returns:
            ``loss_cls``, ``loss_bbox``, ``loss_obj`` and, with ``use_l1``, ``loss_l1``, a scalar each.
        """
        truth = GroundTruth.pack(batch_gt_instances, batch_gt_instances_ignore, self.num_classes)
        cells = self._cells(cls_scores)
        logits = flatten_levels(cls_scores, self.cls_out_channels).float()
        numbers = flatten_levels(bbox_preds, 4).float()
        objectness = flatten_levels(objectnesses, 1).float()
        found = self._match(cells, logits, numbers, objectness, truth)
        rows = regressed_rows(found.matches, cells, truth)
        loss_obj = self.loss_obj(objectness.view(-1, 1), (found.matches > 0).view(-1, 1).float())
        labels = truth.labels_at(found.matches, self.num_classes).flatten()[rows.index]
        own = logits.flatten(0, 1)[rows.index]
        wanted = quality_targets(labels, found.overlaps.flatten()[rows.index], like=own)
        losses = {
            "loss_cls": self.loss_cls(own, wanted, weight=rows.weights[:, :1]),
            "loss_obj": loss_obj,
            **self._box_losses(rows, numbers.flatten(0, 1)[rows.index]),
        }
        num_objects = reduce_mean((found.matches > 0).sum().float()).clamp(min=1)
        return {name: loss / num_objects for name, loss in losses.items()}

    def _cells(self, levels: Sequence[Tensor]) -> Tensor:
        """The cells of all levels, ``Tensor[A, 4]``, xyxy, pixels of the input."""
        sizes = [(level.shape[-2], level.shape[-1]) for level in levels]
        generator: Any = self.prior_generator  # of points, which come with their strides
        points = torch.cat(generator.grid_priors(sizes, device=levels[0].device, with_stride=True))
        return torch.cat((points[:, :2], points[:, :2] + points[:, 2:]), dim=1)

    @torch.no_grad()
    def _match(
        self, cells: Tensor, logits: Tensor, numbers: Tensor, objectness: Tensor, truth: GroundTruth
    ) -> PredictedMatches:
        """Which cells answer for which box, by their predictions ``Tensor[B, A, K or 4 or 1]``."""
        center, size = (cells[:, :2] + cells[:, 2:]) / 2, cells[:, 2:] - cells[:, :2]
        scores = (logits.sigmoid() * objectness.sigmoid()).sqrt()
        boxes = self.bbox_coder.decode(cells, numbers)
        return match_predictions(
            self._train_cfg().assigner, torch.cat((center, size), dim=1), boxes, scores, truth
        )

    def _box_losses(self, rows: RegressedRows, numbers: Tensor) -> dict[str, Tensor]:
        """Sums over R rows, from the network's numbers ``Tensor[R, 4]``."""
        # Rows without an object have the weight 0. But what is no number stays none times 0: they get a box.
        numbers = torch.where(rows.weights > 0, numbers, 0)
        boxes = self.bbox_coder.decode(rows.priors, numbers)
        losses = {"loss_bbox": self.loss_bbox(boxes, rows.gt_boxes, weight=rows.weights)}
        if self.use_l1:
            ideal = self.bbox_coder.encode(rows.priors, rows.gt_boxes)
            losses["loss_l1"] = self.loss_l1(numbers, ideal, weight=rows.weights)
        return losses

    # -- prediction ------------------------------------------------------------------------------

    def predict_by_feat(  # type: ignore[override]  # objectness is no mere factor: it counts for the threshold
        self,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        objectnesses: Sequence[Tensor],
        batch_img_metas: Sequence[MetaInfo] = (),
        cfg: DenseTestCfg | None = None,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> list[InstanceData]:
        """Boxes from what :meth:`forward` gave: of each cell its best class, where it reaches ``score_thr``.

        Args:
            cls_scores: Class logits, as from :meth:`forward`.
            bbox_preds: Boxes, as from :meth:`forward`.
            objectnesses: Logits of the objectness, as from :meth:`forward`.
            batch_img_metas: ``scale_factor`` of each image, where ``rescale``.
            cfg: Settings in place of ``test_cfg``.
            rescale: Give boxes in pixels of the original images.
            with_nms: Suppress doubles.

        Returns:
            ``bboxes`` (``Tensor[N, 4]``, xyxy, absolute pixels), ``scores`` and ``labels`` (``Tensor[N]``) of
            each image, best first. Boxes may reach out of the image.
        """
        cfg = cfg or self.test_cfg
        if cfg is None:
            raise ValueError(f"{type(self).__name__} was built without test_cfg, which its predictions need")
        logits, labels = flatten_levels(cls_scores, self.cls_out_channels).float().max(-1)
        scores = logits.sigmoid() * flatten_levels(objectnesses, 1)[..., 0].float().sigmoid()
        boxes = self.bbox_coder.decode(self._cells(cls_scores), flatten_levels(bbox_preds, 4).float())
        if rescale:
            boxes = rescale_boxes(boxes, each_meta(map(with_scale_factor, batch_img_metas), "scale_factor"))
        worth = scores >= cfg.score_thr
        nms = cfg.nms if with_nms else None
        results = []
        for number, kept in enumerate(torch.nonzero(worth)[:, 1].split(worth.sum(1).tolist())):
            instances = InstanceData(
                bboxes=boxes[number, kept], scores=scores[number, kept], labels=labels[number, kept]
            )
            results.append(suppress(instances, nms, cfg.max_per_img))
        return results
