"""``detcore config show``."""
import json

import pytest
from click.testing import CliRunner

from detcore.cli.main import main
from detcore.config import Config


def run(*arguments):
    return CliRunner().invoke(main, ["config", "show", *map(str, arguments)])


@pytest.fixture
def path(tmp_path):
    (tmp_path / "base.py").write_text("model = dict(depth=50)\nroot = 'a/'")
    path = tmp_path / "config.py"
    path.write_text("_base_ = './base.py'\npath = '${root}x'\npipeline = [dict(p=0.5)]")
    return path


def test_it_prints_the_resolved_config_as_a_config(path):
    result = run(path)
    assert result.exit_code == 0, result.output
    assert Config.fromstring(result.output) == Config.fromfile(path)
    assert "_base_" not in result.output


@pytest.mark.parametrize("form", ["yaml", "json"])
def test_other_formats(path, form):
    result = run(path, "--format", form)
    assert Config.fromstring(result.output, f".{form}") == Config.fromfile(path)


def test_overrides_may_follow_one_another_or_be_given_singly(path):
    options = ["--cfg-options", "root=b/", "pipeline.0.p=0.1", "--cfg-options", "model.depth=18"]
    result = run(path, "--format", "json", *options)
    shown = json.loads(result.output)
    assert shown == {"model": {"depth": 18}, "root": "b/", "path": "b/x", "pipeline": [{"p": 0.1}]}


def test_errors_are_one_line_and_status_2(path):
    path.write_text("x = 1\nimport os")
    result = run(path)
    assert result.exit_code == 2
    assert "config.py:2: an import is not allowed" in result.output
    assert "Traceback" not in result.output
    assert run(path, "--trust-config").exit_code == 0


def test_shipped_configs_have_names():
    result = run("detcore::retinanet/retinanet_r18_fpn_1x_coco.py")
    assert "depth=18" in result.output
