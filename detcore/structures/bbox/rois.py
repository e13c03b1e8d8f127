"""Boxes of several images in one tensor, as pooling takes them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def bbox2roi(bbox_list: Sequence[Tensor]) -> Tensor:
    """Boxes of a batch with the number of their image in front.

    Args:
        bbox_list: One ``Tensor[N_i, 4 or more]`` an image; columns after the fourth are left out.

    Returns:
        ``Tensor[sum(N_i), 5]``: image number, x1, y1, x2, y2.
    """
    rois = [
        torch.cat([boxes.new_full((boxes.size(0), 1), number), boxes[:, :4]], 1)
        for number, boxes in enumerate(bbox_list)
    ]
    return torch.cat(rois)


def roi2bbox(rois: Tensor, num_images: int | None = None) -> list[Tensor]:
    """The inverse of :func:`bbox2roi`.

    Args:
        rois: ``Tensor[N, 5]``: image number, x1, y1, x2, y2.
        num_images: Images in the batch; by default those up to the highest number in ``rois``, which costs
            a synchronisation with the device.

    Returns:
        One ``Tensor[N_i, 4]`` an image, empty where it has none.
    """
    if num_images is None:
        num_images = int(rois[:, 0].max()) + 1 if len(rois) else 0
    return [rois[rois[:, 0] == number, 1:] for number in range(num_images)]
