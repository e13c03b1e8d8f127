"""A project of MMDetection's users, its import lines changed by ``detcore migrate``, and a config for it."""

import importlib
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

SOURCES = Path(__file__).with_name("users_code")
PACKAGE = "their_project"
MODULES = sorted(path.stem for path in SOURCES.glob("*.py") if path.stem != "__init__")


@pytest.fixture(scope="session")
def their_project(tmp_path_factory):
    """The users' package with new import lines, importable as ``their_project``, its modules registered."""
    from det_mmdet.migrate_command import command

    from detcore.plugins import load_user_modules

    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(SOURCES, folder / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    result = CliRunner().invoke(command, [str(folder), "--write"])
    assert result.exit_code == 0, result.output
    sys.path.insert(0, str(folder))  # for good: data loaders' workers import what this process has imported
    load_user_modules([f"{PACKAGE}.{name}" for name in MODULES], trusted=True)
    return folder / PACKAGE


@pytest.fixture(scope="session")
def theirs(their_project):
    """``theirs(name)``: a module of the package."""
    return lambda name: importlib.import_module(f"{PACKAGE}.{name}")


@pytest.fixture(scope="session")
def their_data(tmp_path_factory):
    """Eight pictures with two squares each, annotated in the manual's text format; the folder."""
    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    lines = []
    for number in range(8):
        image = np.full((64, 64, 3), 40, np.uint8)
        boxes = []
        for label, (x, y) in enumerate(generator.integers(2, 34, (2, 2)).tolist()):
            image[y : y + 24, x : x + 24] = (250, 90, 30) if label else (30, 250, 120)
            boxes.append(f"{x} {y} {x + 24} {y + 24} {label}")
        cv2.imwrite(str(folder / f"{number:06}.png"), image)
        lines += ["#", f"{number:06}.png", "64 64", "2", *boxes]
    (folder / "annotation.txt").write_text("\n".join(lines) + "\n")
    return folder


ANCHORS = {
    "type": "AnchorGenerator",
    "octave_base_scale": 3,
    "scales_per_octave": 1,
    "ratios": [1.0],
    "strides": [8, 16, 32],
}
HEAD = {"num_classes": 4, "in_channels": 8, "feat_channels": 8, "anchor_generator": ANCHORS}
TRAIN_CFG = {"assigner": {"type": "MaxIoUAssigner", "pos_iou_thr": 0.5, "neg_iou_thr": 0.4, "min_pos_iou": 0}}
TEST_CFG = {
    "nms_pre": 100,
    "score_thr": 0.0,
    "nms": {"type": "nms", "iou_threshold": 0.95},
    "max_per_img": 60,
}


@pytest.fixture
def their_config(their_project, their_data, tmp_path):
    """``their_config(**changes)``: a run in which everything that users write is theirs."""
    from detcore.config import Config

    def loader(pipeline, **more):
        dataset = {
            "type": "MyPrefixedDataset",
            "ann_file": "annotation.txt",
            "data_root": str(their_data),
            "data_prefix": {"img": ""},
            "pipeline": pipeline,
        }
        return {"batch_size": 2, "num_workers": 0, "dataset": {**dataset, **more}}

    load = [
        {"type": "LoadImageFromFile"},
        {"type": "LoadAnnotations", "with_bbox": True},
        {"type": "Resize", "scale": (64, 64), "keep_ratio": True},
    ]
    noisy = [*load, {"type": "MyTransform", "prob": 0.2}, {"type": "MyNoise"}, {"type": "PackDetInputs"}]
    test = loader([*load, {"type": "PackDetInputs"}], test_mode=True)

    def make(name="run", **changes):
        base = {
            "default_scope": "mmdet",
            "custom_imports": {
                "imports": [f"{PACKAGE}.{name}" for name in MODULES],
                "allow_failed_imports": False,
            },
            "work_dir": str(tmp_path / name),
            "model": {
                "type": "MyRetinaNet",
                "data_preprocessor": {
                    "type": "DetDataPreprocessor",
                    "mean": [100.0] * 3,
                    "std": [60.0] * 3,
                    "pad_size_divisor": 32,
                },
                "backbone": {"type": "MyMobileNet"},
                "neck": {"type": "MyPAFPN", "in_channels": [16, 16, 32], "out_channels": 8, "num_outs": 3},
                "bbox_head": {
                    "type": "MyAnchorHead",
                    **HEAD,
                    "stacked_convs": 1,
                    "loss_cls": {"type": "FocalLoss", "use_sigmoid": True},
                    "loss_bbox": {"type": "MyLoss", "loss_weight": 1.0},
                },
                "train_cfg": TRAIN_CFG,
                "test_cfg": TEST_CFG,
            },
            "train_dataloader": {**loader(noisy), "sampler": {"type": "DefaultSampler", "shuffle": True}},
            "val_dataloader": test,
            "test_dataloader": test,
            "val_evaluator": {"type": "MyRecall"},
            "test_evaluator": {"type": "MyRecall", "prefix": "test"},
            "train_cfg": {"type": "EpochBasedTrainLoop", "max_epochs": 2},
            "val_cfg": {"type": "ValLoop"},
            "test_cfg": {"type": "TestLoop"},
            "optim_wrapper": {
                "type": "OptimWrapper",
                "optimizer": {"type": "SGD", "lr": 0.01, "momentum": 0.9},
            },
            "randomness": {"seed": 1},
        }
        return Config({**base, **changes})

    return make
