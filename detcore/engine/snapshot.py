"""What a checkpoint of a run holds, and how a run goes on from it exactly."""
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import detcore
from detcore.engine import distributed
from detcore.engine.checkpoint import load_into_model
from detcore.engine.rng import capture_rng_of_all_ranks, restore_rng
from detcore.errors import CheckpointError

_log = logging.getLogger(__name__)

RESUME_PARTS = ("optimizer", "param_schedulers", "rng", "loader", "loop", "hooks", "log")
# Settings that decide what a training computes, and those in them that do not.
_DECISIVE = (
    "model",
    "train_dataloader",
    "train_cfg",
    "optim_wrapper",
    "param_scheduler",
    "auto_scale_lr",
    "amp",
)
_INDIFFERENT = {
    "num_workers",
    "persistent_workers",
    "pin_memory",
    "prefetch_factor",
    "timeout",
    "val_interval",
    "val_begin",
    "dynamic_intervals",
    "init_cfg",
}
_SHOWN = 12


def take_snapshot(
    runner: Any, *, save_optimizer: bool = True, save_param_scheduler: bool = True
) -> dict[str, Any]:
    """Everything that the run is at this boundary between two steps, as tensors and plain data.

    All processes must call this; the generators' states of each of them go in.

    Args:
        runner: A run in training.
        save_optimizer: Leave the optimiser out if false; such a checkpoint cannot be resumed from.
        save_param_scheduler: The same for the schedules.

    Returns:
        ``state_dict`` holds the weights that evaluations use: the averaged ones where there is an average
        (the trained ones stand in ``trained_state_dict`` then).
    """
    state = runner.state
    content: dict[str, Any] = {"meta": _meta(runner)}
    if runner.average is None:
        content["state_dict"] = runner.model.state_dict()
    else:
        content["trained_state_dict"] = {
            name: value.clone() for name, value in runner.model.state_dict().items()
        }
        with runner.average.swap(runner.model):
            content["state_dict"] = {name: value.clone() for name, value in runner.model.state_dict().items()}
        content["ema"] = runner.average.state_dict()
    if save_optimizer:
        content["optimizer"] = state.optim.state_dict()
    if save_param_scheduler:
        content["param_schedulers"] = state.schedules.state_dict()
    content["rng"] = capture_rng_of_all_ranks()
    content["loader"] = runner.train_dataloader.state_dict()
    content["loop"] = {**runner.train_loop.state_dict(), "last_validation": runner.last_validation}
    content["hooks"] = runner.hooks.state_dict()
    notes = runner.message_hub.state_dict()
    if notes:
        content["notes"] = notes
    windows = distributed.gather_bytes(json.dumps(runner.log_processor.state_dict()).encode())
    content["log"] = [json.loads(part) for part in windows]
    return content


def restore_snapshot(runner: Any, content: Mapping[str, Any], source: str | Path) -> None:
    """Put a run back to where `take_snapshot` found it.

    Args:
        runner: A run whose parts were built from the same config.
        content: The checkpoint.
        source: Its file, for messages.

    Raises:
        CheckpointError: If a part is missing, or does not fit the run.
    """
    needed = (*RESUME_PARTS, *(("ema", "trained_state_dict") if runner.average is not None else ()))
    missing = [part for part in needed if part not in content]
    if missing or "state_dict" not in content:
        raise CheckpointError(
            f"{source} cannot be resumed from: it has no {', '.join(missing or ['state_dict'])} (it has "
            f"{', '.join(content)}); to start a new training from its weights, use load_from without resume"
        )
    if runner.average is None and "trained_state_dict" in content:
        raise CheckpointError(
            f"{source} was trained with an average of the weights (EMAHook), this config has none"
        )
    weights = content["state_dict"] if runner.average is None else content["trained_state_dict"]
    load_into_model(runner.model, weights, strict=True, source=source)
    if runner.average is not None:
        runner.average.load_state_dict(content["ema"])
    runner.state.optim.load_state_dict(content["optimizer"])
    runner.state.schedules.load_state_dict(content["param_schedulers"])
    runner.train_dataloader.load_state_dict(content["loader"])
    loop = dict(content["loop"])
    # The loader knows how many of today's batches the samples of this pass that were seen make.
    loop["inner"] = runner.train_dataloader.state_dict().get("batches", loop["inner"])
    runner.last_validation = loop.pop("last_validation")
    runner.train_loop.load_state_dict(loop)
    runner.hooks.load_state_dict(content["hooks"])
    runner.message_hub.load_state_dict(content.get("notes", {}))
    runner.state.step, runner.state.epoch = runner.train_loop.iter, runner.train_loop.epoch
    generators, windows = content["rng"], content["log"]
    alike = len(generators) == len(windows) == distributed.world_size()
    runner.log_processor.load_state_dict(windows[distributed.rank() if alike else 0])
    if alike:
        restore_rng(generators[distributed.rank()])
    else:
        _log.warning(
            "%s was saved by %d processes, these are %d: the random generators start anew, so the run "
            "goes on correctly but not bit for bit",
            source,
            len(generators),
            distributed.world_size(),
        )


