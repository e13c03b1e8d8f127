import copy
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from det_models.dense_cfg import DenseTestCfg
from det_models.fcos import FCOS, FCOSHead, smallest_boxes
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from detcore.config import Config
from detcore.registry import MODELS
from detcore.structures import InstanceData

GOLDEN = json.loads((Path(__file__).parent / "golden/fcos_r50.json").read_text())
VARIANTS = json.loads((Path(__file__).parent / "golden/fcos_variants.json").read_text())
BOXES = [[10.0, 12.0, 50.0, 60.0], [20.0, 30.0, 90.0, 60.0]]
STRIDES = (8, 16, 32, 64, 128)
LATER = {"norm_on_bbox": True, "centerness_on_reg": True, "center_sampling": True, "conv_bias": True}
SMALL = {
    "type": "FCOSHead", "num_classes": 7, "in_channels": 16, "feat_channels": 16, "stacked_convs": 1,
    "strides": STRIDES, "norm_cfg": {"type": "GN", "num_groups": 4},
}  # fmt: skip
TEST_CFG = {"nms_pre": 50, "min_bbox_size": 0, "score_thr": 0.05, "max_per_img": 20}


@pytest.fixture
def small_head(fill_by_name):
    """``small_head(**arguments)``: an FCOSHead of a few thousand weights."""
    return lambda **arguments: fill_by_name(MODELS.build({**SMALL, "test_cfg": TEST_CFG, **arguments}))


@pytest.fixture
def small_fcos(small_config, fill_by_name):
    """``small_fcos(**arguments of the head)``: a whole detector."""

    def make(**arguments):
        cfg = {**small_config(), "type": "FCOS", "train_cfg": None}
        cfg["bbox_head"] = {**SMALL, "num_classes": 3, **arguments}
        return fill_by_name(MODELS.build(cfg))

    return make


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def samples(make_sample):
    return [make_sample(64, 96, BOXES, [0, 2]), make_sample(64, 96, BOXES[:1], [1])]


def total(losses):
    return sum(losses.values())


def values(losses):
    return {name: value.detach() for name, value in losses.items()}


def gradient_norm(module):
    gradients = [p.grad.double() for p in module.parameters() if p.grad is not None]
    return math.sqrt(sum(float((gradient**2).sum()) for gradient in gradients))


def instances(boxes, labels):
    bboxes = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return InstanceData(bboxes=bboxes, labels=torch.as_tensor(labels).long())


# -- the reference's numbers
# -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def r50(root, fill_by_name):
    cfg = Config.fromfile(root / "configs/fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py").model
    cfg.backbone.init_cfg = None
    return fill_by_name(MODELS.build(cfg))


def test_names_and_shapes_are_the_references(r50):
    state = r50.state_dict()
    assert len(state) == GOLDEN["num_keys"]
    head = {name: list(value.shape) for name, value in state.items() if name.startswith("bbox_head")}
    assert head == GOLDEN["shapes"]


def test_outputs_and_predictions_are_the_references(r50, golden_batch, batch_statistics):
    images, samples = golden_batch
    batch_statistics(r50, False)
    with torch.no_grad():
        outputs = [level for levels in r50(images, mode="tensor") for level in levels]
        results = r50(images, copy.deepcopy(samples), mode="predict")
    for output, (shape, mean) in zip(outputs, GOLDEN["outputs"], strict=True):
        assert list(output.shape) == shape
        # 53 layers whose batch norms divide by the deviation of two images: rounding shows in small maps
        assert float(output.abs().mean()) == pytest.approx(mean, rel=1e-3)
    for sample, want in zip(results, GOLDEN["predict"], strict=True):
        found = sample.pred_instances
        assert len(found) == want["n"]
        for label, score, box in zip(want["labels"], want["scores"], want["bboxes"], strict=True):
            same = (found.labels == label) & ((found.scores - score).abs() < 1e-3)  # some scores are as close
            same &= ((found.bboxes - torch.tensor(box)).abs() < 0.1).all(-1)
            assert same.sum() == 1, (label, score, box)


def test_losses_and_gradients_are_the_references(r50, golden_batch, batch_statistics):
    images, samples = golden_batch
    batch_statistics(r50, True)
    losses = r50(images, samples, mode="loss")
    assert {name: float(value) for name, value in values(losses).items()} == pytest.approx(
        GOLDEN["loss"], rel=1e-4
    )
    total(losses).backward()
    assert gradient_norm(r50) == pytest.approx(GOLDEN["grad_norm"], rel=1e-3)


