"""Hooks: their order, what is refused, and what each of ours does."""
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from detcore.engine.hooks import CheckpointHook, Hook, HookList
from detcore.engine.hooks.check_invalid_loss import CheckInvalidLossHook
from detcore.engine.hooks.early_stopping import EarlyStoppingHook
from detcore.engine.hooks.ema import EMAHook
from detcore.engine.hooks.epoch_info import SetEpochInfoHook
from detcore.engine.hooks.memory_profiler import memory_use
from detcore.engine.hooks.num_class_check import check_num_classes
from detcore.engine.hooks.order import priority_value
from detcore.engine.hooks.rule import comparison_rule
from detcore.errors import ConfigError, TrainingError
from detcore.registry import HOOKS


def noting(name, points, log, **attributes):
    """A hook class that notes its name at the given points."""

    def method(point):
        def call(self, runner, **arguments):
            log.append((name, point))

        return call

    return type(name, (Hook,), {**{point: method(point) for point in points}, **attributes})


def test_hooks_run_by_priority_and_equal_ones_in_the_order_of_the_config():
    log, hooks = [], HookList()
    hooks.add(noting("low", ["before_run"], log)(), "LOW")
    hooks.add(noting("first", ["before_run"], log)())
    hooks.add(noting("second", ["before_run"], log)(), 50)
    hooks.add(noting("high", ["before_run"], log, priority="VERY_HIGH")())
    hooks.call("before_run", None)
    assert [name for name, _ in log] == ["high", "first", "second", "low"]


@pytest.mark.parametrize("priority", ["HUGE", -1, 101, 2.5, True])
def test_a_priority_that_is_none_is_refused(priority):
    with pytest.raises(ConfigError, match="VERY_HIGH"):
        priority_value(priority)


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("after_trainiter", "after_train_iter"),
        ("befor_run", "before_run"),
        ("after_epoch", "after_train_epoch"),
        ("after_train_itr", "after_train_iter"),
        ("before_test_epochs", "before_test_epoch"),
    ],
)
def test_a_misspelt_point_is_refused_with_the_closest_one(misspelt, meant):
    with pytest.raises(ConfigError, match=f"{misspelt} is not a point.*{meant}"):
        HookList().add(noting("Mine", [misspelt], [])())


def test_a_point_whose_arguments_do_not_fit_is_refused_at_registration():
    class Mine(Hook):
        def after_train_iter(self, runner, idx, batch, outputs):
            """Names its arguments otherwise."""

    with pytest.raises(
        ConfigError, match=r"after_train_iter\(self, runner, batch_idx, data_batch, outputs\)"
    ):
        HookList().add(Mine())


def test_something_that_is_no_hook_is_refused():
    with pytest.raises(ConfigError, match="must derive"):
        HookList().add(object())


def test_own_methods_with_other_names_are_allowed():
    HookList().add(noting("Mine", ["reset", "write_table"], [])())


def test_a_point_that_does_not_exist_cannot_be_called():
    with pytest.raises(ConfigError, match="there is no hook point"):
        HookList().call("before_lunch", None)


def test_a_hook_that_overrides_after_iter_sees_every_mode():
    class Mine(Hook):
        def __init__(self):
            self.modes = []

        def _after_iter(self, runner, batch_idx, data_batch=None, outputs=None, mode="train"):
            self.modes.append(mode)

    hooks = HookList()
    hooks.add(Mine())
    for mode in ("train", "val", "test"):
        hooks.call(f"after_{mode}_iter", None, batch_idx=0, data_batch=None, outputs=None)
    assert next(iter(hooks)).modes == ["train", "val", "test"]


def test_states_of_two_hooks_of_one_class_stay_apart():
    class Counting(Hook):
        def __init__(self, count):
            self.count = count

        def state_dict(self):
            return {"count": self.count}

        def load_state_dict(self, state):
            self.count = state["count"]

    saved, fresh = HookList(), HookList()
    for count in (3, 7):
        saved.add(Counting(count))
        fresh.add(Counting(0))
    fresh.load_state_dict(saved.state_dict())
    assert [hook.count for hook in fresh] == [3, 7]


