"""Small teachers and students, batches with branches, and a training of a few steps on drawn pictures."""

import copy
import importlib.util
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from detcore.data.drawn import tiny_coco
from detcore.data.split import split_annotations
from detcore.registry import MODELS
from detcore.structures import DetDataSample, InstanceData

MODELS_OF_TESTS = Path(__file__).parents[1] / "det_models"
HEIGHT, WIDTH = 256, 320
SHAPES = ("circle", "ring", "square", "triangle", "star")


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"of_det_semi_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_two_stage = _module(MODELS_OF_TESTS / "two_stage_parts.py")
_fixtures = _module(MODELS_OF_TESTS / "conftest.py")
fill_by_name = _fixtures.fill_by_name
golden_batch = _fixtures.golden_batch
golden_regions = _fixtures.golden_regions


def _every_candidate(cfg: Any) -> Any:
    """Samplers keep all, so that nothing is drawn."""
    if isinstance(cfg, dict):
        return {key: 1000000 if key == "num" else _every_candidate(value) for key, value in cfg.items()}
    return [_every_candidate(each) for each in cfg] if isinstance(cfg, list) else cfg


def faster_rcnn(**roi_head: Any) -> dict[str, Any]:
    return _every_candidate(_two_stage.faster_rcnn(3, **roi_head))


def agnostic() -> dict[str, Any]:
    return faster_rcnn(bbox_head=_two_stage.bbox_head(3, reg_class_agnostic=True))


def cascade_rcnn() -> dict[str, Any]:
    return _every_candidate(_two_stage.cascade_rcnn(3, masks=False))


def retinanet() -> dict[str, Any]:
    model = faster_rcnn()
    neck = {**model["neck"], "start_level": 1, "add_extra_convs": "on_input"}
    anchors = {
        "type": "AnchorGenerator", "octave_base_scale": 4, "scales_per_octave": 3,
        "ratios": [0.5, 1.0, 2.0], "strides": [8, 16, 32, 64, 128],
    }  # fmt: skip
    head = {
        "type": "RetinaHead", "num_classes": 3, "in_channels": 16, "stacked_convs": 1, "feat_channels": 16,
        "anchor_generator": anchors, "loss_bbox": {"type": "L1Loss"},
    }  # fmt: skip
    return {
        "type": "RetinaNet",
        "data_preprocessor": model["data_preprocessor"],
        "backbone": model["backbone"],
        "neck": neck,
        "bbox_head": head,
        "train_cfg": {
            "assigner": {"type": "MaxIoUAssigner", "pos_iou_thr": 0.5, "neg_iou_thr": 0.4, "min_pos_iou": 0}
        },
        "test_cfg": {
            "nms_pre": 100, "min_bbox_size": 0, "score_thr": 0.05,
            "nms": {"type": "nms", "iou_threshold": 0.5}, "max_per_img": 20,
        },
    }  # fmt: skip


def fcos() -> dict[str, Any]:
    model = retinanet()
    head = {
        "type": "FCOSHead", "num_classes": 3, "in_channels": 16, "stacked_convs": 1, "feat_channels": 16,
        "strides": [8, 16, 32, 64, 128], "norm_cfg": None,
    }  # fmt: skip
    return {**model, "type": "FCOS", "bbox_head": head, "train_cfg": None}


DETECTORS = {
    "faster_rcnn": faster_rcnn,
    "agnostic": agnostic,
    "cascade_rcnn": cascade_rcnn,
    "retinanet": retinanet,
    "fcos": fcos,
}
LOW = {
    "pseudo_label_initial_score_thr": 0.36, "rpn_pseudo_thr": 0.4, "cls_pseudo_thr": 0.42,
    "reg_pseudo_thr": 0.12, "unsup_weight": 4.0,
}  # fmt: skip


@pytest.fixture(scope="session")
def semi_config():
    """``semi_config(detector='faster_rcnn', kind='SoftTeacher', **semi_train_cfg)``."""

    def make(detector: str = "faster_rcnn", kind: str = "SoftTeacher", **settings: Any) -> dict[str, Any]:
        inner = DETECTORS[detector]()
        return {
            "type": f"semi.{kind}",
            "detector": inner,
            "data_preprocessor": {
                "type": "semi.MultiBranchDataPreprocessor",
                "data_preprocessor": inner["data_preprocessor"],
            },
            "semi_train_cfg": {**(LOW if kind == "SoftTeacher" else {}), **settings},
        }

    return make


