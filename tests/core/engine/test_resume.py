"""A resumed run is, to the bit, the run that was never stopped."""
import json
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from detcore.engine.checkpoint import load_checkpoint, save_checkpoint
from detcore.engine.runner import Runner
from detcore.errors import CheckpointError

EVERY_STEP = {"checkpoint": {"by_epoch": False, "interval": 1}}
AT_THE_END = {"checkpoint": {"by_epoch": False, "interval": -1}}  # a save waits for the disk
STEPS = 18  # 3 passes of 6 steps
END = f"iter_{STEPS}.pth"


@pytest.fixture(scope="module")
def whole(toy, base, tmp_path_factory):
    """The folder of a complete run that saved after every step; not to be changed."""
    folder = tmp_path_factory.mktemp("whole")
    toy_config, merged = base
    cfg = merged(toy_config, {"work_dir": str(folder), "default_hooks": EVERY_STEP})
    Runner.from_cfg(cfg).train()
    return folder


@pytest.fixture
def resume_from(whole, toy_cfg):
    """Resumes a copy of the whole run's state at a step; returns the folder of the resumed run."""

    def resume(step, content=None, **changes):
        cfg = toy_cfg("resumed", default_hooks=AT_THE_END, resume=True, **changes)
        folder = Path(cfg["work_dir"])
        folder.mkdir(exist_ok=True)
        if content is None:
            shutil.copy(whole / f"iter_{step}.pth", folder)
        else:
            save_checkpoint(folder / f"iter_{step}.pth", content)
        shutil.copy(whole / "log.jsonl", folder)
        Runner.from_cfg(cfg).train()
        return folder

    return resume


@pytest.mark.parametrize("step", [1, 5, 6, 7, 12, 17])
def test_a_run_resumed_at_any_step_ends_as_the_whole_one(step, whole, resume_from, compare):
    assert compare(whole, resume_from(step), END) == []


def test_a_run_by_steps_resumes_too(toy_cfg, compare):
    def cfg(name, **more):
        made = toy_cfg(name, param_scheduler=None, **more)
        made["train_cfg"] = {"type": "IterBasedTrainLoop", "max_iters": 15, "val_interval": 4}
        return made

    Runner.from_cfg(cfg("whole", default_hooks=EVERY_STEP)).train()
    folder = Path(cfg("whole")["work_dir"])
    for step in (3, 6, 8):
        other = Path(cfg(f"from_{step}")["work_dir"])
        other.mkdir()
        shutil.copy(folder / f"iter_{step}.pth", other)
        shutil.copy(folder / "log.jsonl", other)
        Runner.from_cfg(cfg(f"from_{step}", resume=True, default_hooks=AT_THE_END)).train()
        assert compare(folder, other, "iter_15.pth") == [], step


def test_resuming_a_complete_run_changes_nothing(whole, resume_from, compare):
    assert compare(whole, resume_from(STEPS), END) == []


def test_an_interrupted_evaluation_is_made_up_for(resume_from):
    folder = resume_from(6)  # saved before the pass was closed and evaluated
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [record["iter"] for record in records if record["mode"] == "val"] == [6, 12, 18]


def test_half_written_lines_of_the_log_are_dropped(whole, toy_cfg, compare):
    cfg = toy_cfg("resumed", default_hooks=AT_THE_END, resume=True)
    folder = Path(cfg["work_dir"])
    folder.mkdir()
    shutil.copy(whole / "iter_15.pth", folder)
    text = (whole / "log.jsonl").read_text()
    (folder / "log.jsonl").write_text(text[: text.index('"iter": 16') + 4])
    Runner.from_cfg(cfg).train()
    assert compare(whole, folder, END) == []


PARTS = [
    "trained_state_dict",
    "ema",
    "optimizer",
    "param_schedulers",
    "rng",
    "rng/python",
    "rng/numpy",
    "rng/torch",
    "loader",
    "loop",
    "hooks",
    "log",
]


def with_stale(content, old, part):
    """``content`` with one part as it was at an earlier step."""
    first, _, inner = part.partition("/")
    if inner:
        ranks = [{**now, inner: then[inner]} for now, then in zip(content[first], old[first], strict=True)]
        return {**content, first: ranks}
    return {**content, first: old[first]}


