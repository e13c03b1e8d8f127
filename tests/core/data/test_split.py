"""Labelled and unlabelled parts of a COCO file."""
import json
from itertools import pairwise

import numpy as np
import pytest

from detcore.data.split import percent_text, shuffled, split_annotations
from detcore.errors import DataError
from detcore.registry import DATASETS

NAMES = ["cat", "döner", "[owl]"]


def content(images=40):
    """So many images with 0 to 3 boxes, in an order and with keys as other programs leave them."""
    boxes = [(image, k) for k in range(3) for image in range(images) if k < image % 4]
    return {
        "info": {"year": 2017, "by": "üs"},
        "annotations": [
            {"id": row, "image_id": 7 * image, "category_id": 5 * (k + 1), "bbox": [1.5, 2, 10.25, 8],
             "area": 82, "iscrowd": int(k == 2), "segmentation": [[1.1, 2, 9, 2, 9, 8]], "extra": {"k": k}}
            for row, (image, k) in enumerate(boxes)
        ],
        "images": [
            {"id": 7 * image, "file_name": f"{image}.jpg", "height": 40, "width": 60}
            for image in range(images)
        ],
        "licenses": [{"id": 1, "name": "none"}],
        "categories": [{"id": 5 * (k + 1), "name": name} for k, name in enumerate(NAMES)],
        "of our own": [1, {"two": None}],
    }


@pytest.fixture
def write(tmp_path):
    """``write(data)``: the annotation file of a made-up data set."""

    def make(data):
        path = tmp_path / "annotations" / "instances.json"
        path.parent.mkdir(exist_ok=True)
        text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
        path.write_text(text, encoding="utf-8")
        return path

    return make


def read(path):
    return json.loads(path.read_text())


def ids(path):
    return {image["id"] for image in read(path)["images"]}


def test_the_two_parts_together_are_the_source(write, tmp_path):
    source = write(content())
    before = source.read_bytes()
    done = split_annotations(source, [10, 25], folds=2)
    folder = tmp_path / "semi_anns"
    names = [f"instances.{fold}@{percent}{part}.json"
             for fold in (1, 2) for percent in (10, 25) for part in ("", "-unlabeled")]
    assert [file.path for file in done.files] == [folder / name for name in names]
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)  # nothing else is left behind
    assert source.read_bytes() == before
    whole = content()
    for labelled, rest in zip(done.files[::2], done.files[1::2], strict=True):
        parts = read(labelled.path), read(rest.path)
        for part in parts:
            assert list(part) == list(whole)
            assert {key: part[key] for key in part if key not in ("images", "annotations")} == \
                {key: whole[key] for key in whole if key not in ("images", "annotations")}
            own = {image["id"] for image in part["images"]}
            for key, name in (("images", "id"), ("annotations", "image_id")):
                assert part[key] == [record for record in whole[key] if record[name] in own]
        assert not ids(labelled.path) & ids(rest.path)
        assert len(parts[0]["images"]) == labelled.images == 40 * labelled.percent / 100
        assert len(parts[0]["annotations"]) == labelled.annotations == sum(labelled.of_category)
        assert labelled.images + rest.images == 40
        assert labelled.annotations + rest.annotations == len(whole["annotations"])
        assert np.add(labelled.of_category, rest.of_category).tolist() == list(done.totals)


def test_folds_differ_and_smaller_parts_are_within_larger_ones(write):
    done = split_annotations(write(content()), [50, 5, 20], folds=4)
    labelled = [file for file in done.files if file.labelled]
    assert [(file.fold, file.percent) for file in labelled[:4]] == [(1, 5), (1, 20), (1, 50), (2, 5)]
    by_fold = [[ids(file.path) for file in labelled if file.fold == fold] for fold in (1, 2, 3, 4)]
    for drawn in by_fold:
        assert all(small < large for small, large in pairwise(drawn))
    assert len({frozenset(drawn[-1]) for drawn in by_fold}) == 4


