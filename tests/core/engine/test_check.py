"""What the check of a config finds, and what it leaves alone."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from detcore.cli.main import main
from detcore.config import Config
from detcore.engine.check import CheckOptions, check_config, errors_among
from detcore.registry import MODELS

BASE = "detcore::retinanet/retinanet_r50_fpn_1x_coco.py"
NO_FILES = CheckOptions(files=False)
EVERY = ("train", "val", "test")


def config(tmp_path, text="", **overrides):
    """The shipped RetinaNet with a file of a user's own on top."""
    file = tmp_path / "mine.py"
    file.write_text(f"_base_ = ['{BASE}']\n{text}")
    return Config.fromfile(file, cfg_options=overrides)


def found(cfg, options=NO_FILES, **settings):
    """What the check says, without what it says of the untouched base for one process."""
    settings = {"processes": 8, **settings}
    chosen = CheckOptions(files=options.files, networks=options.networks, **settings)
    return [str(problem) for problem in check_config(cfg, options=chosen)]


def only(cfg, **settings):
    problems = found(cfg, **settings)
    assert len(problems) == 1, "\n".join(problems)
    return problems[0]


def test_a_shipped_config_has_nothing_wrong(tmp_path):
    assert found(config(tmp_path)) == []


def test_all_mistakes_are_told_at_once_each_with_file_and_line(tmp_path):
    text = (
        "model = dict(\n    backbone=dict(frozen_stage=1),\n"
        "    bbox_head=dict(loss_cls=dict(type='FocalLos')))\n"
        "default_hooks = dict(checkpoint=dict(intreval=2))\n"
        "env_cfg = dict(mp_cfg=dict(opencv_num_thread=0))\n"
        "train_dataloader = dict(batchsize=2)\n"
    )
    cfg = config(tmp_path, text, **{"optim_wrapper.clip_grad": {"max_nrm": 1}})
    file = str(tmp_path / "mine.py")
    expected = {
        f"{file}:3: model.backbone.frozen_stage: ": "did you mean 'frozen_stages'?",
        f"{file}:4: model.bbox_head.loss_cls: ": "did you mean 'FocalLoss'?",
        f"{file}:5: default_hooks.checkpoint.intreval: ": "did you mean 'interval'?",
        f"{file}:6: env_cfg.mp_cfg.opencv_num_thread: ": "did you mean 'opencv_num_threads'?",
        f"{file}:7: train_dataloader.batchsize: ": "did you mean 'batch_size'?",
        "--cfg-options: optim_wrapper.clip_grad.max_nrm: ": "did you mean 'max_norm'?",
    }
    problems = found(cfg)
    for where, hint in expected.items():
        told = [each for each in problems if each.startswith(where)]
        assert len(told) == 1, (where, problems)
        assert hint in told[0]


