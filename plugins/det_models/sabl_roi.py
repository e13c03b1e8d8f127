"""SABL for R-CNNs: Side-Aware Boundary Localization (Wang et al., ECCV 2020, arXiv 1912.04260).

Each side of a region's box is found by itself: first in which of S buckets near the region's edge the side
lies, then where in the bucket (:class:`BucketingBBoxCoder`). How sure the buckets are of a box is a factor of
its score.

Features: two convolutions, then the rows of a region are averaged into one, with weights that
are learnt (attention), and the columns likewise: one sequence along x, one along y. Both are refined and
stretched to one entry a bucket. The left half of the sequence along x is for the left side, the right half,
mirrored, for the right side, likewise top and bottom; two linear layers give a logit and an offset an entry.

Training: regions with an object learn which bucket is the nearest to each side (binary cross entropy of every
bucket, over the number of sides), and the nearest ones their offset (smooth L1, over the number of regions).
The boxes do not depend on the class, so the head serves cascades, too, with buckets that become smaller.
"""

import itertools
from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from det_models.bbox_heads import BBoxHead, Targets
from det_models.bucketing_coder import BucketingBBoxCoder
from det_models.conv_fc import Branches
from det_models.host import host_tensor
from det_models.losses.cross_entropy import CrossEntropyLoss
from det_models.losses.smooth_l1 import SmoothL1Loss
from det_models.metainfo import MetaInfo, each_meta, with_scale_factor
from det_models.postprocess import rescale_boxes
from det_models.samplers import SamplingResult
from det_models.two_stage_cfg import RCNNTestCfg, RCNNTrainCfg
from detcore.nn import ConvModule, ModuleList
from detcore.nn.base_module import DeferredInit
from detcore.nn.build import NormCfg
from detcore.ops import multiclass_nms
from detcore.registry import MODELS, TASK_UTILS
from detcore.structures import InstanceData

Sides = tuple[Tensor, Tensor]  # logits and offsets of the buckets
_INIT_CFG = [
    {
        "type": "Xavier",
        "layer": "Linear",
        "distribution": "uniform",
        "override": [
            {"type": "Normal", "name": "reg_conv_att_x", "std": 0.01},
            {"type": "Normal", "name": "reg_conv_att_y", "std": 0.01},
            {"type": "Normal", "name": "fc_reg_cls", "std": 0.01},
            {"type": "Normal", "name": "fc_cls", "std": 0.01},
            {"type": "Normal", "name": "fc_reg_offset", "std": 0.001},
        ],
    },
    {
        "type": "Kaiming",
        "distribution": "normal",
        "override": [{"name": "upsample_x"}, {"name": "upsample_y"}],
    },
]


