"""The settings of dense heads: ``train_cfg`` and ``test_cfg``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from det_models.assign import BaseAssigner
from det_models.samplers import BaseSampler
from detcore.ops.nms import NmsCfg
from detcore.registry import MODELS, TASK_UTILS


class DictLike:
    """Settings that heads of users' own may read as the dict that they were: ``cfg.get('nms_pre', -1)``."""

    __slots__ = ()

    def get(self, name: str, default: Any = None) -> Any:
        """A setting, or ``default`` where there is none of that name."""
        return getattr(self, name, default)

    def __getitem__(self, name: str) -> Any:
        try:
            return getattr(self, name)
        except AttributeError:
            raise KeyError(name) from None


@dataclass(kw_only=True, slots=True)
class DenseTrainCfg(DictLike):
    """How a dense head is trained (``train_cfg``).

    Attributes:
        assigner: Matches priors with ground truth.
        sampler: Chooses among the matched ones; by default all of them count.
        allowed_border: Pixels that an anchor may reach out of its image and still take part; negative: any.
        pos_weight: Weight of positives in the classification loss; 0 or less for 1.
        debug: Kept for configs; has no effect.
    """

    assigner: Annotated[BaseAssigner, TASK_UTILS]
    sampler: Annotated[BaseSampler | None, TASK_UTILS] = None
    allowed_border: float = -1
    pos_weight: float = -1
    debug: bool = False


@dataclass(kw_only=True, slots=True)
class DenseTestCfg(DictLike):
    """How a dense head's predictions become boxes (``test_cfg``).

    Attributes:
        nms_pre: Candidates of each level that are decoded; 0 or less for all.
        min_bbox_size: Width and height that a box must exceed, in pixels; negative: all are kept.
        score_thr: Scores up to this are dropped.
        nms: Settings of non-maximum suppression.
        max_per_img: Boxes of an image at most; 0 or less for all.
    """

    nms_pre: int = -1
    min_bbox_size: float = -1
    score_thr: float = 0.0
    nms: NmsCfg = field(default_factory=lambda: NmsCfg(type="nms", iou_threshold=0.5))
    max_per_img: int = -1


def as_settings(kind: type, given: Any) -> Any:
    """Settings as they are, or made of the dict that a head of a user's own was given."""
    return MODELS.build({"type": kind, **given}) if isinstance(given, Mapping) else given
