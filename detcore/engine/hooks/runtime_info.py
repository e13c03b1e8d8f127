"""Accepted for configs of MMDetection; the runner keeps this information itself."""
from detcore.engine.hooks.base import Hook


class RuntimeInfoHook(Hook):
    """Does nothing: ``runner.iter``, ``runner.epoch`` and the log processor hold the information."""

    priority = "VERY_HIGH"
