"""Whole detectors of two stages: the reference's numbers, empty images and proposals, mistakes."""

import copy
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from det_models.cascade_rcnn import CascadeRCNN, CascadeRoIHead
from det_models.conv_fc_heads import ConvFCBBoxHead, Shared2FCBBoxHead, Shared4Conv1FCBBoxHead
from det_models.double_heads import DoubleConvFCBBoxHead, DoubleHeadRoIHead
from det_models.fast_rcnn import FastRCNN
from det_models.faster_rcnn import FasterRCNN
from det_models.mask_rcnn import FCNMaskHead, MaskRCNN
from det_models.roi_extract import SingleRoIExtractor
from det_models.roi_head import StandardRoIHead
from det_models.rpn import RPN, RPNHead
from det_models.samplers import RandomSampler
from det_models.samplers_balanced import (
    CombinedSampler,
    InstanceBalancedPosSampler,
    IoUBalancedNegSampler,
    OHEMSampler,
)
from det_models.two_stage import TwoStageDetector
from torch import nn

from detcore.errors import ConfigError, DataError
from detcore.registry import MODELS
from detcore.structures import InstanceData

GOLDEN = json.loads((Path(__file__).parent / "golden" / "two_stage.json").read_text())
CASES = {
    "all": ((4, 4), False),
    "one_empty": ((4, 0), False),
    "empty": ((0, 0), False),
    "ignored": ((4, 4), True),
}
WHOLE = ["fast_rcnn", "faster_rcnn", "mask_rcnn", "cascade_mask_rcnn"]


def flat(losses):
    return {name: sum(value) if isinstance(value, list | tuple) else value for name, value in losses.items()}


def total(losses):
    return sum(value for name, value in flat(losses).items() if "loss" in name)


def values(losses):
    return {name: value.detach() for name, value in flat(losses).items()}


def gradients(model):
    """Norm of the gradient of each part."""
    squares = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            part = name.partition(".")[0]
            squares[part] = squares.get(part, 0.0) + float((parameter.grad.double() ** 2).sum())
    return {part: math.sqrt(square) for part, square in squares.items()}


# -- the reference's numbers
# -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "case"),
    [(name, case) for name in GOLDEN if name != "what" for case in CASES if case in GOLDEN[name]],
)
def test_losses_and_gradients_are_the_references(name, case, parts, filled, golden_regions):
    model = filled(parts.VARIANTS[name]())
    losses = model(*golden_regions(*CASES[case]), mode="loss")
    got = {each: float(value) for each, value in values(losses).items()}
    assert got == pytest.approx(GOLDEN[name][case]["loss"], rel=1e-4, abs=1e-6)
    total(losses).backward()
    assert gradients(model) == pytest.approx(GOLDEN[name][case]["grad"], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", [name for name in GOLDEN if name != "what"])
def test_names_and_predictions_are_the_references(name, parts, filled, golden_regions):
    model, want = filled(parts.VARIANTS[name]()).eval(), GOLDEN[name]
    assert len(model.state_dict()) == want["num_keys"]
    if name == "double_heads":  # measured on the statistics of the regions
        for module in model.roi_head.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.train()
    images, samples = golden_regions((0, 0))
    with torch.no_grad():
        results = model(images, samples, mode="predict")
    for sample, expected in zip(results, want["predict"], strict=True):
        found = sample.pred_instances
        assert len(found) == expected["n"]
        assert found.labels[:4].tolist() == expected["labels"]
        assert found.scores[:4].tolist() == pytest.approx(expected["scores"], abs=1e-4)
        torch.testing.assert_close(found.bboxes[:4], torch.tensor(expected["bboxes"]), atol=0.02, rtol=0)
        assert ("masks" in found) == ("areas" in expected)
        for mask, area in zip(found.get("masks", []), expected.get("areas", []), strict=False):
            assert mask.shape == (256, 320)
            assert int(mask.sum()) == pytest.approx(area, abs=3)  # pixels at 0.5, up to rounding


# -- training
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*WHOLE, "double_heads", "rpn"])
@pytest.mark.parametrize("empty", ["first", "second", "both"])
def test_images_without_objects_train_all_that_they_can(
    name, empty, parts, filled, region_images, mask_sample, region_samples
):
    model = filled(parts.VARIANTS[name]())
    for number in {"first": (0,), "second": (1,), "both": (0, 1)}[empty]:
        bare = mask_sample(96, 128, [], [])
        bare.proposals = region_samples[number].proposals
        region_samples[number] = bare
    losses = model(region_images, region_samples, mode="loss")
    assert all(torch.isfinite(value) for value in values(losses).values())
    total(losses).backward()
    for each, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, each
            assert parameter.grad.isfinite().all(), each
    if empty == "both":
        assert all(value == 0 for each, value in values(losses).items() if "bbox" in each or "mask" in each)