@pytest.mark.parametrize(
    ("path", "value", "hint"),
    [
        ("randomness", {"sed": 1}, "did you mean 'seed'?"),
        ("auto_scale_lr", {"enabled": True}, "did you mean 'enable'?"),
        ("log_processor", {"window_sise": 1}, "did you mean 'window_size'?"),
        ("optim_wrapper.paramwise_cfg", {"norm_decay_mul": 0}, "did you mean 'norm_decay_mult'?"),
        ("optim_wrapper.paramwise_cfg", {"custom_keys": {"backbone": {"lr_mul": 0}}}, "'lr_mult'?"),
        ("optim_wrapper.paramwise_cfg", {"custom_keys": {"bacbone": {"lr_mult": 0}}}, "'backbone'?"),
        ("optim_wrapper.acumulative_counts", 2, "did you mean 'accumulative_counts'?"),
        ("optim_wrapper.paramwise", {}, "did you mean 'paramwise_cfg'?"),
        ("optim_wrapper.optimizer.momentm", 0.9, "did you mean 'momentum'?"),
        ("param_scheduler.0.begn", 0, "did you mean 'begin'?"),
        ("default_hooks.chekpoint", {"type": "CheckpointHook"}, "did you mean 'checkpoint'?"),
        ("custom_hooks", [{"type": "NumClassCheckHok"}], "did you mean 'NumClassCheckHook'?"),
        ("train_dataloader.dataset.metainfo", {"clases": ("a",)}, "did you mean 'classes'?"),
        ("train_dataloader.dataset.metainfo", {"CLASSES": ("a",)}, "did you mean 'classes'?"),
        ("train_dataloader.dataset.filter_cfg", {"min_sise": 3}, "did you mean 'min_size'?"),
        ("train_dataloader.dataset.data_prefix", {"imgs": "x", "imh": "y"}, "did you mean 'img'?"),
        ("train_dataloader.sampler.shufle", True, "did you mean 'shuffle'?"),
        ("train_dataloader.batch_sampler.type", "AspectRatioBatchSample", "'AspectRatioBatchSampler'?"),
        ("train_dataloader.dataset.pipeline.2.scal", 1, "did you mean 'scale'?"),
        ("val_evaluator.ann_fil", "x", "did you mean 'ann_file'?"),
        ("visualizer.vis_backends.0.type", "LocalVisBacked", "did you mean 'LocalVisBackend'?"),
        ("model.data_preprocessor.sdt", [1], "did you mean 'std'?"),
        ("model.test_cfg.nms.iou_treshold", 1, "did you mean 'iou_threshold'?"),
        ("model.test_cfg.nms.type", "mns", "did you mean 'nms'?"),
        ("model.train_cfg.assigner.pos_iou_th", 1, "did you mean 'pos_iou_thr'?"),
        ("model.backbone.init_cfg.chekpoint", "x", "did you mean 'checkpoint'?"),
        ("model.backbone.norm_cfg.typ", "BN", "did you mean 'type'?"),
        ("tta_model", {"type": "DetTTAModle"}, "did you mean 'DetTTAModel'?"),
        ("compile", {"mod": "max-autotune"}, "did you mean 'mode'?"),
        ("amp", {"los_scale": 1.0}, "did you mean 'loss_scale'?"),
        ("log_level", "INFOS", "did you mean 'INFO'?"),
        ("env_cfg.mp_cfg.mp_start_method", "frk", "did you mean 'fork'?"),
        ("custom_imports", {"import": []}, "did you mean 'imports'?"),
        ("train_cfg.val_intervall", 1, "did you mean 'val_interval'?"),
        ("val_cfg", {"typ": "ValLoop"}, "did you mean 'type'?"),
        ("model_wrapper_cfg", {"type": "MMDistributedDataParallel", "find_unused_parameter": True},
         "find_unused_parameters"),
        ("param_schedule", [], "did you mean 'param_scheduler'?"),
        ("train_pipelin", [], "did you mean 'train_pipeline'?"),
        ("data_rooot", "x", "did you mean 'data_root'?"),
    ],
)  # fmt: skip
def test_a_misspelt_word_is_told_with_the_right_one(tmp_path, path, value, hint):
    assert any(hint in each for each in found(config(tmp_path, **{path: value})))


@pytest.mark.parametrize("key", ["albu_train_transforms", "my_own", "norm1", "models", "dataset_pets", "lr"])
def test_variables_of_a_users_own_are_left_alone(tmp_path, key):
    assert found(config(tmp_path, f"{key} = 3\n")) == []


