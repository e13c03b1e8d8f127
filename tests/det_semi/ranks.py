"""One rank of a training; writes its weights: ``ranks.py CONFIG.json FOLDER``."""

import os
import sys
import warnings
from pathlib import Path

import torch

warnings.simplefilter("ignore")

from detcore.config import Config  # noqa: E402
from detcore.engine.runner import Runner  # noqa: E402

cfg = Config.fromfile(sys.argv[1])
cfg.launcher = "pytorch"
cfg.device = "cpu"
runner = Runner(cfg)
runner.train()
torch.save(runner.model.state_dict(), Path(sys.argv[2]) / f"rank_{runner.rank}.pt")
sys.stdout.flush()
os._exit(0)  # two gloo processes may abort at the interpreter's exit
