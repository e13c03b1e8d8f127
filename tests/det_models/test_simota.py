"""SimOTAAssigner against a plain loop over objects and points."""

import math

import pytest
import torch
from det_models import dynamic_k_assign
from det_models.dynamic_k_assign import match_predictions
from det_models.simota import SimOTAAssigner
from det_models.truth import GroundTruth

from detcore.structures import InstanceData
from detcore.structures.bbox import bbox_overlaps

SIZES, STRIDES, NUM_CLASSES = [(8, 10), (4, 5), (2, 3)], (8, 16, 32), 4


def points():
    """Centres and strides of the cells of a picture of 80x64 pixels, three levels."""
    found = []
    for (height, width), stride in zip(SIZES, STRIDES, strict=True):
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        center = (torch.stack((x, y), -1).flatten(0, 1) + 0.5) * stride
        found.append(torch.cat((center, torch.full_like(center, stride)), 1))
    return torch.cat(found)


def some_boxes(count, seed, least=4.0):
    random = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=random) * 50
    return torch.cat((corner, corner + least + 40 * torch.rand(count, 2, generator=random)), 1)


def predictions(seed, priors):
    """Boxes that are near the points, and probabilities."""
    random = torch.Generator().manual_seed(seed)
    sides = priors[:, 2:] * (0.5 + 3 * torch.rand(len(priors), 2, generator=random))
    boxes = torch.cat((priors[:, :2] - sides, priors[:, :2] + sides), 1)
    return boxes, torch.rand(len(priors), NUM_CLASSES, generator=random)


def image(count, seed):
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(NUM_CLASSES, (count,), generator=random)
    return InstanceData(bboxes=some_boxes(count, seed), labels=labels)


def plain(priors, boxes, scores, truth, radius=2.5, topk=10):
    """Section 2.1 of the paper, an object and a point at a time."""
    owners, overlaps = [0] * len(priors), [0.0] * len(priors)
    if not len(truth):
        return torch.tensor(owners), torch.tensor(overlaps)
    near, both = {}, {}
    for place, (x, y, stride, _) in enumerate(priors.tolist()):
        for number, (x1, y1, x2, y2) in enumerate(truth.bboxes.tolist()):
            inside = min(x - x1, y - y1, x2 - x, y2 - y) > 0
            far = max(abs(x - (x1 + x2) / 2), abs(y - (y1 + y2) / 2))
            near[place] = near.get(place, False) or inside or far < radius * stride
            both[place, number] = inside and far < radius * stride
    places = [place for place in range(len(priors)) if near[place]]
    fit = bbox_overlaps(boxes, truth.bboxes)
    cost, wants = {}, {place: [] for place in places}
    for number, label in enumerate(truth.labels.tolist()):
        for place in places:
            entropy = sum(
                -math.log(p if k == label else 1 - p) for k, p in enumerate(scores[place].tolist())
            )
            away = 0 if both[place, number] else 100000
            cost[place, number] = entropy - 3 * math.log(float(fit[place, number]) + 1e-7) + away
        best = sorted((float(fit[place, number]) for place in places), reverse=True)[:topk]
        for place in sorted(places, key=lambda place: cost[place, number])[: max(int(sum(best)), 1)]:
            wants[place].append(number)
    for place, numbers in wants.items():
        if numbers:
            chosen = numbers[0]
            if len(numbers) > 1:
                chosen = min(range(len(truth)), key=lambda number: cost[place, number])
            owners[place], overlaps[place] = chosen + 1, float(fit[place, chosen])
    return torch.tensor(owners), torch.tensor(overlaps)


@pytest.mark.parametrize("topk", [1, 3, 10])
@pytest.mark.parametrize("seed", range(6))
def test_as_a_plain_loop_over_objects_and_points(seed, topk):
    priors, truth = points(), image(5, seed)
    boxes, scores = predictions(seed, priors)
    want, overlaps = plain(priors, boxes, scores, truth, topk=topk)
    found = SimOTAAssigner(candidate_topk=topk).assign(
        InstanceData(priors=priors, bboxes=boxes, scores=scores), truth
    )
    assert found.gt_inds.tolist() == want.tolist()
    torch.testing.assert_close(found.max_overlaps, overlaps)
    labels = torch.where(want > 0, truth.labels[(want - 1).clamp(min=0)], -1)
    assert found.labels.tolist() == labels.tolist()
    assert set(range(1, 6)) & set(want.tolist()), "nothing was matched"


def test_a_batch_is_matched_as_its_images_are(monkeypatch):
    priors = points()
    images = [image(count, seed) for seed, count in enumerate((3, 0, 6, 1))]
    predicted = [predictions(seed, priors) for seed in range(4)]
    boxes, scores = (torch.stack(each) for each in zip(*predicted, strict=True))
    truth = GroundTruth.pack(images)
    assigner = SimOTAAssigner()
    every = assigner.match_predictions(priors, boxes, scores, truth)
    for number, each in enumerate(images):
        want, overlaps = plain(priors, *predicted[number], each)
        assert every.matches[number].tolist() == want.tolist()
        torch.testing.assert_close(every.overlaps[number], overlaps)
    monkeypatch.setattr(dynamic_k_assign, "_ENTRIES", {"cpu": 1})  # an image at a time, to save memory
    few = assigner.match_predictions(priors, boxes, scores, truth)
    assert torch.equal(few.matches, every.matches)

    class OneImage:  # of a user's own
        def assign(self, predicted, gt_instances, ignored):
            return assigner.assign(predicted, gt_instances, ignored)

    alone = match_predictions(OneImage(), priors, boxes, scores, truth)
    assert torch.equal(alone.matches, every.matches)
    torch.testing.assert_close(alone.overlaps, every.overlaps)


def test_what_does_not_take_part_is_no_ones():
    priors, truth = points(), image(4, 0)
    boxes, scores = predictions(0, priors)
    valid = priors[:, 0] < 40
    packed = GroundTruth.pack([truth])
    found = SimOTAAssigner().match_predictions(priors, boxes[None], scores[None], packed, valid[None])
    assert (found.matches[0][~valid] == -1).all()
    kept = SimOTAAssigner().match_predictions(
        priors[valid], boxes[None, valid], scores[None, valid], packed
    )
    assert torch.equal(found.matches[0][valid], kept.matches[0])


def test_an_object_without_a_point_nearby_stays_alone():
    priors = torch.tensor([[4.0, 4.0, 8.0, 8.0]])
    truth = InstanceData(bboxes=torch.tensor([[60.0, 60.0, 64.0, 64.0]]), labels=torch.tensor([0]))
    predicted = InstanceData(priors=priors, bboxes=truth.bboxes, scores=torch.ones(1, NUM_CLASSES) / 2)
    assert SimOTAAssigner().assign(predicted, truth).gt_inds.tolist() == [0]


def test_what_is_wrong_is_said():
    with pytest.raises(ValueError, match="candidate_topk is a number of candidates, at least 1, got 0"):
        SimOTAAssigner(candidate_topk=0)
    with pytest.raises(ValueError, match="pred_instances lacks bboxes, scores"):
        SimOTAAssigner().assign(InstanceData(priors=points()), image(1, 0))
