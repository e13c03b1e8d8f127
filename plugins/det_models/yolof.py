"""YOLOF: You Only Look One-level Feature (Chen et al., CVPR 2021, arXiv 2103.09460).

What a feature pyramid is good for, the paper finds, is less the many maps than that large and small objects
are dealt with apart. So this is a detector over one map, the backbone's last (stride 32): a neck of dilated
convolutions makes it see objects of all sizes (:class:`DilatedEncoder`, section 4.2), and every object gets
equally many positives whatever its size (:class:`UniformAssigner`, section 4.3). At each cell stand five
square anchors, of 32 to 512 pixels. Two small networks predict K class logits and four box offsets for each.

A third output is the anchor's objectness o, which nothing trains by itself. The class logit c that is scored
is the one whose sigmoid is the product of both sigmoids (section 4.4)::

    sigmoid(z) = sigmoid(c) * sigmoid(o)    <=>    z = c + o - log(1 + exp(c) + exp(o))

Training: focal loss over all anchors that are not left out; GIoU loss over the pairs of the matching, in
which one anchor may be found several times. Both are divided by the number of anchors with an object.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn

from det_models.anchors import AnchorGenerator
from det_models.coders import BaseBBoxCoder, DeltaXYWHBBoxCoder
from det_models.dense import DenseHead
from det_models.dense_cfg import DenseTestCfg, DenseTrainCfg
from det_models.dense_targets import valid_priors
from det_models.detector import SingleStageDetector
from det_models.host import reduce_mean
from det_models.losses.focal import FocalLoss
from det_models.losses.iou import GIoULoss
from det_models.metainfo import MetaInfo
from det_models.postprocess import flatten_level
from det_models.samplers import PseudoSampler
from det_models.towers import conv_tower
from det_models.truth import GroundTruth
from det_models.uniform_assign import UniformAssigner
from detcore.nn.base_module import DeferredInit
from detcore.nn.build import NormCfg
from detcore.registry import TASK_UTILS
from detcore.structures import InstanceData

_BATCH_NORM = {"type": "BN", "requires_grad": True}
_GREATEST = 1e8  # of the exponentials, which a wild start must not send to infinity
_INIT_CFG = {
    "type": "Normal",
    "layer": "Conv2d",
    "std": 0.01,
    "override": {"type": "Normal", "name": "cls_score", "std": 0.01, "bias_prob": 0.01},
}


class YOLOF(SingleStageDetector):
    """Backbone, :class:`DilatedEncoder` and :class:`YOLOFHead`; see this module's docstring."""


