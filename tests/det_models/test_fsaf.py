"""FSAF: assigner, coder and the choice of levels against computations by hand."""

import math

import pytest
import torch
from det_models.center_region_assign import CenterRegionAssigner
from det_models.coders import TBLRBBoxCoder
from det_models.fsaf import FSAF, FSAFHead
from det_models.truth import GroundTruth

from detcore.structures import InstanceData
from detcore.structures.bbox import bbox_overlaps

BOXES = [[10.0, 12.0, 50.0, 60.0], [20.0, 30.0, 90.0, 60.0]]
PRIORS = [
    (x * stride - stride / 2, y * stride - stride / 2, x * stride + stride / 2, y * stride + stride / 2)
    for stride in (8, 16)
    for y in range(64 // stride)
    for x in range(80 // stride)
]


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def samples(make_sample):
    return [make_sample(64, 96, BOXES, [0, 2]), make_sample(64, 96, BOXES[:1], [1])]


def some_truth(count, seed, classes=3):
    random = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=random) * 50
    boxes = torch.cat((corner, corner + 6 + 40 * torch.rand(count, 2, generator=random)), 1)
    return InstanceData(bboxes=boxes, labels=torch.randint(classes, (count,), generator=random))


def middle_part(box, scale):
    (x1, y1, x2, y2), half = box, scale / 2
    cx, cy, w, h = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
    return cx - w * half, cy - h * half, cx + w * half, cy + h * half


def part_of(prior, box):
    width = min(prior[2], box[2]) - max(prior[0], box[0])
    height = min(prior[3], box[3]) - max(prior[1], box[1])
    return max(width, 0) * max(height, 0) / ((prior[2] - prior[0]) * (prior[3] - prior[1]))


def plain(truth, pos_scale, neg_scale, ignored=(), dominate=False):
    """Owner of each prior, and the pairs of prior and class that do not count."""
    owners, shadows = [], set()
    boxes, labels = truth.bboxes.tolist(), truth.labels.tolist()
    for place, prior in enumerate(PRIORS):
        x, y = (prior[0] + prior[2]) / 2, (prior[1] + prior[3]) / 2
        inside = [x1 < x < x2 and y1 < y < y2 for x1, y1, x2, y2 in boxes]
        core, outer = (
            [n for n, box in enumerate(boxes) if part_of(prior, middle_part(box, scale)) > 0.01]
            for scale in (pos_scale, neg_scale)
        )
        core = [n for n in core if inside[n]]
        area = {n: (boxes[n][2] - boxes[n][0]) * (boxes[n][3] - boxes[n][1]) for n in core}
        owner = min(area, key=area.get) + 1 if area else 0
        around = {labels[n] for n in {*core, *outer} if n + 1 != owner}
        if any(x1 < x < x2 and y1 < y < y2 for x1, y1, x2, y2 in ignored):
            owner = -1
        if owner > 0 and labels[owner - 1] in around:
            if dominate:
                around.discard(labels[owner - 1])
            else:
                owner = 0
        owners.append(owner)
        shadows |= {(place, label) for label in around}
    return owners, shadows


@pytest.mark.parametrize("dominate", [False, True])
@pytest.mark.parametrize("scales", [(0.2, 0.2), (0.4, 0.7)])
def test_a_batch_is_matched_as_by_a_plain_loop(scales, dominate):
    batch = [some_truth(count, seed) for seed, count in enumerate((6, 1, 0, 10))]
    assigner = CenterRegionAssigner(*scales, foreground_dominate=dominate)
    matches, shadows = assigner.match_with_shadows(torch.tensor(PRIORS), GroundTruth.pack(batch))
    for image, truth in enumerate(batch):
        owners, pairs = plain(truth, *scales, dominate=dominate)
        assert matches[image].tolist() == owners
        found = torch.nonzero(shadows[image]).tolist()
        assert {(place, int(truth.labels[number])) for place, number in found} == pairs
    assert len(matches[3].unique()) > 4


def test_centres_in_the_middle_of_ignored_regions_are_neither():
    truth, region = some_truth(4, 1), torch.tensor([[20.0, 10.0, 60.0, 50.0]])
    packed = GroundTruth.pack([truth], [InstanceData(bboxes=region)])
    matches, _ = CenterRegionAssigner(0.4, 0.7).match_with_shadows(torch.tensor(PRIORS), packed)
    owners, _ = plain(truth, 0.4, 0.7, ignored=[middle_part(region[0].tolist(), 0.5)])
    assert -1 in owners
    assert matches[0].tolist() == owners


def test_priors_that_take_no_part_are_neither_and_one_image_is_the_batch_of_one():
    truth, assigner, priors = some_truth(5, 2), CenterRegionAssigner(0.4, 0.7), torch.tensor(PRIORS)
    owners, pairs = plain(truth, 0.4, 0.7)
    valid = torch.arange(len(priors)) % 3 > 0
    matches = assigner.match(priors, GroundTruth.pack([truth]), valid[None])[0]
    assert matches.tolist() == torch.where(valid, torch.tensor(owners), -1).tolist()
    result = assigner.assign(InstanceData(priors=priors), truth)
    assert result.gt_inds.tolist() == owners
    assert {tuple(pair) for pair in result.extra["shadowed_labels"].tolist()} == pairs


@pytest.mark.parametrize("normalizer", [4.0, (1.0, 2.0, 3.0, 4.0)])
def test_distances_are_in_parts_of_the_priors_sides(normalizer):
    coder = TBLRBBoxCoder(normalizer)
    prior, box = torch.tensor([[0.0, 0.0, 8.0, 16.0]]), torch.tensor([[2.0, 0.0, 20.0, 40.0]])
    top, bottom, left, right = coder.normalizer
    want = [8 / 16 / top, 32 / 16 / bottom, 2 / 8 / left, 16 / 8 / right]
    assert coder.encode(prior, box)[0].tolist() == pytest.approx(want)
    torch.testing.assert_close(coder.decode(prior, coder.encode(prior, box)), box)
    assert coder.decode(prior, coder.encode(prior, box), max_shape=(30, 18)).tolist() == [[2, 0, 18, 30]]
    with pytest.raises(ValueError, match="one number or 4"):
        TBLRBBoxCoder((1.0, 2.0))


def test_each_object_is_learnt_by_the_level_that_answers_best(one_stage, images, samples):
    """All of the loss by hand, a cell at a time."""
    model = one_stage("FSAF")
    head = model.bbox_head
    scores, distances = head(model.extract_feat(images))
    levels = head.prior_generator.grid_priors([tuple(each.shape[-2:]) for each in scores])
    truth = GroundTruth.pack([each.gt_instances for each in samples])
    matches, shadows = head.train_cfg.assigner.match_with_shadows(torch.cat(levels), truth)
    entries, costs, start = [], {}, 0
    for level, priors in enumerate(levels):
        for image in range(2):
            logits = scores[level][image].detach().flatten(1).T.sigmoid().tolist()
            pred = distances[level][image].detach().flatten(1).T.clamp(min=1e-4)
            boxes = head.bbox_coder.decode(priors, pred)
            for place in range(len(priors)):
                number = int(matches[image, start + place]) - 1
                label = int(truth.labels[image, number]) if number >= 0 else 3
                hidden = set(truth.labels[image][shadows[image, start + place]].tolist())
                classes = []
                for k, p in enumerate(logits[place]):
                    loss = (
                        -0.25 * (1 - p) ** 2 * math.log(p) if k == label else -0.75 * p**2 * math.log(1 - p)
                    )
                    classes.append(0.0 if k in hidden else loss)
                box_loss = 0.0
                if number >= 0:
                    pair = boxes[place][None], truth.boxes[image, number][None]
                    box_loss = -math.log(max(float(bbox_overlaps(*pair, is_aligned=True)), 1e-6))
                    costs.setdefault((image, number), {}).setdefault(level, []).append(
                        sum(classes) + box_loss
                    )
                entries.append((level, image, number, label, classes, box_loss))
        start += len(priors)
    best = {
        each: min(found, key=lambda level: sum(found[level]) / len(found[level]))
        for each, found in costs.items()
    }
    assert len(best) == 3
    assert any(len(found) > 1 for found in costs.values())
    want, count = {"loss_cls": [0.0] * 5, "loss_bbox": [0.0] * 5}, 0
    for level, image, number, label, classes, box_loss in entries:
        if number >= 0 and best[image, number] != level:
            classes[label] = box_loss = 0.0
        elif number >= 0:
            count += 1
        want["loss_cls"][level] += sum(classes)
        want["loss_bbox"][level] += box_loss
    losses = model(images, samples, mode="loss")
    for name, found in want.items():
        got = [float(value.detach()) for value in losses[name]]
        assert got == pytest.approx([each / count for each in found], rel=1e-4, abs=1e-6), name
    assert float(losses["num_pos"]) == count / 2


def test_the_recall_is_that_of_the_cells_that_learn(one_stage, images, samples):
    model = one_stage("FSAF")
    with torch.no_grad():
        model.bbox_head.retina_cls.weight.zero_()
        model.bbox_head.retina_cls.bias.copy_(torch.tensor([-3.0, 3.0, -3.0]))
    losses = model(images, samples, mode="loss")
    assert 0 < float(losses["pos_recall"]) < 100
    every = [samples[1], samples[1]]
    assert float(model(images, every, mode="loss")["pos_recall"]) == 100
    with torch.no_grad():
        model.bbox_head.retina_cls.bias.copy_(torch.tensor([-3.0, -0.1, -3.0]))
    assert float(model(images, every, mode="loss")["pos_recall"]) == 0


def test_an_assigner_without_shadows_will_do(one_stage, images, samples):
    model = one_stage("FSAF", assigner={"type": "MaxIoUAssigner", "pos_iou_thr": 0.2, "neg_iou_thr": 0.1})
    assert sum(model(images, samples, mode="loss")["loss_cls"]) > 0


def test_the_head_starts_with_rare_classes_and_boxes_of_a_size():
    head = FSAFHead(4, 32, stacked_convs=1, feat_channels=32)
    head.init_weights()
    torch.testing.assert_close(head.retina_cls.bias.sigmoid(), torch.full((4,), 0.01))
    torch.testing.assert_close(head.retina_reg.bias, torch.full((4,), 0.25))
    assert all((each >= 0).all() for each in head([torch.randn(1, 32, 4, 4)] * 5)[1])


def test_it_is_two_classes_above_its_parts():
    for component in (FSAF, FSAFHead):
        ours = [cls for cls in component.__mro__[1:] if cls.__module__.startswith(("det_models", "detcore"))]
        assert len(ours) <= 2, ours
