"""The configs of the detectors of one stage: each builds, with as many parameters as the reference's has."""

import json
from pathlib import Path

import pytest
import torch

from detcore.config import Config, shipped_configs
from detcore.registry import MODELS

COUNTS = json.loads((Path(__file__).parent / "golden" / "one_stage_params.json").read_text())
FOLDERS = sorted({name.partition("/")[0] for name in COUNTS})


def test_every_config_is_counted():
    files = {f"{each}/{path.name}" for each in FOLDERS for path in (shipped_configs() / each).glob("*.py")}
    assert files == {*COUNTS}


@pytest.mark.parametrize("name", COUNTS)
def test_as_many_parameters_as_the_reference(name):
    with torch.device("meta"):  # sizes without memory: nothing is filled
        model = MODELS.build(Config.fromfile(f"detcore::{name}").model)
    parameters = list(model.parameters())
    trainable = sum(each.numel() for each in parameters if each.requires_grad)
    assert [sum(each.numel() for each in parameters), trainable] == COUNTS[name]
