"""Numbers on their way from the host to the device, without the host waiting for them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def host_tensor(values: Sequence[Any], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A small tensor of Python numbers where ``like`` is.

    ``torch.tensor(values, device='cuda')`` copies from ordinary memory, for which the host waits until the
    device has done all that was asked of it before. From pinned memory the copy is queued behind the rest.

    Args:
        values: Numbers, or nested sequences of them.
        like: Gives the device, and the dtype where ``dtype`` is None.
        dtype: Dtype of the result.
    """
    dtype = dtype or like.dtype
    if like.device.type != "cuda":
        return torch.tensor(values, dtype=dtype, device=like.device)
    return torch.tensor(values, dtype=dtype, pin_memory=True).to(like.device, non_blocking=True)


def reduce_mean(value: Tensor) -> Tensor:
    """Mean of a tensor over all ranks; the tensor itself where there is one.

    With an average factor reduced so, the mean of the ranks' gradients is the gradient of the whole batch.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    size = torch.distributed.get_world_size()
    if size == 1:
        return value
    value = value.detach().clone().float()
    torch.distributed.all_reduce(value)
    return value / size
