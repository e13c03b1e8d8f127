"""Fixtures that every package's tests share."""
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """Path of a file beside the repository (photographs, recorded numbers), or a skip that says why."""

    def find(relative: str) -> Path:
        base = Path(os.environ.get("DETCORE_SHARED", ROOT.parent / "shared"))
        path = base / relative
        data = os.environ.get("DETCORE_DATA")
        if data and relative.split("/", 1)[0] == "data":
            path = Path(data) / relative.removeprefix("data").lstrip("/")
        if not path.exists():
            pytest.skip(f"{relative} is not beside the repository (set DETCORE_SHARED or DETCORE_DATA)")
        return path

    return find


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


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
