"""Predictions of one image as an entry, entries as a table, a table as COCO's result files."""
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from det_datasets.coco_truth import CocoTruth, Detections
from detcore.errors import DataError
from detcore.structures.mask import encode_masks


def entry_of(
    sample: Any, classes: Sequence[str], *, with_masks: bool = False, with_truth: bool = False
) -> dict[str, Any]:
    """What a metric keeps of one predicted image: arrays, no dict per box.

    Args:
        sample: a data sample or its dict, with ``img_id`` and ``pred_instances`` (``bboxes`` [N, 4] xyxy in
            absolute pixels of the original image, ``scores`` [N], ``labels`` [N]).
        classes: names of the classes.
        with_masks: keep ``masks`` as RLE, too.
        with_truth: keep what is annotated in the sample, too.

    Returns:
        Dict of ``img_id``, ``bboxes`` (float [N, 4] xyxy), ``scores``, ``labels``, and where asked for
        ``masks`` and ``truth``.

    Raises:
        DataError: a part is missing, a number is not finite, or a label has no class.
    """
    content = sample if isinstance(sample, dict) else sample.to_dict()
    if "img_id" not in content:
        raise DataError(
            "a prediction has no img_id, so its truth cannot be found: the test pipeline's PackDetInputs "
            f"must keep 'img_id' in meta_keys (got {', '.join(sorted(map(str, content)))})"
        )
    image_id, found = content["img_id"], content.get("pred_instances")
    if found is None:
        raise DataError(f"image {image_id}: there are no pred_instances to evaluate")
    boxes = _numbers(_field(found, "bboxes", image_id)).reshape(-1, 4)
    scores = _numbers(_field(found, "scores", image_id))
    labels = _numbers(_field(found, "labels", image_id), np.int64)
    if not len(boxes) == len(scores) == len(labels):
        raise DataError(
            f"image {image_id}: {len(boxes)} boxes, {len(scores)} scores, {len(labels)} labels do not match"
        )
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise DataError(f"image {image_id}: the predicted boxes or scores hold NaN or infinite numbers")
    if len(labels) and not (labels.min() >= 0 and labels.max() < len(classes)):
        raise DataError(
            f"image {image_id}: label {int(labels.max())} was predicted, but the data set has {len(classes)} "
            f"classes ({', '.join(list(classes)[:8])}); num_classes of the head does not fit"
        )
    entry = {"img_id": image_id, "bboxes": boxes, "scores": scores, "labels": labels.astype(np.int32)}
    if with_masks:
        entry["masks"] = encode_masks(_field(found, "masks", image_id))
        entry["mask_scores"] = _numbers(found.get("mask_scores", scores))
        _check_masks(entry, content.get("ori_shape"))
    if with_truth:
        entry["truth"] = _truth_entry(content, image_id)
    return entry


def table_of(results: Sequence[Mapping[str, Any]], truth: CocoTruth, source: str | None) -> Detections:
    """All entries as one table.

    Args:
        results: what `entry_of` gives, for each image.
        truth: the annotated images.
        source: the annotation file, for messages.

    Raises:
        DataError: an image that is not annotated was predicted.
    """
    index = truth.image_index()
    unknown = [entry["img_id"] for entry in results if entry["img_id"] not in index]
    if unknown:
        raise DataError(
            f"{len(unknown)} predicted images are not in {source or 'the truth'}, the first has id "
            f"{unknown[0]!r} (the file's first ids: {truth.image_ids[:3]}). "
            "Data set and metric need the same ann_file."
        )
    rows = [index[entry["img_id"]] for entry in results]
    counts = [len(entry["scores"]) for entry in results]
    boxes = _joined([entry["bboxes"] for entry in results], (0, 4))
    # Float32 corners become float64 before the subtraction: pycocotools' Python numbers do the same.
    boxes[:, 2:] -= boxes[:, :2]
    return Detections(
        images=np.repeat(np.array(rows, dtype=np.int64), counts),
        labels=_joined([entry["labels"] for entry in results], (0,)).astype(np.int64),
        boxes=boxes,
        scores=_joined([entry["scores"] for entry in results], (0,)),
        segmentations=[mask for entry in results for mask in entry.get("masks", ())],
        mask_scores=_joined([entry.get("mask_scores", entry["scores"]) for entry in results], (0,)),
    )


