"""FreeAnchor: bags and boxes' probabilities against a computation by hand, an anchor at a time."""

import math

import pytest
import torch
from det_models.free_anchor import FreeAnchorRetinaHead

from detcore.structures import InstanceData
from detcore.structures.bbox import bbox_overlaps

BOXES = [[10.0, 12.0, 50.0, 60.0], [20.0, 30.0, 90.0, 60.0]]


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def samples(make_sample):
    return [make_sample(64, 96, BOXES, [0, 0]), make_sample(64, 96, BOXES[:1], [1])]


def smooth_l1(a, b):
    d = abs(a - b)
    return 0.75 * (0.5 * d * d / 0.11 if d < 0.11 else d - 0.055)


def test_losses_are_those_of_a_computation_by_hand(one_stage, images, samples):
    model = one_stage("FreeAnchor", bbox_thr=0.2)
    head = model.bbox_head
    with torch.no_grad():
        scores, offsets = head(model.extract_feat(images))
    anchors = torch.cat(head.prior_generator.grid_priors([tuple(each.shape[-2:]) for each in scores]))
    positive, negative, num_objects, good_boxes = 0.0, 0.0, 0, 0
    for image, sample in enumerate(samples):
        truth = sample.gt_instances
        logits, encoded = (
            torch.cat([level[image].permute(1, 2, 0).reshape(-1, size) for level in levels])
            for levels, size in ((scores, 3), (offsets, 4))
        )
        probs = logits.sigmoid()
        found = bbox_overlaps(truth.bboxes, head.bbox_coder.decode(anchors, encoded)).tolist()
        good = [[0.0] * 3 for _ in anchors]
        for row, label in zip(found, truth.labels.tolist(), strict=True):
            best = max(row)
            for place, overlap in enumerate(row):
                share = min(max((overlap - 0.2) / (best - 0.2), 0), 1) if best > 0.2 else 0
                good[place][label] = max(good[place][label], share)
                good_boxes += share > 0
        for place, row in enumerate(probs.tolist()):
            for k, p in enumerate(row):
                wrong = p * (1 - good[place][k])
                negative -= 0.5 * wrong**2 * math.log(1 - wrong)
        for box, label in zip(truth.bboxes, truth.labels.tolist(), strict=True):
            num_objects += 1
            overlaps = bbox_overlaps(box[None], anchors)[0].tolist()
            bag = sorted(range(len(anchors)), key=lambda place: -overlaps[place])[:20]
            each = []
            for place in bag:
                wanted = head.bbox_coder.encode(anchors[place][None], box[None])[0].tolist()
                loss = sum(map(smooth_l1, encoded[place].tolist(), wanted))
                each.append(float(probs[place, label]) * math.exp(-loss))
            weights = [1 / (1 - p) for p in each]
            likely = sum(w * p for w, p in zip(weights, each, strict=True)) / sum(weights)
            positive -= 0.5 * math.log(likely)
    assert good_boxes > 10
    losses = model(images, samples, mode="loss")
    assert set(losses) == {"positive_bag_loss", "negative_bag_loss"}
    assert float(losses["positive_bag_loss"].detach()) == pytest.approx(positive / num_objects, rel=1e-4)
    assert float(losses["negative_bag_loss"].detach()) == pytest.approx(negative / num_objects / 20, rel=1e-4)


def test_a_bag_is_as_good_as_its_best_anchor_once_that_is_sure(one_stage):
    head = one_stage("FreeAnchor").bbox_head
    sure = head.positive_bag_loss(torch.tensor([[1 - 1e-6, 0.1, 0.2]]), torch.ones(1, 3))
    assert float(sure) < 1e-3
    unsure = head.positive_bag_loss(torch.tensor([[0.01, 0.02, 0.03]]), torch.ones(1, 3))
    assert float(unsure) == pytest.approx(-0.5 * math.log(0.02), rel=1e-2)  # nearly the plain mean


def test_boxes_are_good_from_the_threshold_to_the_best_one(one_stage):
    head = one_stage("FreeAnchor").bbox_head
    gt = torch.tensor([[0.0, 0.0, 10.0, 10.0]] * 2)
    boxes = torch.tensor([[0.0, 0.0, 10.0, 9.0], [0.0, 0.0, 10.0, 7.5], [0.0, 0.0, 10.0, 5.0]])
    probs = head.box_probs(boxes, InstanceData(bboxes=gt, labels=torch.tensor([2, 0])))
    torch.testing.assert_close(probs, torch.tensor([[1.0, 0, 1], [0.5, 0, 0.5], [0, 0, 0]]))
    none = InstanceData(bboxes=gt[:0], labels=torch.zeros(0, dtype=torch.long))
    assert not head.box_probs(boxes, none).any()
    far = head.box_probs(boxes[2:], InstanceData(bboxes=gt, labels=torch.tensor([2, 0])))
    assert not far.any()  # no box is good where the best one is not


def test_sure_mistakes_have_a_finite_loss_and_gradient(one_stage, samples):
    head = one_stage("FreeAnchor", stacked_convs=0, in_channels=16).bbox_head
    with torch.no_grad():
        head.retina_cls.bias.fill_(200.0)
    maps = [torch.zeros(2, 16, *size) for size in ((8, 12), (4, 6), (2, 3), (1, 2), (1, 1))]
    losses = head.loss(maps, samples)
    sum(losses.values()).backward()
    assert losses["negative_bag_loss"] > 1
    assert all(p.grad.isfinite().all() for p in head.parameters())


def test_bags_are_as_large_as_there_are_anchors(one_stage, images, samples):
    losses = one_stage("FreeAnchor", pre_anchor_topk=10**6)(images, samples, mode="loss")
    assert all(value.isfinite() for value in losses.values())


def test_what_it_cannot_do_is_said(images, samples, one_stage):
    with pytest.raises(ValueError, match="at least 1, got 0"):
        FreeAnchorRetinaHead(3, 16, pre_anchor_topk=0)
    with pytest.raises(ValueError, match="must have use_sigmoid"):
        FreeAnchorRetinaHead(3, 16, loss_cls={"type": "CrossEntropyLoss"})
    samples[0].gt_instances.labels[0] = 3
    with pytest.raises(ValueError, match="num_classes=3"):
        one_stage("FreeAnchor")(images, samples, mode="loss")


def test_it_is_two_classes_above_its_parts():
    mro = FreeAnchorRetinaHead.__mro__[1:]
    assert len([cls for cls in mro if cls.__module__.startswith(("det_models", "detcore"))]) <= 2
