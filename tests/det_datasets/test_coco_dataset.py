import json
import logging

import numpy as np
import pytest
from det_datasets.coco import CocoDataset

from detcore.data import build_dataloader
from detcore.errors import DataError

CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 1, "name": "dog"}, {"id": 90, "name": "owl"}]
CLASSES = ("cat", "dog", "owl")


def image(id_, **more):
    return {"id": id_, "file_name": f"{id_}.jpg", "height": 100, "width": 200, **more}


def annotation(id_, image_id=1, category_id=3, bbox=(10, 20, 30, 40), **more):
    record = {"id": id_, "image_id": image_id, "category_id": category_id, "bbox": list(bbox), "iscrowd": 0}
    return {**record, "area": bbox[2] * bbox[3], **more}


@pytest.fixture
def make(tmp_path):
    def build(images, annotations=None, categories=CATEGORIES, cls=CocoDataset, **arguments):
        content = {"info": {"description": "made up"}, "images": images}
        if annotations is not None:
            content["annotations"] = annotations
        if categories is not None:
            content["categories"] = categories
        path = tmp_path / "instances.json"
        path.write_text(json.dumps(content))
        return cls(**{"ann_file": str(path), "metainfo": {"classes": CLASSES}, **arguments})

    return build


def test_boxes_become_corners_and_classes_number_the_labels(make):
    data = make([image(7), image(1)], [
        annotation(0, 1, 90), annotation(5, 7, 1, (0, 0, 9, 9)), annotation(2, 1, 3, (1, 2, 3, 4), iscrowd=1),
    ], data_prefix={"img": "photos"}, data_root="/data")
    assert [data.get_data_info(i)["img_id"] for i in range(2)] == [7, 1]
    info = data.get_data_info(1)
    assert info["img_path"] == "/data/photos/1.jpg"
    assert (info["height"], info["width"], info["seg_map_path"]) == (100, 200, None)
    assert info["instances"] == [
        {"bbox": [10, 20, 40, 60], "bbox_label": 2, "ignore_flag": 0},
        {"bbox": [1, 2, 4, 6], "bbox_label": 0, "ignore_flag": 1},
    ]
    assert data.cat_ids == [3, 1, 90]
    assert data.cat2label == {3: 0, 1: 1, 90: 2}
    assert data.get_cat_ids(0) == [1]


def test_fewer_classes_choose_their_instances_silently(make, caplog):
    annotations = [annotation(1, 1, 3), annotation(2, 1, 1), annotation(3, 1, 90)]
    data = make([image(1)], annotations, metainfo={"classes": ("owl", "cat")})
    assert data.get_cat_ids(0) == [1, 0]
    assert not data.defects.counts
    assert "another order" in caplog.text
    caplog.clear()
    make([image(1)], annotations, metainfo={"classes": ("cat", "owl")})
    assert not caplog.records


def test_classes_that_the_file_does_not_have_are_refused_with_the_closest_names(make):
    annotations = [annotation(1)]
    with pytest.raises(DataError, match=r"'Cat' \(did you mean 'cat'"):
        make([image(1)], annotations, metainfo={"classes": ("Cat",)})
    with pytest.raises(DataError, match=r"\('owl',\)"):
        make([image(1)], annotations, metainfo={"classes": "owl"})
    with pytest.raises(DataError, match=r"'person'(.|\n)*It has 3: 'cat', 'dog', 'owl'"):
        make([image(1)], annotations, metainfo=None)  # COCO's own 80 classes
    assert make([image(1)], annotations, metainfo=None, missing_classes="allow").get_cat_ids(0) == [15]


def test_a_file_without_annotations_gives_images_to_predict_on(make):
    for categories in (CATEGORIES, None):
        data = make([image(1), image(2)], categories=categories, test_mode=True)
        assert len(data) == 2
        assert len(data.get_data_info(0)["instances"]) == 0


def test_masks_are_kept_as_polygons_and_rle(make):
    polygon, rle = [[1.5, 2, 30, 2, 30, 20.25]], {"size": [100, 200], "counts": [0, 50, 19950]}
    data = make([image(1)], [
        annotation(1, segmentation=polygon), annotation(2, segmentation=rle, iscrowd=1), annotation(3),
        annotation(4, segmentation=[]),
    ])
    assert [one.get("mask") for one in data.get_data_info(0)["instances"]] == [polygon, rle, None, None]


NAN, INF = float("nan"), float("inf")
DEFECTS = {
    "box-not-finite": [annotation(1, bbox=(0, 0, NAN, 5)), annotation(2, bbox=(0, -INF, 5, 5))],
    "box-inverted": [annotation(1, bbox=(50, 0, -10, 5), area=5)],
    "box-empty": [annotation(1, bbox=(5, 5, 0, 5), area=5)],
    "box-tiny": [annotation(1, bbox=(5, 5, 0.5, 50))],
    "box-outside": [annotation(1, bbox=(200, 0, 10, 10)), annotation(2, bbox=(0, -20, 10, 10))],
    "box-missing": [{"id": 1, "image_id": 1, "category_id": 3, "area": 3}],
    "area-not-positive": [annotation(1, area=0)],
    "annotation-ignored": [annotation(1, ignore=1)],
    "annotation-malformed": [
        annotation("one"), annotation(2, category_id="cat"), {**annotation(3), "bbox": [1, 2, 3]},
        {**annotation(4), "bbox": {"x": 1}}, {**annotation(5), "area": "big"},
        {**annotation(6), "image_id": None},
    ],
    "category-unknown": [annotation(1, category_id=4), annotation(2, category_id=0)],
    "image-missing": [annotation(1, image_id=99), annotation(2, image_id=-5)],
}


