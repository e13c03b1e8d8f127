"""Several views of an image, predicted and merged."""

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from det_models.tta import DetTTAModel, TTACfg
from torch import nn

from detcore.cli.main import main
from detcore.config import Config, shipped_configs
from detcore.data import collate_lists
from detcore.engine.checkpoint import save_checkpoint
from detcore.engine.evaluation_loops import predict_step
from detcore.engine.tta import use_tta
from detcore.errors import ConfigError, DataError
from detcore.registry import HOOKS, MODELS, TRANSFORMS
from detcore.structures import DetDataSample, InstanceData
from detcore.testing import tiny_coco

FLIPS = [
    {"type": "RandomFlip", "prob": prob, "direction": direction}
    for prob, direction in ((1.0, "horizontal"), (1.0, "vertical"), (1.0, "diagonal"), (0.0, "horizontal"))
]
PACK = {
    "type": "PackDetInputs",
    "meta_keys": ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "flip", "flip_direction"),
}
SIZES = [{"type": "Resize", "scale": size, "keep_ratio": True} for size in ((80, 60), (160, 120), (240, 180))]
BOX = [16.0, 12.0, 40.0, 36.0]


class SeesWhite(nn.Module):
    """A detector that finds the one white rectangle, wherever and however large a view shows it."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def data_preprocessor(self, data, training):
        return data

    def forward(self, inputs, data_samples, mode):
        for image, sample in zip(inputs, data_samples, strict=True):
            rows, columns = (image[0] > 127).nonzero().unbind(1)
            found = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
            boxes = found[None] / torch.tensor([*sample.scale_factor, *sample.scale_factor])
            self.seen.append((tuple(image.shape[1:]), sample.flip_direction))
            sample.pred_instances = InstanceData(
                bboxes=boxes, scores=torch.tensor([0.5 + len(self.seen) / 100]), labels=torch.tensor([2])
            )
        return data_samples


@pytest.fixture
def picture():
    """An image of 80x60 pixels, black but for a white rectangle."""
    image = np.zeros((60, 80, 3), np.uint8)
    image[12:36, 16:40] = 255
    return {
        "img": image, "img_shape": (60, 80), "ori_shape": (60, 80), "img_id": 7, "img_path": "a.png",
        "scale_factor": (1.0, 1.0),
    }  # fmt: skip


def views(results, *steps):
    return TRANSFORMS.build({"type": "TestTimeAug", "transforms": list(steps)})(results)


def test_all_combinations_become_views(picture):
    made = views(picture, SIZES, FLIPS, [PACK])
    assert set(made) == {"inputs", "data_samples"}
    assert [tuple(view.shape) for view in made["inputs"]] == [
        (3, height, width) for height, width in ((60, 80), (120, 160), (180, 240)) for _ in range(4)
    ]
    drawn = [sample.flip_direction for sample in made["data_samples"]]
    assert drawn == ["horizontal", "vertical", "diagonal", None] * 3
    assert picture["img"].shape == (60, 80, 3)


@pytest.mark.parametrize("steps", [[], [[]], [{"type": "RandomFlip", "prob": 1.0}], [FLIPS, []]])
def test_every_step_needs_an_alternative(steps):
    with pytest.raises(ValueError, match="list of lists"):
        TRANSFORMS.build({"type": "TestTimeAug", "transforms": steps})


def test_no_view_may_be_refused(picture):
    refuse = {"type": "FilterAnnotations", "min_gt_bbox_wh": (1, 1), "keep_empty": True}
    empty = {**picture, "gt_bboxes": np.zeros((1, 4), np.float32), "gt_bboxes_labels": np.zeros(1, np.int64)}
    with pytest.raises(DataError, match=r"view 0 of a\.png was refused"):
        views(empty, [refuse], [PACK])


def test_sizes_and_mirrorings_map_back_exactly(picture):
    detector = SeesWhite()
    model = MODELS.build(
        {"type": "DetTTAModel", "module": detector, "tta_cfg": {"nms": {"type": "nms", "iou_threshold": 1.0}}}
    )
    batch = collate_lists([views(picture, SIZES, FLIPS, [PACK]), views(picture, SIZES, FLIPS, [PACK])])
    found = predict_step(model, batch)
    assert len(found) == 2
    assert len(detector.seen) == 24
    for sample in found:
        assert sample.pred_instances.bboxes.tolist() == [BOX] * 12
        assert sample.pred_instances.labels.tolist() == [2] * 12
        assert sample.flip is False


def test_views_that_agree_are_one_detection_with_the_highest_score(picture):
    model = DetTTAModel(SeesWhite())
    (found,) = predict_step(model, collate_lists([views(picture, SIZES, FLIPS, [PACK])]))
    assert found.pred_instances.bboxes.tolist() == [BOX]
    assert found.pred_instances.scores.tolist() == pytest.approx([0.62])
    assert (found.img_id, found.scale_factor) == (7, (1.0, 1.0))


def view(boxes, scores, labels, flip=None, shape=(100, 200)):
    sample = DetDataSample(metainfo={"ori_shape": shape, "flip": flip is not None, "flip_direction": flip})
    sample.pred_instances = InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), scores=torch.tensor(scores),
        labels=torch.tensor(labels, dtype=torch.long),
    )  # fmt: skip
    return sample


def test_boxes_merge_as_computed_by_hand():
    # 200 wide, 100 high. Mirrored back, the second view's boxes are (10, 10, 50, 50), which overlaps the
    # first view's (10, 10, 50, 46) by 0.9, and (100, 0, 140, 40) of another class than the first view's.
    first = view([[10, 10, 50, 46], [100, 0, 140, 40]], [0.6, 0.9], [0, 1])
    second = view([[150, 10, 190, 50], [60, 0, 100, 40]], [0.8, 0.3], [0, 0], "horizontal")
    # Mirrored both ways: (50, 60, 90, 100).
    third = view([[110, 0, 150, 40]], [0.5], [0], "diagonal")
    model = DetTTAModel(nn.Identity(), TTACfg(max_per_img=3))
    (merged,) = model.merge_preds([[second, first, third]])
    assert merged is first
    found = merged.pred_instances
    assert found.bboxes.tolist() == [[100, 0, 140, 40], [10, 10, 50, 50], [50, 60, 90, 100]]
    assert found.scores.tolist() == pytest.approx([0.9, 0.8, 0.5])
    assert found.labels.tolist() == [1, 0, 0]


def test_no_detection_in_any_view_is_none_in_all():
    nothing = ([], torch.zeros(0).tolist(), [])
    (merged,) = DetTTAModel(nn.Identity()).merge_preds([[view(*nothing), view(*nothing, "vertical")]])
    assert len(merged.pred_instances) == 0
    assert merged.pred_instances.bboxes.shape == (0, 4)


def test_the_settings_of_the_manual_and_their_mistakes():
    # The manual writes max_per_img among the arguments of nms.
    cfg = {"nms": {"type": "nms", "iou_threshold": 0.4, "max_per_img": 7}}
    model = MODELS.build({"type": "DetTTAModel", "module": SeesWhite(), "tta_cfg": cfg})
    assert (model.tta_cfg.nms, model.tta_cfg.max_per_img) == ({"type": "nms", "iou_threshold": 0.4}, 7)
    assert cfg["nms"]["max_per_img"] == 7
    with pytest.raises(ValueError, match="max_per_img must be at least 1, got 0"):
        TTACfg(max_per_img=0)


def test_what_cannot_be_merged_is_refused(picture):
    model = DetTTAModel(SeesWhite())
    plain = TRANSFORMS.build({"type": "Compose", "transforms": [FLIPS[3], PACK]})(dict(picture))
    with pytest.raises(ConfigError, match="needs a TestTimeAug"):
        predict_step(model, collate_lists([plain]))
    unflipped = views(picture, SIZES, [PACK])
    with pytest.raises((ConfigError, AttributeError), match="flip"):
        predict_step(model, collate_lists([unflipped]))
    masked = view([[0, 0, 1, 1]], [0.5], [0])
    masked.pred_instances.masks = torch.zeros(1, 100, 200)
    with pytest.raises(ConfigError, match="boxes only"):
        model.merge_preds([[masked]])
    with pytest.raises(ValueError, match="only predicts"):
        model([], [], mode="loss")


def test_one_view_as_it_is_predicts_what_the_detector_predicts(fill_by_name, batch_statistics):
    config = Config.fromfile("detcore::retinanet/retinanet_r18_fpn_1x_coco.py")
    config.model.backbone.init_cfg = None
    config.model.test_cfg.score_thr = 0.0
    detector = batch_statistics(fill_by_name(MODELS.build(config.model, default_scope="mmdet")), False)
    image = np.random.default_rng(0).integers(0, 256, (96, 128, 3)).astype(np.uint8)
    results = {"img": image, "img_shape": (96, 128), "ori_shape": (48, 64), "scale_factor": (2.0, 2.0)}
    as_it_is = [[{"type": "RandomFlip", "prob": 0.0}], [PACK]]
    plain = TRANSFORMS.build({"type": "Compose", "transforms": [step[0] for step in as_it_is]})(dict(results))
    merger = MODELS.build({**config.tta_model, "module": detector}, default_scope="mmdet")
    with torch.no_grad():
        (expected,) = predict_step(detector, collate_lists([plain]))
        (found,) = predict_step(merger, collate_lists([views(results, *as_it_is)]))
    assert len(expected.pred_instances) == 100
    for key in ("bboxes", "scores", "labels"):
        assert torch.equal(found.pred_instances[key], expected.pred_instances[key])


def test_the_model_is_wrapped_for_the_time_of_the_test():
    runner = SimpleNamespace(model=SeesWhite(), parts=SimpleNamespace(scope="mmdet"))
    detector = runner.model
    hook = HOOKS.build({"type": "PrepareTTAHook", "tta_cfg": {"type": "DetTTAModel"}})
    for _ in range(2):
        hook.before_test(runner)
        assert isinstance(runner.model, DetTTAModel)
        assert runner.model.module is detector
        hook.after_test(runner)
        assert runner.model is detector


def test_tta_reaches_the_data_sets_inside_of_wrappers():
    pipeline = [{"type": "LoadImageFromFile"}, {"type": "mmdet.PackDetInputs"}]
    leaf = {"type": "CocoDataset", "pipeline": pipeline}
    several = {"type": "ConcatDataset", "datasets": [leaf, {"type": "RepeatDataset", "dataset": dict(leaf)}]}
    cfg = Config({"test_dataloader": {"dataset": several}, "custom_hooks": [{"type": "EmptyCacheHook"}]})
    use_tta(cfg)
    first, second = cfg.test_dataloader.dataset.datasets
    for data in (first, second.dataset):
        load, views_of = data.pipeline
        assert load == {"type": "LoadImageFromFile"}
        assert [step["prob"] for step in views_of["transforms"][0]] == [1.0, 0.0]
        assert {"flip", "flip_direction", "ori_shape"} <= set(views_of["transforms"][1][0]["meta_keys"])
    assert [hook["type"] for hook in cfg.custom_hooks] == ["EmptyCacheHook", "PrepareTTAHook"]
    assert cfg.custom_hooks[1]["tta_cfg"]["tta_cfg"]["max_per_img"] == 100


@pytest.mark.parametrize(("cfg", "message"), [
    ({}, "needs test_dataloader"),
    ({"test_dataloader": {"dataset": {"pipeline": []}}}, "last step is None"),
    ({"test_dataloader": {"dataset": {"pipeline": [{"type": "Resize"}]}}}, "last step is 'Resize'"),
])  # fmt: skip
def test_tta_without_anything_to_make_views_from_is_refused(cfg, message):
    with pytest.raises(ConfigError, match=message):
        use_tta(Config(cfg))


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """A drawn data set, a config that tests on it, and a checkpoint."""
    folder = tmp_path_factory.mktemp("tta")
    annotations = tiny_coco(folder / "data", num=3, image_size=(96, 72))
    config = Config.fromfile(shipped_configs() / "shapes" / "retinanet_r18_fpn_shapes.py")
    names = tuple(category["name"] for category in json.loads(annotations.read_text())["categories"])
    data = config.test_dataloader.dataset
    data.update(ann_file=str(annotations), data_root="", data_prefix={"img": str(folder / "data" / "images")})
    data.metainfo.classes = names
    config.model.bbox_head.num_classes = len(names)
    config.test_evaluator.ann_file = str(annotations)
    for key in ("train_dataloader", "val_dataloader", "train_cfg", "val_cfg", "val_evaluator"):
        config[key] = None
    config["optim_wrapper"] = config["param_scheduler"] = config["channels_last"] = None
    config["work_dir"] = str(folder / "work")
    config["randomness"] = {"seed": 0}
    torch.manual_seed(0)
    detector = MODELS.build(config.model, default_scope=config.get("default_scope"))
    save_checkpoint(folder / "model.pth", {"state_dict": detector.state_dict(), "meta": {}})
    return folder, config


def run_test(shapes, tmp_path, *options, **changes):
    folder, config = shapes
    path = tmp_path / "config.py"
    Config({**config.to_dict(), **changes}).dump(path)
    arguments = ["test", path, folder / "model.pth", "--device", "cpu", *options]
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command_evaluates_with_the_views_of_the_config(shapes, tmp_path, caplog):
    _, config = shapes
    load = config.test_dataloader.dataset.pipeline[0]
    merging = {"nms": {"type": "nms", "iou_threshold": 0.6}, "max_per_img": 5}
    model = {"type": "DetTTAModel", "tta_cfg": merging}
    pipeline = [load, {"type": "TestTimeAug", "transforms": [SIZES[:2], FLIPS[2:], [PACK]]}]
    out = tmp_path / "found.json"
    result = run_test(shapes, tmp_path, "--tta", "--out", out, tta_model=model, tta_pipeline=pipeline)
    assert result.exit_code == 0, result.output
    assert "coco/bbox_mAP" in result.output
    assert "the config has no" not in caplog.text
    found = json.loads(out.read_text())
    assert len(found) == 3
    labels = itertools.chain.from_iterable(image["labels"] for image in found)
    assert 0 < len(list(labels)) <= 3 * 5


def test_the_command_mirrors_where_the_config_has_no_views(shapes, tmp_path, caplog):
    result = run_test(shapes, tmp_path, "--tta")
    assert result.exit_code == 0, result.output
    assert "coco/bbox_mAP" in result.output
    assert "the config has no tta_pipeline" in caplog.text


def test_a_mistake_in_tta_model_stops_the_test_before_it_begins(shapes, tmp_path):
    model = {"type": "DetTTAModel", "tta_cfg": {"nmss": {}}}
    result = run_test(shapes, tmp_path, "--tta", tta_model=model)
    assert result.exit_code != 0
    assert "tta_cfg.nmss" in str(result.exception) + result.output
