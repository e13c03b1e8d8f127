"""The configs of teacher-student detectors: right, built, and a dry run of each goes through."""

import os
import subprocess
import sys

import pytest
import torch

from detcore.config import Config, shipped_configs
from detcore.engine.check import check_config
from detcore.engine.dry_run import make_dry
from detcore.registry import MODELS

FOLDERS = ("semi", "soft_teacher")
NAMES = sorted(
    path.relative_to(shipped_configs()).as_posix()
    for folder in FOLDERS
    for path in (shipped_configs() / folder).glob("*.py")
)
SOFT_TEACHER = "soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py"
CASCADE_RCNN = "semi/semi-base_cascade-rcnn_r50_fpn_180k_semi-0.1-coco.py"
FCOS = "semi/semi-base_fcos_r50-caffe_fpn_gn-head_180k_semi-0.1-coco.py"
RETINANET = "semi/semi-base_retinanet_r50_fpn_180k_semi-0.1-coco.py"
PARAMETERS = {  # of the reference: its record of Soft Teacher, and twice those of the detectors
    SOFT_TEACHER: 83_506_112,
    CASCADE_RCNN: 2 * 69_394_766,
    FCOS: 2 * 32_295_322,
    RETINANET: 2 * 37_968_692,
}
TRAIN = "train_dataloader.dataset.datasets"
SMALL = [  # a smaller network and smaller pictures, so that it takes seconds
    "model.detector.backbone.depth=18",
    "model.detector.neck.in_channels=[64,128,256,512]",
    f"{TRAIN}.0.pipeline.2.scale=[(160,96),(160,128)]",
    f"{TRAIN}.1.pipeline.2.unsup_teacher.0.scale=[(160,96),(160,128)]",
    f"{TRAIN}.1.pipeline.2.unsup_student.0.scale=[(160,96),(160,128)]",
    "val_dataloader.dataset.pipeline.1.scale=(160,128)",
]


def shipped(name):
    return Config.fromfile(f"detcore::{name}")


@pytest.mark.parametrize("name", NAMES)
def test_nothing_but_missing_files_is_wrong_with_a_config(name):
    problems = check_config(shipped(name))
    assert not [str(each) for each in problems if "does not exist" not in each.message]


@pytest.mark.parametrize("name", PARAMETERS)
def test_teacher_and_student_are_of_the_references_size(name):
    with torch.device("meta"):  # sizes without memory
        model = MODELS.build(shipped(name).model)
    assert sum(each.numel() for each in model.parameters()) == PARAMETERS[name]
    assert not any(each.requires_grad for each in model.teacher.parameters())
    assert any(each.requires_grad for each in model.student.parameters())


def test_the_shares_differ_in_their_files_alone():
    one = shipped(SOFT_TEACHER).to_dict()
    for share, percent in (("0.01", 1), ("0.02", 2), ("0.05", 5)):
        other = shipped(SOFT_TEACHER.replace("0.1-", f"{share}-")).to_dict()
        assert repr(other) == repr(one).replace("1@10", f"1@{percent}")


def test_batches_hold_as_many_labelled_images_as_others():
    for name in NAMES:
        loader = shipped(name).train_dataloader
        ratio = [1, 4] if name.startswith("soft_teacher/") else [1, 1]
        assert loader.sampler.source_ratio == ratio
        assert loader.sampler.batch_size == loader.batch_size == sum(ratio)
        labelled, unlabelled = loader.dataset.datasets
        assert unlabelled.ann_file == labelled.ann_file.replace(".json", "-unlabeled.json")
        assert unlabelled.data_prefix == labelled.data_prefix


@pytest.mark.parametrize(
    "name",
    [name if name == SOFT_TEACHER else pytest.param(name, marks=pytest.mark.slow) for name in NAMES],
)
def test_a_dry_run_goes_through(name, tmp_path):
    command = [sys.executable, "-m", "detcore", "run", f"detcore::{name}", "--dry-run", "--device", "cpu"]
    done = subprocess.run(
        [*command, "--cfg-options", *SMALL],
        capture_output=True, text=True, timeout=180, cwd=tmp_path, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    output = done.stdout + done.stderr
    assert "train uses 6 drawn pictures" in output
    assert "unsup_loss" in output
    for part in ("teacher", "student"):
        assert f"{part}/coco/bbox_mAP" in output
    assert "dry run: one step and one evaluation went through" in output
    assert not list(tmp_path.iterdir())  # nothing is left behind


def test_a_dry_run_on_drawn_pictures_leaves_the_truth_of_others_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = shipped("semi_bccd/soft-teacher_faster-rcnn_r18_fpn_bccd-0.1.py")
    assert config.model.semi_train_cfg.unlabeled_truth
    notes = make_dry(config, tmp_path / "dry")
    assert config.model.semi_train_cfg.unlabeled_truth is None
    assert any("model.semi_train_cfg.unlabeled_truth is left out" in note for note in notes)


def test_a_dry_run_on_the_images_themselves_keeps_their_truth(training, tmp_path):
    config = Config(training())
    truth = config.train_dataloader.dataset.datasets[1].ann_file
    config.model.semi_train_cfg.unlabeled_truth = truth
    notes = make_dry(config, tmp_path / "dry")
    assert config.model.semi_train_cfg.unlabeled_truth == truth
    assert notes == []
