import json

import cv2
import numpy as np
import pytest
import torch

from detcore.config import Config
from detcore.errors import ConfigError
from detcore.registry import VISUALIZERS
from detcore.visualization.backends import LocalVisBackend, TensorboardVisBackend, WandbVisBackend

IMAGE = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)


def test_pictures_figures_and_config_become_files(tmp_path):
    backend = LocalVisBackend(str(tmp_path / "run"))
    backend.add_image("val/../a", IMAGE, 3)
    backend.add_scalar("loss", torch.tensor(0.5), 1)
    backend.add_scalars({"a": float("nan"), "b": "words", "c": np.float32(2)}, 2)
    backend.add_scalars({"d": 1}, 3, file_path="other.json")
    backend.add_config(Config({"x": 1}))
    folder = tmp_path / "run"
    pictures = list((folder / "vis_image").iterdir())
    assert len(pictures) == 1
    assert (cv2.imread(str(pictures[0]))[..., ::-1] == IMAGE).all()
    lines = [json.loads(line) for line in (folder / "scalars.json").read_text().splitlines()]
    assert lines == [{"step": 1, "loss": 0.5}, {"step": 2, "a": None, "b": "words", "c": 2.0}]
    assert json.loads((folder / "other.json").read_text()) == {"step": 3, "d": 1}
    assert Config.fromfile(folder / "config.py").x == 1


def test_a_backend_without_a_folder_says_so():
    with pytest.raises(ConfigError, match="save_dir"):
        LocalVisBackend().add_image("a", IMAGE)


def test_the_visualizer_gives_its_backends_a_folder_and_lets_them_rest_without_one(tmp_path):
    cfg = {"type": "DetLocalVisualizer", "vis_backends": [{"type": "LocalVisBackend"}], "name": "visualizer"}
    made = VISUALIZERS.build(cfg)
    made.add_image("a", IMAGE)
    made.add_scalars({"x": 1})
    made.save_dir = tmp_path
    made.add_image("a", IMAGE, 7)
    made.add_config(Config({"x": 1}))
    made.close()
    assert (tmp_path / "vis_data" / "vis_image" / "a_7.png").is_file()
    assert not (tmp_path / "vis_data" / "scalars.json").exists()


def test_a_misspelt_argument_of_a_backend_is_named():
    cfg = {"type": "DetLocalVisualizer", "vis_backends": [{"type": "LocalVisBackend", "save_dirr": "x"}]}
    with pytest.raises(ConfigError, match=r"vis_backends\.0\.save_dirr"):
        VISUALIZERS.build(cfg)


def test_tensorboard_gets_numbers_and_pictures(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    backend = TensorboardVisBackend(str(tmp_path))
    backend.add_scalars({"loss": torch.tensor(0.25), "word": "no"}, 4)
    backend.add_image("a", IMAGE, 4)
    backend.add_config(Config({"x": 1}))
    backend.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(4, 0.25)]
    assert events.Tags()["images"] == ["a"]


def test_a_missing_package_is_named_with_its_pip_line(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"pip install 'detcore\[wandb\]'"):
        WandbVisBackend(str(tmp_path)).add_scalar("a", 1)
