import json
import pickle

import numpy as np
import pytest

from detcore.data import BaseDetDataset, DetDataLoader, Instances
from detcore.data.samplers import DefaultSampler, PlainBatchSampler
from detcore.errors import DataError, DetcoreError
from detcore.registry import DATASETS


@pytest.fixture
def make(tmp_path):
    """A data set of given entries in the middle format."""

    def build(data_list, classes=("cat", "dog", "owl"), **arguments):
        path = tmp_path / "annotations.json"
        content = {"metainfo": {"classes": classes, "task": "test"}, "data_list": data_list}
        path.write_text(json.dumps(content))
        return BaseDetDataset(ann_file=str(path), **arguments)

    return build


def entry(name, *boxes, labels=None, **more):
    labels = labels or [0] * len(boxes)
    found = zip(boxes, labels, strict=True)
    instances = [{"bbox": list(box), "bbox_label": label, "ignore_flag": 0} for box, label in found]
    return {"img_path": name, "height": 100, "width": 200, "instances": instances, **more}


def test_the_middle_format_is_read_as_the_manual_shows_it(tiny_cfg, tiny):
    data = DATASETS.build(tiny_cfg())
    assert len(data) == 7
    assert data.metainfo["classes"] == ("cat", "dog", "owl")
    info = data.get_data_info(2)
    assert info["img_path"] == f"{tiny}/images/2.png"
    assert (info["img_id"], info["height"], info["width"], info["sample_idx"]) == (2, 48, 64, 2)
    assert info["instances"] == [
        {"bbox": [2.0, 3.0, 20.0, 25.0], "bbox_label": 0, "ignore_flag": 0},
        {"bbox": [3.0, 3.0, 21.0, 25.0], "bbox_label": 1, "ignore_flag": 0},
        {"bbox": [4.0, 3.0, 22.0, 25.0], "bbox_label": 2, "ignore_flag": 1},
    ]
    assert data.get_cat_ids(2) == [0, 1, 2]
    assert data[0]["data_samples"].gt_instances.labels.tolist() == [0]


def test_the_file_may_be_yaml_but_never_a_pickle(tmp_path):
    yaml = "metainfo:\n  classes: [cat]\ndata_list:\n- img_path: a.jpg\n  instances: []\n"
    (tmp_path / "a.yaml").write_text(yaml)
    assert BaseDetDataset(ann_file=str(tmp_path / "a.yaml")).get_data_info(0)["img_path"] == "a.jpg"
    with pytest.raises(DataError, match="pickled"):
        BaseDetDataset(ann_file=str(tmp_path / "a.pkl"))


def test_unknown_keys_and_ids_of_any_kind_survive(make):
    data = make([
        entry("a.jpg", (1, 2, 3, 4), img_id="x-1", weather="rain", nested={"a": [1, {"b": None}]}),
        entry("b.jpg", img_id=7),
    ])
    info = data.get_data_info(0)
    assert (info["img_id"], info["weather"], info["nested"]) == ("x-1", "rain", {"a": [1, {"b": None}]})
    assert data.get_data_info(1)["img_id"] == 7


def test_instances_read_as_dicts_and_as_arrays(make):
    polygon = [[1.0, 1.0, 9.0, 1.0, 9.0, 9.0]]
    rle = {"size": [100, 200], "counts": "abc"}
    rich = entry("a.jpg", (1, 2, 30, 40), (5, 5, 9, 9), (6, 6, 8, 8), labels=[2, 0, 1])
    rich["instances"][0].update(mask=polygon, track=5)
    rich["instances"][1].update(mask=rle, ignore_flag=1)
    instances = make([entry("z.jpg", (0, 0, 1, 1)), rich]).get_data_info(1)["instances"]
    assert isinstance(instances, Instances)
    assert [instance.get("mask") for instance in instances] == [polygon, rle, None]
    assert instances[0]["track"] == 5
    assert "track" not in instances[-1]
    assert [one["bbox_label"] for one in instances[1:]] == [0, 1]
    assert instances.boxes.tolist() == [[1, 2, 30, 40], [5, 5, 9, 9], [6, 6, 8, 8]]
    assert instances.labels.dtype == np.int64
    assert instances.ignored.tolist() == [False, True, False]
    masks = instances.masks()
    masks[0][0][:] = 0  # a transform that changes points in place must not reach the table
    assert instances.masks()[0][0].tolist() == polygon[0]


