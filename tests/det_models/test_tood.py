"""TOOD: its losses against a computation by hand, in the first passes and later, and the head's parts."""

import math
from types import SimpleNamespace

import pytest
import torch
from det_models.atss_assign import ATSSAssigner
from det_models.dense_cfg import DenseTrainCfg
from det_models.losses.focal import FocalLoss
from det_models.task_decomposition import TaskDecomposition, read_sides, sigmoid_geometric_mean
from det_models.tood import TOOD, TOODHead

from detcore.engine.message_hub import MessageHub
from detcore.structures import InstanceData
from detcore.structures.bbox import bbox_overlaps

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


def quality_focal(p, y):
    return -((y - p) ** 2) * (y * math.log(p) + (1 - y) * math.log(1 - p))


def centerness(anchor, box):
    x, y = (anchor[0] + anchor[2]) / 2, (anchor[1] + anchor[3]) / 2
    left, top, right, bottom = x - box[0], y - box[1], box[2] - x, box[3] - y
    return math.sqrt(min(left, right) / max(left, right) * min(top, bottom) / max(top, bottom))


def owners(head, levels, scores, boxes, gt, epoch):
    """Box of each prior from 1, and how well it is to do."""
    anchors, lengths = torch.cat(levels), list(map(len, levels))
    if epoch < 4:
        found = head.train_cfg.initial_assigner.assign(InstanceData(priors=anchors), lengths, gt).gt_inds
        return found.tolist(), (found > 0).float().tolist()
    given = InstanceData(priors=anchors, bboxes=boxes, scores=scores)
    result = head.train_cfg.assigner.assign(given, gt, None, 1, 6)
    found, metric = result.gt_inds.tolist(), result.extra["assign_metrics"].tolist()
    for number in set(found) - {0}:
        own = [place for place, owner in enumerate(found) if owner == number]
        best, overlap = max(metric[p] for p in own), max(float(result.max_overlaps[p]) for p in own)
        for place in own:
            metric[place] *= overlap / (best + 1e-7)
    return found, metric


@pytest.mark.parametrize("epoch", [0, 3, 4])
def test_losses_are_those_of_a_computation_by_hand(epoch, one_stage, images, samples):
    model = one_stage("TOOD")
    head = model.bbox_head
    model.set_epoch(epoch)
    scores, boxes = head(model.extract_feat(images))
    levels = head.prior_generator.grid_priors([tuple(level.shape[-2:]) for level in scores])
    want = {name: [0.0] * 5 for name in ("loss_cls", "loss_bbox")}
    metrics = weights = 0.0
    for image, sample in enumerate(samples):
        gt = sample.gt_instances
        probs = torch.cat([rows(level[image], 3) for level in scores])
        found = torch.cat([rows(each[image], 4) * s for each, s in zip(boxes, STRIDES, strict=True)])
        owner, metric = owners(head, levels, probs, found, gt, epoch)
        number = [level for level, each in enumerate(levels) for _ in each]
        anchors = torch.cat(levels).tolist()
        for place, (level, which) in enumerate(zip(number, owner, strict=True)):
            label = int(gt.labels[which - 1]) if which else 3
            for k, p in enumerate(probs[place].tolist()):
                own = k == label
                loss = focal(p, own) if epoch < 4 else quality_focal(p, metric[place] * own)
                want["loss_cls"][level] += loss
            metrics += metric[place]
            if which:
                box = gt.bboxes[which - 1]
                weight = centerness(anchors[place], box.tolist()) if epoch < 4 else metric[place]
                giou = float(bbox_overlaps(found[place, None], box[None], mode="giou", is_aligned=True))
                want["loss_bbox"][level] += 2 * weight * (1 - giou)
                weights += weight
    want["loss_cls"] = [each / max(metrics, 1) for each in want["loss_cls"]]
    want["loss_bbox"] = [each / max(weights, 1) for each in want["loss_bbox"]]
    losses = model(images, samples, mode="loss")
    assert set(losses) == set(want)
    assert weights > 0
    for name, levels_losses in losses.items():
        got = [float(value.detach()) for value in levels_losses]
        assert got == pytest.approx(want[name], rel=1e-4, abs=1e-6), name


def test_the_run_tells_which_pass_it_is(one_stage, images, samples):
    model = one_stage("TOOD")
    first = model(images, samples, mode="loss")
    model.set_epoch(4)
    later = model(images, samples, mode="loss")
    assert first["loss_cls"] != later["loss_cls"]
    model.set_epoch(0)
    torch.testing.assert_close(model(images, samples, mode="loss"), first)
    model.bbox_head.epoch = None
    hub = MessageHub(SimpleNamespace(epoch=4))
    assert MessageHub.get_current_instance() is hub
    torch.testing.assert_close(model(images, samples, mode="loss"), later)


@pytest.mark.parametrize("numbers", [(0, 0), (2, 0)], ids=["none", "one_image"])
def test_images_without_objects_are_all_background_in_later_passes(numbers, one_stage, images, make_sample):
    model = one_stage("TOOD")
    model.set_epoch(9)
    samples = [make_sample(64, 96, BOXES[:number], [0, 2][:number]) for number in numbers]
    losses = model(images, samples, mode="loss")
    assert sum(losses["loss_cls"]) > 0
    assert (sum(losses["loss_bbox"]) != 0) == (sum(numbers) > 0)
    sum(map(sum, losses.values())).backward()
    assert all(p.grad.isfinite().all() for p in model.bbox_head.parameters())