@pytest.mark.parametrize(
    ("done", "interval", "start", "due"),
    [(3, 4, 0, True), (2, 4, 0, False), (5, 3, 3, True), (2, 3, 3, False), (3, 0, 0, False)],
)
def test_intervals_count_complete_steps_and_passes(done, interval, start, due):
    runner = SimpleNamespace(iter=done, epoch=done)
    assert Hook().every_n_train_iters(runner, interval, start) is due
    assert Hook().every_n_epochs(runner, interval, start) is due


def test_a_loss_that_is_no_number_ends_the_run():
    runner = SimpleNamespace(iter=49)
    hook = CheckInvalidLossHook(interval=50)
    hook.after_train_iter(runner, 0, None, {"loss": torch.tensor(1.0)})
    with pytest.raises(TrainingError, match=r"step 50.*loss_cls"):
        hook.after_train_iter(
            runner, 0, None, {"loss": torch.tensor(1.0), "loss_cls": torch.tensor(math.nan)}
        )


def model_with(num_classes):
    model = nn.Module()
    model.backbone, model.bbox_head, model.rpn_head = nn.Module(), nn.Module(), nn.Module()
    model.backbone.num_classes = 1000
    model.rpn_head.num_classes = 1
    model.bbox_head.num_classes = num_classes
    return model


def dataset_with(classes):
    return SimpleNamespace(metainfo={"classes": classes})


def test_num_classes_that_fit_are_accepted_and_backbones_and_proposal_heads_left_out():
    check_num_classes(model_with(3), dataset_with(("a", "b", "c")), "train_dataloader.dataset")


def test_num_classes_that_do_not_fit_are_refused_with_both_places():
    with pytest.raises(
        ConfigError, match=r"model\.bbox_head has num_classes=80.*val_dataloader\.dataset has 3"
    ):
        check_num_classes(model_with(80), dataset_with(("a", "b", "c")), "val_dataloader.dataset")


def test_classes_given_as_one_string_are_refused_with_the_way_out():
    with pytest.raises(ConfigError, match=r"classes=\('cell',\)"):
        check_num_classes(model_with(4), dataset_with("cell"), "train_dataloader.dataset")


def test_the_model_is_told_the_pass():
    model = nn.Sequential(nn.Identity())
    told = []
    model[0].set_epoch = told.append
    SetEpochInfoHook().before_train_epoch(SimpleNamespace(model=model, epoch=4))
    assert told == [4]


def early(values, **arguments):
    hook = EarlyStoppingHook(monitor="coco/bbox_mAP", **arguments)
    for index, value in enumerate(values):
        loop = SimpleNamespace(stop_training=False)
        runner = SimpleNamespace(
            train_loop=loop,
            training=True,
            epoch=index,
            iter=index,
            logger=SimpleNamespace(info=lambda *args: None),
        )
        hook.after_val_epoch(runner, {"coco/bbox_mAP": value})
        if loop.stop_training:
            return index
    return None


def test_training_ends_early_after_patience_runs_out():
    assert early([0.1, 0.3, 0.31, 0.29, 0.3], min_delta=0.05, patience=2) == 3


def test_training_ends_early_when_the_threshold_is_reached_or_the_figure_is_nan():
    assert early([0.1, 0.5, 0.6], stopping_threshold=0.5) == 1
    assert early([0.1, math.nan]) == 1
    assert early([0.1, 0.2, 0.3], min_delta=0.05, patience=1) is None
    assert early([0.5, 0.5, 0.5], min_delta=0, patience=1) is None  # as good as the best counts, as it did
    assert early([0.25, 0.5, 0.75], min_delta=0.25, patience=1) is None


def test_early_stopping_names_the_figures_where_its_own_is_missing():
    hook = EarlyStoppingHook(monitor="coco/bbox_mAP", strict=True)
    runner = SimpleNamespace(train_loop=SimpleNamespace(), training=True)
    with pytest.raises(ConfigError, match="coco/segm_mAP"):
        hook.after_val_epoch(runner, {"coco/segm_mAP": 0.1})


