"""Loading photographs for training, on one core: ours against torchvision.transforms.v2.

    python benchmarks/pipeline.py [--folder ../shared/data/bccd] [--images 64] [--rounds 7]

Both read the same files and boxes: decode, resize to fit (1333, 800), mirror with probability 1/2, and end
with a uint8 tensor (3, H, W), whose memory both leave in the order H, W, 3, and its boxes. Rounds of both
alternate, so that both meet the same machine.
"""
from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.io import ImageReadMode, decode_image, read_file
from torchvision.transforms import v2

from detcore.data import BaseDetDataset
from detcore.registry import DATASETS

SCALE = (1333, 800)


def our_data(folder: Path, images: int) -> BaseDetDataset:
    """The photographs with our pipeline."""
    return DATASETS.build({
        "type": "CocoDataset", "data_root": str(folder), "ann_file": "annotations/instances_train.json",
        "data_prefix": {"img": "images/"}, "metainfo": {"classes": ("RBC", "WBC", "Platelets")},
        "indices": images,
        "pipeline": [
            {"type": "LoadImageFromFile"},
            {"type": "LoadAnnotations", "with_bbox": True},
            {"type": "Resize", "scale": SCALE, "keep_ratio": True},
            {"type": "RandomFlip", "prob": 0.5},
            {"type": "PackDetInputs"},
        ],
    })


def their_sample(records: list[tuple[str, torch.Tensor, torch.Tensor]]) -> Callable[[int], dict]:
    """The same with torchvision."""
    steps = v2.Compose([
        v2.Resize(min(SCALE), max_size=max(SCALE), antialias=True),
        v2.RandomHorizontalFlip(0.5),
        v2.ClampBoundingBoxes(),
    ])

    def sample(index: int) -> dict:
        path, boxes, labels = records[index]
        pixels = decode_image(read_file(path), ImageReadMode.RGB, apply_exif_orientation=True)
        image = tv_tensors.Image(pixels)
        size = (image.shape[-2], image.shape[-1])
        found = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size)
        result: dict = steps({"image": image, "boxes": found, "labels": labels})
        return result

    return sample


def rate(sample: Callable[[int], object], count: int) -> float:
    """Images a second over all samples once."""
    started = time.perf_counter()
    for index in range(count):
        sample(index)
    return count / (time.perf_counter() - started)


def same_result(ours: dict, theirs: dict) -> None:
    """Both make images of the same size with as many boxes; torchvision rounds sizes down, so one pixel may
    be missing there.
    """
    assert all(0 <= a - b <= 1 for a, b in zip(ours["inputs"].shape, theirs["image"].shape, strict=True))
    assert ours["inputs"].dtype == theirs["image"].dtype == torch.uint8

    assert ours["inputs"].stride()[0] == theirs["image"].stride()[0] == 1
    assert len(ours["data_samples"].gt_instances) == len(theirs["boxes"])


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parents[2] / "shared/data/bccd")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    dataset = our_data(options.folder, options.images)
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    theirs = their_sample([
        (info["img_path"], torch.tensor(info["instances"].boxes), torch.tensor(info["instances"].labels))
        for info in infos
    ])
    same_result(dataset[0], theirs(0))
    rates = np.array([
        (rate(dataset.__getitem__, len(dataset)), rate(theirs, len(dataset)))
        for _ in range(options.rounds + 1)
    ])[1:]  # the first round warms up files and code
    ratio = statistics.median(rates[:, 0] / rates[:, 1])
    print(f"{len(dataset)} photographs, {options.rounds} rounds in turn, one core; median [lowest, highest]")
    for name, column in (("detcore", rates[:, 0]), ("torchvision v2", rates[:, 1])):
        print(f"{name:16} {np.median(column):8.1f} images/s  [{column.min():.1f}, {column.max():.1f}]")
    print(f"{'ratio':16} {ratio:8.3f}  (wanted: at least 1.1)")


if __name__ == "__main__":
    main()
