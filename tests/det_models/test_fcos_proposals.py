"""The manual's chapter on one-stage detectors as region proposal networks, with FCOS."""

import copy

import pytest
import torch

from detcore.config import Config
from detcore.registry import MODELS

BOXES = [[10.0, 12.0, 50.0, 60.0], [20.0, 30.0, 120.0, 100.0]]
CONFIG = """
_base_ = 'detcore::_base_/models/{base}'
model = dict(
    backbone=dict(depth=18, base_channels=8, init_cfg=None),
    neck=dict(
        in_channels=[8, 16, 32, 64],
        out_channels=16,
        start_level=1,
        add_extra_convs='on_output',
        relu_before_extra_convs=True,
    ),
    rpn_head=dict(
        _delete_=True,
        type='FCOSHead',
        num_classes={num_classes},
        in_channels=16,
        stacked_convs=1,
        feat_channels=16,
        strides=[8, 16, 32, 64, 128],
        norm_cfg=dict(type='GN', num_groups=4),
        norm_on_bbox={norm_on_bbox},
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type='IoULoss', loss_weight=1.0),
        loss_centerness=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0),
    ),
"""
SECOND_STAGE = """
    roi_head=dict(
        bbox_roi_extractor=dict(featmap_strides=[8, 16, 32, 64, 128], out_channels=16),
        bbox_head=dict(in_channels=16, fc_out_channels=32, num_classes=3),
    ),
"""


@pytest.fixture
def proposing(tmp_path, fill_by_name):
    """``proposing(base, num_classes=1, norm_on_bbox=False)``: a small model with FCOS for an RPN head."""

    def make(base, num_classes=1, norm_on_bbox=False):
        text = CONFIG.format(base=base, num_classes=num_classes, norm_on_bbox=norm_on_bbox)
        file = tmp_path / "config.py"
        file.write_text(text + (SECOND_STAGE if base.startswith("faster") else "") + ")\n")
        return fill_by_name(MODELS.build(Config.fromfile(file).model))

    return make


@pytest.fixture
def images():
    return torch.randn(2, 3, 128, 160, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def samples(make_sample):
    return [make_sample(128, 160, BOXES, [0, 2]), make_sample(128, 160, BOXES[:1], [1])]


def values(losses):
    return {name: value.detach() for name, value in losses.items()}


def test_as_an_rpn_it_proposes_boxes_of_one_class(proposing, images, samples):
    model = proposing("rpn_r50_fpn.py")
    losses = model(images, copy.deepcopy(samples), mode="loss")
    sum(losses.values()).backward()
    assert model.bbox_head.conv_reg.weight.grad.abs().sum() > 0
    with torch.no_grad():
        results = model.eval()(images, copy.deepcopy(samples), mode="predict")
    for result in results:
        assert len(result.pred_instances) > 0
        assert not result.pred_instances.labels.any()


def test_more_classes_than_one_are_one_class_there(proposing, images, samples):
    want = values(proposing("rpn_r50_fpn.py")(images, copy.deepcopy(samples), mode="loss"))
    got = values(proposing("rpn_r50_fpn.py", num_classes=80)(images, copy.deepcopy(samples), mode="loss"))
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("norm_on_bbox", [False, True])
def test_a_second_stage_trains_on_its_proposals(proposing, images, samples, norm_on_bbox):
    model = proposing("faster-rcnn_r50_fpn.py", norm_on_bbox=norm_on_bbox)
    losses = model(images, copy.deepcopy(samples), mode="loss")
    assert {"rpn_loss_cls", "rpn_loss_bbox", "rpn_loss_centerness", "loss_cls", "loss_bbox"} <= set(losses)
    assert all(torch.isfinite(value).all() for value in losses.values())
    sum(value for name, value in losses.items() if "loss" in name).backward()
    for head in (model.rpn_head.conv_reg, model.rpn_head.conv_centerness, model.roi_head.bbox_head.fc_cls):
        assert head.weight.grad.abs().sum() > 0
    with torch.no_grad():
        results = model.eval()(images, copy.deepcopy(samples), mode="predict")
    assert len(results) == 2
    assert results[0].pred_instances.bboxes.shape[1] == 4
