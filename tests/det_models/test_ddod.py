"""DDOD: its losses against a computation by hand, and how levels weigh."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from det_models.ddod import DDOD, DDODHead

from detcore.engine.message_hub import MessageHub
from detcore.nn.deform_conv import DeformConv2dPack
from detcore.structures import InstanceData
from detcore.structures.bbox import bbox_overlaps

BOXES = [[10.0, 12.0, 50.0, 60.0], [20.0, 30.0, 90.0, 60.0]]


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def samples(make_sample):
    return [make_sample(64, 96, BOXES, [0, 2]), make_sample(64, 96, BOXES[:1], [1])]


def rows(level, size):
    return level.detach().flatten(1).T.reshape(-1, size)


def focal(p, positive):
    return -0.25 * (1 - p) ** 2 * math.log(p) if positive else -0.75 * p**2 * math.log(1 - p)


def factors(counts):
    return [2 - (each - min(counts)) / (max(counts) - min(counts)) for each in counts]


def test_losses_are_those_of_a_computation_by_hand(one_stage, images, samples):
    model = one_stage("DDOD")
    head, cfg = model.bbox_head, model.bbox_head.train_cfg
    scores, encoded, ious = head(model.extract_feat(images))
    levels = head.prior_generator.grid_priors([tuple(level.shape[-2:]) for level in scores])
    lengths, anchors = list(map(len, levels)), torch.cat(levels)
    owners = {"cls": [], "reg": []}
    for image, sample in enumerate(samples):
        logits = torch.cat([rows(level[image], 3) for level in scores])
        boxes = head.bbox_coder.decode(anchors, torch.cat([rows(level[image], 4) for level in encoded]))
        given = InstanceData(priors=anchors, scores=logits, bboxes=boxes)
        for name, assigner in (("cls", cfg.assigner), ("reg", cfg.reg_assigner)):
            owners[name].append(assigner.assign(given, lengths, sample.gt_instances).gt_inds.split(lengths))
    numbers = {
        name: [sum(int((image[level] > 0).sum()) for image in found) for level in range(5)]
        for name, found in owners.items()
    }
    want = {name: [0.0] * 5 for name in ("loss_cls", "loss_bbox", "loss_iou")}
    for level in range(5):
        for image, sample in enumerate(samples):
            gt = sample.gt_instances
            boxes = head.bbox_coder.decode(levels[level], rows(encoded[level][image], 4))
            for place in range(lengths[level]):
                owner = int(owners["cls"][image][level][place])
                label = int(gt.labels[owner - 1]) if owner else 3
                probs = rows(scores[level][image], 3)[place].sigmoid().tolist()
                want["loss_cls"][level] += sum(focal(p, k == label) for k, p in enumerate(probs))
                owner = int(owners["reg"][image][level][place])
                if owner:
                    pair = boxes[place, None], gt.bboxes[owner - 1, None]
                    iou = float(bbox_overlaps(*pair, is_aligned=True))
                    giou = float(bbox_overlaps(*pair, "giou", is_aligned=True))
                    p = float(rows(ious[level][image], 1)[place].sigmoid())
                    want["loss_bbox"][level] += 2 * (1 - giou)
                    want["loss_iou"][level] -= iou * math.log(p) + (1 - iou) * math.log(1 - p)
    both = [sum(pair) for pair in zip(numbers["cls"], numbers["reg"], strict=True)]
    assert numbers["cls"] != numbers["reg"]
    losses = model(images, samples, mode="loss")
    assert set(losses) == set(want)
    for name, found in losses.items():
        total, weights = sum(numbers["reg"]), factors(both)
        if name == "loss_cls":
            total, weights = sum(numbers["cls"]), factors(numbers["cls"])
        wanted = [w * each / total for w, each in zip(weights, want[name], strict=True)]
        assert [float(each.detach()) for each in found] == pytest.approx(wanted, rel=1e-4, abs=1e-6), name


def test_levels_weigh_by_the_positives_of_all_steps(one_stage):
    head = one_stage("DDOD").bbox_head
    lengths = [3, 2, 1, 1, 1]
    first = torch.tensor([[1, 2, 0, 1, -1, 0, 0, 0]])
    second = torch.tensor([[0, 0, 0, 1, 1, 1, 0, 0]])
    assert head.level_factors(first, lengths).tolist() == [1, 1.5, 2, 2, 2]
    torch.testing.assert_close(head.level_factors(second, lengths), torch.tensor(factors([2, 3, 1, 0, 0])))
    assert "cls_num_pos_samples_per_level" not in head.state_dict()  # published checkpoints load strictly
    fresh = copy.deepcopy(one_stage("DDOD").bbox_head)
    assert fresh.level_factors(0 * first, lengths).tolist() == [2] * 5  # no positives, no difference


def test_a_run_that_resumes_goes_on_counting(one_stage):
    lengths = [3, 2, 1, 1, 1]
    steps = torch.tensor([[[1, 2, 0, 1, -1, 0, 0, 0]], [[0, 0, 0, 1, 1, 1, 0, 0]]])
    hub = MessageHub(SimpleNamespace())
    head = one_stage("DDOD").bbox_head
    head.level_factors(steps[0], lengths)
    saved = copy.deepcopy(hub.state_dict())
    want = head.level_factors(steps[1], lengths)
    hub = MessageHub(SimpleNamespace())  # the run that goes on
    hub.load_state_dict(saved)
    later = one_stage("DDOD").bbox_head
    assert torch.equal(later.level_factors(steps[1], lengths), want)
    assert hub.state_dict()["infos"] == {"ddod/positives_per_level": later.cls_num_pos_samples_per_level}


def test_crowds_are_neither_object_nor_background(one_stage, images, make_sample):
    settings = {"type": "ATSSAssigner", "topk": 9, "alpha": 0.8, "ignore_iof_thr": 0.5}
    model = one_stage("DDOD", assigner=settings)
    sample = make_sample(64, 96, [], [])
    plain = model(images[:1], [sample], mode="loss")["loss_cls"]
    sample.ignored_instances = InstanceData(bboxes=torch.tensor([[-200.0, -200.0, 300.0, 300.0]]))
    crowded = model(images[:1], [sample], mode="loss")["loss_cls"]
    assert crowded[0] == 0 < plain[0]


def test_the_first_convolutions_are_deformable_unless_told_otherwise():
    for use_dcn in (True, False):
        head = DDODHead(3, 32, 2, use_dcn=use_dcn, feat_channels=32)
        for tower in (head.cls_convs, head.reg_convs):
            assert [isinstance(each.conv, DeformConv2dPack) for each in tower] == [use_dcn, False]


def test_without_a_second_assigner_it_says_so(one_stage, images, samples):
    model = one_stage("DDOD")
    model.bbox_head.train_cfg = one_stage("ATSS").bbox_head.train_cfg
    with pytest.raises(ValueError, match="needs a reg_assigner beside the assigner"):
        model(images, samples, mode="loss")


def test_it_is_two_classes_above_its_parts():
    for component in (DDOD, DDODHead):
        ours = [cls for cls in component.__mro__[1:] if cls.__module__.startswith(("det_models", "detcore"))]
        assert len(ours) <= 2, ours
