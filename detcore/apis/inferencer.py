"""One object that predicts files, folders and arrays, draws what it found and writes it down."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

from detcore.apis.configs import published_weights
from detcore.apis.inference import init_detector, model_pipeline, predict_batch
from detcore.apis.pipeline import PreparedImage
from detcore.apis.sources import iterate_images
from detcore.config import Config
from detcore.errors import ConfigError, DataError
from detcore.structures import DetDataSample, InstanceData
from detcore.structures.mask import as_bitmaps, encode_masks, masks_polygons
from detcore.visualization import DetLocalVisualizer
from detcore.visualization.backends import write_image

logger = logging.getLogger(__name__)

_WRITABLE = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Prediction:
    """What was found in one image.

    Attributes:
        sample: with ``pred_instances`` on the CPU.
        path: the file, None for an array.
        name: under which pictures and results are written, without suffix.
        image: the image as it was loaded, (H, W, 3) BGR.
    """

    sample: DetDataSample
    path: str | None
    name: str
    image: np.ndarray | None

    @property
    def file_name(self) -> str:
        """Name for a drawn picture, with the suffix of the file where that can be written."""
        suffix = Path(self.path).suffix.lower() if self.path else ".jpg"
        return self.name + (suffix if suffix in _WRITABLE else ".jpg")

    def as_dict(self, score_thr: float = 0.0, polygons: bool = False) -> dict[str, Any]:
        """``img_path``, ``bboxes`` (xyxy in pixels), ``scores``, ``labels``, and ``masks`` as RLE, as lists.

        Args:
            score_thr: lowest score that is kept.
            polygons: whether masks are there as ``polygons`` too: for each instance a list of
                ``[x1, y1, x2, y2, ...]``, in pixels of the image.
        """
        found = self.sample.pred_instances
        found = found[found.scores >= score_thr]
        record: dict[str, Any] = {"img_path": self.path}
        for name in ("bboxes", "scores", "labels"):
            record[name] = found[name].tolist()
        if "masks" in found:
            record["masks"] = encode_masks(found["masks"])
            if polygons:
                record["polygons"] = masks_polygons(found["masks"])
        return record


class DetInferencer:
    """Predicts images with one detector.

    Args:
        model: config file, a shipped config's name, the name of a published model (``mmdet::rtmdet-s``, also
            without ``mmdet::``), a `Config`, or a detector of `init_detector`. None takes the config that the
            checkpoint of `weights` was trained with.
        weights: checkpoint, or another name of weights. None takes those that were published under the
            model's name, if it has any.
        device: where to compute; None is the first GPU, or the CPU where there is none.
        palette: see `init_detector`.
        cfg_options: overrides of the config.
        trust: whether modules that the config names may be imported.

    Raises:
        ConfigError: neither model nor weights were given, or the config is wrong.
        CheckpointError: the weights do not fit.
    """

    def __init__(
        self,
        model: str | Path | Config | nn.Module | None = None,
        weights: str | Path | None = None,
        device: str | torch.device | None = None,
        palette: str = "none",
        cfg_options: Mapping[str, Any] | None = None,
        *,
        trust: bool = False,
    ) -> None:
        if isinstance(model, nn.Module):
            self.model: Any = model
        else:
            if model is None and weights is None:
                raise ConfigError("DetInferencer needs a model (config or name), or weights with a config")
            if weights is None and isinstance(model, str):
                weights = published_weights(model)
            place = device or ("cuda" if torch.cuda.is_available() else "cpu")
            self.model = init_detector(model, weights, palette, place, cfg_options, trust=trust)
        self.pipeline = model_pipeline(self.model)
        self.visualizer = DetLocalVisualizer()
        self.visualizer.dataset_meta = dict(self.model.dataset_meta)

    def __call__(
        self,
        inputs: Any,
        batch_size: int = 1,
        return_vis: bool = False,
        show: bool = False,
        wait_time: float = 0,
        no_save_vis: bool = False,
        draw_pred: bool = True,
        pred_score_thr: float = 0.3,
        return_datasamples: bool = False,
        print_result: bool = False,
        no_save_pred: bool = True,
        out_dir: str | Path = "",
        on_bad_image: str = "raise",
        polygons: bool = False,
    ) -> dict[str, list[Any]]:
        """Predict all images.

        Args:
            inputs: file, folder, pattern, array (BGR), or an iterable of those.
            batch_size: images that are computed together.
            return_vis: return the drawn pictures.
            show: open a window for each.
            wait_time: milliseconds that it stays; 0 waits for a key.
            no_save_vis: write no pictures.
            draw_pred: draw what was found.
            pred_score_thr: lowest score that is drawn. What is returned and written has all scores.
            return_datasamples: return data samples instead of dicts.
            print_result: log each result.
            no_save_pred: write no results.
            out_dir: gets ``vis/<name>.jpg`` and ``preds/<name>.json``; nothing is written if it is empty.
            on_bad_image: ``'raise'``, or ``'skip'`` to name an unreadable image in a warning and go on.
            polygons: give masks as ``polygons``, too; see `Prediction.as_dict`.

        Returns:
            ``predictions``: a dict or data sample for each image that could be read; ``visualization``: RGB
            pictures if `return_vis`; ``skipped``: files that could not be read.
        """
        skipped: list[str] = []
        collected: dict[str, list[Any]] = {"predictions": [], "visualization": [], "skipped": skipped}
        draws = return_vis or show or bool(out_dir and not no_save_vis)
        for found in self.iterate(inputs, batch_size, on_bad_image=on_bad_image, skipped=skipped):
            wants_record = not return_datasamples or not no_save_pred or print_result
            record = found.as_dict(polygons=polygons) if wants_record else {}
            collected["predictions"].append(found.sample if return_datasamples else record)
            if draws:
                picture = self.draw(found, pred_score_thr, draw_pred)
                if return_vis:
                    collected["visualization"].append(picture)
                if show:
                    self.visualizer.show(picture, found.name, wait_time)
                if out_dir and not no_save_vis:
                    write_image(Path(out_dir) / "vis" / found.file_name, picture)
            if out_dir and not no_save_pred:
                write_prediction(Path(out_dir) / "preds" / f"{found.name}.json", record)
            if print_result:
                logger.info("%s", record)
        return collected

    def iterate(
        self,
        inputs: Any,
        batch_size: int = 1,
        *,
        on_bad_image: str = "raise",
        skipped: list[str] | None = None,
    ) -> Iterator[Prediction]:
        """Predict images one after the other; no more than a batch of them is in memory.

        Args:
            inputs: see the call.
            batch_size: images that are computed together.
            on_bad_image: ``'raise'`` or ``'skip'``.
            skipped: list to which unreadable files are added.

        Raises:
            ConfigError: an argument is unusable.
            DataError: an image cannot be read, and is not to be skipped.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        if on_bad_image not in ("raise", "skip"):
            raise ConfigError(f"on_bad_image must be 'raise' or 'skip', got {on_bad_image!r}")
        prepared = self._prepared(inputs, on_bad_image, [] if skipped is None else skipped)
        name_of = _namer()
        while batch := list(islice(prepared, batch_size)):
            found = predict_batch(self.model, [one.packed for one in batch])
            for one, sample in zip(batch, found, strict=True):
                yield Prediction(sample.cpu(), one.path, name_of(one.path), one.original)

    def draw(
        self, found: Prediction, score_thr: float = 0.3, draw_pred: bool = True, scale: int = 1
    ) -> np.ndarray:
        """The picture with what was found on it, uint8 RGB (scale * H, scale * W, 3).

        Args:
            found: a prediction.
            score_thr: lowest score that is drawn.
            draw_pred: whether to draw at all.
            scale: by how much to enlarge the picture first, so that labels do not cover a small one.

        Raises:
            DataError: the pipeline did not show the image.
        """
        if found.image is None:
            raise DataError(f"there is no picture of {found.name} to draw on: the pipeline sets no `img`")
        image = found.image[..., ::-1] if found.image.ndim == 3 else found.image
        instances = found.sample.pred_instances
        kept = instances[instances.scores >= (score_thr if draw_pred else np.inf)]
        return self.visualizer.draw_instances(*_enlarged(image, kept, scale))

    def _prepared(self, inputs: Any, on_bad_image: str, skipped: list[str]) -> Iterator[PreparedImage]:
        for number, image in enumerate(iterate_images(inputs)):
            try:
                yield self.pipeline(image, img_id=number)
            except DataError as error:
                if on_bad_image == "raise":
                    raise
                skipped.append(str(image) if isinstance(image, Path) else f"array {number}")
                logger.warning("skipped: %s", error)


def write_prediction(path: Path, record: Mapping[str, Any]) -> None:
    """Write one result as JSON; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record), encoding="utf-8")


def _enlarged(image: np.ndarray, instances: InstanceData, scale: int) -> tuple[np.ndarray, InstanceData]:
    if scale == 1:
        return image, instances
    larger = instances.clone()
    larger.bboxes = instances.bboxes * scale
    if "masks" in instances:
        larger.masks = as_bitmaps(instances.masks).repeat(scale, axis=1).repeat(scale, axis=2)
    size = (image.shape[1] * scale, image.shape[0] * scale)
    return cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_CUBIC), larger


def _namer() -> Callable[[str | None], str]:
    """Names for results: the file's own, with a number where two files of different folders share it."""
    used: dict[str, int] = {}

    def name(path: str | None) -> str:
        stem = f"{used.get('', 0):08d}" if path is None else Path(path).stem
        key = "" if path is None else stem
        used[key] = used.get(key, 0) + 1
        return stem if path is None or used[key] == 1 else f"{stem}_{used[key]}"

    return name
