"""What a run's config may say at its top level, and everything that is wrong with one."""
import difflib
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from detcore.config import Config
from detcore.data.loader_config import KNOWN as LOADER_KEYS
from detcore.plugins import load_user_modules
from detcore.registry import (
    DATA_SAMPLERS,
    DATASETS,
    HOOKS,
    LOG_PROCESSORS,
    LOOPS,
    METRICS,
    MODELS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
    VISUALIZERS,
    Registry,
)
from detcore.registry.planning import Problem

_log = logging.getLogger(__name__)

RunConfig = Config | Mapping[str, Any]

DEFAULT_HOOKS: dict[str, dict[str, Any]] = {
    "runtime_info": {"type": "RuntimeInfoHook"},
    "timer": {"type": "IterTimerHook"},
    "sampler_seed": {"type": "DistSamplerSeedHook"},
    "logger": {"type": "LoggerHook"},
    "param_scheduler": {"type": "ParamSchedulerHook"},
    "checkpoint": {"type": "CheckpointHook", "interval": 1},
}
_HOOK_TYPES = {
    **{name: cfg["type"] for name, cfg in DEFAULT_HOOKS.items()},
    "visualization": "DetVisualizationHook",
}

KNOWN_KEYS = frozenset(
    [
        "model",
        "train_dataloader",
        "val_dataloader",
        "test_dataloader",
        "train_cfg",
        "val_cfg",
        "test_cfg",
        "val_evaluator",
        "test_evaluator",
        "optim_wrapper",
        "param_scheduler",
        "default_hooks",
        "custom_hooks",
        "auto_scale_lr",
        "env_cfg",
        "log_processor",
        "log_level",
        "visualizer",
        "vis_backends",
        "load_from",
        "resume",
        "randomness",
        "work_dir",
        "default_scope",
        "launcher",
        "custom_imports",
        "plugins",
        "compile",
        "channels_last",
        "amp",
        "device",
        "experiment_name",
        "data_preprocessor",
        "find_unused_parameters",
        "broadcast_buffers",
        "static_graph",
        "sync_bn",
        "model_wrapper_cfg",
        "backend_args",
        "tta_model",
        "tta_pipeline",
        "runner_type",
        "cfg",
    ]
)
# Names that configs of MMDetection give to their own helper values.
_HELPERS = frozenset(
    [
        "train_pipeline",
        "val_pipeline",
        "test_pipeline",
        "dataset_type",
        "data_root",
        "train_dataset",
        "val_dataset",
        "test_dataset",
        "train_pipeline_stage2",
        "max_epochs",
        "max_iters",
        "base_lr",
        "interval",
        "classes",
        "num_classes",
        "metainfo",
        "image_size",
        "img_scale",
        "img_scales",
        "model_name",
        "file_client_args",
        "teacher_ckpt",
        "checkpoint",
    ]
)
_OLD_KEYS = {
    "data": "train_dataloader, val_dataloader and test_dataloader",
    "optimizer": "optim_wrapper=dict(type='OptimWrapper', optimizer=...)",
    "optimizer_config": "optim_wrapper=dict(clip_grad=...)",
    "lr_config": "param_scheduler",
    "runner": "train_cfg",
    "evaluation": "train_cfg=dict(val_interval=...) and val_evaluator",
    "checkpoint_config": "default_hooks=dict(checkpoint=...)",
    "log_config": "default_hooks=dict(logger=...) and vis_backends",
    "total_epochs": "train_cfg=dict(max_epochs=...)",
    "resume_from": "resume=True with load_from",
    "dist_params": "env_cfg=dict(dist_cfg=...)",
}


class Given:
    """Stands for an argument that the runner itself hands over when it builds a part."""


def import_named_modules(cfg: RunConfig, *, trust: bool) -> None:
    """Import the users' modules that ``custom_imports`` and ``plugins`` name.

    Args:
        cfg: The whole config.
        trust: Whether the user trusts it.

    Raises:
        ConfigError: If trust is needed and not given.
        PluginError: If a module cannot be imported.
    """
    imports = cfg.get("custom_imports") or {}
    if isinstance(imports, Mapping):
        allow = bool(imports.get("allow_failed_imports", False))
        load_user_modules(imports.get("imports") or (), trusted=trust, allow_failed=allow)
    else:
        load_user_modules(imports, trusted=trust)
    load_user_modules(files=cfg.get("plugins") or (), trusted=trust)