@pytest.mark.parametrize("name", WHOLE)
def test_crowds_alone_are_neither_objects_nor_background(name, parts, filled, region_images, region_samples):
    cfg = parts.VARIANTS[name]()
    stages = cfg["train_cfg"]["rcnn"]
    for stage in stages if isinstance(stages, list) else [stages]:
        stage["assigner"]["ignore_iof_thr"] = 0.5
    model = filled(cfg)
    for sample in region_samples:
        whole = torch.tensor([[0.0, 0.0, 128.0, 96.0]])
        sample.ignored_instances = InstanceData(bboxes=whole)
        sample.gt_instances = sample.gt_instances[:0]
    losses = model(region_images, region_samples, mode="loss")
    assert all(torch.isfinite(value) for value in values(losses).values())
    assert all(value == 0 for each, value in values(losses).items() if "loss" in each and "rpn" not in each)
    total(losses).backward()


@pytest.mark.parametrize("name", [*WHOLE, "faster_rcnn_ohem"])
def test_the_order_of_the_batch_does_not_matter(name, parts, filled, region_images, region_samples):
    model = filled(parts.VARIANTS[name]())
    one = values(model(region_images, copy.deepcopy(region_samples), mode="loss"))
    other = values(model(region_images.flip(0), region_samples[::-1], mode="loss"))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", [*WHOLE, "double_heads"])
