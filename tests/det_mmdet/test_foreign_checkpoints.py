"""Files as MMDetection 2.x and 3.x save them work wherever weights are taken, with classes and config."""

import logging
import sys
import types
from collections import OrderedDict

import numpy as np
import pytest
import torch

from detcore.apis import DetInferencer, inference_detector, init_detector
from detcore.config import Config
from detcore.engine.runner import Runner
from detcore.errors import CheckpointError, ConfigError
from detcore.testing import tiny_coco

CLASSES = ("circle", "square")
PALETTE = [(255, 0, 0), (0, 0, 255)]


def tiny_config(folder, classes=CLASSES):
    """RetinaNet with few channels, as a config of MMDetection 3.x writes it."""
    pipeline = [
        {"type": "LoadImageFromFile"},
        {"type": "Resize", "scale": (64, 64), "keep_ratio": True},
        {"type": "LoadAnnotations", "with_bbox": True},
        {"type": "PackDetInputs"},
    ]
    data = {
        "type": "CocoDataset",
        "data_root": str(folder),
        "ann_file": "annotations.json",
        "data_prefix": {"img": "images/"},
        "metainfo": {"classes": classes},
        "pipeline": pipeline,
    }
    return Config(
        {
            "default_scope": "mmdet",
            "model": {
                "type": "RetinaNet",
                "data_preprocessor": {"type": "DetDataPreprocessor", "mean": [0.0] * 3, "std": [255.0] * 3,
                                      "pad_size_divisor": 32},
                "backbone": {"type": "ResNet", "depth": 18, "base_channels": 8, "norm_eval": True},
                "neck": {"type": "FPN", "in_channels": [8, 16, 32, 64], "out_channels": 8, "start_level": 1,
                         "add_extra_convs": "on_input", "num_outs": 5},
                "bbox_head": {"type": "RetinaHead", "num_classes": len(classes), "in_channels": 8,
                              "feat_channels": 8, "stacked_convs": 1},
                "train_cfg": {"assigner": {"type": "MaxIoUAssigner", "pos_iou_thr": 0.5, "neg_iou_thr": 0.4}},
                "test_cfg": {"nms_pre": 50, "score_thr": 0.0, "nms": {"type": "nms", "iou_threshold": 0.5},
                             "max_per_img": 5},
            },
            "train_dataloader": {"batch_size": 1, "num_workers": 0, "dataset": data},
            "test_dataloader": {"batch_size": 1, "num_workers": 0, "dataset": {**data, "test_mode": True}},
            "train_cfg": {"type": "IterBasedTrainLoop", "max_iters": 1},
            "optim_wrapper": {"type": "OptimWrapper", "optimizer": {"type": "SGD", "lr": 0.0}},
            "default_hooks": {"checkpoint": None},
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    tiny_coco(folder, num=2)
    return folder


@pytest.fixture(scope="module")
def detector(data):
    torch.manual_seed(0)
    logging.getLogger("detcore.apis").setLevel(logging.ERROR)
    return init_detector(tiny_config(data))


@pytest.fixture
def their_classes(monkeypatch):
    """Classes that pickle writes under the names that mmengine and mmcv have, while they are installed."""
    made = {}
    for path in ("mmengine.logging.history_buffer.HistoryBuffer", "mmcv.utils.config.ConfigDict"):
        module, _, name = path.rpartition(".")
        parts = module.split(".")
        for end in range(1, len(parts) + 1):
            inner = ".".join(parts[:end])
            monkeypatch.setitem(sys.modules, inner, types.ModuleType(inner))
        base = dict if name == "ConfigDict" else object
        made[name] = type(name, (base,), {"__module__": module, "__qualname__": name})
        setattr(sys.modules[module], name, made[name])
    yield made
    monkeypatch.undo()


def content_3x(detector, cfg, buffer):
    """What mmengine's runner saves; with EMAHook ``state_dict`` holds the averaged weights."""
    history = buffer()
    history._log_history, history._count_history = np.ones(3), np.ones(3, dtype=np.int64)
    state = detector.state_dict()
    return {
        "meta": {
            "epoch": 12, "iter": 87960, "cfg": cfg.pretty_text, "seed": np.int64(3), "time": "20230101",
            "experiment_name": "retinanet", "mmengine_version": "0.10.7",
            "dataset_meta": {"CLASSES": CLASSES, "PALETTE": PALETTE},
        },
        "state_dict": state,
        "message_hub": {"log_scalars": OrderedDict({"train/loss": history}), "runtime_info": OrderedDict(),
                        "resumed_keys": OrderedDict()},
        "ema_state_dict": {"steps": torch.tensor(3), **{f"module.{k}": v + 1 for k, v in state.items()}},
        "optimizer": {"state": {}, "param_groups": [{"lr": np.float64(0.01), "params": [0]}]},
        "param_schedulers": [{"last_step": 3}],
    }  # fmt: skip


def content_2x(detector, config_dict):
    """What mmcv's runner saves, from a data-parallel model with a moving average."""
    state = OrderedDict((f"module.{name}", value) for name, value in detector.state_dict().items())
    averaged = list(detector.state_dict())
    state |= {"module.ema_" + name.replace(".", "_"): state[f"module.{name}"] + 1 for name in averaged}
    return {
        "meta": {
            "mmdet_version": "2.25.0+abcdef1", "config": "model = dict(type='RetinaNet')\ndata = dict()\n",
            "CLASSES": CLASSES, "PALETTE": PALETTE, "epoch": 12, "iter": 87960, "seed": None,
            "hook_msgs": config_dict({"best_score": np.float32(0.4), "last": np.array([1.5])}),
        },
        "state_dict": state,
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.01, "params": [0]}]},
    }  # fmt: skip


