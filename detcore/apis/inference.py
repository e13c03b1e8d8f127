"""From config and checkpoint to a detector, and from an image to what it finds."""

import copy
import difflib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from detcore import plugins
from detcore.apis.pipeline import ImagePipeline, ImageSource, as_pipeline, transform_configs
from detcore.config import Config, shipped_configs
from detcore.engine.checkpoint import load_checkpoint, load_into_model
from detcore.engine.evaluation_loops import predict_step
from detcore.errors import ConfigError, PluginError, RegistryError
from detcore.registry import DATASETS, MODELS
from detcore.structures import DetDataSample
from detcore.visualization import get_palette

logger = logging.getLogger(__name__)


def init_detector(
    config: str | Path | Config,
    checkpoint: str | Path | None = None,
    palette: str = "none",
    device: str | torch.device = "cpu",
    cfg_options: Mapping[str, Any] | None = None,
    *,
    trust: bool = False,
) -> nn.Module:
    """Build a detector for inference.

    Args:
        config: file, name of a shipped config such as ``retinanet_r50_fpn_1x_coco``, or a `Config`, which is
            left as it is.
        checkpoint: file of weights; every key must fit. None leaves them random.
        palette: ``'none'`` takes the data set's colours, ``'random'`` the project's own.
        device: where the detector computes.
        cfg_options: overrides of the config, such as ``{'model.test_cfg.score_thr': 0.1}``.
        trust: whether modules that the config names may be imported.

    Returns:
        The detector in evaluation mode, with ``cfg`` and ``dataset_meta`` (``classes``, ``palette``).

    Raises:
        ConfigError: the config is wrong.
        CheckpointError: the file is damaged, or its weights are not this detector's.
    """
    cfg = load_config(config, cfg_options, trust=trust)
    if cfg.get("model") is None:
        raise ConfigError(f"{cfg.filename or 'the config'} has no `model`")
    _load_user_modules(cfg, trust)
    scope = cfg.get("default_scope")
    model_cfg = dict(cfg["model"])
    if cfg.get("data_preprocessor") is not None:
        model_cfg.setdefault("data_preprocessor", cfg["data_preprocessor"])
    model: Any = MODELS.build(model_cfg, default_scope=scope, path="model")
    meta: Mapping[str, Any] = {}
    if checkpoint is None:
        logger.warning("no checkpoint was given: the weights are random, and so is what they find")
    else:
        content = load_checkpoint(checkpoint)
        meta = content.get("meta") or {}
        load_into_model(model, content.get("state_dict", content), strict=True, source=checkpoint)
    model.cfg = cfg
    model.dataset_meta = _dataset_meta(meta, cfg, palette)
    return model.to(device).eval()


def inference_detector(
    model: nn.Module, imgs: ImageSource | Sequence[ImageSource], test_pipeline: Any = None
) -> DetDataSample | list[DetDataSample]:
    """Detect objects in one image or several, one at a time; neither model nor config is changed.

    Args:
        model: what `init_detector` gives.
        imgs: file or array (H, W, 3) BGR, or a list of those.
        test_pipeline: what to prepare images with instead of the config's test pipeline: configs of
            transforms, an `ImagePipeline`, or a callable on ``results``.

    Returns:
        Data samples with ``pred_instances`` (``bboxes`` Tensor[N, 4] xyxy in pixels of the image, ``scores``,
        ``labels``); a list for a list.

    Raises:
        DataError: an image cannot be read.
    """
    pipeline = model_pipeline(model) if test_pipeline is None else as_pipeline(test_pipeline, _scope(model))
    if isinstance(imgs, (str, Path, np.ndarray)):
        return predict_batch(model, [pipeline(imgs).packed])[0]
    return [predict_batch(model, [pipeline(image).packed])[0] for image in imgs]


def model_pipeline(model: Any) -> ImagePipeline:
    """The test pipeline of the model's own config, for files and arrays."""
    return ImagePipeline(transform_configs(model.cfg), default_scope=_scope(model))


def predict_batch(model: nn.Module, packed: Sequence[Mapping[str, Any]]) -> list[DetDataSample]:
    """Predictions for packed images, computed together.

    Args:
        model: a detector.
        packed: dicts of ``inputs`` Tensor[C, H, W] and ``data_samples``.
    """
    batch = {
        "inputs": [one["inputs"] for one in packed],
        "data_samples": [one["data_samples"] for one in packed],
    }
    with torch.no_grad():
        return predict_step(model, batch)


def load_config(
    config: str | Path | Config, cfg_options: Mapping[str, Any] | None = None, *, trust: bool = False
) -> Config:
    """A config from a file, from a shipped one's name, or a copy of the one given.

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


def _config_file(name: str) -> str:
    if "::" in name or Path(name).suffix in (".py", ".yaml", ".yml", ".json") or Path(name).exists():
        return name
    files = {path.stem: path for path in shipped_configs().rglob("*.py") if "_base_" not in path.parts}
    same = list(shipped_configs().rglob(f"{name}.py"))
    if len(same) == 1:
        return str(same[0])
    if same:
        raise ConfigError(f"several shipped configs are called {name!r}: {', '.join(map(str, sorted(same)))}")
    close = ", ".join(difflib.get_close_matches(name, files, 3)) or ", ".join(sorted(files)[:5])
    raise ConfigError(f"{name!r} is neither a file nor a shipped config; close names: {close or 'none'}")


def _load_user_modules(cfg: Config, trust: bool) -> None:
    imports = cfg.get("custom_imports") or {}
    names = imports.get("imports") or () if isinstance(imports, Mapping) else imports
    allow = bool(isinstance(imports, Mapping) and imports.get("allow_failed_imports"))
    plugins.load_user_modules(names, cfg.get("plugins") or (), trusted=trust, allow_failed=allow)


def _dataset_meta(meta: Mapping[str, Any], cfg: Config, palette: str) -> dict[str, Any]:
    """Classes and colours: from the checkpoint, else from the config's data sets, else none."""
    found = meta.get("dataset_meta") or {key: meta[key] for key in ("CLASSES", "PALETTE") if key in meta}
    known = {str(key).lower(): value for key, value in dict(found).items()}
    for source in () if known.get("classes") else _dataset_metas(cfg):
        if source.get("classes"):
            known = dict(source)
            break
    classes = known.get("classes")
    if classes:
        known["classes"] = (classes,) if isinstance(classes, str) else tuple(classes)
    else:
        logger.warning("neither checkpoint nor config names the classes: they are called by their numbers")
    own = known.get("palette") if palette == "none" else palette
    known["palette"] = get_palette(own, len(known.get("classes") or ()))
    return known


def _dataset_metas(cfg: Config) -> Iterator[Mapping[str, Any]]:
    """What the data sets of a config say of themselves, the test data first."""
    for name in ("test_dataloader", "val_dataloader", "train_dataloader"):
        dataset: Any = (cfg.get(name) or {}).get("dataset")
        while isinstance(dataset, Mapping):
            yield dataset.get("metainfo") or {}
            try:
                kind = DATASETS.get(dataset["type"], default_scope=cfg.get("default_scope"))
                yield getattr(kind, "METAINFO", {})
            except (KeyError, RegistryError, PluginError):
                logger.debug("%s.dataset has no usable type", name)
            dataset = dataset.get("dataset") or (dataset.get("datasets") or [None])[0]
    if cfg.get("metainfo"):
        yield cfg["metainfo"]


def _scope(model: Any) -> str | None:
    return model.cfg.get("default_scope")
