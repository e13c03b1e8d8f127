"""What generators of priors share: their grids made once, and which cells lie on padding."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from det_models.host import host_tensor

Size = tuple[int, int]

_CACHED_GRIDS = 64  # multi-scale training meets a few dozen batch shapes


class GridCache:
    """The priors of all levels, made once for a combination of sizes, dtype and device."""

    def __init__(self) -> None:
        self._grids: OrderedDict[tuple[object, ...], list[Tensor]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._grids)

    def get(self, key: tuple[object, ...], make: Callable[[], list[Tensor]]) -> list[Tensor]:
        """What ``make`` gave for the key the first time; it is shared, and not to be changed in place."""
        if torch.compiler.is_compiling():  # what is made there may be no real tensor, and must not be kept
            return make()
        if key in self._grids:
            self._grids.move_to_end(key)
            return self._grids[key]
        with torch.inference_mode(False):  # training must be able to use what inference made
            grids = self._grids[key] = make()
        if len(self._grids) > _CACHED_GRIDS:
            self._grids.popitem(last=False)
        return grids


def check_levels(featmap_sizes: Sequence[Size], strides: Sequence[Size], what: str) -> list[Size]:
    """The sizes as plain numbers.

    Raises:
        ValueError: Another number of feature maps than of strides.
    """
    sizes = [(int(size[0]), int(size[1])) for size in featmap_sizes]
    if len(sizes) != len(strides):
        raise ValueError(
            f"{what} are made for {len(strides)} levels (strides {list(strides)}), got {len(sizes)} feature "
            f"maps of sizes {sizes}"
        )
    return sizes


def cells_on_images(
    featmap_sizes: Sequence[Size],
    pad_shapes: Sequence[Size],
    strides: Sequence[Size],
    num_base_priors: Sequence[int],
    like: Tensor,
) -> Tensor | None:
    """Which priors of a batch sit on their image, not on what pads it to the size of the batch.

    Args:
        featmap_sizes: (h, w) of each level's feature map.
        pad_shapes: (h, w) of each image in pixels, padded to the divisor.
        strides: (w, h) of each level, in pixels.
        num_base_priors: Priors a cell, of each level.
        like: A tensor on the device where the flags are wanted.

    Returns:
        ``BoolTensor[B, A]`` for the A priors of all levels, or None where all of them do.
    """
    valid_cells = [
        [
            (min(-(-shape[0] // stride_h), h), min(-(-shape[1] // stride_w), w))
            for (h, w), (stride_w, stride_h) in zip(featmap_sizes, strides, strict=True)
        ]
        for shape in pad_shapes
    ]
    full = [(h, w) for h, w in featmap_sizes]
    if all(cells == full for cells in valid_cells):
        return None
    limits = host_tensor(valid_cells, like, torch.int64)
    flags = []
    for level, (height, width) in enumerate(full):
        rows = torch.arange(height, device=like.device) < limits[:, level, :1]
        columns = torch.arange(width, device=like.device) < limits[:, level, 1:]
        cells = (rows[:, :, None] & columns[:, None, :]).flatten(1)
        flags.append(cells.repeat_interleave(num_base_priors[level], dim=1))
    return torch.cat(flags, dim=1)
