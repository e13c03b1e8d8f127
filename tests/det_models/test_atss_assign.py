"""ATSSAssigner against a plain loop over objects, levels and anchors."""

import math

import pytest
import torch
from det_models.atss_assign import ATSSAssigner, own_threshold
from det_models.truth import GroundTruth

from detcore.structures import InstanceData
from detcore.structures.bbox import bbox_overlaps

SIZES, STRIDES = [(8, 10), (4, 5), (2, 3)], (8, 16, 32)


@pytest.fixture
def levels():
    """Square anchors of 6 strides over a picture of 80x64 pixels, three levels."""
    found = []
    for (height, width), stride in zip(SIZES, STRIDES, strict=True):
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        center = torch.stack((x, y), -1).flatten(0, 1) * float(stride)
        found.append(torch.cat((center - 3 * stride, center + 3 * stride), 1))
    return found


def some_boxes(count, seed):
    random = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=random) * 50
    return torch.cat((corner, corner + 4 + 40 * torch.rand(count, 2, generator=random)), 1)


def instances(boxes, labels=None):
    labels = torch.arange(len(boxes)) if labels is None else labels
    return InstanceData(bboxes=boxes, labels=labels)


def plain(levels, boxes, topk, allowed=None, fit=None):
    """Algorithm 1 of the paper, an object at a time."""
    anchors = torch.cat(levels)
    centers = ((anchors[:, :2] + anchors[:, 2:]) / 2).tolist()
    fit = bbox_overlaps(boxes, anchors) if fit is None else fit
    owner, best = [0] * len(anchors), [0.0] * len(anchors)
    for number, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        middle, candidates, start = ((x1 + x2) / 2, (y1 + y2) / 2), [], 0
        for level in levels:
            places = [i for i in range(start, start + len(level)) if allowed is None or allowed[i]]
            candidates += sorted(places, key=lambda i: math.dist(centers[i], middle))[:topk]
            start += len(level)
        overlaps = fit[number, candidates]
        threshold = float(overlaps.mean() + overlaps.std())
        for place in candidates:
            (x, y), overlap = centers[place], float(fit[number, place])
            inside = min(x - x1, y - y1, x2 - x, y2 - y) > 0.01
            if inside and overlap >= threshold and overlap > best[place]:
                owner[place], best[place] = number + 1, overlap
    return torch.tensor(owner)


@pytest.mark.parametrize("topk", [1, 4, 9, 100])
def test_a_batch_is_matched_as_by_a_plain_loop(levels, topk):
    batch = [instances(some_boxes(count, seed)) for seed, count in enumerate((5, 1, 0, 12))]
    matches = ATSSAssigner(max(2, topk)).match_levels(levels, GroundTruth.pack(batch))
    for found, each in zip(matches, batch, strict=True):
        assert found.tolist() == plain(levels, each.bboxes, max(2, topk)).tolist()
    assert matches[0].unique().numel() > 3


def test_priors_that_take_no_part_are_no_candidates(levels):
    boxes = some_boxes(6, 3)
    allowed = torch.rand(sum(map(len, levels)), generator=torch.Generator().manual_seed(1)) > 0.4
    matches = ATSSAssigner(9).match_levels(levels, GroundTruth.pack([instances(boxes)]), allowed[None])[0]
    assert matches[allowed].tolist() == plain(levels, boxes, 9, allowed)[allowed].tolist()
    assert (matches[~allowed] == -1).all()


def test_a_level_without_priors_that_take_part_does_no_harm(levels):
    allowed = torch.cat([torch.full((len(level),), number != 1) for number, level in enumerate(levels)])
    boxes = some_boxes(3, 5)
    matches = ATSSAssigner(9).match_levels(levels, GroundTruth.pack([instances(boxes)]), allowed[None])[0]
    assert matches[allowed].tolist() == plain(levels, boxes, 9, allowed)[allowed].tolist()
    none = ATSSAssigner(9).match_levels(levels, GroundTruth.pack([instances(boxes)]), allowed[None] & False)
    assert (none == -1).all()


def test_priors_in_ignored_regions_are_neither_where_that_is_wanted(levels):
    boxes, region = some_boxes(4, 2), torch.tensor([[30.0, 20.0, 200.0, 200.0]])
    truth = GroundTruth.pack([instances(boxes)], [InstanceData(bboxes=region)])
    anchors = torch.cat(levels)
    inside = bbox_overlaps(anchors, region, mode="iof")[:, 0] > 0.5
    assert 0 < inside.sum() < len(anchors)
    matches = ATSSAssigner(9, ignore_iof_thr=0.5).match_levels(levels, truth)[0]
    assert (matches[inside] == -1).all()
    assert matches[~inside].tolist() == plain(levels, boxes, 9, ~inside)[~inside].tolist()
    assert (ATSSAssigner(9).match_levels(levels, truth) >= 0).all()


def test_with_alpha_candidates_are_judged_by_what_they_predict(levels):
    boxes, random = some_boxes(4, 7), torch.Generator().manual_seed(0)
    anchors, labels = torch.cat(levels), torch.tensor([1, 0, 1, 2])
    scores = torch.randn(len(anchors), 3, generator=random)
    predicted = anchors + torch.randn(anchors.shape, generator=random)
    fit = scores.sigmoid()[:, labels].T ** 0.2 * bbox_overlaps(boxes, predicted) ** 0.8
    result = ATSSAssigner(9, alpha=0.8).assign(
        InstanceData(priors=anchors, scores=scores, bboxes=predicted),
        [len(level) for level in levels],
        instances(boxes, labels),
    )
    want = plain(levels, boxes, 9, fit=fit)
    assert result.gt_inds.tolist() == want.tolist()
    assert result.labels.tolist() == torch.where(want > 0, labels[(want - 1).clamp(min=0)], -1).tolist()


def test_assign_is_match_for_one_image(levels):
    boxes = some_boxes(5, 9)
    priors = InstanceData(priors=torch.cat(levels))
    result = ATSSAssigner(9).assign(priors, [len(level) for level in levels], instances(boxes))
    assert result.num_gts == 5
    assert result.gt_inds.tolist() == plain(levels, boxes, 9).tolist()
    positive = result.gt_inds > 0
    own = bbox_overlaps(boxes[result.gt_inds[positive] - 1], priors.priors[positive], is_aligned=True)
    torch.testing.assert_close(result.max_overlaps[positive], own)


def test_an_object_that_one_candidate_is_near_takes_it(levels):
    """The deviation of a single overlap is none, not NaN."""
    level = [torch.tensor([[0.0, 0.0, 20.0, 20.0]])]
    truth = GroundTruth.pack([instances(torch.tensor([[2.0, 2.0, 18.0, 25.0]]))])
    assert ATSSAssigner(9).match_levels(level, truth).tolist() == [[1]]
    threshold = own_threshold(torch.tensor([[0.5, 9.0]]), torch.tensor([[True, False]]))
    assert threshold.tolist() == [0.5]


def test_what_does_not_fit_is_an_error(levels):
    with pytest.raises(ValueError, match="at least 1, got 0"):
        ATSSAssigner(0)
    truth = GroundTruth.pack([instances(some_boxes(1, 0))])
    with pytest.raises(ValueError, match=r"with alpha=0.8 ATSSAssigner needs predicted scores and boxes"):
        ATSSAssigner(9, alpha=0.8).match_levels(levels, truth)
