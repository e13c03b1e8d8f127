"""Hooks that write: copies of the logs, and drawn pictures."""
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from detcore.engine.hooks.logger import LoggerHook
from detcore.engine.hooks.visualization import DetVisualizationHook, NaiveVisualizationHook
from detcore.engine.runner import Runner
from detcore.errors import ConfigError
from detcore.structures import DetDataSample, InstanceData


@pytest.mark.parametrize("keep_local", [True, False])
def test_logs_are_copied_beside_others_and_removed_where_asked(keep_local, toy_cfg, tmp_path):
    logger = {"out_dir": str(tmp_path / "copies"), "out_suffix": [".log", ".json"], "keep_local": keep_local}
    runner = Runner.from_cfg(toy_cfg(train_cfg={"max_epochs": 1}, default_hooks={"logger": logger}))
    runner.train()
    (copied,) = (tmp_path / "copies" / "run").rglob("*.log")
    assert "Epoch(train) [1][6/6]" in copied.read_text()
    assert (runner.run_dir / copied.name).exists() is keep_local
    assert (Path(runner.work_dir) / "log.jsonl").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"out_dir": "s3://logs"}, "only folders of this machine"),
        ({"out_dir": "logs", "backend_args": {"backend": "petrel"}}, "'petrel'"),
        ({"interval": 0}, "interval must be a positive integer"),
    ],
)
def test_logs_go_to_local_files_only(settings, words):
    with pytest.raises(ConfigError, match=words):
        LoggerHook(**settings)


class Visualizer:
    """Notes what it is given to draw."""

    def __init__(self):
        self.drawn, self.vis_backends, self.models = [], ["a backend"], []

    def add_datasample(self, name, image, **settings):
        self.drawn.append((name, image.shape, settings))

    def add_graph(self, model, data_batch=None):
        self.models.append(model)


@pytest.fixture
def samples(tmp_path):
    """Predictions on three images, two of which have one name."""
    found = []
    for index, name in enumerate(("a/one.jpg", "b/one.jpg", "a/two.webp")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), np.zeros((6, 8, 3), np.uint8))
        sample = DetDataSample(metainfo={"img_id": index, "img_path": str(path)})
        sample.pred_instances = InstanceData(scores=torch.ones(1))
        found.append(sample)
    return found


@pytest.fixture
def runner(tmp_path):
    return SimpleNamespace(visualizer=Visualizer(), run_dir=tmp_path / "run", iter=0, model="the model")


def test_drawings_of_a_test_bear_the_names_of_the_images_and_none_is_lost(samples, runner):
    hook = DetVisualizationHook(draw=True, test_out_dir="drawn")
    for _ in range(2):
        hook.before_test(runner)
        hook.after_test_iter(runner, 0, None, samples)
    files = [settings["out_file"] for _, _, settings in runner.visualizer.drawn]
    assert [Path(file).name for file in files] == 2 * ["one.jpg", "one_1.jpg", "two.webp"]
    assert all(Path(file).parent == runner.run_dir / "drawn" for file in files)


def test_pictures_that_are_shown_go_to_no_backend_and_stay_for_seconds(samples, runner, caplog):
    hook = DetVisualizationHook(draw=True, show=True, wait_time=2)
    hook.before_run(runner)
    hook.after_test_iter(runner, 0, None, samples[:1])
    (name, shape, settings) = runner.visualizer.drawn[0]
    assert (name, shape) == ("one.jpg", (6, 8, 3))
    assert (settings["show"], settings["wait_time"]) == (True, 2000)  # the visualiser counts milliseconds
    assert runner.visualizer.vis_backends == []
    assert "show=True" in caplog.text


def test_the_plain_hook_draws_every_so_many_batches_and_hands_the_model_over(samples, runner):
    hook = NaiveVisualizationHook(interval=2, draw_gt=False)
    hook.before_train(runner)
    for batch_idx in range(4):
        hook.after_test_iter(runner, batch_idx, None, samples[:1])
    assert [settings["step"] for _, _, settings in runner.visualizer.drawn] == [1, 3]
    assert all(
        (settings["draw_gt"], settings["draw_pred"]) == (False, True)
        for _, _, settings in runner.visualizer.drawn
    )
    assert runner.visualizer.models == ["the model"]
