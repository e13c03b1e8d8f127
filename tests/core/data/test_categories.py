"""Unlabelled images get the categories of another file."""
import json

import pytest
from click.testing import CliRunner

from detcore.cli.main import main
from detcore.data.categories import add_categories
from detcore.errors import DataError
from detcore.registry import DATASETS

CATEGORIES = [{"id": 3, "name": "cat", "supercategory": "animal"}, {"id": 8, "name": "owl"}]
INFO = {
    "info": {"year": 2017, "by": "üs"},
    "images": [{"id": n, "file_name": f"{n}.jpg", "height": 40, "width": 60, "url": "x"} for n in range(3)],
    "licenses": [{"id": 1}],
}
INSTANCES = {"images": [{"id": 0}], "annotations": [{"id": 1}], "categories": CATEGORIES, "info": "other"}


@pytest.fixture
def write(tmp_path):
    """``write(info, instances)``: the two files, and a name for a third."""

    def make(info=INFO, instances=INSTANCES):
        paths = tmp_path / "image_info.json", tmp_path / "instances.json"
        for path, content in zip(paths, (info, instances), strict=True):
            path.write_text(json.dumps(content), encoding="utf-8")
        return *paths, tmp_path / "annotations" / "out.json"

    return make


def test_all_is_kept_and_the_file_loads(write):
    info, instances, out = write()
    before = info.read_bytes(), instances.read_bytes()
    done = add_categories(info, instances, out)
    assert (done.images, done.annotations, done.categories) == (3, 0, ("cat", "owl"))
    assert json.loads(out.read_text()) == {**INFO, "annotations": [], "categories": CATEGORIES}
    assert (info.read_bytes(), instances.read_bytes()) == before
    assert [path.name for path in out.parent.iterdir()] == ["out.json"]
    cfg = {"type": "CocoDataset", "ann_file": str(out), "metainfo": {"classes": ("cat", "owl")}}
    dataset = DATASETS.build({**cfg, "filter_cfg": {"filter_empty_gt": False}})
    assert len(dataset) == 3
    assert dataset.cat2label == {3: 0, 8: 1}
    assert [len(dataset.get_data_info(row)["instances"]) for row in range(3)] == [0, 0, 0]


def test_annotations_that_are_there_stay_and_strays_are_counted(write):
    annotations = [{"id": 1, "image_id": 0, "category_id": 8}, {"id": 2, "image_id": 0, "category_id": 9}]
    info, instances, out = write({**INFO, "annotations": annotations})
    done = add_categories(info, instances, out)
    assert json.loads(out.read_text())["annotations"] == annotations
    assert (done.annotations, done.uncategorised) == (2, 1)


@pytest.mark.parametrize("own", [[], None, CATEGORIES])
def test_no_categories_or_the_same_ones_are_no_contradiction(write, own):
    info, instances, out = write({**INFO, "categories": own})
    add_categories(info, instances, out)
    assert json.loads(out.read_text())["categories"] == CATEGORIES


def test_other_categories_are_replaced_only_where_forced(write):
    info, instances, out = write({**INFO, "categories": [{"id": 3, "name": "dog"}]})
    said = r"image_info.json has .* \(dog\), others than .*instances.json \(cat, owl\); force"
    with pytest.raises(DataError, match=said):
        add_categories(info, instances, out)
    assert not out.exists()
    add_categories(info, instances, out, force=True)
    assert json.loads(out.read_text())["categories"] == CATEGORIES


@pytest.mark.parametrize(("changes", "said"), [
    ({"info": {"info": 1}}, "image_info.json: no `images`; expected a COCO file"),
    ({"info": {**INFO, "images": {}}}, "`images` must be a list of objects, got {}"),
    ({"info": {**INFO, "images": [1]}}, "`images` must be a list of objects, got .1"),
    ({"info": {**INFO, "annotations": 3}}, "`annotations` must be a list of objects, got 3"),
    ({"info": {**INFO, "images": [{"file_name": "a"}]}}, "every image needs a number or text as its `id`"),
    ({"info": {**INFO, "images": [{"id": 4}, {"id": 4}]}}, "1 image ids are there more than once: 4;"),
    ({"instances": {"images": []}}, "instances.json: no `categories`"),
    ({"instances": {"categories": []}}, "instances.json: `categories` must be a list with at least one"),
    ({"instances": []}, "top level must be an object"),
])
def test_files_that_are_not_coco_are_refused(write, changes, said):
    info, instances, out = write(**changes)
    with pytest.raises(DataError, match=said):
        add_categories(info, instances, out)
    assert not out.exists()


@pytest.mark.parametrize("which", [0, 1])
def test_the_files_that_are_read_are_never_written(write, which):
    paths = write()
    with pytest.raises(DataError, match="is one of the files to read"):
        add_categories(paths[0], paths[1], paths[which], force=True)


def test_on_the_command_line(write):
    info, instances, out = write()
    arguments = ["data", "add-categories", str(info), "--from", str(instances), "--out", str(out)]
    done = CliRunner().invoke(main, arguments)
    assert (done.exit_code, done.output) == (0, f"3 images, 0 annotations, 2 categories in {out}\n")
    again = CliRunner().invoke(main, arguments)
    assert again.exit_code == 2
    assert "out.json exists already; force (or --force) replaces files" in again.stderr
    assert CliRunner().invoke(main, [*arguments, "--force"]).exit_code == 0
    missing = CliRunner().invoke(main, ["data", "add-categories", "gone.json", *arguments[3:], "--force"])
    assert missing.exit_code == 2
    assert "gone.json" in missing.stderr
