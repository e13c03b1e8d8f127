"""What a run leaves in its folder besides checkpoints and logs: how it was started, and on what."""
import json
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import detcore

_LIBRARIES = ("torch", "torchvision", "numpy", "opencv-python-headless", "pycocotools", "hotcoco")


def write_run_folder(
    runner: Any, *, command: Sequence[str] = (), overrides: Mapping[str, Any] | None = None
) -> None:
    """Write the resolved config as one file, and ``run.json``: command, overrides, versions, plugins, seed.

    The config stands in the work folder under its own name, so that the newest run's is found at once, and
    in this run's own folder, where it stays.

    Args:
        runner: The run; only its main process writes.
        command: The command line.
        overrides: What the command line changed in the config.
    """
    if runner.rank != 0:
        return
    folder = Path(runner.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{runner.parts.name}.py"
    for target in (Path(runner.work_dir) / name, folder / "config.py"):
        target.write_text(runner.config_text, encoding="utf-8")
    record = {
        "command": list(command),
        "overrides": {key: _printable(value) for key, value in (overrides or {}).items()},
        "config": str(runner.cfg.filename or ""),
        "seed": runner.seed,
        "device": str(runner.device),
        "world_size": runner.world_size,
        "versions": versions(),
        "plugins": runner.parts.plugins(),
    }
    (folder / "run.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def versions() -> dict[str, str]:
    """Versions of detcore, Python, the libraries that compute, and the GPU's name."""
    found = {
        "detcore": detcore.__version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
    }
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if torch.cuda.is_available():
        found["cuda"] = str(torch.version.cuda)
        found["gpu"] = torch.cuda.get_device_name(0)
    return found


def _printable(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int | float | bool) else repr(value)
