"""CenterNet: losses, predictions and targets against computations by hand; its configs and records."""

import copy
import math
import subprocess
import sys

import pytest
import torch
from det_models.centernet import CenterNet, CenterNetHead, CenterNetTestCfg
from det_models.heatmaps import gaussian_radius

from detcore.config import Config, shipped_configs
from detcore.registry import MODELS
from detcore.structures import InstanceData

BOXES = [[10.0, 12.0, 50.0, 60.0], [20.0, 30.0, 90.0, 60.0]]
COUNTS = {  # all parameters, and those that train, of the reference's
    "centernet-update_r101_fpn_8xb8-amp-lsj-200e_coco.py": [51285145, 51059801],
    "centernet-update_r18_fpn_8xb8-amp-lsj-200e_coco.py": [19273369, 19115865],
    "centernet-update_r50-caffe_fpn_ms-1x_coco.py": [32293017, 32017497],
    "centernet-update_r50_fpn_8xb8-amp-lsj-200e_coco.py": [32293017, 32067673],
    "centernet_r18-dcnv2_8xb16-crop512-140e_coco.py": [14436901, 14436901],
    "centernet_r18_8xb16-crop512-140e_coco.py": [14219092, 14219092],
}


@pytest.fixture
def small_centernet(fill_by_name, small_config):
    """``small_centernet(**head)``: of a few thousand weights, stride 4, 3 classes."""

    def make(use_dcn=False, **head):
        cfg = small_config()
        del cfg["train_cfg"]
        return fill_by_name(
            MODELS.build({
                **cfg,
                "type": "CenterNet",
                "neck": {
                    "type": "CTResNetNeck", "in_channels": 64, "num_deconv_filters": (16, 8, 8),
                    "num_deconv_kernels": (4, 4, 4), "use_dcn": use_dcn,
                },
                "bbox_head": {
                    "type": "CenterNetHead", "in_channels": 8, "feat_channels": 8, "num_classes": 3, **head
                },
                "test_cfg": {"topk": 20, "local_maximum_kernel": 3, "max_per_img": 20},
            })
        )  # fmt: skip

    return make


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def samples(make_sample):
    return [make_sample(64, 96, BOXES, [0, 2]), make_sample(64, 96, BOXES[:1], [1])]


def values(losses):
    return {name: float(value.detach()) for name, value in losses.items()}


def total(losses):
    return torch.stack(list(losses.values())).sum()


# -- training
# ---------------------------------------------------------------------------------------------------


def by_hand(outputs, samples, stride=4):
    """Losses from the definition, an object and a cell at a time; later objects take the cell of earlier."""
    heat, wh, offset = (each[0].detach() for each in outputs)
    target, wanted = torch.zeros_like(heat), {}
    for image, sample in enumerate(samples):
        for box, label in zip(sample.gt_instances.bboxes, sample.gt_instances.labels.tolist(), strict=True):
            x, y = ((box[:2] + box[2:]) / 2 / stride).tolist()
            w, h = ((box[2:] - box[:2]) / stride).tolist()
            r = int(gaussian_radius(torch.tensor([[w, h]]), 0.3))
            sigma = (2 * r + 1) / 6
            for row in range(heat.shape[2]):
                for column in range(heat.shape[3]):
                    d = (row - int(y)) ** 2 + (column - int(x)) ** 2
                    if max(abs(row - int(y)), abs(column - int(x))) <= r:
                        value = math.exp(-d / (2 * sigma**2))
                        target[image, label, row, column] = max(value, target[image, label, row, column])
            wanted[image, int(y), int(x)] = (w, h, x - int(x), y - int(y))
    number = max(1, int((target == 1).sum()))
    own = -((1 - heat) ** 2) * heat.log() * (target == 1)
    others = -((1 - target) ** 4) * heat**2 * (1 - heat).log()
    sums = [0.0, 0.0]
    for (image, row, column), (w, h, x, y) in wanted.items():
        sums[0] += sum(abs(a - b) for a, b in zip(wh[image, :, row, column].tolist(), (w, h), strict=True))
        sums[1] += sum(
            abs(a - b) for a, b in zip(offset[image, :, row, column].tolist(), (x, y), strict=True)
        )
    return {
        "loss_center_heatmap": float((own + others).sum()) / number,
        "loss_wh": 0.1 * sums[0] / number / 2,
        "loss_offset": sums[1] / number / 2,
    }


def test_losses_are_those_of_a_computation_by_hand(small_centernet, images, make_sample):
    same_cell = [[11.0, 13.0, 49.0, 59.0], *BOXES]
    samples = [make_sample(64, 96, same_cell, [1, 0, 2]), make_sample(64, 96, BOXES[:1], [1])]
    model = small_centernet()
    features = model.extract_feat(images)
    want = by_hand(model.bbox_head(features), samples)
    assert all(value > 0 for value in want.values())
    assert values(model.bbox_head.loss(features, samples)) == pytest.approx(want, rel=1e-4)


