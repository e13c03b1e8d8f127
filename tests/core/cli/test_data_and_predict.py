import json

import cv2
import pytest
import torch
from click.testing import CliRunner

from detcore.apis import init_detector
from detcore.cli.main import main
from detcore.config import Config, shipped_configs
from detcore.engine.checkpoint import save_checkpoint
from detcore.testing import tiny_coco

NAME = "retinanet_r18_fpn_shapes"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    config = Config.fromfile(shipped_configs() / "shapes" / f"{NAME}.py")
    path = tmp_path_factory.mktemp("weights") / "model.pth"
    meta = {"dataset_meta": {"classes": ["a", "b", "c", "d", "e"]}, "cfg": config.pretty_text}
    save_checkpoint(path, {"state_dict": init_detector(config).state_dict(), "meta": meta})
    return str(path)


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_make_shapes_draws_what_is_asked_for(tmp_path):
    numbers = ("--num-train", 2, "--num-val", 1, "--seed", 5, "--size", 64, 48)
    result = run("data", "make-shapes", tmp_path, *numbers)
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "train").iterdir())) == 2
    image = json.loads((tmp_path / "annotations" / "instances_val.json").read_text())["images"][0]
    assert (image["width"], image["height"]) == (64, 48)
    assert "2 pictures" in result.output


def test_predict_says_draws_and_writes_what_it_found(tmp_path, checkpoint):
    tiny_coco(tmp_path, num=2)
    out, lines = tmp_path / "out", tmp_path / "found.jsonl"
    result = run("predict", tmp_path / "images", "--config", NAME, "--checkpoint", checkpoint,
                 "--out-dir", out, "--score-thr", 0, "--json", lines, "--device", "cpu", "--batch-size", 2)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (out / "vis").iterdir()) == ["000001.jpg", "000002.jpg"]
    drawn = cv2.imread(str(out / "vis" / "000001.jpg"))
    assert drawn.shape == (432, 576, 3)  # enlarged nine times, so that labels leave something to be seen
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [record["img_path"].rpartition("/")[2] for record in records] == ["000001.jpg", "000002.jpg"]
    assert set(records[0]["classes"]) <= set("abcde")
    assert "000001.jpg: " in result.output


def test_predict_takes_the_config_from_the_checkpoint_and_json_to_the_terminal(tmp_path, checkpoint):
    tiny_coco(tmp_path, num=1)
    (tmp_path / "images" / "broken.jpg").write_bytes(b"")
    result = run("predict", tmp_path / "images", "--checkpoint", checkpoint, "--json", "-", "--no-images",
                 "--skip-bad", "--score-thr", 1, "--device", "cpu", "--out-dir", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["bboxes"] == []
    assert "000001.jpg: nothing" in result.stderr
    assert "1 of 2 images could not be read" in result.stderr
    assert not (tmp_path / "out").exists()


def test_predict_names_a_file_that_is_not_there(tmp_path, checkpoint):
    result = run("predict", tmp_path / "gone.jpg", "--config", NAME, "--checkpoint", checkpoint,
                 "--device", "cpu")
    assert result.exit_code == 2
    assert "gone.jpg" in result.output