@pytest.mark.parametrize(
    ("key", "rule"),
    [
        ("coco/bbox_mAP", "greater"),
        ("coco/bbox_mAP_50", "greater"),
        ("loss", "less"),
        ("pascal_voc/AP50", "greater"),
        ("crowd_human/mMR", "less"),
        ("auto", "greater"),
    ],
)
def test_the_better_direction_is_told_from_the_key(key, rule):
    assert comparison_rule(key) == rule


def test_an_unclear_direction_must_be_said():
    with pytest.raises(ConfigError, match="say rule="):
        comparison_rule("my/value")
    assert comparison_rule("my/value", "less") == "less"
    assert comparison_rule("my/value", None, ["value"]) == "greater"
    with pytest.raises(ConfigError, match="must be"):
        comparison_rule("my/value", "bigger")


def test_an_average_begins_by_step_or_by_pass_but_not_by_both():
    assert EMAHook(begin_epoch=2).first_step(10) == 10
    assert EMAHook(begin_iter=7).first_step(10) == 6
    assert EMAHook().first_step(10) == 0
    with pytest.raises(ConfigError, match="not both"):
        EMAHook(begin_iter=1, begin_epoch=1)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"momentm": 0.1}, "did you mean 'momentum'"),
        ({"gamma": 3}, "ExponentialMovingAverage takes no argument 'gamma'"),
        ({"ema_type": "ExpMomentumEma"}, "ExpMomentumEMA"),
    ],
)
def test_settings_of_the_average_are_checked_before_anything_is_built(settings, words):
    problems = HOOKS.check({"type": "EMAHook", **settings}, path="custom_hooks.0")
    assert len(problems) == 1
    assert words in str(problems[0])
    assert not HOOKS.check({"type": "EMAHook", "ema_type": "ExpMomentumEMA", "gamma": 3, "device": "cpu"})


def test_memory_of_this_process_is_positive():
    assert all(value >= 0 for value in memory_use().values())
    assert memory_use().get("current_process_memory", 1) > 0


class FakeFolder:
    def __init__(self):
        self.kept, self.removed = [], []

    def prune(self, keep):
        self.kept.append(keep)

    def remove(self, name):
        self.removed.append(name)


def saving_runner(tmp_path, **where):
    folder = FakeFolder()
    runner = SimpleNamespace(
        work_dir=str(tmp_path),
        saved=[],
        epoch=0,
        iter=0,
        max_epochs=10,
        max_iters=100,
        logger=SimpleNamespace(info=lambda *args: None),
        folder=folder,
    )
    runner.save_checkpoint = lambda folder, name, **arguments: runner.saved.append(name)
    runner.checkpoints_of = lambda path: folder
    for name, value in where.items():
        setattr(runner, name, value)
    return runner


def test_checkpoints_are_saved_at_intervals_and_at_the_end(tmp_path):
    runner, hook = saving_runner(tmp_path, max_epochs=7), CheckpointHook(interval=3, max_keep_ckpts=2)
    for runner.epoch in range(1, 8):
        hook.epoch_done(runner)
        hook.step_done(runner)
    assert runner.saved == ["epoch_3.pth", "epoch_6.pth", "epoch_7.pth"]
    assert runner.folder.kept == [2, 2, 2]


def test_checkpoints_by_step_ignore_passes(tmp_path):
    runner, hook = (
        saving_runner(tmp_path, max_iters=50),
        CheckpointHook(interval=20, by_epoch=False, save_last=False),
    )
    for runner.iter in range(1, 51):
        hook.step_done(runner)
        hook.epoch_done(runner)
    assert runner.saved == ["iter_20.pth", "iter_40.pth"]


