"""The anchors of YOLO: sizes that were found by clustering the boxes of a data set."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.modules.utils import _pair

from det_models.anchors import AnchorGenerator
from det_models.grids import GridCache, Size


class YOLOAnchorGenerator(AnchorGenerator):
    """Boxes of given sizes in the middle of every cell: YOLOv3 (Redmon and Farhadi 2018), section 2.3.

    Args:
        strides: Pixels between neighbouring cells of each level, an int or (w, h).
        base_sizes: (w, h) of each anchor of each level, in pixels.

    Raises:
        ValueError: Another number of levels than of strides.
    """

    def __init__(
        self, strides: Sequence[int] | Sequence[Size], base_sizes: Sequence[Sequence[tuple[float, float]]]
    ) -> None:
        self.strides = [_pair(stride) for stride in strides]
        if len(base_sizes) != len(self.strides):
            raise ValueError(f"base_sizes of {len(base_sizes)} levels for {len(self.strides)} strides")
        self.centers = [(width / 2, height / 2) for width, height in self.strides]
        self.level_sizes = [[_pair(size) for size in level] for level in base_sizes]
        self.base_anchors = self.gen_base_anchors()
        self._grids = GridCache()

    def gen_base_anchors(self) -> list[Tensor]:
        """Anchors of the first cell of each level, ``Tensor[K, 4]`` each, xyxy, pixels."""
        assert self.centers is not None
        anchors = []
        for center, level in zip(self.centers, self.level_sizes, strict=True):
            middle, sizes = torch.tensor([center]), torch.tensor(level, dtype=torch.float32)
            anchors.append(torch.cat((middle - sizes / 2, middle + sizes / 2), dim=1))
        return anchors

    def __repr__(self) -> str:
        return f"{type(self).__name__}(strides={self.strides}, base_sizes={self.level_sizes})"
