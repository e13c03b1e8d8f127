"""The schedules under the names that configs write: on the learning rate (``*LR``) and the momentum."""

from detcore.engine.schedules.base import LRMixin, MomentumMixin
from detcore.engine.schedules.curves import (
    ConstantParamScheduler,
    CosineAnnealingParamScheduler,
    CosineRestartParamScheduler,
    ExponentialParamScheduler,
    LinearParamScheduler,
    MultiStepParamScheduler,
    PolyParamScheduler,
    QuadraticWarmupParamScheduler,
    StepParamScheduler,
)
from detcore.engine.schedules.special import OneCycleParamScheduler, ReduceOnPlateauParamScheduler


class ConstantLR(LRMixin, ConstantParamScheduler):
    """Learning rate: a constant factor."""


class ConstantMomentum(MomentumMixin, ConstantParamScheduler):
    """Momentum: a constant factor."""


class CosineAnnealingLR(LRMixin, CosineAnnealingParamScheduler):
    """Learning rate: half a cosine."""


class CosineAnnealingMomentum(MomentumMixin, CosineAnnealingParamScheduler):
    """Momentum: half a cosine."""


class CosineRestartLR(LRMixin, CosineRestartParamScheduler):
    """Learning rate: half cosines with restarts."""


class CosineRestartMomentum(MomentumMixin, CosineRestartParamScheduler):
    """Momentum: half cosines with restarts."""


class ExponentialLR(LRMixin, ExponentialParamScheduler):
    """Learning rate: a factor at every step."""


class ExponentialMomentum(MomentumMixin, ExponentialParamScheduler):
    """Momentum: a factor at every step."""


class LinearLR(LRMixin, LinearParamScheduler):
    """Learning rate: a straight line."""


class LinearMomentum(MomentumMixin, LinearParamScheduler):
    """Momentum: a straight line."""


class MultiStepLR(LRMixin, MultiStepParamScheduler):
    """Learning rate: a factor at milestones."""


class MultiStepMomentum(MomentumMixin, MultiStepParamScheduler):
    """Momentum: a factor at milestones."""


class OneCycleLR(LRMixin, OneCycleParamScheduler):
    """Learning rate: up and down in one cycle."""


class PolyLR(LRMixin, PolyParamScheduler):
    """Learning rate: a polynomial."""


class PolyMomentum(MomentumMixin, PolyParamScheduler):
    """Momentum: a polynomial."""


class QuadraticWarmupLR(LRMixin, QuadraticWarmupParamScheduler):
    """Learning rate: a square from 0 to its full value."""


class QuadraticWarmupMomentum(MomentumMixin, QuadraticWarmupParamScheduler):
    """Momentum: a square from 0 to its full value."""


class ReduceOnPlateauLR(LRMixin, ReduceOnPlateauParamScheduler):
    """Learning rate: a factor whenever a metric stalls."""


class ReduceOnPlateauMomentum(MomentumMixin, ReduceOnPlateauParamScheduler):
    """Momentum: a factor whenever a metric stalls."""


class StepLR(LRMixin, StepParamScheduler):
    """Learning rate: a factor every so many steps."""


class StepMomentum(MomentumMixin, StepParamScheduler):
    """Momentum: a factor every so many steps."""