def test_the_best_checkpoint_replaces_the_one_before(tmp_path):
    runner, hook = saving_runner(tmp_path), CheckpointHook(interval=1, save_best="coco/bbox_mAP")
    for runner.epoch, score in enumerate([0.1, 0.3, math.nan, 0.2, 0.4], start=1):
        hook.validation_done(runner, {"coco/bbox_mAP": score})
    assert runner.saved == [f"best_coco_bbox_mAP_epoch_{n}.pth" for n in (1, 2, 5)]
    assert runner.folder.removed == [f"best_coco_bbox_mAP_epoch_{n}.pth" for n in (1, 2)]


def test_auto_takes_the_first_figure_and_a_resumed_hook_remembers(tmp_path):
    runner, hook = saving_runner(tmp_path), CheckpointHook(interval=1, save_best="auto")
    hook.validation_done(runner, {"coco/bbox_mAP": 0.5, "coco/bbox_mAP_50": 0.9})
    again = CheckpointHook(interval=1, save_best="auto")
    again.load_state_dict(hook.state_dict())
    again.validation_done(runner, {"coco/bbox_mAP": 0.4, "coco/bbox_mAP_50": 0.9})
    assert runner.saved == ["best_coco_bbox_mAP_epoch_0.pth"]


def test_a_watched_figure_that_does_not_exist_is_named_with_those_that_do(tmp_path):
    with pytest.raises(ConfigError, match=r"bbox_map.*coco/bbox_mAP"):
        CheckpointHook(save_best="bbox_map").validation_done(saving_runner(tmp_path), {"coco/bbox_mAP": 0.1})


def test_rules_must_fit_the_watched_keys():
    with pytest.raises(ConfigError, match=r"3 keys.*2 rules"):
        CheckpointHook(save_best=["a_mAP", "b_mAP", "c_mAP"], rule=["less", "less"])
    with pytest.raises(ConfigError, match="auto"):
        CheckpointHook(save_best=["auto", "b_mAP"])
    with pytest.raises(ConfigError, match="twice"):
        CheckpointHook(save_best=["a_mAP", "a_mAP"])


def test_one_rule_in_a_list_is_for_all_keys(tmp_path):
    hook, runner = CheckpointHook(save_best=["a", "b"], rule=["less"]), saving_runner(tmp_path)
    hook.validation_done(runner, {"a": 1.0, "b": 1.0})
    runner.epoch = 1
    hook.validation_done(runner, {"a": 2.0, "b": 0.5})
    assert runner.saved == ["best_a_epoch_0.pth", "best_b_epoch_0.pth", "best_b_epoch_1.pth"]


def test_the_best_checkpoint_bears_the_name_that_the_others_bear(tmp_path):
    hook, runner = CheckpointHook(save_best="mAP", filename_tmpl="run_{}.pth"), saving_runner(tmp_path)
    hook.validation_done(runner, {"mAP": 1.0})
    assert runner.saved == ["best_mAP_run_0.pth"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"filename_tmpl": "model.pth"}, "no {} for the number"),
        ({"save_begin": -1}, "at least 0, got -1"),
        ({"out_dir": "s3://bucket/run"}, "only folders of this machine"),
        ({"backend_args": {"backend": "petrel"}}, r"backend_args.backend='petrel'"),
        ({"file_client_args": {"backend": "ceph"}}, r"file_client_args.backend='ceph'"),
        ({"backend_args": {"backend": "local"}, "file_client_args": {"backend": "disk"}}, "not both"),
    ],
)
def test_settings_of_checkpoints_that_make_no_sense_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        CheckpointHook(**settings)
    CheckpointHook(backend_args={"backend": "local"}, greater_keys="score", less_keys=["cost"])


def test_a_single_word_tells_the_direction_of_keys(tmp_path):
    hook, runner = CheckpointHook(save_best="my_cost", less_keys="cost"), saving_runner(tmp_path)
    for runner.epoch, cost in enumerate([3.0, 2.0, 4.0]):
        hook.validation_done(runner, {"my_cost": cost})
    assert runner.saved == ["best_my_cost_epoch_0.pth", "best_my_cost_epoch_1.pth"]
