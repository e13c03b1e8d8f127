"""YOLOv3: An Incremental Improvement (Redmon and Farhadi 2018, arXiv 1804.02767).

Darknet-53 gives maps of strides 8, 16 and 32. From the coarsest on, five convolutions work on a map; a 1x1
convolution of the result, enlarged twice, is put beside the next finer map (section 2.3). From each of the
three results a 3x3 and a 1x1 convolution predict, for each of the three anchors of a cell, where in the cell
the centre of the box is, the change of the anchor's size, whether there is an object (objectness), and
independent class probabilities.

Levels are ordered from the coarsest to the finest throughout: in the neck's arguments and outputs, in the
head, and among the anchors.

Training (sections 2.1, 2.2): of all levels' anchors in the cells that hold the centre of an object, the one
with the greatest overlap answers for it, and others that overlap it by more than 0.5. Objectness is learnt by
these and by all anchors that overlap no object by more than 0.5; place, size and classes by the positives
alone. Losses are sums over the batch: binary cross entropy (also of the place), and the squared error of the
sizes' logarithms.

Prediction: the score of a class is its probability times the objectness. The best class probabilities of all
levels together are candidates, of anchors whose objectness is not too low.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from det_models.anchors import AnchorGenerator
from det_models.anchors_yolo import YOLOAnchorGenerator
from det_models.dense import DenseHead, Losses
from det_models.dense_cfg import DenseTestCfg, DenseTrainCfg, as_settings
from det_models.dense_targets import DenseTargets, regressed_rows
from det_models.detector import SingleStageDetector
from det_models.host import host_tensor
from det_models.losses.cross_entropy import CrossEntropyLoss
from det_models.losses.mse import MSELoss
from det_models.metainfo import MetaInfo, each_meta, with_scale_factor
from det_models.postprocess import Candidates, best_of_levels, flatten_level, rescale_boxes, suppress
from det_models.samplers import PseudoSampler
from det_models.towers import each_level
from det_models.truth import GroundTruth
from det_models.yolo_coder import YOLOBBoxCoder
from detcore.nn import ConvModule, ModuleList, bias_init_with_prob
from detcore.nn.build import ActCfg, ConvCfg, NormCfg
from detcore.registry import MODELS, TASK_UTILS
from detcore.structures import InstanceData

_BATCH_NORM = {"type": "BN", "requires_grad": True}
_LEAKY = {"type": "LeakyReLU", "negative_slope": 0.1}
_INIT_CFG = [
    {"type": "Normal", "layer": "Conv2d", "std": 0.01},
    {"type": "Constant", "val": 1, "layer": ["_BatchNorm", "GroupNorm"]},
]
_EXPECTED_OBJECTS = 8  # of an image of 608 pixels, on each level: what objectness starts from
_CLASS_PROBABILITY = 0.01  # what classes start from


class YOLOV3(SingleStageDetector):
    """Backbone, neck and :class:`YOLOV3Head`; see this module's docstring."""


@dataclass(kw_only=True, slots=True)
class YOLOTestCfg(DenseTestCfg):
    """How the predictions become boxes.

    Attributes:
        nms_pre: Candidates of all levels together; 0 or less for all.
        score_thr: Class probabilities up to this are dropped.
        conf_thr: Least objectness; 0 or less for none.
    """

    conf_thr: float = -1


