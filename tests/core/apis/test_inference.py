import copy
import json
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from detcore.apis import DetInferencer, inference_detector, init_detector
from detcore.apis.inferencer import _namer
from detcore.apis.pipeline import ImagePipeline, transform_configs
from detcore.apis.sources import iterate_images
from detcore.config import Config
from detcore.engine.checkpoint import save_checkpoint
from detcore.errors import CheckpointError, ConfigError, DataError
from detcore.testing import tiny_coco

CONFIG = {
    "default_scope": "detcore",
    "model": {
        "type": "RetinaNet",
        "data_preprocessor": {"type": "DetDataPreprocessor", "mean": [0.0] * 3, "std": [255.0] * 3,
                              "pad_size_divisor": 32},
        "backbone": {"type": "ResNet", "depth": 18, "base_channels": 8, "norm_eval": True},
        "neck": {"type": "FPN", "in_channels": [8, 16, 32, 64], "out_channels": 8, "start_level": 1,
                 "add_extra_convs": "on_input", "num_outs": 5},
        "bbox_head": {"type": "RetinaHead", "num_classes": 2, "in_channels": 8, "feat_channels": 8,
                      "stacked_convs": 1},
        "train_cfg": {"assigner": {"type": "MaxIoUAssigner", "pos_iou_thr": 0.5, "neg_iou_thr": 0.4}},
        "test_cfg": {"nms_pre": 50, "score_thr": 0.0, "nms": {"type": "nms", "iou_threshold": 0.5},
                     "max_per_img": 5},
    },
    "test_dataloader": {
        "dataset": {
            "type": "CocoDataset",
            "metainfo": {"classes": ("cat", "dog")},
            "pipeline": [
                {"type": "LoadImageFromFile"},
                {"type": "Resize", "scale": (128, 96), "keep_ratio": True},
                {"type": "LoadAnnotations", "with_bbox": True},
                {"type": "PackDetInputs"},
            ],
        }
    },
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    tiny_coco(folder, num=3)
    return folder / "images"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    logging.getLogger("detcore.apis").setLevel(logging.ERROR)
    model = init_detector(Config(CONFIG))
    path = tmp_path_factory.mktemp("weights") / "model.pth"
    meta = {"dataset_meta": {"classes": ("red", "blue"), "palette": [(255, 0, 0), (0, 0, 255)]},
            "cfg": Config(CONFIG).pretty_text}
    save_checkpoint(path, {"state_dict": model.state_dict(), "meta": meta})
    return path


@pytest.fixture(scope="module")
def model(checkpoint):
    return init_detector(Config(CONFIG), checkpoint)


def boxes(sample):
    return sample.pred_instances.bboxes


def test_a_detector_knows_its_config_and_the_classes_it_was_trained_on(model):
    assert not model.training
    assert model.dataset_meta["classes"] == ("red", "blue")
    assert model.dataset_meta["palette"] == [(255, 0, 0), (0, 0, 255)]
    assert model.cfg.model.neck.type == "FPN"


def test_without_a_checkpoint_the_classes_are_the_configs_and_a_warning_says_that_weights_are_random(caplog):
    with caplog.at_level(logging.WARNING, logger="detcore.apis"):
        fresh = init_detector(Config(CONFIG))
    assert fresh.dataset_meta["classes"] == ("cat", "dog")
    assert "weights are random" in caplog.text


def test_old_checkpoints_with_capital_keys_and_data_sets_with_known_classes_are_understood(tmp_path, model):
    path = tmp_path / "old.pth"
    save_checkpoint(path, {"state_dict": model.state_dict(), "meta": {"CLASSES": ["a", "b"]}})
    assert init_detector(Config(CONFIG), path).dataset_meta["classes"] == ("a", "b")
    cfg = copy.deepcopy(CONFIG)
    del cfg["test_dataloader"]["dataset"]["metainfo"]
    bare = tmp_path / "bare.pth"
    save_checkpoint(bare, dict(model.state_dict()))
    assert len(init_detector(Config(cfg), bare).dataset_meta["classes"]) == 80


def test_the_callers_config_is_left_as_it_is(model):
    cfg = Config(CONFIG)
    before = copy.deepcopy(cfg.to_dict())
    init_detector(cfg, cfg_options={"model.test_cfg.max_per_img": 2})
    assert cfg.to_dict() == before


def test_cfg_options_reach_the_model(images, checkpoint):
    few = init_detector(Config(CONFIG), checkpoint, cfg_options={"model.test_cfg.max_per_img": 2})
    assert len(boxes(inference_detector(few, images / "000001.jpg"))) == 2


def test_a_checkpoint_for_other_classes_is_refused_with_keys_and_shapes(checkpoint):
    with pytest.raises(CheckpointError, match=r"(?s)retina_cls.*number of classes") as caught:
        init_detector(Config(CONFIG), checkpoint, cfg_options={"model.bbox_head.num_classes": 3})
    assert str(checkpoint) in str(caught.value)


def test_a_missing_checkpoint_and_a_misspelt_config_name_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint.*gone\.pth"):
        init_detector(Config(CONFIG), tmp_path / "gone.pth")
    with pytest.raises(ConfigError, match="retinanet_r18_fpn_shapes"):
        init_detector("retinanet_r18_fpn_shape")
    with pytest.raises(ConfigError, match="no `model`"):
        init_detector(Config({"a": 1}))
    with pytest.raises(ConfigError, match="path or a Config"):
        init_detector(3)


def test_file_array_and_list_give_the_same_predictions_in_any_order(images, model):
    """Predicting an array must not change what the next path is read with."""
    path = images / "000002.jpg"
    array = cv2.imread(str(path))
    before = copy.deepcopy(model.cfg.to_dict())
    first = boxes(inference_detector(model, array))
    second = boxes(inference_detector(model, str(path)))
    both = inference_detector(model, [path, array])
    assert model.cfg.to_dict() == before
    assert torch.equal(first, second)
    assert all(torch.equal(boxes(one), first) for one in both)
    assert isinstance(both, list)
    assert inference_detector(model, []) == []


def test_boxes_are_in_pixels_of_the_original_image(images, model):
    found = boxes(inference_detector(model, images / "000001.jpg"))
    assert found.shape == (5, 4)
    assert found[:, 0::2].max() <= 64 + 1e-3
    assert found[:, 1::2].max() <= 48 + 1e-3


def test_a_grey_array_is_an_image_too(model):
    grey = np.zeros((48, 64, 3), np.uint8)
    assert len(boxes(inference_detector(model, grey))) == 5


def test_a_pipeline_may_be_brought_along(images, model):
    path = images / "000001.jpg"
    steps = transform_configs(model.cfg)
    steps[1] = {"type": "Resize", "scale": (64, 48), "keep_ratio": True}
    other = inference_detector(model, path, test_pipeline=steps)
    assert other.img_shape == (48, 64)
    ready = ImagePipeline(steps)
    assert torch.equal(boxes(inference_detector(model, path, ready)), boxes(other))


def test_the_test_pipeline_is_found_below_wrappers_and_named_when_missing():
    pipeline = CONFIG["test_dataloader"]["dataset"]["pipeline"]
    inner = {"type": "CocoDataset", "pipeline": pipeline}
    repeated = {"type": "RepeatDataset", "dataset": inner}
    joined = {"type": "ConcatDataset", "datasets": [inner]}
    for dataset in (repeated, joined):
        assert transform_configs(Config({"val_dataloader": {"dataset": dataset}})) == pipeline
    assert transform_configs(Config({"test_pipeline": pipeline})) == pipeline
    with pytest.raises(ConfigError, match=r"test_dataloader\.dataset\.pipeline"):
        transform_configs(Config({"x": 1}))


def test_a_pipeline_that_does_not_pack_is_named(images, model):
    with pytest.raises(ConfigError, match="PackDetInputs"):
        inference_detector(model, images / "000001.jpg", [{"type": "LoadImageFromFile"}])


def test_folder_pattern_array_list_and_generator_are_all_images(images):
    names = ["000001.jpg", "000002.jpg", "000003.jpg"]
    (images / "notes.txt").write_text("no picture")
    assert [path.name for path in iterate_images(images)] == names
    assert [path.name for path in iterate_images(str(images / "*2.jpg"))] == names[1:2]
    assert [path.name for path in iterate_images(str(images.parent / "**" / "*.jpg"))] == names
    array = np.zeros((4, 5, 3), np.uint8)
    assert len(list(iterate_images(array))) == 1
    assert len(list(iterate_images(np.zeros((2, 4, 5, 3), np.uint8)))) == 2
    assert len(list(iterate_images([images, array, str(images / "000001.jpg")]))) == 5
    assert len(list(iterate_images(path for path in images.glob("*.jpg")))) == 3


def test_what_is_no_image_is_named(images, tmp_path):
    for wrong, said in ((tmp_path, "has no image"), (str(images / "*.gif"), "fits the pattern"),
                        (3, "got int"), (np.zeros(3), "array")):
        with pytest.raises(DataError, match=said):
            list(iterate_images(wrong))


def test_many_files_are_taken_one_batch_at_a_time(images, model):
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield images / "000001.jpg"

    stream = DetInferencer(model).iterate(endless(), batch_size=2)
    next(stream)
    assert len(taken) == 2
    next(stream)
    next(stream)
    assert len(taken) == 4


def test_batches_and_single_images_find_the_same(images, model):
    inferencer = DetInferencer(model)
    single = inferencer(images, batch_size=1)["predictions"]
    batch = inferencer(images, batch_size=2)["predictions"]
    assert [one["img_path"] for one in batch] == [str(images / f"00000{n}.jpg") for n in (1, 2, 3)]
    for one, other in zip(single, batch, strict=True):
        np.testing.assert_allclose(one["scores"], other["scores"], atol=1e-4)
        assert one.keys() == {"img_path", "bboxes", "scores", "labels"}


def test_pictures_and_results_are_written_where_asked(images, model, tmp_path):
    inferencer = DetInferencer(model)
    result = inferencer(images, out_dir=tmp_path, no_save_pred=False, return_vis=True, pred_score_thr=0.0)
    assert sorted(path.name for path in (tmp_path / "vis").iterdir()) == [f"00000{n}.jpg" for n in (1, 2, 3)]
    assert json.loads((tmp_path / "preds" / "000001.json").read_text()) == result["predictions"][0]
    assert len(result["visualization"]) == 3
    assert result["visualization"][0].shape == (48, 64, 3)
    assert cv2.imread(str(tmp_path / "vis" / "000001.jpg")).shape == (48, 64, 3)


def test_nothing_is_written_or_drawn_unasked(images, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = DetInferencer(model)(images, return_datasamples=True)
    assert result["visualization"] == []
    assert boxes(result["predictions"][0]).shape == (5, 4)
    assert list(tmp_path.iterdir()) == []


def test_an_unreadable_image_is_named_and_on_wish_skipped(images, model, tmp_path, caplog):
    broken, missing = tmp_path / "broken.jpg", tmp_path / "missing.jpg"
    broken.write_bytes(b"not a picture")
    inputs = [broken, images / "000001.jpg", missing]
    inferencer = DetInferencer(model)
    with pytest.raises(DataError, match=r"broken\.jpg"):
        inferencer(inputs)
    with caplog.at_level(logging.WARNING, logger="detcore.apis"):
        result = inferencer(inputs, batch_size=2, on_bad_image="skip")
    assert len(result["predictions"]) == 1
    assert result["skipped"] == [str(broken), str(missing)]
    assert "broken.jpg" in caplog.text


def test_unusable_arguments_are_refused(images, model):
    with pytest.raises(ConfigError, match="batch_size"):
        DetInferencer(model)(images, batch_size=0)
    with pytest.raises(ConfigError, match="on_bad_image"):
        DetInferencer(model)(images, on_bad_image="ignore")
    with pytest.raises(ConfigError, match="needs a model"):
        DetInferencer()


def test_weights_that_carry_their_config_are_enough(images, checkpoint, tmp_path, model):
    inferencer = DetInferencer(weights=checkpoint, device="cpu")
    assert len(inferencer(images / "000001.jpg")["predictions"][0]["bboxes"]) == 5
    bare = tmp_path / "bare.pth"
    save_checkpoint(bare, {"state_dict": model.state_dict()})
    with pytest.raises(ConfigError, match="does not carry its config"):
        DetInferencer(weights=bare)


def test_results_of_files_with_one_name_do_not_overwrite_each_other():
    name = _namer()
    assert [name("a/x.jpg"), name("b/x.png"), name("c/y.jpg"), name(None), name(None)] == [
        "x", "x_2", "y", "00000000", "00000001"]


def test_pictures_keep_a_suffix_that_can_be_written(images, model, tmp_path):
    for name in ("a.png", "b.jfif"):
        picture = cv2.imread(str(images / "000001.jpg"))
        encoded = cv2.imencode(".png" if name == "a.png" else ".jpg", picture)[1]
        (tmp_path / name).write_bytes(encoded.tobytes())
    DetInferencer(model)(tmp_path, out_dir=tmp_path / "out")
    assert sorted(path.name for path in Path(tmp_path / "out" / "vis").iterdir()) == ["a.png", "b.jpg"]
