"""What the engine's tests share: a toy config, and comparing two ends of a run."""
import copy
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOY_PARTS = Path(__file__).with_name("toy_parts.py")


@pytest.fixture(scope="session")
def toy():
    """The module with the toy parts, its names registered."""
    from detcore.plugins import load_user_modules

    load_user_modules(files=[TOY_PARTS], trusted=True)
    spec = importlib.util.spec_from_file_location("toy_parts_for_reading", TOY_PARTS)
    assert spec is not None
    return TOY_PARTS


BASE = {
    "model": {"type": "ToyDetector"},
    "train_dataloader": {
        "batch_size": 2,
        "num_workers": 0,
        "sampler": {"type": "DefaultSampler", "shuffle": True},
        "dataset": {"type": "ToyDataset", "length": 12},
    },
    "val_dataloader": {
        "batch_size": 2,
        "num_workers": 0,
        "sampler": {"type": "DefaultSampler", "shuffle": False},
        "dataset": {"type": "ToyDataset", "length": 4, "noisy": False},
    },
    "val_evaluator": {"type": "ToyMetric"},
    "train_cfg": {"type": "EpochBasedTrainLoop", "max_epochs": 3, "val_interval": 1},
    "val_cfg": {"type": "ValLoop"},
    "optim_wrapper": {
        "type": "OptimWrapper",
        "optimizer": {"type": "SGD", "lr": 0.1, "momentum": 0.9},
        "clip_grad": {"max_norm": 5},
    },
    "param_scheduler": [
        {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "begin": 0, "end": 4},
        {"type": "MultiStepLR", "by_epoch": True, "begin": 0, "end": 3, "milestones": [2], "gamma": 0.1},
    ],
    "default_hooks": {"logger": {"type": "LoggerHook", "interval": 1}},
    "custom_hooks": [{"type": "EMAHook", "momentum": 0.1}, {"type": "CountingHook"}],
    "randomness": {"seed": 7},
}


