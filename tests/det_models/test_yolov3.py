"""YOLOv3: its losses and boxes against a computation by hand, an anchor at a time."""

import copy
import math
import subprocess
import sys

import pytest
import torch
from det_models.anchors_yolo import YOLOAnchorGenerator
from det_models.assign import AssignResult
from det_models.grid_assign import GridAssigner
from det_models.truth import GroundTruth
from det_models.yolo_coder import YOLOBBoxCoder
from det_models.yolo_neck import YOLOV3Neck
from det_models.yolov3 import YOLOV3, YOLOV3Head

from detcore.config import Config
from detcore.engine.check import CheckOptions, check_config, errors_among
from detcore.errors import ConfigError
from detcore.registry import MODELS
from detcore.structures import InstanceData

BOXES = [[10.0, 12.0, 50.0, 60.0], [20.0, 30.0, 90.0, 60.0]]
STRIDES = (32, 16, 8)
SIZES = [[(60, 40), (30, 50)], [(20, 20), (12, 30)], [(8, 8), (10, 5)]]
MAPS = [(2, 3), (4, 6), (8, 12)]
NAMES = ("loss_cls", "loss_conf", "loss_xy", "loss_wh")


def config(reduction="sum", assigner=None, test=None, **head):
    entropy = {"type": "CrossEntropyLoss", "use_sigmoid": True, "reduction": reduction}
    return {
        "type": "YOLOV3",
        "backbone": {"type": "ResNet", "depth": 18, "base_channels": 8, "out_indices": (1, 2, 3)},
        "neck": {
            "type": "YOLOV3Neck", "num_scales": 3, "in_channels": [64, 32, 16], "out_channels": [16, 8, 8]
        },
        "bbox_head": {
            "type": "YOLOV3Head", "num_classes": 3, "in_channels": [16, 8, 8], "out_channels": [8, 8, 8],
            "anchor_generator": {
                "type": "YOLOAnchorGenerator", "base_sizes": SIZES, "strides": list(STRIDES)
            },
            "bbox_coder": {"type": "YOLOBBoxCoder"}, "loss_cls": entropy, "loss_conf": entropy,
            "loss_xy": {**entropy, "loss_weight": 2.0},
            "loss_wh": {"type": "MSELoss", "reduction": reduction, "loss_weight": 2.0}, **head,
        },
        "train_cfg": {
            "assigner": assigner or {"type": "GridAssigner", "pos_iou_thr": 0.5, "neg_iou_thr": 0.5}
        },
        "test_cfg": {
            "nms_pre": 100, "min_bbox_size": 0, "score_thr": 0.05, "conf_thr": 0.005, "max_per_img": 20,
            "nms": {"type": "nms", "iou_threshold": 0.45}, **(test or {}),
        },
    }  # fmt: skip


@pytest.fixture
def small_yolo(fill_by_name):
    return lambda **given: fill_by_name(MODELS.build(config(**given)))


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def samples(make_sample):
    return [make_sample(64, 96, BOXES, [0, 2]), make_sample(64, 96, [[33.0, 1.0, 42.0, 9.0]], [1])]


def values(losses):
    return {name: torch.stack(each).detach() for name, each in losses.items()}


def run(model, images, samples):
    """Losses of each level, and the gradient of their sum by every parameter of neck and head."""
    model.zero_grad()
    losses = model(images, copy.deepcopy(samples), mode="loss")
    sum(sum(each) for each in losses.values()).backward()
    parts = [*model.neck.named_parameters(), *model.bbox_head.named_parameters()]
    return values(losses), {name: parameter.grad.clone() for name, parameter in parts}


def entropy(logit, y):
    p = 1 / (1 + math.exp(-logit))
    return -y * math.log(p) - (1 - y) * math.log(1 - p)


