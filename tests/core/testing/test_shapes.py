import hashlib
import json

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from detcore.data.drawn import ShapesStyle, draw_picture, make_shapes
from detcore.data.drawn.outlines import SHAPES, polygons_of
from detcore.data.drawn.shapes import MIN_VISIBLE
from detcore.errors import DataError
from detcore.testing import tiny_coco

# pycocotools' decoder does not know numpy 2's copy keyword yet.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def digest(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def rasterised(polygons, height, width):
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))).astype(bool)


def test_one_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        make_shapes(tmp_path / name, 3, 2, seed)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert digest(tmp_path / "a").keys() == digest(tmp_path / "c").keys()
    assert not set(digest(tmp_path / "a").values()) & set(digest(tmp_path / "c").values())


def test_the_first_pictures_do_not_depend_on_how_many_follow(tmp_path):
    make_shapes(tmp_path / "a", 2, 0, 0)
    make_shapes(tmp_path / "b", 4, 0, 0)
    few, many = digest(tmp_path / "a"), digest(tmp_path / "b")
    assert all(many[name] == value for name, value in few.items() if name.endswith(".jpg"))


def test_training_and_validation_are_different_pictures(tmp_path):
    make_shapes(tmp_path, 2, 2, 0)
    pictures = [value for name, value in digest(tmp_path).items() if name.endswith(".jpg")]
    assert len(set(pictures)) == 4


def test_annotations_are_complete_and_files_are_where_they_say(tmp_path):
    files = make_shapes(tmp_path, 6, 2, 1)
    content = json.loads(files["train"].read_text())
    assert [category["name"] for category in content["categories"]] == list(SHAPES)
    ids = [annotation["id"] for annotation in content["annotations"]]
    assert ids == list(range(1, len(ids) + 1))
    for image in content["images"]:
        picture = cv2.imread(str(tmp_path / "train" / image["file_name"]))
        assert picture.shape == (image["height"], image["width"], 3)
        assert picture.std() > 10


def test_boxes_areas_and_polygons_of_an_object_agree_and_enough_of_it_is_visible():
    style = ShapesStyle()
    width, height = style.image_size
    seen = set()
    for seed in range(12):
        _, records = draw_picture(np.random.default_rng(seed), style)
        owned = np.zeros((height, width), int)
        for record in records:
            seen.add(record["category_id"])
            region = rasterised(record["segmentation"], height, width)
            owned += region
            rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
            x, y, w, h = record["bbox"]
            tight = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            assert np.abs(np.array(tight) - [x, y, x + w, y + h]).max() <= 1
            assert region.sum() == pytest.approx(record["area"], rel=0.03)
            assert record["visible"] >= MIN_VISIBLE
            assert 0 <= x < x + w <= width
            assert 0 <= y < y + h <= height
        assert (owned > 1).mean() < 0.005  # what one object hides of another is not part of the other
    assert seen == set(range(1, len(SHAPES) + 1))


def test_some_objects_are_partly_hidden():
    pictures = [draw_picture(np.random.default_rng(seed), ShapesStyle()) for seed in range(10)]
    records = [record for _, records in pictures for record in records]
    assert 0.1 < np.mean([record["visible"] < 0.95 for record in records]) < 0.9


def test_a_hole_and_separate_pieces_survive_as_polygons():
    region = np.zeros((40, 60), bool)
    region[5:30, 5:30] = True
    region[12:22, 12:22] = False
    region[10:20, 40:55] = True
    assert (rasterised(polygons_of(region), 40, 60) == region).all()


def test_tiny_data_is_small_and_readable(tmp_path):
    ann_file = tiny_coco(tmp_path, num=3, image_size=(40, 32))
    content = json.loads(ann_file.read_text())
    assert len(content["images"]) == 3
    assert content["annotations"]
    assert cv2.imread(str(tmp_path / "images" / content["images"][0]["file_name"])).shape == (32, 40, 3)


def test_negative_numbers_are_refused(tmp_path):
    with pytest.raises(DataError, match="num_train=-1"):
        make_shapes(tmp_path, -1, 0)