def merged(base, changes):
    """``base`` with ``changes`` in it, dicts merged, everything else replaced."""
    result = copy.deepcopy(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else copy.deepcopy(value)
    return result


@pytest.fixture(scope="module")
def base():
    """The toy config and the function that merges changes into it."""
    return BASE, merged


@pytest.fixture
def toy_cfg(toy, tmp_path):
    """A toy config with changes; everything is written below the test's own folder."""

    def make(name="run", **changes):
        return merged(merged(BASE, {"work_dir": str(tmp_path / name)}), changes)

    return make


class CommandLine:
    """``detcore`` in fresh processes, forked from one that has imported everything."""

    def __init__(self, folder):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        self.folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(Path(__file__).with_name("harness.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.output = ""

    def __call__(self, *arguments, limit=60, **job):
        output = self.folder / "output.txt"
        output.unlink(missing_ok=True)
        job = {"arguments": [str(a) for a in arguments], "limit": limit, "output": str(output), **job}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        self.output = output.read_text() if output.exists() else ""
        assert answer, "the harness ended"
        return json.loads(answer)["status"]

    def close(self):
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


@pytest.fixture(scope="session")
def detcore(tmp_path_factory):
    """``detcore("run", config, ...)`` returns the exit status; ``detcore.output`` holds what it wrote."""
    command = CommandLine(tmp_path_factory.mktemp("commands"))
    yield command
    command.close()


@pytest.fixture
def toy_file(toy_cfg, tmp_path):
    """Writes a toy config to a file, with the toy parts as its module: ``toy_file(name, **changes)``."""

    def write(name="toy", **changes):
        cfg = toy_cfg(name, plugins=[str(TOY_PARTS)], **changes)
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(cfg))
        return path

    return write


@pytest.fixture
def retinanet(tmp_path):
    """A config of a very small RetinaNet on drawn pictures of 64x64 pixels."""
    from detcore.data.drawn import tiny_coco

    annotations = tiny_coco(tmp_path / "data", num=8, image_size=(64, 64))
    classes = [category["name"] for category in json.loads(annotations.read_text())["categories"]]

    def write(name="tiny", **changes):
        def loader(pipeline, **more):
            dataset = {
                "type": "CocoDataset",
                "ann_file": str(annotations),
                "metainfo": {"classes": classes},
                "data_prefix": {"img": str(annotations.parent / "images")},
                "pipeline": pipeline,
                **more,
            }
            return {"batch_size": 2, "num_workers": 0, "dataset": dataset}

        load, pack = {"type": "LoadImageFromFile"}, {"type": "PackDetInputs"}
        resize = {"type": "Resize", "scale": [64, 64], "keep_ratio": True}
        metric = {"type": "CocoMetric", "ann_file": str(annotations), "metric": "bbox"}
        cfg = {
            "model": {
                "type": "RetinaNet",
                "data_preprocessor": {
                    "type": "DetDataPreprocessor",
                    "mean": [120, 120, 120],
                    "std": [60, 60, 60],
                    "bgr_to_rgb": True,
                    "pad_size_divisor": 32,
                },
                "backbone": {
                    "type": "ResNet",
                    "depth": 18,
                    "base_channels": 8,
                    "norm_eval": False,
                    "frozen_stages": -1,
                    "num_stages": 4,
                    "out_indices": [0, 1, 2, 3],
                    "style": "pytorch",
                },
                "neck": {
                    "type": "FPN",
                    "in_channels": [8, 16, 32, 64],
                    "out_channels": 16,
                    "start_level": 1,
                    "add_extra_convs": "on_input",
                    "num_outs": 5,
                },
                "bbox_head": {
                    "type": "RetinaHead",
                    "num_classes": len(classes),
                    "in_channels": 16,
                    "stacked_convs": 1,
                    "feat_channels": 16,
                    "anchor_generator": {
                        "type": "AnchorGenerator",
                        "octave_base_scale": 4,
                        "scales_per_octave": 1,
                        "ratios": [0.5, 1.0, 2.0],
                        "strides": [8, 16, 32, 64, 128],
                    },
                    "bbox_coder": {"type": "DeltaXYWHBBoxCoder"},
                    "loss_cls": {"type": "FocalLoss", "use_sigmoid": True},
                    "loss_bbox": {"type": "L1Loss"},
                },
                "train_cfg": {
                    "assigner": {
                        "type": "MaxIoUAssigner",
                        "pos_iou_thr": 0.5,
                        "neg_iou_thr": 0.4,
                        "min_pos_iou": 0,
                        "ignore_iof_thr": -1,
                    },
                    "sampler": {"type": "PseudoSampler"},
                    "allowed_border": -1,
                    "pos_weight": -1,
                },
                "test_cfg": {
                    "nms_pre": 100,
                    "min_bbox_size": 0,
                    "score_thr": 0.0,
                    "nms": {"type": "nms", "iou_threshold": 0.5},
                    "max_per_img": 10,
                },
            },
            "train_dataloader": {
                **loader(
                    [
                        load,
                        {"type": "LoadAnnotations", "with_bbox": True},
                        resize,
                        {"type": "RandomFlip", "prob": 0.5},
                        {"type": "PhotoMetricDistortion"},
                        pack,
                    ]
                ),
                "sampler": {"type": "DefaultSampler", "shuffle": True},
            },
            "val_dataloader": loader([load, resize, pack], test_mode=True),
            "test_dataloader": loader([load, resize, pack], test_mode=True),
            "val_evaluator": metric,
            "test_evaluator": metric,
            "train_cfg": {"type": "EpochBasedTrainLoop", "max_epochs": 2, "val_interval": 2},
            "optim_wrapper": {
                "type": "OptimWrapper",
                "optimizer": {"type": "AdamW", "lr": 0.001},
                "clip_grad": {"max_norm": 10},
            },
            "param_scheduler": [
                {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "begin": 0, "end": 4}
            ],
            "default_hooks": {"logger": {"interval": 1}, "checkpoint": {"by_epoch": False, "interval": 3}},
            "custom_hooks": [{"type": "NumClassCheckHook"}],
            "randomness": {"seed": 5},
            "work_dir": str(tmp_path / name),
        }
        for key, value in changes.items():
            cfg[key] = (
                {**cfg[key], **value} if isinstance(value, dict) and isinstance(cfg.get(key), dict) else value
            )
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(cfg))
        return path

    return write
