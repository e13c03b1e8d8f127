"""Hooks that change a run from some pass on: what they change, in workers too, and over a resume."""
import json
import signal
from types import SimpleNamespace

import pytest
from torch import nn

from detcore.engine.hooks.switch import PipelineSwitchHook, YOLOXModeSwitchHook
from detcore.engine.runner import Runner
from detcore.errors import ConfigError

LENGTH = 8  # 4 steps a pass
PIPED = {"type": "ToyPiped", "length": LENGTH, "pipeline": [{"type": "ToyBrighten", "by": 0.0}]}
MIXED = {"type": "ToyMix", "dataset": {"type": "ToyDataset", "length": LENGTH}}
SWITCH = {
    "type": "PipelineSwitchHook",
    "switch_epoch": 2,
    "switch_pipeline": [{"type": "ToyBrighten", "by": 100.0}],
}
CLOSE = {"type": "YOLOXModeSwitchHook", "num_last_epochs": 1, "skip_type_keys": ["MixUp"]}
USUAL = [{"type": "EMAHook", "momentum": 0.1}, {"type": "CountingHook"}]


def loader(dataset, workers):
    return {"dataset": dataset, "num_workers": workers, "persistent_workers": workers > 0}


def steps_of(cfg):
    """Pass, brightness of the pictures and names of the losses of each step."""
    runner = Runner.from_cfg(cfg)
    runner.train()
    runner.train_dataloader.close()
    return next(hook for hook in runner.hooks if type(hook).__name__ == "BrightnessHook").seen


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("wrapped", [False, True])
def test_the_new_pipeline_is_used_from_its_pass_on(workers, wrapped, toy_cfg):
    dataset = {"type": "RepeatDataset", "times": 1, "dataset": PIPED} if wrapped else PIPED
    cfg = toy_cfg(train_cfg={"max_epochs": 4}, custom_hooks=[SWITCH, {"type": "BrightnessHook"}])
    cfg["train_dataloader"] = {**cfg["train_dataloader"], **loader(dataset, workers)}
    seen = steps_of(cfg)
    assert len(seen) == 16
    assert all((brightness > 50) is (epoch >= 2) for epoch, brightness, _ in seen)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_last_passes_go_without_mixing_and_with_the_l1_loss(workers, toy_cfg):
    cfg = toy_cfg(model={"type": "ToyYOLOX"}, train_cfg={"max_epochs": 4})
    cfg["custom_hooks"] = [CLOSE, {"type": "BrightnessHook"}]
    cfg["train_dataloader"] = {**cfg["train_dataloader"], **loader(MIXED, workers)}
    seen = steps_of(cfg)
    assert [brightness < 4 for _, brightness, _ in seen] == [False] * 8 + [True] * 8
    assert ["loss_l1" in losses for _, _, losses in seen] == [False] * 8 + [True] * 8


def test_transforms_over_several_images_are_left_out_in_workers_too(toy_cfg):
    mixed = {
        "type": "MultiImageMixDataset",
        "dataset": {"type": "ToyDataset", "length": LENGTH},
        "pipeline": [{"type": "ToyBrightenAll", "by": 100.0}],
    }
    close = {**CLOSE, "skip_type_keys": ["ToyBrightenAll"]}
    cfg = toy_cfg(model={"type": "ToyYOLOX"}, train_cfg={"max_epochs": 3})
    cfg["custom_hooks"] = [close, {"type": "BrightnessHook"}]
    cfg["train_dataloader"] = {**cfg["train_dataloader"], **loader(mixed, 2)}
    assert [brightness > 50 for _, brightness, _ in steps_of(cfg)] == [True] * 4 + [False] * 8


@pytest.mark.parametrize("workers", [0, 2])
def test_the_new_pipeline_of_a_mixing_data_set_is_all_that_its_samples_go_through(workers, toy_cfg):
    mixed = {
        "type": "MultiImageMixDataset",
        "dataset": PIPED,
        "pipeline": [{"type": "ToyBrightenAll", "by": 300.0}],
    }
    cfg = toy_cfg(train_cfg={"max_epochs": 3}, custom_hooks=[SWITCH, {"type": "BrightnessHook"}])
    cfg["train_dataloader"] = {**cfg["train_dataloader"], **loader(mixed, workers)}
    seen = steps_of(cfg)
    assert [brightness > 250 for _, brightness, _ in seen] == [True] * 8 + [False] * 4
    assert all(brightness > 50 for _, brightness, _ in seen)  # then by 100


