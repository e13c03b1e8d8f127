"""ATSS: its losses against a computation by hand, an anchor at a time."""

import math

import pytest
import torch
from det_models.atss import ATSS, ATSSHead

from detcore.registry import MODELS
from detcore.structures.bbox import bbox_overlaps

BOXES = [[10.0, 12.0, 50.0, 60.0], [20.0, 30.0, 90.0, 60.0]]


@pytest.fixture
def small_atss(one_stage):
    return lambda **head: one_stage("ATSS", **head)


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def samples(make_sample):
    return [make_sample(64, 96, BOXES, [0, 2]), make_sample(64, 96, BOXES[:1], [1])]


def rows(levels, size):
    return [level.detach().permute(0, 2, 3, 1).reshape(len(level), -1, size) for level in levels]


def test_losses_are_those_of_a_computation_by_hand(small_atss, images, samples):
    model = small_atss()
    head, maps = model.bbox_head, model.extract_feat(images)
    scores, encoded, centers = head(maps)
    sizes = [tuple(level.shape[-2:]) for level in scores]
    levels = head.prior_generator.grid_priors(sizes)
    want = {"loss_cls": [0.0] * 5, "loss_bbox": [0.0] * 5, "loss_centerness": [0.0] * 5}
    matches = []
    for sample in samples:
        result = head.train_cfg.assigner.assign(
            type(sample.gt_instances)(priors=torch.cat(levels)), list(map(len, levels)), sample.gt_instances
        )
        matches.append(result.gt_inds.split(list(map(len, levels))))
    num_positive = sum(int((each > 0).sum()) for image in matches for each in image)
    total = 0.0
    for level, anchors in enumerate(levels):
        logits, offsets, center = (rows(each, size)[level] for each, size in
                                   ((scores, 3), (encoded, 4), (centers, 1)))  # fmt: skip
        boxes = head.bbox_coder.decode(anchors.expand(2, -1, -1), offsets)
        for image, sample in enumerate(samples):
            for place, anchor in enumerate(anchors.tolist()):
                number = int(matches[image][level][place]) - 1
                label = int(sample.gt_instances.labels[number]) if number >= 0 else 3
                for k, p in enumerate(logits[image, place].sigmoid().tolist()):
                    loss = -0.25 * (1 - p) ** 2 * math.log(p) if k == label else 0
                    loss = loss if k == label else -0.75 * p**2 * math.log(1 - p)
                    want["loss_cls"][level] += loss / num_positive
                if number < 0:
                    continue
                gt = sample.gt_instances.bboxes[number]
                x, y = (anchor[0] + anchor[2]) / 2, (anchor[1] + anchor[3]) / 2
                left, top, right, bottom = x - gt[0], y - gt[1], gt[2] - x, gt[3] - y
                across, along = min(left, right) / max(left, right), min(top, bottom) / max(top, bottom)
                centerness = float(across * along) ** 0.5
                giou = bbox_overlaps(boxes[image, place][None], gt[None], mode="giou", is_aligned=True)
                want["loss_bbox"][level] += centerness * 2 * (1 - float(giou))
                total += centerness
                p = float(center[image, place].sigmoid())
                entropy = -centerness * math.log(p) - (1 - centerness) * math.log(1 - p)
                want["loss_centerness"][level] += entropy / num_positive
    want["loss_bbox"] = [each / max(total, 1) for each in want["loss_bbox"]]
    assert num_positive > 4
    losses = model(images, samples, mode="loss")
    assert set(losses) == set(want)
    for name, values in losses.items():
        got = [float(value.detach()) for value in values]
        assert got == pytest.approx(want[name], rel=1e-4, abs=1e-6), name


def test_centerness_is_one_in_the_middle_and_none_at_or_beyond_the_sides(small_atss):
    gt = torch.tensor([[0.0, 0.0, 40.0, 20.0]])
    middles = torch.tensor([[20.0, 10.0], [10.0, 10.0], [0.0, 5.0], [-7.0, 5.0]])
    anchors = torch.cat((middles - 3, middles + 3), 1)
    got = small_atss().bbox_head.centerness_target(anchors, gt.expand(4, -1))
    assert got.tolist() == pytest.approx([1, (1 / 3) ** 0.5, 0, 0])


def test_offsets_are_compared_where_boxes_are_not(small_atss, images, samples):
    model = small_atss(reg_decoded_bbox=False, loss_bbox={"type": "L1Loss"})
    losses = model(images, samples, mode="loss")["loss_bbox"]
    assert all(float(loss.detach()) >= 0 for loss in losses)
    assert sum(losses) > 0


def test_scores_are_scaled_by_the_centerness(small_atss, images, samples):
    model = small_atss().eval()
    with torch.no_grad():
        model.bbox_head.atss_centerness.weight.zero_()
        model.bbox_head.atss_centerness.bias.fill_(30.0)
        plain = model(images, samples, mode="predict")[0].pred_instances.scores
        model.bbox_head.atss_centerness.bias.zero_()
        halved = model(images, samples, mode="predict")[0].pred_instances.scores
    assert len(plain) > 0
    torch.testing.assert_close(halved, plain / 2)


def test_nothing_is_learnt_in_ignored_regions_where_that_is_wanted(small_atss, images, make_sample):
    samples = [make_sample(64, 96, [], []) for _ in range(2)]
    for sample in samples:
        sample.ignored_instances.bboxes = torch.tensor([[-900.0, -900.0, 900.0, 900.0]])
    model = small_atss()
    assert sum(model(images, samples, mode="loss")["loss_cls"]) > 0
    model.bbox_head.train_cfg.assigner.ignore_iof_thr = 0.5
    assert sum(model(images, samples, mode="loss")["loss_cls"]) == 0


def test_the_head_starts_with_rare_classes():
    head = ATSSHead(4, 32, stacked_convs=1, feat_channels=32)
    head.init_weights()
    torch.testing.assert_close(head.atss_cls.bias.sigmoid(), torch.full((4,), 0.01))


def test_arguments_may_differ_from_the_papers(small_atss, images, samples):
    model = small_atss(pred_kernel_size=1, stacked_convs=0, in_channels=16)
    assert model.bbox_head.atss_cls.weight.shape == (3, 16, 1, 1)
    assert model(images, samples, mode="loss")["loss_cls"][0] > 0


def test_maps_that_do_not_fit_the_levels_are_named(small_atss):
    with pytest.raises(ValueError, match="2 feature maps for a head of 5 levels"):
        small_atss().bbox_head([torch.zeros(1, 16, 8, 8)] * 2)


def test_without_an_assigner_there_is_no_loss(images, samples):
    head = ATSSHead(3, 16, stacked_convs=0, norm_cfg=None)
    with pytest.raises(ValueError, match="ATSSHead was built without train_cfg"):
        head.loss([torch.rand(2, 16, n, n) for n in (8, 4, 2, 1, 1)], samples)


def test_it_is_two_classes_above_its_parts():
    for component in (ATSS, ATSSHead):
        ours = [cls for cls in component.__mro__[1:] if cls.__module__.startswith(("det_models", "detcore"))]
        assert len(ours) <= 2, ours


def test_it_is_registered():
    assert MODELS.get("models.ATSS") is ATSS
