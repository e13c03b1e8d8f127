"""Switches test-time augmentation on in a config: several views of each test image, merged by a wrapper."""

import copy
import logging
from collections.abc import Iterator
from typing import Any

from detcore.config import Config
from detcore.data.pack import META_KEYS
from detcore.errors import ConfigError

_log = logging.getLogger(__name__)

DEFAULT_MODEL = {
    "type": "DetTTAModel",
    "tta_cfg": {"nms": {"type": "nms", "iou_threshold": 0.5}, "max_per_img": 100},
}


def use_tta(cfg: Config) -> None:
    """Change ``cfg`` in place: test data goes through ``tta_pipeline``, predictions through ``tta_model``.

    Where the config has no ``tta_pipeline``, each image is predicted as the test pipeline gives it and
    mirrored. Where it has no ``tta_model``, `DetTTAModel` merges by suppression at an overlap of 0.5 and
    keeps 100 boxes an image.

    Args:
        cfg: The config of a test.

    Raises:
        ConfigError: There is no test data, or its pipeline does not end in ``PackDetInputs`` so that views
            cannot be made from it.
    """
    datasets = list(_innermost((cfg.get("test_dataloader") or {}).get("dataset")))
    if not datasets:
        raise ConfigError("test-time augmentation needs test_dataloader.dataset; the config has none")
    model, pipeline = cfg.get("tta_model"), cfg.get("tta_pipeline")
    if model is None:
        _log.warning("the config has no tta_model; predictions are merged by DetTTAModel's defaults")
        model = copy.deepcopy(DEFAULT_MODEL)
    if pipeline is None:
        _log.warning("the config has no tta_pipeline; the test pipeline is used as it is and mirrored")
    for dataset in datasets:
        dataset["pipeline"] = copy.deepcopy(pipeline) if pipeline else _mirrored(dataset.get("pipeline"))
    hook = {"type": "PrepareTTAHook", "tta_cfg": model}
    cfg["custom_hooks"] = [*(cfg.get("custom_hooks") or []), hook]


def _innermost(dataset: Any) -> Iterator[dict[str, Any]]:
    """The data sets inside of wrappers, which are those with pipelines that load images."""
    if not isinstance(dataset, dict):
        return
    inner = dataset.get("dataset", dataset.get("datasets"))
    if inner is None:
        yield dataset
    for each in inner if isinstance(inner, list | tuple) else [inner]:
        yield from _innermost(each)


def _mirrored(pipeline: Any) -> list[dict[str, Any]]:
    """A test pipeline whose last step packs two views: mirrored and as it is."""
    steps = copy.deepcopy(list(pipeline or ()))
    last = steps.pop() if steps else None
    if not isinstance(last, dict) or str(last.get("type")).rsplit(".", 1)[-1] != "PackDetInputs":
        raise ConfigError(
            "the test pipeline cannot be turned into views, because its last step is "
            f"{last.get('type') if isinstance(last, dict) else last!r} and not PackDetInputs; "
            "write a tta_pipeline with TestTimeAug"
        )
    keys = tuple(last.get("meta_keys") or META_KEYS)
    last["meta_keys"] = (*keys, *(key for key in META_KEYS if key not in keys))
    flips = [{"type": "RandomFlip", "prob": 1.0}, {"type": "RandomFlip", "prob": 0.0}]
    return [*steps, {"type": "TestTimeAug", "transforms": [flips, [last]]}]
