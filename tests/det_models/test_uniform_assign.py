"""UniformAssigner against a plain loop over objects and anchors."""

import pytest
import torch
from det_models.truth import GroundTruth
from det_models.uniform_assign import UniformAssigner

from detcore.structures import InstanceData
from detcore.structures.bbox import bbox_overlaps


def boxes(count, seed, size=60.0):
    random = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=random) * 100
    return torch.cat((corner, corner + 8 + size * torch.rand(count, 2, generator=random)), 1)


def distance(first, second):
    (x1, y1, x2, y2), (u1, v1, u2, v2) = first.tolist(), second.tolist()
    shift = abs(x1 + x2 - u1 - u2) / 2 + abs(y1 + y2 - v1 - v2) / 2
    return shift + abs((x2 - x1) - (u2 - u1)) + abs((y2 - y1) - (v2 - v1))


def nearest(candidates, box, times, allowed):
    return sorted(allowed, key=lambda place: distance(candidates[place], box))[:times]


def plain(priors, predicted, gts, times, least, most, allowed=None):
    """Owner of each prior, and the pairs that count as (prior, box), one entry each time they are found."""
    allowed = list(range(len(priors))) if allowed is None else allowed
    owner = [-1] * len(priors)
    for place in allowed:
        best = max((float(bbox_overlaps(predicted[place, None], box[None])) for box in gts), default=0.0)
        owner[place] = -1 if best > most else 0
    by_prediction = [nearest(predicted, box, times, allowed) for box in gts]
    by_prior = [nearest(priors, box, times, allowed) for box in gts]
    pairs = []
    for rank in range(times):
        for found in (by_prediction, by_prior):
            for number, places in enumerate(found):
                place = places[rank]
                fits = float(bbox_overlaps(priors[place, None], gts[number][None])) >= least
                owner[place] = number + 1 if fits else -1
                pairs += [(place, number)] if fits else []
    return owner, sorted(pairs)


@pytest.mark.parametrize("times", [1, 4])
@pytest.mark.parametrize("limited", [False, True], ids=["all", "some"])
def test_a_batch_is_matched_as_by_a_plain_loop(times, limited):
    priors, predicted = boxes(80, 0), torch.stack([boxes(80, seed) for seed in (1, 2, 3)])
    counts = (5, 0, 12)
    batch = [InstanceData(bboxes=boxes(count, 9 + count), labels=torch.arange(count)) for count in counts]
    valid = torch.rand(3, 80, generator=torch.Generator().manual_seed(4)) > 0.3 if limited else None
    found = UniformAssigner(0.15, 0.5, times).match_predictions(
        priors, predicted, GroundTruth.pack(batch), valid
    )
    for number, each in enumerate(batch):
        allowed = None if valid is None else torch.nonzero(valid[number]).flatten().tolist()
        owner, pairs = plain(priors, predicted[number], each.bboxes, times, 0.15, 0.5, allowed)
        assert found.matches[number].tolist() == owner
        held = found.held[number]
        places, numbers = (each[number][held].tolist() for each in (found.places, found.boxes))
        assert sorted(zip(places, numbers, strict=True)) == pairs
    assert (found.matches == -1).any()
    assert found.matches.max() > 3


def test_one_image_says_what_its_pairs_are():
    priors, predicted = boxes(40, 0), boxes(40, 1)
    gts = InstanceData(bboxes=boxes(3, 5), labels=torch.tensor([2, 0, 1]))
    given = InstanceData(priors=priors, decoder_priors=predicted)
    result = UniformAssigner(0.15, 0.7).assign(given, gts)
    owner, pairs = plain(priors, predicted, gts.bboxes, 4, 0.15, 0.7)
    assert result.gt_inds.tolist() == owner
    assert [len(each) for each in result.extra.values()] == [24, 24, 24]
    assert int(result.extra["pos_idx"].sum()) == len(pairs)
    assert torch.equal(result.extra["target_boxes"][:3], gts.bboxes)
    assert result.labels.tolist() == [int(gts.labels[each - 1]) if each > 0 else -1 for each in owner]
    none = UniformAssigner(0.15, 0.7).assign(given, gts[:0])
    assert none.gt_inds.tolist() == [0] * 40
    assert [len(each) for each in none.extra.values()] == [0, 0, 0]


def test_no_pairs_is_an_error():
    with pytest.raises(ValueError, match="match_times is a number of priors, at least 1, got 0"):
        UniformAssigner(0.15, 0.7, match_times=0)
