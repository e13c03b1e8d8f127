"""Trading time for memory: activations that are computed again in the backward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def checkpointed(module: nn.Module, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``function(x)``, without keeping what is inside for the backward pass.

    Batch norms in ``module`` see the batch twice; their averages move once only, so that training is the same
    with and without.

    Args:
        module: Whose forward pass ``function`` is.
        function: What to compute.
        x: Its input. Where nothing needs a gradient, ``function`` is simply called.

    Returns:
        What ``function`` returns.
    """
    trains = x.requires_grad or any(parameter.requires_grad for parameter in module.parameters())
    if not trains or not torch.is_grad_enabled():
        return function(x)
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]

    def contexts() -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
        return contextlib.nullcontext(), _frozen_averages(norms)

    result: Tensor = checkpoint(function, x, use_reentrant=False, context_fn=contexts)
    return result


@contextlib.contextmanager
def _frozen_averages(norms: list[_BatchNorm]) -> Iterator[None]:
    """Batch norms that use batch statistics but leave their running averages alone."""
    before = [(norm.momentum, norm._buffers.get("num_batches_tracked")) for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
            if "num_batches_tracked" in norm._buffers:
                norm._buffers["num_batches_tracked"] = None
        yield
    finally:
        for norm, (momentum, counter) in zip(norms, before, strict=True):
            norm.momentum = momentum
            if "num_batches_tracked" in norm._buffers:
                norm._buffers["num_batches_tracked"] = counter
