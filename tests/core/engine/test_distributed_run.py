"""Two processes are one run: equal parameters, the loss of the double batch, one set of files."""
import json
import signal
import socket
from pathlib import Path

import pytest
import torch

from detcore.engine.checkpoint import load_checkpoint

# Neither batch statistics nor dropout: what is computed must not depend on how a batch is split.
SPLITTABLE = {"model": {"norm": False, "dropout": 0.0}}


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def losses(folder):
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if record["mode"] == "train"]


def test_two_processes_do_what_one_does_with_the_double_batch(detcore, toy_file, port):
    hooks = [{"type": "EMAHook", "momentum": 0.1}, {"type": "ParametersHook"}]
    one = toy_file("one", **SPLITTABLE, custom_hooks=hooks, train_dataloader={"batch_size": 4})
    two = toy_file("two", **SPLITTABLE, custom_hooks=hooks, train_dataloader={"batch_size": 2})
    assert detcore("run", one, "--trust-config") == 0, detcore.output
    status = detcore("run", two, "--trust-config", "--launcher", "pytorch", processes=2, port=port)
    assert status == 0, detcore.output

    alone, together = one.with_suffix(""), two.with_suffix("")
    ranks = [torch.load(together / f"rank_{rank}.pt", weights_only=True) for rank in (0, 1)]
    whole = torch.load(alone / "rank_0.pt", weights_only=True)
    for name, value in ranks[0]["state"].items():
        assert torch.equal(value, ranks[1]["state"][name]), name
        torch.testing.assert_close(value, whole["state"][name], rtol=1e-5, atol=1e-6)
    seen = [
        sorted([*first, *second])
        for first, second in zip(ranks[0]["images"], ranks[1]["images"], strict=True)
    ]
    assert seen == [sorted(batch) for batch in whole["images"]]
    assert losses(together) == pytest.approx(losses(alone), rel=1e-5)

    written = [
        {path.name for path in folder.iterdir() if path.is_file() and path.suffix != ".pt"}
        for folder in (alone, together)
    ]
    assert written[0] == {name.replace("two", "one") for name in written[1]}
    assert len([path for path in together.iterdir() if path.is_dir()]) == 1
    evaluations = [
        json.loads(line) for line in (together / "log.jsonl").read_text().splitlines() if '"val"' in line
    ]
    assert [entry["toy/count"] for entry in evaluations] == [4, 4, 4]
    content = load_checkpoint(together / "epoch_3.pth")
    assert len(content["rng"]) == 2
    assert content["meta"]["world_size"] == 2


def test_two_processes_stop_at_one_step_and_resume_together(detcore, toy_file, port, compare):
    long = {
        **SPLITTABLE,
        "train_cfg": {"max_epochs": 8},
        "train_dataloader": {"dataset": {"length": 8}},
        "default_hooks": {"checkpoint": {"by_epoch": False, "interval": -1}},
    }
    arguments = ("--trust-config", "--launcher", "pytorch")
    assert detcore("run", toy_file("whole", **long), *arguments, processes=2, port=port) == 0, detcore.output
    hooks = [
        {"type": "EMAHook", "momentum": 0.1},
        {"type": "CountingHook"},
        {"type": "SignalHook", "step": 3, "number": int(signal.SIGTERM)},
    ]
    config = toy_file("stopped", **{**long, "custom_hooks": hooks})
    assert detcore("run", config, *arguments, processes=2, port=port) == 143, detcore.output
    folder = config.with_suffix("")
    assert [path.name for path in folder.glob("*.pth")] == ["iter_10.pth"]
    config = toy_file("stopped", **long)
    assert detcore("run", config, *arguments, "--resume", processes=2, port=port) == 0, detcore.output
    assert compare(toy_file("whole").with_suffix(""), folder, "iter_16.pth") == []


def test_an_optimiser_spread_over_two_processes_makes_the_same_steps_and_resumes(
    detcore, toy_file, port, tmp_path
):
    arguments = ("--trust-config", "--launcher", "pytorch")

    def run(name, optimizer, *options, epochs=2):
        config = toy_file(
            name,
            **SPLITTABLE,
            train_cfg={"max_epochs": epochs},
            optim_wrapper={"optimizer": optimizer},
            custom_hooks=[{"type": "ParametersHook"}],
        )
        assert detcore("run", config, *arguments, *options, processes=2, port=port) == 0, detcore.output
        folder = config.with_suffix("")
        return [torch.load(folder / f"rank_{rank}.pt", weights_only=True)["state"] for rank in (0, 1)]

    spread = {"type": "ZeroRedundancyOptimizer", "optimizer_type": "SGD"}
    expected = run("plain", {"type": "SGD"})
    run("spread", spread, epochs=1)
    for state in run("spread", spread, "--resume"):
        for name, value in expected[0].items():
            torch.testing.assert_close(state[name], value, msg=name)


def test_an_error_in_two_processes_ends_both_with_its_status(detcore, toy_file, port):
    bad = toy_file("bad", **SPLITTABLE, train_dataloader={"dataset": {"bad": 0}})
    status = detcore("run", bad, "--trust-config", "--launcher", "pytorch", processes=2, port=port, limit=90)
    assert status in (1, 3), detcore.output
    assert "img_0.png" in detcore.output


@pytest.mark.slow
def test_the_command_starts_its_processes_itself(toy_file):
    import os
    import subprocess
    import sys

    config = toy_file(
        "gpus", **SPLITTABLE, custom_hooks=[{"type": "ParametersHook"}], train_cfg={"max_epochs": 1}
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "detcore", "run", str(config), "--trust-config", "--gpus", "2"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (Path(config.with_suffix("")) / "rank_1.pt").exists()
    wrong = toy_file("wrong", model={"witdh": 3})
    done = subprocess.run(
        [*command[:4], str(wrong), *command[5:]],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 2, done.stdout + done.stderr
