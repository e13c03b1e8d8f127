"""The commands ``run`` and ``test``: their options, what they write, and what they refuse."""
import json

import pytest

from detcore.config import Config
from detcore.engine.checkpoint import load_checkpoint
from detcore.engine.dry_run import make_dry

NO_VALIDATION = {"val_cfg": None, "val_dataloader": None, "val_evaluator": None}


def run_json(folder):
    return json.loads(next(folder.glob("*/run.json")).read_text())


def test_a_run_leaves_its_config_and_what_it_ran_on(detcore, toy_file):
    config = toy_file("toy", train_cfg={"max_epochs": 1})
    status = detcore(
        "run",
        config,
        "--trust-config",
        "--seed",
        "11",
        "--cfg-options",
        "model.width=6",
        "optim_wrapper.optimizer.lr=0.05",
        "train_dataloader.batch_size=3",
    )
    assert status == 0, detcore.output
    folder = config.with_suffix("")
    record = run_json(folder)
    assert record["seed"] == 11
    assert record["overrides"] == {
        "model.width": 6,
        "optim_wrapper.optimizer.lr": 0.05,
        "train_dataloader.batch_size": 3,
    }
    assert {"detcore", "python", "torch"} <= set(record["versions"])
    text = (folder / "toy.py").read_text()
    assert "width=6" in text
    content = load_checkpoint(folder / "epoch_1.pth")
    assert content["state_dict"]["conv.weight"].shape[0] == 6
    assert content["meta"]["iter"] == 4


def test_the_written_config_runs_again_to_the_same_end(detcore, toy_file, compare, tmp_path):
    config = toy_file("toy", train_cfg={"max_epochs": 1})
    assert detcore("run", config, "--trust-config") == 0, detcore.output
    again = tmp_path / "again"
    status = detcore("run", config.with_suffix("") / "toy.py", "--trust-config", "--work-dir", again)
    assert status == 0, detcore.output
    assert compare(config.with_suffix(""), again, "epoch_1.pth") == []


def test_modules_of_a_config_need_trust_but_a_plugin_on_the_command_line_is_trusted(
    detcore, toy_cfg, toy, tmp_path
):
    config = tmp_path / "c.json"
    config.write_text(json.dumps(toy_cfg("c", plugins=[str(toy)], train_cfg={"max_epochs": 1})))
    assert detcore("run", config) == 2
    assert "--trust-config" in detcore.output
    config.write_text(json.dumps(toy_cfg("c", train_cfg={"max_epochs": 1})))
    assert detcore("run", config) == 2
    assert "ToyDetector" in detcore.output
    assert detcore("run", config, "--plugin", toy) == 0, detcore.output


def test_resume_auto_starts_afresh_where_there_is_nothing(detcore, toy_file):
    config = toy_file("toy", train_cfg={"max_epochs": 1})
    assert detcore("run", config, "--trust-config", "--resume", "auto") == 0, detcore.output
    assert "nothing to resume" in detcore.output


def test_a_dry_run_saves_nothing_and_makes_one_step(detcore, toy_file):
    config = toy_file("toy")
    assert detcore("run", config, "--trust-config", "--dry-run") == 0, detcore.output
    assert "Iter(train) [1/1]" in detcore.output
    assert "toy/acc" in detcore.output
    assert "dry run: one step and one evaluation went through" in detcore.output
    assert not config.with_suffix("").exists()


def test_amp_scaling_and_determinism_are_options(detcore, toy_file):
    config = toy_file(
        "toy",
        train_cfg={"max_epochs": 1},
        param_scheduler=None,
        auto_scale_lr={"enable": False, "base_batch_size": 4},
        **NO_VALIDATION,
    )
    status = detcore(
        "run", config, "--trust-config", "--amp", "--auto-scale-lr", "--deterministic", "--device", "cpu"
    )
    assert status == 0, detcore.output
    folder = config.with_suffix("")
    first = json.loads((folder / "log.jsonl").read_text().splitlines()[0])
    assert first["lr"] == pytest.approx(0.05)
    assert "loss_scaler" in load_checkpoint(folder / "epoch_1.pth")["optimizer"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--cfg-options", "model.width"], "key=value"),
        (["--device", "cuda:7"], "device"),
        (["--device", "gpu0"], "device"),
        (["--seed", "-1"], "-1"),
    ],
)
def test_options_that_make_no_sense_end_with_status_2(arguments, told, detcore, toy_file):
    assert detcore("run", toy_file("toy"), "--trust-config", *arguments) == 2
    assert told in detcore.output


def test_a_missing_config_ends_with_status_2(detcore, tmp_path):
    assert detcore("run", tmp_path / "nowhere.py") == 2
    assert "nowhere.py" in detcore.output


# --- with a real detector on drawn pictures -------------------------------------------------------------


