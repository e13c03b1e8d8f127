"""The commands ``run`` and ``test``: their options, what they write, and what they refuse."""
import json

import pytest

from detcore.data.drawn import tiny_coco
from detcore.engine.checkpoint import load_checkpoint

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


@pytest.fixture
def retinanet(tmp_path):
    """A config of a very small RetinaNet on drawn pictures of 64x64 pixels."""
    annotations = tiny_coco(tmp_path / "data", num=8, image_size=(64, 64))
    classes = [category["name"] for category in json.loads(annotations.read_text())["categories"]]

    def write(name="tiny", **changes):
        def loader(pipeline, **more):
            dataset = {
                "type": "CocoDataset",
                "ann_file": str(annotations),
                "metainfo": {"classes": classes},
                "data_prefix": {"img": str(annotations.parent / "images")},
                "pipeline": pipeline,
                **more,
            }
            return {"batch_size": 2, "num_workers": 0, "dataset": dataset}

        load, pack = {"type": "LoadImageFromFile"}, {"type": "PackDetInputs"}
        resize = {"type": "Resize", "scale": [64, 64], "keep_ratio": True}
        metric = {"type": "CocoMetric", "ann_file": str(annotations), "metric": "bbox"}
        cfg = {
            "model": {
                "type": "RetinaNet",
                "data_preprocessor": {
                    "type": "DetDataPreprocessor",
                    "mean": [120, 120, 120],
                    "std": [60, 60, 60],
                    "bgr_to_rgb": True,
                    "pad_size_divisor": 32,
                },
                "backbone": {
                    "type": "ResNet",
                    "depth": 18,
                    "base_channels": 8,
                    "norm_eval": False,
                    "frozen_stages": -1,
                    "num_stages": 4,
                    "out_indices": [0, 1, 2, 3],
                    "style": "pytorch",
                },
                "neck": {
                    "type": "FPN",
                    "in_channels": [8, 16, 32, 64],
                    "out_channels": 16,
                    "start_level": 1,
                    "add_extra_convs": "on_input",
                    "num_outs": 5,
                },
                "bbox_head": {
                    "type": "RetinaHead",
                    "num_classes": len(classes),
                    "in_channels": 16,
                    "stacked_convs": 1,
                    "feat_channels": 16,
                    "anchor_generator": {
                        "type": "AnchorGenerator",
                        "octave_base_scale": 4,
                        "scales_per_octave": 1,
                        "ratios": [0.5, 1.0, 2.0],
                        "strides": [8, 16, 32, 64, 128],
                    },
                    "bbox_coder": {"type": "DeltaXYWHBBoxCoder"},
                    "loss_cls": {"type": "FocalLoss", "use_sigmoid": True},
                    "loss_bbox": {"type": "L1Loss"},
                },
                "train_cfg": {
                    "assigner": {
                        "type": "MaxIoUAssigner",
                        "pos_iou_thr": 0.5,
                        "neg_iou_thr": 0.4,
                        "min_pos_iou": 0,
                        "ignore_iof_thr": -1,
                    },
                    "sampler": {"type": "PseudoSampler"},
                    "allowed_border": -1,
                    "pos_weight": -1,
                },
                "test_cfg": {
                    "nms_pre": 100,
                    "min_bbox_size": 0,
                    "score_thr": 0.0,
                    "nms": {"type": "nms", "iou_threshold": 0.5},
                    "max_per_img": 10,
                },
            },
            "train_dataloader": {
                **loader(
                    [
                        load,
                        {"type": "LoadAnnotations", "with_bbox": True},
                        resize,
                        {"type": "RandomFlip", "prob": 0.5},
                        {"type": "PhotoMetricDistortion"},
                        pack,
                    ]
                ),
                "sampler": {"type": "DefaultSampler", "shuffle": True},
            },
            "val_dataloader": loader([load, resize, pack], test_mode=True),
            "test_dataloader": loader([load, resize, pack], test_mode=True),
            "val_evaluator": metric,
            "test_evaluator": metric,
            "train_cfg": {"type": "EpochBasedTrainLoop", "max_epochs": 2, "val_interval": 2},
            "optim_wrapper": {
                "type": "OptimWrapper",
                "optimizer": {"type": "AdamW", "lr": 0.001},
                "clip_grad": {"max_norm": 10},
            },
            "param_scheduler": [
                {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "begin": 0, "end": 4}
            ],
            "default_hooks": {"logger": {"interval": 1}, "checkpoint": {"by_epoch": False, "interval": 3}},
            "custom_hooks": [{"type": "NumClassCheckHook"}],
            "randomness": {"seed": 5},
            "work_dir": str(tmp_path / name),
        }
        for key, value in changes.items():
            cfg[key] = (
                {**cfg[key], **value} if isinstance(value, dict) and isinstance(cfg.get(key), dict) else value
            )
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(cfg))
        return path

    return write


def test_retinanet_trains_tests_and_resumes(detcore, retinanet, compare, tmp_path):
    config = retinanet()
    assert detcore("run", config) == 0, detcore.output
    folder = config.with_suffix("")
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert {"loss", "loss_cls", "loss_bbox", "grad_norm"} <= set(log[0])
    assert "coco/bbox_mAP_50" in log[-1]

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
    assert "num_classes=80" in detcore.output