@pytest.fixture
def file_3x(tmp_path, data, detector, their_classes):
    content = content_3x(detector, tiny_config(data), their_classes["HistoryBuffer"])
    torch.save(content, tmp_path / "epoch_12.pth")
    for name in [name for name in sys.modules if name.split(".")[0] in ("mmengine", "mmcv")]:
        del sys.modules[name]
    return tmp_path / "epoch_12.pth"


@pytest.fixture
def file_2x(tmp_path, detector, their_classes):
    content = content_2x(detector, their_classes["ConfigDict"])
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in [name for name in sys.modules if name.split(".")[0] in ("mmengine", "mmcv")]:
        del sys.modules[name]
    return tmp_path / "old.pth"


def found(model, data):
    return inference_detector(model, data / "images" / "000001.jpg").pred_instances


@pytest.mark.parametrize("version", ["file_2x", "file_3x"])
def test_a_detector_with_their_file_predicts_what_theirs_does_and_knows_its_classes(
    request, version, data, detector
):
    model = init_detector(tiny_config(data, ("x", "y")), request.getfixturevalue(version))
    assert model.dataset_meta["classes"] == CLASSES
    assert [tuple(colour) for colour in model.dataset_meta["palette"]] == PALETTE
    expected, got = found(detector, data), found(model, data)
    assert len(expected) == 5
    for name in ("bboxes", "scores", "labels"):
        assert torch.equal(expected[name], got[name])


def test_other_classes_in_the_config_are_said(file_3x, data, caplog):
    with caplog.at_level(logging.WARNING, "detcore.apis"):
        logging.getLogger("detcore.apis").setLevel(logging.WARNING)
        init_detector(tiny_config(data, ("x", "y")), file_3x)
    assert "others than those of the config's data sets, and are used: circle, square" in caplog.text


def test_a_file_of_3x_carries_its_config(file_3x, data, detector):
    for model in (init_detector(None, file_3x), DetInferencer(weights=file_3x, device="cpu").model):
        assert torch.equal(found(model, data).bboxes, found(detector, data).bboxes)


def test_the_config_in_a_file_of_2x_is_refused_with_a_word_on_what_to_do(file_2x):
    with pytest.raises(ConfigError, match=r"a config of MMDetection 2\.x; its weights load"):
        init_detector(None, file_2x)


def test_a_file_without_config_says_so(tmp_path, detector):
    torch.save(detector.state_dict(), tmp_path / "bare.pth")
    with pytest.raises(ConfigError, match="does not carry its config"):
        init_detector(None, tmp_path / "bare.pth")
    with pytest.raises(ConfigError, match="needs a config, or a checkpoint"):
        init_detector(None)


def trained(cfg, tmp_path, **changes):
    cfg = Config({**cfg.to_dict(), "work_dir": str(tmp_path / "work"), **changes})
    del cfg["test_dataloader"]
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner.model


@pytest.mark.parametrize("version", ["file_2x", "file_3x"])
def test_a_run_starts_from_their_file(request, version, data, detector, tmp_path):
    path = request.getfixturevalue(version)
    model = trained(tiny_config(data), tmp_path, load_from=str(path))
    for name, value in detector.state_dict().items():
        if "running" not in name and "tracked" not in name:
            assert torch.equal(model.state_dict()[name], value), name


def test_a_run_on_other_classes_leaves_the_head_out_with_one_warning(
    file_2x, data, detector, tmp_path, caplog
):
    with caplog.at_level(logging.WARNING, "detcore"):
        model = trained(tiny_config(data, ("circle", "square", "ring")), tmp_path, load_from=str(file_2x))
    [warning] = [record.message for record in caplog.records if str(file_2x) in record.message]
    assert "only classification layers differ: the file is for another number of classes" in warning
    assert torch.equal(model.backbone.conv1.weight, detector.backbone.conv1.weight)


@pytest.mark.parametrize("version", ["file_2x", "file_3x"])
def test_a_run_cannot_be_resumed_from_their_file(request, version, data, tmp_path):
    path = request.getfixturevalue(version)
    with pytest.raises(
        CheckpointError, match=r"not saved by a run of detcore.*load_from.*epoch 12, iter 87960"
    ):
        trained(tiny_config(data), tmp_path, load_from=str(path), resume=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"optimizer": {"state": {}, "param_groups": []}, "meta": {}}, "an optimiser's state is no model"),
        ({}, "nothing in it"),
        ({"state_dict": {"fc.weight": torch.ones(1), "conv1.bias": torch.ones(1)}}, "classification model"),
        ({"state_dict": {"roi_head.bbox_head.fc_cls.weight": torch.ones(1)}}, "Faster R-CNN"),
    ],
)
def test_a_file_of_something_else_is_named_for_what_it_seems_to_be(tmp_path, data, content, message):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=message):
        init_detector(tiny_config(data), tmp_path / "other.pth")


def test_leftovers_stop_a_detector_unless_the_caller_says_otherwise(tmp_path, data, detector, caplog):
    torch.save({**detector.state_dict(), "mask_head.weight": torch.ones(1)}, tmp_path / "more.pth")
    with pytest.raises(CheckpointError, match=r"1 not in the model: mask_head\.weight"):
        init_detector(tiny_config(data), tmp_path / "more.pth")
    with caplog.at_level(logging.WARNING, "detcore"):
        init_detector(tiny_config(data), tmp_path / "more.pth", strict=False)
    assert "1 not in the model: mask_head.weight" in caplog.text