def test_features_of_a_task_are_those_of_its_weighed_layers():
    torch.manual_seed(0)
    parts = TaskDecomposition(8, 3, 24, norm_cfg={"type": "GN", "num_groups": 2})
    maps = torch.randn(2, 24, 5, 6)
    weights = parts.layer_attention(maps.mean((2, 3), keepdim=True))
    assert weights.shape == (2, 3, 1, 1)
    weighed = torch.cat([maps[:, 8 * n : 8 * n + 8] * weights[:, n, None] for n in range(3)], 1)
    torch.testing.assert_close(parts(maps), parts.reduction_conv(weighed), rtol=1e-4, atol=1e-5)


def test_the_mean_of_two_sigmoids_has_a_gradient_at_the_end():
    first = torch.tensor([0.3, -300.0, 300.0], requires_grad=True)
    second = torch.tensor([-1.2, -2.0, 300.0], requires_grad=True)
    mean = sigmoid_geometric_mean(first, second)
    torch.testing.assert_close(mean[0], (first[0].sigmoid() * second[0].sigmoid()).sqrt())
    mean.sum().backward()
    assert first.grad.isfinite().all()
    assert second.grad.isfinite().all()


def test_each_side_is_read_where_its_offset_points():
    boxes = torch.arange(4 * 3 * 3.0).view(1, 4, 3, 3)
    boxes[:, 2:] += 50
    offsets = torch.zeros(1, 8, 3, 3)
    offsets[:, 1] = 1  # the left side one cell to the right
    offsets[:, 6] = 0.5  # the bottom half a cell down
    moved = read_sides(boxes, offsets)
    assert torch.equal(moved[0, 0, :, :2], boxes[0, 0, :, 1:])
    assert torch.equal(moved[0, 1:3], boxes[0, 1:3])
    assert torch.equal(moved[0, 3, 0], (boxes[0, 3, 0] + boxes[0, 3, 1]) / 2)
    offsets[:, 1], offsets[:, 5] = 0, 9  # the right side from beyond the map, which is left of the left one
    moved = read_sides(boxes + 1, offsets)
    assert torch.equal(moved, boxes + 1)


@pytest.mark.parametrize("kind", ["anchor_free", "anchor_based"])
def test_boxes_start_from_centres_or_from_anchors(kind, one_stage):
    head = one_stage("TOOD", anchor_type=kind).bbox_head
    regressed = torch.zeros(1, 4, 2, 3)
    with torch.no_grad():
        head.scales[1].scale.fill_(1.0)
        boxes = head._boxes_of(regressed, head.scales[1], 1)[0, :, 1, 2] * 16
    half = 16 if kind == "anchor_free" else 64  # a stride, or half of the anchor
    assert boxes.tolist() == [32 - half, 16 - half, 32 + half, 16 + half]


def test_predictions_are_the_products_and_are_not_cut_to_the_image(one_stage):
    head = one_stage("TOOD").bbox_head.eval()
    scores = [torch.full((1, 3, 2, 2), 0.01) for _ in STRIDES]
    boxes = [torch.zeros(1, 4, 2, 2) for _ in STRIDES]
    scores[2][0, 1, 1, 0] = 0.75
    boxes[2][0, :, 1, 0] = torch.tensor([-1.0, 0.5, 9.0, 2.0])
    found = head.predict_by_feat(scores, boxes, batch_img_metas=[{"img_shape": (64, 96)}])[0]
    assert found.labels.tolist() == [1]
    assert found.scores.tolist() == pytest.approx([0.75])
    assert found.bboxes.tolist() == [[-32.0, 16.0, 288.0, 64.0]]


def test_what_it_cannot_do_is_said(one_stage, images, samples):
    with pytest.raises(ValueError, match="loss_cls must be over sigmoids, activated=True"):
        TOODHead(3, 32, feat_channels=32, loss_cls=FocalLoss())
    with pytest.raises(ValueError, match=r"got train_cfg\.assigner of type ATSSAssigner"):
        TOODHead(3, 32, feat_channels=32, train_cfg=DenseTrainCfg(assigner=ATSSAssigner(9)))
    model = one_stage("TOOD")
    cfg = model.bbox_head.train_cfg
    model.bbox_head.train_cfg = DenseTrainCfg(assigner=cfg.assigner)
    with pytest.raises(ValueError, match="needs an initial_assigner beside the assigner"):
        model(images, samples, mode="loss")


def test_the_head_starts_as_its_authors_have_it():
    torch.manual_seed(0)
    head = TOODHead(4, 32, feat_channels=64, stacked_convs=3, num_dcn=1)
    head.init_weights()
    rare = torch.cat((head.tood_cls.bias, head.cls_prob_module[2].bias)).sigmoid()
    torch.testing.assert_close(rare, torch.full((5,), 0.01))
    assert head.cls_prob_module[0].bias.tolist() == [0.0] * 16
    stds = {
        name: float(each.weight.detach().std())
        for name, each in (
            ("offset", head.reg_offset_module[0]),
            ("attention", head.cls_decomp.layer_attention[0]),
            ("reduction", head.cls_decomp.reduction_conv.conv),
            ("stack", head.inter_convs[2].conv),
        )
    }
    want = {"offset": 0.001, "attention": 0.001, "reduction": 0.01, "stack": 0.01}
    assert stds == pytest.approx(want, rel=0.1)


def test_it_is_two_classes_above_its_parts():
    for component in (TOOD, TOODHead, TaskDecomposition):
        ours = [cls for cls in component.__mro__[1:] if cls.__module__.startswith(("det_models", "detcore"))]
        assert len(ours) <= 2, ours
