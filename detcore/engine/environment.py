"""Sets a process up for a run: process group, device, seed, libraries' threads."""
import logging
import os
from collections.abc import Mapping
from typing import Any

import torch

from detcore.config import Config
from detcore.engine import distributed
from detcore.engine.rng import seed_everything
from detcore.errors import ConfigError

_log = logging.getLogger(__name__)


def prepare_environment(cfg: Config | Mapping[str, Any]) -> tuple[torch.device, int]:
    """Do what ``launcher``, ``env_cfg``, ``device`` and ``randomness`` ask for.

    Args:
        cfg: The whole config.

    Returns:
        This process's device, and the run's seed (drawn by the main process where the config says none).

    Raises:
        ConfigError: If a setting is unusable.
    """
    env = cfg.get("env_cfg") or {}
    backend = (env.get("dist_cfg") or {}).get("backend")
    if backend == "nccl" and (not torch.cuda.is_available() or cfg.get("device") == "cpu"):
        backend = "gloo"
    device = distributed.init_from_environment(cfg.get("launcher") or "none", backend)
    if cfg.get("device"):
        device = _parse_device(str(cfg["device"]), device)
    _set_threads(env.get("mp_cfg") or {})
    torch.backends.cudnn.benchmark = bool(env.get("cudnn_benchmark", False))
    randomness = cfg.get("randomness") or {}
    unknown = set(randomness) - {"seed", "deterministic", "diff_rank_seed"}
    if unknown:
        raise ConfigError(
            f"randomness takes seed, deterministic, diff_rank_seed; got {', '.join(sorted(unknown))}"
        )
    if randomness.get("deterministic"):
        make_deterministic()
    seed = distributed.broadcast_seed(randomness.get("seed"))
    seed_everything(seed + distributed.rank() if randomness.get("diff_rank_seed") else seed)
    return device, seed


def make_deterministic() -> None:
    """Let torch use deterministic algorithms only; an operation that has none raises."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(True)


def _set_threads(settings: Mapping[str, Any]) -> None:
    if settings.get("opencv_num_threads") is not None:
        import cv2

        cv2.setNumThreads(int(settings["opencv_num_threads"]))


def _parse_device(name: str, default: torch.device) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device {name!r} is unknown: {error}") from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError(f"device {name!r}: this torch sees no CUDA device; use device='cpu'")
        if device.index is None:
            return default if default.type == "cuda" else torch.device("cuda", 0)
        if device.index >= torch.cuda.device_count():
            raise ConfigError(f"device {name!r}: there are {torch.cuda.device_count()} CUDA devices")
    return device
