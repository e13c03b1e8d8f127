"""SABL over regions: features, targets, losses, boxes; also one stage after another."""

import copy

import pytest
import torch
import torch.nn.functional as F
from det_models.sabl_roi import SABLHead
from det_models.samplers import SamplingResult
from det_models.two_stage_cfg import RCNNTestCfg, RCNNTrainCfg

from detcore.registry import MODELS
from detcore.structures import InstanceData
from detcore.structures.bbox import bbox2roi
from detcore.testing import check_gradients

META = {"img_shape": (100, 200), "ori_shape": (50, 100), "scale_factor": (2.0, 2.0)}
GT = torch.tensor([[10.0, 10, 50, 60], [100.0, 20, 160, 90]])
POS = torch.tensor([[12.0, 8, 48, 62], [102.0, 22, 150, 85], [8.0, 12, 55, 58]])
NEG = torch.tensor([[0.0, 0, 20, 20], [150.0, 50, 190, 95]])
OWNERS = torch.tensor([0, 1, 0])
LABELS = torch.tensor([2, 0, 2])
SIDES = ("loss_bbox_cls", "loss_bbox_reg")


def head(**given):
    given = {
        "num_classes": 3, "cls_in_channels": 4, "reg_in_channels": 4, "cls_out_channels": 8,
        "reg_offset_out_channels": 4, "reg_cls_out_channels": 4, **given,
    }  # fmt: skip
    torch.manual_seed(0)
    return MODELS.build({"type": "SABLHead", **given})


def sampled(pos=POS, neg=NEG, owners=OWNERS, labels=LABELS):
    return SamplingResult(
        pos_inds=torch.arange(len(pos)), neg_inds=torch.arange(len(neg)), pos_priors=pos, neg_priors=neg,
        gt_bboxes=GT, pos_assigned_gt_inds=owners, pos_gt_labels=labels,
        pos_is_gt=torch.zeros(len(pos), dtype=torch.bool), avg_factor=5,
    )  # fmt: skip


NO_OBJECT = sampled(POS[:0], NEG, OWNERS[:0], LABELS[:0])
NOTHING = sampled(POS[:0], NEG[:0], OWNERS[:0], LABELS[:0])
TRAIN = RCNNTrainCfg(assigner=None, sampler=None)


def predicted(number, seed=1):
    random = torch.Generator().manual_seed(seed)
    return (
        2 * torch.randn(number, 4, generator=random),
        tuple(torch.randn(number, 28, generator=random) for _ in range(2)),
    )


# -- layers
# ------------------------------------------------------------------------------------------------


def through(layers, x):
    for layer in layers:
        x = F.linear(x, layer.weight, layer.bias).relu()
    return x


