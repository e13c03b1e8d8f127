"""RTMDet: An Empirical Study of Designing Real-Time Object Detectors (Lyu et al. 2022, arXiv 2212.07784).

CSPNeXt with a path aggregation pyramid (strides 8, 16, 32) and no anchors: every cell of every level predicts
K independent class probabilities and the distances (l, t, r, b) from its upper left corner to the sides of a
box, in strides. The convolutions of the head are one for all levels, but each level has batch norms of its
own (section 3.2): what levels hold differs in its statistics.

Training: which cells answer for which object follows from what they predict
(:class:`DynamicSoftLabelAssigner`). The score of a class is the quality of the box, too: the IoU of the
predicted box with its object is what the score of the object's class is to be (:class:`QualityFocalLoss`).
The box loss (GIoU) of each cell counts as much as that IoU. Both sums are divided by the sum of these IoUs.
The heads with masks are in :mod:`det_models.rtmdet_ins`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from det_models.dense import DenseHead, Losses
from det_models.dense_cfg import DenseTestCfg, DenseTrainCfg
from det_models.detector import SingleStageDetector
from det_models.metainfo import MetaInfo
from det_models.rtmdet_layers import (
    GROUP_NORM,
    RELU,
    SILU,
    Coder,
    Generator,
    each_last,
    geometric_mean_logit,
    last,
    set_up_cells,
    set_up_layers,
    start_rare,
    through,
    tower,
    towers,
)
from det_models.rtmdet_losses import detection_losses, match_cells
from det_models.scale import Scale
from det_models.towers import each_level
from detcore.engine import distributed
from detcore.nn import ModuleList
from detcore.nn.base_module import DeferredInit
from detcore.nn.build import ActCfg, ConvCfg, NormCfg
from detcore.nn.csp import BATCH_NORM, conv_kind
from detcore.structures import InstanceData


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

    strides: list[int]

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        with_objectness: bool = True,
        act_cfg: ActCfg = RELU,
        pred_kernel_size: int = 3,
        stacked_convs: int = 4,
        conv_cfg: ConvCfg = None,
        norm_cfg: NormCfg = GROUP_NORM,
        reg_decoded_bbox: bool = True,
        loss_centerness: nn.Module | None = None,
        init_cfg: DeferredInit = None,
        feat_channels: int = 256,
        anchor_generator: Generator = None,
        bbox_coder: Coder = None,
        loss_cls: nn.Module | None = None,
        loss_bbox: nn.Module | None = None,
        train_cfg: DenseTrainCfg | None = None,
        test_cfg: DenseTestCfg | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        set_up_cells(
            self, num_classes, in_channels,
            anchor_generator=anchor_generator, bbox_coder=bbox_coder, loss_cls=loss_cls, loss_bbox=loss_bbox,
            reg_decoded_bbox=reg_decoded_bbox, train_cfg=train_cfg, test_cfg=test_cfg,
        )  # fmt: skip
        set_up_layers(
            self, with_objectness=with_objectness, act_cfg=act_cfg, pred_kernel_size=pred_kernel_size,
            stacked_convs=stacked_convs, conv_cfg=conv_cfg, norm_cfg=norm_cfg, feat_channels=feat_channels,
        )  # fmt: skip

    def _init_layers(self) -> None:
        """Make the layers; a head of a user's own may make others."""
        self.cls_convs, self.reg_convs = tower(self), tower(self)
        self.rtm_cls, self.rtm_reg = last(self, self.cls_out_channels), last(self, 4)
        if self.with_objectness:
            self.rtm_obj = last(self, 1)
        self.scales = ModuleList(Scale() for _ in self.strides)

    def init_weights(self) -> None:
        """Initialise the weights; classes and objects start as rare."""
        fresh = not self.is_init
        super().init_weights()
        if fresh:
            start_rare(self)

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
        return each_level(self.forward_single, x, range(len(self.strides)))

    def forward_single(  # type: ignore[override]  # levels differ
        self, x: Tensor, level: int
    ) -> tuple[Tensor, Tensor]:
        """Predictions of one level, counted from 0, from its map ``Tensor[B, in_channels, H, W]``."""
        logits, reg_feature = self.rtm_cls(through(self.cls_convs, x)), through(self.reg_convs, x)
        if self.with_objectness:
            logits = geometric_mean_logit(logits, self.rtm_obj(reg_feature))
        distances = self.scales[level](self.rtm_reg(reg_feature).exp()).float()
        return logits, distances * self.strides[level]

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
        truth = (batch_gt_instances, batch_img_metas, batch_gt_instances_ignore)
        found = match_cells(self, cls_scores, bbox_preds, *truth)
        return detection_losses(self, cls_scores, bbox_preds, found)


