"""Configs by name: files, shipped and published ones, and those that checkpoints carry."""

import copy
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detcore.config import Config, shipped_configs
from detcore.config.files import SUFFIXES
from detcore.errors import CheckpointError, ConfigError
from detcore.weights.fetch import published_model


def load_config(
    config: str | Path | Config, cfg_options: Mapping[str, Any] | None = None, *, trust: bool = False
) -> Config:
    """A config from a file or by a name, or a copy of the one given.

    Args:
        config: File; name of a shipped config; name of a published model (``mmdet::rtmdet-s``, ``rtmdet-s``),
            whose config comes with the package it is of, or is shipped; or a `Config`.
        cfg_options: overrides.
        trust: whether a file may be run as Python.

    Raises:
        ConfigError: there is no such file or name, or several files have the name.
    """
    if isinstance(config, Config):
        own = copy.deepcopy(config)
        if cfg_options:
            own.merge_from_dict(dict(cfg_options))
        return own
    if not isinstance(config, (str, Path)):
        raise ConfigError(f"config must be a file's path or a Config, got {type(config).__name__}")
    return Config.fromfile(_config_file(str(config)), trust=trust, cfg_options=cfg_options)


def config_in(content: Mapping[str, Any], source: str) -> Config:
    """The config that a checkpoint was trained with, read as data.

    Args:
        content: of the checkpoint.
        source: its file, for messages.

    Raises:
        ConfigError: it carries none, or one of MMDetection 2.x.
    """
    found = _carried(content)
    if found is None:
        raise ConfigError(f"{source} does not carry its config; give one beside it")
    try:
        cfg = Config.fromstring(found, ".py") if isinstance(found, str) else Config(dict(found))
    except ConfigError as error:
        error.add_note(f"this is the config that {source} carries; give one beside it")
        raise
    if "data" in cfg and "test_dataloader" not in cfg:
        raise ConfigError(
            f"{source} carries a config of MMDetection 2.x; its weights load, but give a config of 3.x with"
            " them (docs/from-mmdetection.md)"
        )
    return cfg


def published_weights(name: str) -> str | None:
    """The address of the weights of a published model; None where the name is another config's.

    Args:
        name: what stands for the config: a file has no published weights, whatever it is called.
    """
    if _is_file(name):
        return None
    try:
        return published_model(name).addresses[0]
    except CheckpointError:
        return None


def _carried(content: Mapping[str, Any]) -> str | Mapping[str, Any] | None:
    """Text or dict: detcore and mmengine keep it in ``meta.cfg``, MMDetection 2.x in ``meta.config``."""
    meta: Any = content.get("meta")
    hub: Any = content.get("message_hub")
    running: Any = hub.get("runtime_info") if isinstance(hub, Mapping) else None
    for place, key in ((meta, "cfg"), (running, "cfg"), (meta, "config")):
        value = place.get(key) if isinstance(place, Mapping) else None
        if isinstance(value, str | Mapping) and value:
            return value
    return None


def _is_file(name: str) -> bool:
    return "::" not in name and (Path(name).suffix in SUFFIXES or Path(name).exists())


def _config_file(name: str) -> str:
    if _is_file(name):
        return name
    _, separator, inner = name.rpartition("::")
    if name.startswith("detcore::") or (separator and "/" in inner and inner.endswith(SUFFIXES)):
        return name
    same = [] if separator else list(shipped_configs().rglob(f"{name}.py"))
    if len(same) == 1:
        return str(same[0])
    if same:
        raise ConfigError(f"several shipped configs are called {name!r}: {', '.join(map(str, sorted(same)))}")
    try:
        return published_model(name).config
    except CheckpointError as error:
        if separator:
            raise ConfigError(str(error)) from error
        raise ConfigError(_unknown(name)) from error


def _unknown(name: str) -> str:
    files = {path.stem: path for path in shipped_configs().rglob("*.py") if "_base_" not in path.parts}
    close = ", ".join(difflib.get_close_matches(name, files, 3)) or ", ".join(sorted(files)[:5])
    return f"{name!r} is neither a file nor a shipped or published config; close names: {close or 'none'}"
