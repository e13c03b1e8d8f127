"""CenterNet's head over a pyramid: heat, positives and boxes against a computation by hand."""

import math
from functools import partial

import pytest
import torch
from det_models.centernet_update import CenterNetUpdateHead
from det_models.dense_targets import regressed_rows
from det_models.truth import GroundTruth

from detcore.structures import InstanceData
from detcore.structures.bbox import bbox_overlaps

BOXES = [[10.0, 12.0, 50.0, 60.0], [20.0, 30.0, 90.0, 60.0], [4.0, 4.0, 30.0, 20.0]]
STRIDES = (8, 16, 32, 64, 128)
RANGES = ((0, 24), (16, 40), (30, 320), (256, 640), (512, 1e9))
NINE = [(x, y) for y in (-1, 0, 1) for x in (-1, 0, 1)]


@pytest.fixture
def small_head(one_stage):
    return lambda **head: one_stage("CenterNetUpdate", regress_ranges=RANGES, **head).bbox_head


@pytest.fixture
def samples(make_sample):
    return [make_sample(64, 96, BOXES, [0, 2, 0]), make_sample(64, 96, BOXES[1:2], [1])]


@pytest.fixture
def maps():
    sizes = [(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)]
    return [
        torch.randn(2, 16, *size, generator=torch.Generator().manual_seed(i)) for i, size in enumerate(sizes)
    ]


def values(losses):
    return {name: float(value.detach()) for name, value in losses.items()}


def points_of(size, stride):
    return [((x + 0.5) * stride, (y + 0.5) * stride) for y in range(size[0]) for x in range(size[1])]


def on_level(box, level):
    x1, y1, x2, y2 = box
    return RANGES[level][0] <= math.hypot(x2 - x1, y2 - y1) / 2 <= RANGES[level][1]


