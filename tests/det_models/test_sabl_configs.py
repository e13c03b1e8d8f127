"""The configs of SABL: each builds, with as many parameters as the reference's has."""

import pytest
import torch

from detcore.config import Config, shipped_configs
from detcore.registry import MODELS

# All and trained parameters, counted on MMDetection 3.3.0 without pretrained weights.
COUNTS = {
    "sabl-cascade-rcnn_r101_fpn_1x_coco.py": (90738510, 90513166),
    "sabl-cascade-rcnn_r50_fpn_1x_coco.py": (71746382, 71521038),
    "sabl-faster-rcnn_r101_fpn_1x_coco.py": (61205156, 60979812),
    "sabl-faster-rcnn_r50_fpn_1x_coco.py": (42213028, 41987684),
    "sabl-retinanet_r101-gn_fpn_1x_coco.py": (55533768, 55308424),
    "sabl-retinanet_r101-gn_fpn_ms-480-960-2x_coco.py": (55533768, 55308424),
    "sabl-retinanet_r101-gn_fpn_ms-640-800-2x_coco.py": (55533768, 55308424),
    "sabl-retinanet_r101_fpn_1x_coco.py": (55531720, 55306376),
    "sabl-retinanet_r50-gn_fpn_1x_coco.py": (36541640, 36316296),
    "sabl-retinanet_r50_fpn_1x_coco.py": (36539592, 36314248),
}


def test_every_config_is_counted():
    assert {path.name for path in (shipped_configs() / "sabl").glob("*.py")} == {*COUNTS}


@pytest.mark.parametrize("name", COUNTS)
def test_as_many_parameters_as_the_reference(name):
    with torch.device("meta"):  # sizes without memory: nothing is filled
        model = MODELS.build(Config.fromfile(f"detcore::sabl/{name}").model)
    parameters = list(model.parameters())
    trainable = sum(each.numel() for each in parameters if each.requires_grad)
    assert (sum(each.numel() for each in parameters), trainable) == COUNTS[name]