def by_hand(model, images, samples, smoother=0.0):
    """The same losses, with loops over levels, images and anchors; and the number of anchors of a level."""
    head = model.bbox_head
    (maps,) = head(model.extract_feat(images))
    levels = head.prior_generator.grid_priors(MAPS)
    flags = head.responsible_flags(MAPS, GroundTruth.pack([each.gt_instances for each in samples]))
    want = {name: [0.0] * 3 for name in NAMES}
    for image, sample in enumerate(samples):
        instances = InstanceData(priors=torch.cat(levels), responsible_flags=flags[image])
        matches = head.train_cfg.assigner.assign(instances, sample.gt_instances).gt_inds
        for level, part in enumerate(matches.split(list(map(len, levels)))):
            rows = maps[level][image].detach().permute(1, 2, 0).reshape(-1, 8).tolist()
            for row, anchor, match in zip(rows, levels[level].tolist(), part.tolist(), strict=True):
                if match >= 0:
                    want["loss_conf"][level] += entropy(row[4], float(match > 0))
                if match <= 0:
                    continue
                x1, y1, x2, y2 = sample.gt_instances.bboxes[match - 1].tolist()
                stride = STRIDES[level]
                for axis, center in enumerate(((x1 + x2) / 2, (y1 + y2) / 2)):
                    cell = ((anchor[axis] + anchor[axis + 2]) / 2 - stride / 2) / stride
                    place = min(max(center / stride - cell, 1e-6), 1 - 1e-6)
                    want["loss_xy"][level] += 2 * entropy(row[axis], place)
                for axis, size in enumerate((x2 - x1, y2 - y1)):
                    change = math.log(size / (anchor[axis + 2] - anchor[axis]))
                    want["loss_wh"][level] += 2 * (row[2 + axis] - change) ** 2
                label = int(sample.gt_instances.labels[match - 1])
                for k in range(3):
                    y = float(k == label) * (1 - smoother) + smoother / 3
                    want["loss_cls"][level] += entropy(row[5 + k], y)
    return want


@pytest.mark.parametrize("smoother", [0.0, 0.3])
def test_losses_are_those_of_a_computation_by_hand(smoother, small_yolo, images, samples):
    model = small_yolo(one_hot_smoother=smoother)
    want = by_hand(model, images, samples, smoother)
    losses = model(images, samples, mode="loss")
    assert tuple(losses) == NAMES
    for name, found in losses.items():
        assert [float(each.detach()) for each in found] == pytest.approx(want[name], rel=1e-4), name
        assert sum(each > 0 for each in want[name]) >= 2


def test_with_means_losses_are_divided_by_all_numbers_of_a_level(small_yolo, images, samples):
    want = values(small_yolo()(images, samples, mode="loss"))
    got = values(small_yolo(reduction="mean")(images, samples, mode="loss"))
    rows = torch.tensor([2 * 2 * h * w for h, w in MAPS])
    for name, numbers in zip(NAMES, (3, 1, 2, 2), strict=True):
        torch.testing.assert_close(got[name], want[name] / (rows * numbers))


def test_without_objects_all_anchors_learn_that_there_are_none(small_yolo, images, make_sample, samples):
    model = small_yolo()
    empty = make_sample(64, 96, [], [])
    losses, gradients = run(model, images, [empty, empty])
    (maps,) = model.bbox_head(model.extract_feat(images))
    want = [each.unflatten(1, (2, 8))[:, :, 4].sigmoid().neg().log1p().neg().sum() for each in maps]
    torch.testing.assert_close(losses["loss_conf"], torch.stack(want).detach())
    assert all(not losses[name].any() for name in NAMES if name != "loss_conf")
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    losses, gradients = run(model, images, [samples[0], empty])
    assert all(losses[name].sum() > 0 for name in NAMES)
    assert all(gradient.isfinite().all() for gradient in gradients.values())


def test_every_parameter_of_neck_and_head_learns(small_yolo, images, samples):
    _, gradients = run(small_yolo(), images, samples)
    assert [name for name, gradient in gradients.items() if not gradient.any()] == []


