"""The configs of further backbones and necks: each builds, with as many parameters as the reference's has."""

import json
from pathlib import Path

import pytest
import torch

from detcore.config import Config, shipped_configs
from detcore.registry import MODELS

COUNTS = json.loads((Path(__file__).parent / "golden" / "family_params.json").read_text())["counts"]
FOLDERS = sorted({name.partition("/")[0] for name in COUNTS})
QUICK = {  # of each folder one, whose parameters are counted where one's are
    min((name for name in COUNTS if name.startswith(f"{folder}/")), key=lambda name: COUNTS[name] is None)
    for folder in FOLDERS
}


def test_every_config_is_listed():
    files = {f"{each}/{path.name}" for each in FOLDERS for path in (shipped_configs() / each).glob("*.py")}
    assert files == {*COUNTS}


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in COUNTS]
)
def test_as_many_parameters_as_the_reference(name):
    with torch.device("meta"):  # sizes without memory: nothing is filled
        model = MODELS.build(Config.fromfile(f"detcore::{name}").model)
    parameters = list(model.parameters())
    trainable = sum(each.numel() for each in parameters if each.requires_grad)
    counts = [sum(each.numel() for each in parameters), trainable]
    assert 0 < trainable <= counts[0]
    assert counts == (COUNTS[name] or counts)
