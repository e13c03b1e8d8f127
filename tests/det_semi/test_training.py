"""A teacher and a student trained by the engine: figures in the log, exact resume, precision, ranks."""

import json
import logging
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from detcore.engine.hooks import Hook
from detcore.engine.runner import Runner
from detcore.errors import CheckpointError, ConfigError

END = "iter_6.pth"


def trained(cfg):
    runner = Runner(cfg)
    runner.train()
    return runner


def records(cfg, mode="train"):
    lines = (Path(cfg["work_dir"]) / "log.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["mode"] == mode]


def test_the_log_tells_how_the_pseudo_labels_are(training, drawn, caplog):
    cfg = training()
    cfg["model"]["semi_train_cfg"]["unlabeled_truth"] = str(
        drawn / "semi_anns/annotations.1@25-unlabeled.json"
    )
    with caplog.at_level(logging.INFO):
        trained(cfg)
    wanted = {
        "pseudo_per_image", "pseudo_per_image/circle", "pseudo_empty_images", "pseudo_kept_rpn",
        "pseudo_kept_cls", "pseudo_kept_reg", "pseudo_agreement", "pseudo_precision", "pseudo_recall",
    }  # fmt: skip
    for record in records(cfg):
        assert wanted <= record.keys()
    lines = [message for message in caplog.messages if "Iter(train)" in message]
    assert all("pseudo_precision: " in line and "pseudo_per_image/circle" not in line for line in lines)


@pytest.mark.parametrize("step", [1, 4])
def test_a_resumed_training_is_the_one_that_was_not_stopped(step, training, compare):
    whole = training("whole")
    trained(whole)
    cfg = training("resumed", resume="auto")
    folder = Path(cfg["work_dir"])
    folder.mkdir()
    shutil.copy(Path(whole["work_dir"]) / f"iter_{step}.pth", folder)
    shutil.copy(Path(whole["work_dir"]) / "log.jsonl", folder)
    trained(cfg)
    assert compare(whole["work_dir"], cfg["work_dir"], END) == []


def test_teacher_and_student_are_both_in_the_checkpoint_and_apart(training):
    cfg = training()
    runner = trained(cfg)
    state = torch.load(Path(cfg["work_dir"]) / END, weights_only=True)["state_dict"]
    name = "neck.lateral_convs.0.conv.weight"
    assert torch.equal(state[f"teacher.{name}"], runner.model.teacher.state_dict()[name])
    assert torch.equal(state[f"student.{name}"], runner.model.student.state_dict()[name])
    assert not torch.equal(state[f"teacher.{name}"], state[f"student.{name}"])


def test_a_burn_in_learns_from_labels_alone(training):
    cfg = training()
    cfg["model"]["semi_train_cfg"]["burn_in_iters"] = 3
    runner = trained(cfg)
    has = [any(name.startswith("unsup_") for name in record) for record in records(cfg)]
    assert has == [False, False, False, True, True, True]
    name = "neck.lateral_convs.0.conv.weight"
    assert not torch.equal(runner.model.teacher.state_dict()[name], runner.model.student.state_dict()[name])


@pytest.mark.parametrize("kind", ["SoftTeacher", "SemiBaseDetector"])
def test_half_precision_and_accumulation(kind, training):
    wrapper = {
        "type": "AmpOptimWrapper", "dtype": "bfloat16", "accumulative_counts": 2,
        "optimizer": {"type": "SGD", "lr": 1e-6},
    }  # fmt: skip
    cfg = training(kind=kind, optim_wrapper=wrapper)
    runner = trained(cfg)
    assert all(torch.isfinite(value).all() for value in runner.model.state_dict().values())
    assert len(records(cfg)) == 6


@pytest.fixture
def validated(training, drawn):
    """A training that validates at its end; 'loop' is the type of its loop."""

    def make(loop, **changes):
        cfg = training(**changes)
        pipeline = [{"type": "LoadImageFromFile"}, {"type": "PackDetInputs"}]
        dataset = {
            "type": "CocoDataset", "ann_file": f"{drawn}/annotations.json", "test_mode": True,
            "data_prefix": {"img": f"{drawn}/images"}, "metainfo": {"classes": ("circle", "ring", "square")},
            "pipeline": pipeline,
        }  # fmt: skip
        cfg["train_cfg"]["val_interval"] = 6
        cfg["val_dataloader"] = {
            "batch_size": 4, "num_workers": 0, "dataset": dataset,
            "sampler": {"type": "DefaultSampler", "shuffle": False},
        }  # fmt: skip
        cfg["val_evaluator"] = {"type": "CocoMetric", "ann_file": f"{drawn}/annotations.json"}
        cfg["val_cfg"] = {"type": loop}
        return cfg

    return make


class Answering(Hook):
    def __init__(self):
        self.parts = []

    def after_val_iter(self, runner, **_):
        self.parts.append(runner.model.semi_test_cfg.get("predict_on"))


def test_both_are_validated_and_the_setting_is_as_before(validated):
    runner = Runner(validated("semi.TeacherStudentValLoop"))
    spy = Answering()
    runner.register_hook(spy)
    runner.train()
    (record,) = records(runner.cfg, "val")
    assert {"teacher/coco/bbox_mAP", "student/coco/bbox_mAP"} <= record.keys()
    assert spy.parts == ["teacher"] * 3 + ["student"] * 3
    assert runner.model.semi_test_cfg["predict_on"] == "teacher"
    assert runner.model.student.training


def test_the_best_checkpoint_may_be_the_teachers(validated):
    cfg = validated("semi.TeacherStudentValLoop")
    cfg["default_hooks"]["checkpoint"]["save_best"] = "teacher/coco/bbox_mAP"
    trained(cfg)
    assert list(Path(cfg["work_dir"]).glob("best_*"))


def test_the_loop_says_what_it_needs(validated, semi_config):
    cfg = validated("semi.TeacherStudentValLoop")
    cfg["model"] = semi_config()["detector"]
    cfg["train_dataloader"]["dataset"] = {
        **cfg["val_dataloader"]["dataset"],
        "test_mode": False,
        "pipeline": [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}, {"type": "PackDetInputs"}],
    }
    cfg["train_dataloader"]["sampler"] = {"type": "InfiniteSampler"}
    with pytest.raises(ConfigError, match=r"teacher and a student.*FasterRCNN"):
        trained(cfg)