def heat_and_matches(boxes, labels, size, level, overlap=0.8, least=4):
    """Of one image and level: the heat of each point and class, and the number of its box plus one."""
    stride, heats, matches = STRIDES[level], [], []
    for x, y in points_of(size, stride):
        heat, best, match = [0.0, 0.0, 0.0], math.inf, 0
        for number, ((x1, y1, x2, y2), label) in enumerate(zip(boxes, labels, strict=True)):
            cx, cy = (x1 + x2) / 2, (y1 + y2) / 2
            own = (cx // stride + 0.5) * stride, (cy // stride + 0.5) * stride
            delta = (1 - overlap) / (1 + overlap)
            spread = max(least**2, 2 * delta**2 * (x2 - x1) * (y2 - y1))
            d = 0.0 if (x, y) == own else ((x - cx) ** 2 + (y - cy) ** 2) / spread
            heat[label] = max(heat[label], math.exp(-d) if math.exp(-d) >= 1e-4 else 0)
            near = max(abs(x - own[0]), abs(y - own[1])) <= stride
            if near and x1 < x < x2 and y1 < y < y2 and on_level(boxes[number], level) and d < best:
                best, match = d, number + 1
        heats.append(heat)
        matches.append(match)
    return heats, matches


def giou_loss(point, distances, box):
    (x, y), (left, top, right, bottom) = point, distances
    found = torch.tensor([[x - left, y - top, x + right, y + bottom]])
    return 1 - float(bbox_overlaps(found, torch.tensor([box]), mode="giou", is_aligned=True))


def positives(box, predicted, sizes, threshold=0.2, topk=9):
    """(level, place) of one object's positives, from predicted distances in pixels by level and place."""
    candidates = []
    for level, (height, width) in enumerate(sizes):
        stride, (x1, y1, x2, y2) = STRIDES[level], box
        cx, cy = int((x1 + x2) / 2 // stride), int((y1 + y2) / 2 // stride)
        for dx, dy in NINE:
            column, row = cx + dx, cy + dy
            x, y, loss = (column + 0.5) * stride, (row + 0.5) * stride, math.inf
            if 0 <= column < width and 0 <= row < height and x1 <= x <= x2 and y1 <= y <= y2:
                loss = giou_loss((x, y), predicted[level][row * width + column], box)
                if (dx, dy) == (0, 0) and on_level(box, level):
                    loss = 0
            candidates.append((loss, level, row * width + column))
    worst = min(threshold, sorted(candidates)[topk - 1][0])
    return [(level, place) for loss, level, place in candidates if loss < worst]


def by_hand(head, maps, samples, soft=False):
    scores, distances = head.train()(maps)
    sizes = [tuple(each.shape[-2:]) for each in maps]
    number, sums = 0, {"cls": 0.0, "bbox": 0.0, "weight": 0.0}
    for image, sample in enumerate(samples):
        boxes, labels = sample.gt_instances.bboxes.tolist(), sample.gt_instances.labels.tolist()
        probs = [
            each[image].detach().flatten(1).T.sigmoid().clamp(1e-4, 1 - 1e-4).tolist() for each in scores
        ]
        pixels = [(each[image].detach().flatten(1).T * stride).tolist()
                  for each, stride in zip(distances, STRIDES, strict=True)]  # fmt: skip
        for level, size in enumerate(sizes):
            heats, matches = heat_and_matches(boxes, labels, size, level)
            for place, point in enumerate(points_of(size, STRIDES[level])):
                for p, y in zip(probs[level][place], heats[place], strict=True):
                    sums["cls"] -= 0.75 * (1 - y) ** 4 * p**2 * math.log(1 - p)
                if matches[place]:
                    weight = max(heats[place]) if soft else 1
                    sums["weight"] += weight
                    sums["bbox"] += (
                        2 * weight * giou_loss(point, pixels[level][place], boxes[matches[place] - 1])
                    )
        for box, label in zip(boxes, labels, strict=True):
            for level, place in positives(box, pixels, sizes):
                p, number = probs[level][place][label], number + 1
                sums["cls"] -= 0.25 * (1 - p) ** 2 * math.log(p)
    assert sums["weight"] > 2
    assert number > 3
    return {"loss_cls": sums["cls"] / number, "loss_bbox": sums["bbox"] / max(1, sums["weight"])}


@pytest.mark.parametrize("soft", [False, True])
def test_losses_are_those_of_a_computation_by_hand(soft, small_head, maps, samples):
    head = small_head(soft_weight_on_reg=soft)
    want = by_hand(head, maps, samples, soft)
    assert values(head.loss(maps, samples)) == pytest.approx(want, rel=1e-4)


def test_losses_are_the_same_in_evaluation(small_head, maps, samples):
    head = small_head()
    one, other = (values(head.train(mode).loss(maps, samples)) for mode in (True, False))
    assert one == pytest.approx(other, rel=1e-5)


def test_all_rows_with_weight_zero_are_the_same_loss(small_head, maps, samples, monkeypatch):
    """What a device does, where the number of positives would have to be waited for."""
    head = small_head()
    want = values(head.loss(maps, samples))
    monkeypatch.setattr("det_models.centernet_update.regressed_rows", partial(regressed_rows, every=True))
    assert values(head.loss(maps, samples)) == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize(("overlap", "least"), [(0.8, 4), (0.5, 9)])
def test_heat_and_boxes_are_those_of_a_loop(overlap, least, small_head, samples):
    head = small_head(hm_min_overlap=overlap, hm_min_radius=least)
    sizes = [(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)]
    truth = GroundTruth.pack([each.gt_instances for each in samples])
    heat, matches = head.get_targets(head.prior_generator.grid_priors(sizes), truth)
    for image, sample in enumerate(samples):
        given = sample.gt_instances.bboxes.tolist(), sample.gt_instances.labels.tolist()
        want = [heat_and_matches(*given, size, level, overlap, least) for level, size in enumerate(sizes)]
        expected = torch.tensor([each for heats, _ in want for each in heats])
        torch.testing.assert_close(heat[image], expected, rtol=1e-5, atol=1e-7)
        assert matches[image].tolist() == [each for _, level in want for each in level]
    assert len(set(matches.flatten().tolist())) == 4


@pytest.mark.parametrize(("threshold", "topk"), [(0.2, 9), (0.6, 9), (0.6, 3), (2.0, 100)])
def test_positives_are_the_centres_cells_and_the_points_that_see_the_object_well(
    threshold, topk, small_head, samples
):
    head = small_head(more_pos_thresh=threshold, more_pos_topk=topk)
    sizes = [(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)]
    lengths = [height * width for height, width in sizes]
    truth = GroundTruth.pack([each.gt_instances for each in samples])
    points = torch.cat(head.prior_generator.grid_priors(sizes))
    box = truth.boxes[:, :1]  # what all points see, some better
    near = torch.cat((points - box[..., :2], box[..., 2:] - points), -1).clamp(min=0)
    near *= 1 + 0.3 * torch.randn(near.shape, generator=torch.Generator().manual_seed(0))
    places, chosen = head.more_positives(near, truth, sizes)
    assert not chosen[1, 1:].any()  # padding
    assert chosen[0, 0].sum() > (2 if topk > 3 else 0)
    for image, sample in enumerate(samples):
        predicted = [level.tolist() for level in near[image].split(lengths)]
        for number, each in enumerate(sample.gt_instances.bboxes.tolist()):
            want = positives(each, predicted, sizes, threshold, min(topk, 45))
            rows = [sum(lengths[:level]) + place + image * sum(lengths) for level, place in want]
            assert sorted(places[image, number][chosen[image, number]].tolist()) == sorted(rows)


def test_crowds_are_background(small_head, maps, samples):
    head = small_head()
    want = values(head.loss(maps, samples))
    samples[1].ignored_instances = InstanceData(bboxes=torch.tensor([[0.0, 0.0, 60.0, 60.0]]))
    assert values(head.loss(maps, samples)) == want


def test_an_image_without_objects_weighs_as_much_as_any_other_background(
    small_head, maps, samples, make_sample
):
    head = small_head()
    empty = make_sample(64, 96, [], [])
    alone = values(head.loss([each[1:] for each in maps], [empty]))["loss_cls"]
    probs = (
        torch.cat([each[1].flatten() for each in head([each.detach() for each in maps])[0]])
        .sigmoid()
        .detach()
    )
    assert alone == pytest.approx(float(-0.75 * (probs**2 * (1 - probs).log()).sum()), rel=1e-4)
    first = values(head.loss([each[:1] for each in maps], samples[:1]))
    truth = GroundTruth.pack([samples[0].gt_instances])
    distances = torch.cat(
        [(each[:1] * s).flatten(2).mT for each, s in zip(head(maps)[1], STRIDES, strict=True)], 1
    )
    number = int(head.more_positives(distances.detach(), truth, [each.shape[-2:] for each in maps])[1].sum())
    both = values(head.loss(maps, [samples[0], empty]))
    assert both["loss_cls"] == pytest.approx(first["loss_cls"] + alone / number, rel=1e-4)
    assert both["loss_bbox"] == pytest.approx(first["loss_bbox"], rel=1e-4)


def test_predictions_are_the_same_in_training(small_head, maps, samples):
    head = small_head()
    with torch.no_grad():
        one, other = (head.train(mode).predict(maps, samples) for mode in (True, False))
    assert len(one[0]) > 0
    torch.testing.assert_close(one[0].bboxes, other[0].bboxes)


def test_the_last_convolution_may_be_deformable(small_head):
    names = {name for name, _ in small_head(dcn_on_last_conv=True).named_parameters()}
    assert "cls_convs.0.conv.conv_offset.weight" in names


def test_what_does_not_fit_is_said():
    with pytest.raises(ValueError, match=r"5 regress_ranges for 2 strides \(8, 16\)"):
        CenterNetUpdateHead(3, 16, strides=(8, 16))


def test_it_is_two_classes_above_its_parts():
    mro = CenterNetUpdateHead.__mro__[1:]
    ours = [cls for cls in mro if cls.__module__.startswith(("det_models", "detcore"))]
    assert len(ours) <= 2, ours
