"""Time of COCO's evaluation: ours against pycocotools on the same made-up predictions, in one run.

    python benchmarks/evaluation.py [--images 5000] [--boxes 100] [--classes 80] [--json FILE]

Ours is timed from predicted tensors in data samples to figures (`CocoMetric.process` and `evaluate`, with
reading the annotation file); pycocotools from a result list, made beforehand, to its statistics (with reading
the same file). Goal: at most a tenth of its time, and the same twelve figures.
"""

import argparse
import contextlib
import io
import json
import logging
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from det_datasets.coco_metric import CocoMetric

from detcore.structures import DetDataSample, InstanceData

GOAL = 0.1


def make_problem(folder, images, boxes, classes, seed=0):
    """Truth with about seven objects an image; predictions near them, and noise, `boxes` an image."""
    rng = np.random.default_rng(seed)
    annotations, samples = [], []
    for image in range(1, images + 1):
        number = rng.poisson(7)
        sides = np.exp(rng.uniform(np.log(8), np.log(300), (number, 2)))
        truth = np.column_stack([rng.uniform(0, 340, (number, 2)), sides]).round(2)
        kinds = rng.integers(0, classes, number)
        for box, kind in zip(truth.tolist(), kinds.tolist(), strict=True):
            annotations.append({
                "id": len(annotations) + 1, "image_id": image, "category_id": kind + 1, "bbox": box,
                "area": box[2] * box[3], "iscrowd": int(rng.random() < 0.01),
            })
        near = rng.integers(0, max(number, 1), boxes // 2 if number else 0)
        noise = np.column_stack([rng.uniform(0, 400, (boxes - len(near), 2)),
                                 rng.uniform(4, 200, (boxes - len(near), 2))])
        found = np.concatenate([truth[near] + rng.normal(0, 8, (len(near), 4)), noise])
        found[:, 2:] = np.abs(found[:, 2:])
        labels = np.concatenate([kinds[near], rng.integers(0, classes, len(noise))])
        corners = np.concatenate([found[:, :2], found[:, :2] + found[:, 2:]], axis=1)
        samples.append(DetDataSample(metainfo={"img_id": image}, pred_instances=InstanceData(
            bboxes=torch.from_numpy(corners).float(), scores=torch.from_numpy(rng.random(boxes)).float(),
            labels=torch.from_numpy(labels).long())))
    content = {
        "images": [
            {"id": number, "file_name": f"{number}.jpg", "width": 640, "height": 480}
            for number in range(1, images + 1)
        ],
        "annotations": annotations,
        "categories": [{"id": n + 1, "name": f"class{n}"} for n in range(classes)],
    }
    ann_file = Path(folder) / "truth.json"
    ann_file.write_text(json.dumps(content))
    return str(ann_file), samples


def measure_ours(ann_file, samples, classes):
    start = time.perf_counter()
    metric = CocoMetric(ann_file, proposal_nums=(1, 10, 100))
    metric.dataset_meta = {"classes": tuple(f"class{number}" for number in range(classes))}
    for sample in samples:
        metric.process(None, [sample])
    figures = metric.evaluate(len(samples))
    return time.perf_counter() - start, list(figures.values())


def measure_pycocotools(ann_file, samples):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    records = []
    for sample in samples:
        found = sample.pred_instances
        rows = zip(found.bboxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True)
        for (x1, y1, x2, y2), score, label in rows:
            records.append({"image_id": sample.img_id, "category_id": label + 1, "score": score,
                            "bbox": [x1, y1, x2 - x1, y2 - y1]})
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(ann_file)
        job = COCOeval(truth, truth.loadRes(records), "bbox")
        job.evaluate()
        job.accumulate()
        job.summarize()
    return time.perf_counter() - start, job.stats.tolist()


def main(arguments=None):
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--boxes", type=int, default=100, help="predicted, an image")
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    logging.getLogger("det_datasets").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        ann_file, samples = make_problem(folder, options.images, options.boxes, options.classes)
        ours, figures = measure_ours(ann_file, samples, options.classes)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # before pycocotools adds its own
        theirs, expected = measure_pycocotools(ann_file, samples)
    gap = float(np.abs(np.subtract(figures, expected)).max())
    result = {"images": options.images, "boxes": options.images * options.boxes, "ours_s": ours,
              "pycocotools_s": theirs, "ratio": ours / theirs, "largest_difference": gap,
              "peak_mb_before_pycocotools": peak}
    print(f"{result['images']} images, {result['boxes']} boxes, {options.classes} classes")
    print(f"  detcore      {ours:8.2f} s")
    print(f"  pycocotools  {theirs:8.2f} s")
    print(f"  ratio        {result['ratio']:8.3f}   (goal: at most {GOAL})")
    print(f"  largest difference between the twelve figures: {gap:.1e}")
    if options.json:
        options.json.write_text(json.dumps(result))
    return result


if __name__ == "__main__":
    main()
