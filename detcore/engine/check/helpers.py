"""Free variables of a config: do they reach what they were set for, and are their values right?

A variable that a base has used keeps no tie to its uses: setting it anew in a file that inherits changes
nothing else. That is the trap that users of Python configs meet first.
"""
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from detcore.config import Config
from detcore.config.overrides import ORIGIN as OVERRIDES
from detcore.engine.check.places import origin, shown
from detcore.engine.check.reading import dicts
from detcore.engine.settings import KNOWN_KEYS, RunConfig
from detcore.registry.examine import Examination
from detcore.registry.planning import Planner
from detcore.registry.problems import Problem

# Variable -> the key that is set from it.
TARGETS = {
    "data_root": "data_root",
    "dataset_type": "type",
    "backend_args": "backend_args",
    "file_client_args": "file_client_args",
    "metainfo": "metainfo",
    "classes": "classes",
    "num_classes": "num_classes",
    "train_pipeline": "pipeline",
    "val_pipeline": "pipeline",
    "test_pipeline": "pipeline",
    "train_dataset": "dataset",
    "val_dataset": "dataset",
    "test_dataset": "dataset",
    "max_epochs": "max_epochs",
    "max_iters": "max_iters",
    "base_lr": "lr",
}


def check_helpers(cfg: RunConfig, examination: Examination, scope: str | None) -> Iterator[Problem]:
    """Variables without the effect that they were set for, and mistakes in their values."""
    for key in cfg:
        if key in KNOWN_KEYS or str(key).startswith("_"):
            continue
        if key in TARGETS:
            yield from _check_effect(cfg, str(key))
        if isinstance(cfg[key], dict | list | tuple):
            planner = Planner(examiner=examination)
            examination.look(planner, cfg[key], str(key), scope, strict=False)
            for problem in planner.problems:
                if not problem.subject:  # names that nobody has matter where they are used
                    yield replace(problem, severity="warning")


def _check_effect(cfg: RunConfig, name: str) -> Iterator[Problem]:
    value, own = cfg[name], origin(cfg, name)
    if own is None or value is None or own[0] not in _outermost(cfg):
        return
    stale: list[str] = []
    for key in KNOWN_KEYS & set(cfg):
        for path, each in dicts(cfg[key], key):
            for inner, found in each.items():
                if found == value or _contains(found, value):
                    return
                place = f"{path}.{inner}"
                if inner == TARGETS[name] and _belongs(name, place, each) and _elsewhere(cfg, place, own):
                    stale.append(place)
    if stale:
        where = shown(origin(cfg, stale[0]))
        more = f" (and {len(stale) - 1} more places)" if len(stale) > 1 else ""
        yield Problem(
            name,
            f"has no effect: {stale[0]}{more} was set at {where}, before this, and keeps its value",
            f"set {stale[0]}={name} too",
            severity="warning",
        )


def _outermost(cfg: RunConfig) -> tuple[str, ...]:
    """The file that was asked for and the command line: what the user looks at."""
    file = cfg.filename if isinstance(cfg, Config) else None
    return (OVERRIDES, *([file] if file else []))


def _contains(found: Any, value: Any) -> bool:
    """Whether a text or a list was made from the value."""
    if isinstance(value, str) and isinstance(found, str):
        return bool(value) and value in found
    return isinstance(found, list | tuple) and any(each == value for each in found)


def _belongs(name: str, place: str, owner: Mapping[str, Any]) -> bool:
    """Whether a variable of this name is meant for this place."""
    mode, _, rest = name.partition("_")
    if mode in ("train", "val", "test") and rest in ("pipeline", "dataset"):
        return place.startswith(f"{mode}_dataloader")
    if name == "dataset_type":
        return place.endswith(".dataset.type") and "_dataloader" in place and "dataset" not in owner
    if name in ("max_epochs", "max_iters"):
        return place.startswith("train_cfg.")
    if name == "base_lr":
        return place.startswith("optim_wrapper.optimizer.")
    return place.startswith("model.") if name == "num_classes" else "_dataloader" in place


def _elsewhere(cfg: RunConfig, place: str, own: tuple[str, int]) -> bool:
    found = origin(cfg, place)
    return found is not None and found[0] != own[0]
