"""Region proposal networks alone: what they learn, what they propose."""

import copy
import logging

import pytest
import torch
from det_models.rpn import RPNHead, as_one_class
from torch import nn

from detcore.errors import ConfigError
from detcore.registry import MODELS
from detcore.structures.bbox import bbox_overlaps


def total(losses):
    return sum(part for value in losses.values() for part in (value if isinstance(value, list) else [value]))


def flat(losses):
    return {name: sum(value) if isinstance(value, list) else value for name, value in losses.items()}


def head(**given):
    torch.manual_seed(0)
    return MODELS.build({"type": "RPNHead", "in_channels": 4, "feat_channels": 6, **given})


def test_layers_have_the_references_names():
    assert {name.rpartition(".")[0] for name in head().state_dict()} == {"rpn_conv", "rpn_cls", "rpn_reg"}
    names = {name.rpartition(".")[0] for name in head(num_convs=2).state_dict()}
    assert names == {"rpn_conv.0.conv", "rpn_conv.1.conv", "rpn_cls", "rpn_reg"}


def test_every_anchor_of_a_cell_gets_a_score_and_a_box():
    scores, boxes = head()([torch.rand(2, 4, 8, 10), torch.rand(2, 4, 4, 5)])
    assert [tuple(each.shape) for each in scores] == [(2, 9, 8, 10), (2, 9, 4, 5)]
    assert [tuple(each.shape) for each in boxes] == [(2, 36, 8, 10), (2, 36, 4, 5)]
    scores, _ = head(loss_cls={"type": "CrossEntropyLoss"})([torch.rand(2, 4, 8, 10)])
    assert scores[0].shape == (2, 18, 8, 10)  # softmax: object and background


def test_weights_start_small():
    made = head(in_channels=64, feat_channels=64)
    made.init_weights()
    for layer in (made.rpn_conv, made.rpn_cls, made.rpn_reg):
        assert float(layer.weight.detach().std()) == pytest.approx(0.01, rel=0.2)
        assert not layer.bias.any()


def test_labels_of_all_classes_are_one_class_and_stay_in_the_samples(
    parts, filled, region_images, region_samples
):
    before = [sample.gt_instances.labels.clone() for sample in region_samples]
    one = filled(parts.rpn())
    torch.manual_seed(0)
    want = flat(one(region_images, region_samples, mode="loss"))
    for sample, labels in zip(region_samples, before, strict=True):
        assert torch.equal(sample.gt_instances.labels, labels)
        sample.gt_instances.labels[:] = 0
    torch.manual_seed(0)
    torch.testing.assert_close(flat(one(region_images, region_samples, mode="loss")), want)
    twin = as_one_class(region_samples)[0]
    assert twin.gt_instances.bboxes is region_samples[0].gt_instances.bboxes
    assert twin.ignored_instances is region_samples[0].ignored_instances


def test_proposals_are_sorted_within_the_image_and_suppressed_within_their_level(
    parts, filled, region_images, region_samples
):
    model = filled(parts.rpn()).eval()
    with torch.no_grad():
        results = model(region_images, region_samples, mode="predict")
    for sample in results:
        found = sample.pred_instances
        assert 0 < len(found) <= 50
        assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
        assert not found.labels.any()
        assert (found.bboxes >= 0).all()
        assert (found.bboxes <= torch.tensor([128, 96, 128, 96])).all()


