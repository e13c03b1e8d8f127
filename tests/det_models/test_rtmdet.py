"""RTMDet: its losses and boxes against a computation by hand, a cell at a time."""

import copy
import math
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from det_models.anchors import AnchorGenerator
from det_models.dense_targets import regressed_rows
from det_models.dynamic_soft_label import DynamicSoftLabelAssigner
from det_models.points import MlvlPointGenerator
from det_models.rtmdet import RTMDet, RTMDetHead, RTMDetSepBNHead
from det_models.rtmdet_ins import RTMDetInsHead, RTMDetInsSepBNHead
from det_models.rtmdet_layers import geometric_mean_logit

from detcore.config import Config, shipped_configs
from detcore.registry import DATASETS, MODELS
from detcore.structures import InstanceData
from detcore.structures.bbox import bbox_overlaps
from detcore.testing import tiny_coco

BOXES = [[10.0, 12.0, 50.0, 60.0], [20.0, 30.0, 90.0, 60.0]]
STRIDES = (8, 16, 32)
# Parameters of the reference's detectors.
COUNTS = {
    "rtmdet-ins_m_8xb32-300e_coco.py": 27575111,
    "rtmdet-ins_tiny_8xb32-300e_coco.py": 5638187,
    "rtmdet_l_8xb32-300e_coco.py": 52315804,
    "rtmdet_l_convnext_b_4xb32-100e_coco.py": 113744892,
    "rtmdet_l_swin_b_4xb32-100e_coco.py": 113057012,
    "rtmdet_m_8xb32-300e_coco.py": 24709188,
    "rtmdet_tiny_8xb32-300e_coco.py": 4896168,
    "rtmdet_x_p6_4xb8-300e_coco.py": 152528936,
}
GROUPS = {"type": "GN", "num_groups": 4}
HEADS = {
    "exponential": {"exp_on_reg": True},
    "plain": {},
    "objectness": {"with_objectness": True, "exp_on_reg": True},
    "depthwise": {"use_depthwise": True, "exp_on_reg": True},
    "shared": {"type": "RTMDetHead", "with_objectness": True, "norm_cfg": GROUPS},
}


@pytest.fixture
def make(fill_by_name):
    """``make(kind of head, **arguments of the head)``: an RTMDet of a few thousand weights, three classes."""

    def small(kind="exponential", **head):
        cfg = Config.fromfile("detcore::rtmdet/rtmdet_tiny_8xb32-300e_coco.py").model
        cfg.backbone.update(widen_factor=0.125, norm_eval=True, init_cfg=None, norm_cfg={"type": "BN"})
        cfg.neck.update(in_channels="auto", out_channels=16, norm_cfg={"type": "BN"})
        cfg.bbox_head.update(num_classes=3, in_channels=16, feat_channels=16, stacked_convs=1)
        cfg.bbox_head.update({"norm_cfg": {"type": "BN"}, **HEADS[kind], **head})
        if "type" in HEADS[kind]:
            del cfg.bbox_head["share_conv"], cfg.bbox_head["exp_on_reg"]
        return fill_by_name(MODELS.build(cfg))

    return small


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def samples(make_sample):
    return [make_sample(64, 96, BOXES, [0, 2]), make_sample(64, 96, BOXES[:1], [1])]


def cells(outputs, image):
    """Level, class logits, and box as the distances mean it, of every cell of an image."""
    for level, stride in enumerate(STRIDES):
        height, width = outputs[0][level].shape[-2:]
        for row in range(height):
            for column in range(width):
                logits, distances = (part[level][image, :, row, column].detach() for part in outputs)
                left, top, right, bottom = distances.tolist()
                x, y = column * stride, row * stride
                yield level, logits, [x - left, y - top, x + right, y + bottom], (x, y, stride, stride)


def focal_entropy(y, p):
    return -((y - p) ** 2) * (y * math.log(p) + (1 - y) * math.log(1 - p))


