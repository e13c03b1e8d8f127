"""The small functions that stand in for mmengine's and mmcv's."""

import io
import logging

import cv2
import numpy as np
import pytest
import torch
from det_mmdet import checkpoints, dist, files, helpers, images, logs, mmcv, mmengine

from detcore.errors import DataError
from detcore.structures import InstanceData


@pytest.mark.parametrize("name", ["a.json", "a.yaml", "b/c.yml"])
def test_plain_data_survives_a_file(tmp_path, name):
    data = {"a": [1, 2.5, None, "é"], "b": {"c": True}}
    files.dump(data, tmp_path / name)
    assert files.load(tmp_path / name) == data
    text = files.dump(data, file_format="json")
    assert files.load(io.StringIO(text), file_format="json") == data


def test_numpy_and_sets_become_json(tmp_path):
    data = {"a": np.float32(0.5), "b": np.arange(3), "c": {1}, "d": torch.ones(2)}
    files.dump(data, tmp_path / "a.json")
    assert files.load(tmp_path / "a.json") == {"a": 0.5, "b": [0, 1, 2], "c": [1], "d": [1.0, 1.0]}


@pytest.mark.parametrize("name", ["a.pkl", "a.pickle"])
def test_pickles_are_neither_read_nor_written(tmp_path, name):
    with pytest.raises(DataError, match="can run code"):
        files.load(tmp_path / name)
    with pytest.raises(DataError, match="can run code"):
        files.dump({}, tmp_path / name)
    assert not (tmp_path / name).exists()


def test_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "broken.json").write_text("{")
    for name, why in (("no.json", "No such file"), ("broken.json", "Expecting"), ("a.txt", "format 'txt'")):
        with pytest.raises(DataError, match=rf"{name}.*{why}"):
            files.load(tmp_path / name)
    with pytest.raises(DataError, match="no plain data"):
        files.dump({"a": object()}, tmp_path / "a.json")
    assert not (tmp_path / "a.json").exists()


def test_lines_and_words_of_text_files(tmp_path):
    (tmp_path / "a.txt").write_text("one 1\r\ntwo 2 3\n")
    assert files.list_from_file(tmp_path / "a.txt") == ["one 1", "two 2 3"]
    assert files.list_from_file(tmp_path / "a.txt", prefix="x ", offset=1, max_num=1) == ["x two 2 3"]
    assert files.dict_from_file(tmp_path / "a.txt") == {"one": "1", "two": ["2", "3"]}
    (tmp_path / "a.txt").write_text("one\n")
    with pytest.raises(DataError, match=r"a\.txt:1: a key and at least one value"):
        files.dict_from_file(tmp_path / "a.txt")


def test_folders(tmp_path):
    files.mkdir_or_exist(tmp_path / "b" / "c")
    for name in ("a.TXT", ".hidden.txt", "b/d.txt", "b/e.jpg"):
        (tmp_path / name).touch()
    assert list(files.scandir(tmp_path, ".txt")) == []
    assert list(files.scandir(tmp_path, ".txt", recursive=True, case_sensitive=False)) == ["a.TXT", "b/d.txt"]
    files.check_file_exist(tmp_path / "a.TXT")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        files.check_file_exist(tmp_path / "b")


def picture():
    return np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)


def test_pictures_survive_a_file(tmp_path):
    images.imwrite(picture(), tmp_path / "new" / "a.png")
    np.testing.assert_array_equal(images.imread(tmp_path / "new" / "a.png"), picture())
    rgb = images.imread(tmp_path / "new" / "a.png", channel_order="rgb")
    np.testing.assert_array_equal(rgb, picture()[..., ::-1])
    data = (tmp_path / "new" / "a.png").read_bytes()
    assert images.imfrombytes(data, flag="grayscale").shape == (6, 9)
    assert images.imread(picture()).shape == (6, 9, 3)
    with pytest.raises(DataError, match=r"no\.png"):
        images.imread(tmp_path / "no.png")
    with pytest.raises(DataError, match=r"a\.nonsense"):
        images.imwrite(picture(), tmp_path / "a.nonsense")


def test_sizes_are_width_and_height():
    resized, w, h = images.imresize(picture(), (18, 3), return_scale=True)
    assert (resized.shape, w, h) == ((3, 18, 3), 2.0, 0.5)
    assert images.imrescale(picture(), 2.0).shape == (12, 18, 3)
    fitted, factor = images.imrescale(picture(), (3, 100), return_scale=True)
    assert (fitted.shape, factor) == ((3, 5, 3), 0.5)
    with pytest.raises(ValueError, match="interpolation must be one of"):
        images.imresize(picture(), (2, 2), interpolation="cubic")


def test_pictures_are_mirrored_cropped_padded_and_turned():
    img = picture()
    np.testing.assert_array_equal(images.imflip(img), img[:, ::-1])
    np.testing.assert_array_equal(images.imflip(img, "diagonal"), img[::-1, ::-1])
    np.testing.assert_array_equal(images.imcrop(img, np.array([1, 2, 3, 40])), img[2:, 1:4])
    padded = images.impad(img, shape=(8, 9), pad_val=7)
    assert padded.shape == (8, 9, 3)
    assert (padded[6:] == 7).all()
    assert images.impad(img, padding=(1, 2, 3, 4)).shape == (12, 13, 3)
    assert images.impad_to_multiple(img, 4).shape == (8, 12, 3)
    turned = images.imrotate(img[:5, :5], 90)
    np.testing.assert_array_equal(turned, np.rot90(img[:5, :5], -1))
    with pytest.raises(ValueError, match="one of shape and padding"):
        images.impad(img)