def test_a_checkpoint_of_another_detector_does_not_begin_a_training(training):
    other = training("other", detector="retinanet", kind="SemiBaseDetector")
    other["train_cfg"]["max_iters"] = 1
    trained(other)
    cfg = training("run", load_from=str(Path(other["work_dir"]) / "iter_1.pth"))
    with pytest.raises(CheckpointError, match="FasterRCNN: they have bbox_head, and nothing for roi"):
        trained(cfg)


def test_a_resume_refuses_the_checkpoint_of_another_detector(training):
    other = training("run", detector="retinanet", kind="SemiBaseDetector")
    other["train_cfg"]["max_iters"] = 2
    trained(other)
    with pytest.raises(CheckpointError):
        trained(training("run", resume="auto"))


def test_two_processes_have_one_teacher(training, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    cfg = training("ranks")
    path = tmp_path / "ranks.json"
    path.write_text(json.dumps(cfg))
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}",
            Path(__file__).with_name("ranks.py"), path, tmp_path,
        ],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    states = [torch.load(tmp_path / f"rank_{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert len(states[0]) > 0, done.stdout + done.stderr
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
    first = Runner(training("alone"))
    assert not torch.equal(
        first.model.teacher.state_dict()["neck.lateral_convs.0.conv.weight"],
        states[0]["teacher.neck.lateral_convs.0.conv.weight"],
    )
