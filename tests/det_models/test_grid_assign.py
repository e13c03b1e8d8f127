"""YOLO's matching, against its rules in plain loops."""

import pytest
import torch
from det_models.grid_assign import GridAssigner
from det_models.truth import GroundTruth

from detcore.structures import InstanceData

LEVELS = (  # stride, (h, w) of the map, (w, h) of the anchors
    (32, (2, 3), [(60, 40), (30, 50)]),
    (16, (4, 6), [(20, 20), (12, 30)]),
    (8, (8, 12), [(8, 8), (10, 5)]),
)


def all_priors():
    rows = []
    for stride, (height, width), sizes in LEVELS:
        for row in range(height):
            for column in range(width):
                x, y = (column + 0.5) * stride, (row + 0.5) * stride
                rows += [[x - w / 2, y - h / 2, x + w / 2, y + h / 2] for w, h in sizes]
    return torch.tensor(rows)


def flags_of(priors, boxes):
    """The anchors of cells that hold the centre of a box, cell by cell."""
    flags = []
    for stride, (height, width), sizes in LEVELS:
        for row in range(height):
            for column in range(width):
                held = any(
                    column * stride <= (x1 + x2) / 2 < (column + 1) * stride
                    and row * stride <= (y1 + y2) / 2 < (row + 1) * stride
                    for x1, y1, x2, y2 in boxes
                )
                flags += [held] * len(sizes)
    return torch.tensor(flags)


def iou(one, two):
    w = max(0.0, min(one[2], two[2]) - max(one[0], two[0]))
    h = max(0.0, min(one[3], two[3]) - max(one[1], two[1]))
    areas = [(each[2] - each[0]) * (each[3] - each[1]) for each in (one, two)]
    return w * h / (sum(areas) - w * h)


def by_rules(priors, flags, boxes, pos=0.5, neg=0.5, least=0.0, every=True):
    matches = []
    for prior in priors:
        best = max((iou(box, prior) for box in boxes), default=0.0)
        low, high = neg if isinstance(neg, tuple) else (-1.0, neg)
        matches.append(0 if low < best <= high or not boxes else -1)
    held = [place for place, flag in enumerate(flags) if flag]
    for place in held:
        overlaps = [iou(box, priors[place]) for box in boxes]
        if max(overlaps) > pos:
            matches[place] = overlaps.index(max(overlaps)) + 1
    for number, box in enumerate(boxes, start=1):
        overlaps = [iou(box, priors[place]) for place in held]
        if max(overlaps) > least:
            closest = [place for place, each in zip(held, overlaps, strict=True) if each == max(overlaps)]
            for place in closest if every else closest[:1]:
                matches[place] = number
    return matches


def some_boxes(number, seed):
    random = torch.Generator().manual_seed(seed)
    size = 6 + 50 * torch.rand(number, 2, generator=random)
    corner = torch.rand(number, 2, generator=random) * (torch.tensor([96.0, 64.0]) - size).clamp(min=0)
    return torch.cat([corner, corner + size], 1).clamp(max=64.0)


@pytest.mark.parametrize(
    "rules",
    [{}, {"pos": 0.3, "neg": 0.2}, {"pos": 0.4, "neg": (0.1, 0.3)}, {"least": 0.6}, {"every": False}],
    ids=["paper", "between_thresholds", "range", "least_overlap", "one_each"],
)
def test_matches_are_those_of_the_rules(rules):
    assigner = GridAssigner(
        rules.get("pos", 0.5), rules.get("neg", 0.5), rules.get("least", 0.0), rules.get("every", True)
    )
    priors = all_priors()
    images = [some_boxes(number, seed) for seed, number in enumerate((3, 0, 7, 1, 12, 5))]
    truth = GroundTruth.pack([InstanceData(bboxes=each, labels=torch.arange(len(each))) for each in images])
    flags = torch.stack([flags_of(priors, each.tolist()) for each in images])
    got = assigner.match_responsible(priors, truth, flags)
    for number, boxes in enumerate(images):
        want = by_rules(priors.tolist(), flags[number].tolist(), boxes.tolist(), **rules)
        assert got[number].tolist() == want
    assert (got > 0).sum() > 5


def test_of_two_anchors_with_the_greatest_overlap_both_answer_or_one():
    priors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [40, 40, 50, 50]])
    truth = GroundTruth.pack([InstanceData(bboxes=torch.tensor([[0.0, 0, 10, 4]]), labels=torch.tensor([2]))])
    flags = torch.tensor([[True, True, False]])
    assert GridAssigner(0.5, 0.5).match_responsible(priors, truth, flags).tolist() == [[1, 1, 0]]
    one = GridAssigner(0.5, 0.5, gt_max_assign_all=False)
    assert one.match_responsible(priors, truth, flags).tolist() == [[1, 0, 0]]


def test_an_object_has_no_anchor_of_a_cell_that_is_not_responsible():
    priors = torch.tensor([[0.0, 0, 10, 10], [1, 1, 11, 11]])
    box = torch.tensor([[0.0, 0, 10, 10]])
    truth = GroundTruth.pack([InstanceData(bboxes=box, labels=torch.tensor([2]))])
    got = GridAssigner(0.5, 0.5).match_responsible(priors, truth, torch.tensor([[False, True]]))
    assert got.tolist() == [[-1, 1]]  # the better one only counts as neither


def test_images_are_matched_in_parts_where_they_are_many(monkeypatch):
    priors = all_priors()
    images = [some_boxes(number, seed) for seed, number in enumerate((3, 2, 7))]
    truth = GroundTruth.pack([InstanceData(bboxes=each, labels=torch.arange(len(each))) for each in images])
    flags = torch.stack([flags_of(priors, each.tolist()) for each in images])
    want = GridAssigner(0.5, 0.5).match_responsible(priors, truth, flags)
    monkeypatch.setattr("det_models.grid_assign._ENTRIES", 1)
    assert torch.equal(GridAssigner(0.5, 0.5).match_responsible(priors, truth, flags), want)


def test_one_image_says_classes_and_overlaps():
    priors, boxes = all_priors(), some_boxes(4, 0)
    instances = InstanceData(bboxes=boxes, labels=torch.tensor([5, 6, 7, 8]))
    flags = flags_of(priors, boxes.tolist())
    found = GridAssigner(0.5, 0.5).assign(InstanceData(priors=priors, responsible_flags=flags), instances)
    assert found.num_gts == 4
    positive = found.gt_inds > 0
    assert torch.equal(found.labels, torch.where(positive, found.gt_inds + 4, -1))
    for place in torch.nonzero(positive).flatten().tolist():
        best = max(iou(box, priors[place].tolist()) for box in boxes.tolist())
        assert float(found.max_overlaps[place]) == pytest.approx(best, abs=1e-5)


def test_what_it_cannot_do_is_said():
    instances = InstanceData(bboxes=torch.rand(1, 4), labels=torch.tensor([0]))
    with pytest.raises(ValueError, match=r"needs pred_instances.responsible_flags.*got \['priors'\]"):
        GridAssigner(0.5, 0.5).assign(InstanceData(priors=torch.rand(2, 4)), instances)
    with pytest.raises(ValueError, match=r"thresholds must rise from 0: neg_iou_thr=0\.6, pos_iou_thr=0\.5"):
        GridAssigner(0.5, 0.6)
