"""How often the best class is the right one: no loss, but logged beside them."""

import torch
from torch import Tensor


@torch.no_grad()
def accuracy(pred: Tensor, target: Tensor) -> Tensor:
    """Per cent of rows whose greatest score belongs to the target, a scalar.

    Args:
        pred: Scores ``Tensor[N, C]``.
        target: ``LongTensor[N]``.
    """
    if not len(pred):
        return pred.new_zeros(())
    return (pred.argmax(1) == target).float().mean() * 100
