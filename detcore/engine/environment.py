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

FILE_LIMIT = 4096
"""Open files that a run asks for, unless ``env_cfg.resource_limit`` says otherwise."""


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
    _raise_file_limit(int(env.get("resource_limit") or FILE_LIMIT))
    device = _join_processes(cfg.get("launcher") or "none", env.get("dist_cfg") or {}, cfg.get("device"))
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


def _join_processes(launcher: str, settings: Mapping[str, Any], device: str | None) -> torch.device:
    """Join the process group as ``env_cfg.dist_cfg`` says."""
    unknown = sorted(set(settings) - {"backend", "timeout", "port", "init_backend"})
    if unknown:
        raise ConfigError(
            f"env_cfg.dist_cfg takes backend, timeout, port, init_backend; got {', '.join(unknown)}"
        )
    if settings.get("init_backend", "torch") != "torch":
        raise ConfigError(
            f"env_cfg.dist_cfg.init_backend={settings['init_backend']!r}: process groups are torch's"
        )
    timeout = settings.get("timeout", 1800)
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or timeout <= 0:
        raise ConfigError(f"env_cfg.dist_cfg.timeout must be a number of seconds above 0, got {timeout!r}")
    if launcher in ("slurm", "mpi") and settings.get("port") is not None:
        os.environ["MASTER_PORT"] = str(settings["port"])
    backend = settings.get("backend")
    if backend == "nccl" and (not torch.cuda.is_available() or device == "cpu"):
        backend = "gloo"
    return distributed.init_from_environment(launcher, backend, timeout_minutes=timeout / 60)


def _raise_file_limit(wanted: int) -> None:
    """Allow more open files, as far as that is allowed: what a worker hands over is one for a while."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = max(wanted, soft) if hard == resource.RLIM_INFINITY else min(max(wanted, soft), hard)
    if soft != resource.RLIM_INFINITY and limit > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def _set_threads(settings: Mapping[str, Any]) -> None:
    import cv2

    # None of its own: images are decoded by several workers at once, or beside what torch computes.
    cv2.setNumThreads(int(settings.get("opencv_num_threads") or 0))


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