def warn_about_keys(cfg: RunConfig) -> list[str]:
    """Warn of top-level keys that look misspelt or belong to MMDetection 2.x; returns the warnings."""
    warnings = []
    for key in cfg:
        if key in KNOWN_KEYS or key in _HELPERS or key.startswith("_"):
            continue
        if key in _OLD_KEYS and not isinstance(cfg[key], str | int):
            warnings.append(
                f"{key!r} is a setting of MMDetection 2.x and has no effect; write {_OLD_KEYS[key]}"
            )
            continue
        close = difflib.get_close_matches(key, KNOWN_KEYS, n=1, cutoff=0.84)
        if close:
            warnings.append(f"the top-level key {key!r} has no effect; did you mean {close[0]!r}?")
    for warning in warnings:
        _log.warning(warning)
    return warnings


def hook_configs(cfg: RunConfig) -> list[tuple[str, Any]]:
    """Every hook of the config with its config path: the default ones, completed, then the custom ones."""
    named: dict[str, Any] = dict(DEFAULT_HOOKS)
    for name, hook in (cfg.get("default_hooks") or {}).items():
        named[name] = (
            {"type": _HOOK_TYPES[name], **hook} if isinstance(hook, dict) and name in _HOOK_TYPES else hook
        )
    found = [(f"default_hooks.{name}", hook) for name, hook in named.items() if hook is not None]
    return found + [
        (f"custom_hooks.{index}", hook) for index, hook in enumerate(cfg.get("custom_hooks") or [])
    ]


def loop_config(cfg: Mapping[str, Any] | None, default: str) -> dict[str, Any] | None:
    """Config of a loop with its type; a training loop may say ``by_epoch`` instead."""
    if cfg is None:
        return None
    given = dict(cfg)
    by_epoch = given.pop("by_epoch", None)
    if "type" not in given:
        given["type"] = default
        if default == "EpochBasedTrainLoop" and (
            by_epoch is False or (by_epoch is None and "max_iters" in given)
        ):
            given["type"] = "IterBasedTrainLoop"
    return given


def check_config(cfg: RunConfig, modes: Sequence[str] = ("train", "val", "test")) -> list[Problem]:
    """Everything that would fail while the run's parts are built.

    Args:
        cfg: The whole config.
        modes: Which of ``train``, ``val``, ``test`` the run will need.

    Returns:
        All problems, each with its config path and, where there is one, a suggestion.
    """
    problems = list(_check_shape(cfg, modes))
    scope = cfg.get("default_scope")
    for registry, part, path in _parts(cfg, modes):
        problems += registry.check(part, default_scope=scope, path=path)
    for mode in modes:
        loader = cfg.get(f"{mode}_dataloader")
        if isinstance(loader, Mapping):
            for registry, part, path in _loader_parts(loader, f"{mode}_dataloader"):
                problems += registry.check(part, default_scope=scope, path=path)
    return problems


def _check_shape(cfg: RunConfig, modes: Sequence[str]) -> Iterator[Problem]:
    if not isinstance(cfg.get("model"), Mapping) and not hasattr(cfg.get("model"), "parameters"):
        yield Problem("model", "the config describes no model", "write model=dict(type=...)")
    groups = {
        "train": ("train_dataloader", "train_cfg", "optim_wrapper"),
        "val": ("val_dataloader", "val_evaluator"),
        "test": ("test_dataloader", "test_evaluator"),
    }
    for mode in modes:
        missing = [key for key in groups[mode] if cfg.get(key) is None]
        if missing and len(missing) < len(groups[mode]):
            given = [key for key in groups[mode] if key not in missing]
            yield Problem(
                missing[0],
                f"{', '.join(missing)} missing, although {', '.join(given)} is given",
                f"to {mode}, give all of {', '.join(groups[mode])}; else none of them",
            )
        loader = cfg.get(f"{mode}_dataloader")
        if isinstance(loader, Mapping):
            yield from _check_loader(loader, f"{mode}_dataloader")
    scheduler = cfg.get("param_scheduler")
    if scheduler is not None and not isinstance(scheduler, Mapping | Sequence):
        yield Problem("param_scheduler", f"must be a dict or a list of dicts, got {type(scheduler).__name__}")
    train = cfg.get("train_cfg")
    if isinstance(train, Mapping) and "type" in train and "by_epoch" in train:
        yield Problem("train_cfg", "takes either type or by_epoch, not both")


