"""YOLOX: its losses and boxes against a computation by hand, a cell at a time."""

import copy
import math
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from det_models.dense_targets import regressed_rows
from det_models.simota import SimOTAAssigner
from det_models.yolox import YOLOX, CellBBoxCoder, YOLOXHead

from detcore.config import Config, shipped_configs
from detcore.registry import DATASETS, MODELS
from detcore.structures import InstanceData
from detcore.structures.bbox import bbox_overlaps
from detcore.testing import tiny_coco

BOXES = [[10.0, 12.0, 50.0, 60.0], [20.0, 30.0, 90.0, 60.0]]
STRIDES = (8, 16, 32)
# Parameters of the reference's detectors.
COUNTS = {"nano": 912159, "tiny": 5055855, "l": 54208895}


@pytest.fixture
def make(fill_by_name):
    """``make(**arguments of the head)``: a YOLOX of a few thousand weights for three classes."""

    def small(test_cfg=None, **head):
        cfg = Config.fromfile("detcore::yolox/yolox_nano_8xb8-300e_coco.py").model
        cfg.data_preprocessor.batch_augments = None
        cfg.backbone.update(widen_factor=0.125, norm_eval=True)
        cfg.neck.update(in_channels="auto", out_channels=16)
        cfg.bbox_head.update(num_classes=3, in_channels=16, feat_channels=16, **head)
        cfg.test_cfg.update(test_cfg or {})
        return fill_by_name(MODELS.build(cfg))

    return small


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def samples(make_sample):
    return [make_sample(64, 96, BOXES, [0, 2]), make_sample(64, 96, BOXES[:1], [1])]


def box_of(numbers, column, row, stride):
    """The box that the network's four numbers mean at a cell."""
    a, b, c, d = numbers
    x, y = (column + a) * stride, (row + b) * stride
    width, height = stride * math.exp(c), stride * math.exp(d)
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def cells(outputs, image):
    """Class logits, box numbers, objectness, column, row, stride of every cell of an image."""
    for level, stride in enumerate(STRIDES):
        height, width = outputs[0][level].shape[-2:]
        for row in range(height):
            for column in range(width):
                logits, numbers, objectness = (
                    part[level][image, :, row, column].detach() for part in outputs
                )
                yield logits, numbers.tolist(), float(objectness), column, row, stride


def cross_entropy(logit, target):
    return math.log1p(math.exp(logit)) - target * logit


@pytest.mark.parametrize("use_l1", [False, True])
def test_losses_are_those_of_a_computation_by_hand(make, images, samples, use_l1):
    model = make()
    model.bbox_head.use_l1 = use_l1
    outputs = model.bbox_head(model.extract_feat(images))
    want = dict.fromkeys(("loss_cls", "loss_bbox", "loss_obj", *(["loss_l1"] if use_l1 else [])), 0.0)
    num_objects = 0
    for number, sample in enumerate(samples):
        every = list(cells(outputs, number))
        priors = torch.tensor([[(c + 0.5) * s, (r + 0.5) * s, s, s] for *_, c, r, s in every])
        boxes = torch.tensor([box_of(numbers, c, r, s) for _, numbers, _, c, r, s in every])
        scores = torch.stack([(each[0].sigmoid() * torch.tensor(each[2]).sigmoid()).sqrt() for each in every])
        predicted = InstanceData(priors=priors, bboxes=boxes, scores=scores)
        matches = SimOTAAssigner().assign(predicted, sample.gt_instances).gt_inds.tolist()
        for box, match, (logits, numbers, objectness, column, row, stride) in zip(
            boxes, matches, every, strict=True
        ):
            want["loss_obj"] += cross_entropy(objectness, float(match > 0))
            if not match:
                continue
            num_objects += 1
            gt, label = (
                sample.gt_instances.bboxes[match - 1],
                int(sample.gt_instances.labels[match - 1]),
            )
            overlap = float(bbox_overlaps(box[None], gt[None], is_aligned=True))
            want["loss_bbox"] += 5 * (1 - overlap**2)
            for k, logit in enumerate(logits.tolist()):
                want["loss_cls"] += cross_entropy(logit, overlap * (k == label))
            if use_l1:
                x1, y1, x2, y2 = gt.tolist()
                ideal = [(x1 + x2) / 2 / stride - column, (y1 + y2) / 2 / stride - row]
                ideal += [math.log((x2 - x1) / stride), math.log((y2 - y1) / stride)]
                want["loss_l1"] += sum(abs(got - sought) for got, sought in zip(numbers, ideal, strict=True))
    assert num_objects >= 3
    losses = model(images, samples, mode="loss")
    assert set(losses) == set(want)
    for name, value in losses.items():
        assert float(value.detach()) == pytest.approx(want[name] / num_objects, rel=1e-4), name