class SABLHead(BBoxHead):
    """Classes and sides of regions from their features; see this module's docstring.

    Args:
        num_classes: K, without background.
        cls_in_channels: Channels of a region's features.
        reg_in_channels: The same.
        roi_feat_size: Their height and width.
        reg_feat_up_ratio: How many entries of a sequence come of one cell.
        reg_pre_kernel: Kernel of the convolutions before the attention.
        reg_post_kernel: Kernel of those behind it.
        reg_pre_num: Number of the former.
        reg_post_num: Number of the latter, along each axis.
        cls_out_channels: Numbers that the linear layers of the classes give.
        reg_offset_out_channels: Numbers that those of the offsets give.
        reg_cls_out_channels: Numbers that those of the buckets give.
        num_cls_fcs: Linear layers before the last one, of the classes.
        num_reg_fcs: Likewise, of the offsets and of the buckets.
        reg_class_agnostic: True: boxes do not depend on the class.
        norm_cfg: Kind of norm layer, None for none.
        bbox_coder: Turns buckets into boxes; by default 14 of them along each axis of 1.7 times the region.
        loss_cls: Classification loss, by default the cross entropy of a softmax.
        loss_bbox_cls: Loss of the buckets, by default their binary cross entropy.
        loss_bbox_reg: Loss of the offsets, by default smooth L1.
        init_cfg: How weights are initialised; by default as in the paper.

    Attributes:
        side_num: S, the buckets of a side.

    Raises:
        ValueError: Arguments that do not fit one another.
    """

    bbox_coder: BucketingBBoxCoder

    def __init__(
        self,
        num_classes: int,
        cls_in_channels: int = 256,
        reg_in_channels: int = 256,
        roi_feat_size: int = 7,
        reg_feat_up_ratio: int = 2,
        reg_pre_kernel: int = 3,
        reg_post_kernel: int = 3,
        reg_pre_num: int = 2,
        reg_post_num: int = 1,
        cls_out_channels: int = 1024,
        reg_offset_out_channels: int = 256,
        reg_cls_out_channels: int = 256,
        num_cls_fcs: int = 1,
        num_reg_fcs: int = 0,
        reg_class_agnostic: bool = True,
        norm_cfg: NormCfg = None,
        bbox_coder: Annotated[BucketingBBoxCoder | None, TASK_UTILS] = None,
        loss_cls: nn.Module | None = None,
        loss_bbox_cls: nn.Module | None = None,
        loss_bbox_reg: nn.Module | None = None,
        init_cfg: DeferredInit = None,
    ) -> None:
        if not reg_class_agnostic:
            raise ValueError("SABLHead has one box a region: reg_class_agnostic must be True, got False")
        self.cls_in_channels, self.reg_in_channels = cls_in_channels, reg_in_channels
        self.reg_feat_up_ratio = reg_feat_up_ratio
        self.reg_pre_kernel, self.reg_post_kernel = reg_pre_kernel, reg_post_kernel
        self.reg_pre_num, self.reg_post_num = reg_pre_num, reg_post_num
        self.cls_out_channels = cls_out_channels
        self.reg_offset_out_channels = reg_offset_out_channels
        self.reg_cls_out_channels = reg_cls_out_channels
        self.num_cls_fcs, self.num_reg_fcs = num_cls_fcs, num_reg_fcs
        self.norm_cfg = norm_cfg
        super().__init__(
            roi_feat_size=roi_feat_size,
            in_channels=cls_in_channels,
            num_classes=num_classes,
            bbox_coder=bbox_coder or BucketingBBoxCoder(num_buckets=14, scale_factor=1.7),
            reg_class_agnostic=True,
            loss_cls=loss_cls,
            loss_bbox=loss_bbox_reg or SmoothL1Loss(beta=0.1),
            init_cfg=init_cfg or _INIT_CFG,
        )
        self.loss_bbox_reg = self.loss_bbox
        self.loss_bbox_cls: nn.Module = MODELS.build(loss_bbox_cls or CrossEntropyLoss(use_sigmoid=True))

    def _make_layers(self, branches: Branches) -> None:
        """Make its own layers in place of the usual ``branches``."""
        self.side_num, ratio = self.bbox_coder.side_num, self.reg_feat_up_ratio
        channels, (height, width) = self.reg_in_channels, self.roi_feat_size
        if ratio < 2 or height != width or height * ratio != self.bbox_coder.num_buckets:
            raise ValueError(
                f"a sequence has roi_feat_size * reg_feat_up_ratio (2 or more) entries, one for each of the "
                f"{self.bbox_coder.num_buckets} buckets; got {self.roi_feat_size} and {ratio}"
            )
        self.cls_fcs = _linears(
            self.cls_in_channels * self.roi_feat_area, self.cls_out_channels, self.num_cls_fcs, "cls_out"
        )
        self.fc_cls = nn.Linear(self.cls_out_channels, self.cls_channels)
        pre, post = self.reg_pre_kernel, self.reg_post_kernel
        self.reg_pre_convs = self._convs(self.reg_pre_num, pre, pre)
        self.reg_conv_att_x, self.reg_conv_att_y = (nn.Conv2d(channels, 1, 1) for _ in range(2))
        self.reg_post_conv_xs = self._convs(self.reg_post_num, 1, post)
        self.reg_post_conv_ys = self._convs(self.reg_post_num, post, 1)
        self.upsample_x, self.upsample_y = (
            nn.ConvTranspose1d(channels, channels, ratio, stride=ratio) for _ in range(2)
        )
        self.reg_cls_fcs = _linears(channels, self.reg_cls_out_channels, self.num_reg_fcs, "reg_cls_out")
        self.reg_offset_fcs = _linears(
            channels, self.reg_offset_out_channels, self.num_reg_fcs, "reg_offset_out"
        )
        self.fc_reg_cls = nn.Linear(self.reg_cls_out_channels, 1)
        self.fc_reg_offset = nn.Linear(self.reg_offset_out_channels, 1)

    def _convs(self, number: int, height: int, width: int) -> ModuleList:
        channels, padding = self.reg_in_channels, (height // 2, width // 2)
        return ModuleList(
            ConvModule(channels, channels, (height, width), padding=padding, norm_cfg=self.norm_cfg)
            for _ in range(number)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Sides]:  # type: ignore[override]
        """Predictions for N regions.

        Args:
            x: ``Tensor[N, in_channels, h, w]``.

        Returns:
            Logits ``Tensor[N, K + 1]``, background last; logits and offsets of the buckets of left, right,
            top, bottom, ``Tensor[N, 4 * S]`` each.
        """
        sides = self.reg_forward(x)
        return self.cls_forward(x), sides

    def cls_forward(self, cls_x: Tensor) -> Tensor:
        """Class logits ``Tensor[N, K + 1]`` of ``Tensor[N, in_channels, h, w]``."""
        logits: Tensor = self.fc_cls(self._through(self.cls_fcs, cls_x.flatten(1)))
        return logits

    def reg_forward(self, reg_x: Tensor) -> Sides:
        """Logits and offsets of the buckets of ``Tensor[N, in_channels, h, w]``; see :meth:`forward`."""
        sequences = self.side_aware_feature_extractor(reg_x)
        logits, offsets = zip(*map(self._of_entries, sequences), strict=True)
        return self._of_sides(logits), self._of_sides(offsets)

    def side_aware_feature_extractor(self, reg_x: Tensor) -> tuple[Tensor, Tensor]:
        """Sequences along x and y, ``Tensor[N, num_buckets, in_channels]`` each."""
        for conv in self.reg_pre_convs:
            reg_x = conv(reg_x)
        axes = (
            (2, self.reg_conv_att_x, self.reg_post_conv_xs, self.upsample_x),
            (3, self.reg_conv_att_y, self.reg_post_conv_ys, self.upsample_y),
        )
        sequences = []
        for away, attention, convs, upsample in axes:
            weights = attention(reg_x).sigmoid()
            pooled = (reg_x * (weights / weights.sum(away, keepdim=True))).sum(away, keepdim=True)
            for conv in convs:
                pooled = conv(pooled)
            sequences.append(self.relu(upsample(pooled.squeeze(away))).transpose(1, 2))
        return sequences[0], sequences[1]

    def _of_entries(self, sequence: Tensor) -> Sides:
        """Logits and offsets ``Tensor[N, num_buckets]`` of the entries of a sequence."""
        logits = self.fc_reg_cls(self._through(self.reg_cls_fcs, sequence))
        offsets = self.fc_reg_offset(self._through(self.reg_offset_fcs, sequence))
        return logits[..., 0], offsets[..., 0]

    def _of_sides(self, axes: Sequence[Tensor]) -> Tensor:
        """``Tensor[N, 4 * S]``, from outside to inside, of what entries along x and y have."""
        halves = [(axis[:, : self.side_num], axis[:, -self.side_num :].flip(1)) for axis in axes]
        return torch.cat([*itertools.chain(*halves)], dim=1)

    def _through(self, linears: ModuleList, x: Tensor) -> Tensor:
        for linear in linears:
            x = self.relu(linear(x))
        return x

    # -- training --------------------------------------------------------------------------------

    @torch.no_grad()
    def get_targets(
        self, sampling_results: Sequence[SamplingResult], rcnn_train_cfg: RCNNTrainCfg, concat: bool = True
    ) -> Targets:
        """What the sampled regions of a batch are to predict.

        Args:
            sampling_results: One an image.
            rcnn_train_cfg: Has no effect: all regions weigh the same.
            concat: Give one tensor for all images, or a list with one an image.

        Returns:
            Labels ``LongTensor[N]`` (K for background), their weights ``Tensor[N]``; labels and offsets of
            the buckets, ``Tensor[N, 4 * S]`` each; their weights, likewise. In the order of
            ``SamplingResult.priors``.
        """
        positives = torch.cat([one.pos_priors for one in sampling_results])
        wanted = self.bbox_coder.encode(positives, torch.cat([one.pos_gt_bboxes for one in sampling_results]))
        rows, total, start = [], len(positives), 0
        for one in sampling_results:  # behind the positives of all images stands what negatives get
            rows += [*range(start, start + one.num_pos), *[total] * one.num_neg]
            start += one.num_pos
        index = host_tensor(rows, positives, torch.long)
        labels = F.pad(torch.cat([one.pos_gt_labels for one in sampling_results]), (0, 1))
        labels = torch.where(index < total, labels[index], self.num_classes)
        weights = torch.ones_like(labels, dtype=positives.dtype)
        offsets, offset_weights, buckets, bucket_weights = (F.pad(x, (0, 0, 0, 1))[index] for x in wanted)
        if concat:
            return labels, weights, (buckets, offsets), (bucket_weights, offset_weights)
        counts = [one.num_pos + one.num_neg for one in sampling_results]

        def each(values: Tensor) -> list[Tensor]:
            return list(values.split(counts))

        targets, target_weights = (each(buckets), each(offsets)), (each(bucket_weights), each(offset_weights))
        return each(labels), each(weights), targets, target_weights

    def loss(  # type: ignore[override]  # two tensors for the boxes
        self,
        cls_score: Tensor | None,
        bbox_pred: Sides | None,
        rois: Tensor,
        labels: Tensor,
        label_weights: Tensor,
        bbox_targets: Sides | None = None,
        bbox_weights: Sides | None = None,
        reduction_override: str | None = None,
    ) -> dict[str, Tensor]:
        """``loss_cls``, ``acc``, ``loss_bbox_cls``, ``loss_bbox_reg``; see :meth:`get_targets`."""
        losses = super().loss(
            cls_score, None, rois, labels, label_weights, reduction_override=reduction_override
        )
        if bbox_pred is None or bbox_targets is None or bbox_weights is None:
            return losses
        buckets = [each[0].reshape(-1, self.side_num) for each in (bbox_pred, bbox_targets, bbox_weights)]
        offsets = [each[1] for each in (bbox_pred, bbox_targets, bbox_weights)]
        for name, loss, given in (
            ("loss_bbox_cls", self.loss_bbox_cls, buckets),
            ("loss_bbox_reg", self.loss_bbox_reg, offsets),
        ):
            number = max(1, len(given[0]))
            losses[name] = loss(*given, avg_factor=number, reduction_override=reduction_override)
        return losses

    # -- prediction ------------------------------------------------------------------------------

    def _predict_by_feat_single(  # type: ignore[override]
        self,
        roi: Tensor,
        cls_score: Tensor,
        bbox_pred: Sides,
        img_meta: MetaInfo,
        rescale: bool = False,
        rcnn_test_cfg: RCNNTestCfg | None = None,
    ) -> InstanceData:
        """:meth:`predict_by_feat` of one image; scores are multiplied by how sure the buckets are."""
        scores = self.probabilities(cls_score)
        boxes, sureness = self._decode(roi[:, 1:5], bbox_pred, img_meta)
        if rescale and len(boxes):
            factors = each_meta([with_scale_factor(img_meta)], "scale_factor")
            boxes = rescale_boxes(boxes[None], factors)[0]
        if rcnn_test_cfg is None:
            return InstanceData(bboxes=boxes, scores=scores)
        dets, labels = multiclass_nms(
            boxes,
            scores,
            rcnn_test_cfg.score_thr,
            rcnn_test_cfg.nms,
            rcnn_test_cfg.max_per_img,
            score_factors=sureness,
        )
        return InstanceData(bboxes=dets[:, :4], scores=dets[:, 4], labels=labels)

    def regress_by_class(  # type: ignore[override]
        self, priors: Tensor, label: Tensor, bbox_pred: Sides, img_meta: MetaInfo
    ) -> Tensor:
        """One image's regions where their buckets say, whatever the class; of the shape of ``priors``.

        Args:
            priors: ``Tensor[N, 4]``, xyxy, or ``Tensor[N, 5]`` with the image's number in front.
            label: Has no effect.
            bbox_pred: Logits and offsets of the buckets, ``Tensor[N, 4 * S]`` each.
            img_meta: ``img_shape``.
        """
        boxes, _ = self._decode(priors[:, -4:], bbox_pred, img_meta)
        return torch.cat([priors[:, :-4], boxes], dim=1)

    def _decode(self, boxes: Tensor, bbox_pred: Sides, img_meta: MetaInfo) -> Sides:
        (shape,) = each_meta([img_meta], "img_shape")
        return self.bbox_coder.decode(boxes, [each.float() for each in bbox_pred], max_shape=shape[:2])


def _linears(in_channels: int, out_channels: int, number: int, name: str) -> ModuleList:
    """Linear layers one after another, whose last one gives ``out_channels`` numbers."""
    if not number and in_channels != out_channels:
        raise ValueError(
            f"without linear layers before the last one {name}_channels must be {in_channels}, "
            f"as many as go in; got {out_channels}"
        )
    numbers = [in_channels] + [out_channels] * number
    return ModuleList(nn.Linear(before, after) for before, after in itertools.pairwise(numbers))
