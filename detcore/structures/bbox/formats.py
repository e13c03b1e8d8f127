"""Other ways to write boxes, and sets of them; tensors and arrays alike."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from detcore.structures.bbox.kinds import Boxes, stacked


def bbox_cxcywh_to_xyxy(bbox: Boxes) -> Boxes:
    """Boxes (cx, cy, w, h) ``(..., 4)`` as xyxy."""
    cx, cy, w, h = (bbox[..., i] for i in range(4))
    return stacked([cx - 0.5 * w, cy - 0.5 * h, cx + 0.5 * w, cy + 0.5 * h])


def bbox_xyxy_to_cxcywh(bbox: Boxes) -> Boxes:
    """Boxes xyxy ``(..., 4)`` as (cx, cy, w, h)."""
    x1, y1, x2, y2 = (bbox[..., i] for i in range(4))
    return stacked([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1])


def get_box_wh(boxes: Boxes) -> tuple[Boxes, Boxes]:
    """Widths and heights ``(...,)`` of boxes ``(..., 4)``."""
    return boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]


def cat_boxes(data_list: Sequence[Boxes], dim: int = 0) -> Boxes:
    """Boxes of several sets in one.

    Raises:
        ValueError: There are none.
    """
    if len(data_list) == 0:
        raise ValueError("cat_boxes needs at least one set of boxes, got none")
    first = data_list[0]
    if isinstance(first, Tensor):
        return torch.cat(list(data_list), dim)
    return np.concatenate(list(data_list), dim)