def test_predictions_of_an_image_do_not_depend_on_the_others(
    name, parts, filled, region_images, region_samples
):
    model = filled(parts.VARIANTS[name]()).eval()
    with torch.no_grad():
        both = model(region_images, copy.deepcopy(region_samples), mode="predict")
        alone = model(region_images[1:], copy.deepcopy(region_samples[1:]), mode="predict")
    one, two = both[1].pred_instances, alone[0].pred_instances
    assert len(one) == len(two) > 0
    torch.testing.assert_close(one.bboxes, two.bboxes, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(one.scores, two.scores, rtol=1e-4, atol=1e-5)
    assert torch.equal(one.labels, two.labels)
    if "masks" in one:
        assert (one.masks != two.masks).float().mean() < 1e-3


@pytest.mark.parametrize("name", [*WHOLE, "double_heads"])
def test_under_bf16_autocast_losses_are_float32_and_finite(
    name, parts, filled, region_images, region_samples
):
    model = filled(parts.VARIANTS[name]())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(region_images, copy.deepcopy(region_samples), mode="loss")
        results = model(region_images, region_samples, mode="predict")
    for each, value in values(losses).items():
        assert value.dtype == torch.float32, each
        assert value.isfinite(), each
    total(losses).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert results[0].pred_instances.scores.dtype == torch.float32
    assert results[0].pred_instances.bboxes.dtype == torch.float32


def test_under_bf16_autocast_losses_on_the_same_regions_are_close(
    parts, filled, region_images, region_samples
):
    model = filled(parts.VARIANTS["fast_rcnn"]())
    want = values(model(region_images, copy.deepcopy(region_samples), mode="loss"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = values(model(region_images, region_samples, mode="loss"))
    for each in ("loss_cls", "loss_bbox"):
        torch.testing.assert_close(got[each], want[each], rtol=0.05, atol=0.02)


@pytest.mark.parametrize("name", ["mask_rcnn", "cascade_mask_rcnn", "double_heads"])
def test_the_model_survives_a_copy_and_a_round_trip_of_its_state(
    name, parts, filled, region_images, region_samples
):
    cfg = parts.VARIANTS[name]()
    model = filled(cfg)
    other = MODELS.build(cfg).train()
    other.load_state_dict(model.state_dict(), strict=True)
    twin = copy.deepcopy(model)
    want = values(model(region_images, copy.deepcopy(region_samples), mode="loss"))
    for each in (twin, other):
        got = values(each(region_images, copy.deepcopy(region_samples), mode="loss"))
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-7)


def test_losses_of_the_first_stage_are_told_apart_by_name(parts, filled, region_images, region_samples):
    losses = filled(parts.mask_rcnn())(region_images, region_samples, mode="loss")
    assert set(losses) == {"loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox", "loss_mask", "acc"}
    assert 0 <= float(losses["acc"]) <= 100


def test_the_second_stage_sends_no_gradient_through_the_proposals(
    parts, filled, region_images, region_samples
):
    model = filled(parts.faster_rcnn())
    losses = model(region_images, region_samples, mode="loss")
    (losses["loss_cls"] + losses["loss_bbox"]).backward()
    assert all(parameter.grad is None for parameter in model.rpn_head.parameters())
    assert gradients(model)["backbone"] > 0


def test_ground_truth_of_the_samples_stays_as_it_was(parts, filled, region_images, region_samples):
    before = copy.deepcopy(region_samples)
    filled(parts.mask_rcnn())(region_images, region_samples, mode="loss")
    for one, two in zip(before, region_samples, strict=True):
        assert torch.equal(one.gt_instances.labels, two.gt_instances.labels)
        assert torch.equal(one.gt_instances.bboxes, two.gt_instances.bboxes)
        assert len(two.gt_instances.masks) == len(two.gt_instances.bboxes)


# -- empty proposals (the manual, 5.8.3)
# -------------------------------------------------------------------------


def without_proposals(samples, images):
    for number in images:
        samples[number].proposals = InstanceData(bboxes=torch.zeros(0, 4))
    return samples


def on_stored_proposals(cfg):
    """A detector whose first stage is left out."""
    cfg = copy.deepcopy(cfg)
    del cfg["rpn_head"], cfg["train_cfg"]["rpn"], cfg["train_cfg"]["rpn_proposal"]
    return {**cfg, "type": "TwoStageDetector"}


@pytest.fixture(params=["faster_rcnn", "mask_rcnn", "cascade_rcnn", "cascade_mask_rcnn", "double_heads"])
def on_stored(request, parts, filled):
    return filled(on_stored_proposals(parts.VARIANTS[request.param]()))


@pytest.mark.parametrize("images", [(0,), (1,), (0, 1)], ids=["first", "second", "both"])
def test_images_without_proposals_have_no_predictions(on_stored, images, region_images, region_samples):
    on_stored.eval()
    with torch.no_grad():
        full = on_stored(region_images, copy.deepcopy(region_samples), mode="predict")
        results = on_stored(region_images, without_proposals(region_samples, images), mode="predict")
    for number, (sample, other) in enumerate(zip(results, full, strict=True)):
        found = sample.pred_instances
        if number in images:
            assert (found.bboxes.shape, found.scores.shape, found.labels.shape) == ((0, 4), (0,), (0,))
            assert found.labels.dtype == torch.int64
            assert found.get("masks", torch.zeros(0, 96, 128)).shape == (0, 96, 128)
        else:
            assert len(found) == len(other.pred_instances) > 0
            torch.testing.assert_close(found.scores, other.pred_instances.scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("images", [(0,), (1,), (0, 1)], ids=["first", "second", "both"])
@pytest.mark.parametrize("objects", [True, False], ids=["objects", "no_objects"])
def test_images_without_proposals_train(
    on_stored, images, objects, region_images, region_samples, mask_sample
):
    samples = without_proposals(region_samples, images)
    if not objects:
        for number in images:
            bare = mask_sample(96, 128, [], [])
            bare.proposals = samples[number].proposals
            samples[number] = bare
    losses = on_stored(region_images, samples, mode="loss")
    assert all(torch.isfinite(value) for value in values(losses).values())
    total(losses).backward()
    for each, parameter in on_stored.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, each  # DDP waits for every gradient
            assert parameter.grad.isfinite().all(), each


def test_raw_outputs_without_samples(parts, filled, region_images):
    for cfg in (parts.mask_rcnn(), parts.cascade_rcnn()):
        with torch.no_grad():
            ((cls_score, _, masks),) = filled(cfg).eval()(region_images, mode="tensor")
        masks = masks[-1] if isinstance(masks, list) else masks
        cls_score = torch.cat(list(cls_score)) if not isinstance(cls_score, torch.Tensor) else cls_score
        assert cls_score.shape[1] == 4
        assert masks.shape[1:] == (3, 28, 28)
        assert len(masks) <= 100


# -- stored proposals
# --------------------------------------------------------------------------------------


def test_fast_rcnn_says_what_it_lacks_where_a_sample_has_no_proposals(
    parts, filled, region_images, region_samples
):
    model = filled(parts.fast_rcnn())
    del region_samples[1].proposals
    for mode in ("loss", "predict"):
        with pytest.raises(
            DataError, match=r"sample 1 \(a\.jpg\) has no proposals.*proposal_file.*LoadProposals"
        ):
            model(region_images, region_samples, mode=mode)


# -- mistakes in configs
# -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "where", "value", "message"),
    [
        ("faster_rcnn", "rpn_head.in_channels", 17, r"rpn_head takes 17 channels, but FPN gives \[16, 16"),
        ("faster_rcnn", "roi_head.bbox_roi_extractor.out_channels", 17, "in_channels is 16, but .* gives 17"),
        ("faster_rcnn", "roi_head.bbox_head.in_channels", 17, "bbox_head.in_channels is 17, but .* gives 16"),
        ("faster_rcnn", "roi_head.bbox_head.roi_feat_size", 14, r"feat_size is \(14, 14\).*size is \(7, 7\)"),
        ("mask_rcnn", "roi_head.mask_head.in_channels", 17, "mask_head.in_channels is 17, but .* gives 16"),
        ("mask_rcnn", "roi_head.mask_head.upsample_cfg", {"type": "deconv3d"}, "upsample_cfg.type must be"),
        ("mask_rcnn", "roi_head.bbox_head.num_clases", 3, r"roi_head\.bbox_head\.num_clases.*num_classes"),
        ("mask_rcnn", "train_cfg.rcnn.mask_sise", 28, r"train_cfg\.rcnn\.mask_sise.*mask_size"),
        ("mask_rcnn", "test_cfg.rcnn.score_thrr", 0.1, r"test_cfg\.rcnn\.score_thrr.*score_thr"),
        ("faster_rcnn", "train_cfg.rcnn.sampler.nums", 4, r"train_cfg\.rcnn\.sampler\.nums.*num"),
        ("faster_rcnn", "train_cfg.rcnn.assigner.pos_iou", 4, r"rcnn\.assigner\.pos_iou.*pos_iou_thr"),
        ("faster_rcnn", "roi_head.bbox_head.num_classes", 0, "num_classes must be at least 1, got 0"),
        ("faster_rcnn", "roi_head.bbox_roi_extractor", None, "has a bbox_head, but no bbox_roi_extractor"),
        ("faster_rcnn", "roi_head", None, "needs a roi_head"),
        ("cascade_rcnn", "roi_head.stage_loss_weights", [1, 0.5], r"3 stages .* stage_loss_weights, got \[1"),
        ("cascade_rcnn", "roi_head.bbox_head", [], "3 stages need as many parts bbox_head, got 0"),
        ("cascade_rcnn", "train_cfg.rcnn", [], "3 stages need as many train_cfg.rcnn, got 0"),
        ("cascade_rcnn", "roi_head.shared_head", {"type": "ReLU"}, "CascadeRoIHead has no shared_head"),
        ("rpn", "rpn_head.num_convs", 0, "num_convs must be at least 1, got 0"),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit_are_refused_when_built(name, where, value, message, parts):
    cfg = node = copy.deepcopy(parts.VARIANTS[name]())
    *path, last = where.split(".")
    for key in path:
        node = node[key]
    node[last] = value
    with pytest.raises((ConfigError, ValueError), match=message):
        MODELS.build(cfg, path="model")


@pytest.mark.parametrize("name", ["faster_rcnn", "mask_rcnn", "cascade_mask_rcnn"])
def test_a_label_beyond_the_classes_is_refused(name, parts, filled, region_images, region_samples):
    region_samples[1].gt_instances.labels[:] = 3
    with pytest.raises(ValueError, match=r"image 1 .* labels \[3\].*num_classes=3"):
        filled(parts.VARIANTS[name]())(region_images, region_samples, mode="loss")


@pytest.mark.parametrize("name", ["mask_rcnn", "cascade_mask_rcnn"])
def test_masks_that_are_missing_are_named_with_the_transform_that_loads_them(
    name, parts, filled, region_images, region_samples
):
    del region_samples[1].gt_instances.masks
    with pytest.raises(DataError, match=r"image 1 of the batch has no gt_instances.masks.*with_mask=True"):
        filled(parts.VARIANTS[name]())(region_images, region_samples, mode="loss")


@pytest.mark.parametrize("name", ["faster_rcnn", "cascade_rcnn"])
def test_settings_that_are_missing_are_named(name, parts, region_images, region_samples):
    cfg = parts.VARIANTS[name]()
    bare = MODELS.build({**cfg, "train_cfg": {**cfg["train_cfg"], "rcnn": None}})
    with pytest.raises(ValueError, match=r"RoIHead was built without train_cfg \(assigner, sampler\)"):
        bare(region_images, copy.deepcopy(region_samples), mode="loss")
    bare = MODELS.build({**cfg, "test_cfg": {**cfg["test_cfg"], "rcnn": None}})
    with pytest.raises(ValueError, match="RoIHead was built without test_cfg"):
        bare(region_images, region_samples, mode="predict")


@pytest.mark.parametrize("name", WHOLE)
def test_the_callers_config_is_left_alone(name, parts):
    cfg = parts.VARIANTS[name]()
    before = copy.deepcopy(cfg)
    MODELS.build(cfg)
    assert cfg == before


def test_every_component_is_at_most_two_classes_above_its_parts():
    for component in (
        RPN, RPNHead, TwoStageDetector, FastRCNN, FasterRCNN, MaskRCNN, CascadeRCNN, StandardRoIHead,
        CascadeRoIHead, DoubleHeadRoIHead, ConvFCBBoxHead, Shared2FCBBoxHead, Shared4Conv1FCBBoxHead,
        DoubleConvFCBBoxHead, FCNMaskHead, SingleRoIExtractor, RandomSampler, CombinedSampler,
        InstanceBalancedPosSampler, IoUBalancedNegSampler, OHEMSampler,
    ):  # fmt: skip
        ours = [cls for cls in component.__mro__[1:] if cls.__module__.startswith(("det_models", "detcore"))]
        assert len(ours) <= 2, ours


@pytest.mark.shared
@pytest.mark.slow
def test_the_recorded_detectors_pass(shared, root):
    """Those whose figures do not hang on the order of regions with almost equal scores.

    In the others (raw outputs of `cascade-rcnn` and `mask-rcnn`; deformable convolutions under batch
    statistics) rounding decides which regions there are: the reference itself gives other figures on another
    processor.
    """
    words = ["rpn/rpn", "fast_rcnn/fast", "faster_rcnn/faster", "cascade-mask-rcnn_r50_fpn", "double_heads/"]
    command = [sys.executable, str(shared("golden/check.py")), "--configs", str(root / "configs"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    assert done.stdout.strip().endswith("5 passed, 0 failed"), done.stdout + done.stderr
