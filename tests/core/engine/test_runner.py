"""The runner: what it trains, validates, saves, and what it refuses."""
import hashlib
import io
import json
import logging
from pathlib import Path

import pytest
import torch
from rich.console import Console

from detcore.engine.checkpoint import load_checkpoint
from detcore.engine.hooks import Hook
from detcore.engine.progress import ProgressHook
from detcore.engine.runner import Runner
from detcore.errors import ConfigError
from detcore.plugins import Observers


def log_of(work_dir, mode):
    lines = (Path(work_dir) / "log.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["mode"] == mode]


class Noting(Hook):
    """Notes every point with where the run stands there."""

    def __init__(self):
        self.points = []


def _noting(point):
    def call(self, runner, **arguments):
        self.points.append((point, runner.epoch, runner.iter))

    return call


for _point in (
    "before_run",
    "before_train",
    "before_train_epoch",
    "before_train_iter",
    "after_train_iter",
    "after_train_epoch",
    "before_val",
    "before_val_epoch",
    "after_val_epoch",
    "after_val",
    "after_train",
    "after_run",
    "before_save_checkpoint",
):
    setattr(Noting, _point, _noting(_point))


def test_a_training_goes_by_every_point_in_the_manuals_order(toy_cfg):
    runner = Runner.from_cfg(
        toy_cfg(train_cfg={"max_epochs": 2}, train_dataloader={"dataset": {"length": 4}})
    )
    hook = Noting()
    runner.register_hook(hook)
    runner.train()
    one_pass = lambda e: [  # noqa: E731
        ("before_train_epoch", e, 2 * e),
        ("before_train_iter", e, 2 * e),
        ("after_train_iter", e, 2 * e),
        ("before_train_iter", e, 2 * e + 1),
        ("after_train_iter", e, 2 * e + 1),
        ("after_train_epoch", e, 2 * e + 2),
        ("before_save_checkpoint", e + 1, 2 * e + 2),
        ("before_val", e + 1, 2 * e + 2),
        ("before_val_epoch", e + 1, 2 * e + 2),
        ("after_val_epoch", e + 1, 2 * e + 2),
        ("after_val", e + 1, 2 * e + 2),
    ]
    assert hook.points == [
        ("before_run", 0, 0),
        ("before_train", 0, 0),
        *one_pass(0),
        *one_pass(1),
        ("after_train", 2, 4),
        ("after_run", 2, 4),
    ]


def test_training_learns_and_leaves_checkpoints_and_logs(toy_cfg):
    cfg = toy_cfg(
        train_cfg={"max_epochs": 4}, default_hooks={"checkpoint": {"interval": 2, "save_best": "auto"}}
    )
    runner = Runner.from_cfg(cfg)
    runner.train()
    names = {path.name for path in Path(runner.work_dir).glob("*.pth")}
    assert {"epoch_2.pth", "epoch_4.pth"} <= names
    assert len([name for name in names if name.startswith("best_toy_acc_epoch_")]) == 1
    train, val = log_of(runner.work_dir, "train"), log_of(runner.work_dir, "val")
    assert [record["iter"] for record in train] == list(range(1, 25))
    assert [(record["epoch"], record["iter"]) for record in val] == [(1, 6), (2, 12), (3, 18), (4, 24)]
    assert {"lr", "loss", "loss_cls", "loss_size", "acc", "grad_norm", "time", "data_time"} <= set(train[0])
    assert val[0]["toy/count"] == 4
    text = (runner.run_dir / f"{runner.timestamp}.log").read_text()
    assert "Epoch(train) [1][1/6]  lr: " in text
    assert "Epoch(val) [4][2/2]  toy/acc: " in text


def test_a_checkpoint_holds_what_the_run_is(toy_cfg):
    runner = Runner.from_cfg(toy_cfg(train_cfg={"max_epochs": 1}))
    runner.train()
    content = load_checkpoint(Path(runner.work_dir) / "epoch_1.pth")
    assert set(content) == {
        "meta",
        "state_dict",
        "trained_state_dict",
        "ema",
        "optimizer",
        "param_schedulers",
        "rng",
        "loader",
        "loop",
        "hooks",
        "log",
    }
    meta = content["meta"]
    assert (meta["epoch"], meta["iter"], meta["seed"]) == (1, 6, 7)
    assert meta["dataset_meta"] == {"classes": ("dark", "bright")}
    assert "type='ToyDetector'" in meta["cfg"]
    assert content["hooks"]["CountingHook"] == {"count": 6}
    trained, averaged = content["trained_state_dict"], content["state_dict"]
    assert all(torch.equal(trained[name], value) for name, value in runner.model.state_dict().items())
    assert not torch.equal(trained["conv.weight"], averaged["conv.weight"])


def test_evaluations_use_the_averaged_weights_and_put_the_trained_ones_back(toy_cfg):
    seen = []

    class Looking(Hook):
        def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            seen.append({name: value.clone() for name, value in runner.model.state_dict().items()})

    runner = Runner.from_cfg(toy_cfg(train_cfg={"max_epochs": 1}))
    runner.register_hook(Looking())
    runner.train()
    content = load_checkpoint(Path(runner.work_dir) / "epoch_1.pth")
    assert torch.equal(seen[0]["conv.weight"], content["state_dict"]["conv.weight"])
    assert torch.equal(runner.model.state_dict()["conv.weight"], content["trained_state_dict"]["conv.weight"])


def test_validating_more_often_changes_no_training(toy_cfg, compare):
    for name, interval in (("often", 1), ("seldom", 3)):
        Runner.from_cfg(toy_cfg(name, train_cfg={"val_interval": interval})).train()
    folder = Path(toy_cfg("often")["work_dir"]).parent
    often, seldom = (load_checkpoint(folder / name / "epoch_3.pth") for name in ("often", "seldom"))
    assert all(torch.equal(value, seldom["state_dict"][name]) for name, value in often["state_dict"].items())


def test_a_run_by_steps_starts_the_loader_over_and_validates_by_steps(toy_cfg):
    cfg = toy_cfg(default_hooks={"checkpoint": {"by_epoch": False, "interval": 4}}, param_scheduler=None)
    cfg["train_cfg"] = {"type": "IterBasedTrainLoop", "max_iters": 10, "val_interval": 5}
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert {path.name for path in Path(runner.work_dir).glob("*.pth")} == {
        "iter_4.pth",
        "iter_8.pth",
        "iter_10.pth",
    }
    assert [record["iter"] for record in log_of(runner.work_dir, "val")] == [5, 10]
    assert "Iter(train) [10/10]" in (runner.run_dir / f"{runner.timestamp}.log").read_text()


def test_by_epoch_false_is_a_run_by_steps(toy_cfg):
    cfg = toy_cfg(param_scheduler=None)
    cfg["train_cfg"] = {"by_epoch": False, "max_iters": 3, "val_interval": 3}
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.iter == 3


def test_an_infinite_sampler_serves_a_run_by_steps(toy_cfg):
    cfg = toy_cfg(
        param_scheduler=None, train_dataloader={"sampler": {"type": "InfiniteSampler", "shuffle": True}}
    )
    cfg["train_cfg"] = {"type": "IterBasedTrainLoop", "max_iters": 9, "val_interval": 9}
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert len(log_of(runner.work_dir, "train")) == 9


def test_intervals_of_evaluation_change_where_the_config_says(toy_cfg):
    cfg = toy_cfg(
        param_scheduler=None,
        train_cfg={"max_epochs": 6, "val_begin": 2, "val_interval": 2, "dynamic_intervals": [(5, 1)]},
    )
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert [record["epoch"] for record in log_of(runner.work_dir, "val")] == [2, 4, 5, 6]


def test_validation_and_test_alone_load_the_weights_first(toy_cfg):
    trained = Runner.from_cfg(toy_cfg("trained"))
    trained.train()
    expected = log_of(trained.work_dir, "val")[-1]["toy/score"]
    alone = toy_cfg("alone", load_from=str(Path(trained.work_dir) / "epoch_3.pth"))
    alone["test_dataloader"], alone["test_evaluator"] = alone["val_dataloader"], alone["val_evaluator"]
    assert Runner.from_cfg(alone).val()["toy/score"] == expected
    assert Runner.from_cfg(alone).test()["toy/score"] == expected


def test_the_learning_rate_is_scaled_to_the_batch_size_where_asked(toy_cfg):
    cfg = toy_cfg(param_scheduler=None, auto_scale_lr={"enable": True, "base_batch_size": 16})
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert log_of(runner.work_dir, "train")[0]["lr"] == pytest.approx(0.1 * 2 / 16)


def test_every_mistake_is_told_at_once_and_before_anything_is_built(toy_cfg):
    cfg = toy_cfg(
        model={"witdh": 3},
        val_evaluator={"prefx": "x"},
        custom_hooks=[{"type": "EMAHok"}],
        optim_wrapper={"optimizer": {"type": "SGDD"}},
        train_dataloader={"dataset": {"lenght": 3}, "num_wrokers": 1},
    )
    with pytest.raises(ConfigError) as caught:
        Runner.from_cfg(cfg)
    text = str(caught.value)
    for path in (
        "model.witdh",
        "val_evaluator.prefx",
        "custom_hooks.0",
        "optim_wrapper.optimizer",
        "train_dataloader.dataset.lenght",
        "train_dataloader.num_wrokers",
    ):
        assert path in text
    assert "width" in text
    assert "EMAHook" in text


def test_half_a_training_is_refused(toy_cfg):
    cfg = toy_cfg()
    del cfg["optim_wrapper"]
    with pytest.raises(
        ConfigError, match="optim_wrapper missing, although train_dataloader, train_cfg is given"
    ):
        Runner.from_cfg(cfg)


def test_misspelt_settings_are_refused_and_settings_of_old_are_warned_of(toy_cfg, caplog):
    with pytest.raises(ConfigError, match=r"optim_wraper: .*did you mean 'optim_wrapper'"):
        Runner.from_cfg(toy_cfg(optim_wraper={"type": "x"}))
    with caplog.at_level(logging.WARNING, logger="detcore"):
        Runner.from_cfg(toy_cfg(lr_config={"policy": "step"}, train_pipeline=[], my_own=1))
    assert "lr_config" in caplog.text
    assert "param_scheduler" in caplog.text
    assert "train_pipeline" not in caplog.text
    assert "my_own" not in caplog.text


def test_heads_that_do_not_fit_the_data_are_refused_before_the_first_step(toy_cfg):
    cfg = toy_cfg(model={"num_classes": 5}, custom_hooks=[{"type": "NumClassCheckHook"}])
    with pytest.raises(ConfigError, match=r"num_classes=5.*has 2 classes"):
        Runner.from_cfg(cfg).train()


def test_an_empty_data_set_is_refused(toy_cfg):
    with pytest.raises(ConfigError, match="no batch at all"):
        Runner.from_cfg(toy_cfg(train_dataloader={"dataset": {"length": 0}})).train()


def test_two_averages_are_refused(toy_cfg):
    with pytest.raises(ConfigError, match="one EMAHook"):
        Runner.from_cfg(toy_cfg(custom_hooks=[{"type": "EMAHook"}, {"type": "EMAHook"}]))


def test_default_hooks_can_be_switched_off_and_changed_without_their_type(toy_cfg):
    runner = Runner.from_cfg(toy_cfg(default_hooks={"timer": None, "checkpoint": {"interval": 2}}))
    names = [type(hook).__name__ for hook in runner.hooks]
    assert "IterTimerHook" not in names
    assert names.count("CheckpointHook") == 1


def test_bfloat16_and_compile_and_channels_last_are_settings(toy_cfg):
    cfg = toy_cfg(amp=True, channels_last=True, train_cfg={"max_epochs": 1})
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert type(runner.optim_wrapper).__name__ == "AmpOptimWrapper"
    assert runner.model.conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_figures_go_to_tensorboard_where_asked(toy_cfg):
    cfg = toy_cfg(
        vis_backends=[{"type": "LocalVisBackend"}, {"type": "TensorboardVisBackend"}],
        train_cfg={"max_epochs": 1},
    )
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert list(runner.run_dir.rglob("events.out.tfevents*"))
    assert (runner.run_dir / "vis_data" / "scalars.json").exists()


@pytest.mark.parametrize(
    ("begin", "averaged"), [({"begin_epoch": 2}, 6), ({"begin_iter": 12}, 1), ({"begin_iter": 0}, 12)]
)
def test_an_average_may_begin_later(begin, averaged, toy_cfg):
    """``begin_epoch=2`` means the second of the passes, ``begin_iter=12`` the twelfth of the steps."""
    cfg = toy_cfg(custom_hooks=[{"type": "EMAHook", **begin}], train_cfg={"max_epochs": 2})
    runner = Runner.from_cfg(cfg)
    runner.train()
    content = load_checkpoint(Path(runner.work_dir) / "epoch_2.pth")
    assert int(content["ema"]["steps"]) == averaged
    equal = torch.equal(content["state_dict"]["conv.weight"], content["trained_state_dict"]["conv.weight"])
    assert equal is (averaged == 1)  # the first update copies the weights


@pytest.mark.parametrize("begin", [{"begin_epoch": 3}, {"begin_iter": 13}])
def test_an_average_that_would_never_begin_is_refused(begin, toy_cfg):
    cfg = toy_cfg(custom_hooks=[{"type": "EMAHook", **begin}], train_cfg={"max_epochs": 2})
    with pytest.raises(ConfigError, match="begins after the end"):
        Runner.from_cfg(cfg).train()


def test_published_checkpoints_hold_only_what_is_asked_and_are_named_by_their_checksum(toy_cfg):
    cfg = toy_cfg(
        default_hooks={"checkpoint": {"published_keys": ["meta", "state_dict"]}}, train_cfg={"max_epochs": 1}
    )
    runner = Runner.from_cfg(cfg)
    runner.train()
    (published,) = Path(runner.work_dir).glob("epoch_1-published-*.pth")
    assert set(load_checkpoint(published)) == {"meta", "state_dict"}
    assert published.stem.rpartition("-")[2] == hashlib.sha256(published.read_bytes()).hexdigest()[:8]


def test_training_can_end_early(toy_cfg):
    early = {"type": "EarlyStoppingHook", "monitor": "toy/count", "patience": 1, "rule": "greater"}
    runner = Runner.from_cfg(toy_cfg(custom_hooks=[early], train_cfg={"max_epochs": 9}, param_scheduler=None))
    runner.train()
    assert runner.epoch == 2


def test_schedules_that_would_never_act_are_warned_of(toy_cfg, caplog):
    cfg = toy_cfg(param_scheduler=[{"type": "MultiStepLR", "milestones": [2]}])
    cfg["train_cfg"] = {"type": "IterBasedTrainLoop", "max_iters": 2, "val_interval": 2}
    Runner.from_cfg(cfg).train()
    assert "write by_epoch=False" in caplog.text


def test_hooks_of_a_config_take_their_priority_from_it(toy_cfg):
    runner = Runner.from_cfg(toy_cfg(custom_hooks=[{"type": "CountingHook", "priority": "HIGHEST"}]))
    assert type(next(iter(runner.hooks))).__name__ == "CountingHook"
    with pytest.raises(ConfigError, match="priority"):
        Runner.from_cfg(toy_cfg(custom_hooks=[{"type": "CountingHook", "priority": "FIRST"}]))


def test_observers_of_plugins_see_the_run_go_by(toy_cfg):
    seen = []

    def noting(event):
        def note(**arguments):
            assert arguments["state"].model is runner.model
            seen.append((event, *(value for name, value in sorted(arguments.items()) if name != "state")))

        return note

    runner = Runner.from_cfg(
        toy_cfg(train_cfg={"max_epochs": 1}, train_dataloader={"dataset": {"length": 4}})
    )
    arguments = {
        "run_started": (),
        "step_finished": ("report",),
        "evaluation_finished": ("metrics",),
        "checkpoint_saved": ("path",),
        "run_ended": ("reason",),
    }
    runner.parts._observers = Observers(
        [("mine", event, noting(event), ("state", *names)) for event, names in arguments.items()]
    )
    runner.train()
    assert [entry[0] for entry in seen] == [
        "run_started",
        "step_finished",
        "step_finished",
        "checkpoint_saved",
        "evaluation_finished",
        "run_ended",
    ]
    assert [entry[1].step for entry in seen[1:3]] == [0, 1]
    assert seen[3][1] == Path(runner.work_dir) / "epoch_1.pth"
    assert "toy/acc" in seen[4][1]
    assert seen[5][1] == "finished"


def test_checkpoints_may_go_elsewhere(toy_cfg, tmp_path):
    cfg = toy_cfg(
        "run",
        default_hooks={"checkpoint": {"out_dir": str(tmp_path / "big_disk")}},
        train_cfg={"max_epochs": 1},
    )
    Runner.from_cfg(cfg).train()
    assert (tmp_path / "big_disk" / "run" / "epoch_1.pth").exists()


def test_a_terminal_shows_a_bar_and_the_lines_above_it(toy_cfg):
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=120)
    runner = Runner.from_cfg(toy_cfg(train_cfg={"max_epochs": 1}))
    runner.register_hook(ProgressHook(console))
    runner.train()
    assert "train" in text.getvalue()
    assert "6/6" in text.getvalue()


@pytest.mark.slow
def test_a_compiled_model_trains(toy_cfg):
    runner = Runner.from_cfg(toy_cfg(compile={"backend": "eager"}, train_cfg={"max_epochs": 1}))
    runner.train()
    assert runner.iter == 6
