"""Weights in the layouts of MMDetection 1.x and 2.x get the names and the order of 3.x."""

from collections import OrderedDict

import pytest
import torch
from det_mmdet.upgrade import upgraded

from detcore.errors import CheckpointError

ONE = torch.ones(1)


def renamed(names, meta=None):
    """Old name -> new name, None where it is left out."""
    tensors = {name: torch.full((1,), float(number)) for number, name in enumerate(names)}
    after = upgraded({"state_dict": tensors, "meta": meta or {}})["state_dict"]
    back = {int(value): name for name, value in after.items()}
    return [back.get(number) for number in range(len(names))]


def test_what_is_not_old_stays_the_same_object():
    for content in (
        {"state_dict": {"bbox_head.conv_cls.weight": ONE}, "meta": {"mmdet_version": "2.28.0"}},
        {"conv1.weight": ONE},
        {"state_dict": {}},
        {"epoch": 3},
        {"state_dict": {"module.a.w": ONE, "module.b": ONE}},
        {"state_dict": {1: ONE}},
        {"state_dict": [ONE], "meta": None},
        {"state_dict": {"a": ONE}, "meta": "2.0"},
        {"state_dict": {"a": ONE}, "meta": {"mmdet_version": 2}},
        {"state_dict": {"a": ONE}, "meta": {"mmdet_version": "dev"}},
    ):
        assert upgraded(content) is content


def test_second_copies_of_averages_and_image_means_are_left_out():
    names = ["backbone.conv1.weight", "ema_backbone_conv1_weight", "ema_other"]
    assert renamed(names) == ["backbone.conv1.weight", None, "ema_other"]
    assert renamed(["module.a", "module.ema_a"]) == ["module.a", None]  # who loads decides about module.
    assert renamed(["data_preprocessor.mean", "data_preprocessor.std", "a"]) == [None, None, "a"]


def test_names_that_changed():
    assert renamed(
        [
            "bbox_head.fcos_cls.weight",
            "bbox_head.fcos_reg.bias",
            "bbox_head.fcos_centerness.weight",
            "bbox_head.fovea_cls.bias",
            "bbox_head.atss_cls.weight",
            "backbone.layer2.0.conv2_offset.weight",
        ]
    ) == [
        "bbox_head.conv_cls.weight",
        "bbox_head.conv_reg.bias",
        "bbox_head.conv_centerness.weight",
        "bbox_head.conv_cls.bias",
        "bbox_head.atss_cls.weight",
        "backbone.layer2.0.conv2.conv_offset.weight",
    ]


def test_ssd_has_a_neck_since_2_14():
    assert renamed(
        [
            "backbone.features.0.weight",
            "backbone.extra.0.weight",
            "backbone.extra.3.bias",
            "backbone.l2_norm.weight",
            "bbox_head.cls_convs.5.weight",
            "bbox_head.reg_convs.10.bias",
        ]
    ) == [
        "backbone.features.0.weight",
        "neck.extra_layers.0.0.conv.weight",
        "neck.extra_layers.1.1.conv.bias",
        "neck.l2_norm.weight",
        "bbox_head.cls_convs.5.0.weight",
        "bbox_head.reg_convs.10.0.bias",
    ]
    retinanet = ["bbox_head.cls_convs.0.conv.weight", "bbox_head.retina_cls.weight"]
    assert renamed(retinanet) == retinanet


def test_the_transformer_of_detr_left_the_head_in_3_0():
    old = "bbox_head.transformer."
    assert renamed(
        [
            "bbox_head.input_proj.weight",
            "bbox_head.query_embedding.weight",
            f"{old}encoder.layers.0.attentions.0.attn.in_proj_weight",
            f"{old}encoder.layers.5.ffns.0.layers.0.0.weight",
            f"{old}encoder.layers.5.norms.1.bias",
            f"{old}decoder.layers.0.attentions.0.attn.out_proj.bias",
            f"{old}decoder.layers.0.attentions.1.sampling_offsets.weight",
            f"{old}decoder.post_norm.weight",
            f"{old}level_embeds",
            f"{old}reference_points.weight",
            f"{old}enc_output_norm.bias",
            f"{old}pos_trans.weight",
            "bbox_head.fc_cls.weight",
            "neck.convs.1.gn.weight",
        ]
    ) == [
        "neck.convs.0.conv.weight",
        "query_embedding.weight",
        "encoder.layers.0.self_attn.attn.in_proj_weight",
        "encoder.layers.5.ffn.layers.0.0.weight",
        "encoder.layers.5.norms.1.bias",
        "decoder.layers.0.self_attn.attn.out_proj.bias",
        "decoder.layers.0.cross_attn.sampling_offsets.weight",
        "decoder.post_norm.weight",
        "level_embed",
        "reference_points_fc.weight",
        "memory_trans_norm.bias",
        "pos_trans_fc.weight",
        "bbox_head.fc_cls.weight",
        "neck.convs.1.gn.weight",
    ]


def rows(*numbers):
    """A weight whose row n holds number n."""
    return torch.tensor(numbers, dtype=torch.float32)[:, None].repeat(1, 2)


