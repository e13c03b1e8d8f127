"""What every detector of one stage does alike: images without objects, ranks, devices, layouts."""

import copy
import subprocess
import sys
from functools import partial

import pytest
import torch
from det_models.dense_targets import regressed_rows

BOXES = [[10.0, 12.0, 50.0, 60.0], [20.0, 30.0, 90.0, 60.0]]
RECORDS = {
    "ATSS": "atss/atss_",
    "GFL": "gfl/gfl_",
    "VFNet": "vfnet/vfnet_",
    "FSAF": "fsaf/fsaf_",
    "FOVEA": "foveabox/fovea_",
    "PAA": "paa/paa_",
    "FreeAnchor": "free_anchor/freeanchor_",
    "DDOD": "ddod/ddod_",
    "TOOD": "tood/tood_",
    "RepPoints": "reppoints/reppoints-moment_r50_fpn_1x",
    "AutoAssign": "autoassign/autoassign_",
    "CenterNetUpdate": "centernet/centernet-update",
    "YOLOF": "yolof/yolof_",
}
METHODS = tuple(RECORDS)


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def samples(make_sample):
    return [make_sample(64, 96, BOXES, [0, 2]), make_sample(64, 96, BOXES[:1], [1])]


def values(losses):
    """Losses by name, levels summed, without gradient."""
    flat = {name: each if isinstance(each, list) else [each] for name, each in losses.items()}
    return {name: sum(part.detach() for part in each) for name, each in flat.items()}


def total(losses):
    flat = [each if isinstance(each, list) else [each] for name, each in losses.items() if "loss" in name]
    return sum(part for each in flat for part in each)


def run(model, images, samples):
    """Losses, and the gradient of their sum by every parameter of the head."""
    model = copy.deepcopy(model)  # DDOD counts what it has seen
    losses = model(images, copy.deepcopy(samples), mode="loss")
    total(losses).backward()
    return values(losses), {name: p.grad.clone() for name, p in model.bbox_head.named_parameters()}


@pytest.mark.parametrize("numbers", [(0, 0), (2, 0)], ids=["none", "one_image"])
@pytest.mark.parametrize("method", METHODS)
def test_images_without_objects_are_all_background(method, numbers, one_stage, images, make_sample):
    samples = [make_sample(64, 96, BOXES[:number], [0, 2][:number]) for number in numbers]
    losses, gradients = run(one_stage(method), images, samples)
    classes = next(name for name in losses if "cls" in name or "neg" in name)
    assert losses[classes] > 0
    others = [value for name, value in losses.items() if "loss" in name and name != classes]
    assert all((value != 0) == (sum(numbers) > 0) for value in others), losses
    assert all(gradient.isfinite().all() for gradient in gradients.values())


@pytest.mark.parametrize("method", METHODS)
def test_every_parameter_of_the_head_learns(method, one_stage, images, samples):
    _, gradients = run(one_stage(method), images, samples)
    # A level's own factor needs an object on its level, which these images do not have for all of them.
    idle = [name for name, gradient in gradients.items() if not gradient.any() and "scale" not in name]
    assert idle == []


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_the_batch_does_not_matter(method, one_stage, images, samples):
    model = one_stage(method)
    model.backbone.eval()
    want, got = run(model, images, samples), run(model, images.flip(0), samples[::-1])
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_all_rows_with_weight_zero_are_the_same_loss_as_the_few_with_an_object(
    method, one_stage, images, samples, monkeypatch
):
    """What a device does, where the number of positives would have to be waited for."""
    model = one_stage(method)
    want = run(model, images, samples)
    monkeypatch.setattr("det_models.dense_targets.regressed_rows", partial(regressed_rows, every=True))
    torch.testing.assert_close(run(model, images, samples), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_maps_of_another_layout_are_the_same_loss(method, one_stage, images, samples):
    head = one_stage(method).bbox_head
    sizes = {8: (8, 12), 16: (4, 6), 32: (2, 3), 64: (1, 2), 128: (1, 1)}
    maps = [torch.randn(2, 16, *sizes[stride], generator=torch.Generator().manual_seed(stride))
            for stride, _ in head.prior_generator.strides]  # fmt: skip
    plain = values(copy.deepcopy(head).loss(maps, samples))
    last = values(head.loss([each.to(memory_format=torch.channels_last) for each in maps], samples))
    torch.testing.assert_close(last, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_losses_are_averaged_over_what_counts_on_all_ranks(method, one_stage, images, samples, monkeypatch):
    model = one_stage(method)
    want = values(copy.deepcopy(model)(images, samples, mode="loss"))
    distributed = torch.distributed
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_reduce", lambda value: value.mul_(4))  # the other has thrice ours
    got = values(model(images, samples, mode="loss"))
    for name, value in want.items():
        if "loss" in name and name != "loss_center":  # others are for the log; that one is of images
            torch.testing.assert_close(got[name], value / 2, msg=name)


@pytest.mark.parametrize("method", METHODS)
def test_under_bf16_autocast_losses_are_float32_and_close(method, one_stage, images, samples):
    model = one_stage(method)
    want = values(copy.deepcopy(model)(images, samples, mode="loss"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = values(model(images, samples, mode="loss"))
        boxes = model(images, samples, mode="predict")[0].pred_instances.bboxes
    assert all(value.dtype == torch.float32 for value in got.values())
    # DDOD matches both times by what it predicts, and so not the same anchors.
    torch.testing.assert_close(got, want, rtol=0.2 if method == "DDOD" else 0.15, atol=0.05)
    assert boxes.dtype == torch.float32


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_recorded_detector_passes(method, shared, root):
    check = [sys.executable, str(shared("golden/check.py")), "--configs", str(root / "configs")]
    done = subprocess.run([*check, RECORDS[method]], capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.strip().endswith("1 passed, 0 failed"), done.stdout + done.stderr