def test_the_later_of_two_objects_in_one_cell_is_learnt(small_centernet):
    head = small_centernet().bbox_head
    boxes = torch.tensor([[8.0, 8.0, 32.0, 32.0], [4.0, 12.0, 36.0, 28.0], [40.0, 8.0, 56.0, 24.0]])
    gt = InstanceData(bboxes=boxes, labels=torch.tensor([0, 0, 1]))
    targets = head.get_targets([gt, gt[:1]], (16, 24), (64, 96))
    assert targets.weights.tolist() == [0, 1, 1, 1]
    assert targets.cells.tolist() == [5 * 24 + 5, 5 * 24 + 5, 4 * 24 + 12, 5 * 24 + 5]
    assert targets.images.tolist() == [0, 0, 0, 1]
    assert targets.sizes.tolist() == [[6, 6], [8, 4], [4, 4], [6, 6]]
    assert int((targets.heatmap == 1).sum()) == 3


def test_an_object_whose_centre_is_off_the_picture_is_not_learnt(small_centernet):
    head = small_centernet().bbox_head
    boxes = torch.tensor([[80.0, 8.0, 94.0, 32.0], [90.0, 8.0, 120.0, 32.0], [-40.0, -3.0, 36.0, 1.0]])
    gt = InstanceData(bboxes=boxes, labels=torch.tensor([0, 0, 1]))
    targets = head.get_targets([gt], (16, 24), (64, 96))
    assert targets.weights.tolist() == [1, 0, 0]
    assert int((targets.heatmap == 1).sum()) == 1
    assert int(targets.cells.max()) < 16 * 24


@pytest.mark.parametrize("numbers", [(0, 0), (2, 0)], ids=["none", "one_image"])
def test_images_without_objects_are_all_background(numbers, small_centernet, images, make_sample):
    model = small_centernet()
    samples = [make_sample(64, 96, BOXES[:number], [0, 2][:number]) for number in numbers]
    losses = model(images, samples, mode="loss")
    assert losses["loss_center_heatmap"] > 0
    assert (losses["loss_wh"] > 0) == (losses["loss_offset"] > 0) == (sum(numbers) > 0)
    total(losses).backward()
    for name, parameter in model.bbox_head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("use_dcn", [False, True])
def test_every_parameter_learns(use_dcn, small_centernet, images, samples):
    model = small_centernet(use_dcn=use_dcn)
    total(model(images, samples, mode="loss")).backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and not p.grad.any()] == []


def test_crowds_are_background(small_centernet, images, samples):
    model = small_centernet()
    want = values(model(images, copy.deepcopy(samples), mode="loss"))
    samples[1].ignored_instances = InstanceData(bboxes=torch.tensor([[30.0, 20.0, 90.0, 60.0]]))
    assert values(model(images, samples, mode="loss")) == want


def test_the_order_of_the_batch_does_not_matter(small_centernet, images, samples):
    head = small_centernet().bbox_head
    maps = torch.randn(2, 8, 16, 24, generator=torch.Generator().manual_seed(1))
    one, other = values(head.loss([maps], samples)), values(head.loss([maps.flip(0)], samples[::-1]))
    assert one == pytest.approx(other, rel=1e-5)


def test_losses_are_averaged_over_the_objects_of_all_ranks(small_centernet, images, samples, monkeypatch):
    model = small_centernet()
    want = values(model(images, samples, mode="loss"))
    distributed = torch.distributed
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_reduce", lambda value: value.mul_(4))  # the other has thrice ours
    got = values(model(images, samples, mode="loss"))
    assert got == pytest.approx({name: value / 2 for name, value in want.items()})


