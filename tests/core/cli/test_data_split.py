"""``detcore data split``: its arguments and what it prints."""
import json

import pytest
from click.testing import CliRunner

from detcore.cli.main import main


@pytest.fixture
def source(tmp_path):
    """An annotation file of 20 images, every second one without objects."""
    path = tmp_path / "annotations" / "instances.json"
    path.parent.mkdir()
    images = [{"id": n, "file_name": f"{n}.jpg", "height": 40, "width": 60} for n in range(20)]
    annotations = [
        {"id": n, "image_id": n, "category_id": 1, "bbox": [1, 2, 9, 9], "area": 81} for n in range(0, 20, 2)
    ]
    categories = [{"id": 1, "name": "a[b]"}, {"id": 2, "name": "never"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def run(*arguments):
    return CliRunner().invoke(main, ["data", "split", *map(str, arguments)])


def written(folder):
    return sorted(path.name for path in folder.iterdir())


FORMS = [
    ["--percent", "10", "50", "7.5", "--folds", 1],
    ["--folds", 1, "--percent", "50", "10", "7.5"],
    ["--percent", "10", "--percent", "50", "7.5", "--folds", "1"],
    ["--percent", "7.5,50,10", "--folds=1"],
    ["--percent", "7.5,", "50,", "10", "--folds=1"],
    ["--percent=7.5", "50", "10", "--folds=1"],
    ["--percent=7.5,50", "--percent=10.0", "--folds=1"],
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("first", [True, False])
def test_percentages_may_be_written_in_all_usual_ways(source, tmp_path, form, first):
    result = run(*([source, *form] if first else [*form, source]))
    assert result.exit_code == 0, result.output
    parts = [f"instances.1@{each}" for each in ("10", "50", "7.5")]
    expected = sorted(f"{part}{kind}.json" for part in parts for kind in ("", "-unlabeled"))
    assert written(tmp_path / "semi_anns") == expected


def test_a_file_behind_two_dashes_is_no_percentage(source, tmp_path, monkeypatch):
    monkeypatch.chdir(source.parent)
    source.rename("5")
    result = run("--folds", 1, "--percent", 50, "--", "5")
    assert result.exit_code == 0, result.output
    assert written(tmp_path / "semi_anns") == ["5.1@50-unlabeled.json", "5.1@50.json"]


def test_the_usual_percentages_and_folds_are_the_defaults(source, tmp_path):
    refused = run(source)
    assert refused.exit_code == 2
    assert "1 percent of its 20 images are 0" in refused.stderr
    data = json.loads(source.read_text())
    data["images"] = [{**data["images"][0], "id": n} for n in range(100)]
    source.write_text(json.dumps(data))
    result = run(source)
    assert result.exit_code == 0, result.output
    assert len(written(tmp_path / "semi_anns")) == 5 * 4 * 2
    assert {name.split("@")[0] for name in written(tmp_path / "semi_anns")} == {
        f"instances.{fold}" for fold in (1, 2, 3, 4, 5)}


def test_files_counts_and_missing_classes_are_shown(source, tmp_path):
    result = run(source, "--percent", 50, "--folds", 2, "--out-dir", tmp_path / "out", "--seed", 1)
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines()]
    counts = []
    for name in written(tmp_path / "out"):
        content = json.loads((tmp_path / "out" / name).read_text())
        assert [name, str(len(content["images"])), str(len(content["annotations"]))] in rows
        if "unlabeled" not in name:
            counts.append(len(content["annotations"]))
    assert ["category", "in", "all", "50%"] in rows
    shown = f"{min(counts)}-{max(counts)}" if min(counts) < max(counts) else str(counts[0])
    assert ["a[b]", "10", shown] in rows
    assert ["never", "0", "0"] in rows
    assert f"4 files in {tmp_path / 'out'}" in result.stdout
    assert "warning: the source has no annotation of never" in result.stderr


def test_a_labelled_part_without_a_class_is_named(source, tmp_path):
    data = json.loads(source.read_text())
    data["annotations"][0]["category_id"] = 2
    source.write_text(json.dumps(data))
    result = run(source, "--percent", 5, "--folds", 4)
    assert result.exit_code == 0, result.output
    for fold in (1, 2, 3, 4):
        name = f"instances.{fold}@5.json"
        found = json.loads((tmp_path / "semi_anns" / name).read_text())["annotations"]
        absent = [label for id_, label in ((1, "a[b]"), (2, "never")) if id_ not in
                  [annotation["category_id"] for annotation in found]]
        assert f"warning: {name} has no labelled instance of {', '.join(absent)}\n" in result.stderr


@pytest.mark.parametrize(("arguments", "said"), [
    (["--percent", "50", "x"], "unexpected extra argument"),
    (["--percent", "1,x"], "'x' is not a number"),
    (["--percent"], "requires an argument"),
    (["--percent", "50", "100"], "below 100, got 100"),
    (["--percent", "50", "-5"], "above 0 and below 100, got -5"),
    (["--percent", "50", "--folds", "0"], "at least one fold, got 0"),
])
def test_wrong_arguments_are_told_and_nothing_is_written(source, tmp_path, arguments, said):
    result = run(source, *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert not (tmp_path / "semi_anns").exists()


def test_files_that_are_there_need_force(source, tmp_path):
    arguments = (source, "--percent", 50, "--folds", 1)
    assert run(*arguments).exit_code == 0
    refused = run(*arguments, "--seed", 1)
    assert refused.exit_code == 2
    assert "instances.1@50.json exists already, and 1 more;" in refused.stderr
    before = (tmp_path / "semi_anns" / "instances.1@50.json").read_bytes()
    assert run(*arguments, "--seed", 1, "--force").exit_code == 0
    assert (tmp_path / "semi_anns" / "instances.1@50.json").read_bytes() != before


def test_a_file_in_the_current_folder_is_split_beside_that_folder(source, tmp_path, monkeypatch):
    monkeypatch.chdir(source.parent)
    assert run(source.name, "--percent", 50, "--folds", 1).exit_code == 0
    assert len(written(tmp_path / "semi_anns")) == 2