def truth_of_results(results: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> CocoTruth:
    """The annotated objects that came with the predictions; labels are the category ids."""
    entries = sorted(results, key=lambda entry: _order(entry["img_id"]))
    truths = [entry["truth"] for entry in entries]
    boxes = _joined([truth["bboxes"] for truth in truths], (0, 4))
    boxes[:, 2:] -= boxes[:, :2]
    masks = [mask for truth in truths for mask in truth.get("masks") or [None] * len(truth["labels"])]
    return CocoTruth(
        image_ids=[entry["img_id"] for entry in entries],
        image_sizes=np.array([truth["size"] for truth in truths], dtype=np.int64).reshape(-1, 2),
        categories=list(enumerate(classes)),
        images=np.repeat(np.arange(len(truths)), [len(truth["labels"]) for truth in truths]),
        category_ids=_joined([truth["labels"] for truth in truths], (0,)).astype(np.int64),
        boxes=boxes,
        areas=boxes[:, 2] * boxes[:, 3],
        crowd=_joined([truth["crowd"] for truth in truths], (0,)).astype(bool),
        segmentations=masks,
    )


def write_results(
    prefix: str, detections: Detections, truth: CocoTruth, category_ids: Mapping[int, int],
    metrics: Sequence[str],
) -> list[Path]:
    """Write ``<prefix>.<metric>.json`` in the form that COCO's server takes.

    Args:
        prefix: folder and start of the file's name; the folder is made.
        detections: what was found.
        truth: gives the images' ids.
        category_ids: category id of each label.
        metrics: ``bbox``, ``segm``, ``proposal``.

    Returns:
        The files that were written.
    """
    paths = []
    for metric in metrics:
        path = Path(f"{prefix}.{metric}.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(path.name + ".tmp")
        with unfinished.open("w", encoding="utf-8") as file:
            file.write("[")
            for number, record in enumerate(_records(detections, truth, category_ids, metric)):
                file.write(("" if number == 0 else ",\n") + json.dumps(record))
            file.write("]\n")
        unfinished.replace(path)
        paths.append(path)
    return paths


def _records(
    detections: Detections, truth: CocoTruth, category_ids: Mapping[int, int], metric: str
) -> Iterator[dict[str, Any]]:
    for row, image in enumerate(detections.images.tolist()):
        label = int(detections.labels[row])
        record = {
            "image_id": truth.image_ids[image],
            "bbox": detections.boxes[row].tolist(),
            "score": float((detections.mask_scores if metric == "segm" else detections.scores)[row]),
            "category_id": 1 if metric == "proposal" else category_ids[label],
        }
        if metric == "segm":
            mask = detections.segmentations[row]
            record["segmentation"] = {"size": list(mask["size"]), "counts": mask["counts"]}
        yield record


def _check_masks(entry: Mapping[str, Any], ori_shape: Sequence[int] | None) -> None:
    """Masks are one a box, with a score each, and as large as the image that was annotated."""
    image_id, masks = entry["img_id"], entry["masks"]
    counts = len(entry["scores"]), len(masks), len(entry["mask_scores"])
    if len(set(counts)) > 1:
        raise DataError(
            f"image {image_id}: {counts[0]} boxes, {counts[1]} masks, {counts[2]} mask_scores do not match"
        )
    if not np.isfinite(entry["mask_scores"]).all():
        raise DataError(f"image {image_id}: the predicted scores of masks hold NaN or infinite numbers")
    if ori_shape is None:
        return
    height, width = ori_shape[:2]
    wrong = [mask["size"] for mask in masks if mask["size"] != [height, width]]
    if wrong:
        raise DataError(
            f"image {image_id}: a predicted mask is {wrong[0][0]} x {wrong[0][1]} pixels (height x width), "
            f"the image {height} x {width}; masks must be those of the original image"
        )


def _truth_entry(content: Mapping[str, Any], image_id: Any) -> dict[str, Any]:
    if "instances" in content:
        instances = content["instances"]
        masks = [instance.get("mask") for instance in instances]
        return {
            "size": list(content["ori_shape"][:2]),
            "bboxes": np.array([one["bbox"] for one in instances], dtype=np.float64).reshape(-1, 4),
            "labels": np.array([one["bbox_label"] for one in instances], dtype=np.int64),
            "crowd": np.array([bool(one.get("ignore_flag", 0)) for one in instances], dtype=bool),
            "masks": masks if any(mask is not None for mask in masks) else None,
        }
    if "gt_instances" not in content:
        raise DataError(
            f"image {image_id}: CocoMetric has no ann_file and the data sample holds no truth. "
            "Give ann_file, or put LoadAnnotations into the test pipeline."
        )
    if content.get("flip"):
        raise DataError(f"image {image_id} was flipped; truth is taken from unflipped data samples only")
    parts = [(content["gt_instances"], False), (content.get("ignored_instances") or {}, True)]
    parts = [(part, ignored) for part, ignored in parts if "bboxes" in part]
    scale = np.tile(np.asarray(content.get("scale_factor", (1.0, 1.0)), dtype=np.float64), 2)
    boxes = [_numbers(part["bboxes"], np.float64).reshape(-1, 4) / scale for part, _ in parts]
    labels = [_numbers(part["labels"], np.int64) for part, _ in parts]
    crowd = [np.full(len(part), ignored) for part, (_, ignored) in zip(labels, parts, strict=True)]
    return {
        "size": list(content["ori_shape"][:2]),
        "bboxes": _joined(boxes, (0, 4)),
        "labels": _joined(labels, (0,)).astype(np.int64),
        "crowd": _joined(crowd, (0,)).astype(bool),
        "masks": None,
    }


def _field(instances: Any, name: str, image_id: Any) -> Any:
    if name not in instances:
        raise DataError(f"image {image_id}: pred_instances has no {name!r}")
    return instances[name] if isinstance(instances, Mapping) else getattr(instances, name)


def _numbers(value: Any, dtype: type | None = None) -> np.ndarray:
    """An array of that type; without one float64 stays what it is and all else becomes float32."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = value.float().numpy() if value.dtype == torch.bfloat16 else value.numpy()
    array = np.asarray(value)
    return array.astype(dtype or (np.float64 if array.dtype == np.float64 else np.float32), copy=False)


def _joined(parts: Sequence[np.ndarray], empty: tuple[int, ...]) -> np.ndarray:
    """Concatenation in float64, with a shape also where there is no part."""
    return np.concatenate(parts).astype(np.float64) if parts else np.zeros(empty)


def _order(image_id: Any) -> tuple[bool, Any]:
    """Numbers by size, then words."""
    return (isinstance(image_id, str), image_id)