def test_the_order_of_the_batch_does_not_matter(small_yolo, images, samples):
    model = small_yolo().eval()
    want, got = run(model, images, samples), run(model, images.flip(0), samples[::-1])
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_maps_in_bf16_are_reckoned_with_in_float32(small_yolo, images, samples):
    model = small_yolo()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (maps,) = model.bbox_head(model.extract_feat(images))
        boxes = model(images, copy.deepcopy(samples), mode="predict")[0].pred_instances.bboxes
    assert {each.dtype for each in maps} == {torch.bfloat16}
    assert boxes.dtype == torch.float32
    given = [each.gt_instances for each in samples], [each.metainfo for each in samples]
    got = values(model.bbox_head.loss_by_feat(maps, *given))
    wide = values(model.bbox_head.loss_by_feat([each.float() for each in maps], *given))
    torch.testing.assert_close(got, wide)


def test_cells_with_a_centre_are_responsible():
    head = MODELS.build(config()["bbox_head"])
    boxes = [[30.0, 0, 40, 16], [0, 0, 8, 8], [80, 60, 96, 64]]  # centres (35, 8), (4, 4), (88, 62)
    truth = GroundTruth.pack(
        [
            InstanceData(bboxes=torch.tensor(each).reshape(-1, 4), labels=torch.zeros(len(each)).long())
            for each in (boxes, boxes[:1], [])
        ]
    )
    flags = head.responsible_flags(MAPS, truth)
    assert flags.sum(1).tolist() == [3 * 3 * 2, 3 * 2, 0]  # each object has a cell on each level
    coarse, middle, fine = flags[0].split([12, 48, 192])
    cells = [torch.nonzero(each.view(*size, 2).all(-1)).tolist() for each, size in
             zip((coarse, middle, fine), MAPS, strict=True)]  # fmt: skip
    assert cells == [[[0, 0], [0, 1], [1, 2]], [[0, 0], [0, 2], [3, 5]], [[0, 0], [1, 4], [7, 11]]]


def test_a_centre_on_the_far_edge_belongs_to_the_last_cell():
    head = MODELS.build(config()["bbox_head"])
    box = torch.tensor([[96.0, 64.0, 96.0, 64.0]])
    truth = GroundTruth.pack([InstanceData(bboxes=box, labels=torch.tensor([0]))])
    coarse = head.responsible_flags(MAPS, truth)[0, :12]
    assert coarse.tolist() == [False] * 10 + [True] * 2


def test_an_assigner_of_a_users_own_matches_an_image_at_a_time(small_yolo, images, samples):
    want = values(small_yolo()(images, samples, mode="loss"))

    class OneByOne:
        def __init__(self):
            self.inner = GridAssigner(0.5, 0.5)

        def assign(self, pred_instances, gt_instances, gt_instances_ignore=None) -> AssignResult:
            return self.inner.assign(pred_instances, gt_instances)

    model = small_yolo()
    model.bbox_head.train_cfg.assigner = OneByOne()
    torch.testing.assert_close(values(model(images, samples, mode="loss")), want)


# -- prediction ---------------------------------------------------------------------------------------


def empty_maps(images=1):
    maps = [torch.zeros(images, 2 * 8, *size) for size in MAPS]
    for each in maps:
        each.unflatten(1, (2, 8))[:, :, 4:] = -9.0
    return maps


def put(maps, level, kind, row, column, numbers, image=0):
    maps[level].unflatten(1, (2, 8))[image, kind, :, row, column] = torch.tensor(numbers)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_boxes_are_decoded_from_cells_and_anchors():
    head = MODELS.build({**config()["bbox_head"], "test_cfg": config()["test_cfg"]}).eval()
    maps = empty_maps()
    put(maps, 1, 1, 2, 3, [0.5, -1.0, 0.2, -0.1, 2.0, -9.0, 1.0, -9.0])
    put(maps, 2, 0, 7, 11, [0.0, 0.0, 1.0, 1.0, 1.0, 3.0, -9.0, -9.0])
    found = head.predict_by_feat(maps, [{"img_shape": (64, 96)}])[0]
    assert found.labels.tolist() == [0, 1]
    scores = [sigmoid(1.0) * sigmoid(3.0), sigmoid(2.0) * sigmoid(1.0)]
    assert found.scores.tolist() == pytest.approx(scores, rel=1e-4)
    x, y = (3 + sigmoid(0.5)) * 16, (2 + sigmoid(-1.0)) * 16
    w, h = 12 * math.exp(0.2), 30 * math.exp(-0.1)
    assert found.bboxes[1].tolist() == pytest.approx([x - w / 2, y - h / 2, x + w / 2, y + h / 2], rel=1e-4)
    side = 4 * math.e  # half of 8 e, and boxes are not cut to the picture
    assert found.bboxes[0].tolist() == pytest.approx([92 - side, 60 - side, 92 + side, 60 + side], rel=1e-4)
    half = head.predict_by_feat(maps, [{"img_shape": (64, 96), "scale_factor": (0.5, 2.0)}], rescale=True)[0]
    torch.testing.assert_close(half.bboxes, found.bboxes * torch.tensor([2, 0.5, 2, 0.5]))


