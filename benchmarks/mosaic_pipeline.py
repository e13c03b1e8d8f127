"""Mosaics for training at 640 pixels, on one core: ours against plain recipes of public building blocks.

    python benchmarks/mosaic_pipeline.py [--folder ../shared/data/coco_permissive] [--samples 24] [--rounds 9]

Each sample is YOLOX's: four photographs around a corner, `RandomAffine` (rotation, scale, shear, shift) from
1280 to 640 pixels, changes of hue, saturation and value, mirroring with probability 1/2; it ends with a uint8
tensor (3, H, W), whose memory stays in the order H, W, 3, and its boxes. The peers:

    mmcv-lite 2.1      mmcv's imread, imresize, bgr2hsv, imflip and cv2.warpAffine, as its users write it
    torchvision v2     decode_image, resize, RandomAffine, ColorJitter, RandomHorizontalFlip

A peer that is not installed is left out. The first one draws the same random numbers, and its pictures are
held against ours; torchvision's draws are its own, of the same ranges. Rounds take turns. Counted is the time
of the processor, twice: with the files read and decoded (`files`), most of which is decoding that all do
alike, and from decoded pictures (`pictures`), the transforms alone. Without the folder, pictures are made up.
"""
from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.io import ImageReadMode, decode_image, read_file
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from detcore.registry import DATASETS, TRANSFORMS

try:
    import mmcv
except ImportError:
    mmcv = None

SIDE = 640
PAD = 114
SCALES = (0.5, 1.5)
Sample = Callable[[int], object]
Record = tuple[str, np.ndarray, np.ndarray]


def made_up(folder: Path) -> Path:
    """Smooth pictures of 640 x 480 with boxes, as COCO has them, in a new folder."""
    draw = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for number in range(24):
        coarse = draw.integers(0, 256, (30, 40, 3)).astype(np.uint8)
        noise = draw.integers(0, 12, (480, 640, 3)).astype(np.uint8)
        picture = cv2.add(cv2.resize(coarse, (640, 480), interpolation=cv2.INTER_CUBIC), noise)
        cv2.imwrite(str(folder / "images" / f"{number}.jpg"), picture)
        images.append({"id": number, "file_name": f"{number}.jpg", "width": 640, "height": 480})
        for x, y in draw.uniform(0, 300, (7, 2)).tolist():
            box = {"bbox": [x, y, 150, 120], "category_id": 1, "iscrowd": 0, "area": 18000}
            annotations.append({"id": len(annotations), "image_id": number, **box})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (folder / "instances.json").write_text(json.dumps(content))
    return folder


