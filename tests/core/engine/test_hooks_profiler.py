"""Profiles: what is recorded, where it goes, and that it ends."""
import json
import logging

import pytest

from detcore.engine.hooks.profiler import ProfilerHook
from detcore.engine.runner import Runner
from detcore.errors import ConfigError


def run(toy_cfg, **settings):
    cfg = toy_cfg(
        custom_hooks=[{"type": "ProfilerHook", **settings}],
        train_cfg={"max_epochs": 2},
        train_dataloader={"dataset": {"length": 8}},
        log_level="INFO",
    )
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def steps_in(path):
    events = json.loads(path.read_text())["traceEvents"]
    return sum(event.get("name") == "Optimizer.step#SGD.step" for event in events)


@pytest.mark.parametrize(("settings", "steps"), [({"by_epoch": False, "profile_times": 2}, 2), ({}, 4)])
def test_the_first_steps_or_the_first_pass_are_written_as_a_trace(settings, steps, toy_cfg, tmp_path):
    path = tmp_path / "traces" / "trace.json"
    run(toy_cfg, json_trace_path=str(path), **settings)
    assert steps_in(path) == steps


def test_a_table_is_logged_and_files_for_tensorboard_are_written(toy_cfg, caplog):
    once = {"wait": 0, "warmup": 1, "active": 1, "repeat": 1}
    caplog.set_level(logging.INFO)
    run(toy_cfg, on_trace_ready={"type": "log_trace", "row_limit": 3}, schedule=once)
    assert "Self CPU" in caplog.text
    runner = run(toy_cfg, on_trace_ready={"type": "tb_trace", "dir_name": "traces"}, schedule=once)
    assert len(list((runner.run_dir / "traces").glob("*.pt.trace.json"))) == 1


def test_a_function_of_ones_own_gets_the_profiler(toy_cfg):
    seen = []
    run(toy_cfg, on_trace_ready=seen.append, schedule={"wait": 0, "warmup": 1, "active": 1, "repeat": 1})
    assert len(seen) == 1
    assert seen[0].key_averages()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"profile_times": 0}, "at least 1"),
        ({"profile_times": 2}, "1 with by_epoch=True"),
        ({"on_trace_ready": {"type": "print"}}, "log_trace, tb_trace; got 'print'"),
        ({"on_trace_ready": "log_trace"}, "a dict with a type"),
        ({"activity_with_cpu": False}, "activity_with_cuda"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        ProfilerHook(**settings)


def test_a_profile_longer_than_the_training_is_refused(toy_cfg):
    with pytest.raises(ConfigError, match="there are only 8"):
        run(toy_cfg, by_epoch=False, profile_times=9)