@pytest.mark.parametrize("kind", ["pipeline", "yolox"])
def test_runs_killed_around_a_switch_end_as_the_one_that_was_not(kind, detcore, toy_file, compare):
    """Killed before the switch, in the first pass after it, and later; with workers that stay and without."""

    parts = {"pipeline": (PIPED, SWITCH, "ToyDetector"), "yolox": (MIXED, CLOSE, "ToyYOLOX")}
    dataset, switch, model = parts[kind]

    def config(name, workers, *hooks):
        path = toy_file(
            name,
            model={"type": model},
            train_cfg={"max_epochs": 4, "val_interval": 2},
            default_hooks={"checkpoint": {"by_epoch": False, "interval": 3}},
            custom_hooks=[switch, *USUAL, *hooks],
        )
        cfg = json.loads(path.read_text())
        cfg["train_dataloader"].update(loader(dataset, workers))
        path.write_text(json.dumps(cfg))
        return path

    whole = config("whole", 0)
    assert detcore("run", whole, "--trust-config") == 0, detcore.output
    for step, workers in ((7, 2), (10, 0), (11, 2), (14, 2)):
        name = f"killed_{step}_{workers}"
        path = config(name, workers, {"type": "SignalHook", "step": step})
        assert detcore("run", path, "--trust-config") == -signal.SIGKILL, detcore.output
        path = config(name, workers)
        assert detcore("run", path, "--trust-config", "--resume", "auto") == 0, detcore.output
        assert compare(whole.with_suffix(""), path.with_suffix(""), "iter_16.pth") == [], (step, workers)


def test_a_run_by_steps_is_told_that_a_switch_by_passes_never_comes(toy_cfg, caplog):
    cfg = toy_cfg(custom_hooks=[SWITCH], param_scheduler=None)
    cfg["train_cfg"] = {"type": "IterBasedTrainLoop", "max_iters": 2, "val_interval": 5}
    cfg["train_dataloader"]["dataset"] = PIPED
    Runner.from_cfg(cfg).train()
    assert "switch_epoch never comes in a run by steps" in caplog.text


def test_data_without_a_pipeline_is_refused_by_its_kind(toy_cfg):
    cfg = toy_cfg(custom_hooks=[{**SWITCH, "switch_epoch": 0}])
    with pytest.raises(ConfigError, match=r"no data set has a `pipeline`.*ToyDataset"):
        Runner.from_cfg(cfg).train()


def test_data_that_mixes_nothing_is_refused_with_the_other_hook(toy_cfg):
    cfg = toy_cfg(custom_hooks=[{**CLOSE, "num_last_epochs": 15}])
    with pytest.raises(ConfigError, match=r"MultiImageMixDataset.*ToyDataset.*PipelineSwitchHook"):
        Runner.from_cfg(cfg).train()


def test_a_data_set_with_two_pipelines_is_refused():
    mixing = SimpleNamespace(
        update_skip_type_keys=None, pipeline=[], dataset=SimpleNamespace(pipeline=[], dataset=None)
    )
    runner = SimpleNamespace(epoch=3, train_dataloader=SimpleNamespace(dataset=mixing))
    with pytest.raises(ConfigError, match="two pipelines"):
        PipelineSwitchHook(2, []).begin_pass(runner)


def test_a_misspelt_transform_of_the_new_pipeline_is_found_before_the_run(toy_cfg):
    switch = {**SWITCH, "switch_pipeline": [{"type": "ToyBrighten", "bye": 1.0}]}
    with pytest.raises(ConfigError, match=r"custom_hooks\.0\.switch_pipeline\.0\.bye"):
        Runner.from_cfg(toy_cfg(custom_hooks=[switch]))


def test_a_head_without_l1_loss_is_warned_of(caplog):
    told = []
    dataset = SimpleNamespace(update_skip_type_keys=told.append)
    runner = SimpleNamespace(
        epoch=9,
        max_epochs=10,
        train_dataloader=SimpleNamespace(dataset=dataset),
        model=nn.Sequential(),
        logger=SimpleNamespace(info=lambda *args: None),
    )
    YOLOXModeSwitchHook(skip_type_keys=("Mosaic",)).begin_pass(runner)
    assert told == [("Mosaic",)]
    assert "has no use_l1" in caplog.text


def test_workers_that_cannot_be_told_are_refused():
    dataset = SimpleNamespace(pipeline=[])
    runner = SimpleNamespace(
        epoch=5, train_dataloader=SimpleNamespace(dataset=dataset, persistent_workers=True)
    )
    with pytest.raises(ConfigError, match="cannot be told"):
        PipelineSwitchHook(2, []).begin_pass(runner)
