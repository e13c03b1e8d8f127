"""Mask R-CNN (He et al., ICCV 2017, arXiv 1703.06870): Faster R-CNN with a third prediction, a region's mask.

A small convolutional network looks at each region's features, pooled to 14x14, enlarges them to 28x28 and
gives a probability of every cell for each class by itself: masks do not compete (section 3). Training learns
from the positive regions alone and from the mask of the region's own class alone: the target is the part of
the object's mask within the region, scaled to 28x28. At test time the mask head runs on the boxes that are
left in the end, and each mask is put back into its box in the image.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from det_models.losses.cross_entropy import CrossEntropyLoss
from det_models.metainfo import MetaInfo, each_meta, with_scale_factor
from det_models.postprocess import rescale_boxes
from det_models.samplers import SamplingResult
from det_models.two_stage import TwoStageDetector
from det_models.two_stage_cfg import RCNNTestCfg, RCNNTrainCfg
from detcore.errors import ConfigError, DataError
from detcore.nn import BaseModule, ConvModule, ModuleList, build_conv_layer, build_upsample_layer
from detcore.nn.base_module import DeferredInit
from detcore.nn.build import ConvCfg, NormCfg
from detcore.ops import paste_masks
from detcore.registry import MODELS, Deferred
from detcore.structures import InstanceData
from detcore.structures.mask import mask_target

UpsampleCfg = Annotated[dict | None, Deferred(MODELS, allow=("scale_factor",))]
_UPSAMPLES = (None, "deconv", "nearest", "bilinear")
_DECONV = {"type": "deconv", "scale_factor": 2}
_CONV = {"type": "Conv"}


class MaskRCNN(TwoStageDetector):
    """Region proposal network, box head and mask head.

    Arguments as of :class:`~det_models.two_stage.TwoStageDetector`; the ``roi_head`` has a ``mask_head``.
    """

    def __init__(self, backbone: nn.Module, rpn_head: nn.Module, roi_head: nn.Module, **kwargs: Any) -> None:
        super().__init__(backbone=backbone, rpn_head=rpn_head, roi_head=roi_head, **kwargs)


class FCNMaskHead(BaseModule):
    """Masks of regions by convolutions; see this module's docstring.

    Args:
        num_convs: 3x3 convolutions.
        roi_feat_size: Height and width of a region's features.
        in_channels: Their channels.
        conv_kernel_size: Kernel size of the convolutions.
        conv_out_channels: Channels of the convolutions.
        num_classes: K, without background.
        class_agnostic: One mask a region, not one for each class.
        upsample_cfg: How features are enlarged: ``type`` ``'deconv'``, ``'nearest'``, ``'bilinear'`` or None,
            and ``scale_factor``.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of norm layer, None for none.
        predictor_cfg: Kind of the last convolution.
        loss_mask: Mask loss, by default the binary cross entropy of the region's own class.
        init_cfg: How weights are initialised; by default Kaiming's values for what this head adds to its
            convolutions.

    Raises:
        ConfigError: ``upsample_cfg`` has another type.
    """

    def __init__(
        self,
        num_convs: int = 4,
        roi_feat_size: int | tuple[int, int] = 14,
        in_channels: int = 256,
        conv_kernel_size: int = 3,
        conv_out_channels: int = 256,
        num_classes: int = 80,
        class_agnostic: bool = False,
        upsample_cfg: UpsampleCfg = _DECONV,
        conv_cfg: ConvCfg = None,
        norm_cfg: NormCfg = None,
        predictor_cfg: ConvCfg = _CONV,
        loss_mask: nn.Module | None = None,
        init_cfg: DeferredInit = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.roi_feat_size: tuple[int, int] = _pair(roi_feat_size)
        self.num_convs, self.conv_kernel_size = num_convs, conv_kernel_size
        self.in_channels, self.conv_out_channels = in_channels, conv_out_channels
        self.num_classes, self.class_agnostic = num_classes, class_agnostic
        self.conv_cfg, self.norm_cfg, self.predictor_cfg = conv_cfg, norm_cfg, predictor_cfg
        self.loss_mask: nn.Module = MODELS.build(loss_mask or CrossEntropyLoss(use_mask=True))
        self.convs = ModuleList(
            ConvModule(
                conv_out_channels if number else in_channels,
                conv_out_channels,
                conv_kernel_size,
                padding=(conv_kernel_size - 1) // 2,
                conv_cfg=conv_cfg,
                norm_cfg=norm_cfg,
            )
            for number in range(num_convs)
        )
        channels = conv_out_channels if num_convs else in_channels
        self.upsample, self.upsample_method = self._make_upsample(upsample_cfg, channels)
        self.conv_logits = build_conv_layer(
            predictor_cfg,
            conv_out_channels if self.upsample_method == "deconv" else channels,
            1 if class_agnostic else num_classes,
            1,
        )
        self.relu = nn.ReLU(inplace=True)
        if init_cfg is None:
            own = [{"name": "conv_logits"}] + [{"name": "upsample"}] * (self.upsample_method == "deconv")
            # Kaiming's values of the layers' outputs; their biases start at 0.
            self.init_cfg = {"type": "Kaiming", "mode": "fan_out", "nonlinearity": "relu", "override": own}

    @classmethod
    def prepare_config(cls, cfg: dict[str, Any]) -> dict[str, Any]:
        """``upsample_cfg=dict(type=None)`` is none."""
        given = cfg.get("upsample_cfg")
        if isinstance(given, dict) and "type" in given and given["type"] is None:
            return {**cfg, "upsample_cfg": None}
        return cfg

    def _make_upsample(
        self, cfg: Mapping[str, Any] | None, channels: int
    ) -> tuple[nn.Module | None, Literal["deconv", "nearest", "bilinear"] | None]:
        given = dict(cfg or {"type": None})
        method = given.pop("type", None)
        if method not in _UPSAMPLES:
            raise ConfigError(f"FCNMaskHead: upsample_cfg.type must be one of {_UPSAMPLES}, got {method!r}")
        if method is None:
            return None, None
        scale = given.pop("scale_factor", 2)
        if method == "deconv":
            own = {"type": method, "kernel_size": scale, "stride": scale, **given}
            return build_upsample_layer(own, channels, self.conv_out_channels), method
        if method == "bilinear":
            given.setdefault("align_corners", False)
        return build_upsample_layer({"type": method, "scale_factor": scale, **given}), method

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``Tensor[N, K, scale * h, scale * w]`` for features ``Tensor[N, in_channels, h, w]``."""
        for conv in self.convs:
            x = conv(x)
        if self.upsample is not None:
            x = self.upsample(x)
            if self.upsample_method == "deconv":
                x = self.relu(x)
        logits: Tensor = self.conv_logits(x)
        return logits

    # -- training --------------------------------------------------------------------------------

    def get_targets(
        self,
        sampling_results: Sequence[SamplingResult],
        batch_gt_instances: Sequence[InstanceData],
        rcnn_train_cfg: RCNNTrainCfg,
    ) -> Tensor:
        """Targets ``Tensor[P, h, w]`` of 0 and 1 for the positive regions of a batch.

        Args:
            sampling_results: One an image.
            batch_gt_instances: ``masks`` of each image.
            rcnn_train_cfg: Its ``mask_size`` is the targets' size.

        Raises:
            DataError: An image's ground truth has no masks.
        """
        for number, instances in enumerate(batch_gt_instances):
            if "masks" not in instances:
                raise DataError(
                    f"image {number} of the batch has no gt_instances.masks, which a mask head learns from: "
                    "its pipeline needs LoadAnnotations(with_mask=True)"
                )
        return mask_target(
            [result.pos_priors for result in sampling_results],
            [result.pos_assigned_gt_inds for result in sampling_results],
            [instances.masks for instances in batch_gt_instances],
            rcnn_train_cfg.mask_size,
        )

    def loss_and_target(
        self,
        mask_preds: Tensor,
        sampling_results: Sequence[SamplingResult],
        batch_gt_instances: Sequence[InstanceData],
        rcnn_train_cfg: RCNNTrainCfg,
    ) -> dict[str, Any]:
        """Losses by name (``loss_mask``) and what they were reckoned against (``mask_targets``).

        Args:
            mask_preds: Logits ``Tensor[P, K, h, w]`` of the positive regions.
            sampling_results: One an image.
            batch_gt_instances: ``masks`` of each image.
            rcnn_train_cfg: Settings.

        Raises:
            ConfigError: Predictions are of another size than ``mask_size``.
        """
        if not len(mask_preds):
            targets = mask_preds.new_zeros(0, *mask_preds.shape[-2:])
            return {"loss_mask": {"loss_mask": mask_preds.sum()}, "mask_targets": targets}
        targets = self.get_targets(sampling_results, batch_gt_instances, rcnn_train_cfg)
        if targets.shape[-2:] != mask_preds.shape[-2:]:
            raise ConfigError(
                f"the mask head gives masks of {tuple(mask_preds.shape[-2:])}, but train_cfg.rcnn.mask_size "
                f"is {rcnn_train_cfg.mask_size}"
            )
        labels = torch.cat([result.pos_gt_labels for result in sampling_results])
        labels = torch.zeros_like(labels) if self.class_agnostic else labels
        loss = self.loss_mask(mask_preds, targets, labels)
        return {"loss_mask": {"loss_mask": loss}, "mask_targets": targets}

    # -- prediction ------------------------------------------------------------------------------

    def predict_by_feat(
        self,
        mask_preds: Sequence[Tensor],
        results_list: Sequence[InstanceData],
        batch_img_metas: Sequence[MetaInfo],
        rcnn_test_cfg: RCNNTestCfg,
        rescale: bool = False,
        activate_map: bool = False,
    ) -> list[InstanceData]:
        """Detections with their masks.

        Args:
            mask_preds: Logits ``Tensor[N_i, K, h, w]`` an image.
            results_list: ``bboxes`` (``Tensor[N_i, 4]``, xyxy, pixels of the network's input), ``labels`` and
                ``scores`` of each image.
            batch_img_metas: ``ori_shape`` and ``scale_factor`` of each image.
            rcnn_test_cfg: Its ``mask_thr_binary`` is used.
            rescale: Give boxes and masks in pixels of the original image, not of the network's input.
            activate_map: ``mask_preds`` are probabilities.

        Returns:
            The detections with ``masks``, ``BoolTensor[N_i, H, W]``.
        """
        return [
            self._predict_by_feat_single(
                preds, results, meta, rcnn_test_cfg, rescale=rescale, activate_map=activate_map
            )
            for preds, results, meta in zip(mask_preds, results_list, batch_img_metas, strict=True)
        ]

    def _predict_by_feat_single(
        self,
        mask_preds: Tensor,
        results: InstanceData,
        img_meta: MetaInfo,
        rcnn_test_cfg: RCNNTestCfg,
        rescale: bool = False,
        activate_map: bool = False,
    ) -> InstanceData:
        """:meth:`predict_by_feat` of one image."""
        ((height, width, *_),) = each_meta([img_meta], "ori_shape")
        (factor,) = each_meta([with_scale_factor(img_meta)], "scale_factor")
        boxes = results.bboxes
        if rescale:
            boxes = rescale_boxes(boxes[None], [factor])[0]
        else:
            height, width = round(height * factor[1]), round(width * factor[0])
        rows = torch.arange(len(boxes), device=boxes.device)
        own = mask_preds[:, 0] if self.class_agnostic else mask_preds[rows, results.labels]
        masks = own.float() if activate_map else own.float().sigmoid()
        found = InstanceData(bboxes=boxes, scores=results.scores, labels=results.labels)
        found.masks = paste_masks(masks, boxes, (int(height), int(width)), rcnn_test_cfg.mask_thr_binary)
        return found
