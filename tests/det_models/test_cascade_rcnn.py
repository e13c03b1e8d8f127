"""Cascades: each stage learns from the boxes of the one before; scores are averaged."""

import copy

import pytest
import torch
from det_models.cascade_rcnn import CascadeRoIHead

from detcore.errors import ConfigError
from detcore.registry import MODELS
from detcore.structures import InstanceData
from detcore.structures.bbox import bbox2roi


@pytest.fixture
def cascade(parts, filled):
    return filled(parts.every_region(parts.cascade_rcnn()))


def features(model, images):
    with torch.no_grad():
        return model.extract_feat(images)


def proposals(samples):
    return [InstanceData(bboxes=sample.proposals.bboxes) for sample in samples]


def test_each_stage_has_parts_of_its_own(cascade):
    head = cascade.roi_head
    for name in ("bbox_head", "bbox_roi_extractor", "mask_head", "mask_roi_extractor"):
        assert len({id(part) for part in getattr(head, name)}) == 3
    assert [each.pos_iou_thr for each in head.bbox_assigner] == [0.5, 0.6, 0.7]
    assert (head.with_bbox, head.with_mask, head.with_shared_head) == (True, True, False)
    names = {
        name.split(".")[1] + "." + name.split(".")[2] for name in cascade.state_dict() if name[:3] == "roi"
    }
    assert names == {f"{part}.{n}" for part in ("bbox_head", "mask_head") for n in range(3)}


def test_losses_carry_their_stage_and_its_weight(parts, filled, region_images, region_samples):
    cfg = parts.every_region(parts.cascade_rcnn())
    one = filled(cfg)(region_images, copy.deepcopy(region_samples), mode="loss")
    assert {name for name in one if name.startswith("s1.")} == {
        "s1.loss_cls", "s1.loss_bbox", "s1.loss_mask", "s1.acc",
    }  # fmt: skip
    cfg["roi_head"]["stage_loss_weights"] = [2, 0.5, 1.0]
    two = filled(cfg)(region_images, region_samples, mode="loss")
    for stage, factor in ((0, 2), (1, 1), (2, 4)):
        for name in ("loss_cls", "loss_bbox", "loss_mask"):
            torch.testing.assert_close(two[f"s{stage}.{name}"], one[f"s{stage}.{name}"] * factor)
        torch.testing.assert_close(two[f"s{stage}.acc"], one[f"s{stage}.acc"])


def test_a_stage_learns_from_the_boxes_of_the_one_before_without_ground_truth(
    cascade, region_images, region_samples
):
    head, feats, seen = cascade.roi_head, features(cascade, region_images), []
    for extractor in head.bbox_roi_extractor:
        extractor.register_forward_hook(lambda module, given, out: seen.append(given[1]))
    head.loss(feats, proposals(region_samples), region_samples)
    given = [sample.proposals.bboxes for sample in region_samples]
    truth = [sample.gt_instances.bboxes for sample in region_samples]
    for rois in seen:  # every stage: the proposals, and the ground truth once
        assert [int((rois[:, 0] == image).sum()) for image in (0, 1)] == [8 + 2, 8 + 1]
    first = {tuple(roi.tolist()) for roi in seen[0]}
    assert first == {
        tuple(roi.tolist()) for roi in bbox2roi([torch.cat(pair) for pair in zip(given, truth, strict=True)])
    }
    assert not any(roi.requires_grad for roi in seen)
    assert {tuple(roi.tolist()) for roi in seen[1]} & first == {
        tuple(roi.tolist()) for roi in bbox2roi(truth)
    }  # the others have moved