@pytest.mark.parametrize("numbers", [(0, 0), (2, 0)], ids=["none", "one_image"])
def test_images_without_objects_are_all_background(numbers, make, images, make_sample):
    samples = [make_sample(64, 96, BOXES[:number], [0, 2][:number]) for number in numbers]
    model = make()
    model.bbox_head.use_l1 = True
    losses = model(images, samples, mode="loss")
    sum(losses.values()).backward()
    assert losses["loss_obj"] > 0
    assert all((losses[name] > 0) == any(numbers) for name in ("loss_cls", "loss_bbox", "loss_l1")), losses
    assert all(p.grad.isfinite().all() for p in model.bbox_head.parameters())


def test_every_parameter_of_the_head_learns(make, images, samples):
    model = make()
    sum(model(images, samples, mode="loss").values()).backward()
    # A level's layers of classes and boxes need an object there; these are for all three.
    idle = [name for name, p in model.bbox_head.named_parameters() if p.grad is None or not p.grad.any()]
    assert all(".2." in name or ".1." in name for name in idle), idle


def test_all_rows_with_weight_zero_are_the_same_loss_as_the_few_with_an_object(
    make, images, samples, monkeypatch
):
    """What a device does, where the number of positives would have to be waited for."""
    model = make()
    model.bbox_head.use_l1 = True
    with torch.no_grad():  # numbers whose exponential overflows somewhere
        model.bbox_head.multi_level_conv_reg[0].weight.mul_(400)

    def run():
        model.zero_grad()
        losses = model(images, copy.deepcopy(samples), mode="loss")
        sum(losses.values()).backward()
        return {**losses, **{name: p.grad.clone() for name, p in model.bbox_head.named_parameters()}}

    want = run()
    assert all(each.isfinite().all() for each in want.values())
    monkeypatch.setattr("det_models.yolox.regressed_rows", partial(regressed_rows, every=True))
    torch.testing.assert_close(run(), want, rtol=1e-4, atol=1e-5)


def test_losses_are_averaged_over_the_objects_of_all_ranks(make, images, samples, monkeypatch):
    model = make()
    want = model(images, samples, mode="loss")
    distributed = torch.distributed
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_reduce", lambda value: value.mul_(4))  # the other has thrice ours
    got = model(images, samples, mode="loss")
    torch.testing.assert_close(got, {name: value / 2 for name, value in want.items()})


def test_a_cell_gives_the_box_of_its_best_class_where_the_score_is_enough(make):
    head = make(test_cfg={"score_thr": 0.2}).bbox_head.eval()
    scores = [torch.full((1, 3, *size), -9.0) for size in ((8, 12), (4, 6), (2, 3))]
    boxes = [torch.zeros(1, 4, *level.shape[2:]) for level in scores]
    objects = [torch.full((1, 1, *level.shape[2:]), 9.0) for level in scores]
    scores[0][0, :, 3, 5] = torch.tensor([1.0, 2.0, 1.5])
    boxes[0][0, :, 3, 5] = torch.tensor([0.5, 0.25, math.log(2), math.log(3)])
    scores[1][0, 2, 1, 1], objects[1][0, 0, 1, 1] = 2.0, -2.0  # a class, but no object: below the threshold
    found = head.predict_by_feat(scores, boxes, objects, with_nms=False)[0]
    assert found.labels.tolist() == [1]
    x, y = 5.5 * 8, 3.25 * 8
    assert found.bboxes[0].tolist() == pytest.approx([x - 8, y - 12, x + 8, y + 12])
    assert float(found.scores) == pytest.approx(1 / (1 + math.exp(-2)) / (1 + math.exp(-9)), rel=1e-5)
    metas = [{"scale_factor": (2.0, 4.0)}]
    rescaled = head.predict_by_feat(scores, boxes, objects, metas, rescale=True, with_nms=False)[0]
    assert rescaled.bboxes[0].tolist() == pytest.approx(
        [(x - 8) / 2, (y - 12) / 4, (x + 8) / 2, (y + 12) / 4]
    )


