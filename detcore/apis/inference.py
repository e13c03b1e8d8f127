"""From config and checkpoint to a detector, and from an image to what it finds."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from detcore import plugins
from detcore.apis.configs import config_in, load_config
from detcore.apis.pipeline import ImagePipeline, ImageSource, as_pipeline, transform_configs
from detcore.config import Config
from detcore.engine.checkpoint import load_checkpoint, load_into_model
from detcore.engine.evaluation_loops import predict_step
from detcore.engine.snapshot import meta_of
from detcore.errors import ConfigError, PluginError, RegistryError
from detcore.registry import DATASETS, MODELS
from detcore.structures import DetDataSample
from detcore.visualization import get_palette
from detcore.weights import weights_in
from detcore.weights.explain import some_names

logger = logging.getLogger(__name__)


def init_detector(
    config: str | Path | Config | None,
    checkpoint: str | Path | None = None,
    palette: str = "none",
    device: str | torch.device = "cpu",
    cfg_options: Mapping[str, Any] | None = None,
    *,
    trust: bool = False,
    strict: bool = True,
) -> nn.Module:
    """Build a detector for inference.

    Args:
        config: file, name of a shipped or published config such as ``retinanet_r50_fpn_1x_coco``, or a
            `Config`, which is left as it is. None takes the config that the checkpoint carries.
        checkpoint: weights: a file, also one of MMDetection, or another name (`detcore.weights.fetch`).
            None leaves them random.
        palette: ``'none'`` takes the data set's colours, ``'random'`` the project's own.
        device: where the detector computes.
        cfg_options: overrides of the config, such as ``{'model.test_cfg.score_thr': 0.1}``.
        trust: whether modules that the config names may be imported.
        strict: whether every key must fit; else what does not is named in a warning.

    Returns:
        The detector in evaluation mode, with ``cfg`` and ``dataset_meta`` (``classes``, ``palette``). The
        checkpoint's classes come before the config's.

    Raises:
        ConfigError: the config is wrong.
        CheckpointError: the file is damaged, or its weights are not this detector's.
    """
    content = None if checkpoint is None else load_checkpoint(checkpoint)
    if config is None and content is None:
        raise ConfigError("init_detector needs a config, or a checkpoint that carries one")
    given = config_in(content or {}, str(checkpoint)) if config is None else config
    cfg = load_config(given, cfg_options, trust=trust)
    if cfg.get("model") is None:
        raise ConfigError(f"{cfg.filename or 'the config'} has no `model`")
    _load_user_modules(cfg, trust)
    scope = cfg.get("default_scope")
    model_cfg = dict(cfg["model"])
    if cfg.get("data_preprocessor") is not None:
        model_cfg.setdefault("data_preprocessor", cfg["data_preprocessor"])
    model: Any = MODELS.build(model_cfg, default_scope=scope, path="model")
    meta: Mapping[str, Any] = {}
    if checkpoint is None or content is None:
        logger.warning("no checkpoint was given: the weights are random, and so is what they find")
    else:
        load_into_model(model, weights_in(content, checkpoint), strict=strict, source=checkpoint)
        meta = meta_of(content)
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


def _load_user_modules(cfg: Config, trust: bool) -> None:
    imports = cfg.get("custom_imports") or {}
    names = imports.get("imports") or () if isinstance(imports, Mapping) else imports
    allow = bool(isinstance(imports, Mapping) and imports.get("allow_failed_imports"))
    plugins.load_user_modules(names, cfg.get("plugins") or (), trusted=trust, allow_failed=allow)


def _dataset_meta(meta: Mapping[str, Any], cfg: Config, palette: str) -> dict[str, Any]:
    """Classes and colours: from the checkpoint, else from the config's data sets, else none."""
    known = _stated_meta(meta)
    configured = next((source for source in _dataset_metas(cfg) if source.get("classes")), {})
    if not known.get("classes"):
        known = dict(configured)
    elif configured and _class_names(configured["classes"]) != _class_names(known["classes"]):
        logger.warning(
            "the checkpoint's classes are others than those of the config's data sets, and are used: %s",
            some_names(_class_names(known["classes"])),
        )
    if known.get("classes"):
        known["classes"] = _class_names(known["classes"])
    else:
        logger.warning("neither checkpoint nor config names the classes: they are called by their numbers")
    own = known.get("palette") if palette == "none" else palette
    known["palette"] = get_palette(own, len(known.get("classes") or ()))
    return known


def _stated_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of its data set; MMDetection 2.x said it in capitals, beside other things."""
    found = meta.get("dataset_meta") or {key: meta[key] for key in ("CLASSES", "PALETTE") if key in meta}
    return {str(key).lower(): value for key, value in found.items()} if isinstance(found, Mapping) else {}


def _class_names(classes: Any) -> tuple[str, ...]:
    return (classes,) if isinstance(classes, str) else tuple(str(name) for name in classes)


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
