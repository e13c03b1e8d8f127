"""RepPoints: its losses against a computation by hand, and how points become boxes."""

import math
import statistics

import pytest
import torch
from det_models.reppoints import RepPointsDetector, RepPointsHead
from det_models.truth import GroundTruth

from detcore.structures import InstanceData

BOXES = [[10.0, 12.0, 50.0, 60.0], [20.0, 30.0, 90.0, 60.0]]
STRIDES = (8, 16, 32, 64, 128)


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


def smooth(difference, beta=1 / 9):
    return difference**2 / beta / 2 if difference < beta else difference - beta / 2


def pseudo_box(head, points, x, y, stride):
    """By mean and deviation, of (y, x) pairs in strides."""
    factors = head.moment_transfer.detach().exp().tolist()
    xs, ys = points[1::2].tolist(), points[0::2].tolist()
    half = [statistics.stdev(each) * factor for each, factor in zip((xs, ys), factors, strict=True)]
    middle = [statistics.fmean(each) for each in (xs, ys)]
    return [
        x + stride * (middle[0] - half[0]), y + stride * (middle[1] - half[1]),
        x + stride * (middle[0] + half[0]), y + stride * (middle[1] + half[1]),
    ]  # fmt: skip


def test_losses_are_those_of_a_computation_by_hand(one_stage, images, samples):
    model = one_stage("RepPoints")
    head, cfg = model.bbox_head, model.bbox_head.train_cfg
    with torch.no_grad():
        head.moment_transfer.copy_(torch.tensor([0.3, -0.2]))
    scores, first, refined = head(model.extract_feat(images))
    levels = head.prior_generator.grid_priors([each.shape[-2:] for each in scores], with_stride=True)
    points = torch.cat(levels)
    level_of = [level for level, each in enumerate(levels) for _ in each]
    sums = {name: [0.0] * 5 for name in ("loss_cls", "loss_pts_init", "loss_pts_refine")}
    counts = {"init": 0, "refine": 0}
    for image, sample in enumerate(samples):
        gt = sample.gt_instances
        sets = {"init": [], "refine": []}
        for name, preds in (("init", first), ("refine", refined)):
            every = torch.cat([rows(level[image], 18) for level in preds])
            for place, (x, y, stride, _) in enumerate(points.tolist()):
                sets[name].append(pseudo_box(head, every[place], x, y, stride))
        owner = {
            "init": cfg.init.assigner.assign(InstanceData(priors=points), gt).gt_inds.tolist(),
            "refine": cfg.refine.assigner.assign(
                InstanceData(priors=torch.tensor(sets["init"])), gt
            ).gt_inds.tolist(),
        }
        logits = torch.cat([rows(level[image], 3) for level in scores])
        for name, found in owner.items():
            counts[name] += max(1, sum(each > 0 for each in found))
            for place, which in enumerate(found):
                if which > 0:
                    unit = 4 * STRIDES[level_of[place]]
                    pairs = zip(sets[name][place], gt.bboxes[which - 1].tolist(), strict=True)
                    loss = sum(smooth(abs(a - b) / unit) for a, b in pairs)
                    sums[f"loss_pts_{name}"][level_of[place]] += loss * (0.5 if name == "init" else 1)
        for place, which in enumerate(owner["refine"]):
            label = int(gt.labels[which - 1]) if which > 0 else 3
            if which >= 0:
                each = logits[place].sigmoid().tolist()
                sums["loss_cls"][level_of[place]] += sum(focal(p, k == label) for k, p in enumerate(each))
    losses = model(images, samples, mode="loss")
    assert set(losses) == set(sums)
    for name, found in losses.items():
        total = counts["init" if name.endswith("init") else "refine"]
        got = [float(value.detach()) for value in found]
        assert got == pytest.approx([each / total for each in sums[name]], rel=1e-4, abs=1e-6), name
    assert counts["init"] >= 3


def test_points_become_boxes_by_their_ends_or_their_moments():
    points = torch.tensor([[0.0, 1, 2, 5, -4, 3, 1, 2, 9, -7, 0, 0, 0, 0, 0, 0, 0, 0]])  # (y, x) each

    def box(**arguments):
        return RepPointsHead(3, 8, feat_channels=8, **arguments).points2bbox(points)[0].tolist()

    assert box(transform_method="minmax") == [-7, -4, 5, 9]
    assert box(transform_method="partial_minmax") == [1, -4, 5, 2]
    xs, ys = points[0, 1::2].tolist(), points[0, 0::2].tolist()
    spread = [statistics.stdev(each) for each in (xs, ys)]
    middle = [statistics.fmean(each) for each in (xs, ys)]
    want = [m - s for m, s in zip(middle, spread, strict=True)]
    want += [m + s for m, s in zip(middle, spread, strict=True)]
    assert box() == pytest.approx(want)
    maps = points[..., None, None].expand(1, 18, 2, 3)
    head = RepPointsHead(3, 8, feat_channels=8)
    assert head.points2bbox(maps)[0, :, 1, 2].tolist() == pytest.approx(want)
    assert head.points2bbox(maps.unflatten(1, (9, 2)).flip(2).flatten(1, 2), y_first=False)[
        0, :, 0, 0
    ].tolist() == pytest.approx(want)


