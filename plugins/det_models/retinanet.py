"""RetinaNet: Focal Loss for Dense Object Detection (Lin et al., ICCV 2017, arXiv 1708.02002).

A backbone with a feature pyramid (levels P3 to P7, strides 8 to 128). At each cell of each level stand A = 9
anchors: three shapes (1:2, 1:1, 2:1) in three sizes (4 times the stride, times 2^0, 2^(1/3), 2^(2/3)). Two
small networks that do not share weights, but share theirs over all levels, predict for each anchor K
independent class probabilities and four box offsets (section 4, figure 3).

Training: an anchor answers for the object that it overlaps by at least 0.5 (and for one that overlaps no
other anchor more), is background below 0.4, and is left out in between. All anchors enter the
classification loss, a sum over hundreds of thousands of easy backgrounds, which is why it is the focal
loss, eq. 5: ``FL(p_t) = -alpha_t (1 - p_t)^gamma log(p_t)``. Anchors with an object enter the box loss.
Both sums are divided by the number of anchors with an object. The last layer's bias starts so that every
class has the probability pi = 0.01 (section 3.3), otherwise the backgrounds would drown all else in the
first steps.
"""
from collections.abc import Sequence
from typing import Annotated

from torch import Tensor, nn

from det_models.anchors import AnchorGenerator
from det_models.coders import BaseBBoxCoder, DeltaXYWHBBoxCoder
from det_models.dense import DenseHead, DenseTestCfg, DenseTrainCfg, Losses, MetaInfo
from det_models.detector import SingleStageDetector
from det_models.losses.focal import FocalLoss
from det_models.losses.smooth_l1 import L1Loss
from det_models.postprocess import flatten_level
from det_models.truth import GroundTruth
from detcore.nn import ConvModule, ModuleList
from detcore.nn.base_module import DeferredInit
from detcore.nn.build import ConvCfg, NormCfg
from detcore.registry import TASK_UTILS
from detcore.structures import InstanceData

_PRIOR_PROBABILITY = 0.01  # pi of section 3.3
_INIT_CFG = {
    "type": "Normal",
    "layer": "Conv2d",
    "std": 0.01,
    "override": {"type": "Normal", "name": "retina_cls", "std": 0.01, "bias_prob": _PRIOR_PROBABILITY},
}


class RetinaNet(SingleStageDetector):
    """Backbone, feature pyramid and :class:`RetinaHead`; see this module's docstring."""


