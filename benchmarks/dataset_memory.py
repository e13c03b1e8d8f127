"""Memory that annotations take in the parent and its loader workers, over an epoch.

    python benchmarks/dataset_memory.py [--images 118000] [--boxes 860000] [--workers 4] [--start-method fork]

Writes a made-up COCO file of that size, reads it with CocoDataset, and goes through one epoch with
workers that touch every annotation but load no pictures. Memory is the proportional set size (PSS) of
parent and workers together, anonymous and shared memory only (the share of program files would change with
whatever else runs on the machine), from which the same processes with a data set of 64 images are taken away.
"""
from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from detcore.data import BaseDetDataset, DefaultSampler, DetDataLoader
from detcore.data.memory import return_freed_memory
from detcore.data.samplers import PlainBatchSampler

CLASSES = tuple(f"class{number}" for number in range(80))


def pss(pids: list[int]) -> float:
    """Proportional set size of some processes in MB, without pages of program files."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                total += int(line.split()[1])
    return total / 1024


def write_coco(path: Path, images: int, boxes: int, polygons: bool) -> None:
    """A COCO file with as many images and annotations, written without keeping them."""
    rng = np.random.default_rng(0)
    image_of = np.sort(rng.integers(0, images, boxes))
    corners = rng.uniform(0, 300, (boxes, 2)).round(2)
    sides = rng.uniform(5, 250, (boxes, 2)).round(2)
    labels = rng.integers(0, len(CLASSES), boxes)

    def image(number: int) -> dict:
        return {"id": number * 3 + 1, "file_name": f"{number:012d}.jpg", "height": 480, "width": 640,
                "license": 1, "coco_url": f"http://images.cocodataset.org/train2017/{number:012d}.jpg"}

    def annotation(number: int) -> dict:
        (x, y), (w, h) = corners[number].tolist(), sides[number].tolist()
        outline = [[x, y, x + w, y, x + w, y + h, x, y + h] * 5] if polygons else []
        image_id, category_id = int(image_of[number]) * 3 + 1, int(labels[number]) + 1
        return {"id": number, "image_id": image_id, "category_id": category_id, "bbox": [x, y, w, h],
                "area": w * h, "iscrowd": 0, "segmentation": outline}

    with path.open("w") as file:
        for key, count, make in (("images", images, image), ("annotations", boxes, annotation)):
            file.write(f'{"{" if key == "images" else ","}"{key}":[')
            for number in range(count):
                file.write(("," if number else "") + json.dumps(make(number)))
            file.write("]")
        categories = [{"id": number + 1, "name": name} for number, name in enumerate(CLASSES)]
        file.write(f',"categories":{json.dumps(categories)}}}')


def summary(results: dict) -> dict:
    """Stands for a pipeline: looks at every annotation of the image."""
    instances = results["instances"]
    return {"boxes": float(instances.boxes.sum()), "count": len(instances), "path": len(results["img_path"])}


def epoch(dataset: BaseDetDataset, workers: int, method: str) -> Iterator[tuple[str, float]]:
    """Memory of all processes at the start, quarters and end of an epoch."""
    batch_sampler = PlainBatchSampler(DefaultSampler(dataset, shuffle=True, seed=0), 32)
    loader = DetDataLoader(dataset, batch_sampler, num_workers=workers, start_method=method)
    marks = {max(1, len(loader) * quarter // 4): f"{quarter}/4 of an epoch" for quarter in (1, 2, 3, 4)}
    for number, _ in enumerate(loader, 1):
        pids = [os.getpid(), *(child.pid for child in multiprocessing.active_children() if child.pid)]
        if number == 1:
            yield "start", pss(pids)
        if number in marks:
            yield marks[number], pss(pids)
    loader.close()


def measure(path: Path, workers: int, method: str) -> None:
    """Print the table."""
    from det_datasets.coco import CocoDataset

    def dataset(ann_file: Path) -> CocoDataset:
        return CocoDataset(str(ann_file), {"classes": CLASSES}, pipeline=[summary])

    one = path.with_name("small.json")
    write_coco(one, 64, 64, polygons=False)
    small = dataset(one)
    return_freed_memory()  # what the imports left is not to be counted in favour of the large data set
    bare = max(memory for _, memory in epoch(small, workers, method))
    started = time.perf_counter()
    whole = dataset(path)
    seconds = time.perf_counter() - started
    alone = pss([os.getpid()])
    print(f"{len(whole)} images, {len(whole.table.boxes)} boxes, {method}, {workers} workers")
    columns = whole.table.nbytes / 2**20
    print(f"read in {seconds:.1f} s; columns {columns:.1f} MB; parent alone {alone:.0f} MB")
    print(f"{'moment':20} {'all processes MB':>18} {'annotations MB':>16}")
    for moment, memory in epoch(whole, workers, method):
        print(f"{moment:20} {memory:18.1f} {memory - bare:16.1f}", flush=True)


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--images", type=int, default=118_000)
    parser.add_argument("--boxes", type=int, default=860_000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--start-method", default="fork", choices=("fork", "spawn", "forkserver"))
    parser.add_argument("--polygons", action="store_true", help="give every box an outline of 20 points")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "instances.json"
        write_coco(path, options.images, options.boxes, options.polygons)
        measure(path, options.workers, options.start_method)


if __name__ == "__main__":
    main()