def test_candidates_are_the_best_class_probabilities_of_all_levels_together():
    limits = {"nms_pre": 2, "score_thr": 0.3}
    head = MODELS.build({**config()["bbox_head"], "test_cfg": config(test=limits)["test_cfg"]}).eval()
    maps = empty_maps(2)
    for image in range(2):
        put(maps, 0, 0, 0, 1, [0, 0, 0, 0, 0.0, 1.0, -9, -9], image)
        put(maps, 2, 0, 1, 1, [0, 0, 0, 0, 0.0, 3.0, -9, -9], image)
        put(maps, 2, 0, 5, 5, [0, 0, 0, 0, 3.0, -9, 0.0, -9], image)  # best in the end, but third by class
    put(maps, 1, 0, 2, 2, [0, 0, 0, 0, 0.0, -9, -9, 2.0], image=1)
    found = head.predict_by_feat(maps)
    assert [each.labels.tolist() for each in found] == [[0, 0], [0, 2]]
    wide = [sigmoid(3.0) / 2, sigmoid(1.0) / 2]
    assert found[0].scores.tolist() == pytest.approx(wide, rel=1e-4)
    every = MODELS.build({**config()["bbox_head"], "test_cfg": config(test={"nms_pre": -1})["test_cfg"]})
    assert [len(each) for each in every.predict_by_feat(maps)] == [3, 4]


def test_anchors_that_are_hardly_objects_are_no_candidates():
    threshold = {"conf_thr": 0.2, "score_thr": 0.0, "nms_pre": 1}
    head = MODELS.build({**config()["bbox_head"], "test_cfg": config(test=threshold)["test_cfg"]}).eval()
    maps = empty_maps()
    put(maps, 0, 0, 0, 1, [0, 0, 0, 0, -1.5, 5.0, -9, -9])  # an objectness of 0.18
    put(maps, 1, 0, 0, 1, [0, 0, 0, 0, -1.3, -9, 1.0, -9])  # 0.21
    found = head.predict_by_feat(maps)[0]
    assert found.labels.tolist() == [1]
    maps[1].fill_(-9)
    assert len(head.predict_by_feat(maps)[0]) == 0


# -- parts --------------------------------------------------------------------------------------------


def test_anchors_are_in_the_middle_of_their_cells():
    grid = YOLOAnchorGenerator(list(STRIDES), SIZES).grid_priors(MAPS)
    assert [len(level) for level in grid] == [12, 48, 192]
    assert grid[1].view(4, 6, 2, 4)[2, 3, 1].tolist() == [56 - 6, 40 - 15, 56 + 6, 40 + 15]
    with pytest.raises(ValueError, match="base_sizes of 1 levels for 3 strides"):
        YOLOAnchorGenerator(list(STRIDES), SIZES[:1])


def test_decoding_undoes_encoding_within_a_cell():
    anchors = torch.tensor([[48.0, 35, 64, 45], [48, 35, 64, 45], [0, 0, 16, 16]])
    boxes = torch.tensor([[50.0, 30, 60, 52], [55, 33, 71, 41], [1, 1, 4, 30]])
    coder = YOLOBBoxCoder()
    encoded = coder.encode(anchors, boxes, 16)
    assert encoded[0].tolist() == pytest.approx([0.4375, 0.5625, math.log(10 / 16), math.log(2.2)])
    torch.testing.assert_close(coder.decode(anchors, encoded, torch.full((3, 1), 16.0)), boxes)