def run(model, images, samples):
    """Losses by name, and the gradient of their sum by every parameter of the head."""
    model.zero_grad()
    losses = model(images, copy.deepcopy(samples), mode="loss")
    sum(part for each in losses.values() for part in each).backward()
    grads = {name: p.grad.clone() for name, p in model.bbox_head.named_parameters()}
    return {name: torch.stack(each).detach() for name, each in losses.items()}, grads


@pytest.mark.parametrize("kind", HEADS)
def test_losses_are_those_of_a_computation_by_hand(kind, make, images, samples):
    model = make(kind)
    outputs = model.bbox_head(model.extract_feat(images))
    want, total, num_objects = {"loss_cls": [0.0] * 3, "loss_bbox": [0.0] * 3}, 0.0, 0
    for number, sample in enumerate(samples):
        every = list(cells(outputs, number))
        truth = list(
            zip(sample.gt_instances.bboxes, sample.gt_instances.labels.tolist(), strict=True)
        )
        boxes = torch.tensor([box for _, _, box, _ in every])
        predicted = InstanceData(
            priors=torch.tensor([point for *_, point in every], dtype=torch.float32),
            bboxes=boxes,
            scores=torch.stack([logits for _, logits, _, _ in every]),
        )
        matches = DynamicSoftLabelAssigner(topk=13).assign(predicted, sample.gt_instances).gt_inds.tolist()
        for (level, logits, _, _), box, match in zip(every, boxes, matches, strict=True):
            overlap, label = 0.0, 3
            if match:
                gt, label = truth[match - 1]
                overlap, giou = (
                    float(bbox_overlaps(box[None], gt[None], mode=mode, is_aligned=True))
                    for mode in ("iou", "giou")
                )
                num_objects += 1
                total += overlap
                want["loss_bbox"][level] += 2 * overlap * (1 - giou)
            for k, p in enumerate(logits.double().sigmoid().tolist()):
                want["loss_cls"][level] += focal_entropy(overlap * (k == label), p)
    assert num_objects >= 2
    losses = model(images, samples, mode="loss")
    assert set(losses) == set(want)
    for name, found in losses.items():
        expected = [each / max(total, 1) for each in want[name]]
        assert [float(each.detach()) for each in found] == pytest.approx(expected, rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize("numbers", [(0, 0), (2, 0)], ids=["none", "one_image"])
def test_images_without_objects_are_all_background(numbers, make, images, make_sample):
    samples = [make_sample(64, 96, BOXES[:number], [0, 2][:number]) for number in numbers]
    losses, gradients = run(make(), images, samples)
    assert (losses["loss_cls"] > 0).all()
    assert (losses["loss_bbox"].sum() > 0) == any(numbers)
    assert all(gradient.isfinite().all() for gradient in gradients.values())


@pytest.mark.parametrize("kind", HEADS)
def test_every_parameter_of_the_head_learns(kind, make, images, samples):
    model = make(kind)
    _, gradients = run(model, images, samples)
    # Boxes and their towers need an object on the level, which these images do not have on all.
    idle = [name for name, gradient in gradients.items() if not gradient.any()]
    assert all("reg" in name or "scale" in name for name in idle), idle
    assert any("reg" in name for name in set(gradients) - set(idle))


def test_all_rows_with_weight_zero_are_the_same_loss_as_the_few_with_an_object(
    make, images, samples, monkeypatch
):
    """What a device does, where the number of positives would have to be waited for."""
    model = make()
    want = run(model, images, samples)
    monkeypatch.setattr("det_models.rtmdet_losses.regressed_rows", partial(regressed_rows, every=True))
    torch.testing.assert_close(run(model, images, samples), want, rtol=1e-4, atol=1e-5)


def test_losses_are_averaged_over_the_overlaps_of_all_ranks(make, images, samples, monkeypatch):
    model = make()
    want, _ = run(model, images, samples)
    found = []
    distributed = torch.distributed
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)

    def all_reduce(value):  # the other rank has 39 times ours: together more than one in any case
        found.append(value.clone())
        value.mul_(40)

    monkeypatch.setattr(distributed, "all_reduce", all_reduce)
    got, _ = run(model, images, samples)
    ratio = float((found[0] * 20).clamp(min=1) / found[0].clamp(min=1))
    assert ratio > 1
    torch.testing.assert_close(got, {name: value / ratio for name, value in want.items()})


