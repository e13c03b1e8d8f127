"""What ``mmengine.dist`` did that users' modules need, over ``torch.distributed``."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor

from detcore.engine import distributed

Function = TypeVar("Function", bound=Callable[..., Any])
_OPS = {"sum": "SUM", "mean": "SUM", "max": "MAX", "min": "MIN", "product": "PRODUCT"}

is_distributed = distributed.is_distributed
is_main_process = distributed.is_main
barrier = distributed.barrier


def get_rank(group: Any = None) -> int:
    """Number of this process, from 0."""
    return dist.get_rank(group) if is_distributed() else 0


def get_world_size(group: Any = None) -> int:
    """How many processes there are."""
    return dist.get_world_size(group) if is_distributed() else 1


def get_dist_info(group: Any = None) -> tuple[int, int]:
    """``(rank, world size)``."""
    return get_rank(group), get_world_size(group)


def master_only(func: Function) -> Function:
    """Decorator: only the main process runs the function; it gives None in the others."""

    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return func(*args, **kwargs) if is_main_process() else None

    return wrapper  # type: ignore[return-value]


def all_reduce(data: Tensor, op: str = "sum", group: Any = None) -> None:
    """Put the sum, mean, max, min or product over all processes into ``data``.

    Raises:
        ValueError: Another operation.
    """
    if op not in _OPS:
        raise ValueError(f"op must be one of {', '.join(map(repr, _OPS))}, got {op!r}")
    if get_world_size(group) == 1:
        return
    dist.all_reduce(data, getattr(dist.ReduceOp, _OPS[op]), group)
    if op == "mean":
        data.copy_(data / get_world_size(group))


def broadcast(data: Tensor, src: int = 0, group: Any = None) -> None:
    """Put what process ``src`` has in ``data`` into every process's."""
    if get_world_size(group) > 1:
        dist.broadcast(data, src, group)


def sync_random_seed(group: Any = None) -> int:
    """A seed that all processes share."""
    return distributed.broadcast_seed()
