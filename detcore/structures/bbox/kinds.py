"""What the box functions share: tensors and arrays alike."""
from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Boxes = TypeVar("Boxes", Tensor, np.ndarray)


def copied(boxes: Boxes) -> Boxes:
    """Boxes of their own memory."""
    return boxes.clone() if isinstance(boxes, Tensor) else boxes.copy()


def stacked(parts: Sequence[Boxes]) -> Boxes:
    """Parts of equal shape, stacked in a new last dimension."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.stack(list(parts), -1)
    return np.stack(list(parts), -1)
