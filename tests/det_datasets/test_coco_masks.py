"""Masks and proposals through CocoMetric, against plain pycocotools."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pycocotools.mask as coco_mask
import pytest
import torch
from det_datasets.coco_metric import CocoMetric
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detcore.errors import DataError
from detcore.structures import DetDataSample, InstanceData

BACKENDS = ("pycocotools", "hotcoco")
CLASSES = ("cat", "dog")
SIZE = (120, 160)
SHOWN = ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l")


def polygon(box):
    """An eight-sided polygon within a box (x, y, width, height), filling most of it."""
    x, y, w, h = box
    return [x + w * 0.3, y, x + w * 0.7, y, x + w, y + h * 0.3, x + w, y + h * 0.7, x + w * 0.7, y + h,
            x + w * 0.3, y + h, x, y + h * 0.7, x, y + h * 0.3]


def filled(box):
    return coco_mask.decode(coco_mask.frPyObjects([polygon(box)], *SIZE))[..., 0].astype(bool)


@pytest.fixture
def problem(tmp_path):
    """An annotation file with polygons and a crowd, and predictions near them."""
    rng = np.random.default_rng(4)
    annotations, samples = [], []
    for image in range(1, 7):
        masks, boxes, labels = [], [], []
        for _ in range(rng.integers(1, 5)):
            sides = rng.uniform(8, 70, 2)
            box = [*(rng.uniform(0, 1, 2) * (np.array([160, 120]) - sides)), *sides]
            label = int(rng.integers(0, 2))
            encoded = coco_mask.merge(coco_mask.frPyObjects([polygon(box)], *SIZE))
            crowd = int(rng.random() < 0.15)
            outline = {"size": list(SIZE), "counts": encoded["counts"].decode()} if crowd else [polygon(box)]
            annotations.append({
                "id": len(annotations) + 1, "image_id": image, "category_id": label + 1, "bbox": box,
                "area": float(coco_mask.area(encoded)), "iscrowd": crowd, "segmentation": outline,
            })
            near = np.array(box) + rng.normal(0, 3, 4)
            near[2:] = np.maximum(near[2:], 2)
            masks.append(filled(near))
            boxes.append([near[0], near[1], near[0] + near[2], near[1] + near[3]])
            labels.append(label if rng.random() < 0.8 else 1 - label)
        samples.append(DetDataSample(
            metainfo={"img_id": image, "ori_shape": SIZE},
            pred_instances=InstanceData(
                bboxes=torch.tensor(boxes).float(), scores=torch.from_numpy(rng.random(len(boxes))).float(),
                labels=torch.tensor(labels), masks=torch.from_numpy(np.stack(masks)),
            ),
        ))
    content = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "height": 120, "width": 160} for n in range(1, 7)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(content))
    return str(path), samples


def evaluated(ann_file, samples, **arguments):
    metric = CocoMetric(ann_file, **arguments)
    metric.dataset_meta = {"classes": CLASSES}
    metric.process(None, samples)
    return metric.evaluate(len(samples))


def by_pycocotools(ann_file, records, kind, max_dets, use_cats=True):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(ann_file)
        job = COCOeval(truth, truth.loadRes(records), kind)
        job.params.maxDets, job.params.useCats = list(max_dets), int(use_cats)
        job.evaluate()
        job.accumulate()
    return job


def box_records(samples):
    return [
        {"image_id": sample.img_id, "category_id": int(label) + 1, "score": float(score),
         "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]]}
        for sample in samples
        for box, score, label in zip(
            sample.pred_instances.bboxes.double().tolist(), sample.pred_instances.scores,
            sample.pred_instances.labels, strict=True,
        )
    ]


@pytest.mark.parametrize("backend", BACKENDS)
def test_boxes_and_masks_in_one_go_are_those_of_pycocotools(problem, tmp_path, backend):
    ann_file, samples = problem
    figures = evaluated(
        ann_file, samples, metric=["bbox", "segm"], classwise=True, proposal_nums=(1, 10, 100),
        outfile_prefix=str(tmp_path / "out" / "found"), backend=backend,
    )
    # The file is what COCO's server takes; it is evaluated as the server does.
    for kind in ("bbox", "segm"):
        records = json.loads((tmp_path / "out" / f"found.{kind}.json").read_text())
        if kind == "segm":
            for record in records:
                assert isinstance(record["segmentation"]["counts"], str)
                record.pop("bbox")  # else pycocotools takes the areas of the boxes
        job = by_pycocotools(ann_file, records, kind, (1, 10, 100))
        with contextlib.redirect_stdout(io.StringIO()):
            job.summarize()
        found = [figures[f"coco/{kind}_{name}"] for name in SHOWN]
        np.testing.assert_allclose(found, job.stats[:6], atol=1e-12)
        assert 0.1 < found[0] < 1
    assert figures["coco/segm_mAP"] != figures["coco/bbox_mAP"]
    precision = job.eval["precision"][:, :, 1, 0, -1]
    assert figures["coco/dog_segm_precision"] == pytest.approx(precision[precision > -1].mean())
    assert "coco/dog_precision" in figures


@pytest.mark.parametrize("backend", BACKENDS)
def test_recall_of_proposals_is_that_of_pycocotools_without_classes(problem, backend):
    ann_file, samples = problem
    figures = evaluated(ann_file, samples, metric="proposal", backend=backend)
    names = ("@100", "@300", "@1000", "_s@1000", "_m@1000", "_l@1000")
    assert list(figures) == [f"coco/AR{name}" for name in names]
    job = by_pycocotools(ann_file, box_records(samples), "bbox", (100, 300, 1000), use_cats=False)
    recall = job.eval["recall"]
    want = [recall[:, 0, 0, row] for row in range(3)] + [recall[:, 0, area, 2] for area in (1, 2, 3)]
    want = [values[values > -1].mean() if (values > -1).any() else -1 for values in want]
    np.testing.assert_allclose(list(figures.values()), want, atol=1e-12)
    assert 0.1 < want[0] < 1


def test_fast_recall_of_proposals_is_that_of_a_plain_loop(problem):
    ann_file, samples = problem
    figures = evaluated(ann_file, samples, metric="proposal_fast")
    assert list(figures) == ["coco/AR@100", "coco/AR@300", "coco/AR@1000"]
    annotations = json.loads(Path(ann_file).read_text())["annotations"]
    hits = total = 0
    for sample in samples:
        truth = [one for one in annotations
                 if one["image_id"] == sample.img_id and not one["iscrowd"]]
        total += len(truth) * 10
        boxes = [record["bbox"] for record in box_records([sample])]
        objects = np.array([one["bbox"] for one in truth]).reshape(-1, 4)
        overlaps = np.array(coco_mask.iou(np.array(boxes), objects, [0] * len(truth)))
        overlaps = overlaps.reshape(len(boxes), len(truth))
        for _ in range(min(overlaps.shape)):
            row, column = np.unravel_index(overlaps.argmax(), overlaps.shape)
            hits += (overlaps[row, column] >= np.linspace(0.5, 0.95, 10)).sum()
            overlaps[row] = overlaps[:, column] = -1
    assert figures["coco/AR@100"] == pytest.approx(hits / total)


def test_scores_of_masks_rank_masks_and_those_of_boxes_rank_boxes(problem):
    ann_file, samples = problem
    before = evaluated(ann_file, samples, metric=["bbox", "segm"])
    for sample in samples:
        sample.pred_instances.mask_scores = 1 - sample.pred_instances.scores
    after = evaluated(ann_file, samples, metric=["bbox", "segm"])
    assert after["coco/bbox_mAP"] == before["coco/bbox_mAP"]
    assert after["coco/segm_mAP"] != before["coco/segm_mAP"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda found: found.pop("masks"), "image 1: pred_instances has no 'masks'"),
        (lambda found: found.update(masks=found["masks"][:0]), "0 masks, .* do not match"),
        (lambda found: found.update(masks=found["masks"][:, :60, :80]), "60 x 80 pixels .* image 120 x 160"),
        (lambda found: found.update(mask_scores=found["scores"] * float("nan")), "scores of masks hold NaN"),
    ],
)
def test_masks_that_do_not_fit_are_named_with_their_image(problem, change, said):
    ann_file, samples = problem
    found = dict(samples[0].pred_instances.items())
    change(found)
    with pytest.raises(DataError, match=said):
        evaluated(ann_file, [{"img_id": 1, "ori_shape": SIZE, "pred_instances": found}], metric="segm")


def test_masks_are_kept_as_run_lengths_at_once(problem):
    ann_file, samples = problem
    metric = CocoMetric(ann_file, metric="segm")
    metric.dataset_meta = {"classes": CLASSES}
    metric.process(None, samples[:1])
    (entry,) = metric.results
    assert all(set(mask) == {"size", "counts"} for mask in entry["masks"])
    decoded = np.stack([coco_mask.decode(mask) for mask in entry["masks"]])
    assert np.array_equal(decoded, samples[0].pred_instances.masks.numpy())
