"""Region proposal network: Faster R-CNN (Ren et al., NeurIPS 2015, arXiv 1506.01497), section 3.1.

A small network slides over every feature map: a 3x3 convolution, then for each of the A anchors of a cell one
score, object or not, and four box offsets (figure 3). With a feature pyramid every level has anchors of one
size, 8 times its stride, in three shapes (Lin et al. 2017, section 4.1).

Training: an anchor is an object's where it overlaps it by at least 0.7, or more than any other anchor does;
it is background where it overlaps none by 0.3. 256 anchors of an image enter the loss, drawn by chance, half
of them positives at most. Both losses, cross entropy and smooth L1 (here often L1), are divided by their
number.

Proposals: of every level the best scores, decoded; doubles are suppressed within each level, the best of what
is left goes on to the second stage.
"""

import itertools
import logging
from collections.abc import Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from det_models.anchors import AnchorGenerator, pyramid_anchors
from det_models.coders import BaseBBoxCoder, DeltaXYWHBBoxCoder
from det_models.dense import DenseHead, Losses
from det_models.dense_cfg import DenseTestCfg, DenseTrainCfg
from det_models.detector import Samples, SingleStageDetector
from det_models.losses.cross_entropy import CrossEntropyLoss
from det_models.losses.smooth_l1 import L1Loss
from det_models.metainfo import MetaInfo
from det_models.postprocess import Candidates
from det_models.two_stage_cfg import TwoStageTestCfg, TwoStageTrainCfg
from detcore.errors import ConfigError
from detcore.nn import ConvModule, Sequential
from detcore.nn.base_module import DeferredInit
from detcore.registry import TASK_UTILS
from detcore.structures import DetDataSample, InstanceData

logger = logging.getLogger(__name__)

_INIT_CFG = {"type": "Normal", "layer": "Conv2d", "std": 0.01}


class RPN(SingleStageDetector):
    """A detector of objects of any kind, whose boxes are proposals.

    Its settings are the entry ``rpn`` of ``train_cfg`` and ``test_cfg``, so that they can be shared with
    those of a two-stage detector.

    Args:
        backbone: Feature maps of an image batch.
        neck: Feature maps of the backbone's; None for none.
        rpn_head: An RPNHead, or any other one-stage head.
        train_cfg: In configs its ``rpn`` is handed to the head.
        test_cfg: In configs its ``rpn`` is handed to the head.
        data_preprocessor: From a loader's batch to the network's input.
        init_cfg: How the whole starts.

    Raises:
        ConfigError: There is no ``rpn_head``.
    """

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module | Sequence[nn.Module] | None = None,
        rpn_head: nn.Module | None = None,
        train_cfg: TwoStageTrainCfg | None = None,
        test_cfg: TwoStageTestCfg | None = None,
        data_preprocessor: nn.Module | None = None,
        init_cfg: DeferredInit = None,
    ) -> None:
        if rpn_head is None:
            raise ConfigError(f"{type(self).__name__} needs an rpn_head")
        given = {"rpn_head": rpn_head, "train_cfg": train_cfg, "test_cfg": test_cfg}
        head = self.prepare_config(given)["rpn_head"]
        super().__init__(backbone, neck, head, data_preprocessor=data_preprocessor, init_cfg=init_cfg)

    @classmethod
    def prepare_config(cls, cfg: dict[str, Any]) -> dict[str, Any]:
        """Hand the head its part of ``train_cfg`` and ``test_cfg``."""
        cfg = super().prepare_config(cfg)
        return with_settings(cfg, "rpn_head", "rpn") if isinstance(cfg.get("rpn_head"), dict) else cfg

    def loss(self, batch_inputs: Tensor, batch_data_samples: Samples) -> Any:
        """Losses of the head, which learns all objects as one class."""
        return super().loss(batch_inputs, as_one_class(batch_data_samples))


