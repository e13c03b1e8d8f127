"""The mask head: its layers, what it learns, how its masks come back into the image."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from det_models.samplers import SamplingResult
from det_models.two_stage_cfg import RCNNTestCfg, RCNNTrainCfg
from torch import nn

from detcore.errors import ConfigError, DataError
from detcore.registry import MODELS
from detcore.structures import InstanceData
from detcore.structures.mask import BitmapMasks, PolygonMasks


def head(**given):
    torch.manual_seed(0)
    given = {"num_convs": 2, "in_channels": 4, "conv_out_channels": 6, "num_classes": 3, **given}
    return MODELS.build({"type": "FCNMaskHead", **given})


def sampled(boxes, owners, labels):
    boxes, owners = torch.tensor(boxes).view(-1, 4), torch.tensor(owners, dtype=torch.long)
    nothing = torch.zeros(0, dtype=torch.long)
    return SamplingResult(
        pos_inds=torch.arange(len(boxes)), neg_inds=nothing, pos_priors=boxes, neg_priors=torch.zeros(0, 4),
        gt_bboxes=torch.zeros(2, 4), pos_assigned_gt_inds=owners, pos_gt_labels=torch.tensor(labels).long(),
        pos_is_gt=torch.zeros(len(boxes), dtype=torch.bool), avg_factor=1,
    )  # fmt: skip


def settings(mask_size=28):
    return RCNNTrainCfg(assigner=None, sampler=None, mask_size=mask_size)


@pytest.fixture
def truth():
    """Two objects in 64x64: the left half, and the lower right quarter."""
    masks = np.zeros((2, 64, 64), np.uint8)
    masks[0, :, :32], masks[1, 32:, 32:] = 1, 1
    return InstanceData(masks=BitmapMasks(masks, 64, 64))


@pytest.mark.parametrize(
    ("given", "size", "names"),
    [
        ({}, 28, ["convs.0.conv", "convs.1.conv", "upsample", "conv_logits"]),
        ({"num_convs": 0}, 28, ["upsample", "conv_logits"]),
        ({"num_convs": 0, "upsample_cfg": {"type": None}}, 14, ["conv_logits"]),
        ({"upsample_cfg": None}, 14, ["convs.0.conv", "convs.1.conv", "conv_logits"]),
        ({"num_convs": 0, "upsample_cfg": {"type": "nearest", "scale_factor": 2}}, 28, ["conv_logits"]),
        ({"num_convs": 0, "upsample_cfg": {"type": "bilinear", "scale_factor": 3}}, 42, ["conv_logits"]),
        (
            {"norm_cfg": {"type": "GN", "num_groups": 2}},
            28,
            ["convs.0.conv", "convs.0.gn", "convs.1.conv", "convs.1.gn", "upsample", "conv_logits"],
        ),
    ],
)  # fmt: skip
def test_layers_have_the_references_names(given, size, names):
    made = head(**given)
    assert {name.rpartition(".")[0] for name in made.state_dict()} == set(names)
    assert made(torch.rand(5, 4, 14, 14)).shape == (5, 3, size, size)
    assert made(torch.rand(0, 4, 14, 14)).shape == (0, 3, size, size)


def test_weights_start_as_in_the_paper():
    made = head(conv_out_channels=64, in_channels=64, num_classes=64)
    made.init_weights()
    for layer, outputs in ((made.conv_logits, 64), (made.upsample, 64 * 4)):
        assert float(layer.weight.detach().std()) == pytest.approx((2 / outputs) ** 0.5, rel=0.15)
        assert not layer.bias.any()


# -- training
# ----------------------------------------------------------------------------------------------


def test_the_target_is_the_objects_mask_within_the_region(truth):
    result = sampled([[0.0, 0, 64, 64], [32.0, 0, 64, 64], [40.0, 40, 60, 60]], [0, 1, 1], [2, 0, 0])
    targets = head().get_targets([result], [truth], settings(4))
    left = torch.tensor([1.0, 1, 0, 0]).expand(4, 4)
    assert torch.equal(targets[0], left)
    assert torch.equal(targets[1], torch.tensor([0.0, 0, 1, 1])[:, None].expand(4, 4))
    assert torch.equal(targets[2], torch.ones(4, 4))


def test_polygons_and_bitmaps_of_one_shape_have_one_target():
    polygon = np.array([8.0, 8, 40, 8, 40, 56, 8, 56])
    bitmap = np.zeros((1, 64, 64), np.uint8)
    bitmap[0, 8:56, 8:40] = 1
    result = sampled([[4.0, 4, 60, 60]], [0], [1])
    one = head().get_targets([result], [InstanceData(masks=PolygonMasks([[polygon]], 64, 64))], settings())
    two = head().get_targets([result], [InstanceData(masks=BitmapMasks(bitmap, 64, 64))], settings())
    assert (one != two).float().mean() < 0.08  # a row of cells at the outline
    assert one.mean() == pytest.approx(48 * 32 / 56**2, abs=0.03)


@pytest.mark.parametrize("agnostic", [False, True])
def test_a_region_learns_the_mask_of_its_own_class_alone(truth, agnostic):
    made = head(class_agnostic=agnostic)
    result = sampled([[0.0, 0, 64, 64], [32.0, 0, 64, 64]], [0, 1], [2, 0])
    logits = torch.randn(2, 1 if agnostic else 3, 28, 28, requires_grad=True)
    found = made.loss_and_target(logits, [result], [truth], settings())
    channel = [0, 0] if agnostic else [2, 0]
    own = torch.stack([logits[0, channel[0]], logits[1, channel[1]]])
    want = F.binary_cross_entropy_with_logits(own, found["mask_targets"])
    torch.testing.assert_close(found["loss_mask"]["loss_mask"], want)
    found["loss_mask"]["loss_mask"].backward()
    touched = logits.grad.abs().sum((2, 3)) > 0
    assert [row.nonzero().flatten().tolist() for row in touched] == [[each] for each in channel]


def test_without_positives_the_loss_is_a_zero_with_a_gradient(truth):
    made, nothing = head(), sampled([], [], [])
    empty = InstanceData(masks=BitmapMasks(np.zeros((0, 64, 64), np.uint8), 64, 64))
    found = made.loss_and_target(made(torch.rand(0, 4, 14, 14)), [nothing], [empty], settings())
    assert found["loss_mask"]["loss_mask"] == 0
    assert found["mask_targets"].shape == (0, 28, 28)
    found["loss_mask"]["loss_mask"].backward()
    assert all(parameter.grad is not None for parameter in made.parameters())


def test_an_image_without_positives_beside_one_with(truth):
    made, nothing = head(), sampled([], [], [])
    empty = InstanceData(masks=BitmapMasks(np.zeros((0, 64, 64), np.uint8), 64, 64))
    result = sampled([[0.0, 0, 64, 64]], [0], [2])
    logits = torch.randn(1, 3, 28, 28)
    want = made.loss_and_target(logits, [result], [truth], settings())["loss_mask"]["loss_mask"]
    for results, instances in (([nothing, result], [empty, truth]), ([result, nothing], [truth, empty])):
        found = made.loss_and_target(logits, results, instances, settings())
        assert torch.equal(found["loss_mask"]["loss_mask"], want)


def test_missing_masks_and_another_mask_size_are_named(truth):
    made, result = head(), sampled([[0.0, 0, 64, 64]], [0], [2])
    logits = torch.randn(1, 3, 28, 28)
    bare = InstanceData(labels=torch.tensor([2]))
    with pytest.raises(
        DataError, match=r"image 1 .* no gt_instances.masks.*LoadAnnotations\(with_mask=True\)"
    ):
        made.loss_and_target(logits, [result, result], [truth, bare], settings())
    with pytest.raises(ConfigError, match=r"gives masks of \(28, 28\), but train_cfg.rcnn.mask_size is 14"):
        made.loss_and_target(logits, [result], [truth], settings(14))


# -- prediction
# --------------------------------------------------------------------------------------------


@pytest.fixture
def detections():
    return InstanceData(
        bboxes=torch.tensor([[20.0, 10, 60, 50], [0.0, 0, 8, 8]]), scores=torch.tensor([0.9, 0.8]),
        labels=torch.tensor([1, 0]),
    )  # fmt: skip


META = {"img_shape": (100, 200), "ori_shape": (50, 100), "scale_factor": (2.0, 2.0)}


@pytest.fixture
def logits():
    """The upper half of class 1, everything of class 0, nothing of class 2."""
    made = torch.full((2, 3, 28, 28), -9.0)
    made[:, 0], made[:, 1, :14] = 9, 9
    return made


@pytest.mark.parametrize("rescale", [True, False])
def test_the_mask_of_the_predicted_class_comes_back_into_its_box(rescale, logits, detections):
    (found,) = head().predict_by_feat([logits], [detections], [META], RCNNTestCfg(), rescale=rescale)
    scale = 1 if rescale else 2
    assert found.masks.shape == (2, 50 * scale, 100 * scale)
    assert found.masks.dtype == torch.bool
    want = torch.zeros(2, 50 * scale, 100 * scale, dtype=torch.bool)
    want[0, 5 * scale : 15 * scale, 10 * scale : 30 * scale] = True
    want[1, : 4 * scale, : 4 * scale] = True
    assert torch.equal(found.masks, want)
    assert torch.equal(found.bboxes, detections.bboxes / (2 if rescale else 1))
    assert torch.equal(found.labels, detections.labels)
    assert torch.equal(found.scores, detections.scores)


def test_one_mask_for_all_classes(detections):
    logits = torch.full((2, 1, 28, 28), 9.0)
    (found,) = head(class_agnostic=True).predict_by_feat(
        [logits], [detections], [META], RCNNTestCfg(), rescale=True
    )
    assert found.masks.sum((1, 2)).tolist() == [20 * 20, 4 * 4]


def test_a_negative_threshold_keeps_probabilities(logits, detections):
    (found,) = head().predict_by_feat(
        [logits], [detections], [META], RCNNTestCfg(mask_thr_binary=-1), rescale=True
    )
    assert found.masks.dtype == torch.uint8
    assert int(found.masks.max()) == 254  # 255 times 0.9999


def test_probabilities_are_taken_as_they_are_where_the_caller_says_so(logits, detections):
    of_logits = head().predict_by_feat([logits], [detections], [META], RCNNTestCfg())
    given = head().predict_by_feat([logits.sigmoid()], [detections], [META], RCNNTestCfg(), activate_map=True)
    assert torch.equal(given[0].masks, of_logits[0].masks)


def test_no_detections_have_no_masks():
    nothing = InstanceData(
        bboxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0, dtype=torch.long)
    )
    (found,) = head().predict_by_feat(
        [torch.zeros(0, 3, 28, 28)], [nothing], [META], RCNNTestCfg(), rescale=True
    )
    assert found.masks.shape == (0, 50, 100)


def test_a_mask_head_may_share_the_box_heads_features(parts, filled, region_images, region_samples):
    cfg = parts.mask_rcnn(mask_roi_extractor=None, bbox_roi_extractor=parts.extractor(14))
    cfg["roi_head"]["bbox_head"] = parts.bbox_head(roi_feat_size=14)
    model = filled(cfg)
    calls = []
    model.roi_head.bbox_roi_extractor.register_forward_hook(lambda *_: calls.append(1))
    losses = model(region_images, region_samples, mode="loss")
    assert calls == [1]
    assert losses["loss_mask"] > 0
    losses["loss_mask"].backward()
    with torch.no_grad():
        found = model.eval()(region_images, region_samples, mode="predict")[0].pred_instances
    assert found.masks.shape == (len(found), 96, 128)


def test_the_same_features_give_the_same_losses_shared_or_not(parts, filled, region_images, region_samples):
    """Two extractors of one kind and one shared by both are the same arithmetic."""
    both = parts.every_region(
        parts.mask_rcnn(bbox_roi_extractor=parts.extractor(14), bbox_head=parts.bbox_head(roi_feat_size=14))
    )
    shared = {**both, "roi_head": {**both["roi_head"], "mask_roi_extractor": None}}
    one, two = (filled(cfg)(region_images, region_samples, mode="loss") for cfg in (both, shared))
    for name in ("loss_cls", "loss_bbox", "loss_mask"):
        torch.testing.assert_close(one[name], two[name], rtol=1e-5, atol=1e-6)


def test_a_mask_head_without_any_extractor_is_refused(parts):
    with pytest.raises(ConfigError, match="has a mask_head, but no extractor of features for it"):
        MODELS.build({"type": "StandardRoIHead", "mask_head": parts.mask_head()})


def test_a_mask_forward_takes_regions_or_features(parts, filled):
    roi_head = filled(parts.mask_rcnn()).roi_head
    with pytest.raises(ValueError, match="takes rois, or pos_inds and bbox_feats"):
        roi_head._mask_forward([])
    feats = torch.rand(3, 16, 14, 14)
    found = roi_head._mask_forward([], pos_inds=torch.tensor([True, False, True]), bbox_feats=feats)
    assert found["mask_preds"].shape == (2, 3, 28, 28)
    assert torch.equal(found["mask_feats"], feats[[0, 2]])
    assert isinstance(roi_head.mask_head, nn.Module)