def test_configured_classes_choose_and_number_the_instances(make):
    entries = [entry("a.jpg", (0, 0, 9, 9), (1, 1, 9, 9), (2, 2, 9, 9), labels=[0, 1, 2])]
    data = make(entries, metainfo={"classes": ("owl", "cat")})
    assert data.metainfo["classes"] == ("owl", "cat")
    assert data.metainfo["task"] == "test"
    instances = data.get_data_info(0)["instances"]
    assert [(one["bbox"][0], one["bbox_label"]) for one in instances] == [(0, 1), (2, 0)]


@pytest.mark.parametrize(("classes", "message"), [
    ("cat", r"\('cat',\) with a comma"),
    (("cat", "Dog"), r"'Dog' \(did you mean 'dog'\?\)"),
    (("cat", "cta"), r"'cta' \(did you mean 'cat'\?\)"),
    (("cat", "cat"), "twice"),
    ({"cat"}, "tuple of names"),
    (("cat", 3), "tuple of names"),
])
def test_wrong_classes_are_an_error_that_shows_what_is_right(make, classes, message):
    with pytest.raises(DataError, match=message):
        make([entry("a.jpg", (0, 0, 9, 9))], metainfo={"classes": classes})


def test_classes_that_the_file_lacks_can_be_allowed(make):
    data = make([entry("a.jpg", (0, 0, 9, 9))], metainfo={"classes": ("bat", "cat")}, missing_classes="allow")
    assert data.get_cat_ids(0) == [1]


BAD_BOXES = {
    "box-not-finite": (0, 0, float("nan"), 9), "box-inverted": (9, 0, 3, 9), "box-empty": (3, 3, 3, 9),
    "box-outside": (250, 0, 260, 9),
}


@pytest.mark.parametrize("code", BAD_BOXES)
def test_an_unusable_box_is_dropped_and_told_once_or_raised(make, code, caplog):
    entries = [entry("a.jpg", (0, 0, 9, 9), BAD_BOXES[code]), entry("b.jpg", BAD_BOXES[code])]
    data = make(entries)
    assert [len(data.get_data_info(i)["instances"]) for i in range(2)] == [1, 0]
    assert data.defects.counts == {code: 2}
    assert len(caplog.records) == 1
    assert f"2 x {code}" in caplog.text
    assert "a.jpg instance 1, b.jpg instance 0" in caplog.text
    with pytest.raises(DataError, match=code):
        make(entries, bad_annotations="raise")


def test_infinite_boxes_and_odd_labels_are_counted_by_reason(make):
    data = make([
        entry("a.jpg", (0, 0, float("inf"), 9), (0, 0, 9, 9), labels=[0, 5]),
        entry("b.jpg", (0, 0, 9, 9), labels=[-1]),
    ])
    assert data.defects.counts == {"box-not-finite": 1, "category-unknown": 2}


def test_malformed_instances_are_counted_by_reason(make):
    broken = entry("a.jpg", (0, 0, 9, 9))
    broken["instances"] += [{"bbox_label": 0}, {"bbox": [1, 2, 3], "bbox_label": 0}, {"bbox": [1, 2, 3, 4]},
                            {"bbox": "1234", "bbox_label": 0}]
    broken["instances"][0]["mask"] = [[1, 2, 3, 4]]
    data = make([broken])
    assert data.defects.counts == {"box-missing": 1, "annotation-malformed": 3, "mask-malformed": 1}
    assert "mask" not in data.get_data_info(0)["instances"][0]


def test_boxes_partly_outside_are_kept_as_they_are(make):
    data = make([entry("a.jpg", (-5, -5, 300, 9))])
    assert data.get_data_info(0)["instances"][0]["bbox"] == [-5, -5, 300, 9]
    assert not data.defects.counts


def test_filter_cfg_drops_images_and_sets_small_boxes_to_be_ignored(make):
    entries = [
        entry("empty.jpg"), entry("full.jpg", (0, 0, 50, 50), (0, 0, 5, 50)),
        {**entry("small.jpg", (0, 0, 9, 9)), "height": 20},
    ]
    rules = {"filter_empty_gt": True, "min_size": 32, "bbox_min_size": 10}
    data = make(entries, filter_cfg=rules)
    assert len(data) == 1
    assert [one["ignore_flag"] for one in data.get_data_info(0)["instances"]] == [0, 1]
    assert len(make(entries, filter_cfg=rules, test_mode=True)) == 3
    assert len(make(entries)) == 3
    with pytest.raises(DataError, match="did you mean 'filter_empty_gt'"):
        make(entries, filter_cfg={"filter_emty_gt": True})


