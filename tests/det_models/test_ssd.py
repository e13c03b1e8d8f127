"""SSD: its losses and boxes against a computation by hand, an anchor at a time."""

import copy
import math
import subprocess
import sys
from functools import partial

import pytest
import torch
from det_models.dense_targets import regressed_rows
from det_models.ssd import L2Norm, SSDHead, SSDNeck

from detcore.errors import ConfigError
from detcore.registry import MODELS
from detcore.structures import InstanceData
from detcore.testing import check_detector

BOXES = [[10.0, 12.0, 50.0, 60.0], [20.0, 30.0, 90.0, 60.0]]
STDS = (0.1, 0.1, 0.2, 0.2)
ANCHORS = {
    "type": "SSDAnchorGenerator", "scale_major": False, "strides": [8, 16, 32, 64],
    "ratios": [[2], [2, 3], [2, 3], [2]], "min_sizes": [10, 24, 48, 80], "max_sizes": [24, 48, 80, 100],
}  # fmt: skip


def config(head=None, neck=None, train=None, num_classes=3):
    layers = {"norm_cfg": {"type": "GN", "num_groups": 4}, "act_cfg": {"type": "ReLU6"}}
    lite = {"use_depthwise": True, **layers}
    return {
        "type": "SingleStageDetector",
        "backbone": {
            "type": "ResNet", "depth": 18, "base_channels": 8, "out_indices": (1, 2), "num_stages": 3,
            "strides": (1, 2, 2), "dilations": (1, 1, 1),
        },
        "neck": {
            "type": "SSDNeck", "in_channels": (16, 32), "out_channels": (16, 32, 16, 16),
            "level_strides": (2, 2), "level_paddings": (1, 1), **(lite if neck == "lite" else {}),
        },
        "bbox_head": {
            "type": "SSDHead", "num_classes": num_classes, "in_channels": (16, 32, 16, 16),
            "anchor_generator": ANCHORS, "bbox_coder": {"type": "DeltaXYWHBBoxCoder", "target_stds": STDS},
            **(lite if head == "lite" else head or {}),
        },
        "train_cfg": {
            "assigner": {
                "type": "MaxIoUAssigner", "pos_iou_thr": 0.5, "neg_iou_thr": 0.5, "min_pos_iou": 0.0,
                "gt_max_assign_all": False,
            },
            "sampler": {"type": "PseudoSampler"}, "smoothl1_beta": 1.0, "neg_pos_ratio": 3, **(train or {}),
        },
        "test_cfg": {
            "nms_pre": 100, "nms": {"type": "nms", "iou_threshold": 0.45}, "min_bbox_size": 0,
            "score_thr": 0.02, "max_per_img": 20,
        },
    }  # fmt: skip


@pytest.fixture
def small_ssd(fill_by_name):
    return lambda **given: fill_by_name(MODELS.build(config(**given)))


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def samples(make_sample):
    return [make_sample(64, 96, BOXES, [0, 2]), make_sample(64, 96, BOXES[:1], [1])]


def run(model, images, samples):
    """Losses of each image, and the gradient of their sum by every parameter of neck and head."""
    model.zero_grad()
    losses = model(images, copy.deepcopy(samples), mode="loss")
    sum(sum(each) for each in losses.values()).backward()
    parts = [*model.neck.named_parameters(), *model.bbox_head.named_parameters()]
    values = {name: torch.stack(each).detach() for name, each in losses.items()}
    return values, {name: parameter.grad.clone() for name, parameter in parts}