class TestNamesThatNobodyHas:
    def test_each_is_told_once_and_what_follows_from_it_is_not(self, tmp_path):
        text = (
            "head = dict(type='TridentRoIHead', num_branch=3, test_branch_idx=1)\n"
            "model = dict(_delete_=True, type='TridentFasterRCNN', roi_head=head, backbone=dict(\n"
            "    type='ResNet', depth=50), train_cfg=dict(rpn=dict(assigner=dict(type='MaxIoUAssigner',\n"
            "    pos_iou_thr=0.7, neg_iou_thr=0.3))), test_cfg=dict(rpn=dict(nms=dict(type='nms'))))\n"
        )
        names = [each.partition(": there is no ")[2] for each in found(config(tmp_path, text))]
        assert sorted(names) == [
            "'TridentFasterRCNN' in MODELS: detcore does not have it yet",
            "'TridentRoIHead' in MODELS: detcore does not have it yet",
        ]

    def test_their_arguments_are_checked_all_the_same(self, tmp_path):
        text = (
            "model = dict(_delete_=True, type='QueryInst', rpn_haed=dict(type='EmbeddingRPNHead'),\n"
            "             test_cfg=dict(rcnn=dict(nmx=1)))\n"
        )
        problems = found(config(tmp_path, text))
        assert any("takes no argument 'rpn_haed'; did you mean 'rpn_head'?" in each for each in problems)
        assert any("'nmx' is not known here; did you mean 'nms'?" in each for each in problems)

    def test_a_misspelt_one_is_recognised_and_said_to_be_absent(self, tmp_path):
        cfg = config(tmp_path, **{"model.type": "TridentFasterRCN"})
        assert any(
            "did you mean 'TridentFasterRCNN'? (detcore does not have it yet)" in each for each in found(cfg)
        )


class TestClasses:
    def test_every_head_is_held_against_the_data_of_every_mode(self, tmp_path):
        told = only(config(tmp_path, "model = dict(bbox_head=dict(num_classes=3))\n"))
        assert "bbox_head.num_classes: 3 classes, but train_dataloader.dataset (CocoDataset) has 80" in told
        assert "mine.py:2:" in told

    def test_classes_are_found_inside_wrappers_and_before_those_of_the_class(self, tmp_path):
        text = (
            "meta = dict(classes=('a', 'b'))\n"
            "train_dataloader = dict(dataset=dict(_delete_=True, type='RepeatDataset', times=2,\n"
            "    dataset=dict(type='ConcatDataset',\n"
            "        datasets=[dict(type='CocoDataset', ann_file='a', metainfo=meta)])))\n"
        )
        told = only(config(tmp_path, text))
        assert "train_dataloader.dataset.dataset.datasets.0 (CocoDataset) has 2 classes (a, b)" in told

    def test_heads_in_lists_count_and_region_proposals_do_not(self, tmp_path):
        text = (
            "roi = dict(bbox_head=[dict(type='Shared2FCBBoxHead', num_classes=80),\n"
            "                      dict(type='Shared2FCBBoxHead', num_classes=20)])\n"
            "model = dict(roi_head=roi, rpn_head=dict(type='RPNHead', num_classes=1))\n"
        )
        problems = [each for each in found(config(tmp_path, text)) if "classes, but" in each]
        assert len(problems) == 1
        assert "model.roi_head.bbox_head.1.num_classes: 20 classes" in problems[0]

    def test_the_box_head_and_the_mask_head_of_mask_rcnn_are_both_named(self, tmp_path):
        file = tmp_path / "masks.py"
        heads = "dict(bbox_head=dict(num_classes=20), mask_head=dict(num_classes=20))"
        base = "_base_ = 'detcore::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'"
        file.write_text(f"{base}\nmodel = dict(roi_head={heads})\n")
        problems = [each for each in found(Config.fromfile(file)) if "classes, but" in each]
        assert [each.split(": 20 classes")[0].rpartition(" ")[2] for each in problems] == [
            "model.roi_head.bbox_head.num_classes",
            "model.roi_head.mask_head.num_classes",
        ]

    def test_one_string_is_no_tuple_of_classes(self, tmp_path):
        text = "train_dataloader = dict(dataset=dict(metainfo=dict(classes=('person'))))\n"
        assert "one class is written ('person',) with a comma" in only(config(tmp_path, text))
        problems = check_config(config(tmp_path, "classes = ('person')\n"), options=NO_FILES)
        assert [each.severity for each in problems if "letter by letter" in each.message] == ["warning"]