def require_own(content: Mapping[str, Any], source: str | Path) -> None:
    """See that a run of detcore saved this.

    Raises:
        CheckpointError: Another program did.
    """
    meta = meta_of(content)
    if "detcore_version" in meta:
        return
    position = ", ".join(f"{key} {meta[key]}" for key in ("epoch", "iter") if key in meta)
    raise CheckpointError(
        f"{source} was not saved by a run of detcore, and only such a run can go on exactly; to start a new"
        " training from its weights, use load_from without resume"
        + (f" (it was saved at {position})" if position else "")
    )


def meta_of(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a checkpoint says of itself; empty where it says nothing that can be read."""
    meta = content.get("meta")
    return meta if isinstance(meta, Mapping) else {}


def differences(runner: Any, content: Mapping[str, Any]) -> list[str]:
    """What in a checkpoint's record of its run is not what this run is: one line each."""
    meta = content.get("meta", {})
    now = _meta(runner)
    found = []
    for key in ("seed", "world_size", "batch_size", "epoch_length", "max_iters", "train_loop"):
        if key in meta and meta[key] != now[key]:
            found.append(f"{key}: {meta[key]} when it was saved, {now[key]} now")
    saved, current = meta.get("config", {}), now["config"]
    for key in _DECISIVE:
        found += _unlike(saved.get(key), current.get(key), key)
    return found[:_SHOWN] + ([f"... and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else [])


def _unlike(saved: Any, current: Any, path: str) -> list[str]:
    if isinstance(saved, Mapping) and isinstance(current, Mapping):
        keys = [key for key in {**saved, **current} if key not in _INDIFFERENT]
        return [line for key in keys for line in _unlike(saved.get(key), current.get(key), f"{path}.{key}")]
    if isinstance(saved, list | tuple) and isinstance(current, list | tuple) and len(saved) == len(current):
        pairs = enumerate(zip(saved, current, strict=True))
        return [line for index, (a, b) in pairs for line in _unlike(a, b, f"{path}.{index}")]
    if saved == current:
        return []
    return [f"{path}: {_short(saved)} when it was saved, {_short(current)} now"]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _meta(runner: Any) -> dict[str, Any]:
    plugins = runner.parts.plugins()
    return {
        "detcore_version": detcore.__version__,
        "torch_version": str(torch.__version__),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "experiment_name": runner.experiment_name,
        "cfg": runner.config_text,
        "epoch": runner.epoch,
        "iter": runner.iter,
        "seed": runner.seed,
        "dataset_meta": plain(getattr(runner.train_dataloader.dataset, "metainfo", {})),
        "config": plain(runner.cfg.to_dict()),
        "plugins": plugins,
        "requires": sorted({entry["distribution"].split()[0] for entry in plugins}),
        "world_size": distributed.world_size(),
        "batch_size": runner.train_dataloader.batch_size,
        "epoch_length": runner.train_loop.epoch_length,
        "max_iters": runner.max_iters,
        "train_loop": type(runner.train_loop).__name__,
    }


def plain(value: Any) -> Any:
    """The same value of dicts, lists, tuples, strings, numbers only; all else becomes its ``repr``."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return (
            [plain(one) for one in value]
            if not isinstance(value, tuple)
            else tuple(plain(one) for one in value)
        )
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return repr(value)