def by_hand(model, images, samples, ratio=3, beta=1.0, decoded=False):
    """The same losses, with loops over images, levels and anchors."""
    head = model.bbox_head
    scores, boxes = head(model.extract_feat(images))
    levels = head.prior_generator.grid_priors([tuple(each.shape[-2:]) for each in scores])
    want, num_positive = {"loss_cls": [], "loss_bbox": []}, 0
    for image, sample in enumerate(samples):
        priors = InstanceData(priors=torch.cat(levels))
        matches = head.train_cfg.assigner.assign(priors, sample.gt_instances).gt_inds.tolist()
        logits = [row for each in scores for row in each[image].permute(1, 2, 0).reshape(-1, 4).tolist()]
        deltas = [row for each in boxes for row in each[image].permute(1, 2, 0).reshape(-1, 4).tolist()]
        positives, negatives, regression = [], [], 0.0
        for row, delta, anchor, match in zip(logits, deltas, priors.priors.tolist(), matches, strict=True):
            total = sum(map(math.exp, row))
            label = int(sample.gt_instances.labels[match - 1]) if match > 0 else 3
            (positives if match > 0 else negatives).append(-math.log(math.exp(row[label]) / total))
            if match > 0:
                gt = sample.gt_instances.bboxes[match - 1].tolist()
                w, h = anchor[2] - anchor[0], anchor[3] - anchor[1]
                x, y = (anchor[0] + anchor[2]) / 2, (anchor[1] + anchor[3]) / 2
                target = (
                    ((gt[0] + gt[2]) / 2 - x) / w / 0.1, ((gt[1] + gt[3]) / 2 - y) / h / 0.1,
                    math.log((gt[2] - gt[0]) / w) / 0.2, math.log((gt[3] - gt[1]) / h) / 0.2,
                )  # fmt: skip
                if decoded:
                    x, y = x + delta[0] * 0.1 * w, y + delta[1] * 0.1 * h
                    w, h = w * math.exp(delta[2] * 0.2), h * math.exp(delta[3] * 0.2)
                    delta, target = (x - w / 2, y - h / 2, x + w / 2, y + h / 2), gt
                for got, wanted in zip(delta, target, strict=True):
                    off = abs(got - wanted)
                    regression += 0.5 * off**2 / beta if off < beta else off - 0.5 * beta
        hardest = sorted(negatives, reverse=True)[: int(ratio * len(positives))]
        num_positive += max(1, len(positives))
        want["loss_cls"].append(sum(positives) + sum(hardest))
        want["loss_bbox"].append(regression)
    return {name: [each / num_positive for each in values] for name, values in want.items()}


@pytest.mark.parametrize(
    "given",
    [{}, {"ratio": 1, "beta": 0.3}, {"ratio": 10000}, {"decoded": True}],
    ids=["paper", "other_settings", "all_backgrounds", "decoded"],
)
def test_losses_are_those_of_a_computation_by_hand(given, small_ssd, images, samples):
    train = {"neg_pos_ratio": given.get("ratio", 3), "smoothl1_beta": given.get("beta", 1.0)}
    model = small_ssd(head={"reg_decoded_bbox": "decoded" in given}, train=train)
    want = by_hand(model, images, samples, **given)
    losses = model(images, samples, mode="loss")
    assert set(losses) == set(want)
    for name, found in losses.items():
        assert [float(each.detach()) for each in found] == pytest.approx(want[name], rel=1e-4), name
        assert min(want[name]) > 0


def test_images_that_are_too_small_for_the_levels_are_said_to_be():
    neck = {
        "type": "SSDNeck", "in_channels": (8,), "out_channels": (8, 16, 16),
        "level_strides": (2, 1), "level_paddings": (1, 0),
    }  # fmt: skip
    neck = MODELS.build(neck)
    assert [tuple(each.shape[2:]) for each in neck([torch.rand(1, 8, 5, 6)])] == [(5, 6), (3, 3), (1, 1)]
    with pytest.raises(ValueError, match=r"too small .* 3 levels: level 2 .* at least 3x3 cells.* 2x3"):
        neck([torch.rand(1, 8, 4, 6)])


