"""Users' backbones, heads, data sets, hooks and loops train, validate and resume; see conftest.py."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from detcore.cli.main import main
from detcore.engine.checkpoint import load_checkpoint


def run(cfg):
    from detcore.engine.runner import Runner

    runner = Runner.from_cfg(cfg, trust=True)
    runner.train()
    return runner


def figures(runner, mode):
    lines = (Path(runner.work_dir) / "log.jsonl").read_text().splitlines()
    return [record for line in lines if (record := json.loads(line))["mode"] == mode]


def weights(runner):
    return {name: value.clone() for name, value in runner.model.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def written(runner, name):
    return json.loads((Path(runner.work_dir) / name).read_text())


def test_backbone_neck_head_loss_data_set_transforms_and_metric_train_validate_test(their_config):
    hook = {"type": "MyHook", "a": "points", "b": 5}
    runner = run(
        their_config(
            custom_hooks=[hook, {"type": "MyGeneralHook"}, {"type": "MyLossGuardHook", "interval": 2}]
        )
    )
    assert type(runner.model).__name__ == "MyRetinaNet"
    assert type(runner.model.bbox_head.loss_bbox).__name__ == "MyLoss"
    step = figures(runner, "train")[-1]
    assert {"loss", "loss_cls", "loss_bbox", "my_figure"} <= set(step)
    assert figures(runner, "val")[-1]["my/images"] == 8
    assert written(runner, "general.json") == {"train": 2008, "val": 2008}
    train = [
        "before_train_epoch 0",
        *(f"{when}_train_iter {i}" for i in range(4) for when in ("before", "after")),
        "after_train_epoch 0",
        "before_save_checkpoint",
    ]
    val = [
        "before_val",
        "before_val_epoch",
        *(f"{when}_val_iter {i}" for i in range(4) for when in ("before", "after")),
        "after_val_epoch ['my/images', 'my/recall']",
        "after_val",
    ]
    once = [*train, *val]
    twice = [call.replace("epoch 0", "epoch 1") for call in once]
    assert written(runner, "points.json") == [
        "before_run",
        "before_train",
        *once,
        *twice,
        "after_train",
        "after_run",
    ]

    tested = their_config(custom_hooks=[hook], load_from=str(Path(runner.work_dir) / "epoch_2.pth"))
    from detcore.engine.runner import Runner

    assert figures(runner, "val")[-1]["my/recall"] > 0
    again = Runner.from_cfg(tested, trust=True)
    assert again.test() == pytest.approx(
        {"test/recall": figures(runner, "val")[-1]["my/recall"], "test/images": 8}
    )
    assert written(again, "points.json")[1:4] == ["after_load_checkpoint", "before_test", "before_test_epoch"]


def test_a_run_of_their_parts_resumes_exactly(their_config, tmp_path):
    changes = {
        "optim_wrapper": {
            "type": "OptimWrapper",
            "optimizer": {"type": "MyOptimizer", "a": 0.01, "b": 0.9, "c": 1e-4},
        },
        "param_scheduler": [
            {"type": "MyHalvingLR", "every": 2, "by_epoch": False},
            {"type": "MyHalvingMomentum", "by_epoch": True},
        ],
        "custom_hooks": [{"type": "MyReachingHook"}],
        "train_cfg": {"type": "MyEpochLoop", "max_epochs": 2, "my_factor": 3},
        "default_hooks": {
            "checkpoint": {"type": "CheckpointHook", "interval": 1},
            "logger": {"type": "LoggerHook", "interval": 1},
        },
    }
    whole = run(their_config("whole", **changes))
    (tmp_path / "part").mkdir()
    shutil.copy(Path(whole.work_dir) / "epoch_1.pth", tmp_path / "part")
    part = run(their_config("part", **changes, resume=True))
    assert part.iter == 8
    assert same(weights(part), weights(whole))
    assert whole.message_hub.get_info("my_factor") == 3
    rates = [record["lr"] for record in figures(whole, "train")]
    assert rates == [0.01 * 0.5 ** (step // 2) for step in range(8)]
    assert whole.optim_wrapper.get_momentum()["momentum"] == [0.45]
    seen = written(whole, "reached.json")
    assert seen == {
        "every": [1, 3, 5, 7],
        "ends": [3, 7],
        "last": [7],
        "rates": [0.01 / 16],
        "schedules": ["MyHalvingLR", "MyHalvingMomentum"],
        "facts": [2, 8, 0, 1, 1, 2, 2, True, True, False, True],
        "sum": 8,
        "steps": 8,
        "classes": ["person", "bicycle", "car", "motorcycle"],
    }
    assert written(part, "reached.json")["sum"] == 8  # what was noted before the interruption is known


@pytest.mark.parametrize("step", [4, 6])  # the last step of a pass, and one in the middle
@pytest.mark.parametrize("loop", ["MyEpochLoop", "MyTrainLoop"])
def test_loops_of_their_own_resume_within_a_pass(their_config, tmp_path, loop, step):
    changes = {
        "train_cfg": {"type": loop, "max_epochs": 2},
        "default_hooks": {"checkpoint": {"type": "CheckpointHook", "interval": 1, "by_epoch": False}},
    }
    whole = run(their_config("whole", **changes))
    (tmp_path / "part").mkdir()
    shutil.copy(Path(whole.work_dir) / f"iter_{step}.pth", tmp_path / "part")
    part = run(their_config("part", **changes, resume=True))
    assert part.iter == whole.iter == 8
    assert same(weights(part), weights(whole))


def test_a_hook_saves_checkpoints_with_the_arguments_of_mmengine(their_config):
    hooks = [{"type": "MySavingHook"}]
    schedule = [{"type": "MultiStepLR", "milestones": [1], "by_epoch": True}]
    whole = run(their_config("whole", custom_hooks=hooks, param_scheduler=schedule))
    saved = Path(whole.work_dir) / "mine" / "pass_0.pth"
    part = run(
        their_config("part", custom_hooks=hooks, param_scheduler=schedule, resume=True, load_from=str(saved))
    )
    assert same(weights(part), weights(whole))

    within = load_checkpoint(Path(whole.work_dir) / "mine.pth")
    assert within["meta"]["loss"] > 0
    assert set(within["state_dict"]) == set(weights(whole))
    assert not {"optimizer", "param_schedulers"} & set(within)  # a step is no place to go on from
    assert (Path(whole.work_dir) / "last_checkpoint").read_text().strip().endswith("epoch_2.pth")


def test_the_command_line_runs_their_modules_with_the_users_trust(their_config, tmp_path):
    path = tmp_path / "theirs.json"
    their_config(train_cfg={"type": "EpochBasedTrainLoop", "max_epochs": 1}).dump(path)
    refused = CliRunner().invoke(main, ["run", str(path)])
    assert refused.exit_code == 2
    assert "--trust-config" in refused.output
    done = CliRunner().invoke(main, ["run", str(path), "--trust-config", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "run" / "epoch_1.pth").exists()


def test_hooks_run_in_the_order_of_their_priorities(theirs, their_config):
    from detcore.engine.runner import Runner

    def named(kind, name, **more):
        return {"type": kind, "name": name, **more}

    hooks = [
        named("MyOrderHook", "normal"),
        named("MyOrderHook", "very low", priority="VERY_LOW"),
        named("MyOrderHook", "low", priority="LOW"),
        named("MyOrderHook", "second normal"),
        named("MyOrderHook", "below", priority="BELOW_NORMAL"),
        named("MyOrderHook", "above", priority="ABOVE_NORMAL"),
        named("MyOrderHook", "high", priority="HIGH"),
        named("MyEagerHook", "very high"),
        named("MyOrderHook", "20", priority=20),
        named("MyOrderHook", "0", priority=0),
    ]
    runner = Runner.from_cfg(
        their_config(custom_hooks=hooks, train_cfg={"type": "EpochBasedTrainLoop", "max_epochs": 1}),
        trust=True,
    )
    runner.register_hook(theirs("hooks").MyOrderHook("registered"), priority="HIGHEST")
    runner.register_hook(theirs("hooks").MyEagerHook("eager by class"))
    runner.train()
    assert runner.message_hub.get_info("order") == [
        "0",
        "registered",
        "very high",
        "eager by class",
        "20",
        "high",
        "above",
        "normal",
        "second normal",
        "below",
        "low",
        "very low",
    ]


def test_loops_of_their_own_keep_schedules_saving_and_the_best_checkpoint(their_config):
    changes = {
        "param_scheduler": [{"type": "MultiStepLR", "milestones": [1], "by_epoch": True}],
        "default_hooks": {
            "checkpoint": {
                "type": "CheckpointHook",
                "interval": 1,
                "save_best": "my/recall",
                "rule": "greater",
            },
        },
    }
    plain = run(their_config("plain", **changes))
    names = sorted(path.name for path in Path(plain.work_dir).glob("*.pth"))
    for loop in ("MyTrainLoop", "MyEpochLoop"):
        own = run(their_config(loop, **changes, train_cfg={"type": loop, "max_epochs": 2}))
        assert same(weights(own), weights(plain)), loop
        assert sorted(path.name for path in Path(own.work_dir).glob("*.pth")) == names, loop
        assert [each["my/recall"] for each in figures(own, "val")] == [
            each["my/recall"] for each in figures(plain, "val")
        ]


def test_a_validation_loop_of_their_own_runs_on_averaged_weights_and_gives_its_figures_to_save_best(
    their_config,
):
    changes = {
        "val_cfg": {"type": "MyTwiceValLoop"},
        "custom_hooks": [{"type": "EMAHook", "momentum": 0.2}],
        "default_hooks": {
            "checkpoint": {"type": "CheckpointHook", "interval": 1, "save_best": "teacher/my/recall"}
        },
        "train_cfg": {"type": "EpochBasedTrainLoop", "max_epochs": 1},
    }
    runner = run(their_config(**changes))
    record = figures(runner, "val")[-1]
    assert record["teacher/my/recall"] == record["student/my/recall"]
    assert list(Path(runner.work_dir).glob("best_teacher*recall_epoch_1.pth"))
    from detcore.engine.runner import Runner

    saved = str(Path(runner.work_dir) / "epoch_1.pth")  # holds the averaged weights
    tested = Runner.from_cfg(their_config("test", load_from=saved), trust=True).test()
    assert record["teacher/my/recall"] == pytest.approx(tested["test/recall"])
    counted = Runner.from_cfg(
        their_config("count", load_from=saved, test_cfg={"type": "MyCountingLoop"}), trust=True
    )
    assert counted.test() == {"my/images": 8}


def test_their_other_heads_and_detectors_train(their_config):
    cfg = their_config()
    weighted = {**cfg.model.bbox_head, "type": "MyWeightedRetinaHead"}
    neck = {"type": "MyAugFPN", "in_channels": [16, 16, 32], "out_channels": 8, "num_outs": 3}
    once = {"type": "EpochBasedTrainLoop", "max_epochs": 1}
    first = run(
        their_config("weighted", model={**cfg.model, "bbox_head": weighted, "neck": neck}, train_cfg=once)
    )
    single = {**weighted, "level_weight": 1.0}
    second = run(
        their_config("single", model={**cfg.model, "bbox_head": single, "neck": neck}, train_cfg=once)
    )
    plain = {**cfg.model.bbox_head, "type": "RetinaHead"}
    third = run(their_config("plain", model={**cfg.model, "bbox_head": plain, "neck": neck}, train_cfg=once))
    box = [figures(runner, "train")[0] for runner in (first, second, third)]
    assert box[0]["lr"] == box[1]["lr"]
    torch.testing.assert_close(
        weights(second), weights(third)
    )  # the head's own loss is ours, written otherwise
    assert not same(weights(first), weights(second))

    head = {
        "type": "MyCenterHead",
        "num_classes": 4,
        "in_channels": 8,
        "bbox_coder": {"type": "DeltaXYWHBBoxCoder"},
    }
    own = {
        "type": "MyOwnDetector",
        "backbone": cfg.model.backbone,
        "neck": neck,
        "head": head,
        "data_preprocessor": cfg.model.data_preprocessor,
        "train_cfg": cfg.model.train_cfg,
        "test_cfg": {"max_per_img": 3},
    }
    runner = run(their_config("center", model=own, train_cfg=once))
    assert figures(runner, "train")[-1]["loss_center"] > 0
    assert figures(runner, "val")[-1]["my/images"] == 8


def test_figures_and_pictures_reach_a_backend_of_their_own(their_config):
    visualizer = {"type": "DetLocalVisualizer", "vis_backends": [{"type": "MyVisBackend", "name": "theirs"}]}
    runner = run(
        their_config(
            visualizer=visualizer,
            custom_hooks=[{"type": "MyReachingHook"}],
            default_hooks={"logger": {"type": "LoggerHook", "interval": 2}},
            train_cfg={"type": "EpochBasedTrainLoop", "max_epochs": 1},
        )
    )
    (path,) = Path(runner.work_dir).glob("*/vis_data/theirs.json")
    received = json.loads(path.read_text())
    assert len(received["my/loss"]) == 2
    assert {"loss", "lr", "my/recall"} <= set(received)


def test_a_hook_thaws_a_frozen_backbone(their_config):
    backbone = {
        "type": "ResNet",
        "depth": 18,
        "base_channels": 4,
        "frozen_stages": 1,
        "out_indices": [1, 2, 3],
        "norm_eval": False,
    }
    cfg = their_config()
    neck = {**cfg.model.neck, "in_channels": [8, 16, 32]}
    model = {**cfg.model, "backbone": backbone, "neck": neck}
    hook = {"type": "UnfreezeBackboneEpochBasedHook", "unfreeze_epoch": 1}
    runner = run(their_config(model=model, custom_hooks=[hook]))
    first, second = (load_checkpoint(Path(runner.work_dir) / f"epoch_{n}.pth")["state_dict"] for n in (1, 2))
    for name in ("backbone.conv1.weight", "backbone.layer1.0.conv1.weight", "backbone.layer1.0.bn2.weight"):
        assert not torch.equal(first[name], second[name]), name
    assert runner.model.backbone.layer1.training
    frozen = run(their_config("frozen", model=model))
    assert not any(p.requires_grad for p in frozen.model.backbone.layer1.parameters())


def test_modules_of_users_need_the_users_trust(their_config):
    from detcore.engine.runner import Runner
    from detcore.errors import ConfigError

    with pytest.raises(ConfigError, match="--trust-config"):
        Runner.from_cfg(their_config())