def test_an_empty_data_set_says_how_many_images_there_were_and_why_none_is_left(make):
    with pytest.raises(DataError, match=r"3 images were read, .* 2 by filter_empty_gt, 1 by min_size"):
        make([entry("a.jpg"), entry("b.jpg"), entry("c.jpg", (0, 0, 9, 9))],
             filter_cfg={"filter_empty_gt": True, "min_size": 150})
    with pytest.raises(DataError, match="0 images were read"):
        make([])
    with pytest.raises(DataError, match=r"1 by filter_empty_gt(.|\n)*box-empty"):
        make([entry("a.jpg", (3, 3, 3, 3))], filter_cfg={"filter_empty_gt": True})


def test_indices_choose_the_first_the_last_or_the_given(make):
    entries = [entry(f"{i}.jpg", *[(0, 0, 9, 9)] * i) for i in range(5)]

    def ids(**arguments):
        data = make(entries, **arguments)
        return [data.get_data_info(i)["img_id"] for i in range(len(data))]

    assert ids(indices=2) == [0, 1]
    assert ids(indices=-2) == [3, 4]
    assert ids(indices=[4, 0, 4]) == [4, 0, 4]
    with pytest.raises(DataError, match="image 7"):
        make(entries, indices=[7])
    whole = make(entries)
    part = whole.get_subset([3, 1])
    assert [len(part.get_data_info(i)["instances"]) for i in range(2)] == [3, 1]
    assert len(whole) == 5


@pytest.mark.parametrize(("text", "message"), [
    ("", "top level"), ("[1]", "top level"), ('{"data_list": [{"img_path": "a"},', "JSON at character"),
    ('{"data_list": [1]}', "no object"), ('{"images": []}', "no `data_list`.*images"),
    ('{"data_list": [{"height": 3}]}', "img_path"), ('{"data_list" 1}', "expected one of ':'"),
    ('{"data_list": [] ', "the end of the file"),
])
def test_a_file_in_another_format_says_what_is_wrong(tmp_path, text, message):
    path = tmp_path / "odd.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        BaseDetDataset(ann_file=str(path))
    assert "odd.json" in str(caught.value)


def test_a_missing_annotation_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.json.*No such file"):
        BaseDetDataset(ann_file="none.json", data_root=str(tmp_path))


def test_a_lazy_data_set_reads_on_first_use(tmp_path, make):
    lazy = make([entry("a.jpg", (0, 0, 9, 9))], lazy_init=True)
    assert lazy._table is None
    assert len(lazy) == 1


def test_paths_keep_spaces_unicode_and_broken_bytes(make):
    names = ["a b.jpg", "bücher/猫.jpg", "x" * 260 + ".jpg", "raw\udcff.jpg"]
    data = make([entry(name) for name in names], data_prefix={"img": "/photos"})
    assert [data.get_data_info(i)["img_path"] for i in range(4)] == [f"/photos/{name}" for name in names]


# The manual's ways to extend.


class TextFileDataset(BaseDetDataset):
    """The manual's example: an own text format."""

    METAINFO = {"classes": ("person", "bicycle", "car", "motorcycle")}  # noqa: RUF012

    def load_data_list(self, ann_file):
        with open(ann_file) as file:  # noqa: PTH123
            lines = file.read().splitlines()
        infos = []
        for i, line in enumerate(lines):
            if line != "#":
                continue
            width, height = map(int, lines[i + 2].split())
            instances = []
            for anns in lines[i + 4 : i + 4 + int(lines[i + 3])]:
                numbers = anns.split(" ")
                instances.append({"bbox": [float(n) for n in numbers[:4]], "bbox_label": int(numbers[4])})
            infos.append({"img_path": lines[i + 1], "img_id": i, "width": width, "height": height,
                          "instances": instances, "source": ("text", 1), "weights": np.array([0.5, 1.5])})
        return infos


TEXT = "#\n000001.jpg\n1280 720\n2\n10 20 40 60 1\n20 40 50 60 2\n#\n000002.jpg\n1280 720\n1\n50 20 60 70 3\n"


