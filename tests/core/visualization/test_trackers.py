"""Tracking services: what their packages are asked to do. The packages themselves are not needed."""
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from detcore.config import Config
from detcore.errors import ConfigError
from detcore.registry import VISBACKENDS
from detcore.visualization.backends import WandbVisBackend

IMAGE = np.full((4, 4, 3), 255, np.uint8)
NAMES = {
    "AimVisBackend": "aim",
    "ClearMLVisBackend": "clearml",
    "DVCLiveVisBackend": "dvclive",
    "MLflowVisBackend": "mlflow",
    "NeptuneVisBackend": "neptune",
}


class Recorder:
    """Answers every call, and notes it."""

    def __init__(self, calls, path=""):
        self._calls, self._path = calls, path

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Recorder(self._calls, f"{self._path}.{name}".lstrip("."))

    def __getitem__(self, key):
        return Recorder(self._calls, f"{self._path}[{key}]")

    def __setitem__(self, key, value):
        self._calls.append((f"{self._path}[{key}]=", (value,), {}))

    def __setattr__(self, name, value):
        if name.startswith("_"):
            super().__setattr__(name, value)
        else:
            self._calls.append((f"{self._path}.{name}=", (value,), {}))

    def __call__(self, *args, **kwargs):
        self._calls.append((self._path, args, kwargs))
        return None if self._path == "get_experiment_by_name" else Recorder(self._calls, f"{self._path}()")


@pytest.fixture
def service(monkeypatch):
    """``service("mlflow")`` pretends that a package is there and returns the list of calls."""

    def install(name):
        calls = []
        module = ModuleType(name)
        module.__getattr__ = Recorder(calls).__getattr__
        monkeypatch.setitem(sys.modules, name, module)
        types = ModuleType(f"{name}.types")
        types.File = SimpleNamespace(
            from_content=lambda text: ("file", text), as_image=lambda image: ("image", float(image.max()))
        )
        monkeypatch.setitem(sys.modules, f"{name}.types", types)
        return calls

    return install


def use(backend, work_dir):
    """Everything that a run does with a backend."""
    model = {"depth": 50, "losses": [{"w": 1}, {"w": 2}], "strides": [4, 8]}
    backend.add_config(Config({"work_dir": str(work_dir), "model": model, "lr": 0.1}))
    backend.add_scalars({"loss": torch.tensor(0.5), "note": "words", "bad": float("nan")}, 3)
    backend.add_image("val_img", IMAGE, 3)
    backend.close()
    backend.close()


@pytest.fixture
def work_dir(tmp_path):
    folder = tmp_path / "work"
    (folder / "20250101").mkdir(parents=True)
    for name in ("config.py", "20250101/run.log", "20250101/weights.pth", "notes.txt"):
        (folder / name).write_text("x")
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_package_is_named_with_its_pip_line(name, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, NAMES[name], None)
    backend = VISBACKENDS.build({"type": name, "save_dir": str(tmp_path)})
    with pytest.raises(ConfigError, match=f"{name} needs a package.*pip install {NAMES[name]}"):
        backend.add_scalar("a", 1.0)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_opened_before_something_arrives(name, service, tmp_path):
    calls = service(NAMES[name])
    VISBACKENDS.build({"type": name, "save_dir": str(tmp_path)}).close()
    assert calls == []


def test_mlflow_gets_flat_parameters_figures_and_artifacts(service, tmp_path, work_dir):
    calls = service("mlflow")
    use(VISBACKENDS.build({
        "type": "MLflowVisBackend", "save_dir": str(tmp_path), "exp_name": "cells", "run_name": "first",
        "tags": {"a": 1}, "params": {"b": 2}, "artifact_location": "here", "tracked_config_keys": ["model"],
    }), work_dir)  # fmt: skip
    assert calls[0] == ("set_tracking_uri", (tmp_path.resolve().as_uri(),), {})
    assert ("create_experiment", ("cells",), {"artifact_location": "here"}) in calls
    assert ("set_tag", ("mlflow.runName", "first"), {}) in calls
    assert ("set_tags", ({"a": 1},), {}) in calls
    assert [args[0] for path, args, _ in calls if path == "log_params"] == [
        {"b": 2},
        {"model.depth": 50, "model.losses.0.w": 1, "model.losses.1.w": 2, "model.strides": [4, 8]},
    ]
    assert [args for path, args, _ in calls if path == "log_metric"] == [("loss", 0.5, 3)]
    assert [args[1] for path, args, _ in calls if path == "log_image"] == ["val_img_3.png"]
    assert [args for path, args, _ in calls if path == "log_artifact"] == [
        (str(work_dir / "20250101/run.log"), "20250101"),
        (str(work_dir / "config.py"), ""),
    ]
    assert [path for path, _, _ in calls].count("end_run") == 1