def test_an_image_without_objects_has_no_loss(small_ssd, images, make_sample):
    model = small_ssd()
    first = make_sample(64, 96, BOXES, [0, 2])
    losses, gradients = run(model, images, [first, make_sample(64, 96, [], [])])
    assert all(each[0] > 0 and each[1] == 0 for each in losses.values())
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    empty, gradients = run(model, images, [make_sample(64, 96, [], [])] * 2)
    assert all(each.eq(0).all() for each in empty.values())
    assert all(gradient.eq(0).all() for gradient in gradients.values())


@pytest.mark.parametrize("kind", [None, "lite"])
def test_every_parameter_of_neck_and_head_learns(kind, small_ssd, images, make_sample):
    sample = make_sample(64, 96, [*BOXES, [2.0, 3.0, 12.0, 13.0], [0.0, 0.0, 96.0, 64.0]], [0, 1, 2, 0])
    _, gradients = run(small_ssd(head=kind, neck=kind), images, [sample, sample])
    # At zero a ReLU may hide a channel or two, but no layer as a whole.
    assert [name for name, gradient in gradients.items() if not gradient.any()] == []


def test_the_order_of_the_batch_does_not_matter(small_ssd, images, samples):
    model = small_ssd()
    model.backbone.eval()
    (want, gradients), (got, turned) = run(model, images, samples), run(model, images.flip(0), samples[::-1])
    torch.testing.assert_close({name: each.flip(0) for name, each in got.items()}, want)
    torch.testing.assert_close(turned, gradients, rtol=1e-4, atol=1e-5)


def test_all_rows_with_weight_zero_are_the_same_loss_as_the_few_with_an_object(
    small_ssd, images, samples, monkeypatch
):
    """What a device does, where the number of positives would have to be waited for."""
    model = small_ssd()
    want = run(model, images, samples)
    monkeypatch.setattr("det_models.ssd.regressed_rows", partial(regressed_rows, every=True))
    torch.testing.assert_close(run(model, images, samples), want, rtol=1e-4, atol=1e-5)


def test_losses_are_averaged_over_the_positives_of_all_ranks(small_ssd, images, samples, monkeypatch):
    model = small_ssd()
    want, _ = run(model, images, samples)
    distributed = torch.distributed
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_reduce", lambda value: value.mul_(4))  # the other has thrice ours
    got, _ = run(model, images, samples)
    torch.testing.assert_close(got, {name: each / 2 for name, each in want.items()})


def test_anchors_in_ignored_regions_are_no_backgrounds(small_ssd, images, make_sample):
    train = {"neg_pos_ratio": 10000}
    train["assigner"] = {**config()["train_cfg"]["assigner"], "ignore_iof_thr": 0.5}
    model = small_ssd(train=train)
    sample = make_sample(64, 96, BOXES[:1], [1])
    want, _ = run(model, images[:1], [sample])
    sample.ignored_instances = InstanceData(bboxes=torch.tensor([[60.0, 0.0, 96.0, 64.0]]))
    got, _ = run(model, images[:1], [sample])
    assert got["loss_cls"] < want["loss_cls"]
    assert got["loss_bbox"] == want["loss_bbox"]


@pytest.mark.parametrize("kind", [None, "lite"])
def test_it_keeps_the_promises_of_detectors(kind):
    check_detector(config(head=kind, neck=kind, num_classes=5), num_classes=5)


