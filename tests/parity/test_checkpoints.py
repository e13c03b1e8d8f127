"""Checkpoints of mmengine's own Runner are read without mmengine, to the same numbers."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from detcore.engine.checkpoint import load_checkpoint
from detcore.weights import load_state
from detcore.weights.reader import read_weights_file

pytestmark = [pytest.mark.parity, pytest.mark.slow]


@pytest.fixture(scope="module")
def written(wheels, tmp_path_factory):
    """A folder with what mmengine wrote, and what it should be read to."""
    folder = tmp_path_factory.mktemp("checkpoints")
    command = [sys.executable, Path(__file__).with_name("save_checkpoints.py"), str(folder)]
    environment = wheels.environment(wheels.mmengine, wheels.needs)
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def differences(got, expected, place=""):
    """Places where two nested values differ."""
    if isinstance(expected, dict):
        if not isinstance(got, dict) or list(got) != list(expected):
            return [place]
        return [where for key in expected for where in differences(got[key], expected[key], f"{place}.{key}")]
    if isinstance(expected, list | tuple):
        if type(got) is not type(expected) or len(got) != len(expected):
            return [place]
        pairs = enumerate(zip(got, expected, strict=True))
        return [where for i, (a, b) in pairs for where in differences(a, b, f"{place}[{i}]")]
    if isinstance(expected, torch.Tensor):
        same = type(got) is torch.Tensor and got.dtype == expected.dtype and torch.equal(got, expected)
        return [] if same else [place]
    return [] if type(got) is type(expected) and got == expected else [place]


@pytest.mark.parametrize("name", ["epoch_2.pth", "old.pth"])
def test_every_value_is_the_one_that_mmengine_saved(written, name, table):
    expected = torch.load(written / "expected.pth", weights_only=True)[name]
    got = read_weights_file(written / name)
    assert {"meta", "state_dict", "message_hub", "optimizer", "param_schedulers"} <= set(got)
    assert "ema_state_dict" in got
    assert differences(got, expected) == []
    table.append((f"checkpoint of mmengine's Runner ({name}), values that differ", 0))


def test_what_one_needs_of_it_is_there(written):
    content = load_checkpoint(written / "epoch_2.pth")
    assert content["meta"]["dataset_meta"]["classes"] == ("cat", "dog")
    assert content["meta"]["epoch"] == 2
    assert len(content["message_hub"]["log_scalars"]["train/loss"]["log_history"]) == 4
    assert "layer.0.weight" in load_state(written / "epoch_2.pth")
    assert not {name for name in sys.modules if name.partition(".")[0] == "mmengine"}
