"""Accepted for configs of MMDetection; the training loop steps the schedules by name."""
from detcore.engine.hooks.base import Hook


class ParamSchedulerHook(Hook):
    """Does nothing: `train_step` steps the schedules by iteration, the loop those by epoch."""

    priority = "LOW"
