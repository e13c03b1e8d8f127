"""Accepted for configs of MMDetection; the training loop tells the loader which pass begins."""
from detcore.engine.hooks.base import Hook


class DistSamplerSeedHook(Hook):
    """Does nothing: the loop calls ``set_epoch`` of the loader, which shuffles by seed and pass."""

    priority = "NORMAL"