def test_the_same_seed_gives_the_same_bytes_whatever_the_order(write, tmp_path):
    source = write(content())

    def written(folder, percentages, **changes):
        files = split_annotations(source, percentages, out_dir=tmp_path / folder, **changes).files
        return {file.path.name: file.path.read_bytes() for file in files}

    first = written("a", [10, 0.5 * 5, 25], folds=2, seed=3)
    assert written("b", [25.0, 2.5, 10, 10.0], folds=2, seed=3) == first
    assert written("c", [25], folds=3, seed=3)["instances.2@25.json"] == first["instances.2@25.json"]
    assert written("d", [25], folds=1, seed=4)["instances.1@25.json"] != first["instances.1@25.json"]


def test_the_order_of_images_is_fixed_for_good():
    assert shuffled(8, 0, 1).tolist() == [7, 4, 5, 1, 6, 2, 0, 3]
    assert sorted(shuffled(1000, 5, 2).tolist()) == list(range(1000))


def test_the_number_of_images_is_exact(write):
    source = write({**content(100)})
    done = split_annotations(source, [29, 57, 1], folds=1)  # 29 / 100 * 100 is less than 29 in floating point
    assert [file.images for file in done.files if file.labelled] == [1, 29, 57]


@pytest.mark.parametrize(("percent", "text"), [
    (10.0, "10"), (0.5, "0.5"), (1, "1"), (12.3456789, "12.3456789"), (1e-7, "0.0000001"), (50, "50"),
])
def test_percentages_in_names_are_plain_numbers(percent, text):
    assert percent_text(percent) == text


def test_all_images_without_annotations_can_be_split(write):
    done = split_annotations(write({**content(), "annotations": []}), [10], folds=1)
    assert [file.annotations for file in done.files] == [0, 0]
    assert read(done.files[0].path)["annotations"] == []
    assert done.unused() == NAMES
    assert done.absent(done.files[0]) == []


def test_classes_that_a_part_lacks_are_told_apart_from_those_that_the_source_lacks(write):
    data = content(8)
    data["annotations"] = [
        {**each, "category_id": 5 if each["image_id"] == 0 else 15} for each in data["annotations"]
    ]
    data["annotations"] += [{"id": 900, "image_id": 0, "category_id": 5}, {"id": 901, "image_id": 7},
                            {"id": 902, "image_id": 7, "category_id": 99}]
    done = split_annotations(write(data), [50], folds=1)
    assert done.unused() == ["döner"]
    assert done.uncategorised == 2
    by_part = {file.labelled: file for file in done.files}
    home = 0 in ids(by_part[True].path)
    assert [done.absent(by_part[home]), done.absent(by_part[not home])] == [[], ["cat"]]


def test_ids_may_be_text(write):
    data = content()
    for image in data["images"]:
        image["id"] = f"n{image['id']}"
    for annotation in data["annotations"]:
        annotation["image_id"] = f"n{annotation['image_id']}"
    done = split_annotations(write(data), [50], folds=1)
    assert sum(file.annotations for file in done.files) == len(data["annotations"])


def without(key):
    return {name: value for name, value in content().items() if name != key}


def doubled_images():
    data = content()
    data["images"] += [data["images"][0], data["images"][3]]
    return data


def lost_annotation():
    data = content()
    data["annotations"][4]["image_id"] = 3
    return data