class TestFiles:
    def test_missing_ones_are_told_with_what_is_there_instead(self, tmp_path):
        (tmp_path / "data" / "annotations").mkdir(parents=True)
        (tmp_path / "data" / "annotations" / "instances_train2017.json").write_text("{}")
        (tmp_path / "data" / "images").mkdir()
        cfg = config(tmp_path, **{
            "data_root": f"{tmp_path}/data/",
            "train_dataloader.dataset.ann_file": "annotations/instances_train2071.json",
            "train_dataloader.dataset.proposal_file": "proposals/train.npz",
            "train_dataloader.dataset.data_prefix.img": "image/",
            "load_from": f"{tmp_path}/gone.pth",
            "model.backbone.init_cfg.checkpoint": "weights.pth",
        })  # fmt: skip
        problems = found(cfg, CheckOptions(files=True))
        text = "\n".join(problems)
        assert f"did you mean '{tmp_path}/data/annotations/instances_train2017.json'?" in text
        assert f"did you mean '{tmp_path}/data/images'?" in text
        assert f"load_from: {tmp_path}/gone.pth does not exist" in text
        assert "train_dataloader.dataset.proposal_file: " in text
        assert "model.backbone.init_cfg.checkpoint: weights.pth does not exist" in text
        # Annotations of the evaluation, which loader and metric name, are one file.
        assert sum("instances_val2017.json does not exist" in each for each in problems) == 1

    @pytest.mark.parametrize("name", ["https://x.org/a.pth", "torchvision://resnet50", "mmdet::x", "s3://b/a"])
    def test_addresses_are_not_looked_for(self, tmp_path, name):
        cfg = config(tmp_path, load_from=name, data_root="s3://bucket/")
        assert not [each for each in found(cfg, CheckOptions(files=True)) if name in each or "bucket" in each]

    def test_a_missing_root_is_told_once(self, tmp_path):
        cfg = config(tmp_path, data_root="/nowhere/", val_evaluator=None, test_evaluator=None)
        assert sum("/nowhere does not exist" in each for each in found(cfg, CheckOptions(files=True))) == 1


class TestChannels:
    def test_a_neck_is_held_against_what_its_backbone_really_gives(self, tmp_path):
        told = only(config(tmp_path, **{"model.backbone.depth": 18}))
        assert "[256, 512, 1024, 2048], but model.backbone (ResNet) gives maps of [64, 128, 256, 512]" in told
        assert "write in_channels=[64, 128, 256, 512]" in told

    def test_maps_that_are_missing_are_counted(self, tmp_path):
        assert "3 maps instead of 4" in only(config(tmp_path, **{"model.backbone.out_indices": (1, 2, 3)}))

    def test_a_head_is_held_against_its_neck(self, tmp_path):
        told = only(config(tmp_path, **{"model.neck.out_channels": 128}))
        assert "model.bbox_head.in_channels: 256 channels, but model.neck gives 128" in told


class TestVariables:
    @pytest.mark.parametrize(
        ("text", "key"),
        [
            ("train_pipeline = [dict(type='LoadImageFromFile')]", "train_dataloader.dataset.pipeline"),
            ("data_root = 'data/pets/'", "_dataloader.dataset.data_root"),
            ("dataset_type = 'BaseDetDataset'", "_dataloader.dataset.type"),
        ],
    )
    def test_one_that_is_set_after_its_use_is_warned_of(self, tmp_path, text, key):
        base = tmp_path / "base.py"
        base.write_text(Config.fromfile(BASE).pretty_text)
        file = tmp_path / "child.py"
        file.write_text(f"_base_ = './base.py'\n{text}\n")
        told = [each for each in found(Config.fromfile(file)) if "has no effect" in each]
        assert len(told) == 1
        assert f"child.py:2: {text.partition(' ')[0]}: has no effect: " in told[0]
        assert "base.py" in told[0]
        assert key in told[0]

    def test_one_that_reaches_its_place_is_not(self, tmp_path):
        cfg = config(tmp_path, data_root="/elsewhere/")
        assert found(cfg) == []

    def test_mistakes_in_the_value_of_one_are_warned_of(self, tmp_path):
        cfg = config(tmp_path, "extra_steps = [dict(type='RandomFlop', prob=0.5)]\n")
        told = check_config(cfg, options=NO_FILES)
        told = [each for each in told if each.path == "extra_steps.0"]
        assert [each.severity for each in told] == ["warning"]
        assert "did you mean 'RandomFlip'?" in str(told[0])


