"""Signals: a run saves at the next step boundary and ends with a status that says which signal it was."""
import signal
from pathlib import Path

import pytest

from detcore.engine.checkpoint import load_checkpoint
from detcore.engine.runner import Runner
from detcore.engine.signals import RunInterrupted, StopAsked, StopSignals

AT_THE_END = {"checkpoint": {"by_epoch": False, "interval": -1}}
USUAL = [{"type": "EMAHook", "momentum": 0.1}, {"type": "CountingHook"}]


def sending(step, point, number, times=1):
    return [
        *USUAL,
        {"type": "SignalHook", "step": step, "point": point, "number": int(number), "times": times},
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_saves_after_the_step_and_gives_its_status(number, toy_cfg):
    cfg = toy_cfg(default_hooks=AT_THE_END, custom_hooks=sending(7, "before_train_iter", number))
    with pytest.raises(RunInterrupted) as caught:
        Runner.from_cfg(cfg).train()
    assert caught.value.code == 128 + number
    assert caught.value.checkpoint == str(Path(cfg["work_dir"]) / "iter_8.pth")
    assert load_checkpoint(caught.value.checkpoint)["meta"]["iter"] == 8


@pytest.mark.parametrize(
    ("step", "point"), [(3, "after_train_iter"), (6, "val"), (12, "val"), (5, "before_train_iter")]
)
def test_an_interrupted_run_resumes_to_the_same_end(step, point, toy_cfg, compare):
    Runner.from_cfg(toy_cfg("whole", default_hooks=AT_THE_END)).train()
    hooks = sending(step, point, signal.SIGTERM)
    with pytest.raises(RunInterrupted):
        Runner.from_cfg(toy_cfg("stopped", default_hooks=AT_THE_END, custom_hooks=hooks)).train()
    again = toy_cfg("stopped", default_hooks=AT_THE_END, resume=True)
    Runner.from_cfg(again).train()
    assert compare(toy_cfg("whole")["work_dir"], again["work_dir"], "iter_18.pth") == []


def test_a_state_that_was_just_saved_is_not_saved_again(toy_cfg):
    every = {"checkpoint": {"by_epoch": False, "interval": 1}}
    cfg = toy_cfg(default_hooks=every, custom_hooks=sending(2, "after_train_iter", signal.SIGTERM))
    with pytest.raises(RunInterrupted) as caught:
        Runner.from_cfg(cfg).train()
    assert Path(str(caught.value.checkpoint)).name == "iter_3.pth"


def test_handlers_are_put_back_after_the_run(toy_cfg):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    Runner.from_cfg(toy_cfg(train_cfg={"max_epochs": 1})).train()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_request_is_remembered_until_it_can_be_met():
    signals = StopSignals()
    with signals.installed():
        signals.raise_if_asked(0)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(StopAsked):
            signals.raise_if_asked(1)


def test_the_command_ends_with_the_signals_status_and_resumes(detcore, toy_file):
    config = toy_file(
        "stopped", default_hooks=AT_THE_END, custom_hooks=sending(4, "before_train_iter", signal.SIGTERM)
    )
    assert detcore("run", config, "--trust-config") == 143, detcore.output
    assert "Ended by signal 15 after step 5" in detcore.output
    config = toy_file("stopped", default_hooks=AT_THE_END)
    assert detcore("run", config, "--trust-config", "--resume") == 0, detcore.output
    assert "step 5" in detcore.output


def test_the_second_signal_ends_the_run_at_once(detcore, toy_file):
    hooks = sending(4, "before_train_iter", signal.SIGTERM, times=2)
    config = toy_file("twice", default_hooks=AT_THE_END, custom_hooks=hooks)
    assert detcore("run", config, "--trust-config") == -signal.SIGTERM, detcore.output
    assert not list(config.with_suffix("").glob("iter_*.pth"))


def test_a_signal_to_the_whole_process_group_still_saves(detcore, toy_file):
    """Slurm and terminals signal the loader's workers, too."""
    config = toy_file(
        "group",
        default_hooks=AT_THE_END,
        train_cfg={"max_epochs": 400},
        train_dataloader={"num_workers": 2},
        val_cfg=None,
        val_dataloader=None,
        val_evaluator=None,
    )
    assert (
        detcore("run", config, "--trust-config", kill_after=2.0, signal=int(signal.SIGTERM), group=True)
        == 143
    ), detcore.output
    assert list(config.with_suffix("").glob("iter_*.pth"))
