"""DynamicSoftLabelAssigner against a plain loop over objects and points."""

import math

import pytest
import torch
from det_models.dynamic_soft_label import DynamicSoftLabelAssigner
from det_models.truth import GroundTruth

from detcore.structures import InstanceData
from detcore.structures.bbox import bbox_overlaps

SIZES, STRIDES, NUM_CLASSES = [(8, 10), (4, 5), (2, 3)], (8, 16, 32), 4


def points():
    """Upper left corners and strides of the cells of a picture of 80x64 pixels, three levels."""
    found = []
    for (height, width), stride in zip(SIZES, STRIDES, strict=True):
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        corner = torch.stack((x, y), -1).flatten(0, 1) * float(stride)
        found.append(torch.cat((corner, torch.full_like(corner, stride)), 1))
    return torch.cat(found)


def image(count, seed):
    random = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=random) * 50
    boxes = torch.cat((corner, corner + 6 + 40 * torch.rand(count, 2, generator=random)), 1)
    return InstanceData(bboxes=boxes, labels=torch.randint(NUM_CLASSES, (count,), generator=random))


def predictions(seed, priors):
    """Boxes that are near the points, and logits."""
    random = torch.Generator().manual_seed(seed)
    sides = priors[:, 2:] * (0.5 + 3 * torch.rand(len(priors), 2, generator=random))
    boxes = torch.cat((priors[:, :2] - sides, priors[:, :2] + sides), 1)
    return boxes, 3 * torch.randn(len(priors), NUM_CLASSES, generator=random)


def cost_of(logits, label, overlap, distance):
    """Eq. 1, 2, 4 and 5."""
    total = -3 * math.log(overlap + 1e-7) + 10 ** (distance - 3)
    for k, logit in enumerate(logits):
        wanted, p = overlap * (k == label), 1 / (1 + math.exp(-logit))
        entropy = -wanted * math.log(p) - (1 - wanted) * math.log(1 - p)
        total += entropy * (wanted - p) ** 2
    return total


def plain(priors, boxes, logits, truth, topk=13):
    """Section 3.3 of the paper, an object and a point at a time."""
    owners, overlaps = [0] * len(priors), [0.0] * len(priors)
    if not len(truth):
        return torch.tensor(owners), torch.tensor(overlaps)
    fit = bbox_overlaps(boxes, truth.bboxes).tolist()
    objects = list(zip(truth.bboxes.tolist(), truth.labels.tolist(), strict=True))
    cost, wants = {}, {}
    for place, (x, y, stride, _) in enumerate(priors.tolist()):
        if any(min(x - x1, y - y1, x2 - x, y2 - y) > 0 for (x1, y1, x2, y2), _ in objects):
            wants[place] = []
            for number, ((x1, y1, x2, y2), label) in enumerate(objects):
                distance = math.dist((x, y), ((x1 + x2) / 2, (y1 + y2) / 2)) / stride
                cost[place, number] = cost_of(logits[place].tolist(), label, fit[place][number], distance)
    for number in range(len(objects)):
        best = sorted((fit[place][number] for place in wants), reverse=True)[:topk]
        for place in sorted(wants, key=lambda place: cost[place, number])[: max(int(sum(best)), 1)]:
            wants[place].append(number)
    for place, numbers in wants.items():
        if numbers:
            chosen = numbers[0]
            if len(numbers) > 1:
                chosen = min(range(len(objects)), key=lambda number: cost[place, number])
            owners[place], overlaps[place] = chosen + 1, fit[place][chosen]
    return torch.tensor(owners), torch.tensor(overlaps)


@pytest.mark.parametrize("topk", [1, 4, 13])
@pytest.mark.parametrize("seed", range(6))
def test_as_a_plain_loop_over_objects_and_points(seed, topk):
    priors, truth = points(), image(5, seed)
    boxes, logits = predictions(seed, priors)
    want, overlaps = plain(priors, boxes, logits, truth, topk)
    found = DynamicSoftLabelAssigner(topk=topk).assign(
        InstanceData(priors=priors, bboxes=boxes, scores=logits), truth
    )
    assert found.gt_inds.tolist() == want.tolist()
    torch.testing.assert_close(found.max_overlaps, overlaps)
    assert set(range(1, 6)) & set(want.tolist()), "nothing was matched"


def test_a_batch_is_matched_as_its_images_are():
    priors = points()
    images = [image(count, seed) for seed, count in enumerate((3, 0, 6, 1))]
    predicted = [predictions(seed, priors) for seed in range(4)]
    boxes, logits = (torch.stack(each) for each in zip(*predicted, strict=True))
    found = DynamicSoftLabelAssigner().match_predictions(priors, boxes, logits, GroundTruth.pack(images))
    for number, each in enumerate(images):
        want, overlaps = plain(priors, *predicted[number], each)
        assert found.matches[number].tolist() == want.tolist()
        torch.testing.assert_close(found.overlaps[number], overlaps)


def test_a_point_far_from_the_middle_of_a_large_object_has_a_finite_cost():
    """Ten to the power of its distance in strides is more than a float holds."""
    priors = torch.tensor([[10.0, 10.0, 8.0, 8.0]])
    truth = InstanceData(bboxes=torch.tensor([[0.0, 0.0, 4000.0, 4000.0]]), labels=torch.tensor([0]))
    predicted = InstanceData(priors=priors, bboxes=truth.bboxes, scores=torch.zeros(1, NUM_CLASSES))
    found = DynamicSoftLabelAssigner().assign(predicted, truth)
    assert (found.gt_inds.tolist(), found.max_overlaps.tolist()) == ([1], [1.0])


def test_what_is_wrong_is_said():
    with pytest.raises(ValueError, match="topk is a number of candidates, at least 1, got 0"):
        DynamicSoftLabelAssigner(topk=0)
