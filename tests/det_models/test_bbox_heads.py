"""Box heads: layers, targets, losses, predictions."""

import pytest
import torch
import torch.nn.functional as F
from det_models.bbox_heads import BBoxHead
from det_models.coders import DeltaXYWHBBoxCoder
from det_models.losses.accuracy import accuracy
from det_models.samplers import SamplingResult
from det_models.two_stage_cfg import RCNNTestCfg, RCNNTrainCfg

from detcore.registry import MODELS

META = {"img_shape": (100, 200), "ori_shape": (50, 100), "scale_factor": (2.0, 2.0)}
GT = torch.tensor([[10.0, 10, 50, 60], [100.0, 20, 160, 90]])
POS = torch.tensor([[12.0, 8, 48, 62], [102.0, 22, 150, 85], [8.0, 12, 55, 58]])
NEG = torch.tensor([[0.0, 0, 20, 20], [150.0, 50, 190, 95]])
OWNERS = torch.tensor([0, 1, 0])
LABELS = torch.tensor([2, 0, 2])


def head(kind="BBoxHead", **given):
    given = {"in_channels": 4, "num_classes": 3, "roi_feat_size": 7, **given}
    torch.manual_seed(0)
    return MODELS.build({"type": kind, **given})


def sampled(pos=POS, neg=NEG, owners=OWNERS, labels=LABELS):
    return SamplingResult(
        pos_inds=torch.arange(len(pos)), neg_inds=torch.arange(len(neg)), pos_priors=pos, neg_priors=neg,
        gt_bboxes=GT, pos_assigned_gt_inds=owners, pos_gt_labels=labels,
        pos_is_gt=torch.zeros(len(pos), dtype=torch.bool), avg_factor=5,
    )  # fmt: skip


def settings(**given):
    return RCNNTrainCfg(assigner=None, sampler=None, **given)


def rois_of(*results):
    return torch.cat([F.pad(result.priors, (1, 0), value=number) for number, result in enumerate(results)])


NOTHING = sampled(POS[:0], NEG[:0], OWNERS[:0], LABELS[:0])


# -- layers
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "given", "names"),
    [
        ("BBoxHead", {}, ["fc_cls", "fc_reg"]),
        ("BBoxHead", {"with_avg_pool": True}, ["fc_cls", "fc_reg"]),
        ("Shared2FCBBoxHead", {"fc_out_channels": 8}, ["shared_fcs.0", "shared_fcs.1", "fc_cls", "fc_reg"]),
        (
            "Shared2FCBBoxHead",
            {"fc_out_channels": 8, "norm_cfg": {"type": "GN", "num_groups": 2}, "conv_out_channels": 4},
            ["shared_fcs.0", "shared_fcs.1", "fc_cls", "fc_reg"],
        ),
        (
            "Shared4Conv1FCBBoxHead",
            {"fc_out_channels": 8, "conv_out_channels": 4},
            [*(f"shared_convs.{n}.conv" for n in range(4)), "shared_fcs.0", "fc_cls", "fc_reg"],
        ),
        (
            "ConvFCBBoxHead",
            {
                "num_shared_convs": 1, "num_cls_convs": 1, "num_reg_convs": 2, "num_cls_fcs": 1,
                "conv_out_channels": 4,
            },
            [
                "shared_convs.0.conv", "cls_convs.0.conv", "reg_convs.0.conv", "reg_convs.1.conv",
                "cls_fcs.0", "fc_cls", "fc_reg",
            ],
        ),
    ],
)  # fmt: skip
def test_layers_have_the_references_names_and_predict_every_class(kind, given, names):
    made = head(kind, **given)
    assert {name.rpartition(".")[0] for name in made.state_dict()} == set(names)
    cls_score, bbox_pred = made(torch.rand(5, 4, 7, 7))
    assert (cls_score.shape, bbox_pred.shape) == ((5, 4), (5, 12))
    cls_score, bbox_pred = made(torch.rand(0, 4, 7, 7))
    assert (cls_score.shape, bbox_pred.shape) == ((0, 4), (0, 12))


def test_a_head_may_predict_classes_or_boxes_alone():
    assert head(with_reg=False)(torch.rand(2, 4, 7, 7))[1] is None
    assert head(with_cls=False)(torch.rand(2, 4, 7, 7))[0] is None
    assert head(reg_class_agnostic=True)(torch.rand(2, 4, 7, 7))[1].shape == (2, 4)
    with pytest.raises(ValueError, match="with_cls and with_reg are both off"):
        head(with_cls=False, with_reg=False)


def test_convolutions_behind_linear_layers_are_refused():
    with pytest.raises(ValueError, match="1 shared linear layers leave no cells for the convolutions"):
        head("ConvFCBBoxHead", num_shared_fcs=1, num_reg_convs=1)


