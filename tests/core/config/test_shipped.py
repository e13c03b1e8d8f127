"""The configs that come with detcore: each loads, and names only what exists."""
import os
import subprocess
import sys

import pytest

from detcore.config import Config, shipped_configs

FILES = sorted(path.relative_to(shipped_configs()).as_posix() for path in shipped_configs().rglob("*.py"))
PARTS = ("_base_/", "common/")
WHOLE = [name for name in FILES if not name.startswith(PARTS) and not name.endswith("_tta.py")]


@pytest.mark.parametrize("name", FILES)
def test_every_shipped_file_loads(name):
    config = Config.fromfile(f"detcore::{name}")
    assert len(config) > 0
    assert Config.fromstring(config.pretty_text) == config


@pytest.mark.parametrize("name", WHOLE)
def test_a_config_has_all_that_a_run_needs(name):
    config = Config.fromfile(f"detcore::{name}")
    needed = {"model", "train_dataloader", "val_dataloader", "val_evaluator", "train_cfg", "optim_wrapper"}
    assert needed <= set(config)


@pytest.mark.parametrize("name", WHOLE)
def test_every_component_that_a_config_names_exists_and_takes_its_arguments(name):
    from detcore import registry

    config = Config.fromfile(f"detcore::{name}")
    parts = {
        "model": registry.MODELS,
        "train_dataloader.dataset": registry.DATASETS,
        "val_dataloader.dataset": registry.DATASETS,
        "val_evaluator": registry.METRICS,
        "visualizer": registry.VISUALIZERS,
        **{f"default_hooks.{hook}": registry.HOOKS for hook in config.get("default_hooks", {})},
    }
    problems = []
    for path, where in parts.items():
        part = config
        for key in path.split("."):
            part = part.get(key)
        problems += where.check(part, default_scope=config.get("default_scope"), path=path)
    assert problems == []


def test_retinanet_has_the_published_hyper_parameters():
    config = Config.fromfile("detcore::retinanet/retinanet_r50_fpn_1x_coco.py")
    assert config.model.backbone.depth == 50
    sgd = {"type": "SGD", "lr": 0.01, "momentum": 0.9, "weight_decay": 0.0001}
    assert config.optim_wrapper.optimizer == sgd
    assert config.model.train_cfg.assigner.pos_iou_thr == 0.5
    assert config.param_scheduler[1].milestones == [8, 11]
    assert config.test_dataloader == config.val_dataloader
    assert config.test_dataloader is not config.val_dataloader


def test_the_data_root_is_set_in_one_place():
    name = "detcore::retinanet/retinanet_r50_fpn_ms-640-800-3x_coco.py"
    config = Config.fromfile(name, cfg_options={"data_root": "/elsewhere/"})
    assert config.train_dataloader.dataset.dataset.data_root == "/elsewhere/"
    assert config.test_dataloader.dataset.data_root == "/elsewhere/"
    assert config.val_evaluator.ann_file == "/elsewhere/annotations/instances_val2017.json"


def test_reading_a_config_imports_no_torch():
    code = (
        "import sys; from detcore.config import Config\n"
        "Config.fromfile('detcore::retinanet/retinanet_r18_fpn_1x_coco.py')\n"
        "assert not {'torch', 'numpy', 'cv2', 'yaml'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env={**os.environ})