def test_clearml_reports_and_uploads_what_stands_in_the_work_folder(service, work_dir):
    calls = service("clearml")
    use(VISBACKENDS.build({"type": "ClearMLVisBackend", "init_kwargs": {"project_name": "p"}}), work_dir)
    paths = [path for path, _, _ in calls]
    assert calls[0] == ("Task.init", (), {"project_name": "p"})
    assert paths.count("Task.init().get_logger().report_scalar") == 1
    assert paths.count("Task.init().get_logger().report_image") == 1
    assert [args for path, args, _ in calls if path.endswith("upload_artifact")] == [
        ("config.py", str(work_dir / "config.py"))
    ]
    assert paths[-1] == "Task.init().close"


def test_neptune_appends_series_and_is_offline_unless_told(service, work_dir):
    calls = service("neptune")
    use(VISBACKENDS.build({"type": "NeptuneVisBackend"}), work_dir)
    assert calls[0] == ("init_run", (), {"mode": "offline"})
    assert ("init_run()[loss].append", (0.5,), {"step": 3}) in calls
    assert ("init_run()[images].append", (("image", 1.0),), {"name": "val_img", "step": 3}) in calls
    assert calls[-1][0] == "init_run().stop"


def test_dvclive_gets_parameters_that_yaml_can_say(service, tmp_path, work_dir):
    calls = service("dvclive")
    settings = {"save_dir": str(tmp_path), "init_kwargs": {"cache_images": False}}
    use(VISBACKENDS.build({"type": "DVCLiveVisBackend", **settings}), work_dir)
    opened = {"dir": str(tmp_path), "save_dvc_exp": True, "cache_images": False}
    assert calls[0] == ("Live", (), opened)
    assert ("Live().step=", (3,), {}) in calls
    assert ("Live().log_metric", ("loss", 0.5), {}) in calls
    assert ("Live().log_artifact", (str(work_dir / "config.py"), ""), {}) in calls
    assert calls[-1][0] == "Live().end"


def test_aim_tracks_under_the_name_of_the_folder(service, work_dir):
    calls = service("aim")
    use(VISBACKENDS.build({"type": "AimVisBackend", "save_dir": "/x/run/vis_data"}), work_dir)
    assert calls[0] == ("Run", (), {"experiment": "run_vis_data"})
    assert ("Run().track", (), {"name": "loss", "value": 0.5, "step": 3}) in calls
    assert calls[-1][0] == "Run().close"


def test_wandb_defines_metrics_logs_code_and_watches_the_model(service, tmp_path):
    calls = service("wandb")
    backend = WandbVisBackend(
        str(tmp_path),
        define_metric_cfg={"coco/bbox_mAP": "max"},
        log_code_name="code",
        watch_kwargs={"log": "all"},
    )
    backend.add_config(Config({"x": 1}))
    backend.add_graph("model", None)
    backend.close()
    assert calls[1] == ("init().define_metric", (), {"name": "coco/bbox_mAP", "summary": "max"})
    assert ("init().log_code", (), {"name": "code"}) in calls
    assert ("init().watch", ("model",), {"log": "all"}) in calls
    calls = service("wandb")
    WandbVisBackend(str(tmp_path), define_metric_cfg=[{"name": "a", "step_metric": "epoch"}]).run()
    assert calls[1] == ("init().define_metric", (), {"name": "a", "step_metric": "epoch"})