def test_under_bf16_autocast_losses_are_float32_and_close(small_centernet, images, samples):
    model = small_centernet()
    want = values(model(images, samples, mode="loss"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(images, samples, mode="loss")
        found = model(images, samples, mode="predict")[0].pred_instances
    assert all(value.dtype == torch.float32 for value in losses.values())
    assert values(losses) == pytest.approx(want, rel=0.1, abs=0.05)
    assert found.bboxes.dtype == found.scores.dtype == torch.float32


def test_a_label_that_is_no_class_is_named(small_centernet, images, make_sample):
    samples = [make_sample(64, 96, BOXES[:1], [3]), make_sample(64, 96, [], [])]
    with pytest.raises(ValueError, match=r"labels \[3\], but the head has num_classes=3"):
        small_centernet()(images, samples, mode="loss")


# -- prediction
# ---------------------------------------------------------------------------------------------------


def planted(peaks, shape=(2, 3, 16, 24)):
    """Maps of stride 4 with peaks of (image, class, row, column, score, (w, h), (x, y))."""
    heat, sizes, offsets = torch.full(shape, 0.01), *(torch.zeros(shape[0], 2, *shape[2:]) for _ in range(2))
    for image, label, row, column, score, size, place in peaks:
        heat[image, label, row, column] = score
        sizes[image, :, row, column] = torch.tensor(size)
        offsets[image, :, row, column] = torch.tensor(place)
    return [heat], [sizes], [offsets]


PEAKS = [
    (0, 1, 4, 6, 0.9, (2.0, 3.0), (0.5, 0.25)),
    (0, 1, 4, 7, 0.8, (9.0, 9.0), (0.0, 0.0)),  # beside a greater one
    (0, 2, 10, 20, 0.7, (4.0, 2.0), (0.0, 0.5)),
    (1, 0, 15, 0, 0.6, (1.0, 1.0), (0.75, 0.0)),
]


def predicted(head, metas, number, **settings):
    found = head.predict_by_feat(*planted(PEAKS), batch_img_metas=metas, **settings)
    return [(each.bboxes[:n].tolist(), each.scores[:n], each.labels[:n].tolist())
            for each, n in zip(found, number, strict=True)]  # fmt: skip


def test_objects_are_the_local_maxima_in_pixels(small_centernet):
    head, metas = small_centernet().bbox_head, [{"batch_input_shape": (64, 96)}] * 2
    (boxes, scores, labels), (other_boxes, _, other_labels) = predicted(head, metas, (2, 1))
    assert boxes == [[22, 11, 30, 23], [72, 38, 88, 46]]
    assert scores.tolist() == pytest.approx([0.9, 0.7])
    assert (labels, other_labels) == ([1, 2], [0])
    assert other_boxes == [[1, 58, 5, 62]]


def test_the_canvas_and_the_scale_are_taken_back(small_centernet):
    head = small_centernet().bbox_head
    metas = [
        {"batch_input_shape": (64, 96), "border": (3, 60, 5, 90), "scale_factor": (2.0, 4.0)},
        {"batch_input_shape": (64, 96)},
    ]
    (boxes, *_), (other, *_) = predicted(head, metas, (1, 1))
    assert boxes == [[(22 - 5) / 2, (11 - 3) / 4, (30 - 5) / 2, (23 - 3) / 4]]
    assert other == [[1, 58, 5, 62]]
    (boxes, *_), _ = predicted(head, metas, (1, 1), rescale=False)
    assert boxes == [[22 - 5, 11 - 3, 30 - 5, 23 - 3]]


def test_so_many_objects_as_the_settings_say_and_doubles_suppressed_where_asked(small_centernet):
    head = small_centernet().bbox_head
    head.test_cfg.topk = 7
    metas = [{"batch_input_shape": (64, 96)}] * 2
    assert [len(each) for each in head.predict_by_feat(*planted(PEAKS), metas)] == [7, 7]
    double = [(0, 1, 4, 6, 0.9, (8.0, 8.0), (0.0, 0.0)), (0, 1, 4, 8, 0.8, (8.0, 8.0), (-1.5, 0.0))]
    cfg = CenterNetTestCfg(topk=2, nms={"type": "nms", "iou_threshold": 0.5})
    for with_nms, number in ((False, 2), (True, 1)):
        found = head.predict_by_feat(*planted(double), metas, with_nms=with_nms, cfg=cfg)
        assert len(found[0]) == number


def test_one_map_is_expected(small_centernet, samples):
    head = small_centernet().bbox_head
    with pytest.raises(ValueError, match="predicts on one map, got 2"):
        head.loss([torch.rand(2, 8, 4, 4)] * 2, samples)
    with pytest.raises(ValueError, match="has no batch_input_shape in its metainfo"):
        head.predict_by_feat(*planted(PEAKS), [{}, {}])


# -- building
# ---------------------------------------------------------------------------------------------------


def test_the_head_starts_with_a_tenth_and_small_sizes():
    head = CenterNetHead(8, 8, 3)
    head.init_weights()
    with torch.no_grad():
        heat, sizes, offsets = (each[0] for each in head([torch.zeros(1, 8, 4, 4)]))
    assert float(head.heatmap_head[-1].bias.detach().sigmoid().mean()) == pytest.approx(0.1)
    assert not sizes.any()
    assert not offsets.any()
    assert heat.shape == (1, 3, 4, 4)
    assert 0 < float(head.wh_head[0].weight.detach().std()) < 0.002
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        CenterNetHead(8, 8, 0)


def test_it_is_two_classes_above_its_parts():
    for component in (CenterNet, CenterNetHead):
        ours = [cls for cls in component.__mro__[1:] if cls.__module__.startswith(("det_models", "detcore"))]
        assert len(ours) <= 2, ours


def test_every_config_is_counted():
    files = {path.name for path in (shipped_configs() / "centernet").glob("*.py")}
    assert files == {*COUNTS, "centernet_tta.py"}


@pytest.mark.parametrize("name", COUNTS)
def test_as_many_parameters_as_the_reference(name):
    with torch.device("meta"):  # sizes without memory: nothing is filled
        model = MODELS.build(Config.fromfile(f"detcore::centernet/{name}").model)
    parameters = list(model.parameters())
    trainable = sum(each.numel() for each in parameters if each.requires_grad)
    assert [sum(each.numel() for each in parameters), trainable] == COUNTS[name]


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize("word", ["centernet/centernet_", "centernet/centernet-update"])
def test_the_recorded_detector_passes(word, shared, root):
    check = [sys.executable, str(shared("golden/check.py")), "--configs", str(root / "configs"), word]
    done = subprocess.run(check, capture_output=True, text=True, timeout=600, check=False)
    assert done.stdout.strip().endswith("1 passed, 0 failed"), done.stdout + done.stderr