def test_cells_on_padding_neither_answer_nor_count(make, make_sample):
    model = make()
    model.backbone.eval()
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    samples = [make_sample(64, 96, BOXES, [0, 2]), make_sample(64, 96, BOXES[:1], [1])]
    whole = run(model, images, samples)[0]["loss_cls"]
    samples[1].set_metainfo({"pad_shape": (32, 32)})
    assert (run(model, images, samples)[0]["loss_cls"] != whole).all()
    head, truth = model.bbox_head, samples[1].gt_instances
    scores, boxes = head(model.extract_feat(images[1:]))
    heavy = [
        score + 30 * (torch.arange(score.shape[-1]) * stride >= 32)
        for score, stride in zip(scores, STRIDES, strict=True)
    ]
    metas = [samples[1].metainfo]
    light = head.loss_by_feat(scores, boxes, [truth], metas)["loss_cls"]
    torch.testing.assert_close(head.loss_by_feat(heavy, boxes, [truth], metas)["loss_cls"], light)


def test_boxes_are_distances_from_the_corners_of_cells(make):
    head = make("exponential").bbox_head.eval()
    scores = [torch.full((1, 3, *size), -9.0) for size in ((8, 12), (4, 6), (2, 3))]
    boxes = [torch.ones(1, 4, *score.shape[2:]) for score in scores]
    scores[0][0, 1, 3, 5] = 2.0
    boxes[0][0, :, 3, 5] = torch.tensor([4.0, 8.0, 16.0, 80.0])
    found = head.predict_by_feat(scores, boxes, batch_img_metas=[{"img_shape": (64, 96)}])[0]
    assert found.labels.tolist() == [1]
    assert found.bboxes.tolist() == [[36, 16, 56, 64]]  # cut to the picture
    with torch.no_grad():
        for conv in head.rtm_reg:
            conv.weight.zero_()
            conv.bias.fill_(math.log(2))
    maps = [torch.zeros(1, 16, *size) for size in ((8, 12), (4, 6), (2, 3))]
    for stride, distances in zip(STRIDES, head(maps)[1], strict=True):
        torch.testing.assert_close(distances, torch.full_like(distances, 2.0 * stride))


def test_a_class_and_an_object_together_score_the_root_of_their_product():
    first, second = torch.tensor([[-3.0, 0.5, 2.0]]), torch.tensor([[1.0, -2.0, 4.0]])
    got = geometric_mean_logit(first.requires_grad_(), second)
    torch.testing.assert_close(got.sigmoid(), (first.sigmoid() * second.sigmoid()).sqrt())
    extreme = torch.tensor([-200.0, 200.0], requires_grad=True)
    logit = geometric_mean_logit(extreme, extreme)
    logit.sum().backward()
    assert logit.isfinite().all()
    assert extreme.grad.isfinite().all()


@pytest.mark.parametrize("depthwise", [False, True])
def test_levels_share_convolutions_but_no_norms(depthwise):
    head = RTMDetSepBNHead(3, 8, feat_channels=8, stacked_convs=2, use_depthwise=depthwise)
    alone = RTMDetSepBNHead(3, 8, feat_channels=8, stacked_convs=2, use_depthwise=depthwise, share_conv=False)
    assert list(head.state_dict()) == list(alone.state_dict())  # checkpoints hold the shared ones three times
    for towers in (head.cls_convs, head.reg_convs):
        weights = [dict(tower.named_parameters()) for tower in towers]
        for name, weight in weights[0].items():
            assert (weights[1][name] is weight) == (weights[2][name] is weight) == (".bn." not in name), name
    assert len(list(alone.parameters())) > len(list(head.parameters()))