def test_weights_start_as_in_the_papers():
    made = head("Shared2FCBBoxHead", in_channels=64, fc_out_channels=256)
    made.init_weights()
    assert float(made.fc_cls.weight.detach().std()) == pytest.approx(0.01, rel=0.15)
    assert float(made.fc_reg.weight.detach().std()) == pytest.approx(0.001, rel=0.15)
    bound = (6 / (64 * 49 + 256)) ** 0.5
    assert 0.95 * bound < float(made.shared_fcs[0].weight.detach().abs().max()) <= bound
    assert not made.shared_fcs[0].bias.any()


# -- targets
# -----------------------------------------------------------------------------------------------


def test_targets_are_the_classes_and_offsets_of_the_positives():
    made = head()
    labels, label_weights, targets, weights = made.get_targets([sampled(), NOTHING], settings())
    assert labels.tolist() == [2, 0, 2, 3, 3]
    assert label_weights.tolist() == [1] * 5
    torch.testing.assert_close(targets[:3], made.bbox_coder.encode(POS, GT[OWNERS]))
    assert not targets[3:].any()
    assert weights.tolist() == [[1] * 4] * 3 + [[0] * 4] * 2
    each = made.get_targets([sampled(), NOTHING], settings(), concat=False)
    assert [[len(image) for image in column] for column in each] == [[5, 0]] * 4


def test_positives_may_weigh_more():
    assert head().get_targets([sampled()], settings(pos_weight=2.5))[1].tolist() == [2.5] * 3 + [1] * 2


def test_a_loss_of_boxes_has_boxes_for_targets():
    _, _, targets, _ = head(reg_decoded_bbox=True).get_targets([sampled()], settings())
    assert torch.equal(targets[:3], GT[OWNERS])


# -- losses
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("agnostic", [False, True])
def test_losses_are_those_of_the_definition(agnostic):
    made = head(loss_bbox={"type": "SmoothL1Loss", "beta": 1.0}, reg_class_agnostic=agnostic)
    scores, boxes = torch.randn(5, 4), torch.randn(5, 4 if agnostic else 12)
    found = made.loss_and_target(scores, boxes, rois_of(sampled()), [sampled()], settings())["loss_bbox"]
    labels = torch.tensor([2, 0, 2, 3, 3])
    torch.testing.assert_close(found["loss_cls"], F.cross_entropy(scores, labels))
    own = boxes[:3] if agnostic else torch.stack([boxes[n, 4 * c : 4 * c + 4] for n, c in enumerate(LABELS)])
    want = F.smooth_l1_loss(own, made.bbox_coder.encode(POS, GT[OWNERS]), reduction="sum") / 5
    torch.testing.assert_close(found["loss_bbox"], want)
    assert float(found["acc"]) == pytest.approx(20 * int((scores.argmax(1) == labels).sum()))


def test_a_loss_of_boxes_compares_boxes():
    made = head(reg_decoded_bbox=True, loss_bbox={"type": "GIoULoss"}, reg_class_agnostic=True)
    perfect = torch.cat([made.bbox_coder.encode(POS, GT[OWNERS]), torch.zeros(2, 4)])
    result = made.loss_and_target(torch.randn(5, 4), perfect, rois_of(sampled()), [sampled()], settings())
    assert float(result["loss_bbox"]["loss_bbox"]) == pytest.approx(0, abs=1e-5)
    other = made.loss_and_target(torch.randn(5, 4), -perfect, rois_of(sampled()), [sampled()], settings())
    assert float(other["loss_bbox"]["loss_bbox"]) > 0.05


@pytest.mark.parametrize(
    "result", [NOTHING, sampled(POS[:0], NEG, OWNERS[:0], LABELS[:0])], ids=["nothing", "negatives"]
)
def test_without_positives_the_box_loss_is_a_zero_with_a_gradient(result):
    made, rois = head(), rois_of(result)
    scores, boxes = made(torch.rand(len(rois), 4, 7, 7))
    losses = made.loss_and_target(scores, boxes, rois, [result], settings())["loss_bbox"]
    assert losses["loss_bbox"] == 0
    sum(value for name, value in losses.items() if "loss" in name).backward()
    assert all(parameter.grad is not None for parameter in made.parameters())


def test_accuracy_is_the_share_of_right_rows_in_per_cent():
    assert float(accuracy(torch.eye(4), torch.tensor([0, 1, 2, 0]))) == 75
    assert float(accuracy(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))) == 0


# -- predictions
# -------------------------------------------------------------------------------------------


