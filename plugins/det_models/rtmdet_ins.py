"""RTMDet-Ins: RTMDet with a mask of each object (Lyu et al. 2022, arXiv 2212.07784, section 3.4).

A third network beside those of classes and boxes predicts, at every cell, the weights of three 1x1
convolutions with 169 numbers in all. They turn eight feature maps, which all objects of the image share
(:class:`MaskFeatModule`), and the places of pixels as seen from the cell into the logits of a mask
(:class:`DynamicConvs`).

Training: to RTMDet's losses comes the Dice loss of the mask of every cell that answers for an object, at a
quarter of the input's size. At test time masks are made of the boxes that are left in the end, at an eighth
of the input's size, and enlarged.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from det_models.dense import DenseHead
from det_models.dense_cfg import DenseTrainCfg, as_settings
from det_models.metainfo import MetaInfo
from det_models.postprocess import Candidates
from det_models.rtmdet_layers import (
    GROUP_NORM,
    PLAIN_BATCH_NORM,
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
from det_models.rtmdet_mask_loss import mask_loss
from det_models.rtmdet_masks import MaskTestCfg, mask_features, mask_fields, set_up_masks, with_masks
from det_models.scale import Scale
from det_models.towers import each_level
from detcore.nn import ModuleList, normal_init
from detcore.nn.base_module import DeferredInit
from detcore.nn.build import ActCfg, ConvCfg, NormCfg
from detcore.structures import InstanceData


class RTMDetInsHead(DenseHead):
    """Classes, boxes and masks of the cells of every level, by layers that all levels share.

    Distances are what the last layer gives, times a learnt factor of the level: they may be negative.

    Args:
        num_classes: K.
        in_channels: Channels of the feature maps.
        with_objectness: As of :class:`~det_models.rtmdet.RTMDetHead`, like all that follow but the last five.
        act_cfg: Kind of activation.
        pred_kernel_size: Of the last convolutions.
        stacked_convs: Convolutions before the last one, in each of the three networks.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of norm layer.
        reg_decoded_bbox: Has no effect.
        loss_centerness: Has no effect.
        init_cfg: How weights are initialised at first.
        feat_channels: Channels of the convolutions before the last one.
        anchor_generator: Makes the points.
        bbox_coder: Turns distances into boxes.
        loss_cls: Classification loss.
        loss_bbox: Box loss.
        train_cfg: How to match cells with ground truth.
        test_cfg: How to turn predictions into boxes and masks.
        num_prototypes: Feature maps that masks are made of.
        dyconv_channels: Channels between an object's convolutions.
        num_dyconvs: Convolutions of an object.
        mask_loss_stride: Pixels between two at which masks are compared.
        loss_mask: Mask loss, by default twice the Dice loss.

    Raises:
        ValueError: The generator makes boxes or several points a cell, there is no convolution of an object,
            or the first stride is no multiple of ``mask_loss_stride``.
    """

    strides: list[int]
    num_gen_params: int

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
        test_cfg: MaskTestCfg | None = None,
        num_prototypes: int = 8,
        dyconv_channels: int = 8,
        num_dyconvs: int = 3,
        mask_loss_stride: int = 4,
        loss_mask: nn.Module | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        set_up_cells(
            self, num_classes, in_channels,
            anchor_generator=anchor_generator, bbox_coder=bbox_coder, loss_cls=loss_cls, loss_bbox=loss_bbox,
            reg_decoded_bbox=reg_decoded_bbox, train_cfg=train_cfg,
            test_cfg=as_settings(MaskTestCfg, test_cfg),
        )  # fmt: skip
        set_up_masks(self, num_prototypes, dyconv_channels, num_dyconvs, mask_loss_stride, loss_mask)
        set_up_layers(
            self, with_objectness=with_objectness, act_cfg=act_cfg, pred_kernel_size=pred_kernel_size,
            stacked_convs=stacked_convs, conv_cfg=conv_cfg, norm_cfg=norm_cfg, feat_channels=feat_channels,
        )  # fmt: skip

    def _init_layers(self) -> None:
        """Make the layers; a head of a user's own may make others."""
        self.cls_convs, self.reg_convs, self.kernel_convs = (tower(self) for _ in range(3))
        self.rtm_cls, self.rtm_reg = last(self, self.cls_out_channels), last(self, 4)
        self.rtm_kernel = last(self, self.num_gen_params)
        if self.with_objectness:
            self.rtm_obj = last(self, 1)
        self.scales = ModuleList(Scale() for _ in self.strides)
        self.mask_head = mask_features(self)

    def init_weights(self) -> None:
        """Initialise the weights; classes and objects start as rare."""
        fresh = not self.is_init
        super().init_weights()
        if fresh:
            start_rare(self)

    def forward(self, x: Sequence[Tensor]) -> tuple[Any, ...]:
        """Class logits, distances and kernels, a list of each, and the feature maps that masks are made of.

        Args:
            x: ``Tensor[B, in_channels, H, W]`` a level.

        Returns:
            ``Tensor[B, num_classes, H, W]``, ``Tensor[B, 4, H, W]`` (left, top, right, bottom in pixels and
            float32) and ``Tensor[B, num_gen_params, H, W]`` a level, and ``Tensor[B, num_prototypes, H, W]``
            of the first level's size.

        Raises:
            ValueError: Another number of maps than the head has levels.
        """
        return (*each_level(self.forward_single, x, range(len(self.strides))), self.mask_head(x))

    def forward_single(  # type: ignore[override]  # levels differ
        self, x: Tensor, level: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Predictions of one level, counted from 0, from its map ``Tensor[B, in_channels, H, W]``."""
        logits, reg_feature = self.rtm_cls(through(self.cls_convs, x)), through(self.reg_convs, x)
        if self.with_objectness:
            logits = geometric_mean_logit(logits, self.rtm_obj(reg_feature))
        distances = self.scales[level](self.rtm_reg(reg_feature)).float() * self.strides[level]
        return logits, distances, self.rtm_kernel(through(self.kernel_convs, x))

    def loss_by_feat(  # type: ignore[override]  # two outputs more
        self,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        kernel_preds: Sequence[Tensor],
        mask_feat: Tensor,
        batch_gt_instances: Sequence[InstanceData],
        batch_img_metas: Sequence[MetaInfo],
        batch_gt_instances_ignore: Sequence[InstanceData] | None = None,
    ) -> dict[str, Any]:
        """Losses of a batch.

        Args:
            cls_scores: Class logits, as from :meth:`forward`.
            bbox_preds: Distances, as from :meth:`forward`.
            kernel_preds: Kernels, as from :meth:`forward`.
            mask_feat: What masks are made of, as from :meth:`forward`.
            batch_gt_instances: ``bboxes`` (``Tensor[N, 4]``, xyxy, pixels of the input), ``labels`` and
                ``masks`` of each image.
            batch_img_metas: ``img_shape`` and ``pad_shape`` of each image.
            batch_gt_instances_ignore: Not looked at, unless by an assigner of a user's own.

        Returns:
            ``loss_cls`` and ``loss_bbox``, a scalar a level each, and ``loss_mask``, a scalar.
        """
        truth = (batch_gt_instances, batch_img_metas, batch_gt_instances_ignore)
        found = match_cells(self, cls_scores, bbox_preds, *truth)
        loss_mask = mask_loss(self, kernel_preds, mask_feat, found)
        return {**detection_losses(self, cls_scores, bbox_preds, found), "loss_mask": loss_mask}

    def predict_by_feat(  # type: ignore[override]  # two outputs more
        self,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        kernel_preds: Sequence[Tensor],
        mask_feat: Tensor,
        score_factors: Sequence[Tensor] | None = None,
        batch_img_metas: Sequence[MetaInfo] = (),
        cfg: MaskTestCfg | None = None,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> list[InstanceData]:
        """Boxes and masks from what :meth:`forward` gave.

        Args:
            cls_scores: Class logits, as from :meth:`forward`.
            bbox_preds: Distances, as from :meth:`forward`.
            kernel_preds: Kernels, as from :meth:`forward`.
            mask_feat: What masks are made of, as from :meth:`forward`.
            score_factors: As of :meth:`~det_models.dense.DenseHead.predict_by_feat`.
            batch_img_metas: ``img_shape`` of each image; with ``rescale`` ``scale_factor`` and ``ori_shape``.
            cfg: Settings in place of ``test_cfg``.
            rescale: Give boxes and masks in pixels of the original images.
            with_nms: Suppress doubles.

        Returns:
            ``bboxes`` (``Tensor[N, 4]``, xyxy, absolute pixels), ``scores``, ``labels`` (``Tensor[N]``) and
            ``masks`` (``BoolTensor[N, H, W]``) of each image, best first.
        """
        both = [torch.cat(level, dim=1) for level in zip(bbox_preds, kernel_preds, strict=True)]
        args = (cls_scores, both, score_factors, batch_img_metas, cfg, rescale, with_nms)
        return with_masks(self, super().predict_by_feat(*args), mask_feat, batch_img_metas, cfg, rescale)

    def decode_candidates(self, best: Candidates, shapes: Sequence[tuple[int, int]]) -> Tensor:
        """Boxes, from the first four numbers; see :meth:`DenseHead.decode_candidates`."""
        return self.bbox_coder.decode(best.priors, best.bbox_preds[..., :4], max_shape=shapes)

    def candidate_fields(self, best: Candidates) -> dict[str, Tensor]:
        """What masks are made with; see :meth:`DenseHead.candidate_fields`."""
        return mask_fields(self, best)


class RTMDetInsSepBNHead(DenseHead):
    """As :class:`RTMDetInsHead`, with norm layers and last layers of each level's own.

    One network of convolutions serves classes and boxes, as in the authors' code and weights; it stands in
    the state dict under both names. Levels share its convolutions, but not those of the kernels. Distances
    are what the last layer gives where that is above 0.

    Args:
        num_classes: K.
        in_channels: Channels of the feature maps.
        share_conv: Whether levels share the convolutions of classes and boxes before the last one.
        with_objectness: As of :class:`RTMDetInsHead`, like all that follow.
        norm_cfg: Kind of norm layer.
        act_cfg: Kind of activation.
        pred_kernel_size: Of the last convolutions.
        stacked_convs: Convolutions before the last one, in each network.
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
        test_cfg: How to turn predictions into boxes and masks.
        num_prototypes: Feature maps that masks are made of.
        dyconv_channels: Channels between an object's convolutions.
        num_dyconvs: Convolutions of an object.
        mask_loss_stride: Pixels between two at which masks are compared.
        loss_mask: Mask loss.

    Raises:
        ValueError: As of :class:`RTMDetInsHead`.
    """

    strides: list[int]
    num_gen_params: int

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        share_conv: bool = True,
        with_objectness: bool = False,
        norm_cfg: NormCfg = PLAIN_BATCH_NORM,
        act_cfg: ActCfg = SILU,
        pred_kernel_size: int = 1,
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
        test_cfg: MaskTestCfg | None = None,
        num_prototypes: int = 8,
        dyconv_channels: int = 8,
        num_dyconvs: int = 3,
        mask_loss_stride: int = 4,
        loss_mask: nn.Module | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        set_up_cells(
            self, num_classes, in_channels,
            anchor_generator=anchor_generator, bbox_coder=bbox_coder, loss_cls=loss_cls, loss_bbox=loss_bbox,
            reg_decoded_bbox=reg_decoded_bbox, train_cfg=train_cfg,
            test_cfg=as_settings(MaskTestCfg, test_cfg),
        )  # fmt: skip
        set_up_masks(self, num_prototypes, dyconv_channels, num_dyconvs, mask_loss_stride, loss_mask)
        self.share_conv = share_conv
        set_up_layers(
            self, with_objectness=with_objectness, act_cfg=act_cfg, pred_kernel_size=pred_kernel_size,
            stacked_convs=stacked_convs, conv_cfg=conv_cfg, norm_cfg=norm_cfg, feat_channels=feat_channels,
        )  # fmt: skip

    def _init_layers(self) -> None:
        """Make the layers; a head of a user's own may make others."""
        self.cls_convs = towers(self, share=self.share_conv)
        self.reg_convs = ModuleList(self.cls_convs)
        self.kernel_convs = towers(self, share=False)
        self.rtm_cls, self.rtm_reg = each_last(self, self.cls_out_channels), each_last(self, 4)
        self.rtm_kernel = each_last(self, self.num_gen_params)
        if self.with_objectness:
            self.rtm_obj = each_last(self, 1)
        self.mask_head = mask_features(self)

    def init_weights(self) -> None:
        """Initialise the weights; classes and objects start as rare, and sides of boxes at one stride."""
        fresh = not self.is_init
        super().init_weights()
        if fresh:
            start_rare(self)
            for layer in self.rtm_reg:
                normal_init(layer, std=0.01, bias=1)

    def forward(self, x: Sequence[Tensor]) -> tuple[Any, ...]:
        """Class logits, distances, kernels and features of masks; see :meth:`RTMDetInsHead.forward`."""
        return (*each_level(self.forward_single, x, range(len(self.strides))), self.mask_head(x))

    def forward_single(  # type: ignore[override]  # levels differ
        self, x: Tensor, level: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Predictions of one level, counted from 0, from its map ``Tensor[B, in_channels, H, W]``."""
        cls_feature = reg_feature = through(self.cls_convs[level], x)
        if self.reg_convs[level] is not self.cls_convs[level]:  # in a head of a user's own
            reg_feature = through(self.reg_convs[level], x)
        logits = self.rtm_cls[level](cls_feature)
        if self.with_objectness:
            logits = geometric_mean_logit(logits, self.rtm_obj[level](reg_feature))
        distances = self.rtm_reg[level](reg_feature).relu().float() * self.strides[level]
        return logits, distances, self.rtm_kernel[level](through(self.kernel_convs[level], x))

    def loss_by_feat(  # type: ignore[override]  # two outputs more
        self,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        kernel_preds: Sequence[Tensor],
        mask_feat: Tensor,
        batch_gt_instances: Sequence[InstanceData],
        batch_img_metas: Sequence[MetaInfo],
        batch_gt_instances_ignore: Sequence[InstanceData] | None = None,
    ) -> dict[str, Any]:
        """Losses of a batch; see :meth:`RTMDetInsHead.loss_by_feat`."""
        truth = (batch_gt_instances, batch_img_metas, batch_gt_instances_ignore)
        found = match_cells(self, cls_scores, bbox_preds, *truth)
        loss_mask = mask_loss(self, kernel_preds, mask_feat, found)
        return {**detection_losses(self, cls_scores, bbox_preds, found), "loss_mask": loss_mask}

    def predict_by_feat(  # type: ignore[override]  # two outputs more
        self,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        kernel_preds: Sequence[Tensor],
        mask_feat: Tensor,
        score_factors: Sequence[Tensor] | None = None,
        batch_img_metas: Sequence[MetaInfo] = (),
        cfg: MaskTestCfg | None = None,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> list[InstanceData]:
        """Boxes and masks; see :meth:`RTMDetInsHead.predict_by_feat`."""
        both = [torch.cat(level, dim=1) for level in zip(bbox_preds, kernel_preds, strict=True)]
        args = (cls_scores, both, score_factors, batch_img_metas, cfg, rescale, with_nms)
        return with_masks(self, super().predict_by_feat(*args), mask_feat, batch_img_metas, cfg, rescale)

    def decode_candidates(self, best: Candidates, shapes: Sequence[tuple[int, int]]) -> Tensor:
        """Boxes, from the first four numbers; see :meth:`DenseHead.decode_candidates`."""
        return self.bbox_coder.decode(best.priors, best.bbox_preds[..., :4], max_shape=shapes)

    def candidate_fields(self, best: Candidates) -> dict[str, Tensor]:
        """What masks are made with; see :meth:`DenseHead.candidate_fields`."""
        return mask_fields(self, best)
