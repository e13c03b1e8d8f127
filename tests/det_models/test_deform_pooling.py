"""Detectors whose regions are pooled deformably: the shipped configs on a small network."""

import copy

import pytest
import torch

from detcore.config import Config
from detcore.registry import MODELS
from detcore.structures import DetDataSample, InstanceData

SIZE = (64, 96)


def small(name):
    model = copy.deepcopy(Config.fromfile(f"detcore::{name}").model)
    model.backbone.update(depth=18, base_channels=8, init_cfg=None)
    model.neck.update(in_channels=[8, 16, 32, 64], out_channels=16)
    model.rpn_head.update(in_channels=16, feat_channels=16)
    extractor = model.roi_head.bbox_roi_extractor
    extractor.update(out_channels=16)
    extractor.roi_layer.update(output_channels=16, deform_fc_channels=8)
    model.roi_head.bbox_head.update(in_channels=16, fc_out_channels=16, num_classes=3)
    model.train_cfg.rpn_proposal.max_per_img = model.test_cfg.rpn.max_per_img = 30
    model.test_cfg.rcnn.score_thr = 0.0
    torch.manual_seed(0)
    model = MODELS.build(model)
    model.init_weights()
    return model


def picture():
    meta = {"img_shape": SIZE, "ori_shape": SIZE, "pad_shape": SIZE, "batch_input_shape": SIZE}
    sample = DetDataSample(metainfo={**meta, "scale_factor": (1.0, 1.0)})
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([[8.0, 4, 50, 40], [40, 20, 90, 60]]), labels=torch.tensor([0, 2])
    )
    sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4))
    return torch.randn(1, 3, *SIZE), [sample]


@pytest.mark.parametrize(
    "name",
    ["dcn/faster-rcnn_r50_fpn_dpool_1x_coco.py", "dcnv2/faster-rcnn_r50_fpn_mdpool_1x_coco.py"],
)
def test_the_detectors_train_and_predict(name):
    model = small(name).train()
    images, samples = picture()
    losses = model(images, samples, mode="loss")
    total = sum(
        sum(value) if isinstance(value, list) else value for key, value in losses.items() if "loss" in key
    )
    total.backward()
    pools = model.roi_head.bbox_roi_extractor.roi_layers
    # Levels without regions take part, too, so that no weight is without gradient (DDP would complain).
    for pool in pools:
        assert all(each.grad is not None for each in pool.parameters())
    assert max(pool.offset_fc[4].weight.grad.abs().max() for pool in pools) > 0
    with torch.no_grad():
        (found,) = model.eval()(images, samples, mode="predict")
    assert len(found.pred_instances) > 0