@pytest.mark.parametrize("code", DEFECTS)
def test_an_unusable_annotation_is_left_out_and_told_once_by_reason(make, code, caplog):
    bad = DEFECTS[code]
    data = make([image(1), image(2)], [*bad, annotation(50, 2)])
    assert data.defects.counts == {code: len(bad)}
    assert [len(data.get_data_info(i)["instances"]) for i in range(2)] == [0, 1]
    assert len(caplog.records) == 1
    assert f"{len(bad)} x {code}" in caplog.text
    assert "instances.json" in caplog.text
    with pytest.raises(DataError, match=code):
        make([image(1), image(2)], [*bad, annotation(50, 2)], bad_annotations="raise")


def test_a_bad_mask_leaves_its_box(make):
    bad = [[[1, 2, 3, 4]], [[1, 2, 3, 4, 5, 6, 7]], [["a"] * 6], "zz", {"size": [3], "counts": "a"},
           [[NAN] * 6], [5], 7]
    data = make([image(1)], [annotation(k, segmentation=mask) for k, mask in enumerate(bad)])
    assert data.defects.counts == {"mask-malformed": len(bad)}
    assert len(data.get_data_info(0)["instances"]) == len(bad)
    assert data.table.masks is None


def test_a_message_names_ids_and_shortens_long_lists(make, caplog):
    make([image(1)], [annotation(k, image_id=7) for k in range(100, 110)] + [annotation(1)])
    assert "10 x image-missing" in caplog.text
    assert "annotation 100 of image 7, annotation 101 of image 7" in caplog.text
    assert "annotation 109" not in caplog.text


@pytest.mark.parametrize(("images", "annotations", "categories", "code"), [
    ([image(1), image(2), image(1)], [annotation(1)], CATEGORIES, "image-id-duplicate.*image 1"),
    ([image(1)], [annotation(8), annotation(8)], CATEGORIES, "annotation-id-duplicate.*annotation 8"),
    ([image(1)], [], [*CATEGORIES, {"id": 3, "name": "fox"}], "category-id-duplicate.*category 3"),
])
def test_ids_that_are_not_unique_are_an_error(make, images, annotations, categories, code):
    with pytest.raises(DataError, match=rf"contradicts itself(.|\n)*{code}"):
        make(images, annotations, categories)


def test_a_subclass_may_allow_shared_annotation_ids(make):
    class Loose(CocoDataset):
        ANN_ID_UNIQUE = False

    assert len(make([image(1)], [annotation(8), annotation(8)], cls=Loose).get_data_info(0)["instances"]) == 2


@pytest.mark.parametrize("bad", [
    {"id": 1}, image(1, file_name=3), image("one"), image(1, height="100"), image(1, width=-4), image(2**63),
])
def test_a_malformed_image_entry_is_left_out_and_told(make, bad):
    data = make([bad, image(2)], [annotation(1, 2)])
    assert data.defects.counts == {"image-malformed": 1}
    assert len(data) == 1


def test_huge_ids_and_float_ids_are_read(make):
    big = 2**63 - 1
    data = make([image(big), image(5.0)], [annotation(big, big), annotation(2.0, 5, 90.0)])
    assert [data.get_data_info(i)["img_id"] for i in range(2)] == [big, 5]
    assert data.get_cat_ids(1) == [2]


def test_filter_cfg_drops_empty_and_small_images_only_in_training(make):
    images = [image(1), image(2), image(3, height=20)]
    annotations = [annotation(1, 1), annotation(2, 3, bbox=(0, 0, 5, 5))]
    rules = {"filter_empty_gt": True, "min_size": 32}
    assert len(make(images, annotations, filter_cfg=rules)) == 1
    assert len(make(images, annotations, filter_cfg=rules, test_mode=True)) == 3
    with pytest.raises(DataError, match=r"3 images were read, dropped were 3 by filter_empty_gt"):
        make(images, [], filter_cfg=rules)


def test_no_images_at_all_is_an_error(make):
    with pytest.raises(DataError, match="0 images were read"):
        make([], [])


@pytest.mark.parametrize(("text", "message"), [
    ("[]", "top level"), ('{"images": [1]}', "no object"), ('{"annotations": []}', "no `images`"),
    ('{"images": [{"id": 1}', "not valid JSON"), ('{"images": [], "categories": [{"id": 1}]}', "name"),
])
def test_a_file_that_is_not_coco_says_what_is_wrong(tmp_path, text, message):
    path = tmp_path / "odd.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        CocoDataset(ann_file=str(path))
    assert "odd.json" in str(caught.value)