def test_boxes_are_decoded_from_the_anchors_and_the_last_score_is_background(small_ssd):
    head = small_ssd().bbox_head.eval()
    sizes = [(8, 12), (4, 6), (2, 3), (1, 2)]
    scores = [torch.zeros(1, k * 4, *size) for k, size in zip(head.num_base_priors, sizes, strict=True)]
    deltas = [torch.zeros(1, k * 4, *size) for k, size in zip(head.num_base_priors, sizes, strict=True)]
    for level in scores:
        level.view(1, -1, 4, *level.shape[2:])[:, :, 3] = 9.0  # all are background
    scores[1].view(6, 4, 4, 6)[2, 1, 3, 4] = 12.0  # but a wide anchor at column 4, row 3 of the second level
    deltas[1].view(6, 4, 4, 6)[2, :, 3, 4] = torch.tensor([1.0, 0.0, 0.0, 5 * math.log(2)])
    metas = [{"img_shape": (64, 96)}]
    found = head.predict_by_feat(scores, deltas, batch_img_metas=metas)[0]
    assert found.labels.tolist() == [1]
    assert float(found.scores) == pytest.approx(math.exp(3) / (math.exp(3) + 1 + 2 * math.exp(-9)), rel=1e-4)
    width, height = 24 * math.sqrt(2), 24 / math.sqrt(2)
    x, y = 4.5 * 16 + 0.1 * width, 3.5 * 16
    want = [x - width / 2, y - height, min(96, x + width / 2), min(64, y + height)]
    assert found.bboxes[0].tolist() == pytest.approx(want, rel=1e-4)


def test_the_first_map_has_length_20_at_every_cell():
    norm = L2Norm(4)
    x = torch.randn(2, 4, 3, 5)
    torch.testing.assert_close(norm(x).norm(dim=1), torch.full((2, 3, 5), 20.0))
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2, 3, 4]))
    column = x[1, :, 2, 3]
    torch.testing.assert_close(norm(x)[1, :, 2, 3], column / column.norm() * torch.tensor([1.0, 2, 3, 4]))
    assert norm(x.bfloat16()).dtype == torch.bfloat16


def test_an_empty_cell_of_the_first_map_has_a_finite_gradient():
    x = torch.zeros(1, 4, 1, 2)
    x[..., 0] = 1.0
    x.requires_grad_()
    L2Norm(4)(x).square().sum().backward()
    assert x.grad.isfinite().all()


def test_the_neck_adds_coarser_maps():
    neck = SSDNeck([8, 12], [8, 12, 16, 10], [2, 1], [1, 0], l2_norm_scale=None, last_kernel_size=4)
    maps = neck([torch.rand(1, 8, 20, 20), torch.rand(1, 12, 11, 11)])
    assert [tuple(each.shape[1:]) for each in maps] == [(8, 20, 20), (12, 11, 11), (16, 6, 6), (10, 3, 3)]
    assert neck.l2_norm is None


def test_what_they_cannot_do_is_said(make_sample):
    with pytest.raises(ConfigError, match=r"begins with the backbone's \[8, 12\], got \[8, 16\]"):
        SSDNeck([8, 12], [8, 16], [2], [1])
    with pytest.raises(ConfigError, match="2 added levels need as many level_strides"):
        SSDNeck([8], [8, 16, 16], [2], [1, 1])
    with pytest.raises(ConfigError, match=r"in_channels is \[16, 64\], but the backbone gives \[16, 32\]"):
        MODELS.build({**config(), "neck": {**config()["neck"], "in_channels": (16, 64),
                                           "out_channels": (16, 64, 16, 16)}})  # fmt: skip
    with pytest.raises(ValueError, match="anchors of 6 levels need as many in_channels"):
        SSDHead(3, [8, 8])
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        SSDHead(0)
    untrained = MODELS.build({**config(), "train_cfg": None})
    with pytest.raises(ValueError, match="SSDHead was built without train_cfg"):
        untrained(torch.rand(1, 3, 64, 96), [make_sample(64, 96, BOXES, [0, 2])], mode="loss")


def test_it_is_two_classes_above_its_parts():
    ours = [cls for cls in SSDHead.__mro__[1:] if cls.__module__.startswith(("det_models", "detcore"))]
    assert len(ours) <= 2, ours


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize("record", ["ssd/ssd300", "ssd/ssdlite"])
def test_the_recorded_detector_passes(record, shared, root):
    check = [sys.executable, str(shared("golden/check.py")), "--configs", str(root / "configs"), record]
    done = subprocess.run(check, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.strip().endswith("1 passed, 0 failed"), done.stdout + done.stderr