class YOLOFHead(DenseHead):
    """Classes and boxes of the anchors of one map.

    Args:
        num_classes: K, without background.
        in_channels: Channels of the map, and of all convolutions before the last ones.
        num_cls_convs: Convolutions before the class logits.
        num_reg_convs: Convolutions before box offsets and objectness.
        norm_cfg: Kind of norm layer, None for none.
        feat_channels: Has no effect.
        anchor_generator: Makes the anchors; by default five squares a cell of stride 32.
        bbox_coder: Turns box offsets into boxes; by default :class:`DeltaXYWHBBoxCoder` with shifts of up to
            32 pixels.
        reg_decoded_bbox: Has no effect: boxes are compared.
        loss_cls: Classification loss, by default the focal loss.
        loss_bbox: Box loss, by default the GIoU loss.
        train_cfg: How to match anchors with ground truth: by :class:`UniformAssigner`.
        test_cfg: How to turn predictions into boxes.
        init_cfg: How weights are initialised.

    Raises:
        ValueError: Anchors of several maps, a class loss that is not over sigmoids, or another assigner.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        num_cls_convs: int = 2,
        num_reg_convs: int = 4,
        norm_cfg: NormCfg = _BATCH_NORM,
        feat_channels: int = 256,
        anchor_generator: Annotated[AnchorGenerator | None, TASK_UTILS] = None,
        bbox_coder: Annotated[BaseBBoxCoder | None, TASK_UTILS] = None,
        reg_decoded_bbox: bool = True,
        loss_cls: nn.Module | None = None,
        loss_bbox: nn.Module | None = None,
        train_cfg: DenseTrainCfg | None = None,
        test_cfg: DenseTestCfg | None = None,
        init_cfg: DeferredInit = _INIT_CFG,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.set_up(
            num_classes,
            in_channels,
            prior_generator=anchor_generator or AnchorGenerator([32], ratios=[1.0], scales=[1, 2, 4, 8, 16]),
            bbox_coder=bbox_coder or DeltaXYWHBBoxCoder(add_ctr_clamp=True, ctr_clamp=32),
            loss_cls=loss_cls or FocalLoss(),
            loss_bbox=loss_bbox or GIoULoss(),
            reg_decoded_bbox=reg_decoded_bbox,
            train_cfg=train_cfg,
            test_cfg=test_cfg,
        )
        if self.prior_generator.num_levels != 1:
            raise ValueError(
                f"YOLOFHead looks at one map, got anchors of {self.prior_generator.num_levels} levels "
                f"(strides {self.prior_generator.strides})"
            )
        if not self.use_sigmoid_cls:
            raise ValueError("YOLOFHead scores classes by sigmoids: loss_cls must have use_sigmoid=True")
        if self.train_cfg is not None and not isinstance(self.train_cfg.assigner, UniformAssigner):
            raise ValueError(
                "YOLOFHead matches by UniformAssigner, got train_cfg.assigner of type "
                f"{type(self.train_cfg.assigner).__name__}"
            )
        self.num_cls_convs = num_cls_convs
        self.num_reg_convs = num_reg_convs
        self.norm_cfg = norm_cfg
        self._init_layers()

    def _init_layers(self) -> None:
        """Make the layers; a head of a user's own may make others."""
        channels, kinds = self.in_channels, self.num_base_priors
        self.cls_subnet = conv_tower(channels, channels, self.num_cls_convs, norm_cfg=self.norm_cfg)
        self.bbox_subnet = conv_tower(channels, channels, self.num_reg_convs, norm_cfg=self.norm_cfg)
        self.cls_score = nn.Conv2d(channels, kinds * self.num_classes, 3, padding=1)
        self.bbox_pred = nn.Conv2d(channels, kinds * 4, 3, padding=1)
        self.object_pred = nn.Conv2d(channels, kinds, 3, padding=1)

    def forward_single(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Predictions from the map ``Tensor[B, in_channels, H, W]``.

        Returns:
            For A anchors a cell class logits ``Tensor[B, A * K, H, W]``, objectness included, in float32,
            and encoded boxes ``Tensor[B, A * 4, H, W]``.
        """
        reg_feature = self.bbox_subnet(x)
        scores = self.cls_score(self.cls_subnet(x)).float().unflatten(1, (-1, self.num_classes))
        objectness = self.object_pred(reg_feature).float()[:, :, None]
        exponentials = scores.exp().clamp(max=_GREATEST) + objectness.exp().clamp(max=_GREATEST)
        joint = scores + objectness - (1 + exponentials).log()
        return joint.flatten(1, 2), self.bbox_pred(reg_feature)

    def loss_by_feat(  # type: ignore[override]  # a scalar each: there is one level
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
            bbox_preds: Encoded boxes, as from :meth:`forward`.
            batch_gt_instances: ``bboxes`` (``Tensor[N, 4]``, xyxy, pixels of the input) and ``labels`` of
                each image.
            batch_img_metas: ``img_shape`` and ``pad_shape`` of each image.
            batch_gt_instances_ignore: Not looked at: the matching takes no notice of such regions.

        Returns:
            ``loss_cls`` and ``loss_bbox``, a scalar each.
        """
        truth = GroundTruth.pack(batch_gt_instances, None, self.num_classes)
        cfg, sizes = self._train_cfg(), [(score.shape[-2], score.shape[-1]) for score in cls_scores]
        levels = self.prior_generator.grid_priors(sizes, device=cls_scores[0].device)
        valid = valid_priors(self.prior_generator, levels, sizes, batch_img_metas, cfg.allowed_border)
        boxes = self.bbox_coder.decode(levels[0], flatten_level(bbox_preds[0], 4).float())
        assert isinstance(cfg.assigner, UniformAssigner)
        found = cfg.assigner.match_predictions(levels[0], boxes.detach(), truth, valid)
        sampler = cfg.sampler or PseudoSampler()
        matches = sampler.select(found.matches)
        avg_factor = reduce_mean(sampler.avg_factor(matches).float())
        weights = (matches >= 0).to(boxes.dtype)
        if cfg.pos_weight > 0:
            weights = torch.where(matches > 0, cfg.pos_weight, weights)
        labels = truth.labels_at(matches, self.num_classes)
        loss_cls = self.class_loss(self.loss_cls, cls_scores[0], labels, weights, avg_factor)
        predicted, wanted = (
            each.gather(1, places[..., None].expand(-1, -1, 4)).flatten(0, 1)
            for each, places in ((boxes, found.places), (truth.boxes, found.boxes))
        )
        held = found.held.flatten()
        wanted = torch.where(held[:, None], wanted, predicted.detach())
        loss_bbox = self.loss_bbox(predicted, wanted, held.to(boxes.dtype), avg_factor=avg_factor)
        return {"loss_cls": loss_cls, "loss_bbox": loss_bbox}