def test_a_data_set_of_the_users_own_format_works_as_in_the_manual(tmp_path):
    (tmp_path / "annotation.txt").write_text(TEXT)
    data = TextFileDataset(ann_file="annotation.txt", data_root=str(tmp_path))
    assert len(data) == 2
    info = data.get_data_info(0)
    assert info["img_path"] == "000001.jpg"
    assert info["instances"][1] == {"bbox": [20, 40, 50, 60], "bbox_label": 2, "ignore_flag": 0}
    assert info["source"] == ("text", 1)
    assert info["weights"].tolist() == [0.5, 1.5]


def test_load_data_list_may_take_no_argument_and_change_what_the_base_gives(tiny_cfg):
    class Doubled(BaseDetDataset):
        def load_data_list(self):
            infos = super().load_data_list()
            return [{**info, "img_id": f"{info['img_path']}{k}"} for info in infos for k in (0, 1)]

    assert len(Doubled(**{k: v for k, v in tiny_cfg().items() if k != "type"})) == 14


def test_parse_data_info_and_filter_data_can_be_overridden(tiny_cfg):
    class Own(BaseDetDataset):
        def parse_data_info(self, raw_data_info):
            info = super().parse_data_info(raw_data_info)
            return [info, {**info, "mirror": True}] if info["width"] > info["height"] else info

        def filter_data(self):
            return [info for info in self.data_list if len(info["instances"]) > 1 and not info.get("mirror")]

    data = Own(**{k: v for k, v in tiny_cfg().items() if k != "type"})
    assert [len(info["instances"]) for info in data.data_list] == [2, 3, 2, 3]


def test_what_cannot_be_kept_as_data_is_refused_by_name():
    class Odd(BaseDetDataset):
        def load_data_list(self):
            return [{"img_path": "a.jpg", "opener": open}]

    with pytest.raises(DataError, match=r"a\.jpg\.opener: a builtin_function_or_method"):
        Odd()


def test_the_manuals_unknown_arguments_are_refused_by_path(tiny_cfg):
    with pytest.raises(DetcoreError, match=r"train\.dataset\.data_prefx.*data_prefix"):
        DATASETS.build({**tiny_cfg(), "data_prefx": {}}, path="train.dataset")
    pipeline = tiny_cfg()["pipeline"]
    pipeline[2]["keep_raito"] = True
    with pytest.raises(DetcoreError, match=r"pipeline\.2\.keep_raito"):
        DATASETS.build(tiny_cfg(pipeline=pipeline))


# Samples that cannot be used.


def test_another_sample_is_drawn_where_the_pipeline_refuses_one(make):
    entries = [entry(f"{i}.jpg") for i in range(4)]
    drawn = make(entries, pipeline=[lambda r: r if r["sample_idx"] == 2 else None])[0]
    assert drawn["sample_idx"] == 2
    with pytest.raises(DataError, match="always returns None"):
        make(entries, pipeline=[lambda r: None], max_refetch=5)[0]
    with pytest.raises(DataError, match="no test image"):
        make(entries, pipeline=[lambda r: None], test_mode=True)[0]


def test_a_bad_image_raises_unless_it_may_be_skipped(tiny_cfg, tiny, caplog):
    (tiny / "images" / "1.png").unlink()
    with pytest.raises(DataError, match=r"1\.png"):
        DATASETS.build(tiny_cfg())[1]
    skipping = DATASETS.build(tiny_cfg(on_bad_image="skip"))
    assert skipping[1]["data_samples"].img_id != 1
    assert skipping[1]["data_samples"].img_id != 1
    assert caplog.text.count("image-missing") == 1
    (count, first), = skipping.take_skipped().values()
    assert count >= 2
    assert "1.png" in first
    assert skipping.take_skipped() == {}
    with pytest.raises(DataError, match=r"1\.png"):
        DATASETS.build(tiny_cfg(on_bad_image="skip", test_mode=True))[1]
    with pytest.raises(DataError, match="on_bad_image='ignore'"):
        DATASETS.build(tiny_cfg(on_bad_image="ignore"))


def test_a_data_set_can_be_pickled_and_keeps_its_columns(tiny_cfg):
    data = DATASETS.build(tiny_cfg())
    again = pickle.loads(pickle.dumps(data))
    assert [again.get_data_info(i) for i in range(7)] == [data.get_data_info(i) for i in range(7)]


def test_a_plain_list_can_be_loaded_too():
    items = ["a", "b", "c"]
    loader = DetDataLoader(items, PlainBatchSampler(DefaultSampler(items, shuffle=False), 2))
    assert list(loader) == [["a", "b"], ["c"]]
