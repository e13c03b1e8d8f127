"""A tiny data set on disk in the manual's middle format."""
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

SIZES = ((40, 60), (60, 40), (48, 64), (50, 30), (32, 32), (45, 70), (64, 48))


@pytest.fixture()
def tiny(tmp_path: Path) -> Path:
    """Folder with ``images/0.png`` ... ``6.png`` and ``annotations.json``; image i has i % 3 + 1 boxes."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    data_list = []
    for number, (height, width) in enumerate(SIZES):
        cv2.imwrite(
            str(tmp_path / "images" / f"{number}.png"), rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
        )
        instances = [
            dict(bbox=[2 + k, 3, 20 + k, 25], bbox_label=k, ignore_flag=int(k == 2)) for k in range(number % 3 + 1)
        ]
        data_list.append(dict(img_path=f"{number}.png", height=height, width=width, instances=instances))
    write(tmp_path, data_list)
    return tmp_path


def write(folder: Path, data_list: list[dict[str, Any]], classes: tuple[str, ...] = ("cat", "dog", "owl")) -> None:
    content = dict(metainfo=dict(classes=classes), data_list=data_list)
    (folder / "annotations.json").write_text(json.dumps(content))


@pytest.fixture()
def tiny_cfg(tiny: Path) -> Callable[..., dict[str, Any]]:
    """Config of the tiny data set with a pipeline that uses all three random generators."""

    def make(**changes: Any) -> dict[str, Any]:
        pipeline = [
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations", with_bbox=True),
            dict(type="RandomResize", scale=(64, 48), ratio_range=(0.5, 1.5), keep_ratio=True),
            dict(type="PhotoMetricDistortion"),
            dict(type="RandomFlip", prob=0.5),
            dict(type="PackDetInputs"),
        ]
        cfg = dict(
            type="BaseDetDataset", data_root=str(tiny), ann_file="annotations.json",
            data_prefix=dict(img_path="images/"), pipeline=pipeline,
        )
        return {**cfg, **changes}

    return make
