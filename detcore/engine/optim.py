"""Optimisers, as the rest of the engine sees them."""

from detcore.engine.optim_amp import AmpOptimWrapper
from detcore.engine.optim_constructor import DefaultOptimWrapperConstructor, build_optim_wrapper, scale_lr
from detcore.engine.optim_wrapper import OptimWrapper

__all__ = [
    "AmpOptimWrapper",
    "DefaultOptimWrapperConstructor",
    "OptimWrapper",
    "build_optim_wrapper",
    "scale_lr",
]
