"""PointAssigner against a plain loop over objects and points."""

import math

import pytest
import torch
from det_models.assign import MaxIoUAssigner, match_each
from det_models.point_assign import PointAssigner
from det_models.points import MlvlPointGenerator
from det_models.truth import GroundTruth

from detcore.structures import InstanceData

SIZES = [(8, 10), (4, 5), (2, 3)]


@pytest.fixture
def points():
    return torch.cat(MlvlPointGenerator([8, 16, 32], offset=0).grid_priors(SIZES, with_stride=True))


def objects(count, seed):
    random = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=random) * 50
    size = 4 * 60 ** torch.rand(count, 2, generator=random)
    return InstanceData(bboxes=torch.cat((corner, corner + size), 1), labels=torch.arange(count))


def plain(points, boxes, scale, times, allowed):
    owner, least = [0 if each else -1 for each in allowed], [math.inf] * len(points)
    for number, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        level = int((math.log2((x2 - x1) / scale) + math.log2((y2 - y1) / scale)) / 2)
        stride = 2 ** min(max(level, 3), 5)
        away = {
            place: math.hypot((x - (x1 + x2) / 2) / (x2 - x1), (y - (y1 + y2) / 2) / (y2 - y1))
            for place, (x, y, own, _) in enumerate(points.tolist()) if own == stride and allowed[place]
        }  # fmt: skip
        for place in sorted(away, key=away.get)[:times]:
            if away[place] < least[place]:
                owner[place], least[place] = number + 1, away[place]
    return owner


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("limited", [False, True], ids=["all", "some"])
def test_a_batch_is_matched_as_by_a_plain_loop(points, times, limited):
    batch = [objects(count, count) for count in (6, 0, 25)]
    shape = (3, len(points))
    allowed = torch.ones(shape, dtype=torch.bool)
    if limited:
        allowed = torch.rand(shape, generator=torch.Generator().manual_seed(0)) > 0.3
    found = PointAssigner(1.5, times).match(points, GroundTruth.pack(batch), allowed if limited else None)
    for each, matches, valid in zip(batch, found, allowed.tolist(), strict=True):
        assert matches.tolist() == plain(points, each.bboxes, 1.5, times, valid)
    assert {int(each) for each in points[found[2] > 0, 2]} == {8, 16, 32}


def test_one_image(points):
    each = objects(7, 3)
    result = PointAssigner(4, 2).assign(InstanceData(priors=points), each)
    assert result.gt_inds.tolist() == plain(points, each.bboxes, 4, 2, [True] * len(points))
    assert result.labels.tolist() == [owner - 1 if owner else -1 for owner in result.gt_inds.tolist()]
    with pytest.raises(ValueError, match="pos_num is a number of points, at least 1, got 0"):
        PointAssigner(pos_num=0)


def test_images_may_have_boxes_of_their_own_to_match():
    random = torch.Generator().manual_seed(0)
    corner = torch.rand(3, 50, 2, generator=random) * 60
    priors = torch.cat((corner, corner + 5 + 40 * torch.rand(3, 50, 2, generator=random)), -1)
    truth = GroundTruth.pack([objects(count, count) for count in (6, 0, 9)])
    assigner = MaxIoUAssigner(0.5, 0.4)
    got = assigner.match(priors, truth)
    for number in range(3):
        alone = GroundTruth.pack(truth.instances[number : number + 1])
        assert torch.equal(got[number], assigner.match(priors[number], alone)[0])
    assert torch.equal(got, match_each(assigner, priors, truth))
    assert not torch.equal(got[0] > 0, got[2] > 0)
