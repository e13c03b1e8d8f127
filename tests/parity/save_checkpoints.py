"""Trains a small network with mmengine's own Runner, and leaves its checkpoints in both formats.

    python tests/parity/save_checkpoints.py FOLDER

FOLDER gets ``epoch_2.pth`` of the runner, ``old.pth`` with the same and more in torch's format before 1.6,
and ``expected.pth`` with what a reader should make of them, as tensors and plain data.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.runner.checkpoint import _load_checkpoint
from mmengine.visualization import Visualizer
from torch import nn


class Pairs(BaseDataset):
    """Eight numbers and what the network should make of them."""

    METAINFO = {"classes": ("cat", "dog"), "palette": [(1, 2, 3), (4, 5, 6)]}  # noqa: RUF012

    def load_data_list(self):
        return [{"x": torch.tensor([float(i)]), "y": torch.tensor([2.0 * i])} for i in range(8)]


class Net(BaseModel):
    """A layer and its normalisation."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))

    def forward(self, x, y, sample_idx=None, mode="loss"):
        return {"loss": (self.layer(torch.stack(list(x))) - torch.stack(list(y))).square().mean()}


class Blind(Visualizer):
    """Draws nothing, and so needs no matplotlib."""

    def __init__(self, name):
        super(Visualizer, self).__init__(name)
        self._vis_backends, self.dataset_meta = {}, None


def plain(value):
    """What a reader should make of it."""
    if isinstance(value, HistoryBuffer):
        return {
            "log_history": torch.from_numpy(value._log_history),
            "count_history": torch.from_numpy(value._count_history),
            "max_length": value.max_length,
        }
    if isinstance(value, Config):
        return plain(value._cfg_dict)
    if isinstance(value, dict):
        return {plain(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple | set):
        return type(value)(map(plain, value))
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    if isinstance(value, np.generic):
        return value.item()
    return value.__name__ if callable(value) and hasattr(value, "__name__") else value


def main(folder):
    schedules = [
        {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "begin": 0, "end": 3},
        {"type": "MultiStepLR", "milestones": [1, 2], "by_epoch": True},
        {"type": "OneCycleLR", "eta_max": 0.01, "total_steps": 10, "by_epoch": False},
    ]
    runner = Runner(
        model=Net(),
        work_dir=str(folder),
        train_dataloader={
            "dataset": Pairs(), "batch_size": 4, "sampler": {"type": "DefaultSampler", "shuffle": True},
        },
        train_cfg={"by_epoch": True, "max_epochs": 2},
        optim_wrapper={"optimizer": {"type": "AdamW", "lr": 0.01}, "clip_grad": {"max_norm": 1.0}},
        param_scheduler=schedules,
        custom_hooks=[{"type": "EMAHook"}],
        randomness={"seed": 0},
        visualizer=Blind("blind"),
        experiment_name="small",
    )  # fmt: skip
    runner.train()
    written = folder / "epoch_2.pth"
    content = _load_checkpoint(str(written))
    hub = runner.message_hub
    more = {
        **content,
        "config": Config({"model": {"type": "X", "parts": [{"a": (1, 2)}]}}),
        "part": ConfigDict(a=ConfigDict(b=[ConfigDict(c=1)])),
        "numbers": [np.float32(0.5), np.int64(3), np.bool_(True), np.str_("x")],
        "arrays": [np.arange(6, dtype=np.int32).reshape(2, 3), np.zeros((0, 2)), np.ones(2, np.float16)],
        "histories": dict(hub.log_scalars),
    }
    torch.save(more, folder / "old.pth", _use_new_zipfile_serialization=False)
    torch.save({"epoch_2.pth": plain(content), "old.pth": plain(more)}, folder / "expected.pth")


if __name__ == "__main__":
    load = torch.load
    torch.load = lambda *arguments, **options: load(*arguments, **{"weights_only": False, **options})
    main(Path(sys.argv[1]))
