"""The configs of SSD and YOLOv3: each builds as large as the reference's, and nothing in it is wrong."""

import json
from pathlib import Path

import pytest
import torch

from detcore.config import Config, shipped_configs
from detcore.engine.check import CheckOptions, check_config, errors_among
from detcore.registry import MODELS

COUNTS = json.loads((Path(__file__).parent / "golden" / "ssd_yolo_params.json").read_text())
FOLDERS = ("ssd", "yolo")


def test_every_config_is_counted():
    files = {f"{each}/{path.name}" for each in FOLDERS for path in (shipped_configs() / each).glob("*.py")}
    files |= {f"pascal_voc/{path.name}" for path in (shipped_configs() / "pascal_voc").glob("ssd*.py")}
    assert files == {*COUNTS}


@pytest.mark.parametrize("name", COUNTS)
def test_as_many_parameters_as_the_reference(name):
    with torch.device("meta"):  # sizes without memory: nothing is filled
        model = MODELS.build(Config.fromfile(f"detcore::{name}").model)
    parameters = list(model.parameters())
    trainable = sum(each.numel() for each in parameters if each.requires_grad)
    assert [sum(each.numel() for each in parameters), trainable] == COUNTS[name]


@pytest.mark.parametrize("name", COUNTS)
def test_the_check_finds_nothing_wrong(name):
    cfg = Config.fromfile(f"detcore::{name}")
    options = CheckOptions(files=False, processes=8)
    assert [str(each) for each in errors_among(check_config(cfg, options=options))] == []