@pytest.mark.shared
@pytest.mark.slow
def test_the_recorded_detector_passes(shared, root):
    check = shared("golden/check.py")
    command = [sys.executable, str(check), "--configs", str(root / "configs"), "fcos/fcos"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.strip().endswith("1 passed, 0 failed"), done.stdout + done.stderr


ARGUMENTS = {
    "plain": {},
    "center_sampling": {"center_sampling": True, "center_sample_radius": 1.5},
    "norm_on_bbox": {"norm_on_bbox": True},
    "later": {**LATER, "loss_bbox": {"type": "GIoULoss"}},
    "rpn": {"num_classes": 1},
    "no_norm_layer": {"norm_cfg": None, "stacked_convs": 2},
}


def variant_batch(random_of, num_classes, size=(256, 320)):
    """Maps of three images and their boxes, 12, 3 and none, as the recorded figures were measured on."""
    height, width = size
    maps = []
    for level, stride in enumerate(STRIDES):
        shape = (3, 16, math.ceil(height / stride), math.ceil(width / stride))
        maps.append(torch.from_numpy(random_of(f"level{level}").standard_normal(shape).astype(np.float32)))
    truth = []
    for number, count in enumerate((12, 3, 0)):
        random = random_of(f"boxes{number}")
        sides = np.stack([random.uniform(24, 0.7 * width, count), random.uniform(24, 0.7 * height, count)], 1)
        corner = np.stack(
            [random.uniform(0, width - sides[:, 0]), random.uniform(0, height - sides[:, 1])], 1
        )
        labels = random.integers(0, 7, count) * (num_classes > 1)
        truth.append(instances(np.concatenate([corner, corner + sides], 1).astype(np.float32), labels))
    return maps, truth, [{"img_shape": size}] * 3


@pytest.mark.parametrize("name", ARGUMENTS)
def test_every_variant_has_the_references_losses_targets_and_predictions(name, small_head, random_of):
    head, want = small_head(**ARGUMENTS[name]), VARIANTS[name]
    maps, truth, metas = variant_batch(random_of, head.num_classes)
    losses = head.loss_by_feat(*head(maps), truth, metas)
    assert {name: float(value) for name, value in values(losses).items()} == pytest.approx(
        want["loss"], rel=1e-5
    )
    total(losses).backward()
    assert gradient_norm(head) == pytest.approx(want["grad_norm"], rel=1e-4)
    labels, targets = head.get_targets(head.prior_generator.grid_priors([m.shape[-2:] for m in maps]), truth)
    positive = [level < head.num_classes for level in labels]
    assert [int(level.sum()) for level in positive] == want["positives"]
    label_sums = [int(level[chosen].sum()) for level, chosen in zip(labels, positive, strict=True)]
    assert label_sums == want["label_sum"]
    sums = [float(level[chosen].sum()) for level, chosen in zip(targets, positive, strict=True)]
    assert sums == pytest.approx(want["target_sum"], rel=1e-5)
    with torch.no_grad():
        results = head.eval().predict_by_feat(*head(maps), batch_img_metas=metas, with_nms=False)
    for found, expected in zip(results, want["predict"], strict=True):
        assert len(found) == expected["n"]
        best = found[found.scores.argsort(descending=True)[:3]]
        assert best.labels.tolist() == expected["labels"]
        assert best.scores.tolist() == pytest.approx(expected["scores"], abs=1e-5)
        torch.testing.assert_close(best.bboxes, torch.tensor(expected["bboxes"]), atol=2e-3, rtol=0)


# -- targets
# -----------------------------------------------------------------------------------------------

side = st.integers(0, 60)
some_boxes = st.lists(st.tuples(side, side, st.integers(0, 50), st.integers(0, 50)), max_size=6)


@settings(max_examples=60, deadline=None)
@given(
    batch=st.lists(some_boxes, min_size=1, max_size=3),
    radius=st.sampled_from([None, 0.5, 1.5]),
    least=st.integers(-1, 30),
    greatest=st.integers(5, 80),
)
def test_a_point_answers_for_the_smallest_box_around_it_that_its_level_is_there_for(
    batch, radius, least, greatest
):
    """Against a loop over points and boxes, from the definition."""
    head = FCOSHead(
        num_classes=9, in_channels=4, stacked_convs=0, strides=[8], regress_ranges=[(least, greatest)],
        center_sampling=radius is not None, center_sample_radius=radius or 0,
    )  # fmt: skip
    truth = [
        instances([(x, y, x + w, y + h) for x, y, w, h in boxes], range(len(boxes))) for boxes in batch
    ]
    points = head.prior_generator.grid_priors([(6, 8)])
    labels, targets = (each[0].unflatten(0, (len(batch), -1)) for each in head.get_targets(points, truth))
    for image, gt in enumerate(truth):
        for place, (x, y) in enumerate(points[0].tolist()):
            areas = {}
            for number, (x1, y1, x2, y2) in enumerate(gt.bboxes.tolist()):
                distances = (x - x1, y - y1, x2 - x, y2 - y)
                cx, cy = (x1 + x2) / 2, (y1 + y2) / 2
                near = radius is None or max(abs(x - cx), abs(y - cy)) < radius * 8
                if near and min(distances) > 0 and least <= max(distances) <= greatest:
                    areas[number] = (x2 - x1) * (y2 - y1)
            label = int(labels[image, place])
            if not areas:
                assert label == 9
                continue
            assert areas.get(label) == min(areas.values())
            x1, y1, x2, y2 = gt.bboxes[label].tolist()
            assert targets[image, place].tolist() == [x - x1, y - y1, x2 - x, y2 - y]


def test_levels_answer_for_boxes_of_their_size(small_head):
    head = small_head()
    truth = [instances([[2.0, 2.0, 60.0, 60.0], [10.0, 10.0, 500.0, 310.0]], [1, 2])]
    sizes = [(40, 64), (20, 32), (10, 16), (5, 8), (3, 4)]
    labels, _ = head.get_targets(head.prior_generator.grid_priors(sizes), truth)
    assert 1 in labels[0]
    assert 2 not in labels[0]
    assert 1 not in torch.cat(labels[1:])
    assert 2 in labels[3]


def test_the_middle_of_a_box_has_centerness_one_and_its_side_none(small_head):
    distances = torch.tensor([[5.0, 7, 5, 7], [2.0, 3, 8, 3], [0.0, 3, 4, 3]])
    assert small_head().centerness_target(distances).tolist() == pytest.approx([1, 0.5, 0])


def test_boxes_without_an_inside_have_no_points():
    points = torch.tensor([[0.0, 0.0], [5.0, 5.0]])
    boxes = torch.tensor([[[0.0, 0, 0, 0], [5.0, 5, 5, 5], [6.0, 6, 4, 4]]])
    assert smallest_boxes(points, boxes, boxes, (-1, 100)).tolist() == [[0, 0]]


# -- training
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [{}, LATER], ids=["plain", "later"])
@pytest.mark.parametrize("numbers", [(0, 0), (2, 0)])
def test_images_without_boxes_are_all_background(small_fcos, images, make_sample, arguments, numbers):
    model = small_fcos(**arguments)
    samples = [make_sample(64, 96, BOXES[:number], [0, 2][:number]) for number in numbers]
    losses = model(images, samples, mode="loss")
    assert losses["loss_cls"] > 0
    assert (losses["loss_bbox"] > 0) == (losses["loss_centerness"] > 0) == (sum(numbers) > 0)
    total(losses).backward()
    for name, parameter in model.bbox_head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_the_order_of_the_batch_does_not_matter(small_fcos, images, samples):
    model = small_fcos()
    model.backbone.eval()
    one = values(model(images, samples, mode="loss"))
    other = values(model(images.flip(0), samples[::-1], mode="loss"))
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_under_bf16_autocast_losses_are_float32_and_close(small_fcos, images, samples):
    model = small_fcos()
    want = values(model(images, samples, mode="loss"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(images, samples, mode="loss")
        results = model(images, samples, mode="predict")
    assert all(value.dtype == torch.float32 for value in losses.values())
    torch.testing.assert_close(values(losses), want, rtol=0.1, atol=0.05)
    total(losses).backward()
    assert results[0].pred_instances.scores.dtype == torch.float32
    assert results[0].pred_instances.bboxes.dtype == torch.float32


def test_all_rows_with_weight_zero_are_the_same_loss_as_the_few_with_an_object(
    small_head, random_of, monkeypatch
):
    """What a device does, where the number of positives would have to be waited for."""
    head = small_head(**LATER)
    maps, truth, metas = variant_batch(random_of, head.num_classes)

    def run():
        head.zero_grad()
        losses = head.loss_by_feat(*head(maps), truth, metas)
        total(losses).backward()
        return values(losses), [parameter.grad.clone() for parameter in head.parameters()]

    want = run()
    monkeypatch.setattr("det_models.fcos._rows_with_objects", lambda positive: torch.arange(len(positive)))
    torch.testing.assert_close(run(), want, rtol=1e-5, atol=1e-6)


def test_losses_are_averaged_over_the_positives_of_all_ranks(small_fcos, images, samples, monkeypatch):
    model = small_fcos()
    want = values(model(images, samples, mode="loss"))
    distributed = torch.distributed
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(
        distributed, "all_reduce", lambda value: value.mul_(4)
    )  # the other rank has three times ours
    got = values(model(images, samples, mode="loss"))
    for name, value in want.items():
        torch.testing.assert_close(got[name], value / 2)


class WholeBatchLoss(nn.Module):
    """A user's loss, in the manual's form: one call for all points of the batch."""

    use_sigmoid = True

    def __init__(self) -> None:
        super().__init__()
        self.calls = []

    def forward(self, pred, target, weight=None, avg_factor=None, reduction_override=None):
        self.calls.append(tuple(pred.shape))
        wanted = nn.functional.one_hot(target, pred.shape[1] + 1)[:, :-1]
        return (pred.sigmoid() - wanted).abs().sum() / avg_factor


def test_a_users_class_loss_sees_all_points_at_once(small_fcos, images, samples):
    model = small_fcos(loss_cls={"type": WholeBatchLoss})
    total(model(images, samples, mode="loss")).backward()
    assert model.bbox_head.loss_cls.calls == [(2 * (8 * 12 + 4 * 6 + 2 * 3 + 1 * 2 + 1), 3)]


class WeightedHead(FCOSHead):
    """A user's head, in the manual's form: over the methods that it documents."""

    def __init__(self, *args, weight: float = 2.0, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.weight = weight
        self.seen = []

    def forward_single(self, x, scale, stride):
        cls_score, bbox_pred, centerness = super().forward_single(x, scale, stride)
        self.seen.append(stride)
        return cls_score, bbox_pred * 1.0, centerness

    def get_targets(self, points, batch_gt_instances):
        labels, bbox_targets = super().get_targets(points, batch_gt_instances)
        assert len(labels) == len(bbox_targets) == 5
        assert all(len(each) == len(level) * 2 for each, level in zip(labels, points, strict=True))
        return labels, bbox_targets

    def loss_by_feat(self, cls_scores, bbox_preds, centernesses, batch_gt_instances, batch_img_metas,
                     batch_gt_instances_ignore=None):  # fmt: skip
        losses = super().loss_by_feat(
            cls_scores, bbox_preds, centernesses, batch_gt_instances, batch_img_metas
        )
        losses["loss_bbox"] = losses["loss_bbox"] * self.weight
        return losses


def test_a_users_head_redefines_the_manuals_methods(small_fcos, images, samples):
    want = values(small_fcos()(images, samples, mode="loss"))
    model = small_fcos(type=WeightedHead, weight=3.0)
    got = values(model(images, samples, mode="loss"))
    assert model.bbox_head.seen == [*STRIDES]
    torch.testing.assert_close(got, {**want, "loss_bbox": want["loss_bbox"] * 3})


def test_a_method_that_takes_one_image_is_not_called_and_a_warning_says_so(caplog):
    class Silent(FCOSHead):
        def _get_targets_single(self, gt_instances, points, regress_ranges, num_points_per_lvl):
            return points

    assert "Silent._get_targets_single is not called; redefine loss_by_feat instead" in caplog.text


def test_norm_on_bbox_means_the_same_boxes_in_training_and_evaluation(small_head, random_of):
    """Strides while training, pixels after: losses and proposals must not depend on which it was."""
    head = small_head(**LATER)
    maps, truth, metas = variant_batch(random_of, head.num_classes)
    found = []
    for training in (True, False):
        head.train(training)
        with torch.no_grad():
            outs = head(maps)
            losses = head.loss_by_feat(*outs, truth, metas)
            found.append((values(losses), head.predict_by_feat(*outs, batch_img_metas=metas)[0].bboxes))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-3)


# -- as a head for proposals
# ------------------------------------------------------------------------------


def test_proposals_and_losses_come_from_one_pass(small_head, random_of, make_sample):
    head = small_head(num_classes=1, test_cfg=None)
    maps, truth, _ = variant_batch(random_of, 1)
    samples = [make_sample(256, 320, each.bboxes.tolist(), each.labels.tolist()) for each in truth]
    cfg = DenseTestCfg(nms_pre=40, max_per_img=30, nms={"type": "nms", "iou_threshold": 0.7}, min_bbox_size=0)
    losses, proposals = head.loss_and_predict(maps, samples, proposal_cfg=cfg)
    torch.testing.assert_close(values(losses), values(head.loss(maps, samples)))
    total(losses).backward()
    for each in proposals:
        assert 0 < len(each) <= 30
        assert not each.labels.any()
        assert each.bboxes.shape == (len(each), 4)
        assert not each.bboxes.requires_grad


# -- callers' mistakes, and beginnings
# -----------------------------------------------------------------------------


def test_ranges_and_maps_that_do_not_fit_the_strides_are_named(small_head):
    with pytest.raises(ValueError, match="5 regress_ranges for 3 strides"):
        FCOSHead(num_classes=2, in_channels=4, strides=[8, 16, 32])
    with pytest.raises(ValueError, match="2 feature maps for 5 strides"):
        small_head()([torch.zeros(1, 16, 4, 4)] * 2)


def test_a_label_beyond_the_classes_is_refused(small_fcos, images, make_sample):
    samples = [make_sample(64, 96, BOXES, [0, 3]), make_sample(64, 96, BOXES, [0, 1])]
    with pytest.raises(ValueError, match=r"image 0 .* labels \[0, 3\].*num_classes=3"):
        small_fcos()(images, samples, mode="loss")


def test_class_probabilities_start_at_one_percent_and_scales_at_one():
    head = FCOSHead(num_classes=3, in_channels=64, feat_channels=64)
    head.init_weights()
    bias = head.conv_cls.bias
    torch.testing.assert_close(bias.sigmoid(), torch.full_like(bias, 0.01))
    assert float(head.conv_reg.weight.detach().std()) == pytest.approx(0.01, rel=0.1)
    assert [float(scale.scale.detach()) for scale in head.scales] == [1] * 5


def test_the_convolutions_have_a_bias_where_asked_for_or_without_a_norm_layer():
    for arguments, want in (({}, False), ({"conv_bias": True}, True), ({"norm_cfg": None}, True)):
        head = FCOSHead(num_classes=3, in_channels=32, feat_channels=32, **arguments)
        assert (head.cls_convs[0].conv.bias is not None) == want


def test_the_last_convolution_before_the_predictions_may_be_deformable(small_head, random_of):
    head = small_head(**LATER, stacked_convs=2, dcn_on_last_conv=True)
    for tower in ("cls_convs", "reg_convs"):
        names = [name.split(".") for name in head.state_dict() if name.startswith(tower)]
        assert {name[1] for name in names if "conv_offset" in name} == {"1"}
    maps, truth, metas = variant_batch(random_of, head.num_classes)
    total(head.loss_by_feat(*head(maps), truth, metas)).backward()
    assert head.cls_convs[1].conv.conv_offset.weight.grad.abs().sum() > 0
    assert head.reg_convs[1].conv.conv_offset.weight.grad.abs().sum() > 0


def test_every_config_builds_but_for_its_backbone(root):
    files = sorted((root / "configs/fcos").glob("*.py"))
    assert len(files) == 12
    for file in files:
        cfg = Config.fromfile(file).model
        head = MODELS.build({**cfg.bbox_head, "test_cfg": cfg.test_cfg})
        later = "normbbox" in file.name
        assert head.norm_on_bbox == head.centerness_on_reg == later
        assert head.center_sampling == ("center" in file.name)
        assert head.dcn_on_last_conv == ("dcn" in file.name)


def test_a_detector_is_at_most_two_classes_above_its_parts():
    for component in (FCOS, FCOSHead):
        ours = [cls for cls in component.__mro__[1:] if cls.__module__.startswith(("det_models", "detcore"))]
        assert len(ours) <= 2, ours
