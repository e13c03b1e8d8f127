"""The log processor and the machine-readable log."""
import json
import math
from types import SimpleNamespace

import pytest
import torch

from detcore.engine.logs import LogProcessor
from detcore.engine.records import JsonLines
from detcore.errors import ConfigError


def a_run(iter=0, epoch=0, epoch_length=37, max_iters=370):
    return SimpleNamespace(
        iter=iter,
        epoch=epoch,
        max_iters=max_iters,
        device=torch.device("cpu"),
        train_loop=SimpleNamespace(epoch_length=epoch_length),
        rates={"lr": 0.01},
        evaluation_dataloader=lambda mode: range(5),
    )


def test_a_training_line_reads_as_people_know_it():
    logs = LogProcessor(window_size=3)
    for step in range(5):
        logs.record("train", {"data_time": 0.001, "time": 2.0})
        logs.record("train", {"loss": torch.tensor(float(step)), "loss_cls": torch.tensor(1.0)})
    record, line = logs.train_entry(a_run(iter=78, epoch=2), batch_idx=4)
    assert line == (
        "Epoch(train) [3][ 5/37]  lr: 1.0000e-02  eta: 0:09:42  time: 2.0000  data_time: 0.0010  "
        "loss: 3.0000  loss_cls: 1.0000"
    )
    assert record["loss"] == 3.0
    assert record["iter"] == 79
    assert record["epoch"] == 3


def test_runs_by_step_show_steps():
    logs = LogProcessor(by_epoch=False)
    logs.record("train", {"loss": 1.0})
    assert logs.train_entry(a_run(iter=99, epoch_length=None, max_iters=90000), 99)[1].startswith(
        "Iter(train) [  100/90000]  lr:"
    )


def test_evaluations_show_their_figures():
    record, line = LogProcessor().evaluation_entry(a_run(iter=111, epoch=3), {"coco/bbox_mAP": 0.25}, "val")
    assert line == "Epoch(val) [3][5/5]  coco/bbox_mAP: 0.2500"
    assert record == {"coco/bbox_mAP": 0.25, "epoch": 3, "iter": 111}


def test_tensors_are_read_only_when_a_line_is_made():
    class Watched(torch.Tensor):
        reads = 0

        def tolist(self):
            Watched.reads += 1
            return super().tolist()

    logs = LogProcessor(window_size=4)
    for step in range(10):
        logs.record(
            "train",
            {
                "loss": torch.tensor(float(step)).as_subclass(Watched),
                "loss_cls": torch.tensor(0.0).as_subclass(Watched),
            },
        )
    assert Watched.reads == 0
    record, _ = logs.train_entry(a_run(), 9)
    assert record["loss"] == 7.5
    assert Watched.reads == 1


def test_a_recorded_tensor_keeps_no_graph():
    logs = LogProcessor()
    weight = torch.ones(1, requires_grad=True)
    logs.record("train", {"loss": (weight * 2).sum()})
    assert not logs._histories["train"]["loss"].values[0].requires_grad


def test_smoothing_goes_on_over_a_resume_as_if_nothing_had_happened():
    whole, first = LogProcessor(window_size=5), LogProcessor(window_size=5)
    losses = torch.rand(12)
    for loss in losses[:8]:
        whole.record("train", {"loss": loss})
        first.record("train", {"loss": loss})
    second = LogProcessor(window_size=5)
    second.load_state_dict(first.state_dict())
    for loss in losses[8:]:
        whole.record("train", {"loss": loss})
        second.record("train", {"loss": loss})
    assert whole.train_entry(a_run(), 11)[0]["loss"] == second.train_entry(a_run(), 11)[0]["loss"]


def test_custom_figures_have_windows_of_their_own():
    logs = LogProcessor(
        window_size=2,
        custom_cfg=[
            {"data_src": "loss", "log_name": "loss_worst", "method_name": "max", "window_size": "global"},
            {"data_src": "loss", "log_name": "loss_pass", "method_name": "mean", "window_size": "epoch"},
            {"data_src": "loss", "log_name": "loss_now", "method_name": "current"},
        ],
    )
    for value in (9.0, 1.0, 2.0, 3.0):
        logs.record("train", {"loss": value})
    record, _ = logs.train_entry(a_run(iter=3), batch_idx=2)
    assert (record["loss"], record["loss_worst"], record["loss_pass"], record["loss_now"]) == (
        2.5,
        9.0,
        2.0,
        3.0,
    )


def test_values_that_are_no_losses_are_shown_as_they_are():
    logs = LogProcessor()
    for value in (0.25, 0.75):
        logs.record("train", {"acc": torch.tensor(value)})
    assert logs.train_entry(a_run(), 1)[0]["acc"] == 0.75


@pytest.mark.parametrize(
    "entry",
    [
        {"data_src": "loss"},
        {"data_src": "loss", "method_name": "median"},
        {"data_src": "loss", "method_name": "mean", "window_size": 0},
        {"data_src": "loss", "method_name": "mean", "windowsize": 3},
    ],
)
def test_custom_figures_that_make_no_sense_are_refused(entry):
    with pytest.raises(ConfigError, match=r"custom_cfg\[0\]"):
        LogProcessor(custom_cfg=[entry])
    with pytest.raises(ConfigError, match="window_size"):
        LogProcessor(window_size=0)


def test_records_are_cut_to_the_resumed_step_and_torn_lines_dropped(tmp_path):
    log = JsonLines(tmp_path / "log.jsonl")
    for step in (10, 20, 30):
        log.write({"mode": "train", "iter": step, "loss": torch.tensor(0.5), "odd": math.nan})
        log.write({"mode": "val", "iter": step, "coco/bbox_mAP": 0.1})
    log.close()
    with log.path.open("a") as file:
        file.write('{"mode": "train", "it')
    log.rewind(20, validated=False)
    log.write({"mode": "val", "iter": 20, "coco/bbox_mAP": 0.1})
    log.close()
    records = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert [(record["mode"], record["iter"]) for record in records] == [
        ("train", 10),
        ("val", 10),
        ("train", 20),
        ("val", 20),
    ]
    assert records[0]["odd"] == "nan"


def test_a_complete_evaluation_stays_in_the_log(tmp_path):
    log = JsonLines(tmp_path / "log.jsonl")
    log.write({"mode": "val", "iter": 20})
    log.close()
    log.rewind(20, validated=True)
    assert len(log.path.read_text().splitlines()) == 1