def by_hand(made, x):
    """What the head predicts for one region ``[C, 7, 7]``."""
    seen = x[None]
    for each in made.reg_pre_convs:
        seen = F.conv2d(seen, each.conv.weight, each.conv.bias, padding=1).relu()
    seen, logits, offsets = seen[0], [], []
    for axis in "xy":
        along = seen if axis == "x" else seen.transpose(1, 2)  # [C, cells to average, places]
        attention = getattr(made, f"reg_conv_att_{axis}")
        weights = torch.einsum("c,chw->hw", attention.weight.flatten(), along) + attention.bias
        weights = weights.sigmoid()
        sequence = torch.einsum("chw,hw->cw", along, weights / weights.sum(0))
        for each in getattr(made, f"reg_post_conv_{axis}s"):
            kernel = each.conv.weight.flatten(2)
            sequence = F.conv1d(sequence[None], kernel, each.conv.bias, padding=1)[0].relu()
        up = getattr(made, f"upsample_{axis}")
        places = [
            torch.einsum("c,cd->d", sequence[:, k // 2], up.weight[..., k % 2]) + up.bias for k in range(14)
        ]
        entries = torch.stack(places).relu()
        for found, linears, last in (
            (logits, made.reg_cls_fcs, made.fc_reg_cls),
            (offsets, made.reg_offset_fcs, made.fc_reg_offset),
        ):
            values = F.linear(through(linears, entries), last.weight, last.bias).flatten()
            found += [values[:7], values[7:].flip(0)]
    classes = F.linear(through(made.cls_fcs, x.flatten()), made.fc_cls.weight, made.fc_cls.bias)
    return classes, torch.cat(logits), torch.cat(offsets)


@pytest.mark.parametrize("linears", [0, 2])
def test_each_side_sees_its_own_half_from_outside_to_inside(linears):
    made = head(num_reg_fcs=linears, num_cls_fcs=2, reg_offset_out_channels=6 if linears else 4)
    x = torch.randn(3, 4, 7, 7)
    with torch.no_grad():
        scores, (logits, offsets) = made(x)
        assert [tuple(each.shape) for each in (scores, logits, offsets)] == [(3, 4), (3, 28), (3, 28)]
        for region in range(3):
            for got, want in zip((scores, logits, offsets), by_hand(made, x[region]), strict=True):
                torch.testing.assert_close(got[region], want)


def test_layers_have_the_references_names_and_start_as_theirs():
    made = head(cls_in_channels=32, reg_in_channels=64, reg_offset_out_channels=64, reg_cls_out_channels=64)
    convs = [f"reg_pre_convs.{n}.conv" for n in (0, 1)] + [f"reg_post_conv_{axis}s.0.conv" for axis in "xy"]
    others = [f"{name}_{axis}" for name in ("upsample", "reg_conv_att") for axis in "xy"]
    linears = ["cls_fcs.0", "fc_cls", "fc_reg_cls", "fc_reg_offset"]
    assert {name.rpartition(".")[0] for name in made.state_dict()} == {*convs, *others, *linears}
    made.init_weights()
    for name, deviation in (("reg_conv_att_x", 0.01), ("fc_cls", 0.01), ("fc_reg_offset", 0.001)):
        layer = getattr(made, name)
        assert float(layer.weight.detach().std()) == pytest.approx(deviation, rel=0.4)
        assert not layer.bias.any()
    bound = (6 / (32 * 49 + 8)) ** 0.5
    assert 0.95 * bound < float(made.cls_fcs[0].weight.detach().abs().max()) <= bound


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"reg_class_agnostic": False}, "reg_class_agnostic must be True, got False"),
        ({"reg_feat_up_ratio": 1}, r"the 14 buckets; got \(7, 7\) and 1"),
        ({"roi_feat_size": 14}, r"the 14 buckets; got \(14, 14\) and 2"),
        ({"num_cls_fcs": 0}, "cls_out_channels must be 196, as many as go in; got 8"),
        ({"reg_cls_out_channels": 5}, "reg_cls_out_channels must be 4, as many as go in; got 5"),
    ],
)
def test_sizes_that_do_not_fit_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        head(**given)


# -- training
# ------------------------------------------------------------------------------------------------


def test_targets_of_a_batch_stand_in_the_order_of_the_regions():
    made, results = head(), [sampled(), NO_OBJECT, sampled(POS[1:2], NEG[:1], OWNERS[1:2], LABELS[1:2])]
    labels, weights, (buckets, offsets), (bucket_weights, offset_weights) = made.get_targets(results, TRAIN)
    assert labels.tolist() == [2, 0, 2, 3, 3, 3, 3, 0, 3]
    assert weights.tolist() == [1] * 9
    rows, owners = [0, 1, 2, 7], [0, 1, 0, 1]
    want = made.bbox_coder.encode(torch.cat([POS, POS[1:2]]), GT[owners])
    for got, values in zip((offsets, offset_weights, buckets, bucket_weights), want, strict=True):
        torch.testing.assert_close(got[rows], values)
        assert not got[[3, 4, 5, 6, 8]].any()
    each = made.get_targets(results, TRAIN, concat=False)
    assert [len(one) for one in each[0]] == [len(one) for one in each[2][1]] == [5, 2, 2]
    assert torch.equal(torch.cat(each[2][0]), buckets)
    assert torch.equal(torch.cat(each[3][1]), offset_weights)


