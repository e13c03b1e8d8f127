"""The anchors of SSD: default boxes."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.modules.utils import _pair

from det_models.anchors import AnchorGenerator
from det_models.grids import GridCache, Size

# (side of the image, least size of the levels behind the first, in parts of the image) -> least and greatest
# size of the first level, in per cent: for COCO and VOC, section 3.1 and 3.3 of the paper.
_FIRST_LEVEL = {(300, 15): (7, 15), (300, 20): (10, 20), (512, 10): (4, 10), (512, 15): (7, 15)}


class SSDAnchorGenerator(AnchorGenerator):
    """Default boxes: SSD (Liu et al. 2016), section 2.2, eq. 4.

    Every level has a size ``s_k``, and its own shapes: at each cell stand a square of that size, one of
    ``sqrt(s_k * s_(k+1))``, and for each ratio r two boxes of size ``s_k``, r times as wide as high and r
    times as high as wide. Sizes grow evenly from the second level to the last; the first has a smaller one.

    Args:
        strides: Pixels between neighbouring cells of each level, an int or (w, h); anchors stand in the
            middle of their cells.
        ratios: Of each level, above 1.
        min_sizes: ``s_k`` of each level, in pixels; by default reckoned from the range.
        max_sizes: ``s_(k+1)`` of each level, in pixels; given with ``min_sizes``.
        basesize_ratio_range: ``s_k`` of the second and of the last level, in parts of the image.
        input_size: Side of the image in pixels: 300 or 512, unless sizes are given.
        scale_major: False for the anchors of the paper. With True the order in which kinds are numbered mixes
            up which size goes with which ratio; kept for checkpoints that were trained so.

    Raises:
        ValueError: Arguments that contradict one another, or a range that is none of the paper's.
    """

    def __init__(
        self,
        strides: Sequence[int] | Sequence[Size],
        ratios: Sequence[Sequence[float]],
        min_sizes: Sequence[float] | None = None,
        max_sizes: Sequence[float] | None = None,
        basesize_ratio_range: tuple[float, float] = (0.15, 0.9),
        input_size: int = 300,
        scale_major: bool = True,
    ) -> None:
        self.strides = [_pair(stride) for stride in strides]
        if (min_sizes is None) != (max_sizes is None):
            raise ValueError(f"give min_sizes and max_sizes together, got {min_sizes} and {max_sizes}")
        if min_sizes is None or max_sizes is None:
            min_sizes, max_sizes = _even_sizes(len(self.strides), basesize_ratio_range, input_size)
        if not len(ratios) == len(min_sizes) == len(max_sizes) == len(self.strides):
            raise ValueError(
                f"{len(self.strides)} strides need as many ratios, min_sizes and max_sizes, got "
                f"{len(ratios)}, {len(min_sizes)} and {len(max_sizes)}"
            )
        self.base_sizes, self.max_sizes = list(min_sizes), list(max_sizes)
        self.level_ratios = [list(level) for level in ratios]
        self.scale_major = scale_major
        self.centers = [(width / 2, height / 2) for width, height in self.strides]
        self.center_offset = 0.0
        self.base_anchors = self.gen_base_anchors()
        self._grids = GridCache()

    def gen_base_anchors(self) -> list[Tensor]:
        """Anchors of the first cell of each level, ``Tensor[K, 4]`` each, xyxy, pixels."""
        anchors = []
        assert self.centers is not None
        for level, (least, greatest) in enumerate(zip(self.base_sizes, self.max_sizes, strict=True)):
            shapes = [1.0]
            for ratio in self.level_ratios[level]:
                shapes += [1 / ratio, ratio]
            scales = torch.tensor([1.0, math.sqrt(greatest / least)])
            every = self.gen_single_level_base_anchors(
                least, scales, torch.tensor(shapes), self.centers[level]
            )
            order = [0, len(shapes), *range(1, len(shapes))]  # both squares, then the other shapes
            anchors.append(every[order])
        return anchors

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(strides={self.strides}, ratios={self.level_ratios}, "
            f"min_sizes={self.base_sizes}, max_sizes={self.max_sizes})"
        )


def _even_sizes(
    num_levels: int, basesize_ratio_range: tuple[float, float], input_size: int
) -> tuple[list[float], list[float]]:
    """Least and greatest size of each level in pixels: eq. 4, in whole per cent of the image."""
    first, last = (int(part * 100) for part in basesize_ratio_range)
    if (input_size, first) not in _FIRST_LEVEL:
        known = ", ".join(f"{size} from {part / 100}" for size, part in _FIRST_LEVEL)
        raise ValueError(
            f"no sizes are known for input_size={input_size} and basesize_ratio_range="
            f"{tuple(basesize_ratio_range)}, only for {known}; give min_sizes and max_sizes"
        )
    if num_levels < 3 or last <= first:
        raise ValueError(
            f"sizes grow from the second to the last of 3 levels or more, got {num_levels} levels and "
            f"basesize_ratio_range={tuple(basesize_ratio_range)}"
        )
    step = (last - first) // (num_levels - 2)
    least, greatest = _FIRST_LEVEL[input_size, first]
    parts = [(least, greatest), *((part, part + step) for part in range(first, last + 1, step))]
    sizes = [tuple(int(input_size * part / 100) for part in pair) for pair in parts]
    return [float(pair[0]) for pair in sizes], [float(pair[1]) for pair in sizes]
