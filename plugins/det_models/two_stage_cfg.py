"""The settings of two-stage detectors: ``train_cfg`` and ``test_cfg``, whole and of the second stage."""

from dataclasses import dataclass, field
from typing import Annotated, Any, TypedDict

from det_models.assign import BaseAssigner
from det_models.dense_cfg import DenseTestCfg, DictLike
from det_models.samplers import BaseSampler
from detcore.ops.nms import NmsCfg
from detcore.registry import TASK_UTILS


@dataclass(kw_only=True, slots=True)
class RCNNTrainCfg(DictLike):
    """How the second stage is trained (``train_cfg.rcnn``).

    Attributes:
        assigner: Matches proposals with ground truth.
        sampler: Chooses among the matched ones.
        pos_weight: Weight of positives in the classification loss; 0 or less for 1.
        mask_size: Height and width of a mask's target.
        debug: Kept for configs; has no effect.
    """

    assigner: Annotated[BaseAssigner, TASK_UTILS]
    sampler: Annotated[BaseSampler, TASK_UTILS]
    pos_weight: float = -1
    mask_size: int | tuple[int, int] = 28
    debug: bool = False


@dataclass(kw_only=True, slots=True)
class RCNNTestCfg(DictLike):
    """How the second stage's predictions become boxes and masks (``test_cfg.rcnn``).

    Attributes:
        score_thr: Scores up to this are dropped.
        nms: Settings of non-maximum suppression, within each class.
        max_per_img: Boxes of an image at most; 0 or less for all.
        mask_thr_binary: Probability from which a pixel belongs to the object; negative: masks are
            probabilities times 255, uint8.
    """

    score_thr: float = 0.05
    nms: NmsCfg = field(default_factory=lambda: NmsCfg(type="nms", iou_threshold=0.5))
    max_per_img: int = 100
    mask_thr_binary: float = 0.5


class TwoStageTrainCfg(TypedDict, total=False):
    """``train_cfg`` of a two-stage detector; ``rpn`` and ``rcnn`` are handed to the heads."""

    rpn: Any
    rpn_proposal: DenseTestCfg
    rcnn: Any


class TwoStageTestCfg(TypedDict, total=False):
    """``test_cfg`` of a two-stage detector; both are handed to the heads."""

    rpn: Any
    rcnn: Any
