"""What ends a run that cannot go on, and what is left of it."""
import errno
import os
from pathlib import Path

import pytest

from detcore.engine.checkpoint import load_checkpoint
from detcore.engine.hooks import Hook
from detcore.engine.runner import Runner
from detcore.errors import CheckpointError, DataError, TrainingError

EVERY_STEP = {"checkpoint": {"by_epoch": False, "interval": 1}}


def checkpoints(cfg):
    return sorted(path.name for path in Path(cfg["work_dir"]).glob("*.pth"))


def test_a_loss_that_is_not_finite_names_step_image_and_entry_and_keeps_the_last_checkpoint(toy_cfg):
    order = {"sampler": {"type": "DefaultSampler", "shuffle": False}, "dataset": {"bad": 7}}
    cfg = toy_cfg(default_hooks=EVERY_STEP, train_dataloader=order)
    with pytest.raises(TrainingError) as caught:
        Runner.from_cfg(cfg).train()
    text = str(caught.value)
    assert "step 3" in text
    assert "loss_cls" in text
    assert "img_7.png" in text
    assert checkpoints(cfg) == ["iter_1.pth", "iter_2.pth", "iter_3.pth"]
    load_checkpoint(Path(cfg["work_dir"]) / "iter_3.pth")
    log = next(Path(cfg["work_dir"]).glob("*/*.log")).read_text()
    assert "the run failed: TrainingError" in log


def test_a_full_disk_ends_the_run_and_what_was_saved_stays(toy_cfg, monkeypatch):
    class FillDisk(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.iter == 3:

                def full(descriptor):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

                monkeypatch.setattr(os, "fsync", full)

    cfg = toy_cfg(default_hooks=EVERY_STEP)
    runner = Runner.from_cfg(cfg)
    runner.register_hook(FillDisk())
    with pytest.raises(CheckpointError, match="No space left"):
        runner.train()
    monkeypatch.undo()
    assert checkpoints(cfg) == ["iter_1.pth", "iter_2.pth", "iter_3.pth"]
    assert not list(Path(cfg["work_dir"]).glob(".*"))
    again = Runner.from_cfg({**cfg, "resume": True})
    again.train()
    assert again.iter == 18


def test_a_log_that_cannot_be_written_is_an_error_with_its_path(toy_cfg):
    cfg = toy_cfg()
    (Path(cfg["work_dir"]) / "log.jsonl").mkdir(parents=True)
    with pytest.raises(TrainingError, match=r"log\.jsonl"):
        Runner.from_cfg(cfg).train()


@pytest.mark.slow
def test_a_hung_worker_is_noticed_and_its_sample_named(toy_cfg):
    cfg = toy_cfg(
        train_dataloader={
            "num_workers": 2,
            "timeout": 1,
            "dataset": {"stuck": 5},
            "sampler": {"type": "DefaultSampler", "shuffle": False},
        }
    )
    with pytest.raises(DataError, match=r"img_5\.png"):
        Runner.from_cfg(cfg).train()


def test_an_error_in_a_hook_ends_the_run_with_that_error(toy_cfg):
    class Faulty(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            raise ZeroDivisionError("mine")

    runner = Runner.from_cfg(toy_cfg())
    runner.register_hook(Faulty())
    with pytest.raises(ZeroDivisionError, match="mine"):
        runner.train()


def test_a_failed_run_leaves_the_process_able_to_run_another(toy_cfg):
    with pytest.raises(TrainingError):
        Runner.from_cfg(toy_cfg("bad", train_dataloader={"dataset": {"bad": 0}})).train()
    runner = Runner.from_cfg(toy_cfg("good", train_cfg={"max_epochs": 1}))
    runner.train()
    assert runner.iter == 6


def test_the_commands_status_tells_nothing_was_trained_from_could_not_go_on(detcore, toy_file):
    wrong = toy_file("wrong", model={"witdh": 4})
    assert detcore("run", wrong, "--trust-config") == 2
    assert "model.witdh" in detcore.output
    assert "width" in detcore.output
    bad = toy_file("bad", train_dataloader={"dataset": {"bad": 0}})
    assert detcore("run", bad, "--trust-config") == 3
    assert "error: " in detcore.output
    assert "img_0.png" in detcore.output
    assert detcore("run", bad, "--trust-config", "--resume", bad.with_name("gone.pth")) == 2
    assert "gone.pth" in detcore.output
