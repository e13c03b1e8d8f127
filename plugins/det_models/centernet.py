"""CenterNet: Objects as Points (Zhou et al., arXiv 1904.07850).

A backbone and a neck give one fine map, of stride 4. Three small networks predict at every cell the
probability that the centre of an object of each class is there, width and height of the object, and where in
the cell its centre is (section 3). An object is a local maximum of its class's heat map: nothing is
suppressed (section 4.1).

Training (section 3, eq. 1-4): the heat map of a class is to be 1 at its objects' cells and falls off around
them as a Gaussian, whose width follows from how far a box may be off for an IoU of 0.3 still
(:func:`~det_models.heatmaps.gaussian_radius`). Its loss is :class:`GaussianFocalLoss`; sizes and places are
learnt at the cells of the objects alone, by their absolute differences, in cells. All three are divided by
the number of objects.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from det_models.dense import DenseHead
from det_models.dense_cfg import DictLike, as_settings
from det_models.detector import SingleStageDetector
from det_models.heatmaps import draw_gaussians, gaussian_radius, local_maxima
from det_models.host import host_tensor, reduce_mean
from det_models.losses.gaussian_focal import GaussianFocalLoss
from det_models.losses.smooth_l1 import L1Loss
from det_models.metainfo import MetaInfo, each_meta
from det_models.postprocess import rescale_boxes, suppress, top_candidates
from det_models.truth import check_labels
from detcore.nn.base_module import DeferredInit
from detcore.nn.init import bias_init_with_prob, normal_init
from detcore.ops.nms import NmsCfg
from detcore.registry import MODELS
from detcore.structures import InstanceData

_MIN_OVERLAP = 0.3  # of a box and its object within the radius of the object's peak


class CenterNet(SingleStageDetector):
    """Backbone, neck and :class:`CenterNetHead`, or a pyramid and ``CenterNetUpdateHead``."""


@dataclass(kw_only=True, slots=True)
class CenterNetTestCfg(DictLike):
    """How heat maps become boxes (``test_cfg``).

    Attributes:
        topk: Local maxima of an image that are decoded, of all classes together.
        local_maximum_kernel: Cells around a maximum, along each axis, that it is the greatest of; odd.
        nms: Settings of non-maximum suppression, for those who ask for it (``with_nms``); None for none.
        max_per_img: Boxes of an image at most, after the suppression; 0 or less for all.
    """

    topk: int = 100
    local_maximum_kernel: int = 3
    nms: NmsCfg | None = None
    max_per_img: int = 100


@dataclass(slots=True)
class CenterTargets:
    """What the maps of a batch are to show of its N objects.

    Attributes:
        heatmap: ``Tensor[B, C, H, W]``, 1 at an object's cell, less around it.
        images: ``LongTensor[N]``, the image of each object.
        cells: ``LongTensor[N]``, its cell, numbered by row, then column.
        sizes: ``Tensor[N, 2]``, (w, h), in cells.
        offsets: ``Tensor[N, 2]``, (x, y) of its centre in the cell, 0 to 1.
        weights: ``Tensor[N]``, 1, but 0 for one whose centre is on no cell, or whose cell is a later one's.
    """

    heatmap: Tensor
    images: Tensor
    cells: Tensor
    sizes: Tensor
    offsets: Tensor
    weights: Tensor


class CenterNetHead(DenseHead):
    """Heat map, size and place of the objects' centres.

    Args:
        in_channels: Channels of the map.
        feat_channels: Channels within the three networks.
        num_classes: K, without background.
        loss_center_heatmap: Loss of the heat map, by default the focal loss for Gaussians.
        loss_wh: Loss of width and height, by default a tenth of the absolute differences.
        loss_offset: Loss of the place in the cell, by default the absolute differences.
        train_cfg: Has no effect: there is nothing to choose.
        test_cfg: How to turn heat maps into boxes.
        init_cfg: How weights are initialised, in place of what :meth:`init_weights` says.

    Raises:
        ValueError: There is no class.
    """

    def __init__(
        self,
        in_channels: int,
        feat_channels: int,
        num_classes: int,
        loss_center_heatmap: nn.Module | None = None,
        loss_wh: nn.Module | None = None,
        loss_offset: nn.Module | None = None,
        train_cfg: DictLike | None = None,
        test_cfg: CenterNetTestCfg | None = None,
        init_cfg: DeferredInit = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        self.num_classes = self.cls_out_channels = num_classes
        self.in_channels = in_channels
        self.feat_channels = feat_channels
        self.use_sigmoid_cls = True
        self.heatmap_head = self._branch(num_classes)
        self.wh_head = self._branch(2)
        self.offset_head = self._branch(2)
        self.loss_center_heatmap: nn.Module = MODELS.build(loss_center_heatmap or GaussianFocalLoss())
        self.loss_wh: nn.Module = MODELS.build(loss_wh or L1Loss(loss_weight=0.1))
        self.loss_offset: nn.Module = MODELS.build(loss_offset or L1Loss())
        self.train_cfg = None
        self.test_cfg = as_settings(CenterNetTestCfg, test_cfg)

    def _branch(self, out_channels: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(self.in_channels, self.feat_channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(self.feat_channels, out_channels, 1),
        )

    def init_weights(self) -> None:
        """Start with a tenth as every probability, and with sizes and places near 0."""
        if not self.is_init:
            last: nn.Module = self.heatmap_head[-1]
            nn.init.constant_(last.bias, bias_init_with_prob(0.1))  # type: ignore[arg-type]
            for layer in (*self.wh_head, *self.offset_head):
                normal_init(layer, std=0.001)
        super().init_weights()

    def forward_single(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Predictions of a map ``Tensor[B, in_channels, H, W]``.

        Returns:
            Probabilities ``Tensor[B, num_classes, H, W]`` in float32, (w, h) in cells ``Tensor[B, 2, H, W]``,
            and (x, y) within the cell ``Tensor[B, 2, H, W]``.
        """
        return self.heatmap_head(x).float().sigmoid(), self.wh_head(x), self.offset_head(x)

    # -- training --------------------------------------------------------------------------------

    def loss_by_feat(  # type: ignore[override]  # other outputs
        self,
        center_heatmap_preds: Sequence[Tensor],
        wh_preds: Sequence[Tensor],
        offset_preds: Sequence[Tensor],
        batch_gt_instances: Sequence[InstanceData],
        batch_img_metas: Sequence[MetaInfo],
        batch_gt_instances_ignore: Sequence[InstanceData] | None = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            center_heatmap_preds: Probabilities, as from :meth:`forward`, of one map.
            wh_preds: Sizes, as from :meth:`forward`.
            offset_preds: Places, as from :meth:`forward`.
            batch_gt_instances: ``bboxes`` (``Tensor[N, 4]``, xyxy, pixels of the input) and ``labels`` of
                each image.
            batch_img_metas: ``batch_input_shape`` of each image.
            batch_gt_instances_ignore: Not looked at: these regions are background.

        Returns:
            ``loss_center_heatmap``, ``loss_wh`` and ``loss_offset``, a scalar each.
        """
        heat, sizes, offsets = _only_map(center_heatmap_preds, wh_preds, offset_preds)
        input_shape = each_meta(batch_img_metas, "batch_input_shape")[0]
        targets = self.get_targets(batch_gt_instances, heat.shape[-2:], input_shape)
        num_objects = reduce_mean((targets.heatmap == 1).sum().float()).clamp(min=1)
        weights = targets.weights[:, None].expand(-1, 2)
        rows = [each.flatten(2)[targets.images, :, targets.cells].float() for each in (sizes, offsets)]
        both = 2 * num_objects  # an object has two numbers of each kind
        return {
            "loss_center_heatmap": self.loss_center_heatmap(heat, targets.heatmap, avg_factor=num_objects),
            "loss_wh": self.loss_wh(rows[0], targets.sizes, weights, avg_factor=both),
            "loss_offset": self.loss_offset(rows[1], targets.offsets, weights, avg_factor=both),
        }

    @torch.no_grad()
    def get_targets(  # type: ignore[override]  # nothing is matched
        self,
        batch_gt_instances: Sequence[InstanceData],
        featmap_size: Sequence[int],
        input_shape: Sequence[int],
    ) -> CenterTargets:
        """What the maps of a batch are to show.

        Args:
            batch_gt_instances: ``bboxes`` and ``labels`` of each of the B images.
            featmap_size: (h, w) of the map.
            input_shape: (h, w) of the network's input, in pixels.
        """
        height, width = featmap_size
        check_labels([each.labels for each in batch_gt_instances], self.num_classes)
        labels = torch.cat([each.labels for each in batch_gt_instances])
        boxes = torch.cat([each.bboxes for each in batch_gt_instances]).float()
        numbers = [image for image, each in enumerate(batch_gt_instances) for _ in range(len(each))]
        images = host_tensor(numbers, boxes, torch.int64)
        ratio = host_tensor([width / input_shape[1], height / input_shape[0]], boxes)
        centers = (boxes[:, :2] + boxes[:, 2:]) * ratio / 2
        sizes = (boxes[:, 2:] - boxes[:, :2]) * ratio
        cells = centers.floor().long()
        radii = gaussian_radius(sizes, _MIN_OVERLAP).floor()
        shape = (len(batch_gt_instances), self.num_classes, height, width)
        limits = host_tensor([width, height], cells)
        flat = cells.clamp(min=0).minimum(limits - 1)
        flat = flat[:, 1] * width + flat[:, 0]
        on_map = ((centers >= 0) & (cells < limits)).all(-1)
        return CenterTargets(
            heatmap=draw_gaussians(cells, radii, images, labels, shape),
            images=images,
            cells=flat,
            sizes=sizes,
            offsets=centers - cells,
            weights=_is_last(images * (height * width) + flat, on_map, shape[0] * height * width).float(),
        )

    # -- prediction ------------------------------------------------------------------------------

    def predict_by_feat(  # type: ignore[override]  # other outputs
        self,
        center_heatmap_preds: Sequence[Tensor],
        wh_preds: Sequence[Tensor],
        offset_preds: Sequence[Tensor],
        batch_img_metas: Sequence[MetaInfo] = (),
        rescale: bool = True,
        with_nms: bool = False,
        cfg: CenterNetTestCfg | None = None,
    ) -> list[InstanceData]:
        """Boxes from what :meth:`forward` gave.

        Args:
            center_heatmap_preds: Probabilities ``Tensor[B, num_classes, H, W]``, of one map.
            wh_preds: (w, h) in cells ``Tensor[B, 2, H, W]``.
            offset_preds: (x, y) within the cell ``Tensor[B, 2, H, W]``.
            batch_img_metas: ``batch_input_shape`` of each image; where ``RandomCenterCropPad`` has put it in
                the middle of a larger canvas, ``border``, its (top, bottom, left, right) there.
            rescale: Give boxes in pixels of the original images; of a size other than the input's only
                where there is a ``scale_factor``.
            with_nms: Suppress doubles, by ``nms`` of the settings.
            cfg: Settings in place of ``test_cfg``.

        Returns:
            ``bboxes`` (``Tensor[N, 4]``, xyxy, absolute pixels), ``scores`` and ``labels`` (``Tensor[N]``) of
            each image, best first.
        """
        given: Any = cfg or self.test_cfg or CenterNetTestCfg()
        heat, wh, offset = _only_map(center_heatmap_preds, wh_preds, offset_preds)
        peaks = local_maxima(heat, given.local_maximum_kernel)
        scores, places, labels = top_candidates(peaks[:, None], given.topk, -torch.inf)
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        places, labels = places.gather(1, order), labels.gather(1, order)
        sizes, offsets = (_at(each, places).float() for each in (wh, offset))
        width = heat.shape[-1]
        centers = torch.stack((places % width, places // width), dim=-1) + offsets
        input_h, input_w = each_meta(batch_img_metas, "batch_input_shape")[0]
        steps = host_tensor([input_w / width, input_h / heat.shape[-2]], centers)
        boxes = torch.cat(((centers - sizes / 2) * steps, (centers + sizes / 2) * steps), dim=-1)
        borders = [[float(side) for side in meta.get("border", (0, 0, 0, 0))] for meta in batch_img_metas]
        if any(top or left for top, _, left, _ in borders):
            corners = [(left, top, left, top) for top, _, left, _ in borders]
            boxes = boxes - host_tensor(corners, boxes)[:, None]
        if rescale:
            boxes = rescale_boxes(boxes, [meta.get("scale_factor", (1, 1)) for meta in batch_img_metas])
        nms = given.nms if with_nms else None
        return [
            suppress(InstanceData(bboxes=box, scores=score, labels=label), nms, given.max_per_img)
            for box, score, label in zip(boxes, scores, labels, strict=True)
        ]


def _only_map(*levels: Sequence[Tensor]) -> list[Tensor]:
    """The one map of each kind.

    Raises:
        ValueError: There are several.
    """
    if any(len(each) != 1 for each in levels):
        raise ValueError(f"CenterNetHead predicts on one map, got {len(levels[0])}")
    return [each[0] for each in levels]


def _is_last(places: Tensor, present: Tensor, num_places: int) -> Tensor:
    """``BoolTensor[N]``: of several present objects at one of the places ``LongTensor[N]`` the last alone."""
    numbers = torch.arange(1, len(places) + 1, device=places.device) * present
    last = numbers.new_zeros(num_places).scatter_reduce_(0, places, numbers, "amax")
    return present & (last[places] == numbers)


def _at(values: Tensor, places: Tensor) -> Tensor:
    """What a map ``Tensor[B, C, H, W]`` holds at places ``LongTensor[B, N]``: ``Tensor[B, N, C]``."""
    index = places[:, None].expand(-1, values.shape[1], -1)
    return values.flatten(2).gather(2, index).transpose(1, 2)