def two_stage(version, **others):
    state = OrderedDict(
        {
            "rpn_head.rpn_cls.weight": rows(0, 1, 2),
            "rpn_head.rpn_cls.bias": rows(0, 1, 2)[:, 0],
            "rpn_head.rpn_reg.weight": rows(*range(12)),
            "bbox_head.fc_cls.weight": rows(0, 1, 2),
            "bbox_head.fc_cls.bias": rows(0, 1, 2)[:, 0],
            "bbox_head.fc_reg.weight": rows(*range(12)),
            "bbox_head.fc_reg.bias": rows(*range(12))[:, 0],
            "mask_head.conv_logits.weight": rows(0, 1, 2),
            "mask_head.conv_logits.bias": rows(0, 1, 2)[:, 0],
            "shared_head.layer4.0.conv1.weight": rows(0),
            **others,
        }
    )
    state._metadata = {"": {"version": 1}}
    return upgraded({"state_dict": state, "meta": {"mmdet_version": version}})["state_dict"]


def test_in_1x_the_background_came_first_and_had_boxes_and_masks():
    after = two_stage("1.2.0+abc")
    for kind in ("weight", "bias"):
        column = {name: value.reshape(len(value), -1)[:, 0].tolist() for name, value in after.items()}
        assert column[f"roi_head.bbox_head.fc_cls.{kind}"] == [1, 2, 0]
        assert column[f"roi_head.bbox_head.fc_reg.{kind}"] == list(range(4, 12))
        assert column[f"roi_head.mask_head.conv_logits.{kind}"] == [1, 2]
        assert column[f"rpn_head.rpn_cls.{kind}"] == [0, 1, 2]  # sigmoid: one score an anchor
    assert "roi_head.shared_head.layer4.0.conv1.weight" in after
    assert after._metadata == {"": {"version": 1}}


def test_a_box_for_all_classes_is_not_cut():
    boxes = {"bbox_head.fc_reg.weight": rows(0, 1, 2, 3), "bbox_head.fc_reg.bias": rows(0, 1, 2, 3)[:, 0]}
    assert len(two_stage("1.0.0", **boxes)["roi_head.bbox_head.fc_reg.weight"]) == 4


@pytest.mark.parametrize(("version", "order"), [("2.4.0", [1, 0, 3, 2]), ("2.5.0", [0, 1, 2, 3])])
def test_a_softmax_rpn_has_its_background_last_since_2_5(version, order):
    state = {
        "rpn_head.rpn_cls.weight": rows(0, 1, 2, 3),
        "rpn_head.rpn_cls.bias": rows(0, 1, 2, 3)[:, 0],
        "rpn_head.rpn_reg.weight": rows(*range(8)),
        "roi_head.bbox_head.fc_cls.weight": rows(0, 1, 2),
    }
    after = upgraded({"state_dict": state, "meta": {"mmdet_version": version}})["state_dict"]
    assert after["rpn_head.rpn_cls.weight"][:, 0].tolist() == order
    assert after["rpn_head.rpn_cls.bias"].tolist() == order
    assert after["roi_head.bbox_head.fc_cls.weight"][:, 0].tolist() == [0, 1, 2]


def test_ssd_of_1x_gets_both_its_order_and_its_names():
    state = {
        "backbone.extra.0.weight": rows(0),
        "bbox_head.cls_convs.0.weight": rows(*range(6)),  # two anchors, background and two classes
        "bbox_head.cls_convs.0.bias": rows(*range(6))[:, 0],
        "bbox_head.reg_convs.0.weight": rows(*range(8)),
        "bbox_head.reg_convs.0.bias": rows(*range(8))[:, 0],
    }
    after = upgraded({"state_dict": state, "meta": {"mmdet_version": "1.1.0"}})["state_dict"]
    assert after["bbox_head.cls_convs.0.0.weight"][:, 0].tolist() == [1, 2, 0, 4, 5, 3]
    assert after["bbox_head.cls_convs.0.0.bias"].tolist() == [1, 2, 0, 4, 5, 3]


def test_retinanet_of_0_5_had_bare_convolutions_and_scores_without_background():
    state = {
        "bbox_head.cls_convs.0.weight": ONE,
        "bbox_head.reg_convs.3.bias": ONE,
        "bbox_head.retina_cls.weight": rows(0, 1),
    }
    after = upgraded({"state_dict": state, "meta": {"mmdet_version": "0.5.3"}})["state_dict"]
    assert list(after) == [
        "bbox_head.cls_convs.0.conv.weight",
        "bbox_head.reg_convs.3.conv.bias",
        "bbox_head.retina_cls.weight",
    ]
    assert after["bbox_head.retina_cls.weight"][:, 0].tolist() == [0, 1]


@pytest.mark.parametrize(
    "odd",
    [
        {"bbox_head.fc_cls.bias": torch.ones(2)},
        {"bbox_head.fc_cls.weight": "text"},
        {"bbox_head.fc_reg.bias": 3},
        {"rpn_head.rpn_reg.weight": rows(*range(6)), "rpn_head.rpn_cls.weight": rows(0, 1)},
    ],
)
def test_a_version_that_lies_is_an_error_of_the_file(odd):
    with pytest.raises(
        CheckpointError, match=r"say they are of MMDetection 1\.0 are not laid out like those"
    ):
        two_stage("1.0", **odd)