def test_a_hundredth_of_the_gradient_goes_into_the_factors():
    points = torch.randn(5, 18, generator=torch.Generator().manual_seed(0))
    gradients = []
    for share in (1.0, 0.01):
        head = RepPointsHead(3, 8, feat_channels=8, moment_mul=share)
        head.points2bbox(points)[:, 2].sum().backward()
        gradients.append(head.moment_transfer.grad)
    assert gradients[0][0] > 0
    torch.testing.assert_close(gradients[1], 0.01 * gradients[0])


def test_four_numbers_make_a_box_and_the_points_on_its_grid():
    head = RepPointsHead(3, 8, feat_channels=8, use_grid_points=True, transform_method="minmax")
    reg = torch.zeros(1, 4, 2, 3)
    reg[0, :, 1, 2] = torch.tensor([0.5, -0.25, math.log(2), 0])
    points, boxes = head.gen_grid_from_reg(reg, torch.tensor([-2.0, -2, 2, 2]).view(1, 4, 1, 1))
    assert boxes[0, :, 0, 0].tolist() == [-2, -2, 2, 2]
    torch.testing.assert_close(boxes[0, :, 1, 2], torch.tensor([2 - 4.0, -1 - 2, 2 + 4, -1 + 2]))
    want = torch.tensor([[y, x] for y in (-3.0, -1, 1) for x in (-2.0, 2, 6)]).flatten()
    torch.testing.assert_close(points[0, :, 1, 2], want)
    torch.testing.assert_close(head.points2bbox(points), boxes)


@pytest.mark.parametrize("options", [
    {"use_grid_points": True, "transform_method": "minmax"},
    {"center_init": False},
    {"transform_method": "partial_minmax"},
], ids=str)  # fmt: skip
def test_its_variants_learn(options, one_stage, images, samples):
    model = one_stage("RepPoints", **options)
    losses = model(images, samples, mode="loss")
    sum(map(sum, losses.values())).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.bbox_head.parameters())
    assert model.bbox_head.reppoints_pts_init_out.weight.grad.any()


def test_boxes_to_match_at_first_are_those_around_the_points(one_stage, images, samples):
    model = one_stage("RepPoints")
    cfg = model.bbox_head.train_cfg
    cfg.init.assigner = cfg.refine.assigner
    head = model.bbox_head
    points = head.prior_generator.grid_priors([(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)], with_stride=True)
    centers = torch.cat(points)
    half = 2 * centers[:, 2:]
    boxes = torch.cat((centers[:, :2] - half, centers[:, :2] + half), 1)
    truth = GroundTruth.pack([each.gt_instances for each in samples])
    assert torch.equal(head._matched(points, truth, None).matches, cfg.refine.assigner.match(boxes, truth))


def test_boxes_are_those_of_the_refined_points_within_the_image(one_stage, images, samples):
    head = one_stage("RepPoints").bbox_head
    scores = [torch.full((1, 3, 2, 2), -9.0) for _ in STRIDES]
    boxes = [torch.zeros(1, 4, 2, 2) for _ in STRIDES]
    scores[2][0, 1, 1, 0] = 2.0
    boxes[2][0, :, 1, 0] = torch.tensor([-1.0, -0.5, 1.5, 9])
    found = head.predict_by_feat(scores, boxes, batch_img_metas=[{"img_shape": (64, 96)}])[0]
    assert found.labels.tolist() == [1]
    assert found.bboxes.tolist() == [[0.0, 16.0, 48.0, 64.0]]


def test_what_it_cannot_do_is_said():
    for number in (4, 8, 0):
        with pytest.raises(ValueError, match=f"square of an odd number .*, got {number}"):
            RepPointsHead(3, 8, num_points=number)
    with pytest.raises(ValueError, match="minmax, partial_minmax or moment, got 'hull'"):
        RepPointsHead(3, 8, transform_method="hull")


def test_the_head_starts_with_rare_classes():
    head = RepPointsHead(4, 32, stacked_convs=1, feat_channels=32)
    head.init_weights()
    torch.testing.assert_close(head.reppoints_cls_out.bias.sigmoid(), torch.full((4,), 0.01))


def test_it_is_two_classes_above_its_parts():
    for component in (RepPointsDetector, RepPointsHead):
        ours = [cls for cls in component.__mro__[1:] if cls.__module__.startswith(("det_models", "detcore"))]
        assert len(ours) <= 2, ours