def test_colours():
    img = picture()
    np.testing.assert_array_equal(images.bgr2gray(img), cv2.cvtColor(img, cv2.COLOR_BGR2GRAY))
    assert images.bgr2gray(img, keepdim=True).shape == (6, 9, 1)
    np.testing.assert_array_equal(images.rgb2bgr(images.bgr2rgb(img)), img)
    normal = images.imnormalize(img, [1, 2, 3], [2, 2, 2])
    np.testing.assert_allclose(normal, (img[..., ::-1] - np.array([1, 2, 3])) / 2, rtol=1e-6)


def test_what_is_predicted_where_there_are_no_regions():
    metas = [{"ori_shape": (5, 7)}, {"ori_shape": (3, 4, 3)}]
    boxes = helpers.empty_instances(metas, torch.device("cpu"), "bbox")
    assert [each.bboxes.shape for each in boxes] == [(0, 4)] * 2
    assert (boxes[0].scores.shape, boxes[0].labels.dtype) == ((0,), torch.long)
    raw = helpers.empty_instances(metas, "cpu", "bbox", num_classes=3, score_per_cls=True)
    assert raw[1].scores.shape == (0, 4)
    masks = helpers.empty_instances(metas, "cpu", "mask", instance_results=boxes)
    assert masks[0] is boxes[0]
    assert [each.masks.shape for each in masks] == [(0, 5, 7), (0, 3, 4)]
    assert [each.masks.dtype for each in masks] == [torch.bool] * 2
    grey = helpers.empty_instances(metas, "cpu", "mask", mask_thr_binary=-1)
    assert grey[0].masks.dtype == torch.uint8
    for given, message in (
        ({"task_type": "pose"}, "task_type must be 'bbox' or 'mask', got 'pose'"),
        ({"task_type": "bbox", "box_type": "rbox"}, "box_type must be 'hbox', got 'rbox'"),
        ({"task_type": "bbox", "instance_results": [InstanceData()]}, "2 images need as many"),
    ):
        with pytest.raises(ValueError, match=message):
            helpers.empty_instances(metas, "cpu", **given)


def test_multi_apply_and_unmap():
    assert helpers.multi_apply(lambda a, b, c: (a + b, a * c), [1, 2], [3, 4], c=10) == ([4, 6], [10, 20])
    whole = helpers.unmap(torch.tensor([5.0, 6.0]), 4, torch.tensor([False, True, True, False]), fill=-1)
    assert whole.tolist() == [-1, 5, 6, -1]


def test_checks_tuples_and_versions():
    assert helpers.is_list_of([1, 2], int)
    assert not helpers.is_list_of((1, 2), int)
    assert helpers.is_tuple_of((1, "a"), (int, str))
    assert helpers.to_2tuple(3) == (3, 3)
    assert helpers.to_2tuple([1, 2]) == [1, 2]
    assert helpers.digit_version("2.10.1+cu124") > helpers.digit_version("2.9")
    assert not helpers.is_model_wrapper(torch.nn.Linear(1, 1))


def test_progress_goes_to_the_log(caplog):
    with caplog.at_level(logging.INFO, "detcore.run"):
        assert list(helpers.track_iter_progress([1, 2, 3])) == [1, 2, 3]
        assert list(helpers.track_iter_progress((iter("ab"), 2))) == ["a", "b"]
    assert caplog.messages[-1] == "2 of 2 done"


def test_messages_go_to_the_run_s_log_unless_told_otherwise(caplog):
    with caplog.at_level(logging.INFO):
        logs.print_log("silent", logger="silent")
        logs.print_log("by name", logger="some.name", level=logging.WARNING)
        logs.print_log("current", logger="current")
        logs.print_log("own", logger=logs.MMLogger.get_instance("mine"))
    assert [record.name for record in caplog.records] == ["some.name", "detcore.run", "mine"]
    assert logs.MMLogger.get_current_instance().name == "detcore.run"


def test_one_process_is_rank_0_of_1():
    assert dist.get_dist_info() == (0, 1)
    value = torch.tensor([2.0])
    dist.all_reduce(value, "mean")
    dist.broadcast(value)
    assert value.item() == 2.0
    assert dist.master_only(lambda: 5)() == 5
    with pytest.raises(ValueError, match="op must be one of"):
        dist.all_reduce(value, "average")


def test_weights_go_to_a_file_and_back(tmp_path):
    one, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    checkpoints.save_checkpoint({"state_dict": one.state_dict(), "meta": {"epoch": 1}}, tmp_path / "a.pth")
    checkpoints.load_checkpoint(other, tmp_path / "a.pth", strict=True)
    assert torch.equal(one.weight, other.weight)


@pytest.mark.parametrize("module", [mmcv, mmengine])
def test_the_stand_ins_offer_what_they_say(module):
    assert all(hasattr(module, name) for name in module.__all__)