def test_encoding_and_decoding_undo_one_another():
    cells = torch.tensor([[8.0, 16.0, 16.0, 24.0], [64.0, 0.0, 96.0, 32.0]])
    boxes = torch.tensor(BOXES)
    coder = CellBBoxCoder()
    torch.testing.assert_close(coder.decode(cells, coder.encode(cells, boxes)), boxes)
    assert coder.decode(cells, coder.encode(cells, boxes), max_shape=(40, 60))[1].tolist() == [20, 30, 60, 40]


def test_the_head_starts_with_rare_classes_and_objects():
    head = YOLOXHead(4, 8, feat_channels=8, stacked_convs=1)
    head.init_weights()
    for conv in (*head.multi_level_conv_cls, *head.multi_level_conv_obj):
        torch.testing.assert_close(conv.bias.sigmoid(), torch.full_like(conv.bias, 0.01))


def test_what_it_cannot_do_is_said():
    with pytest.raises(ValueError, match=r"loss_bbox.reduction must be 'sum', got 'mean'"):
        YOLOXHead(3, 8, loss_bbox=MODELS.build({"type": "IoULoss"}))
    with pytest.raises(ValueError, match="2 feature maps for 3 strides"):
        YOLOXHead(3, 8, feat_channels=8)([torch.zeros(1, 8, 8, 8)] * 2)


def test_it_is_two_classes_above_its_parts():
    for component in (YOLOX, YOLOXHead):
        ours = [cls for cls in component.__mro__[1:] if cls.__module__.startswith(("det_models", "detcore"))]
        assert len(ours) <= 2, ours


SHIPPED = sorted(path.name for path in (shipped_configs() / "yolox").glob("yolox_*_coco.py"))


@pytest.mark.parametrize("name", SHIPPED)
def test_every_config_builds_with_the_reference_s_parameters(name):
    with torch.device("meta"):  # sizes without memory: nothing is filled
        model = MODELS.build(Config.fromfile(f"detcore::yolox/{name}").model)
    size = name.split("_")[1]
    parameters = sum(each.numel() for each in model.parameters())
    assert COUNTS.get(size, parameters) == parameters
    assert len(SHIPPED) == 6


def test_the_shipped_pipeline_mixes_pictures_to_one_size(tmp_path):
    shipped = Config.fromfile("detcore::yolox/yolox_s_8xb8-300e_coco.py").train_dataloader.dataset
    shipped.dataset.update(
        ann_file=str(tiny_coco(tmp_path)), data_root="", data_prefix={"img": f"{tmp_path}/images/"},
        metainfo={"classes": ("circle", "square", "triangle", "star", "ring")},
    )  # fmt: skip
    mixed = DATASETS.build(shipped)
    np.random.seed(0)
    found = [mixed[0] for _ in range(3)]
    assert [tuple(each["inputs"].shape) for each in found] == [(3, 640, 640)] * 3
    mixed.update_skip_type_keys(["Mosaic", "RandomAffine", "MixUp"])
    assert tuple(mixed[0]["inputs"].shape) == (3, 640, 640)
    instances = found[0]["data_samples"].gt_instances
    assert len(instances.labels) == len(instances.bboxes)


@pytest.mark.shared
@pytest.mark.slow
def test_the_recorded_detector_passes(shared, root):
    check = [sys.executable, str(shared("golden/check.py")), "--configs", str(root / "configs")]
    done = subprocess.run([*check, "yolox/"], capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.strip().endswith("1 passed, 0 failed"), done.stdout + done.stderr
