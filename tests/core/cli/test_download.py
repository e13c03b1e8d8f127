"""``detcore download`` puts weights, and the config of a published model, where the user wants them."""

import hashlib

import pytest
import torch
from click.testing import CliRunner

from detcore.cli.main import main
from detcore.config import Config
from detcore.plugins.checkpoints import PublishedModel

CONTENT = b"weights"
NAME = f"model-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth"
ADDRESS = f"https://example.org/{NAME}"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DETCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DETCORE_OFFLINE", "1")
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "cache" / "weights"
    folder.mkdir(parents=True)
    (folder / NAME).write_bytes(CONTENT)
    return folder


@pytest.fixture
def model(monkeypatch):
    published = PublishedModel("detcore::retinanet/retinanet_r18_fpn_1x_coco.py", [ADDRESS])
    monkeypatch.setattr("detcore.cli._download.published_model", lambda name: published)


def run(*arguments):
    return CliRunner().invoke(main, ["download", *arguments])


def test_without_a_folder_the_file_in_the_cache_is_named(cache):
    assert run(ADDRESS).output.split() == [str(cache / NAME)]


@pytest.mark.usefixtures("model")
def test_a_published_model_is_copied_with_its_whole_config(cache, tmp_path):
    for _ in range(2):  # the second time nothing changes
        done = run("some-model", "--dest", "here")
        assert done.exit_code == 0, done.output
        assert done.output.split() == [f"here/{NAME}", "here/retinanet_r18_fpn_1x_coco.py"]
    assert (tmp_path / "here" / NAME).read_bytes() == CONTENT
    config = Config.fromfile(tmp_path / "here" / "retinanet_r18_fpn_1x_coco.py")
    assert config.to_dict() == Config.fromfile("detcore::retinanet/retinanet_r18_fpn_1x_coco.py").to_dict()
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == [
        NAME,
        "retinanet_r18_fpn_1x_coco.py",
    ]


@pytest.mark.usefixtures("model")
def test_a_users_own_file_is_never_overwritten(cache, tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "retinanet_r18_fpn_1x_coco.py").write_text("mine = 1\n")
    done = run("some-model", "--dest", "here")
    assert done.exit_code == 2
    assert "retinanet_r18_fpn_1x_coco.py is there and has another content" in done.output
    assert (tmp_path / "here" / "retinanet_r18_fpn_1x_coco.py").read_text() == "mine = 1\n"


def test_what_cannot_be_had_is_one_line(cache, tmp_path):
    (tmp_path / "file").touch()
    for arguments, message in (
        (("https://example.org/gone-00000000.pth",), "DETCORE_OFFLINE is set"),
        ((ADDRESS, "--dest", "file"), "cannot write to file"),
        (("huub://x",), "nobody here resolves huub://"),
        (("no-such-model",), "no weights of that name"),
        ((f"file://{tmp_path}/file",), "is a file already"),
    ):
        done = run(*arguments)
        assert (done.exit_code, message in done.output) == (2, True), done.output
