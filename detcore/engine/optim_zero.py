"""An optimiser whose state is spread over the processes."""

from collections.abc import Iterable
from typing import Any

import torch.distributed as dist
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.optim import Optimizer

from detcore.engine import distributed
from detcore.engine.optim_constructor import resolve_optimizer
from detcore.errors import ConfigError


def zero_redundancy_optimizer(params: Iterable[Any], optimizer_type: str, **settings: Any) -> Optimizer:
    """Make an optimiser of whose state each process keeps and updates a part, for less memory (ZeRO stage 1).

    Checkpoints hold the state of all processes.

    Args:
        params: Parameters or groups of them.
        optimizer_type: Name of the optimiser in ``torch.optim``.
        **settings: What that optimiser takes.

    Raises:
        ConfigError: There is no such optimiser, or no process group.
    """
    optimizer = resolve_optimizer(optimizer_type)
    if optimizer is None:
        raise ConfigError(f"ZeroRedundancyOptimizer: torch.optim has no optimizer_type={optimizer_type!r}")
    if not (dist.is_available() and dist.is_initialized()):
        raise ConfigError(
            "ZeroRedundancyOptimizer spreads its state over several processes, and this is the only one: "
            f"use type={optimizer_type!r}"
        )
    return _Spread(params, optimizer_class=optimizer, **settings)


class _Spread(ZeroRedundancyOptimizer):
    """Tells its state in the main process, which saves it, and nothing elsewhere."""

    def state_dict(self) -> dict[str, Any]:
        """The whole state; all processes must call this."""
        self.consolidate_state_dict(to=0)
        return super().state_dict() if distributed.is_main() else {"state": {}, "param_groups": []}
