"""VFNet: star, losses and both steps against a computation by hand."""

import math

import pytest
import torch
from det_models.fcos import smallest_boxes
from det_models.losses.varifocal import VarifocalLoss
from det_models.truth import GroundTruth
from det_models.vfnet import VFNet, VFNetHead

from detcore.structures import InstanceData
from detcore.structures.bbox import bbox_overlaps

BOXES = [[10.0, 12.0, 50.0, 60.0], [20.0, 30.0, 90.0, 60.0]]
STRIDES = (8, 16, 32, 64, 128)


@pytest.fixture
def small_vfnet(one_stage):
    return lambda **head: one_stage("VFNet", **head)


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def samples(make_sample):
    return [make_sample(64, 96, BOXES, [0, 2]), make_sample(64, 96, BOXES[:1], [1])]


def detached(losses):
    return {name: float(value.detach()) for name, value in losses.items()}


def by_hand(head, maps, samples, matches, score_loss, points):
    """Losses from matches, an image, level and point at a time; ``score_loss(p, q, is_own_class)``."""
    scores, first, refined = head.train()(maps)
    want, sums = {"loss_cls": 0.0, "loss_bbox": 0.0, "loss_bbox_rf": 0.0}, [0.0, 0.0]
    num_positive = 0
    for image, sample in enumerate(samples):
        for level, centers in enumerate(points):
            logits = scores[level][image].detach().flatten(1).T
            steps = [each[level][image].detach().flatten(1).T for each in (first, refined)]
            for place, (x, y) in enumerate(centers.tolist()):
                number, label, quality = int(matches[image][level][place]) - 1, 3, 0.0
                if number >= 0:
                    num_positive += 1
                    gt = sample.gt_instances.bboxes[number][None]
                    label = int(sample.gt_instances.labels[number])
                    pairs = (("loss_bbox", 1.5), ("loss_bbox_rf", 2.0))
                    for step, (name, factor) in enumerate(pairs):
                        left, top, right, bottom = steps[step][place].tolist()
                        box = torch.tensor([[x - left, y - top, x + right, y + bottom]])
                        quality = max(float(bbox_overlaps(box, gt, is_aligned=True)), 1e-6)
                        giou = float(bbox_overlaps(box, gt, mode="giou", is_aligned=True))
                        want[name] += factor * quality * (1 - giou)
                        sums[step] += quality
                for k, p in enumerate(logits[place].sigmoid().tolist()):
                    want["loss_cls"] += score_loss(p, quality, k == label)
    assert num_positive > 4
    return {
        "loss_cls": want["loss_cls"] / num_positive,
        "loss_bbox": want["loss_bbox"] / max(1, sums[0]),
        "loss_bbox_rf": want["loss_bbox_rf"] / max(1, sums[1]),
    }


def varifocal(p, quality, own):
    if own:
        return -quality * (quality * math.log(p) + (1 - quality) * math.log(1 - p))
    return -0.75 * p**2 * math.log(1 - p)


def focal(p, quality, own):
    return -0.25 * (1 - p) ** 2 * math.log(p) if own else -0.75 * p**2 * math.log(1 - p)


@pytest.mark.parametrize(("use_vfl", "score_loss"), [(True, varifocal), (False, focal)])
def test_losses_are_those_of_a_computation_by_hand(use_vfl, score_loss, small_vfnet, images, samples):
    model = small_vfnet(use_vfl=use_vfl)
    head, maps = model.bbox_head, model.extract_feat(images)
    levels = head.prior_generator.grid_priors([tuple(each.shape[-2:]) for each in maps])
    lengths = list(map(len, levels))
    matches = [
        head.train_cfg.assigner.assign(InstanceData(priors=torch.cat(levels)), lengths, each.gt_instances)
        .gt_inds.split(lengths)
        for each in samples
    ]  # fmt: skip
    points = [(level[:, :2] + level[:, 2:]) / 2 for level in levels]
    want = by_hand(head, maps, samples, matches, score_loss, points)
    assert detached(head.loss(maps, samples)) == pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize("sampling", [False, True])