class RPNHead(DenseHead):
    """Objectness and boxes of the anchors of every level; see this module's docstring.

    Args:
        in_channels: Channels of the feature maps.
        num_classes: 1, object.
        feat_channels: Channels of the convolutions before the last one.
        num_convs: How many of those there are.
        anchor_generator: Makes the anchors; by default three shapes in three sizes on strides 4 to 64.
        bbox_coder: Turns box offsets into boxes; by default :class:`DeltaXYWHBBoxCoder`.
        reg_decoded_bbox: The box loss compares boxes, not offsets (IoU losses need it).
        loss_cls: Classification loss, by default the cross entropy of a sigmoid.
        loss_bbox: Box loss, by default L1.
        train_cfg: How to match and sample anchors.
        test_cfg: How to turn predictions into proposals.
        init_cfg: How weights are initialised.

    Raises:
        ValueError: Another number of classes than 1, or no convolution.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int = 1,
        feat_channels: int = 256,
        num_convs: int = 1,
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
        if num_classes != 1:
            raise ValueError(f"RPNHead tells object from background: num_classes is 1, got {num_classes}")
        if num_convs < 1:
            raise ValueError(f"num_convs must be at least 1, got {num_convs}")
        self.set_up(
            num_classes,
            in_channels,
            prior_generator=anchor_generator or pyramid_anchors(),
            bbox_coder=bbox_coder or DeltaXYWHBBoxCoder(),
            loss_cls=loss_cls or CrossEntropyLoss(use_sigmoid=True),
            loss_bbox=loss_bbox or L1Loss(),
            reg_decoded_bbox=reg_decoded_bbox,
            train_cfg=train_cfg,
            test_cfg=test_cfg,
        )
        self.feat_channels = feat_channels
        self.num_convs = num_convs
        self._init_layers()

    def _init_layers(self) -> None:
        """Make the layers; a head of a user's own may make others."""
        if self.num_convs == 1:
            self.rpn_conv: nn.Module = nn.Conv2d(self.in_channels, self.feat_channels, 3, padding=1)
        else:
            channels = [self.in_channels] + [self.feat_channels] * self.num_convs
            self.rpn_conv = Sequential(
                *(
                    ConvModule(before, after, 3, padding=1, inplace=False)
                    for before, after in itertools.pairwise(channels)
                )
            )
        self.rpn_cls = nn.Conv2d(self.feat_channels, self.num_base_priors * self.cls_out_channels, 1)
        self.rpn_reg = nn.Conv2d(self.feat_channels, self.num_base_priors * self.bbox_coder.encode_size, 1)

    def forward_single(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``[B, A * cls_out_channels, H, W]`` and encoded boxes ``[B, A * 4, H, W]``."""
        x = F.relu(self.rpn_conv(x))
        return self.rpn_cls(x), self.rpn_reg(x)

    def loss_by_feat(
        self,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        batch_gt_instances: Sequence[InstanceData],
        batch_img_metas: Sequence[MetaInfo],
        batch_gt_instances_ignore: Sequence[InstanceData] | None = None,
    ) -> Losses:
        """``loss_rpn_cls`` and ``loss_rpn_bbox``; see :meth:`DenseHead.loss_by_feat`."""
        losses = super().loss_by_feat(
            cls_scores, bbox_preds, batch_gt_instances, batch_img_metas, batch_gt_instances_ignore
        )
        return {"loss_rpn_cls": losses["loss_cls"], "loss_rpn_bbox": losses["loss_bbox"]}

    def suppression_groups(self, best: Candidates) -> Tensor:
        """Levels: objects of one class in different sizes hide one another too easily."""
        return best.levels


def with_settings(cfg: dict[str, Any], head: str, stage: str) -> dict[str, Any]:
    """A detector's arguments, with a stage's part of ``train_cfg`` and ``test_cfg`` in its head's config.

    They stay where they were, too. A head that proposes gets one class.
    """
    settings = {name: dict(cfg.get(name) or {}).get(stage) for name in ("train_cfg", "test_cfg")}
    given = {name: value for name, value in settings.items() if value is not None}
    own = one_class(cfg[head]) if stage == "rpn" else cfg[head]
    return {**cfg, head: {**own, **given}}


def one_class(head: dict[str, Any]) -> dict[str, Any]:
    """The config of a head that is to propose: whatever it was made for, it tells objects from background."""
    if head.get("num_classes", 1) != 1:
        logger.warning("rpn_head.num_classes is %s; proposals have one class: 1", head["num_classes"])
    return {**head, "num_classes": 1}


def as_one_class(data_samples: Sequence[DetDataSample]) -> list[DetDataSample]:
    """The samples with all labels of the ground truth 0; the samples themselves stay as they are."""
    twins = []
    for sample in data_samples:
        twin = DetDataSample(metainfo=sample.metainfo)
        if "gt_instances" in sample:
            boxes, labels = sample.gt_instances.bboxes, sample.gt_instances.labels
            twin.gt_instances = InstanceData(bboxes=boxes, labels=torch.zeros_like(labels))
        if "ignored_instances" in sample:
            twin.ignored_instances = sample.ignored_instances
        twins.append(twin)
    return twins
