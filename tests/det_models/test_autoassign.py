"""AutoAssign: its losses against a computation by hand, a point and an object at a time."""

import math

import pytest
import torch
from det_models.autoassign import AutoAssign, AutoAssignHead, CenterPrior, points_of
from det_models.losses.cross_entropy import CrossEntropyLoss
from det_models.truth import GroundTruth

from detcore.structures import InstanceData
from detcore.structures.bbox import bbox_overlaps

BOXES = [[10.0, 12.0, 50.0, 60.0], [20.0, 30.0, 90.0, 60.0], [18.0, 20.0, 60.0, 62.0]]
LABELS = [0, 2, 0]  # two of one class whose points are partly the same
STRIDES = (8, 16, 32, 64, 128)


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def samples(make_sample):
    return [make_sample(64, 96, BOXES, LABELS), make_sample(64, 96, BOXES[:1], [1])]


@pytest.fixture
def model(one_stage):
    made = one_stage("AutoAssign")
    with torch.no_grad():
        made.bbox_head.center_prior.mean.copy_(torch.tensor([[0.1, -0.2], [0.3, 0.0], [-0.4, 0.2]]))
        made.bbox_head.center_prior.sigma.copy_(torch.tensor([[1.0, 1.5], [0.8, 1.2], [2.0, 1.1]]))
    return made


def flat(levels, size):
    return torch.cat([level.detach().flatten(2).transpose(1, 2).reshape(2, -1, size) for level in levels], 1)


def gauss(head, point, stride, box, label):
    value = 1.0
    for axis in (0, 1):
        away = (point[axis] - (box[axis] + box[axis + 2]) / 2) / stride
        mean, sigma = (float(each[label, axis].detach()) for each in
                       (head.center_prior.mean, head.center_prior.sigma))  # fmt: skip
        value *= math.exp(-((away - mean) ** 2) / (2 * sigma**2))
    return value


def test_losses_are_those_of_a_computation_by_hand(model, images, samples):
    head = model.bbox_head
    outs = head(model.extract_feat(images))
    levels = head.prior_generator.grid_priors([tuple(level.shape[-2:]) for level in outs[0]])
    points = torch.cat(levels)
    strides = [stride for stride, level in zip(STRIDES, levels, strict=True) for _ in level]
    scores, distances, objectness = (flat(each, size) for each, size in zip(outs, (3, 4, 1), strict=True))
    joint = scores.sigmoid() * objectness.sigmoid()
    pos = neg = total = 0.0
    center = []
    for image, sample in enumerate(samples):
        gt = sample.gt_instances
        boxes = head.bbox_coder.decode(points, distances[image])
        ious = bbox_overlaps(boxes, gt.bboxes)
        gious = bbox_overlaps(boxes, gt.bboxes, mode="giou")
        negative = torch.ones(len(points), 3)
        priors = 0.0
        for number, (box, label) in enumerate(zip(gt.bboxes.tolist(), gt.labels.tolist(), strict=True)):
            inside = [
                place for place, (x, y) in enumerate(points.tolist())
                if min(x - box[0], y - box[1], box[2] - x, box[3] - y) > 0
            ]  # fmt: skip
            likely = [gauss(head, points[p].tolist(), strides[p], box, label) for p in inside]
            fit = [math.exp(-5 * (1 - float(gious[p, number]))) for p in inside]
            sure = [float(joint[image, p, label]) * each for p, each in zip(inside, fit, strict=True)]
            weights = [math.exp(3 * each) * w for each, w in zip(sure, likely, strict=True)]
            pos -= 0.25 * math.log(sum(w / sum(weights) * p for w, p in zip(weights, sure, strict=True)))
            rising = [1 / (1 - float(ious[p].max())) for p in inside]
            for place, each in zip(inside, rising, strict=True):
                negative[place, label] = 1 - (each - min(rising)) / (max(rising) - min(rising))
            priors += sum(likely)
        prob = (joint[image] * negative).double()
        neg -= 0.75 * float((prob**2 * (1 - prob).log()).sum())
        total += priors
        center.append(0.75 * len(gt) / priors)
    losses = {name: float(value.detach()) for name, value in model(images, samples, mode="loss").items()}
    want = {"loss_pos": pos / 4, "loss_neg": neg / total, "loss_center": sum(center) / 2}
    assert losses == pytest.approx(want, rel=1e-4)


def test_all_pairs_at_once_are_the_same_losses(model, images, samples, monkeypatch):
    """What a device does, where the number of pairs would have to be waited for."""
    head, maps = model.bbox_head, model.extract_feat(images)
    want = head.loss(maps, samples)
    monkeypatch.setattr("torch.compiler.is_compiling", lambda: True)
    torch.testing.assert_close(head.loss(maps, samples), want, rtol=1e-5, atol=1e-6)


def test_an_object_between_the_points_is_given_some_if_asked():
    grid = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0)).flip(1) * 8
    truth = GroundTruth.pack([
        InstanceData(
            bboxes=torch.tensor([[1.0, 1.0, 4.0, 5.0], [7.0, 7.0, 20.0, 20.0]]), labels=torch.tensor([0, 1])
        ),
        InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)),
    ])  # fmt: skip
    inside = points_of(truth.boxes, grid)
    assert inside.sum(-1).tolist() == [[0, 4], [0, 0]]
    prior, same = CenterPrior(num_classes=2, strides=[8])([grid], truth, inside)
    assert torch.equal(same, inside)
    assert prior[0, 0].sum() == 0
    prior, more = CenterPrior(True, 3, num_classes=2, strides=[8])([grid], truth, inside)
    assert more.sum(-1).tolist() == [[3, 4], [0, 0]]
    assert sorted(torch.nonzero(more[0, 0]).flatten().tolist()) == [0, 1, 4]  # the nearest three
    assert (prior > 0).equal(more)


def test_an_image_whose_objects_have_no_points_teaches_no_gaussian(model, images, make_sample):
    small = [[9.0, 9.0, 15.0, 15.0]]
    samples = [make_sample(64, 96, small, [1]), make_sample(64, 96, [], [])]
    losses = model(images, samples, mode="loss")
    assert losses["loss_center"] == 0
    # Of a probability of 0, whose logarithm ends at -100.
    assert float(losses["loss_pos"].detach()) == pytest.approx(0.25 * 100)
    sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_it_starts_with_rare_classes_and_boxes_of_four_strides():
    head = AutoAssignHead(4, 32, feat_channels=32)
    head.init_weights()
    torch.testing.assert_close(head.conv_cls.bias.sigmoid(), torch.full((4,), 0.02))
    assert head.conv_reg.bias.tolist() == [4.0] * 4
    with pytest.raises(ValueError, match="use_sigmoid=True"):
        AutoAssignHead(3, 16, loss_cls=CrossEntropyLoss())


def test_it_is_two_classes_above_its_parts():
    for component in (AutoAssign, AutoAssignHead):
        ours = [cls for cls in component.__mro__[1:] if cls.__module__.startswith(("det_models", "detcore"))]
        assert len(ours) <= 2, ours