def test_losses_are_those_of_a_computation_by_hand():
    made, results = head(), [sampled(), NO_OBJECT]
    scores, (logits, offsets) = predicted(7)
    rois = bbox2roi([result.priors for result in results])
    found = made.loss_and_target(scores, (logits, offsets), rois, results, TRAIN)
    labels, _, (buckets, shifts), (bucket_weights, shift_weights) = found["bbox_targets"]
    entropy = regress = 0.0
    for row in range(3):
        for k in range(28):
            p = torch.sigmoid(logits[row, k])
            y = buckets[row, k]
            entropy -= bucket_weights[row, k] * (y * p.log() + (1 - y) * (1 - p).log())
            off = abs(float(offsets[row, k] - shifts[row, k]))
            regress += float(shift_weights[row, k]) * (off - 0.05 if off > 0.1 else off**2 * 5)
    losses = found["loss_bbox"]
    assert {*losses} == {"loss_cls", "acc", *SIDES}
    assert float(losses["loss_bbox_cls"]) == pytest.approx(float(entropy) / (7 * 4), rel=1e-4)
    assert float(losses["loss_bbox_reg"]) == pytest.approx(regress / 7, rel=1e-4)
    torch.testing.assert_close(losses["loss_cls"], F.cross_entropy(scores, labels))
    each = made.loss(scores, None, rois, labels, torch.ones(7), reduction_override="none")
    assert {*each} == {"loss_cls", "acc"}
    torch.testing.assert_close(each["loss_cls"], F.cross_entropy(scores, labels, reduction="none"))


def test_without_objects_or_regions_boxes_cost_nothing():
    for results in ([NO_OBJECT, NO_OBJECT], [NOTHING]):
        made = head()
        rois = bbox2roi([result.priors for result in results])
        outputs = made(torch.rand(len(rois), 4, 7, 7))
        losses = made.loss_and_target(*outputs, rois, results, TRAIN)["loss_bbox"]
        assert losses["loss_bbox_cls"] == losses["loss_bbox_reg"] == 0
        check_gradients(made, [losses[name] for name in ("loss_cls", *SIDES)])


# -- prediction
# ------------------------------------------------------------------------------------------------


def test_a_score_is_that_of_its_class_times_the_sureness_of_its_box():
    made, rois = head(), bbox2roi([POS])
    scores, sides = predicted(3)
    boxes, sure = made.bbox_coder.decode(POS, sides, (100, 200))
    nms = {"type": "nms", "iou_threshold": 1.0}
    settings = RCNNTestCfg(score_thr=0.2, nms=nms, max_per_img=-1)
    (raw,) = made.predict_by_feat([rois], [scores], [sides], [META])
    torch.testing.assert_close(raw.bboxes, boxes)
    torch.testing.assert_close(raw.scores, scores.softmax(1))
    (found,) = made.predict_by_feat([rois], [scores], [sides], [META], settings, rescale=True)
    want = [
        (float(p * sure[row]), label, (boxes[row] / 2).tolist())
        for row, probabilities in enumerate(scores.softmax(1)[:, :3])
        for label, p in enumerate(probabilities)
        if p > 0.2
    ]
    want.sort(reverse=True)
    assert len(want) > 2
    assert found.scores.tolist() == pytest.approx([score for score, _, _ in want])
    assert found.labels.tolist() == [label for _, label, _ in want]
    torch.testing.assert_close(found.bboxes, torch.tensor([box for _, _, box in want]))


def test_regions_move_whatever_the_class_and_ground_truth_stays_behind():
    made, results = head(), [sampled(), NO_OBJECT]
    results[0].pos_is_gt[0] = True
    scores, sides = predicted(7)
    rois = bbox2roi([result.priors for result in results])
    boxes, _ = made.bbox_coder.decode(rois[:, 1:], sides, (100, 200))
    moved = made.regress_by_class(rois, torch.zeros(7).long(), sides, META)
    assert torch.equal(moved, torch.cat([rois[:, :1], boxes], 1))
    assert torch.equal(made.regress_by_class(rois[:, 1:], torch.ones(7).long(), sides, META), boxes)
    targets = made.get_targets(results, TRAIN)
    given = {"rois": rois, "cls_score": scores, "bbox_pred": sides, "bbox_targets": targets}
    refined = made.refine_bboxes(results, given, [META, META])
    assert torch.equal(refined[0].bboxes, boxes[1:5])
    assert torch.equal(refined[1].bboxes, boxes[5:])