@pytest.mark.parametrize("part", [None, *PARTS])
def test_every_saved_part_matters(part, whole, resume_from, compare):
    """With any part left as it was some steps before, the end is another one; with none, it is the same."""
    content, old = load_checkpoint(whole / "iter_15.pth"), load_checkpoint(whole / "iter_2.pth")
    folder = resume_from(15, content if part is None else with_stale(content, old, part))
    assert bool(compare(whole, folder, END)) is (part is not None)


@pytest.mark.parametrize("part", ["state_dict", *(part for part in PARTS if "/" not in part)])
def test_a_checkpoint_without_a_part_is_refused_by_its_name(part, whole, resume_from):
    content = load_checkpoint(whole / "iter_9.pth")
    del content[part]
    with pytest.raises(CheckpointError, match=rf"iter_9\.pth cannot be resumed from: it has no {part}"):
        resume_from(9, content)


def test_a_checkpoint_saved_without_optimiser_is_refused_with_the_way_out(toy_cfg):
    cfg = toy_cfg(default_hooks={"checkpoint": {"save_optimizer": False}}, train_cfg={"max_epochs": 1})
    Runner.from_cfg(cfg).train()
    with pytest.raises(CheckpointError, match="use load_from without resume"):
        Runner.from_cfg({**cfg, "resume": True}).train()


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_used(
    whole, resume_from, toy_cfg, compare, caplog
):
    folder = Path(toy_cfg("resumed")["work_dir"])
    folder.mkdir()
    raw = bytearray((whole / "iter_17.pth").read_bytes())
    raw[len(raw) // 2] ^= 1
    (folder / "iter_17.pth").write_bytes(raw)
    assert compare(whole, resume_from(16), END) == []
    assert "iter_17.pth" in caplog.text


def test_settings_that_changed_since_are_named(resume_from, caplog):
    resume_from(5, optim_wrapper={"optimizer": {"lr": 0.2}}, train_dataloader={"batch_size": 4})
    assert "optim_wrapper.optimizer.lr: 0.1 when it was saved, 0.2 now" in caplog.text
    assert "train_dataloader.batch_size: 2 when it was saved, 4 now" in caplog.text


def test_another_number_of_schedules_is_refused(resume_from):
    with pytest.raises(CheckpointError, match="schedules"):
        resume_from(15, param_scheduler=None)


def test_more_steps_than_the_config_trains_are_refused(resume_from):
    with pytest.raises(CheckpointError, match="15 steps, this config trains only 12"):
        resume_from(15, train_cfg={"max_epochs": 2})


def test_an_average_that_is_gone_or_new_is_refused(resume_from, toy_cfg):
    with pytest.raises(CheckpointError, match="this config has none"):
        resume_from(15, custom_hooks=[{"type": "CountingHook"}])


def test_a_seed_that_was_drawn_is_kept_over_the_resume(toy_cfg, compare):
    def cfg(name, **changes):
        return {**toy_cfg(name, **changes), "randomness": {}}

    first = Runner.from_cfg(cfg("drawn", default_hooks={"checkpoint": {"by_epoch": False, "interval": 15}}))
    first.train()
    other = Path(cfg("other")["work_dir"])
    other.mkdir()
    shutil.copy(Path(first.work_dir) / "iter_15.pth", other)
    shutil.copy(Path(first.work_dir) / "log.jsonl", other)
    second = Runner.from_cfg(cfg("other", default_hooks=AT_THE_END, resume=True))
    assert second.seed != first.seed
    second.train()
    assert second.seed == first.seed
    assert compare(first.work_dir, other, END) == []


def test_resume_auto_prefers_the_work_folder_and_else_begins_with_the_given_weights(whole, toy_cfg):
    weights = str(whole / END)
    fresh = Runner.from_cfg(toy_cfg("fresh", resume="auto", load_from=weights, train_cfg={"max_epochs": 1}))
    fresh.train()
    assert fresh.iter == 6
    again = Runner.from_cfg(toy_cfg("fresh", resume="auto", load_from=weights))
    again._begin_training()
    assert again.iter == 6


# --- killed for real -------------------------------------------------------------------------------------

POINTS = ["before_train_iter", "after_train_iter", "val", "before_save", "writing", "after_save"]
LONG = {"train_cfg": {"max_epochs": 5, "val_interval": 2}, "train_dataloader": {"dataset": {"length": 24}}}
SIXTY = 60


def kills(number, seed):
    """(step, point, workers) of ``number`` kills, every kind of point among them."""
    rng = random.Random(seed)
    return [(rng.randrange(SIXTY), POINTS[index % len(POINTS)], (0, 2)[index % 2]) for index in range(number)]


def killed_and_resumed(detcore, toy_file, step, point, workers):
    """Kill a run of sixty steps and resume it until it is complete; returns its folder."""

    def write(name, hooks):
        changes = {**LONG, "train_dataloader": {"dataset": {"length": 24}, "num_workers": workers}}
        saving = {"checkpoint": {"by_epoch": False, "interval": 7}}
        return toy_file(name, default_hooks=saving, custom_hooks=hooks, **changes)

    usual = [{"type": "EMAHook", "momentum": 0.1}, {"type": "CountingHook"}]
    name = f"killed_{step}_{point}_{workers}"
    config = write(name, [*usual, {"type": "SignalHook", "step": step, "point": point}])
    status = detcore("run", config, "--trust-config")
    # A kill in an evaluation or a save that comes no more does not happen.
    assert status == -signal.SIGKILL or (
        status == 0 and point not in ("before_train_iter", "after_train_iter")
    ), detcore.output
    config = write(name, usual)
    assert detcore("run", config, "--trust-config", "--resume", "auto") == 0, detcore.output
    return config.with_suffix("")


def undisturbed(detcore, toy_file):
    config = toy_file("undisturbed", **LONG, default_hooks={"checkpoint": {"by_epoch": False, "interval": 7}})
    assert detcore("run", config, "--trust-config") == 0, detcore.output
    return config.with_suffix("")


def test_runs_killed_at_a_handful_of_points_end_as_the_one_that_was_not(detcore, toy_file, compare):
    expected = undisturbed(detcore, toy_file)
    for step, point, workers in kills(6, seed=1):
        folder = killed_and_resumed(detcore, toy_file, step, point, workers)
        assert compare(expected, folder, f"iter_{SIXTY}.pth") == [], (step, point, workers)


@pytest.mark.slow
def test_runs_killed_at_thirty_random_points_end_as_the_one_that_was_not(detcore, toy_file, compare):
    expected = undisturbed(detcore, toy_file)
    for step, point, workers in kills(30, seed=2):
        folder = killed_and_resumed(detcore, toy_file, step, point, workers)
        assert compare(expected, folder, f"iter_{SIXTY}.pth") == [], (step, point, workers)


@pytest.mark.slow
def test_retinanet_killed_at_thirty_random_moments_ends_as_the_one_that_was_not(detcore, retinanet, compare):
    """Killed by the clock, wherever it is: in a step, in a save, in an evaluation, while workers load."""
    sixty = {"train_cfg": {"max_epochs": 15, "val_interval": 4}, "custom_hooks": [{"type": "EMAHook"}]}
    saving = {
        "checkpoint": {"by_epoch": False, "interval": 7, "max_keep_ckpts": 2},
        "logger": {"interval": 1},
    }
    durations = []
    for name in ("cold", "whole"):  # the first run warms the caches and would put the kills too late
        whole = retinanet(name, **sixty, default_hooks=saving)
        begin = time.monotonic()
        assert detcore("run", whole, limit=300) == 0, detcore.output
        durations.append(time.monotonic() - begin)
    duration = min(durations)
    rng = random.Random(3)
    killed = 0
    for number in range(30):
        workers = {"num_workers": (0, 2)[number % 2]}
        config = retinanet(f"killed_{number}", **sixty, default_hooks=saving, train_dataloader=workers)
        moment = rng.uniform(0.1, 0.8) * duration
        status = detcore("run", config, limit=300, kill_after=moment)
        assert status in (0, -signal.SIGKILL), detcore.output
        killed += status != 0
        assert detcore("run", config, "--resume", limit=300) == 0, detcore.output
        assert compare(whole.with_suffix(""), config.with_suffix(""), "iter_60.pth") == [], (number, moment)
    assert killed >= 20, f"only {killed} of 30 runs were still going when they should have been killed"