def our_data(folder: Path, images: int) -> Any:
    """The photographs, mixed by our transforms."""
    real = (folder / "annotations/instances_train2017.json").exists()
    file = "annotations/instances_train2017.json" if real else "instances.json"
    categories = json.loads((folder / file).read_text())["categories"]
    load = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations", "with_bbox": True}]
    return DATASETS.build({
        "type": "MultiImageMixDataset",
        "dataset": {
            "type": "CocoDataset", "data_root": str(folder), "ann_file": file, "pipeline": load,
            "data_prefix": {"img": "images/train2017/" if real else "images/"}, "indices": images,
            "metainfo": {"classes": tuple(category["name"] for category in categories)},
        },
        "pipeline": [
            {"type": "Mosaic", "img_scale": (SIDE, SIDE), "pad_val": PAD},
            {"type": "RandomAffine", "scaling_ratio_range": SCALES, "border": (-SIDE // 2, -SIDE // 2)},
            {"type": "YOLOXHSVRandomAug"},
            {"type": "RandomFlip", "prob": 0.5},
            {"type": "PackDetInputs"},
        ],
    })  # fmt: skip


def decoded(data: Any) -> Sample:
    """The same from pictures that are decoded already."""
    loaded = [data.dataset[index] for index in range(len(data.dataset))]
    data.dataset.pipeline = TRANSFORMS.build({"type": "Compose", "transforms": [Held(loaded)]})
    return data.__getitem__


class Held:
    """Takes the place of loading: a sample that was loaded before."""

    def __init__(self, loaded: list[dict]) -> None:
        self.loaded = loaded

    def __call__(self, results: dict) -> dict:
        return dict(self.loaded[results["sample_idx"]])


def with_mmcv(mmcv: ModuleType, records: list[Record], pictures: list[np.ndarray] | None) -> Sample:
    """The recipe from mmcv's functions; it draws as ours does."""

    def mosaic(index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        others = [int(np.random.randint(0, len(records))) for _ in range(3)]
        np.random.uniform(0, 1)
        center_x, center_y = (int(np.random.uniform(0.5, 1.5) * SIDE) for _ in range(2))
        canvas = np.full((2 * SIDE, 2 * SIDE, 3), PAD, np.uint8)
        all_boxes, all_labels = [], []
        for place, each in enumerate((index, *others)):
            path, boxes, labels = records[each]
            img = mmcv.imread(path) if pictures is None else pictures[each]
            scale = min(SIDE / img.shape[0], SIDE / img.shape[1])
            img = mmcv.imresize(img, (int(img.shape[1] * scale), int(img.shape[0] * scale)))
            height, width = img.shape[:2]
            left = center_x - (0 if place % 2 else width)
            top = center_y - (0 if place // 2 else height)
            x1, y1 = max(left, 0), max(top, 0)
            x2, y2 = min(left + width, 2 * SIDE), min(top + height, 2 * SIDE)
            canvas[y1:y2, x1:x2] = img[y1 - top : y2 - top, x1 - left : x2 - left]
            all_boxes.append(boxes * scale + np.array([left, top, left, top]))
            all_labels.append(labels)
        return canvas, np.concatenate(all_boxes).clip(0, 2 * SIDE), np.concatenate(all_labels)

    def affine(img: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        turn = np.deg2rad(np.random.uniform(-10, 10))
        factor = np.random.uniform(*SCALES)
        lean = np.tan(np.deg2rad(np.random.uniform(-2, 2, 2)))
        shift = np.random.uniform(-0.1, 0.1, 2) * SIDE
        turned = factor * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        matrix = np.column_stack([np.array([[1, lean[0]], [lean[1], 1]]) @ turned, shift])
        img = cv2.warpAffine(img, matrix, (SIDE, SIDE), borderValue=(PAD, PAD, PAD))
        corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
        corners = corners @ matrix[:, :2].T + matrix[:, 2]
        return img, np.concatenate([corners.min(1), corners.max(1)], 1).clip(0, SIDE)

    def hsv(img: np.ndarray) -> np.ndarray:
        gains = np.random.uniform(-1, 1, 3) * (5, 30, 30) * np.random.randint(0, 2, 3)
        gains = gains.astype(np.int16)
        shifted = mmcv.bgr2hsv(img).astype(np.int16)
        shifted[..., 0] = (shifted[..., 0] + gains[0]) % 180
        shifted[..., 1] = np.clip(shifted[..., 1] + gains[1], 0, 255)
        shifted[..., 2] = np.clip(shifted[..., 2] + gains[2], 0, 255)
        return mmcv.hsv2bgr(shifted.astype(np.uint8))

    def sample(index: int) -> dict:
        img, boxes, labels = mosaic(index)
        img, boxes = affine(img, boxes)
        keep = (boxes[:, 2:] > 0).all(1) & (boxes[:, :2] < SIDE).all(1)
        boxes, labels = boxes[keep], labels[keep]
        img = hsv(img)
        if np.random.random_sample() < 0.5:
            img = mmcv.imflip(img)
            boxes = np.stack([SIDE - boxes[:, 2], boxes[:, 1], SIDE - boxes[:, 0], boxes[:, 3]], 1)
        tensor = torch.from_numpy(np.ascontiguousarray(img)).permute(2, 0, 1)
        return {"inputs": tensor, "boxes": torch.from_numpy(boxes), "labels": torch.from_numpy(labels)}

    return sample


def with_torchvision(records: list[Record], pictures: list[np.ndarray] | None) -> Sample:
    """The recipe from torchvision's transforms of pictures with boxes."""
    held = [torch.from_numpy(each[..., ::-1].copy()).permute(2, 0, 1) for each in pictures or ()]
    steps = v2.Compose([
        v2.RandomAffine(10, (0.1, 0.1), SCALES, (-2, 2, -2, 2), v2.InterpolationMode.BILINEAR, fill=PAD),
        v2.CenterCrop(SIDE),
        v2.ColorJitter(brightness=0.12, saturation=0.12, hue=5 / 180),
        v2.RandomHorizontalFlip(0.5),
        v2.ClampBoundingBoxes(),
        v2.SanitizeBoundingBoxes(),
    ])

    def sample(index: int) -> dict:
        canvas = torch.full((3, 2 * SIDE, 2 * SIDE), PAD, dtype=torch.uint8)
        center_x, center_y = (int(np.random.uniform(0.5, 1.5) * SIDE) for _ in range(2))
        all_boxes, all_labels = [], []
        for place, each in enumerate((index, *np.random.randint(0, len(records), 3).tolist())):
            path, boxes, labels = records[each]
            img = decode_image(read_file(path), ImageReadMode.RGB) if pictures is None else held[each]
            scale = min(SIDE / img.shape[1], SIDE / img.shape[2])
            height, width = int(img.shape[1] * scale), int(img.shape[2] * scale)
            img = functional.resize(img, [height, width], antialias=False)
            left = center_x - (0 if place % 2 else width)
            top = center_y - (0 if place // 2 else height)
            x1, y1 = max(left, 0), max(top, 0)
            x2, y2 = min(left + width, 2 * SIDE), min(top + height, 2 * SIDE)
            canvas[:, y1:y2, x1:x2] = img[:, y1 - top : y2 - top, x1 - left : x2 - left]
            all_boxes.append(torch.from_numpy(boxes) * scale + torch.tensor([left, top, left, top]))
            all_labels.append(torch.from_numpy(labels))
        size = (2 * SIDE, 2 * SIDE)
        found = tv_tensors.BoundingBoxes(torch.cat(all_boxes), format="XYXY", canvas_size=size)
        given = {"image": tv_tensors.Image(canvas), "boxes": found, "labels": torch.cat(all_labels)}
        result: dict = steps(given)
        return result

    return sample


def seconds(sample: Sample, count: int, seed: int) -> float:
    """Processor seconds a sample."""
    np.random.seed(seed)
    torch.manual_seed(seed)
    started = time.process_time()
    for index in range(count):
        sample(index)
    return (time.process_time() - started) / count


def check_same(ours: Sample, theirs: Sample, count: int) -> None:
    """Both make the same pictures, but for rounding, and the same boxes."""
    for index in range(count):
        np.random.seed(index)
        one = ours(index)
        np.random.seed(index)
        two = theirs(index)
        assert isinstance(one, dict)
        assert isinstance(two, dict)
        off = (one["inputs"].int() - two["inputs"].int()).abs().float()
        assert off.mean() < 0.5, f"sample {index} differs by {off.mean()} on average"
        instances, ignored = one["data_samples"].gt_instances, one["data_samples"].ignored_instances
        assert len(instances) + len(ignored.get("bboxes", ())) == len(two["boxes"]), index


def measured(title: str, rows: dict[str, Sample], samples: int, rounds: int) -> None:
    """A table of medians, and the ratios within a round."""
    took = np.array([
        [seconds(sample, samples, turn) for sample in rows.values()] for turn in range(rounds + 1)
    ])[1:]  # the first round warms up files and code
    print(f"\n{title}: {rounds} rounds of {samples} samples in turn, one core")
    for number, name in enumerate(rows):
        rates = 1 / took[:, number]
        line = f"{name:16} {np.median(rates):8.1f} images/s  [{rates.min():.1f}, {rates.max():.1f}]"
        if number:
            line += f"   ours is {np.median(took[:, number] / took[:, 0]):.2f} times as fast"
        print(line)


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    folder = Path(__file__).parents[2] / "shared/data/coco_permissive"
    parser.add_argument("--folder", type=Path, default=folder)
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--without-torchvision", action="store_true", help="whose rounds take longest")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as temporary:
        there = options.folder.exists()
        folder = options.folder if there else made_up(Path(temporary) / "made_up")
        data = our_data(folder, options.samples)
        loaded = [data.dataset[index] for index in range(len(data))]
        records = [(one["img_path"], one["gt_bboxes"], one["gt_bboxes_labels"]) for one in loaded]
        pictures = [one["img"] for one in loaded]
        print(f"{len(records)} {'photographs of ' + str(folder.name) if there else 'made-up pictures'}")
        for title, given in (("files", None), ("pictures", pictures)):
            rows: dict[str, Sample] = {"detcore": data.__getitem__ if given is None else decoded(data)}
            if mmcv is None:
                print("mmcv-lite is not installed")
            else:
                rows["mmcv-lite"] = with_mmcv(mmcv, records, given)
                check_same(rows["detcore"], rows["mmcv-lite"], 8)
            if not options.without_torchvision:
                rows["torchvision v2"] = with_torchvision(records, given)
            measured(title, rows, len(records), options.rounds)
    print("(wanted: transforms at least 1.5 times as fast)")


if __name__ == "__main__":
    main()