def test_scores_are_the_mean_of_the_stages_and_boxes_the_last_ones(cascade, region_images, region_samples):
    head, feats = cascade.roi_head.eval(), features(cascade, region_images)
    metas = [sample.metainfo for sample in region_samples]
    rois = bbox2roi([each.bboxes for each in proposals(region_samples)])
    scores = []
    with torch.no_grad():
        for stage in range(3):
            found = head._bbox_forward(stage, feats, rois)
            scores.append(found["cls_score"])
            if stage < 2:
                labels = found["cls_score"][:, :-1].argmax(1)
                parts = zip(rois.split(8), labels.split(8), found["bbox_pred"].split(8), metas, strict=True)
                rois = torch.cat([head.bbox_head[stage].regress_by_class(*part) for part in parts])
        results = head.predict_bbox(feats, metas, proposals(region_samples), None)
    want = (sum(scores) / 3).softmax(1)
    torch.testing.assert_close(torch.cat([each.scores for each in results]), want)
    boxes = head.bbox_head[-1].bbox_coder.decode(rois[:, 1:], found["bbox_pred"], max_shape=(96, 128))
    torch.testing.assert_close(torch.cat([each.bboxes for each in results]), boxes)


def test_masks_are_the_mean_of_the_stages_probabilities(cascade, region_images, region_samples):
    head, feats = cascade.roi_head.eval(), features(cascade, region_images)
    head.test_cfg.mask_thr_binary = -1
    metas = [sample.metainfo for sample in region_samples]
    box = torch.tensor([[16.0, 16, 72, 72]])
    detections = [InstanceData(bboxes=box, scores=torch.ones(1), labels=torch.tensor([1])) for _ in range(2)]
    with torch.no_grad():
        results = head.predict_mask(feats, metas, detections, rescale=True)
        rois = bbox2roi([box, box])
        each = [head._mask_forward(stage, feats, rois)["mask_preds"].sigmoid() for stage in range(3)]
    mean = (sum(each) / 3)[:, 1]
    for image, result in enumerate(results):
        inside = result.masks[0, 16:72:2, 16:72:2].float() / 255  # 2x2 pixels a cell
        assert (inside - mean[image]).abs().mean() < 0.05
        assert result.masks[0, :14].sum() == 0  # but for half a cell around the box


def test_a_cascade_without_masks_and_heads_of_different_kinds(parts, filled, region_images, region_samples):
    cfg = parts.cascade_rcnn(masks=False)
    cfg["roi_head"]["bbox_head"][1] = {
        "type": "Shared4Conv1FCBBoxHead", "in_channels": 16, "conv_out_channels": 8, "fc_out_channels": 16,
        "num_classes": 3, "reg_class_agnostic": False,
    }  # fmt: skip
    model = filled(cfg)
    losses = model(region_images, region_samples, mode="loss")
    assert not any("mask" in name for name in losses)
    with torch.no_grad():
        found = model.eval()(region_images, region_samples, mode="predict")
    assert "masks" not in found[0].pred_instances


def test_a_part_given_once_is_meant_for_every_stage(parts):
    cfg = parts.cascade_rcnn(masks=False)
    cfg["roi_head"]["bbox_head"] = parts.bbox_head()
    head = MODELS.build(cfg).roi_head
    assert len(head.bbox_head) == 3
    assert head.bbox_head[0] is not head.bbox_head[1]


def test_another_number_of_parts_than_stages_is_named(parts):
    cfg = parts.cascade_rcnn()
    cfg["roi_head"]["mask_head"] = [parts.mask_head()] * 2
    with pytest.raises(ConfigError, match="3 stages need as many parts mask_head, got 2"):
        MODELS.build(cfg)
    cfg = parts.cascade_rcnn()
    cfg["roi_head"]["bbox_head"][2]["in_channels"] = 17
    with pytest.raises(ConfigError, match=r"bbox_head.in_channels is 17, but bbox_roi_extractor gives 16"):
        MODELS.build(cfg)
    with pytest.raises(ConfigError, match="has a mask_head, but no extractor of features for it"):
        CascadeRoIHead(1, [1], mask_head=[MODELS.build(parts.mask_head())])