class RetinaHead(DenseHead):
    """Classes and boxes of the anchors of every level.

    Args:
        num_classes: K, without background.
        in_channels: Channels of the feature maps.
        stacked_convs: Convolutions before the last one, in each of the two networks.
        feat_channels: Their channels.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of norm layer, None for none.
        anchor_generator: Makes the anchors; by default those of the paper.
        bbox_coder: Turns box offsets into boxes; by default :class:`DeltaXYWHBBoxCoder`.
        reg_decoded_bbox: The box loss compares boxes, not offsets (IoU losses need it).
        loss_cls: Classification loss, by default the focal loss.
        loss_bbox: Box loss, by default L1.
        train_cfg: How to match anchors with ground truth.
        test_cfg: How to turn predictions into boxes.
        init_cfg: How weights are initialised.

    Attributes:
        cls_out_channels: K where the class loss is a sigmoid's, K + 1 where it is a softmax's.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        stacked_convs: int = 4,
        feat_channels: int = 256,
        conv_cfg: ConvCfg = None,
        norm_cfg: NormCfg = None,
        anchor_generator: Annotated[AnchorGenerator | None, TASK_UTILS] = None,
        bbox_coder: Annotated[BaseBBoxCoder | None, TASK_UTILS] = None,
        reg_decoded_bbox: bool = False,
        loss_cls: nn.Module | None = None,
        loss_bbox: nn.Module | None = None,
        train_cfg: DenseTrainCfg | None = None,
        test_cfg: DenseTestCfg | None = None,
        init_cfg: DeferredInit = _INIT_CFG,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.loss_cls = loss_cls or FocalLoss()
        self.loss_bbox = loss_bbox or L1Loss()
        self.use_sigmoid_cls = bool(getattr(self.loss_cls, "use_sigmoid", False))
        self.cls_out_channels = num_classes if self.use_sigmoid_cls else num_classes + 1
        self.prior_generator = anchor_generator or _paper_anchors()
        self.bbox_coder = bbox_coder or DeltaXYWHBBoxCoder()
        self.reg_decoded_bbox = reg_decoded_bbox
        self.train_cfg = train_cfg
        self.test_cfg = test_cfg

        def tower() -> ModuleList:
            channels = [in_channels] + [feat_channels] * stacked_convs
            return ModuleList(
                ConvModule(channels[i], channels[i + 1], 3, padding=1, conv_cfg=conv_cfg, norm_cfg=norm_cfg)
                for i in range(stacked_convs)
            )

        kinds = set(self.prior_generator.num_base_priors)
        if len(kinds) != 1:
            raise ValueError(f"levels share weights, so they need equally many anchors a cell; got {kinds}")
        self.num_base_priors = kinds.pop()
        last_channels = feat_channels if stacked_convs else in_channels
        self.cls_convs = tower()
        self.reg_convs = tower()
        num_scores = self.num_base_priors * self.cls_out_channels
        num_offsets = self.num_base_priors * self.bbox_coder.encode_size
        self.retina_cls = nn.Conv2d(last_channels, num_scores, 3, padding=1)
        self.retina_reg = nn.Conv2d(last_channels, num_offsets, 3, padding=1)

    def forward(self, x: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Predictions of every level.

        Args:
            x: ``Tensor[B, in_channels, H, W]`` a level.

        Returns:
            Class logits ``Tensor[B, A * cls_out_channels, H, W]`` and encoded boxes ``Tensor[B, A * 4, H,
            W]``, one of each a level.
        """
        cls_scores, bbox_preds = [], []
        for feature in x:
            cls_feature = reg_feature = feature
            for conv in self.cls_convs:
                cls_feature = conv(cls_feature)
            for conv in self.reg_convs:
                reg_feature = conv(reg_feature)
            cls_scores.append(self.retina_cls(cls_feature))
            bbox_preds.append(self.retina_reg(reg_feature))
        return cls_scores, bbox_preds

    def loss_by_feat(
        self,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        batch_gt_instances: Sequence[InstanceData],
        batch_img_metas: Sequence[MetaInfo],
        batch_gt_instances_ignore: Sequence[InstanceData] | None = None,
    ) -> Losses:
        """Losses of every level; their sum is the paper's.

        Args:
            cls_scores: Class logits, as from :meth:`forward`.
            bbox_preds: Encoded boxes, as from :meth:`forward`.
            batch_gt_instances: ``bboxes`` (``Tensor[N, 4]``, xyxy, pixels of the input) and ``labels`` of
                each image.
            batch_img_metas: ``img_shape`` and ``pad_shape`` of each image.
            batch_gt_instances_ignore: ``bboxes`` of each image in which nothing is to be learnt.

        Returns:
            ``loss_cls`` and ``loss_bbox``, a scalar a level each.
        """
        truth = GroundTruth.pack(batch_gt_instances, batch_gt_instances_ignore, self.num_classes)
        sizes = [(score.shape[-2], score.shape[-1]) for score in cls_scores]
        mlvl_priors = self.prior_generator.grid_priors(sizes, device=cls_scores[0].device)
        targets = self.get_targets(mlvl_priors, sizes, truth, batch_img_metas)
        lengths = [len(priors) for priors in mlvl_priors]
        losses: Losses = {"loss_cls": [], "loss_bbox": []}
        for cls_score, bbox_pred, priors, labels, weights, matches in zip(
            cls_scores,
            bbox_preds,
            mlvl_priors,
            targets.labels.split(lengths, dim=1),
            targets.label_weights.split(lengths, dim=1),
            targets.matches.split(lengths, dim=1),
            strict=True,
        ):
            losses["loss_cls"].append(
                self.class_loss(self.loss_cls, cls_score, labels, weights, targets.avg_factor)
            )
            rows = self.regressed_rows(matches, priors, truth)
            pred = flatten_level(bbox_pred, self.bbox_coder.encode_size).flatten(0, 1)[rows.index].float()
            if self.reg_decoded_bbox:
                pred, target = self.bbox_coder.decode(rows.priors, pred), rows.gt_boxes
            else:
                target = self.bbox_coder.encode(rows.priors, rows.gt_boxes)
            losses["loss_bbox"].append(
                self.loss_bbox(pred, target, rows.weights, avg_factor=targets.avg_factor)
            )
        return losses


def _paper_anchors() -> AnchorGenerator:
    """Section 4, 'Anchors': sides from 32 to 512 pixels and two more sizes in each octave."""
    return AnchorGenerator(
        strides=[8, 16, 32, 64, 128], ratios=[0.5, 1.0, 2.0], octave_base_scale=4, scales_per_octave=3
    )