def test_heads_start_with_rare_classes_and_objects():
    for head in (
        RTMDetHead(4, 8, feat_channels=8, stacked_convs=1, norm_cfg=GROUPS),
        RTMDetSepBNHead(4, 8, feat_channels=8, stacked_convs=1),
    ):
        torch.manual_seed(0)
        head.init_weights()
        for name, parameter in head.named_parameters():
            if name.startswith(("rtm_cls", "rtm_obj")) and name.endswith("bias"):
                torch.testing.assert_close(parameter.sigmoid(), torch.full_like(parameter, 0.01))
            elif parameter.ndim == 4:
                assert parameter.std() < 0.015, name


def test_what_it_cannot_do_is_said():
    with pytest.raises(ValueError, match="RTMDetHead takes one point a cell"):
        RTMDetHead(3, 8, anchor_generator=AnchorGenerator([8, 16], ratios=[1.0], scales=[8]))
    with pytest.raises(ValueError, match="2 feature maps for a head of 3 levels"):
        RTMDetSepBNHead(3, 8, feat_channels=8)([torch.zeros(1, 8, 8, 8)] * 2)
    assert RTMDetHead(3, 8, anchor_generator=MlvlPointGenerator([4, 8])).strides == [4, 8]


def test_batch_norms_see_all_gpus_only_where_there_are_several(make, monkeypatch):
    kinds = {type(m).__name__ for m in make().modules()}
    assert "SyncBatchNorm" not in kinds
    monkeypatch.setattr("det_models.rtmdet._on_several_gpus", lambda: True)
    kinds = {type(m).__name__ for m in make().modules()}
    assert "SyncBatchNorm" in kinds
    assert "BatchNorm2d" not in kinds


@pytest.mark.parametrize("kind", [RTMDet, RTMDetHead, RTMDetSepBNHead, RTMDetInsHead, RTMDetInsSepBNHead])
def test_there_are_two_classes_above_each_component(kind):
    ours = [cls for cls in kind.__mro__[1:] if cls.__module__.startswith(("det_models", "detcore"))]
    assert len(ours) <= 2, ours


SHIPPED = sorted(path.name for path in (shipped_configs() / "rtmdet").glob("rtmdet*_coco.py"))


@pytest.mark.parametrize("name", SHIPPED)
def test_every_config_builds_with_the_reference_s_parameters(name):
    with torch.device("meta"):  # sizes without memory: nothing is filled
        model = MODELS.build(Config.fromfile(f"detcore::rtmdet/{name}").model)
    parameters = sum(each.numel() for each in model.parameters())
    assert COUNTS.get(name, parameters) == parameters
    assert {*COUNTS} <= {*SHIPPED}
    assert len(SHIPPED) == 14


@pytest.mark.parametrize("name", ["rtmdet_s_8xb32-300e_coco.py", "rtmdet-ins_s_8xb32-300e_coco.py"])
def test_the_shipped_pipelines_mix_pictures_to_one_size(name, tmp_path):
    cfg = Config.fromfile(f"detcore::rtmdet/{name}")
    data = {
        "ann_file": str(tiny_coco(tmp_path)), "data_root": "", "data_prefix": {"img": f"{tmp_path}/images/"},
        "metainfo": {"classes": ("circle", "square", "triangle", "star", "ring")},
    }  # fmt: skip
    np.random.seed(0)
    for pipeline in (cfg.train_pipeline, cfg.train_pipeline_stage2):
        images = DATASETS.build({**cfg.train_dataloader.dataset, **data, "pipeline": pipeline})
        for _ in range(3):  # fills the caches
            samples = [images[number] for number in range(len(images))]
        for sample in samples:
            assert tuple(sample["inputs"].shape) == (3, 640, 640)
            truth = sample["data_samples"].gt_instances
            if "-ins" in name:
                assert (len(truth.masks), truth.masks.height, truth.masks.width) == (len(truth), 640, 640)


@pytest.mark.shared
@pytest.mark.slow
def test_the_recorded_detectors_pass(shared, root):
    check = [sys.executable, str(shared("golden/check.py")), "--configs", str(root / "configs")]
    done = subprocess.run(
        [*check, "rtmdet/"], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout.strip().endswith("2 passed, 0 failed"), done.stdout + done.stderr