def test_what_is_encoded_stays_within_the_cell_and_finite():
    anchor = torch.tensor([[0.0, 0, 16, 16]])
    encoded = YOLOBBoxCoder(eps=0.01).encode(anchor, torch.tensor([[90.0, -50, 90, -40]]), 16)
    assert encoded.tolist()[0] == pytest.approx([0.99, 0.01, math.log(0.01), math.log(10 / 16)])


def test_the_head_starts_with_eight_objects_a_level_and_rare_classes():
    head = MODELS.build(config()["bbox_head"])
    head.init_weights()
    for conv, stride in zip(head.convs_pred, STRIDES, strict=True):
        start = conv.bias.view(2, 8).sigmoid()
        torch.testing.assert_close(start[:, 4], torch.full((2,), 8 / (608 / stride) ** 2))
        torch.testing.assert_close(start[:, 5:], torch.full((2, 3), 0.01))
        assert float(conv.weight.detach().std()) < 0.02
    assert conv.bias.requires_grad


def test_the_neck_goes_from_the_coarsest_map_to_the_finest():
    neck = YOLOV3Neck(3, [64, 32, 16], [16, 8, 4]).eval()
    maps = [torch.rand(1, c, 32 // s, 48 // s) for c, s in ((16, 1), (32, 2), (64, 4))]
    outs = neck(maps)
    assert [tuple(each.shape[1:]) for each in outs] == [(16, 8, 12), (8, 16, 24), (4, 32, 48)]
    enlarged = neck.conv1(outs[0]).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(outs[1], neck.detect2(torch.cat((enlarged, maps[1]), 1)))
    changed = neck([maps[0] + 1, *maps[1:]])
    assert [torch.equal(*pair) for pair in zip(outs, changed, strict=True)] == [True, True, False]


def test_the_check_of_configs_knows_the_necks_order():
    name = "detcore::yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py"
    cfg = Config.fromfile(name, cfg_options={"model.neck.in_channels": [32, 96, 320]})
    found = [str(each) for each in errors_among(check_config(cfg, options=CheckOptions(files=False)))]
    assert len(found) == 1
    assert "model.neck.in_channels: [32, 96, 320], but model.backbone (MobileNetV2) gives" in found[0]
    assert "write in_channels=[320, 96, 32]" in found[0]


def test_what_they_cannot_do_is_said():
    with pytest.raises(ConfigError, match="num_scales is 3, so there are as many in_channels"):
        YOLOV3Neck(3, [64, 32], [16, 8])
    with pytest.raises(ConfigError, match=r"coarsest map on, is \[16, 32, 64\].* gives \[64, 32, 16\]"):
        MODELS.build({**config(), "neck": {**config()["neck"], "in_channels": [16, 32, 64]}})
    with pytest.raises(ValueError, match="YOLOV3Neck for 3 maps got 2"):
        YOLOV3Neck(3, [8, 8, 8], [8, 8, 8])([torch.rand(1, 8, 4, 4)] * 2)
    with pytest.raises(ValueError, match="anchors of 3 levels need as many in_channels"):
        YOLOV3Head(3, [8, 8])
    with pytest.raises(ValueError, match="equally many anchors a cell"):
        YOLOV3Head(3, [8, 8], [8, 8], YOLOAnchorGenerator([16, 8], [SIZES[0], SIZES[1][:1]]), None, [16, 8])
    with pytest.raises(ValueError, match="one_hot_smoother is a part, 0 to below 1, got 1"):
        YOLOV3Head(3, [8, 8, 8], one_hot_smoother=1)


def test_it_is_two_classes_above_its_parts():
    for component in (YOLOV3, YOLOV3Head):
        ours = [cls for cls in component.__mro__[1:] if cls.__module__.startswith(("det_models", "detcore"))]
        assert len(ours) <= 2, ours


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize("record", ["yolo/yolov3_d53_8xb8-320", "yolo/yolov3_mobilenetv2"])
def test_the_recorded_detector_passes(record, shared, root):
    check = [sys.executable, str(shared("golden/check.py")), "--configs", str(root / "configs"), record]
    done = subprocess.run(check, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.strip().endswith("1 passed, 0 failed"), done.stdout + done.stderr