class TestSchedule:
    def test_the_rate_for_another_batch_size_is_warned_of_with_the_scaled_one(self, tmp_path):
        told = only(config(tmp_path), processes=1)
        assert "--auto-scale-lr makes it 0.00125, or train with --gpus 8" in told
        assert found(config(tmp_path, **{"auto_scale_lr.enable": True}), processes=1) == []

    @pytest.mark.parametrize(
        ("path", "value", "text"),
        [
            ("train_cfg.max_epochs", 10, "11 is never reached: the training ends after 10 epochs"),
            ("train_cfg.val_interval", 20, "no evaluation is ever due"),
            ("default_hooks.checkpoint.save_best", "bbox_mAP", "did you mean 'coco/bbox_mAP'?"),
        ],
    )
    def test_what_cannot_happen_in_this_training_is_warned_of(self, tmp_path, path, value, text):
        cfg = config(tmp_path, **{path: value})
        assert text in only(cfg)
        assert errors_among(check_config(cfg, options=NO_FILES)) == []

    def test_what_can_is_not(self, tmp_path):
        assert found(config(tmp_path, **{"default_hooks.checkpoint.save_best": "coco/bbox_mAP"})) == []


class TestForeignConfigs:
    def test_one_of_mmdetection_2_is_told_in_one_message(self):
        cfg = Config({
            "model": {"type": "RetinaNet", "pretrained": "torchvision://resnet50", "backbone": {"type": "X"}},
            "data": {"samples_per_gpu": 2, "train": {"type": "CocoDataset"}},
            "optimizer": {"type": "SGD", "lr": 0.1}, "lr_config": {"policy": "step"}, "total_epochs": 12,
        })  # fmt: skip
        told = only(cfg)
        assert "a config of MMDetection 2.x" in told
        for key in ("data.samples_per_gpu", "optimizer", "lr_config", "total_epochs", "model.pretrained"):
            assert key in told
        assert "docs/from-mmdetection.md" in told

    @pytest.mark.parametrize("scope", ["mmyolo", "mmrotate", 3])
    def test_a_default_scope_that_nobody_serves_is_one_clear_error(self, tmp_path, scope):
        told = only(config(tmp_path, f"default_scope = {scope!r}\n"))
        assert "default_scope: " in told
        assert "mmdet" in told

    def test_names_that_untrusted_modules_may_bring_are_not_called_wrong(self, tmp_path):
        text = "custom_imports = ['my_heads']\nmodel = dict(bbox_head=dict(type='MyRetinaHead'))\n"
        result = CliRunner().invoke(main, ["check", _written(tmp_path, text), "--no-files"])
        assert result.exit_code == 1
        assert result.output.count("--trust-config") == 2
        assert "'MyRetinaHead' is unknown: custom_imports may bring it" in result.output
        assert "did you mean" not in result.output


@pytest.mark.parametrize("key", sorted(Config.fromfile(BASE)))
@pytest.mark.parametrize("value", [None, 3, "x", [], [1, [2]], {}, {"type": 3}, {"type": None, "a": {}}])
def test_any_nonsense_in_place_of_a_setting_gives_problems_and_no_crash(key, value):
    cfg = Config(Config.fromfile(BASE).to_dict())
    cfg[key] = value
    check_config(cfg, EVERY, CheckOptions(networks=False))


@pytest.mark.parametrize("path", [
    "model.backbone", "model.neck", "model.bbox_head", "model.train_cfg", "model.bbox_head.anchor_generator",
    "train_dataloader.dataset", "train_dataloader.dataset.pipeline", "optim_wrapper.optimizer",
    "default_hooks.checkpoint", "train_dataloader.dataset.metainfo", "auto_scale_lr.base_batch_size",
])  # fmt: skip
@pytest.mark.parametrize("value", [None, 3, "x", [1], {"type": []}, {3: 4}, [[{"type": "X"}]]])
def test_nor_does_nonsense_further_inside(path, value):
    cfg = Config(Config.fromfile(BASE).to_dict())
    *outer, last = path.split(".")
    owner = cfg
    for key in outer:
        owner = owner[key]
    owner[last] = value
    check_config(cfg, EVERY, CheckOptions())