class YOLOV3Head(DenseHead):
    """Boxes, objectness and classes of the anchors of every level.

    Args:
        num_classes: K.
        in_channels: Channels of each level's map, coarsest first.
        out_channels: Channels of the 3x3 convolution of each level.
        anchor_generator: Makes the anchors; by default those of the paper.
        bbox_coder: Turns predicted numbers into boxes.
        featmap_strides: Pixels between neighbouring cells of each level.
        one_hot_smoother: How much of a class's probability is spread evenly over all of them.
        conv_cfg: Kind of the 3x3 convolutions.
        norm_cfg: Kind of their norm layer.
        act_cfg: Kind of their activation.
        loss_cls: Loss of the classes, by default binary cross entropy, as the next two.
        loss_conf: Loss of the objectness.
        loss_xy: Loss of the place in the cell.
        loss_wh: Loss of the logarithms of the change of size, by default the squared error.
        train_cfg: How to match anchors with ground truth.
        test_cfg: How to turn predictions into boxes.

    Attributes:
        num_base_priors: A, the anchors of a cell.
        num_attrib: Numbers predicted for each: 4 of the box, the objectness, K classes.

    Raises:
        ValueError: Numbers of levels or of anchors do not fit.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: Sequence[int],
        out_channels: Sequence[int] = (1024, 512, 256),
        anchor_generator: Annotated[AnchorGenerator | None, TASK_UTILS] = None,
        bbox_coder: Annotated[YOLOBBoxCoder | None, TASK_UTILS] = None,
        featmap_strides: Sequence[int] = (32, 16, 8),
        one_hot_smoother: float = 0.0,
        conv_cfg: ConvCfg = None,
        norm_cfg: NormCfg = _BATCH_NORM,
        act_cfg: ActCfg = _LEAKY,
        loss_cls: nn.Module | None = None,
        loss_conf: nn.Module | None = None,
        loss_xy: nn.Module | None = None,
        loss_wh: nn.Module | None = None,
        train_cfg: DenseTrainCfg | None = None,
        test_cfg: YOLOTestCfg | None = None,
    ) -> None:
        super().__init__(init_cfg=_INIT_CFG)
        self.num_classes, self.num_attrib = num_classes, 5 + num_classes
        self.in_channels: Any = tuple(in_channels)
        self.out_channels, self.featmap_strides = tuple(out_channels), tuple(featmap_strides)
        self.one_hot_smoother = one_hot_smoother
        self.conv_cfg, self.norm_cfg, self.act_cfg = conv_cfg, norm_cfg, act_cfg
        self.prior_generator = TASK_UTILS.build(anchor_generator or _paper_anchors())
        self.num_base_priors = self.prior_generator.num_base_priors[0]
        self._check()
        self.bbox_coder: Any = TASK_UTILS.build(bbox_coder or YOLOBBoxCoder())
        self.loss_cls: nn.Module = MODELS.build(loss_cls or CrossEntropyLoss(use_sigmoid=True))
        self.loss_conf: nn.Module = MODELS.build(loss_conf or CrossEntropyLoss(use_sigmoid=True))
        self.loss_xy: nn.Module = MODELS.build(loss_xy or CrossEntropyLoss(use_sigmoid=True))
        self.loss_wh: nn.Module = MODELS.build(loss_wh or MSELoss())
        self.train_cfg = as_settings(DenseTrainCfg, train_cfg)
        self.test_cfg: YOLOTestCfg | None = as_settings(YOLOTestCfg, test_cfg)
        self._init_layers()

    def _check(self) -> None:
        if self.num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {self.num_classes}")
        if not 0 <= self.one_hot_smoother < 1:
            raise ValueError(f"one_hot_smoother is a part, 0 to below 1, got {self.one_hot_smoother}")
        kinds = self.prior_generator.num_base_priors
        if not len(kinds) == len(self.in_channels) == len(self.out_channels) == len(self.featmap_strides):
            raise ValueError(
                f"anchors of {len(kinds)} levels need as many in_channels, out_channels and featmap_strides, "
                f"got {self.in_channels}, {self.out_channels} and {self.featmap_strides}"
            )
        if len({*kinds}) != 1:
            raise ValueError(f"YOLOV3Head has equally many anchors a cell on each level, got {kinds}")

    def _init_layers(self) -> None:
        """Make the layers; a head of a user's own may make others."""
        layers: dict[str, Any] = {
            "conv_cfg": self.conv_cfg, "norm_cfg": self.norm_cfg, "act_cfg": self.act_cfg,
        }  # fmt: skip
        channels = list(zip(self.in_channels, self.out_channels, strict=True))
        self.convs_bridge = ModuleList(
            ConvModule(before, after, 3, padding=1, **layers) for before, after in channels
        )
        num_outputs = self.num_base_priors * self.num_attrib
        self.convs_pred = ModuleList(nn.Conv2d(after, num_outputs, 1) for _, after in channels)

    def init_weights(self) -> None:
        """Initialise the weights, and let objects and classes start as rare as they are."""
        super().init_weights()
        for conv, stride in zip(self.convs_pred, self.featmap_strides, strict=True):
            assert isinstance(conv, nn.Conv2d)
            assert conv.bias is not None
            bias = conv.bias.detach().view(self.num_base_priors, self.num_attrib)
            bias[:, 4] = bias_init_with_prob(_EXPECTED_OBJECTS / (608 / stride) ** 2)
            bias[:, 5:] = bias_init_with_prob(_CLASS_PROBABILITY)

    def forward(self, x: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        """What is predicted, ``Tensor[B, A * num_attrib, H, W]`` a level.

        Args:
            x: ``Tensor[B, in_channels[i], H, W]`` a level, coarsest first.

        Returns:
            A tuple of one list.
        """
        return each_level(self.forward_single, x, self.convs_bridge, self.convs_pred)

    def forward_single(  # type: ignore[override]  # levels have layers of their own
        self, x: Tensor, bridge: nn.Module, pred: nn.Module
    ) -> tuple[Tensor]:
        """Predictions of one level's map by its layers."""
        return (pred(bridge(x)),)

    # -- training --------------------------------------------------------------------------------

    def loss_by_feat(  # type: ignore[override]  # a head of one map a level
        self,
        pred_maps: Sequence[Tensor],
        batch_gt_instances: Sequence[InstanceData],
        batch_img_metas: Sequence[MetaInfo],
        batch_gt_instances_ignore: Sequence[InstanceData] | None = None,
    ) -> Losses:
        """Losses of every level.

        Args:
            pred_maps: As from :meth:`forward`.
            batch_gt_instances: ``bboxes`` (``Tensor[N, 4]``, xyxy, pixels of the input) and ``labels`` of
                each image.
            batch_img_metas: Not looked at.
            batch_gt_instances_ignore: Not looked at.

        Returns:
            ``loss_cls``, ``loss_conf``, ``loss_xy`` and ``loss_wh``, a scalar a level each.
        """
        truth = GroundTruth.pack(batch_gt_instances, None, self.num_classes)
        mlvl_priors, targets = self.match_levels(pred_maps, truth, batch_img_metas)
        lengths = [len(priors) for priors in mlvl_priors]
        losses: Losses = {name: [] for name in ("loss_cls", "loss_conf", "loss_xy", "loss_wh")}
        for pred_map, priors, matches, labels, weights, stride in zip(
            pred_maps,
            mlvl_priors,
            targets.matches.split(lengths, dim=1),
            targets.labels.split(lengths, dim=1),
            targets.label_weights.split(lengths, dim=1),
            self.featmap_strides,
            strict=True,
        ):
            # Every row, also on the CPU: a loss whose reduction is 'mean' divides by their number.
            rows = regressed_rows(matches, priors, truth, every=True)
            pred = flatten_level(pred_map, self.num_attrib).flatten(0, 1).float()
            boxes = self.bbox_coder.encode(rows.priors, rows.gt_boxes, stride)
            objects = (matches > 0).flatten().float()
            positive = objects[:, None]
            classes = self.class_targets(labels.flatten())
            losses["loss_cls"].append(self.loss_cls(pred[:, 5:], classes, weight=positive))
            losses["loss_conf"].append(self.loss_conf(pred[:, 4], objects, weight=weights.flatten()))
            losses["loss_xy"].append(self.loss_xy(pred[:, :2], boxes[:, :2], weight=positive))
            losses["loss_wh"].append(self.loss_wh(pred[:, 2:4], boxes[:, 2:], weight=positive))
        return losses

    def class_targets(self, labels: Tensor) -> Tensor:
        """Probabilities ``Tensor[N, K]`` that the classes are to have; a row of background has no meaning."""
        targets = F.one_hot(labels.clamp(max=self.num_classes - 1), self.num_classes).float()
        if self.one_hot_smoother:
            targets = targets * (1 - self.one_hot_smoother) + self.one_hot_smoother / self.num_classes
        return targets

    @torch.no_grad()
    def get_targets(
        self,
        mlvl_priors: Sequence[Tensor],
        featmap_sizes: Sequence[tuple[int, int]],
        truth: GroundTruth,
        batch_img_metas: Sequence[MetaInfo],
    ) -> DenseTargets:
        """Match all anchors of a batch with its ground truth; see :meth:`DenseHead.get_targets`."""
        cfg = self._train_cfg()
        priors = torch.cat(list(mlvl_priors))
        flags = self.responsible_flags(featmap_sizes, truth)
        sampler = cfg.sampler or PseudoSampler()
        matches = sampler.select(_match(cfg.assigner, priors, truth, flags))
        return DenseTargets(
            matches=matches,
            labels=truth.labels_at(matches, self.num_classes),
            label_weights=(matches >= 0).to(priors.dtype),
            avg_factor=sampler.avg_factor(matches),
        )

    def responsible_flags(self, featmap_sizes: Sequence[tuple[int, int]], truth: GroundTruth) -> Tensor:
        """Which anchors are of cells with the centre of an object, ``BoolTensor[B, anchors of all levels]``.

        Args:
            featmap_sizes: (h, w) of each level's map.
            truth: Ground truth of the B images.
        """
        x, y = ((truth.boxes[..., :2] + truth.boxes[..., 2:]) * 0.5).unbind(-1)
        levels = []
        for (height, width), (step_w, step_h) in zip(
            featmap_sizes, self.prior_generator.strides, strict=True
        ):
            column = (x / step_w).long().clamp(0, width - 1)
            row = (y / step_h).long().clamp(0, height - 1)
            cells = height * width
            # What pads the boxes of an image goes to a cell behind the last one.
            place = torch.where(truth.mask, row * width + column, cells)
            flags = torch.zeros(len(truth), cells + 1, dtype=torch.bool, device=x.device)
            flags.scatter_(1, place, True)
            levels.append(flags[:, :cells].repeat_interleave(self.num_base_priors, dim=1))
        return torch.cat(levels, dim=1)

    # -- prediction ------------------------------------------------------------------------------

    def predict_by_feat(  # type: ignore[override]  # a head of one map a level
        self,
        pred_maps: Sequence[Tensor],
        batch_img_metas: Sequence[MetaInfo] = (),
        cfg: YOLOTestCfg | None = None,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> list[InstanceData]:
        """Boxes from what :meth:`forward` gave.

        Args:
            pred_maps: As from :meth:`forward`.
            batch_img_metas: ``scale_factor`` of each image where ``rescale``.
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
        best = self._candidates(pred_maps, cfg)
        strides = host_tensor(self.featmap_strides, best.bbox_preds)[best.levels, None]
        encoded = torch.cat((best.bbox_preds[..., :2].sigmoid(), best.bbox_preds[..., 2:]), dim=-1)
        boxes = self.bbox_coder.decode(best.priors, encoded, strides)
        if rescale:
            boxes = rescale_boxes(boxes, each_meta(map(with_scale_factor, batch_img_metas), "scale_factor"))
        worth = best.scores > cfg.score_thr
        if cfg.min_bbox_size >= 0:
            worth &= (boxes[..., 2:] - boxes[..., :2] > cfg.min_bbox_size).all(-1)
        assert best.factors is not None
        scores = best.scores * best.factors
        results = []
        for number, kept in enumerate(torch.nonzero(worth)[:, 1].split(worth.sum(1).tolist())):
            instances = InstanceData(
                bboxes=boxes[number, kept], scores=scores[number, kept], labels=best.labels[number, kept]
            )
            results.append(suppress(instances, cfg.nms if with_nms else None, cfg.max_per_img))
        return results

    def _candidates(self, pred_maps: Sequence[Tensor], cfg: YOLOTestCfg) -> Candidates:
        """The best class probabilities of all levels together; factors are the objectness."""
        classes, boxes, objectness = [], [], []
        for pred_map in pred_maps:
            each = pred_map.unflatten(1, (self.num_base_priors, self.num_attrib)).float()
            scores, confidence = each[:, :, 5:], each[:, :, 4]
            if cfg.conf_thr > 0:
                scores = scores.masked_fill(confidence.sigmoid()[:, :, None] < cfg.conf_thr, -torch.inf)
            classes.append(scores.flatten(1, 2))
            boxes.append(each[:, :, :4].flatten(1, 2))
            objectness.append(confidence)
        sizes = [(each.shape[-2], each.shape[-1]) for each in pred_maps]
        best = best_of_levels(
            classes,
            boxes,
            objectness,
            self.prior_generator.grid_priors(sizes, device=pred_maps[0].device),
            num_scores=self.num_classes,
            use_sigmoid=True,
            limit=cfg.nms_pre,
            score_thr=cfg.score_thr,
        )
        return _best_of_all(best, cfg.nms_pre)


def _match(assigner: Any, priors: Tensor, truth: GroundTruth, flags: Tensor) -> Tensor:
    """Matches ``LongTensor[B, A]``, by an assigner for a batch, or one of a user's own for an image."""
    if hasattr(assigner, "match_responsible"):
        matches: Tensor = assigner.match_responsible(priors, truth, flags)
        return matches
    images = zip(flags, truth.instances, strict=True)
    return torch.stack(
        [
            assigner.assign(InstanceData(priors=priors, responsible_flags=each), instances).gt_inds
            for each, instances in images
        ]
    )


def _best_of_all(best: Candidates, limit: int) -> Candidates:
    """The ``limit`` best of an image; 0 or less for all."""
    if not 0 < limit < best.scores.shape[1]:
        return best
    places = best.scores.topk(limit, dim=1).indices.sort(dim=1).values

    def picked(values: Tensor) -> Tensor:
        index = places if values.ndim == 2 else places[..., None].expand(-1, -1, values.shape[-1])
        return values.gather(1, index)

    return Candidates(*(picked(getattr(best, each.name)) for each in fields(best)))


def _paper_anchors() -> YOLOAnchorGenerator:
    """Section 2.3: nine sizes on COCO, three on each level."""
    return YOLOAnchorGenerator(
        strides=[32, 16, 8],
        base_sizes=[
            [(116, 90), (156, 198), (373, 326)],
            [(30, 61), (62, 45), (59, 119)],
            [(10, 13), (16, 30), (33, 23)],
        ],
    )