BAD_FILES = [
    (without("images"), "no `images`; expected a COCO file.*has info, annotations"),
    (without("annotations"), "no `annotations`"),
    (without("categories"), "no `categories`"),
    ({}, "no `images`, `annotations`, `categories`.*this one has nothing"),
    ({**content(), "categories": []}, "at least one category, got \\[\\]"),
    ({**content(), "categories": [{"id": 1}]}, "needs an `id` and a `name`"),
    ({**content(), "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}, "have the id 1"),
    ({**content(), "images": {"7": 1}}, "`images` must be there once, a list of objects"),
    ({**content(), "images": [3]}, "`images` must be there once, a list of objects; got 3"),
    ({**content(), "images": [{"file_name": "a"}]}, "entry of `images` needs a number or text as its `id`"),
    ({**content(), "annotations": [{"id": 1}]}, "needs a number or text as its `image_id`"),
    (doubled_images(), "2 image ids are there more than once: 0, 21;"),
    (lost_annotation(), "1 of 60 annotations are of images that the file does not have, the first is 4 of"),
    ("[]", "top level must be an object"),
    ('{"images": [', "not valid JSON"),
    ("", "top level must be an object"),
]


@pytest.mark.parametrize(("data", "said"), BAD_FILES)
def test_a_file_that_is_not_coco_or_contradicts_itself_is_refused(write, data, said, tmp_path):
    source = write(data)
    with pytest.raises(DataError, match=said) as caught:
        split_annotations(source)
    assert str(source) in str(caught.value)
    assert not (tmp_path / "semi_anns").exists()


@pytest.mark.parametrize(("changes", "said"), [
    ({"percentages": [0]}, "above 0 and below 100, got 0"),
    ({"percentages": [10, 100]}, "got 100"),
    ({"percentages": [-1]}, "got -1"),
    ({"percentages": [float("nan")]}, "got nan"),
    ({"percentages": []}, "at least one percentage"),
    ({"folds": 0}, "at least one fold, got 0"),
    ({"seed": -1}, "must not be negative, got -1"),
    ({"percentages": [1]}, "1 percent of its 40 images are 0; the labelled and the unlabelled part need one"),
])
def test_arguments_out_of_range_are_refused(write, changes, said):
    with pytest.raises(DataError, match=said):
        split_annotations(write(content()), **changes)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.json"):
        split_annotations(tmp_path / "gone.json")


def test_files_that_are_there_stay_unless_forced(write, tmp_path):
    source = write(content())
    old = tmp_path / "semi_anns" / "instances.1@10-unlabeled.json"
    old.parent.mkdir()
    old.write_text("mine")
    with pytest.raises(DataError, match=r"1@10-unlabeled\.json exists already; force"):
        split_annotations(source, [10], folds=1)
    assert [path.read_text() for path in old.parent.iterdir()] == ["mine"]
    split_annotations(source, [10], folds=1, force=True)
    assert len(read(old)["images"]) == 36


def test_a_folder_that_cannot_be_written_is_named(write, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write .*file.instances.1@10.json"):
        split_annotations(write(content()), [10], folds=1, out_dir=tmp_path / "file")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_half_done(write, tmp_path, monkeypatch):
    source = write(content())
    done = split_annotations(source, [10], folds=1)
    before = {path: path.read_bytes() for path in (tmp_path / "semi_anns").iterdir()}

    def full(self, keep):
        yield b"half"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("detcore.data.coco_text.Records.chunks", full)
    with pytest.raises(DataError, match="No space left"):
        split_annotations(source, [10], folds=1, seed=1, force=True)
    assert {path: path.read_bytes() for path in done.files[0].path.parent.iterdir()} == before


def dataset(path, **changes):
    cfg = {"type": "CocoDataset", "ann_file": str(path), "data_prefix": {"img": "images/"}}
    return DATASETS.build({**cfg, **changes})


def test_the_written_files_load_as_the_source_does(write):
    source = write(content())
    done = split_annotations(source, [25], folds=1)
    whole = dataset(source, metainfo={"classes": NAMES}, test_mode=True)
    expected = {info["img_id"]: info for info in map(whole.get_data_info, range(len(whole)))}
    for file in done.files:
        part = dataset(file.path, metainfo={"classes": NAMES}, test_mode=True)
        assert len(part) == file.images
        for info in map(part.get_data_info, range(len(part))):
            same = expected[info["img_id"]]
            assert {**info, "sample_idx": 0, "instances": 0} == {**same, "sample_idx": 0, "instances": 0}
            assert [str(one) for one in info["instances"]] == [str(one) for one in same["instances"]]


@pytest.mark.shared
def test_blood_cells_are_split_and_load(shared, tmp_path):
    source = shared("data/bccd/annotations/instances_train.json")
    done = split_annotations(source, [1, 10], folds=2, out_dir=tmp_path)
    assert done.categories == ("RBC", "WBC", "Platelets")
    whole = len(dataset(source, metainfo={"classes": done.categories}, test_mode=True))
    for labelled, rest in zip(done.files[::2], done.files[1::2], strict=True):
        loaded = [dataset(file.path, metainfo={"classes": done.categories}, test_mode=True)
                  for file in (labelled, rest)]
        assert [len(part) for part in loaded] == [labelled.images, rest.images]
        assert sum(map(len, loaded)) == whole