def test_boxes_of_two_levels_do_not_hide_one_another(parts, filled, region_images):
    """The same box from two levels is proposed twice; from one level once."""
    made = filled(parts.rpn()).bbox_head.eval()
    with torch.no_grad():
        for module in (made.rpn_conv, made.rpn_cls, made.rpn_reg):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
        made.rpn_reg.bias.view(-1, 4)[:, 2:] = (
            4.0  # as large as the coder allows: every box is the whole image
        )
        maps = [torch.rand(1, 16, 96 // stride, 128 // stride) for stride in (4, 8, 16, 32)]
        maps.append(torch.rand(1, 16, 2, 2))
        (found,) = made.predict_by_feat(
            *made(maps), batch_img_metas=[{"img_shape": (96, 128), "scale_factor": (1.0, 1.0)}]
        )
    whole = torch.tensor([[0.0, 0, 128, 96]])
    copies = int((bbox_overlaps(found.bboxes, whole) > 0.95).sum())
    assert 2 <= copies <= 5


def test_a_head_of_more_classes_learns_one(parts, caplog):
    cfg = parts.rpn(num_classes=80)
    with caplog.at_level(logging.WARNING):
        model = MODELS.build(copy.deepcopy(cfg))
    assert "rpn_head.num_classes is 80; proposals have one class: 1" in caplog.text
    assert model.bbox_head.num_classes == 1
    with pytest.raises(ValueError, match="RPNHead tells object from background: num_classes is 1, got 80"):
        head(num_classes=80)


@pytest.mark.parametrize(
    "rpn_head",
    [
        {"type": "RetinaHead", "num_classes": 80, "in_channels": 16, "feat_channels": 16, "stacked_convs": 1,
         "anchor_generator": {"type": "AnchorGenerator", "octave_base_scale": 4, "scales_per_octave": 1,
                              "ratios": [1.0], "strides": [4, 8, 16, 32, 64]}},
        {"type": "FCOSHead", "num_classes": 80, "in_channels": 16, "feat_channels": 16, "stacked_convs": 1,
         "strides": [4, 8, 16, 32, 64], "norm_cfg": None},
    ],
    ids=lambda head: head["type"],
)  # fmt: skip
@pytest.mark.parametrize("objects", ["objects", "none"])
def test_any_one_stage_head_proposes_for_a_second_stage(
    rpn_head, objects, parts, filled, region_images, region_samples, mask_sample
):
    cfg = parts.mask_rcnn()
    cfg["rpn_head"] = rpn_head
    if rpn_head["type"] == "RetinaHead":
        cfg["train_cfg"]["rpn"] = {
            "assigner": {"type": "MaxIoUAssigner", "pos_iou_thr": 0.5, "neg_iou_thr": 0.4, "min_pos_iou": 0}
        }
    model = filled(cfg)
    if objects == "none":
        region_samples = [mask_sample(96, 128, [], []) for _ in range(2)]
    losses = model(region_images, region_samples, mode="loss")
    assert {"rpn_loss_cls", "rpn_loss_bbox", "loss_cls", "loss_bbox", "loss_mask"} <= set(losses)
    total({name: value for name, value in losses.items() if "loss" in name}).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.rpn_head.parameters())
    with torch.no_grad():
        results = model.eval()(region_images, region_samples, mode="predict")
    assert len(results[0].pred_instances) > 0


def test_settings_of_both_stages_are_the_rpns_where_it_stands_alone(parts):
    model = MODELS.build(parts.rpn())
    assert model.bbox_head.train_cfg.sampler.num == 64
    assert model.bbox_head.test_cfg.max_per_img == 50
    bare = parts.rpn()
    bare["test_cfg"] = bare["test_cfg"]["rpn"]
    with pytest.raises(ConfigError, match=r"test_cfg\.nms_pre: there is no key .nms_pre. here"):
        MODELS.build(bare)
    without = {name: value for name, value in parts.rpn().items() if name != "rpn_head"}
    with pytest.raises(ConfigError, match="RPN needs an rpn_head"):
        MODELS.build(without)


def test_proposals_in_training_have_settings_of_their_own(parts, filled, region_images, region_samples):
    cfg = parts.faster_rcnn()
    cfg["train_cfg"]["rpn_proposal"] = {**parts.RPN_TEST, "max_per_img": 3}
    cfg["train_cfg"]["rcnn"]["sampler"].update(num=1000, add_gt_as_proposals=False)
    model = filled(cfg)
    seen = []
    model.roi_head.bbox_head.register_forward_hook(lambda module, given, out: seen.append(len(given[0])))
    model(region_images, region_samples, mode="loss")
    assert seen == [6]
    with torch.no_grad():
        model.eval()(region_images, region_samples, mode="predict")
    assert seen[1] > 6
    cfg = parts.faster_rcnn()
    del cfg["train_cfg"]["rpn_proposal"]
    assert filled(cfg)(region_images, region_samples, mode="loss")["loss_cls"] > 0


def test_a_users_head_may_make_other_layers():
    class Wide(RPNHead):
        def _init_layers(self):
            super()._init_layers()
            self.rpn_conv = nn.Conv2d(self.in_channels, self.feat_channels, 5, padding=2)

    made = head(type=Wide)
    assert made.rpn_conv.kernel_size == (5, 5)
    assert made([torch.rand(1, 4, 8, 8)])[0][0].shape == (1, 9, 8, 8)


def test_a_misspelt_setting_of_the_first_stage_is_named(parts):
    cfg = parts.faster_rcnn()
    cfg["test_cfg"]["rpn"] = {**parts.RPN_TEST, "nms_pree": 10}
    with pytest.raises(ConfigError, match=r"rpn.*nms_pree.*nms_pre"):
        MODELS.build(cfg, path="model")
    cfg = parts.faster_rcnn()
    cfg["train_cfg"]["rpn_proposals"] = parts.RPN_TEST
    with pytest.raises(ConfigError, match=r"rpn_proposals.*rpn_proposal"):
        MODELS.build(cfg, path="model")