def test_the_order_of_the_files_keys_does_not_matter(make, tmp_path):
    make([image(1)], [annotation(1)])
    path = tmp_path / "instances.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(content.items())), indent=1))
    data = CocoDataset(ann_file=str(path), metainfo={"classes": CLASSES})
    assert len(data.get_data_info(0)["instances"]) == 1


def test_large_files_are_read_in_pieces(make, monkeypatch):
    monkeypatch.setattr("detcore.data.json_stream.CHUNK", 7)
    data = make([image(k) for k in range(30)], [annotation(k, k) for k in range(30)])
    assert data.table.boxes.tolist() == [[10, 20, 40, 60]] * 30


def test_overridden_parse_data_info_is_called_for_each_image(make):
    class Own(CocoDataset):
        def parse_data_info(self, raw_data_info):
            info = super().parse_data_info(raw_data_info)
            info["photographer"] = raw_data_info["raw_img_info"].get("by")
            return info

    annotations = [annotation(1), annotation(2, 2, 90, iscrowd=1), annotation(3, 2, 1)]
    plain = make([image(1, by="me"), image(2)], annotations)
    own = Own(ann_file=plain.ann_file, metainfo={"classes": CLASSES})
    assert own.get_data_info(0)["photographer"] == "me"
    assert [own.get_data_info(i)["instances"] for i in range(2)] == [
        plain.get_data_info(i)["instances"] for i in range(2)
    ]


def test_overridden_load_data_list_may_use_what_the_base_loads(make):
    class First(CocoDataset):
        def load_data_list(self):
            return super().load_data_list()[:1]

    assert len(make([image(1), image(2)], [annotation(1)], cls=First)) == 1


@pytest.mark.shared
def test_blood_cells_are_read_whole(shared, caplog):
    caplog.set_level(logging.WARNING)
    folder = shared("data/bccd")
    counts = {}
    for part in ("train", "val"):
        data = CocoDataset(
            ann_file=f"annotations/instances_{part}.json", data_root=str(folder),
            metainfo={"classes": ("RBC", "WBC", "Platelets")},
        )
        counts[part] = len(data), len(data.table.boxes)
    assert counts["train"][0] == 291
    assert counts["val"][0] == 73
    assert counts["train"][1] + counts["val"][1] == 4886 - sum(data.defects.counts.values())


@pytest.mark.shared
def test_columns_equal_what_pycocotools_reads(shared):
    from pycocotools.coco import COCO

    file = shared("data/coco_permissive/annotations/instances_train2017.json")
    names = tuple(c["name"] for c in json.loads(file.read_text())["categories"])
    data, truth = CocoDataset(ann_file=str(file), metainfo={"classes": names}), COCO(str(file))
    seen = 0
    for row in range(len(data)):
        info = data.get_data_info(row)
        found = [a for a in truth.imgToAnns[info["img_id"]] if min(a["bbox"][2:]) >= 1 and a["area"] > 0]
        assert len(info["instances"]) == len(found)
        for instance, ann in zip(info["instances"], found, strict=True):
            x, y, w, h = ann["bbox"]
            assert np.allclose(instance["bbox"], [x, y, x + w, y + h], atol=1e-3)
            assert instance["bbox_label"] == names.index(truth.cats[ann["category_id"]]["name"])
            assert instance["ignore_flag"] == ann["iscrowd"]
            assert isinstance(instance["mask"], dict) == bool(ann["iscrowd"])
            seen += 1
    assert seen > 100


@pytest.mark.shared
def test_masks_of_real_photographs_load_and_stay_with_their_boxes(shared):
    folder = shared("data/coco_permissive")
    file = folder / "annotations/instances_train2017.json"
    names = tuple(c["name"] for c in json.loads(file.read_text())["categories"])
    loader = build_dataloader({
        "batch_size": 4, "dataset": {
            "type": "CocoDataset", "ann_file": str(file), "metainfo": {"classes": names}, "indices": 8,
            "data_prefix": {"img": str(folder / "images/train2017")},
            "pipeline": [
                {"type": "LoadImageFromFile"}, {"type": "LoadAnnotations", "with_mask": True},
                {"type": "Resize", "scale": (320, 240), "keep_ratio": True},
                {"type": "RandomFlip", "prob": 0.5},
                {"type": "PackDetInputs"},
            ]},
    }, seed=0)
    for batch in loader:
        for sample in batch["data_samples"]:
            instances = sample.gt_instances
            drawn = instances.masks.get_bboxes()
            for box, around, area in zip(instances.bboxes, drawn, instances.masks.areas, strict=True):
                if area > 50:
                    assert np.abs(box.numpy() - np.asarray(around)).max() < 6


@pytest.mark.shared
def test_lvis_files_without_iscrowd_are_read(shared):
    file = shared("data/lvis_sample/lvis_val_100.json")
    names = tuple(c["name"] for c in json.loads(file.read_text())["categories"])
    data = CocoDataset(ann_file=str(file), metainfo={"classes": names})
    assert len(data) == 100
    assert not data.table.ignored.any()
    assert data.get_data_info(0)["img_path"].endswith(".jpg")
