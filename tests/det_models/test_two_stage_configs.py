"""The configs of the two-stage detectors: each builds, with as many parameters as the reference's has."""

import json
from pathlib import Path

import pytest
import torch

from detcore.config import Config, shipped_configs
from detcore.registry import MODELS

GOLDEN = json.loads((Path(__file__).parent / "golden" / "two_stage_params.json").read_text())
FOLDERS = sorted({name.partition("/")[0] for name in GOLDEN["counts"]})
QUICK = {
    "rpn/rpn_r50-caffe-c4_1x_coco.py",
    "fast_rcnn/fast-rcnn_r50_fpn_1x_coco.py",
    "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py",
    "faster_rcnn/faster-rcnn_r50-caffe-dc5_1x_coco.py",
    "mask_rcnn/mask-rcnn_r50-caffe-c4_1x_coco.py",
    "cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py",
    "dcnv2/faster-rcnn_r50-mdconv-group4-c3-c5_fpn_1x_coco.py",
    "gn+ws/mask-rcnn_x50-32x4d_fpn_gn-ws-all_2x_coco.py",
    "double_heads/dh-faster-rcnn_r50_fpn_1x_coco.py",
    "simple_copy_paste/mask-rcnn_r50_fpn_rpn-2conv_4conv1fc_syncbn-all_32xb2-ssj-scp-270k_coco.py",
}


def test_every_config_is_counted():
    files = {f"{each}/{path.name}" for each in FOLDERS for path in (shipped_configs() / each).glob("*.py")}
    assert files == {*GOLDEN["counts"]}
    assert files > QUICK


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in GOLDEN["counts"]],
)
def test_as_many_parameters_as_the_reference(name):
    with torch.device("meta"):  # sizes without memory: nothing is filled
        model = MODELS.build(Config.fromfile(f"detcore::{name}").model)
    parameters = list(model.parameters())
    trainable = sum(each.numel() for each in parameters if each.requires_grad)
    assert [sum(each.numel() for each in parameters), trainable] == GOLDEN["counts"][name]