def _check_loader(loader: Mapping[str, Any], path: str) -> Iterator[Problem]:
    if loader.get("dataset") is None:
        yield Problem(f"{path}.dataset", "missing")
    for key in loader:
        if key not in LOADER_KEYS:
            close = difflib.get_close_matches(str(key), LOADER_KEYS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(LOADER_KEYS)}"
            yield Problem(f"{path}.{key}", "a dataloader has no such key", hint)


def _parts(cfg: RunConfig, modes: Sequence[str]) -> Iterator[tuple[Registry, Any, str]]:
    yield MODELS, cfg.get("model"), "model"
    given = {"runner": Given(), "dataloader": Given()}
    if "train" in modes:
        train = loop_config(cfg.get("train_cfg"), "EpochBasedTrainLoop")
        if train is not None:
            yield LOOPS, {**given, **train}, "train_cfg"
        yield from _optimiser_parts(cfg)
    for mode, default in (("val", "ValLoop"), ("test", "TestLoop")):
        if mode in modes and cfg.get(f"{mode}_cfg") is not None:
            loop = loop_config(cfg[f"{mode}_cfg"], default)
            yield LOOPS, {**given, "evaluator": Given(), **(loop or {})}, f"{mode}_cfg"
        if mode in modes:
            yield from _metric_parts(cfg.get(f"{mode}_evaluator"), f"{mode}_evaluator")
    for path, hook in hook_configs(cfg):
        if isinstance(hook, Mapping):
            yield HOOKS, {key: value for key, value in hook.items() if key != "priority"}, path
    if isinstance(cfg.get("visualizer"), Mapping):
        yield VISUALIZERS, {"save_dir": "", **cfg["visualizer"]}, "visualizer"
    if isinstance(cfg.get("log_processor"), Mapping):
        yield LOG_PROCESSORS, {"type": "LogProcessor", **cfg["log_processor"]}, "log_processor"


def _optimiser_parts(cfg: RunConfig) -> Iterator[tuple[Registry, Any, str]]:
    wrapper = cfg.get("optim_wrapper")
    if isinstance(wrapper, Mapping):
        own = {key: value for key, value in wrapper.items() if key not in ("constructor", "paramwise_cfg")}
        yield OPTIM_WRAPPERS, {"type": "OptimWrapper", **own, "optimizer": Given()}, "optim_wrapper"
        if isinstance(wrapper.get("optimizer"), Mapping):
            yield OPTIMIZERS, {"params": [], **wrapper["optimizer"]}, "optim_wrapper.optimizer"
    schedulers = cfg.get("param_scheduler")
    many = [schedulers] if isinstance(schedulers, Mapping) else list(schedulers or [])
    for index, scheduler in enumerate(many):
        if isinstance(scheduler, Mapping):
            own = {key: value for key, value in scheduler.items() if key != "convert_to_iter_based"}
            yield PARAM_SCHEDULERS, {"optimizer": Given(), **own}, f"param_scheduler.{index}"


def _loader_parts(loader: Mapping[str, Any], path: str) -> Iterator[tuple[Registry, Any, str]]:
    if isinstance(loader.get("dataset"), Mapping):
        yield DATASETS, loader["dataset"], f"{path}.dataset"
    if isinstance(loader.get("sampler"), Mapping):
        yield DATA_SAMPLERS, {"dataset": Given(), **loader["sampler"]}, f"{path}.sampler"
    if isinstance(loader.get("batch_sampler"), Mapping):
        given = {"sampler": Given(), "batch_size": 1}
        yield DATA_SAMPLERS, {**given, **loader["batch_sampler"]}, f"{path}.batch_sampler"


def _metric_parts(cfg: Any, path: str) -> Iterator[tuple[Registry, Any, str]]:
    if isinstance(cfg, Mapping) and "metrics" in cfg:
        yield from _metric_parts(cfg["metrics"], f"{path}.metrics")
    elif isinstance(cfg, Mapping):
        yield METRICS, cfg, path
    elif isinstance(cfg, Sequence):
        for index, metric in enumerate(cfg):
            yield METRICS, metric, f"{path}.{index}"
