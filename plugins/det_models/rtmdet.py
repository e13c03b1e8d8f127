"""RTMDet: An Empirical Study of Designing Real-Time Object Detectors (Lyu et al. 2022, arXiv 2212.07784).

CSPNeXt with a path aggregation pyramid (strides 8, 16, 32) and no anchors: every cell of every level predicts
K independent class probabilities and the distances (l, t, r, b) from its upper left corner to the sides of a
box, in strides. The convolutions of the head are one for all levels, but each level has batch norms of its
own (section 3.2): what levels hold differs in its statistics.

Training: which cells answer for which object follows from what they predict
(:class:`DynamicSoftLabelAssigner`). The score of a class is the quality of the box, too: the IoU of the
predicted box with its object is what the score of the object's class is to be (:class:`QualityFocalLoss`).
The box loss (GIoU) of each cell counts as much as that IoU. Both sums are divided by the sum of these IoUs.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from det_models.anchors import AnchorGenerator
from det_models.coders import BaseBBoxCoder, DistancePointBBoxCoder
from det_models.dense import DenseHead, Losses
from det_models.dense_cfg import DenseTestCfg, DenseTrainCfg
from det_models.dense_targets import regressed_rows, valid_priors
from det_models.detector import SingleStageDetector
from det_models.dynamic_k_assign import PredictedMatches, match_predictions
from det_models.host import reduce_mean
from det_models.losses.gfocal import QualityFocalLoss
from det_models.losses.iou import GIoULoss
from det_models.metainfo import MetaInfo
from det_models.points import MlvlPointGenerator
from det_models.postprocess import flatten_levels
from det_models.scale import Scale
from det_models.truth import GroundTruth
from detcore.engine import distributed
from detcore.nn import ConvModule, ModuleList, bias_init_with_prob, constant_init, is_norm, normal_init
from detcore.nn.base_module import DeferredInit
from detcore.nn.build import ActCfg, ConvCfg, NormCfg
from detcore.nn.csp import BATCH_NORM, conv_kind
from detcore.registry import TASK_UTILS
from detcore.structures import InstanceData

_PRIOR_PROBABILITY = 0.01
_EPS = 1e-5  # of a probability, before its logit is taken
_GROUP_NORM = {"type": "GN", "num_groups": 32, "requires_grad": True}
_RELU = {"type": "ReLU"}
_SILU = {"type": "SiLU"}


class RTMDet(SingleStageDetector):
    """Backbone, path aggregation pyramid and :class:`RTMDetSepBNHead`; see this module's docstring.

    Args:
        backbone: Feature maps of an image batch.
        neck: Feature maps of the backbone's; None for none.
        bbox_head: As of :class:`SingleStageDetector`.
        train_cfg: In configs: handed to the head.
        test_cfg: In configs: handed to the head.
        data_preprocessor: From a loader's batch to the network's input.
        init_cfg: How the whole starts.
        use_syncbn: Batch norms see the batches of all ranks, where there are several GPUs.
    """

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module | None = None,
        bbox_head: nn.Module | None = None,
        train_cfg: dict[str, Any] | None = None,
        test_cfg: dict[str, Any] | None = None,
        data_preprocessor: nn.Module | None = None,
        init_cfg: DeferredInit = None,
        use_syncbn: bool = True,
    ) -> None:
        super().__init__(backbone, neck, bbox_head, train_cfg, test_cfg, data_preprocessor, init_cfg)
        if use_syncbn and _on_several_gpus():
            nn.SyncBatchNorm.convert_sync_batchnorm(self)


class RTMDetHead(DenseHead):
    """Classes and boxes of the cells of every level, by layers that all levels share.

    Args:
        num_classes: K.
        in_channels: Channels of the feature maps.
        with_objectness: Predict beside the boxes whether there is an object at all; scores are the roots of
            the products of both probabilities.
        act_cfg: Kind of activation.
        pred_kernel_size: Of the last convolutions.
        stacked_convs: Convolutions before the last one, in each of the two networks.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of norm layer.
        reg_decoded_bbox: Has no effect: boxes are compared.
        loss_centerness: Has no effect; here for the sake of configs.
        init_cfg: How weights are initialised before :meth:`init_weights` sets those of the head.
        feat_channels: Channels of the convolutions before the last one.
        anchor_generator: Makes the points, one a cell; by default the cells' upper left corners.
        bbox_coder: Turns distances into boxes.
        loss_cls: Classification loss, by default :class:`QualityFocalLoss`; its targets are labels and
            qualities.
        loss_bbox: Box loss, by default twice the GIoU loss.
        train_cfg: How to match cells with ground truth; assigners get logits.
        test_cfg: How to turn predictions into boxes.

    Raises:
        ValueError: The generator makes boxes or several points a cell.
    """

    cls_convs: Any  # of all levels, or one of each
    reg_convs: Any
    rtm_cls: Any
    rtm_reg: Any
    rtm_obj: Any

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        with_objectness: bool = True,
        act_cfg: ActCfg = _RELU,
        pred_kernel_size: int = 3,
        stacked_convs: int = 4,
        conv_cfg: ConvCfg = None,
        norm_cfg: NormCfg = _GROUP_NORM,
        reg_decoded_bbox: bool = True,
        loss_centerness: nn.Module | None = None,
        init_cfg: DeferredInit = None,
        feat_channels: int = 256,
        anchor_generator: Annotated[AnchorGenerator | MlvlPointGenerator | None, TASK_UTILS] = None,
        bbox_coder: Annotated[BaseBBoxCoder | None, TASK_UTILS] = None,
        loss_cls: nn.Module | None = None,
        loss_bbox: nn.Module | None = None,
        train_cfg: DenseTrainCfg | None = None,
        test_cfg: DenseTestCfg | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.set_up(
            num_classes,
            in_channels,
            prior_generator=anchor_generator or MlvlPointGenerator([8, 16, 32], offset=0),
            bbox_coder=bbox_coder or DistancePointBBoxCoder(),
            loss_cls=loss_cls or QualityFocalLoss(),
            loss_bbox=loss_bbox or GIoULoss(loss_weight=2.0),
            reg_decoded_bbox=reg_decoded_bbox,
            train_cfg=train_cfg,
            test_cfg=test_cfg,
        )
        if isinstance(self.prior_generator, AnchorGenerator) or self.num_base_priors != 1:
            raise ValueError(
                f"{type(self).__name__} takes one point a cell (anchor_generator=dict(type="
                f"'MlvlPointGenerator', ...)), got {self.prior_generator}"
            )
        self.strides: list[int] = [stride for stride, _ in self.prior_generator.strides]
        self.with_objectness: bool = with_objectness
        self.act_cfg = act_cfg
        self.pred_kernel_size: int = pred_kernel_size
        self.stacked_convs: int = stacked_convs
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg
        self.feat_channels: int = feat_channels
        self._init_layers()

    def _init_layers(self) -> None:
        """Make the layers; a head of a user's own may make others."""
        self.cls_convs, self.reg_convs = self._tower(ConvModule), self._tower(ConvModule)
        self.rtm_cls = self._last(self.cls_out_channels)
        self.rtm_reg = self._last(4)
        if self.with_objectness:
            self.rtm_obj = self._last(1)
        self.scales = ModuleList(Scale() for _ in self.strides)

    def _tower(self, kind: Any) -> ModuleList:
        names = ("conv_cfg", "norm_cfg", "act_cfg")
        kinds: dict[str, Any] = {name: getattr(self, name) for name in names}
        return ModuleList(
            kind(
                self.feat_channels if number else self.in_channels,
                self.feat_channels, 3, stride=1, padding=1, **kinds,
            )
            for number in range(self.stacked_convs)
        )  # fmt: skip

    def _last(self, out_channels: int) -> nn.Conv2d:
        channels = self.feat_channels if self.stacked_convs else self.in_channels
        kernel = self.pred_kernel_size
        return nn.Conv2d(channels, out_channels, kernel, padding=kernel // 2)

    def init_weights(self) -> None:
        """Initialise the weights; classes and objects start as rare."""
        fresh = not self.is_init
        super().init_weights()
        for name, layer in self.named_modules() if fresh else ():
            if isinstance(layer, nn.Conv2d):
                rare = name.startswith(("rtm_cls", "rtm_obj"))
                normal_init(layer, std=0.01, bias=bias_init_with_prob(_PRIOR_PROBABILITY) if rare else 0)
            elif is_norm(layer):
                constant_init(layer, 1)

    def forward(self, x: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        """Class logits and distances, a list of each.

        Args:
            x: ``Tensor[B, in_channels, H, W]`` a level.

        Returns:
            ``Tensor[B, num_classes, H, W]`` and ``Tensor[B, 4, H, W]``, left, top, right, bottom in pixels
            and float32, a level.

        Raises:
            ValueError: Another number of maps than the head has levels.
        """
        if len(x) != len(self.strides):
            raise ValueError(f"{len(x)} feature maps for {len(self.strides)} strides {self.strides}")
        levels = [self.forward_single(each, number) for number, each in enumerate(x)]
        return tuple(map(list, zip(*levels, strict=True)))

    def forward_single(  # type: ignore[override]  # levels differ
        self, x: Tensor, level: int
    ) -> tuple[Tensor, Tensor]:
        """Predictions of one level, counted from 0, from its map ``Tensor[B, in_channels, H, W]``."""
        cls_feature = reg_feature = x
        for conv in self.cls_convs:
            cls_feature = conv(cls_feature)
        for conv in self.reg_convs:
            reg_feature = conv(reg_feature)
        logits = self.rtm_cls(cls_feature)
        if self.with_objectness:
            logits = geometric_mean_logit(logits, self.rtm_obj(reg_feature))
        distances = self.scales[level](self.rtm_reg(reg_feature).exp()).float()
        return logits, distances * self.strides[level]

    # -- training --------------------------------------------------------------------------------

    def loss_by_feat(
        self,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        batch_gt_instances: Sequence[InstanceData],
        batch_img_metas: Sequence[MetaInfo],
        batch_gt_instances_ignore: Sequence[InstanceData] | None = None,
    ) -> Losses:
        """Losses of every level.

        Args:
            cls_scores: Class logits, as from :meth:`forward`.
            bbox_preds: Distances, as from :meth:`forward`.
            batch_gt_instances: ``bboxes`` (``Tensor[N, 4]``, xyxy, pixels of the input) and ``labels`` of
                each image.
            batch_img_metas: ``img_shape`` and ``pad_shape`` of each image.
            batch_gt_instances_ignore: Not looked at, unless by an assigner of a user's own.

        Returns:
            ``loss_cls`` and ``loss_bbox``, a scalar a level each.
        """
        truth = GroundTruth.pack(batch_gt_instances, batch_gt_instances_ignore, self.num_classes)
        sizes = [(score.shape[-2], score.shape[-1]) for score in cls_scores]
        generator: Any = self.prior_generator  # of points, which come with their strides
        points = generator.grid_priors(sizes, device=cls_scores[0].device, with_stride=True)
        cells = [torch.cat((each[:, :2], each[:, :2] + each[:, 2:]), dim=1) for each in points]
        border = self._train_cfg().allowed_border
        valid = valid_priors(generator, cells, sizes, batch_img_metas, border)
        found = self._match(torch.cat(points), cls_scores, bbox_preds, truth, valid)
        total = reduce_mean(found.overlaps.sum()).clamp(min=1)
        wanted = (truth.labels_at(found.matches, self.num_classes), found.overlaps)
        lengths = [len(each) for each in cells]
        parts = [each.split(lengths, dim=1) for each in (found.matches, found.overlaps)]
        losses = [
            self._box_loss_of(pred, level_cells, matches, overlaps, truth)
            for pred, level_cells, matches, overlaps in zip(bbox_preds, cells, *parts, strict=True)
        ]
        return {
            "loss_cls": self.class_losses(cls_scores, wanted, self._weights(found.matches), total),
            "loss_bbox": [loss / total for loss in losses],
        }

    @torch.no_grad()
    def _match(
        self,
        points: Tensor,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        truth: GroundTruth,
        valid: Tensor | None,
    ) -> PredictedMatches:
        """Which of all A points (``Tensor[A, 4]``, x, y, stride, stride) answer for which box."""
        logits = flatten_levels(cls_scores, self.cls_out_channels).float()
        boxes = self.bbox_coder.decode(points, flatten_levels(bbox_preds, 4).float())
        return match_predictions(self._train_cfg().assigner, points, boxes, logits, truth, valid)

    def _weights(self, matches: Tensor) -> Tensor:
        """How much each cell counts in the loss of the class, ``Tensor[B, A]``."""
        weights = (matches >= 0).float()
        pos_weight = self._train_cfg().pos_weight
        return torch.where(matches > 0, pos_weight, weights) if pos_weight > 0 else weights

    def _box_loss_of(
        self, bbox_pred: Tensor, cells: Tensor, matches: Tensor, overlaps: Tensor, truth: GroundTruth
    ) -> Tensor:
        """Sum of one level's box losses, each times its overlap, from distances ``Tensor[B, 4, H, W]``."""
        rows = regressed_rows(matches, cells, truth)
        # Rows without an object have the weight 0. But what is no number stays none times 0: they get a box.
        distances = torch.where(rows.weights > 0, rows.of(bbox_pred, 4), 1)
        boxes = self.bbox_coder.decode(rows.priors[:, :2], distances)
        weights = overlaps.flatten()[rows.index] * rows.weights[:, 0]
        loss: Tensor = self.loss_bbox(boxes, rows.gt_boxes, weight=weights, avg_factor=1.0)
        return loss


class RTMDetSepBNHead(RTMDetHead):
    """:class:`RTMDetHead` whose levels share convolutions, and have norm layers and last layers of their own.

    Args:
        num_classes: K.
        in_channels: Channels of the feature maps.
        share_conv: Whether levels share the convolutions before the last one.
        use_depthwise: Make these convolutions separable.
        norm_cfg: Kind of norm layer.
        act_cfg: Kind of activation.
        pred_kernel_size: Of the last convolutions.
        exp_on_reg: Distances are the exponential of what the layer gives.
        **kwargs: Further arguments of :class:`RTMDetHead`.

    Raises:
        ValueError: The generator makes boxes or several points a cell.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        share_conv: bool = True,
        use_depthwise: bool = False,
        norm_cfg: NormCfg = BATCH_NORM,
        act_cfg: ActCfg = _SILU,
        pred_kernel_size: int = 1,
        exp_on_reg: bool = False,
        **kwargs: Any,
    ) -> None:
        # Plain values, which modules may hold before they are set up.
        self.share_conv, self.use_depthwise, self.exp_on_reg = share_conv, use_depthwise, exp_on_reg
        super().__init__(
            num_classes,
            in_channels,
            norm_cfg=norm_cfg,
            act_cfg=act_cfg,
            pred_kernel_size=pred_kernel_size,
            **kwargs,
        )

    def _init_layers(self) -> None:
        """Make the layers; a head of a user's own may make others."""
        kind = conv_kind(self.use_depthwise)
        self.cls_convs, self.reg_convs = (
            ModuleList(self._tower(kind) for _ in self.strides) for _ in range(2)
        )
        self.rtm_cls, self.rtm_reg = (
            ModuleList(self._last(size) for _ in self.strides) for size in (self.cls_out_channels, 4)
        )
        if self.with_objectness:
            self.rtm_obj = ModuleList(self._last(1) for _ in self.strides)
        if self.share_conv:
            for towers in (self.cls_convs, self.reg_convs):
                first, *others = towers
                for tower in others:
                    _share_convs(first, tower)

    def forward_single(  # type: ignore[override]  # levels differ
        self, x: Tensor, level: int
    ) -> tuple[Tensor, Tensor]:
        """Predictions of one level, counted from 0, from its map ``Tensor[B, in_channels, H, W]``."""
        cls_feature = reg_feature = x
        for conv in self.cls_convs[level]:
            cls_feature = conv(cls_feature)
        for conv in self.reg_convs[level]:
            reg_feature = conv(reg_feature)
        logits = self.rtm_cls[level](cls_feature)
        if self.with_objectness:
            logits = geometric_mean_logit(logits, self.rtm_obj[level](reg_feature))
        distances = self.rtm_reg[level](reg_feature).float()
        return logits, (distances.exp() if self.exp_on_reg else distances) * self.strides[level]


def geometric_mean_logit(first: Tensor, second: Tensor) -> Tensor:
    """The logit of the root of the product of two probabilities that are given as logits, in float32."""
    root = ((F.logsigmoid(first.float()) + F.logsigmoid(second.float())) / 2).exp()
    return root.clamp(min=_EPS).log() - (1 - root).clamp(min=_EPS).log()


def _share_convs(first: nn.Module, other: nn.Module) -> None:
    """Give the blocks of a tower the convolutions of another one, not its norm layers."""
    pairs = zip(first.modules(), other.modules(), strict=True)
    for one, its in [pair for pair in pairs if isinstance(pair[1], ConvModule)]:
        its.conv = one.conv


def _on_several_gpus() -> bool:
    return distributed.world_size() > 1 and torch.distributed.get_backend() == "nccl"