def test_retinanet_trains_tests_and_resumes(detcore, retinanet, compare, tmp_path):
    config = retinanet()
    assert detcore("run", config) == 0, detcore.output
    folder = config.with_suffix("")
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert {"loss", "loss_cls", "loss_bbox", "grad_norm"} <= set(log[0])
    assert "coco/bbox_mAP_50" in log[-1]
    readable = next(folder.glob("*/*.log")).read_text()
    assert " - det_datasets." in readable, "what plugins log belongs to the run's log"

    out, drawn = tmp_path / "found" / "predictions.json", tmp_path / "drawn"
    status = detcore(
        "test", config, folder / "iter_8.pth", "--out", out, "--show-dir", drawn, "--work-dir", tmp_path / "t"
    )
    assert status == 0, detcore.output
    assert "coco/bbox_mAP_50" in detcore.output
    predictions = json.loads(out.read_text())
    assert len(predictions) == 8
    assert {"img_id", "img_path", "bboxes", "scores", "labels", "classes"} == set(predictions[0])
    assert len(list(drawn.iterdir())) == 8

    resumed = retinanet("resumed", train_dataloader={"num_workers": 2})
    resumed.with_suffix("").mkdir()
    for name in ("iter_3.pth", "log.jsonl"):
        (resumed.with_suffix("") / name).write_bytes((folder / name).read_bytes())
    assert detcore("run", resumed, "--resume") == 0, detcore.output
    assert compare(folder, resumed.with_suffix(""), "iter_8.pth") == []


def test_a_test_without_truth_writes_what_a_server_wants(detcore, retinanet, tmp_path):
    config = retinanet()
    assert detcore("run", config, "--cfg-options", "train_cfg.max_epochs=1", "train_cfg.val_begin=9") == 0, (
        detcore.output
    )
    status = detcore(
        "test",
        config,
        config.with_suffix("") / "iter_4.pth",
        "--cfg-options",
        "test_evaluator.format_only=True",
        f"test_evaluator.outfile_prefix={tmp_path / 'server'}",
    )
    assert status == 0, detcore.output
    assert isinstance(json.loads((tmp_path / "server.bbox.json").read_text()), list)


def test_a_dry_run_draws_the_data_that_is_not_there(detcore, retinanet):
    config = retinanet()
    text = config.read_text().replace("annotations.json", "gone.json")
    config.write_text(text)
    assert detcore("run", config, "--dry-run") == 0, detcore.output
    assert "gone.json is not there; train uses" in detcore.output
    assert "coco/bbox_mAP" in detcore.output
    assert detcore("run", config) == 2
    assert "gone.json" in detcore.output


def test_a_checkpoint_of_another_model_is_refused_with_keys_and_shapes(detcore, retinanet, toy_file):
    config = toy_file("toy", train_cfg={"max_epochs": 1}, **NO_VALIDATION)
    assert detcore("run", config, "--trust-config") == 0, detcore.output
    assert detcore("test", retinanet(), config.with_suffix("") / "epoch_1.pth") == 2
    assert "epoch_1.pth does not fit" in detcore.output
    assert "backbone.conv1.weight" in detcore.output


def test_predictions_are_never_pickled(detcore, retinanet):
    assert detcore("test", retinanet(), "x.pth", "--out", "predictions.pkl") == 2
    assert "JSON" in detcore.output


def test_num_classes_that_do_not_fit_end_the_run_before_the_first_step(detcore, retinanet):
    config = retinanet()
    assert detcore("run", config, "--cfg-options", "model.bbox_head.num_classes=80") == 2
    assert "80 classes" in detcore.output


@pytest.mark.parametrize(
    ("asked", "drawn"),
    [(["bbox", "segm"], ["bbox", "segm"]), ("segm", ["segm"]), ("proposal_fast", ["bbox"]), (None, ["bbox"])],
)
def test_a_dry_run_on_drawn_pictures_asks_for_masks_where_the_config_does(asked, drawn, tmp_path):
    cfg = Config.fromfile("detcore::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py")
    cfg.val_evaluator = {"type": "CocoMetric", "metric": asked}
    make_dry(cfg, tmp_path)
    assert cfg.val_evaluator["metric"] == drawn


def test_a_dry_run_on_drawn_pictures_draws_proposals_where_the_config_has_some(detcore, tmp_path):
    config = tmp_path / "fast.py"
    config.write_text("""
_base_ = 'detcore::fast_rcnn/fast-rcnn_r50_fpn_1x_coco.py'
model = dict(
    backbone=dict(depth=18, base_channels=16, init_cfg=None),
    neck=dict(in_channels='auto', out_channels=16),
    roi_head=dict(bbox_roi_extractor=dict(out_channels=16),
                  bbox_head=dict(in_channels=16, fc_out_channels=16)))
train_pipeline = [
    dict(type='LoadImageFromFile'), dict(type='LoadProposals'),
    dict(type='LoadAnnotations', with_bbox=True), dict(type='PackDetInputs')]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadProposals'), dict(type='PackDetInputs')]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
""")
    assert detcore("run", config, "--dry-run", "--device", "cpu") == 0, detcore.output
    assert "one step and one evaluation went through" in detcore.output


def test_a_dry_run_says_first_what_is_wrong_with_the_config_as_it_stands(detcore, tmp_path):
    config = tmp_path / "old.py"
    config.write_text("model = dict(type='X')\ndata = dict(samples_per_gpu=2)\noptimizer = dict(lr=1)\n")
    assert detcore("run", config, "--dry-run") == 2
    assert "MMDetection 2.x" in detcore.output