@pytest.fixture(scope="session")
def semi(semi_config, fill_by_name):
    """``semi(...)``: that detector in training, with weights by name: untrained, student unlike teacher."""
    return lambda *given, **settings: fill_by_name(
        MODELS.build(copy.deepcopy(semi_config(*given, **settings)))
    ).train()


def mirrored() -> np.ndarray:
    return np.array([[-1, 0, WIDTH], [0, 1, 0], [0, 0, 1]], np.float32)


def turned() -> np.ndarray:
    c, s = 1.05 * math.cos(0.15), 1.05 * math.sin(0.15)
    return np.array([[c, -s, 12], [s, c, -20], [0, 0, 1]], np.float32)


def view(matrix: np.ndarray, number: int = 0) -> DetDataSample:
    """An unlabelled image as one of the two views."""
    shape = (HEIGHT, WIDTH)
    sizes = dict.fromkeys(("img_shape", "ori_shape", "pad_shape", "batch_input_shape"), shape)
    meta = {**sizes, "img_id": number, "img_path": f"{number}.jpg", "scale_factor": (1.0, 1.0)}
    sample = DetDataSample(metainfo={**meta, "homography_matrix": matrix})
    sample.gt_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    return sample


@pytest.fixture
def branches(golden_regions):
    """Inputs and samples of the three branches: two labelled images, two views of two unlabelled ones."""
    images, labelled = golden_regions((4, 4))
    inputs = {"sup": images, "unsup_teacher": images.flip(-1), "unsup_student": images * 0.9}
    samples = {
        "sup": labelled,
        "unsup_teacher": [view(mirrored(), number) for number in range(2)],
        "unsup_student": [view(turned(), number) for number in range(2)],
    }
    return inputs, samples


# -- a training
# -------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    """A folder with 12 drawn pictures, `semi_anns/annotations.1@25.json` and what is not labelled."""
    folder = tmp_path_factory.mktemp("drawn")
    split_annotations(tiny_coco(folder, num=12), [25], folds=1, out_dir=folder / "semi_anns")
    return folder


@pytest.fixture
def training(drawn, semi_config, tmp_path):
    """``training(name, **changes)``: config of six steps of two images, one labelled and one not."""

    def make(name: str = "run", detector: str = "faster_rcnn", kind: str = "SoftTeacher", **changes: Any):
        model = semi_config(detector, kind)
        model["detector"] = {**model["detector"]}
        data = {
            "type": "CocoDataset",
            "data_prefix": {"img": f"{drawn}/images"},
            "metainfo": {"classes": SHAPES[:3]},
        }
        keys = ["img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "homography_matrix"]
        weak = [{"type": "RandomFlip", "prob": 0.5}, {"type": "PackDetInputs", "meta_keys": keys}]
        strong = [{"type": "RandomResize", "scale": (96, 72), "ratio_range": (0.8, 1.2)}, *weak]
        sup = [
            {"type": "LoadImageFromFile"},
            {"type": "LoadAnnotations", "with_bbox": True},
            {"type": "RandomFlip", "prob": 0.5},
            {"type": "semi.MultiBranch", "sup": {"type": "PackDetInputs"}},
        ]
        unsup = [
            {"type": "LoadImageFromFile"},
            {"type": "LoadEmptyAnnotations"},
            {"type": "semi.MultiBranch", "unsup_teacher": weak, "unsup_student": strong},
        ]
        anns = drawn / "semi_anns"
        labelled = {**data, "ann_file": f"{anns}/annotations.1@25.json", "pipeline": sup}
        unlabelled = {**data, "ann_file": f"{anns}/annotations.1@25-unlabeled.json", "pipeline": unsup}
        cfg = {
            "default_scope": "detcore",
            "work_dir": str(tmp_path / name),
            "model": model,
            "train_dataloader": {
                "batch_size": 2,
                "num_workers": 0,
                "sampler": {"type": "MultiSourceSampler", "batch_size": 2, "source_ratio": [1, 1]},
                "dataset": {"type": "ConcatDataset", "datasets": [labelled, unlabelled]},
            },
            "train_cfg": {"type": "IterBasedTrainLoop", "max_iters": 6, "val_interval": 100},
            "optim_wrapper": {"type": "OptimWrapper", "optimizer": {"type": "SGD", "lr": 1e-6}},
            "default_hooks": {
                "logger": {"type": "LoggerHook", "interval": 1},
                "checkpoint": {"type": "CheckpointHook", "by_epoch": False, "interval": 1},
            },
            "log_processor": {"by_epoch": False},
            "randomness": {"seed": 5},
        }
        return {**cfg, **changes}

    return make
