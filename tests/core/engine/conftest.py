"""What the engine's tests share: a toy config, and comparing two ends of a run."""
import copy
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

TOY_PARTS = Path(__file__).with_name("toy_parts.py")


@pytest.fixture(scope="session")
def toy():
    """The module with the toy parts, its names registered."""
    from detcore.plugins import load_user_modules

    load_user_modules(files=[TOY_PARTS], trusted=True)
    spec = importlib.util.spec_from_file_location("toy_parts_for_reading", TOY_PARTS)
    assert spec is not None
    return TOY_PARTS


BASE = {
    "model": {"type": "ToyDetector"},
    "train_dataloader": {
        "batch_size": 2,
        "num_workers": 0,
        "sampler": {"type": "DefaultSampler", "shuffle": True},
        "dataset": {"type": "ToyDataset", "length": 12},
    },
    "val_dataloader": {
        "batch_size": 2,
        "num_workers": 0,
        "sampler": {"type": "DefaultSampler", "shuffle": False},
        "dataset": {"type": "ToyDataset", "length": 4, "noisy": False},
    },
    "val_evaluator": {"type": "ToyMetric"},
    "train_cfg": {"type": "EpochBasedTrainLoop", "max_epochs": 3, "val_interval": 1},
    "val_cfg": {"type": "ValLoop"},
    "optim_wrapper": {
        "type": "OptimWrapper",
        "optimizer": {"type": "SGD", "lr": 0.1, "momentum": 0.9},
        "clip_grad": {"max_norm": 5},
    },
    "param_scheduler": [
        {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "begin": 0, "end": 4},
        {"type": "MultiStepLR", "by_epoch": True, "begin": 0, "end": 3, "milestones": [2], "gamma": 0.1},
    ],
    "default_hooks": {"logger": {"type": "LoggerHook", "interval": 1}},
    "custom_hooks": [{"type": "EMAHook", "momentum": 0.1}, {"type": "CountingHook"}],
    "randomness": {"seed": 7},
}


def merged(base, changes):
    """``base`` with ``changes`` in it, dicts merged, everything else replaced."""
    result = copy.deepcopy(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else copy.deepcopy(value)
    return result


@pytest.fixture(scope="module")
def base():
    """The toy config and the function that merges changes into it."""
    return BASE, merged


@pytest.fixture
def toy_cfg(toy, tmp_path):
    """A toy config with changes; everything is written below the test's own folder."""

    def make(name="run", **changes):
        return merged(merged(BASE, {"work_dir": str(tmp_path / name)}), changes)

    return make


_NOT_COMPARED = {"meta"}


def same(one, two, path=""):
    """Paths at which two checkpoints differ by as much as a bit."""
    if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        equal = (
            one.dtype == two.dtype
            and one.shape == two.shape
            and torch.equal(
                one.contiguous().view(torch.uint8)
                if one.numel() and one.ndim
                else one.reshape(1).view(torch.uint8),
                two.contiguous().view(torch.uint8)
                if two.numel() and two.ndim
                else two.reshape(1).view(torch.uint8),
            )
        )
        return [] if equal else [path]
    if isinstance(one, dict) and isinstance(two, dict):
        keys = [key for key in {**one, **two} if key not in _NOT_COMPARED]
        return [line for key in keys for line in same(one.get(key), two.get(key), f"{path}/{key}")]
    if isinstance(one, list | tuple) and isinstance(two, list | tuple) and len(one) == len(two):
        return [
            line for i, pair in enumerate(zip(one, two, strict=True)) for line in same(*pair, f"{path}/{i}")
        ]
    return [] if type(one) is type(two) and one == two else [path]


def records(work_dir):
    """The log without what no two runs share: times and memory."""
    lines = (Path(work_dir) / "log.jsonl").read_text().splitlines()
    dropped = {"time", "data_time", "memory"}
    return [{key: value for key, value in json.loads(line).items() if key not in dropped} for line in lines]


@pytest.fixture
def compare():
    """``compare(folder, other, name)``: what two runs ended with differently; empty when nothing is."""
    from detcore.engine.checkpoint import load_checkpoint

    def compare_runs(one, two, name):
        if not (Path(two) / name).exists():
            return [f"no {name}"]
        found = same(load_checkpoint(Path(one) / name), load_checkpoint(Path(two) / name))
        return found + (["log"] if records(one) != records(two) else [])

    return compare_runs


class CommandLine:
    """``detcore`` in fresh processes, forked from one that has imported everything."""

    def __init__(self, folder):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        self.folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(Path(__file__).with_name("harness.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.output = ""

    def __call__(self, *arguments, limit=60, **job):
        output = self.folder / "output.txt"
        output.unlink(missing_ok=True)
        job = {"arguments": [str(a) for a in arguments], "limit": limit, "output": str(output), **job}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        self.output = output.read_text() if output.exists() else ""
        assert answer, "the harness ended"
        return json.loads(answer)["status"]

    def close(self):
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


@pytest.fixture(scope="session")
def detcore(tmp_path_factory):
    """``detcore("run", config, ...)`` returns the exit status; ``detcore.output`` holds what it wrote."""
    command = CommandLine(tmp_path_factory.mktemp("commands"))
    yield command
    command.close()


@pytest.fixture
def toy_file(toy_cfg, tmp_path):
    """Writes a toy config to a file, with the toy parts as its module: ``toy_file(name, **changes)``."""

    def write(name="toy", **changes):
        cfg = toy_cfg(name, plugins=[str(TOY_PARTS)], **changes)
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(cfg))
        return path

    return write
