"""A tiny data set on disk in the manual's middle format."""
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

SIZES = ((40, 60), (60, 40), (48, 64), (50, 30), (32, 32), (45, 70), (64, 48))


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Folder with ``images/0.png`` ... ``6.png`` and ``annotations.json``; image i has i % 3 + 1 boxes."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    data_list = []
    for number, (height, width) in enumerate(SIZES):
        image = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
        cv2.imwrite(str(tmp_path / "images" / f"{number}.png"), image)
        instances = [
            {"bbox": [2 + k, 3, 20 + k, 25], "bbox_label": k, "ignore_flag": int(k == 2)}
            for k in range(number % 3 + 1)
        ]
        info = {"img_path": f"{number}.png", "height": height, "width": width, "instances": instances}
        data_list.append(info)
    content = {"metainfo": {"classes": ("cat", "dog", "owl")}, "data_list": data_list}
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    return tmp_path


@pytest.fixture
def tiny_cfg(tiny: Path) -> Callable[..., dict[str, Any]]:
    """Config of the tiny data set with a pipeline that uses all three random generators."""

    def make(**changes: Any) -> dict[str, Any]:
        pipeline = [
            {"type": "LoadImageFromFile"},
            {"type": "LoadAnnotations", "with_bbox": True},
            {"type": "RandomResize", "scale": (64, 48), "ratio_range": (0.5, 1.5), "keep_ratio": True},
            {"type": "PhotoMetricDistortion"},
            {"type": "RandomFlip", "prob": 0.5},
            {"type": "PackDetInputs"},
        ]
        cfg = {
            "type": "BaseDetDataset", "data_root": str(tiny), "ann_file": "annotations.json",
            "data_prefix": {"img_path": "images/"}, "pipeline": pipeline,
        }
        return {**cfg, **changes}

    return make


MODULES_WITH_RANKS = ("samplers", "samplers_balanced", "samplers_sources", "loader")


@pytest.fixture
def ranks() -> Callable[..., list[Any]]:
    """``ranks(count, make)``: what ``make()`` gives on each of so many ranks."""

    def run(count: int, make: Callable[[], Any]) -> list[Any]:
        made = []
        for rank in range(count):
            with pytest.MonkeyPatch.context() as patch:
                for module in MODULES_WITH_RANKS:
                    patch.setattr(f"detcore.data.{module}.rank_and_world", lambda rank=rank: (rank, count))
                made.append(make())
        return made

    return run
