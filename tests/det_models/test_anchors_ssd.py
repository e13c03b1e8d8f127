"""SSD's anchors, against the sizes that were published."""

import math

import pytest
import torch
from det_models.anchors_ssd import SSDAnchorGenerator

STRIDES = {300: [8, 16, 32, 64, 100, 300], 512: [8, 16, 32, 64, 128, 256, 512]}
MAPS = {300: [38, 19, 10, 5, 3, 1], 512: [64, 32, 16, 8, 4, 2, 1]}
RATIOS = {
    300: [[2], [2, 3], [2, 3], [2, 3], [2], [2]],
    512: [[2], [2, 3], [2, 3], [2, 3], [2, 3], [2], [2]],
}
# Of the authors' own training files: COCO and VOC in both sizes.
PUBLISHED = {
    (300, 0.15): ([21, 45, 99, 153, 207, 261], [45, 99, 153, 207, 261, 315]),
    (300, 0.2): ([30, 60, 111, 162, 213, 264], [60, 111, 162, 213, 264, 315]),
    (512, 0.1): ([20, 51, 133, 215, 296, 378, 460], [51, 133, 215, 296, 378, 460, 542]),
    (512, 0.15): ([35, 76, 153, 230, 307, 384, 460], [76, 153, 230, 307, 384, 460, 537]),
}


def anchors(size, first, **given):
    strides, ratios = STRIDES[size], RATIOS[size]
    return SSDAnchorGenerator(
        strides, ratios, basesize_ratio_range=(first, 0.9), input_size=size, scale_major=False, **given
    )


@pytest.mark.parametrize(("size", "first"), PUBLISHED)
def test_sizes_are_the_published_ones(size, first):
    made = anchors(size, first)
    assert (made.base_sizes, made.max_sizes) == PUBLISHED[size, first]


@pytest.mark.parametrize(("size", "number"), [(300, 8732), (512, 24564)])
def test_as_many_as_the_paper_says(size, number):
    made = anchors(size, 0.15)
    grid = made.grid_priors([(side, side) for side in MAPS[size]])
    assert sum(len(level) for level in grid) == number
    kinds = [len(level) // side**2 for level, side in zip(grid, MAPS[size], strict=True)]
    assert kinds == made.num_base_priors


def test_both_squares_then_each_ratio_high_and_wide_in_the_middle_of_the_cell():
    made = anchors(300, 0.15)
    for level, (least, greatest) in enumerate(zip(*PUBLISHED[300, 0.15], strict=True)):
        between = math.sqrt(least * greatest)
        sizes = [(least, least), (between, between)]
        for ratio in RATIOS[300][level]:
            long, short = least * math.sqrt(ratio), least / math.sqrt(ratio)
            sizes += [(long, short), (short, long)]
        middle = STRIDES[300][level] / 2
        want = [[middle - w / 2, middle - h / 2, middle + w / 2, middle + h / 2] for w, h in sizes]
        torch.testing.assert_close(made.base_anchors[level], torch.tensor(want))


def test_cells_follow_one_another_by_row_and_column():
    made = anchors(300, 0.15)
    grid = made.grid_priors([(side, side) for side in MAPS[300]])[2].view(10, 10, 6, 4)
    torch.testing.assert_close(grid[3, 7], made.base_anchors[2] + torch.tensor([7.0, 3, 7, 3]) * 32)


def test_sizes_may_be_given():
    made = SSDAnchorGenerator([16, 32], [[2], [2, 3]], [48, 100], [100, 150], scale_major=False)
    assert made.num_base_priors == [4, 6]
    width, height = (made.base_anchors[1][1, 2:] - made.base_anchors[1][1, :2]).tolist()
    assert width == height == pytest.approx(math.sqrt(15000))
    assert "min_sizes=[48, 100]" in repr(made)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"input_size": 320}, "no sizes are known for input_size=320.*300 from 0.15.*give min_sizes"),
        ({"basesize_ratio_range": (0.3, 0.9)}, "no sizes are known for input_size=300"),
        ({"basesize_ratio_range": (0.15, 0.1)}, "sizes grow from the second to the last"),
        ({"min_sizes": [10] * 6}, "give min_sizes and max_sizes together"),
        ({"min_sizes": [10], "max_sizes": [20]}, "6 strides need as many ratios, min_sizes and .*, got 6"),
        ({"ratios": [[2]]}, "6 strides need as many ratios"),
    ],
)
def test_what_it_cannot_do_is_said(given, message):
    with pytest.raises(ValueError, match=message):
        SSDAnchorGenerator(**{"strides": STRIDES[300], "ratios": RATIOS[300], **given})