# -- in detectors
# ------------------------------------------------------------------------------------------------


def small_head(scale_factor=1.7):
    return {
        "type": "SABLHead", "num_classes": 3, "cls_in_channels": 16, "reg_in_channels": 16,
        "cls_out_channels": 32, "reg_offset_out_channels": 16, "reg_cls_out_channels": 16,
        "bbox_coder": {"type": "BucketingBBoxCoder", "num_buckets": 14, "scale_factor": scale_factor},
    }  # fmt: skip


@pytest.fixture
def faster(parts, filled):
    return filled(parts.every_region(parts.faster_rcnn(bbox_head=small_head())))


@pytest.fixture
def cascade(parts, filled):
    cfg = parts.every_region(parts.cascade_rcnn(masks=False))
    cfg["roi_head"]["bbox_head"] = [small_head(factor) for factor in (1.7, 1.5, 1.3)]
    return filled(cfg)


def test_a_second_stage_learns_and_predicts(faster, region_images, region_samples):
    losses = faster(region_images, copy.deepcopy(region_samples), mode="loss")
    assert {name for name in losses if "rpn" not in name} == {"loss_cls", "acc", *SIDES}
    summed = [sum(value) if isinstance(value, list) else value for name, value in losses.items()
              if "loss" in name]  # fmt: skip
    check_gradients(faster, summed)
    with torch.no_grad():
        outputs = faster(region_images, region_samples, mode="tensor")
        assert outputs[0][0].shape[1] == 4
        assert [each.shape[1] for each in outputs[0][1]] == [28, 28]
        found = faster.eval()(region_images, region_samples, mode="predict")
    assert all(len(sample.pred_instances) > 0 for sample in found)


def test_each_stage_of_a_cascade_starts_from_the_boxes_of_the_one_before(
    cascade, region_images, region_samples
):
    losses = cascade(region_images, copy.deepcopy(region_samples), mode="loss")
    names = {f"s{stage}.{name}" for stage in range(3) for name in ("loss_cls", "acc", *SIDES)}
    assert {name for name in losses if "rpn" not in name} == names
    summed = [sum(value) if isinstance(value, list) else value for name, value in losses.items()
              if "loss" in name]  # fmt: skip
    check_gradients(cascade, summed)

    roi_head = cascade.roi_head.eval()
    metas = [sample.metainfo for sample in region_samples]
    proposals = [InstanceData(bboxes=sample.proposals.bboxes) for sample in region_samples]
    rois, scores = bbox2roi([each.bboxes for each in proposals]), []
    with torch.no_grad():
        feats = cascade.extract_feat(region_images)
        for stage in range(3):
            found = roi_head._bbox_forward(stage, feats, rois)
            scores.append(found["cls_score"])
            coder = roi_head.bbox_head[stage].bbox_coder
            boxes, _ = coder.decode(rois[:, 1:], found["bbox_pred"], (96, 128))
            rois = torch.cat([rois[:, :1], boxes], 1)
        results = roi_head.predict_bbox(feats, metas, proposals, None)
    assert [head.bbox_coder.scale_factor for head in roi_head.bbox_head] == [1.7, 1.5, 1.3]
    torch.testing.assert_close(torch.cat([each.bboxes for each in results]), boxes)
    want = (sum(scores) / 3).softmax(1)
    torch.testing.assert_close(torch.cat([each.scores for each in results]), want)
    with torch.no_grad():
        found = cascade.eval()(region_images, region_samples, mode="predict")
        outputs = cascade(region_images, region_samples, mode="tensor")
    assert all(len(sample.pred_instances) > 0 for sample in found)
    assert [len(each) for each in outputs[0][1][0]] == [len(outputs[0][0][0])] * 2


def test_it_is_two_classes_above_its_parts():
    ours = [cls for cls in SABLHead.__mro__[1:] if cls.__module__.startswith(("det_models", "detcore"))]
    assert len(ours) <= 2, ours
