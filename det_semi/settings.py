"""The settings of teacher-student detectors: ``semi_train_cfg`` and ``semi_test_cfg``."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from detcore.errors import ConfigError
from detcore.registry import MODELS

Part = Literal["teacher", "student"]


@dataclass(kw_only=True, slots=True)
class SemiTrainCfg:
    """How a student learns from labelled images and from its teacher.

    Attributes:
        freeze_teacher: The teacher takes no gradients and stays in evaluation mode.
        sup_weight: Weight of the losses on labelled images.
        unsup_weight: Weight of the losses on unlabelled ones.
        cls_pseudo_thr: Score that a teacher's box must exceed to be learnt from.
        min_pseudo_bbox_wh: Width and height in pixels that a box must exceed in the student's view.
        burn_in_iters: First steps, in which the student learns from labelled images alone (Unbiased Teacher,
            Liu et al., ICLR 2021, section 3.2). A teacher that knows nothing yet would teach that nothing is
            there.
        unlabeled_truth: What the unlabelled images really show, where it is known: an annotation file or the
            config of a data set. It only measures the pseudo labels (precision and recall in the log).
    """

    freeze_teacher: bool = True
    sup_weight: float = 1.0
    unsup_weight: float = 1.0
    cls_pseudo_thr: float = 0.9
    min_pseudo_bbox_wh: tuple[float, float] = (1e-2, 1e-2)
    burn_in_iters: int = 0
    unlabeled_truth: Any = None

    def __post_init__(self) -> None:
        for name in ("sup_weight", "unsup_weight"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"semi_train_cfg.{name} must not be negative, got {getattr(self, name)}")
        for name in self.thresholds():
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"semi_train_cfg.{name} is a score, 0 to 1, got {getattr(self, name)}")
        if self.burn_in_iters < 0:
            raise ConfigError(f"burn_in_iters must not be negative, got {self.burn_in_iters}")
        if len(self.min_pseudo_bbox_wh) != 2:
            raise ConfigError(f"min_pseudo_bbox_wh is (width, height), got {self.min_pseudo_bbox_wh}")

    def thresholds(self) -> tuple[str, ...]:
        """Names of the settings that are thresholds of scores."""
        return ("cls_pseudo_thr",)

    def get(self, name: str, default: Any = None) -> Any:
        """A setting, or ``default`` where there is none of that name."""
        return getattr(self, name, default)

    def __getitem__(self, name: str) -> Any:
        try:
            return getattr(self, name)
        except AttributeError:
            raise KeyError(name) from None


@dataclass(kw_only=True, slots=True)
class SoftTeacherTrainCfg(SemiTrainCfg):
    """Settings of :class:`~det_semi.soft_teacher.SoftTeacher`, besides those of :class:`SemiTrainCfg`.

    Attributes:
        pseudo_label_initial_score_thr: Score that a teacher's box must exceed to be looked at at all.
        rpn_pseudo_thr: ... for the student's first stage to learn from it.
        cls_pseudo_thr: ... for its second stage to learn the class.
        reg_pseudo_thr: Uncertainty below which the second stage learns the box.
        jitter_times: Times that a box is moved at random to measure how certain the teacher is of it.
        jitter_scale: Standard deviation of these moves, in widths and heights of the box.
    """

    unsup_weight: float = 4.0
    pseudo_label_initial_score_thr: float = 0.5
    rpn_pseudo_thr: float = 0.9
    reg_pseudo_thr: float = 0.02
    jitter_times: int = 10
    jitter_scale: float = 0.06

    def __post_init__(self) -> None:
        SemiTrainCfg.__post_init__(self)
        if self.jitter_times < 2:
            raise ConfigError(f"jitter_times must be at least 2 for a deviation, got {self.jitter_times}")
        if not (self.jitter_scale > 0 and self.reg_pseudo_thr >= 0):
            given = f"{self.jitter_scale}, {self.reg_pseudo_thr}"
            raise ConfigError(f"jitter_scale and reg_pseudo_thr are positive, got {given}")

    def thresholds(self) -> tuple[str, ...]:
        """Names of the settings that are thresholds of scores."""
        return ("pseudo_label_initial_score_thr", "rpn_pseudo_thr", "cls_pseudo_thr")


class SemiTestCfg(TypedDict, total=False):
    """Which of the two networks answers; the teacher everywhere by default."""

    predict_on: Part
    forward_on: Part
    extract_feat_on: Part


def as_settings(kind: type, given: Any) -> Any:
    """Settings as they are, made of the dict that a detector of a user's own was given, or the defaults."""
    if given is None:
        return kind()
    return MODELS.build({"type": kind, **given}) if isinstance(given, Mapping) else given