def _written(tmp_path, text):
    file = tmp_path / "mine.py"
    file.write_text(f"_base_ = ['{BASE}']\n{text}")
    return str(file)


class TestCommand:
    def test_exit_status_and_summary(self, tmp_path):
        def check(*arguments):
            return CliRunner().invoke(main, ["check", *arguments, "--no-files"])

        good = check(BASE, "--gpus", "8")
        assert (good.exit_code, good.output) == (0, f"{BASE}: no errors, no warnings\n")
        warned = check(BASE)
        assert warned.exit_code == 0
        assert "warning: detcore::" in warned.output
        bad = check(_written(tmp_path, "model = dict(backbon=1)\n"))
        assert bad.exit_code == 1
        assert bad.output.splitlines()[0].startswith(f"{tmp_path}/mine.py:2: model.backbon: ")
        assert bad.output.splitlines()[-1].endswith("1 error, 1 warning")
        assert check("nowhere.py").exit_code == 2

    def test_modes_can_be_chosen(self, tmp_path):
        text = "test_evaluator = dict(type='CocoMetrik')\n"
        arguments = ["check", _written(tmp_path, text), "--no-files", "--for", "train", "--for", "val"]
        assert CliRunner().invoke(main, arguments).exit_code == 0

    def test_json_says_the_same(self, tmp_path):
        text = "model = dict(backbon=1)\n"
        result = CliRunner().invoke(main, ["check", _written(tmp_path, text), "--no-files", "--json"])
        first = json.loads(result.output)[0]
        assert first["severity"] == "error"
        assert first["where"] == f"{tmp_path}/mine.py:2"
        assert first["path"] == "model.backbon"
        assert first["suggestion"] == "did you mean 'backbone'?"

    def test_trusted_modules_are_imported_and_what_they_bring_is_known(self, tmp_path, monkeypatch):
        (tmp_path / "check_my_head.py").write_text(
            "from det_models.retinanet import RetinaHead\nfrom detcore.registry import MODELS\n"
            "@MODELS.register_module()\nclass CheckMyHead(RetinaHead):\n    pass\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        text = "custom_imports = ['check_my_head']\nmodel = dict(bbox_head=dict(type='CheckMyHead'))\n"
        arguments = ["check", _written(tmp_path, text), "--no-files", "--trust-config", "--gpus", "8"]
        try:
            result = CliRunner().invoke(main, arguments)
        finally:
            MODELS.forget(lambda scope, made: made.where.startswith("check_my_head:"))
            sys.modules.pop("check_my_head", None)
        assert result.exit_code == 0, result.output

    def test_run_stops_on_the_same_errors_before_anything_is_built(self, tmp_path):
        file = _written(tmp_path, "model = dict(bbox_head=dict(num_classes=3))\ndata_root = 'gone/'\n")
        result = CliRunner().invoke(main, ["run", file, "--work-dir", str(tmp_path / "work")])
        assert result.exit_code == 2
        assert f"{file}:2: model.bbox_head.num_classes: 3 classes" in result.output
        assert "gone does not exist" in result.output
        assert not (tmp_path / "work").exists()


@pytest.mark.slow
def test_a_check_takes_little_longer_than_importing_what_it_stands_on(tmp_path):
    def seconds(*command):
        before = os.times()
        subprocess.run([sys.executable, *command], check=False, cwd=tmp_path, capture_output=True)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    stands_on = "import torch, cv2"
    seconds("-c", stands_on)  # the first reads the files
    assert seconds("-m", "detcore", "check", BASE) < seconds("-c", stands_on) + 2


def test_every_shipped_config_is_right(root):
    for file in sorted(Path(root / "configs").glob("*/*.py")):
        cfg = Config.fromfile(file)
        if "model" in cfg and "train_dataloader" in cfg:
            problems = errors_among(check_config(cfg, options=CheckOptions(files=False, networks=False)))
            assert not problems, (file, problems)