def test_without_atss_points_answer_as_in_fcos(sampling, small_vfnet, images, samples):
    model = small_vfnet(use_atss=False, center_sampling=sampling, center_sample_radius=1.0)
    head, maps = model.bbox_head, model.extract_feat(images)
    truth = GroundTruth.pack([each.gt_instances for each in samples])
    points, matches = [], [[], []]
    for each, stride, limits in zip(maps, STRIDES, head.regress_ranges, strict=True):
        y, x = torch.meshgrid(*(torch.arange(n) for n in each.shape[-2:]), indexing="ij")
        level = (torch.stack((x, y), -1).flatten(0, 1) + 0.5) * stride
        center = (truth.boxes[..., :2] + truth.boxes[..., 2:]) / 2
        near = torch.cat((center - stride, center + stride), -1)
        corners = torch.maximum(near, truth.boxes), torch.minimum(near, truth.boxes)
        zones = torch.cat((corners[0][..., :2], corners[1][..., 2:]), -1) if sampling else truth.boxes
        found = smallest_boxes(level, truth.boxes, zones, limits)
        points.append(level)
        for image in range(2):
            matches[image].append(found[image])
    want = by_hand(head, maps, samples, matches, varifocal, points)
    assert detached(head.loss(maps, samples)) == pytest.approx(want, rel=1e-4)


def test_the_kernel_looks_at_the_nine_points_of_the_box(small_vfnet):
    left, top, right, bottom = 16.0, 8.0, 24.0, 40.0
    pred = torch.tensor([left, top, right, bottom]).view(1, 4, 1, 1).requires_grad_()
    offset = small_vfnet().bbox_head.star_dcn_offset(pred, 0.1, 8)
    looked = []
    for place, (dy, dx) in enumerate(offset.detach().view(9, 2).tolist()):
        looked.append((place // 3 - 1 + dy, place % 3 - 1 + dx))  # where a kernel of 3x3 looks, and further
    assert looked == [(y / 8, x / 8) for y in (-top, 0, bottom) for x in (-left, 0, right)]
    offset.sum().backward()
    share = 0.1 * 3 / 8  # three points at each side
    torch.testing.assert_close(pred.grad.flatten(), torch.tensor([-share, -share, share, share]))


def test_the_refined_boxes_are_the_predictions_in_training_and_evaluation(small_vfnet, images, samples):
    head = small_vfnet().bbox_head
    maps = [torch.randn(2, 16, n, n, generator=torch.Generator().manual_seed(n)) for n in (8, 4, 2, 1, 1)]
    with torch.no_grad():
        _, first, refined = head.train()(maps)
        assert not torch.equal(first[0], refined[0])
        found = [head.train(mode).predict(maps, samples) for mode in (True, False)]
        assert len(head(maps)) == 2
        losses = [detached(head.train(mode).loss(maps, samples)) for mode in (True, False)]
    assert len(found[0][0]) > 0
    torch.testing.assert_close(found[0][0].bboxes, found[1][0].bboxes)
    assert losses[0] == losses[1]


def test_first_distances_are_parts_of_the_levels_greatest_or_strides(small_vfnet):
    assert small_vfnet().bbox_head.reg_denoms == [64, 128, 256, 512, 1024]
    assert small_vfnet(bbox_norm_type="stride").bbox_head.reg_denoms == [8, 16, 32, 64, 128]


def test_varifocal_loss_number_by_number():
    logits, quality = torch.tensor([[0.3, -1.2], [2.0, 0.1]]), torch.tensor([[0.0, 0.6], [0.0, 0.0]])
    p = logits.sigmoid().tolist()
    want = [[varifocal(p[0][0], 0, False), varifocal(p[0][1], 0.6, True)],
            [varifocal(p[1][0], 0, False), varifocal(p[1][1], 0, False)]]  # fmt: skip
    loss = VarifocalLoss(loss_weight=2.0)
    torch.testing.assert_close(loss(logits, quality, reduction_override="none"), 2 * torch.tensor(want))
    pair = torch.tensor([1, 2]), torch.tensor([0.6, 0.9])  # 2 is the background, whatever its quality
    torch.testing.assert_close(loss(logits, pair, avg_factor=3.0), loss(logits, quality, avg_factor=3.0))
    weight = torch.tensor([1.0, 0.0])
    torch.testing.assert_close(loss(logits, pair, weight, avg_factor=1.0), 2 * torch.tensor(sum(want[0])))
    alike = VarifocalLoss(iou_weighted=False)(logits, quality, reduction_override="none")
    assert float(alike[0, 1]) == pytest.approx(want[0][1] / 0.6)


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="over sigmoids only"):
        VarifocalLoss(use_sigmoid=False)
    with pytest.raises(ValueError, match="alpha is a weight, 0 or more, got -1"):
        VarifocalLoss(alpha=-1)
    with pytest.raises(ValueError, match=r"\(1, 3\) do not fit predictions of shape \(1, 2\)"):
        VarifocalLoss()(torch.zeros(1, 2), torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"strides .* and 5 regress_ranges"):
        VFNetHead(3, 16, strides=(8, 16))


def test_it_is_two_classes_above_its_parts():
    for component in (VFNet, VFNetHead):
        ours = [cls for cls in component.__mro__[1:] if cls.__module__.startswith(("det_models", "detcore"))]
        assert len(ours) <= 2, ours
