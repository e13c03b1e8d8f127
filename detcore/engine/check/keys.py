"""The keys at the top level: misspelt settings and variables, missing groups, configs of MMDetection 2.x."""
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from detcore.data.loader_config import KNOWN as LOADER_KEYS
from detcore.engine.check.places import origin
from detcore.engine.check.reading import dicts, table
from detcore.engine.settings import KNOWN_KEYS, RunConfig
from detcore.registry.problems import Problem, not_given_first
from detcore.registry.spelling import ranked, slip

# Names that configs give to their own variables.
HELPERS = (
    "train_pipeline", "val_pipeline", "test_pipeline", "dataset_type", "data_root", "train_dataset",
    "val_dataset", "test_dataset", "train_pipeline_stage2", "max_epochs", "max_iters", "base_lr", "interval",
    "classes", "num_classes", "metainfo", "image_size", "img_scale", "model_name", "file_client_args",
    "batch_size", "num_workers",
)  # fmt: skip
OLD_KEYS = {
    "data": "train_dataloader, val_dataloader and test_dataloader",
    "optimizer": "optim_wrapper=dict(type='OptimWrapper', optimizer=...)",
    "optimizer_config": "optim_wrapper=dict(clip_grad=...)",
    "lr_config": "param_scheduler",
    "momentum_config": "param_scheduler",
    "runner": "train_cfg",
    "evaluation": "train_cfg=dict(val_interval=...) and val_evaluator",
    "checkpoint_config": "default_hooks=dict(checkpoint=...)",
    "log_config": "default_hooks=dict(logger=...) and vis_backends",
    "total_epochs": "train_cfg=dict(max_epochs=...)",
    "resume_from": "resume=True with load_from",
    "dist_params": "env_cfg=dict(dist_cfg=...)",
    "workflow": "train_cfg and val_cfg",
    "fp16": "optim_wrapper=dict(type='AmpOptimWrapper')",
}
GROUPS = {
    "train": ("train_dataloader", "train_cfg", "optim_wrapper"),
    "val": ("val_dataloader", "val_evaluator"),
    "test": ("test_dataloader", "test_evaluator"),
}


def old_config(cfg: RunConfig) -> Problem | None:
    """The one thing to say of a config of MMDetection 2.x."""
    shown = [key for key in OLD_KEYS if key in cfg]
    data = table(cfg.get("data"))
    if {"samples_per_gpu", "imgs_per_gpu"} & set(data):
        shown[shown.index("data")] = "data.samples_per_gpu"
    if "pretrained" in table(cfg.get("model")):
        shown.append("model.pretrained")
    new = [key for keys in GROUPS.values() for key in keys if key in cfg]
    if len(shown) < 2 or new:
        return None
    return Problem(
        shown[0],
        f"this is a config of MMDetection 2.x, as {', '.join(shown)} show; detcore reads those of 3.x",
        "docs/from-mmdetection.md, section 'Configs of MMDetection 2.x', says what to write instead",
    )


def check_keys(cfg: RunConfig, words: Sequence[str]) -> Iterator[Problem]:
    """Top-level keys that look misspelt, or that had a meaning in MMDetection 2.x.

    Args:
        cfg: The whole config.
        words: Names that configs are known to give to variables of their own.
    """
    helpers = [*HELPERS, *words]
    for key in map(str, cfg):
        if key in KNOWN_KEYS or key in helpers or key.startswith("_"):
            continue
        if key in OLD_KEYS:
            if isinstance(cfg[key], Mapping):
                text = "is a setting of MMDetection 2.x and has no effect"
                yield Problem(key, text, f"write {OLD_KEYS[key]}", severity="warning")
            continue
        setting = slip(key, KNOWN_KEYS)
        if setting is not None:
            yield Problem(key, "a key of this name has no effect", f"did you mean {setting!r}?")
            continue
        helper = slip(key, HELPERS)
        if helper is None and not is_used(cfg, key):
            helper = slip(key, [*words, *_of_other_files(cfg, key)])
        if helper is not None:
            text = "a variable of this name has no effect on others"
            yield Problem(key, text, f"did you mean {helper!r}?", severity="warning")


def _of_other_files(cfg: RunConfig, key: str) -> Iterator[str]:
    """Variables that a base sets: what this file sets may be meant to override one of them."""
    own = origin(cfg, key)
    for other in map(str, cfg):
        place = origin(cfg, other)
        if own is not None and place is not None and place[0] != own[0]:
            yield other


def is_used(cfg: RunConfig, key: str) -> bool:
    """Whether the value of a variable stands in a setting, so that the variable did what it is for."""
    value = cfg[key]
    inside = (each for name in KNOWN_KEYS & set(cfg) for _, each in dicts(cfg[name], name))
    found = (inner for each in inside for inner in each.values())
    return any(each == value or (isinstance(each, list | tuple) and value in each) for each in found)


def check_shape(cfg: RunConfig, modes: Sequence[str]) -> Iterator[Problem]:
    """What must be given and is not, unless a misspelt key says it."""
    misspelt = {meant for key in cfg if key not in KNOWN_KEYS and (meant := slip(str(key), KNOWN_KEYS))}
    model = cfg.get("model")
    if not isinstance(model, Mapping) and not hasattr(model, "parameters") and "model" not in misspelt:
        yield Problem("model", "the config describes no model", "write model=dict(type=...)")
    for mode in modes:
        missing = [key for key in GROUPS[mode] if cfg.get(key) is None]
        if missing and len(missing) < len(GROUPS[mode]) and not misspelt & set(missing):
            given = [key for key in GROUPS[mode] if key not in missing]
            yield Problem(
                missing[0],
                f"{', '.join(missing)} missing, although {', '.join(given)} is given",
                f"to {mode}, give all of {', '.join(GROUPS[mode])}; else none of them",
            )
        loader = cfg.get(f"{mode}_dataloader")
        if isinstance(loader, Mapping):
            yield from _check_loader(loader, f"{mode}_dataloader")
    scheduler = cfg.get("param_scheduler")
    if scheduler is not None and not isinstance(scheduler, Mapping | Sequence):
        text = f"must be a dict or a list of dicts, got {type(scheduler).__name__}"
        yield Problem("param_scheduler", text)
    train = cfg.get("train_cfg")
    if isinstance(train, Mapping) and "type" in train and "by_epoch" in train:
        yield Problem("train_cfg", "takes either type or by_epoch, not both")


def _check_loader(loader: Mapping[str, Any], path: str) -> Iterator[Problem]:
    hinted: set[str] = set()
    for key in map(str, loader):
        if key not in LOADER_KEYS:
            close = ranked(key, not_given_first(LOADER_KEYS, loader))
            hinted.update(name for _, name in close[:1])
            hint = f"did you mean {close[0][1]!r}?" if close else f"it has {', '.join(LOADER_KEYS)}"
            yield Problem(f"{path}.{key}", "a dataloader has no such key", hint)
    if loader.get("dataset") is None and "dataset" not in hinted:
        yield Problem(f"{path}.dataset", "missing")
