"""The test pipeline for images that come one at a time, from files or as arrays."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detcore.config import Config
from detcore.errors import ConfigError, DataError
from detcore.registry import TRANSFORMS

ImageSource = str | Path | np.ndarray

_FILE_LOADER = "LoadImageFromFile"
_ARRAY_LOADER = "LoadImageFromNDArray"
# There is nothing annotated in an image that is to be predicted.
_NEEDS_ANNOTATIONS = (
    "FilterAnnotations",
    "LoadAnnotations",
    "LoadPanopticAnnotations",
    "LoadTrackAnnotations",
)


@dataclass(frozen=True)
class PreparedImage:
    """An image on its way into the detector.

    Attributes:
        packed: ``dict(inputs=Tensor[C, H, W], data_samples=DetDataSample)``.
        original: the image as it was loaded, (H, W, 3) BGR, or None if the pipeline shows none.
        path: the file, None for an array.
    """

    packed: dict[str, Any]
    original: np.ndarray | None
    path: str | None


class ImagePipeline:
    """Applies a test pipeline to files and to arrays alike.

    Args:
        transforms: configs of the transforms, as in ``test_dataloader.dataset.pipeline``; they are left as
            they are. Or callables, used as they are for both kinds of images.
        default_scope: scope that plain names are looked up in first.
        path: where in the config they stand, for messages.
    """

    def __init__(
        self,
        transforms: Sequence[Any],
        *,
        default_scope: str | None = None,
        path: str = "test_dataloader.dataset.pipeline",
    ) -> None:
        steps = [(f"{path}.{number}", step) for number, step in enumerate(transforms) if not _annotated(step)]
        self._steps = [TRANSFORMS.build(step, default_scope=default_scope, path=at) for at, step in steps]
        self._for_arrays = [
            TRANSFORMS.build({**step, "type": _like(step["type"])}, default_scope=default_scope, path=at)
            if _is(step, _FILE_LOADER)
            else built
            for (at, step), built in zip(steps, self._steps, strict=True)
        ]

    def __call__(self, image: ImageSource, img_id: int = 0) -> PreparedImage:
        """Load and transform one image.

        Args:
            image: file, or array (H, W, 3) BGR uint8.
            img_id: its number.

        Raises:
            DataError: it cannot be read, or the pipeline refuses it.
        """
        path = None if isinstance(image, np.ndarray) else str(image)
        results: Any = {"img_id": img_id}
        results["img" if path is None else "img_path"] = image if path is None else path
        original = None
        for step in self._for_arrays if path is None else self._steps:
            results = step(results)
            if results is None:
                raise DataError(f"the pipeline refuses {path or 'the image'} at {type(step).__name__}")
            if original is None and "img" in results:
                original = results["img"]
        if "inputs" not in results:
            raise ConfigError("the test pipeline does not end with PackDetInputs: there are no `inputs`")
        return PreparedImage(results, original, path)


def transform_configs(cfg: Config) -> list[Any]:
    """Configs of the transforms that test images go through.

    Args:
        cfg: config with ``test_dataloader`` (else ``val_dataloader``), where data sets may be wrapped, or
            with ``test_pipeline``.

    Raises:
        ConfigError: there is none.
    """
    for name in ("test_dataloader", "val_dataloader"):
        dataset: Any = (cfg.get(name) or {}).get("dataset")
        while isinstance(dataset, Mapping):
            if dataset.get("pipeline"):
                return list(dataset["pipeline"])
            inner = dataset.get("dataset") or (dataset.get("datasets") or [None])[0]
            dataset = inner
    if cfg.get("test_pipeline"):
        return list(cfg["test_pipeline"])
    raise ConfigError("the config names no test pipeline: test_dataloader.dataset.pipeline is missing")


def as_pipeline(pipeline: Any, default_scope: str | None) -> Callable[[ImageSource], PreparedImage]:
    """A pipeline that a caller brings along: an `ImagePipeline`, configs, or one callable on ``results``."""
    if isinstance(pipeline, ImagePipeline):
        return pipeline
    steps = list(pipeline) if isinstance(pipeline, Sequence) else [pipeline]
    return ImagePipeline(steps, default_scope=default_scope, path="test_pipeline")


def _is(step: Any, name: str) -> bool:
    kind = step.get("type") if isinstance(step, Mapping) else None
    return (kind if isinstance(kind, str) else getattr(kind, "__name__", "")).rpartition(".")[2] == name


def _like(kind: Any) -> str:
    """The array loader of the same scope."""
    scope = kind.rpartition(".")[0] if isinstance(kind, str) else ""
    return f"{scope}.{_ARRAY_LOADER}" if scope else _ARRAY_LOADER


def _annotated(step: Any) -> bool:
    return any(_is(step, name) for name in _NEEDS_ANNOTATIONS)