class RTMDetSepBNHead(DenseHead):
    """Classes and boxes as of :class:`RTMDetHead`, with norm layers and last layers of each level's own.

    Args:
        num_classes: K.
        in_channels: Channels of the feature maps.
        share_conv: Whether levels share the convolutions before the last one.
        use_depthwise: Make these convolutions separable.
        norm_cfg: Kind of norm layer.
        act_cfg: Kind of activation.
        pred_kernel_size: Of the last convolutions.
        exp_on_reg: Distances are the exponential of what the layer gives.
        with_objectness: As of :class:`RTMDetHead`, like all that follow.
        stacked_convs: Convolutions before the last one, in each of the two networks.
        conv_cfg: Kind of convolution.
        reg_decoded_bbox: Has no effect.
        loss_centerness: Has no effect.
        init_cfg: How weights are initialised at first.
        feat_channels: Channels of the convolutions before the last one.
        anchor_generator: Makes the points.
        bbox_coder: Turns distances into boxes.
        loss_cls: Classification loss.
        loss_bbox: Box loss.
        train_cfg: How to match cells with ground truth.
        test_cfg: How to turn predictions into boxes.

    Raises:
        ValueError: The generator makes boxes or several points a cell.
    """

    strides: list[int]

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        share_conv: bool = True,
        use_depthwise: bool = False,
        norm_cfg: NormCfg = BATCH_NORM,
        act_cfg: ActCfg = SILU,
        pred_kernel_size: int = 1,
        exp_on_reg: bool = False,
        with_objectness: bool = True,
        stacked_convs: int = 4,
        conv_cfg: ConvCfg = None,
        reg_decoded_bbox: bool = True,
        loss_centerness: nn.Module | None = None,
        init_cfg: DeferredInit = None,
        feat_channels: int = 256,
        anchor_generator: Generator = None,
        bbox_coder: Coder = None,
        loss_cls: nn.Module | None = None,
        loss_bbox: nn.Module | None = None,
        train_cfg: DenseTrainCfg | None = None,
        test_cfg: DenseTestCfg | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        set_up_cells(
            self, num_classes, in_channels,
            anchor_generator=anchor_generator, bbox_coder=bbox_coder, loss_cls=loss_cls, loss_bbox=loss_bbox,
            reg_decoded_bbox=reg_decoded_bbox, train_cfg=train_cfg, test_cfg=test_cfg,
        )  # fmt: skip
        self.share_conv = share_conv
        self.use_depthwise = use_depthwise
        self.exp_on_reg = exp_on_reg
        set_up_layers(
            self, with_objectness=with_objectness, act_cfg=act_cfg, pred_kernel_size=pred_kernel_size,
            stacked_convs=stacked_convs, conv_cfg=conv_cfg, norm_cfg=norm_cfg, feat_channels=feat_channels,
        )  # fmt: skip

    def _init_layers(self) -> None:
        """Make the layers; a head of a user's own may make others."""
        kind = conv_kind(self.use_depthwise)
        self.cls_convs, self.reg_convs = (towers(self, kind, share=self.share_conv) for _ in range(2))
        self.rtm_cls, self.rtm_reg = each_last(self, self.cls_out_channels), each_last(self, 4)
        if self.with_objectness:
            self.rtm_obj = each_last(self, 1)

    def init_weights(self) -> None:
        """Initialise the weights; classes and objects start as rare."""
        fresh = not self.is_init
        super().init_weights()
        if fresh:
            start_rare(self)

    def forward(self, x: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        """Class logits and distances, a list of each; see :meth:`RTMDetHead.forward`."""
        return each_level(self.forward_single, x, range(len(self.strides)))

    def forward_single(  # type: ignore[override]  # levels differ
        self, x: Tensor, level: int
    ) -> tuple[Tensor, Tensor]:
        """Predictions of one level, counted from 0, from its map ``Tensor[B, in_channels, H, W]``."""
        logits = self.rtm_cls[level](through(self.cls_convs[level], x))
        reg_feature = through(self.reg_convs[level], x)
        if self.with_objectness:
            logits = geometric_mean_logit(logits, self.rtm_obj[level](reg_feature))
        distances = self.rtm_reg[level](reg_feature).float()
        return logits, (distances.exp() if self.exp_on_reg else distances) * self.strides[level]

    def loss_by_feat(
        self,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        batch_gt_instances: Sequence[InstanceData],
        batch_img_metas: Sequence[MetaInfo],
        batch_gt_instances_ignore: Sequence[InstanceData] | None = None,
    ) -> Losses:
        """Losses of every level; see :meth:`RTMDetHead.loss_by_feat`."""
        truth = (batch_gt_instances, batch_img_metas, batch_gt_instances_ignore)
        found = match_cells(self, cls_scores, bbox_preds, *truth)
        return detection_losses(self, cls_scores, bbox_preds, found)


def _on_several_gpus() -> bool:
    return distributed.world_size() > 1 and torch.distributed.get_backend() == "nccl"