@pytest.fixture
def predict():
    """Boxes of an image with two regions: the first is class 1, the second background."""

    def run(made, test_cfg=None, rescale=False, bbox_pred="offsets"):
        rois = torch.tensor([[0.0, 20, 10, 60, 50], [0.0, 100, 10, 190, 95]])
        scores = torch.tensor([[0.0, 6.0, 1.0, 0.0], [0.0, 0.0, 0.0, 9.0]])
        boxes = torch.zeros(2, made.reg_channels)
        boxes[0, :4] = torch.tensor(
            [1.0, 0.0, 0.0, 0.0]
        )  # class 0 (or all): a tenth of the width to the right
        given = [None] if bbox_pred is None else [boxes]
        return made.predict_by_feat([rois], [scores], given, [META], test_cfg, rescale=rescale)[0]

    return run


def test_boxes_are_those_of_the_predicted_class(predict):
    found = predict(head(), RCNNTestCfg(score_thr=0.5))
    assert found.labels.tolist() == [1]
    assert found.bboxes.tolist() == [[20, 10, 60, 50]]  # only class 0's box moves
    assert float(found.scores) == pytest.approx(float(torch.tensor([0.0, 6, 1, 0]).softmax(0)[1]))
    found = predict(head(reg_class_agnostic=True), RCNNTestCfg(score_thr=0.5))
    torch.testing.assert_close(found.bboxes, torch.tensor([[24.0, 10, 64, 50]]))


def test_boxes_are_in_the_original_images_pixels_where_asked(predict):
    found = predict(head(reg_class_agnostic=True), RCNNTestCfg(score_thr=0.5), rescale=True)
    torch.testing.assert_close(found.bboxes, torch.tensor([[12.0, 5, 32, 25]]))


def test_a_head_without_boxes_gives_the_regions(predict):
    found = predict(head(), RCNNTestCfg(score_thr=0.5), bbox_pred=None)
    assert found.bboxes.tolist() == [[20, 10, 60, 50]]


def test_without_settings_everything_comes_back_undecided(predict):
    found = predict(head())
    assert found.bboxes.shape == (2, 12)
    assert found.scores.shape == (2, 4)
    torch.testing.assert_close(found.scores.sum(1), torch.ones(2))


def test_boxes_end_at_the_images_border():
    made = head(reg_class_agnostic=True)
    rois = torch.tensor([[0.0, 150, 50, 199, 99]])
    offsets = torch.tensor([[9.0, 9.0, 0, 0]])
    (found,) = made.predict_by_feat(
        [rois], [torch.tensor([[9.0, 0, 0, 0]])], [offsets], [META], RCNNTestCfg()
    )
    assert found.bboxes[0, 2:].tolist() == [200, 100]


# -- cascades
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("agnostic", [False, True])
def test_regions_move_as_their_class_says(agnostic):
    made = head(reg_class_agnostic=agnostic)
    offsets, labels = torch.randn(3, made.reg_channels), torch.tensor([2, 0, 1])
    own = offsets if agnostic else torch.stack([offsets[n, 4 * c : 4 * c + 4] for n, c in enumerate(labels)])
    want = made.bbox_coder.decode(POS, own, max_shape=(100, 200))
    torch.testing.assert_close(made.regress_by_class(POS, labels, offsets, META), want)
    rois = F.pad(POS, (1, 0), value=7)
    moved = made.regress_by_class(rois, labels, offsets, META)
    assert moved[:, 0].tolist() == [7, 7, 7]
    torch.testing.assert_close(moved[:, 1:], want)


def test_the_next_stages_regions_are_without_ground_truth():
    made = head()
    one, two = sampled(), sampled(POS[:1], NEG[:1], OWNERS[:1], LABELS[:1])
    one.pos_is_gt = torch.tensor([True, False, False])
    scores, offsets = torch.randn(7, 4), torch.randn(7, 12)
    scores[:, 3] = 20  # a negative moves as its likeliest class does, not as the background
    targets = made.get_targets([one, two], settings())
    found = {"rois": rois_of(one, two), "cls_score": scores, "bbox_pred": offsets, "bbox_targets": targets}
    refined = made.refine_bboxes([one, two], found, [META, META])
    assert [len(each.bboxes) for each in refined] == [4, 2]
    labels = torch.where(targets[0] == 3, scores[:, :3].argmax(1), targets[0])
    want = made.regress_by_class(found["rois"], labels, offsets, META)[:, 1:]
    torch.testing.assert_close(refined[0].bboxes, want[1:5])
    torch.testing.assert_close(refined[1].bboxes, want[5:])
    empty = {
        "rois": torch.zeros(0, 5), "cls_score": torch.zeros(0, 4), "bbox_pred": torch.zeros(0, 12),
        "bbox_targets": made.get_targets([NOTHING], settings()),
    }  # fmt: skip
    assert made.refine_bboxes([NOTHING], empty, [META])[0].bboxes.shape == (0, 4)


def test_a_head_has_fast_rcnns_coder_by_default():
    assert isinstance(head().bbox_coder, DeltaXYWHBBoxCoder)
    assert head().bbox_coder.stds == (0.1, 0.1, 0.2, 0.2)
    assert isinstance(head(), BBoxHead)
