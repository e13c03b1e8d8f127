"""``detcore migrate``: import statements change, everything around them stays."""

import stat

import pytest
from click.testing import CliRunner
from det_mmdet.migrate import migrate_text
from det_mmdet.migrate_command import command

from detcore.cli.main import main


def changed(old):
    done = migrate_text(old)
    return done.text, [(remark.line, remark.text.partition(":")[0]) for remark in done.remarks]


def test_names_go_where_they_are_now_and_the_rest_stays_byte_for_byte():
    old = '"""Doc: import mmcv."""\n\n\nfrom mmdet.registry import MODELS  # noqa: F401\nx = "import mmcv"\n'
    new, left = changed(old)
    assert new == old.replace(
        "from mmdet.registry import MODELS  #", "from detcore.registry import MODELS  #"
    )
    assert not left


def test_a_statement_of_several_lines_keeps_its_comments():
    old = "from mmdet.registry import (MODELS,  # nets\n                            HOOKS)  # end\nx = 1\n"
    assert changed(old)[0] == "# nets\nfrom detcore.registry import MODELS, HOOKS  # end\nx = 1\n"


def test_names_of_one_module_that_stand_in_several_now_are_split():
    old = "from mmdet.models import ResNet, FPN, CentripetalHead\n"
    new, left = changed(old)
    assert new == (
        "from det_backbones.resnet import ResNet\nfrom det_models.fpn import FPN\n"
        "from mmdet.models import CentripetalHead\n"
    )
    assert left == [(1, "mmdet.models.CentripetalHead")]


def test_aliases_stay_and_changed_names_get_one():
    assert changed("from mmengine.evaluator import BaseMetric\n")[0] == (
        "from detcore.evaluation import Metric as BaseMetric\n"
    )
    assert changed("from mmengine.evaluator import BaseMetric as Base, Evaluator as E\n")[0] == (
        "from detcore.evaluation import Metric as Base, Evaluator as E\n"
    )


def test_long_statements_are_put_in_parentheses():
    names = "ConfigType, InstanceList, MultiConfig, OptConfigType, OptInstanceList, OptMultiConfig"
    new, _ = changed(f"if True:\n    from mmdet.utils import {names}\n")
    assert new.startswith(
        "if True:\n    from det_mmdet.typing import (\n        ConfigType,\n        InstanceList,\n"
    )
    assert new.endswith("        OptMultiConfig,\n    )\n")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("import mmcv\nmmcv.imread('a')\n", "from det_mmdet import mmcv\nmmcv.imread('a')\n"),
        ("import mmengine as me\nme.load('a')\n", "from det_mmdet import mmengine as me\nme.load('a')\n"),
        ("import mmengine.fileio\nmmengine.fileio\n", "from det_mmdet import mmengine\nmmengine.fileio\n"),
        ("import os, mmcv\n", "from det_mmdet import mmcv\nimport os\n"),
        ("from mmengine import fileio\n", "from det_mmdet import files as fileio\n"),
        ("import mmengine.fileio as io\nio.dump\n", "from det_mmdet import files as io\nio.dump\n"),
    ],
)  # fmt: skip
def test_whole_modules_become_those_that_stand_in_for_them(old, new):
    assert changed(old) == (new, [])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("import mmdet\n", 1),
        ("\nfrom mmdet.models.losses import *\n", 2),
        ("import mmcv\nmmcv.ops.nms\n", 1),  # the successor has no `ops`
        ("import mmdet.models.losses as losses\n", 1),
        ("from mmdet.utils import register_all_modules\n", 1),
        ("from mmdet.core import bbox2roi\n", 1),
    ],
)
def test_what_has_no_place_stays_and_is_listed(text, line):
    new, left = changed(text)
    assert new == text
    assert [number for number, _ in left] == [line]


def test_imports_within_functions_conditions_and_shared_lines():
    old = (
        "try:\n    from mmengine.hooks import Hook\nexcept ImportError: from mmcv.runner import Hook\n"
        "def f():\n\tfrom mmdet.registry import HOOKS; return HOOKS\n"
        "if x: import mmcv; from mmcv.cnn import ConvModule, is_norm\n"
    )
    new, left = changed(old)
    assert new == (
        "try:\n    from detcore.engine.hooks import Hook\nexcept ImportError: from mmcv.runner import Hook\n"
        "def f():\n\tfrom detcore.registry import HOOKS; return HOOKS\n"
        "if x: from det_mmdet import mmcv; from detcore.nn.conv_module import ConvModule; "
        "from detcore.nn import is_norm\n"
    )
    assert left == [(3, "mmcv.runner.Hook")]


def test_other_peoples_imports_are_left_alone():
    text = "import torch, mmcvx\nfrom .mmdet import x\nfrom mmdetx.registry import MODELS\nfrom . import y\n"
    assert changed(text) == (text, [])


def test_configs_in_python_style_are_left_alone():
    text = "from mmengine.config import read_base\nfrom mmdet.models import FPN\nwith read_base(): import a\n"
    assert changed(text) == (text, [])


def test_a_second_time_changes_nothing():
    once = changed("from mmdet.registry import MODELS\nimport mmcv\nfrom mmengine.model import BaseModule\n")[
        0
    ]
    assert changed(once) == (once, [])


def test_line_ends_encoding_mode_and_the_missing_last_line_end_stay(tmp_path):
    path = tmp_path / "a.py"
    raw = "# coding: latin-1\r\nname = 'é\x0c'\r\nfrom mmdet.registry import (\r\n    MODELS)\r\nimport mmcv"
    path.write_bytes(raw.encode("latin-1"))
    path.chmod(0o750)
    result = CliRunner().invoke(command, [str(path), "--write"])
    assert result.exit_code == 0, result.output
    assert path.read_bytes().decode("latin-1") == (
        raw.replace(
            "from mmdet.registry import (\r\n    MODELS)", "from detcore.registry import MODELS"
        ).replace("import mmcv", "from det_mmdet import mmcv")
    )
    assert stat.S_IMODE(path.stat().st_mode) == 0o750


def test_relative_imports_of_a_file_in_mmdetections_tree(tmp_path):
    path = tmp_path / "mmdet" / "models" / "losses" / "my_loss.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "from .utils import weighted_loss\nfrom ..necks import FPN\nfrom ...registry import MODELS\n"
    )
    (path.parent / "own.py").write_text("from .my_loss import f\n")
    result = CliRunner().invoke(command, [str(tmp_path), "--write"])
    assert path.read_text() == (
        "from det_models.losses.reduce import weighted_loss\nfrom det_models.fpn import FPN\n"
        "from detcore.registry import MODELS\n"
    )
    assert (path.parent / "own.py").read_text() == "from .my_loss import f\n"
    assert result.exit_code == 0, result.output


def test_the_command_shows_a_diff_and_writes_only_when_told(tmp_path):
    (tmp_path / "pkg").mkdir()
    (tmp_path / ".venv").mkdir()
    path, broken, hidden = tmp_path / "pkg" / "a.py", tmp_path / "pkg" / "b.py", tmp_path / ".venv" / "c.py"
    for each in (path, hidden):
        each.write_text("from mmdet.registry import MODELS\nfrom mmdet.models import CentripetalHead\n")
    broken.write_text("from mmdet.registry import MODELS\ndef (:\n")
    (tmp_path / "pkg" / "note.txt").write_text("import mmcv")
    shown = CliRunner().invoke(main, ["migrate", str(tmp_path)])
    assert shown.exit_code == 1
    assert "+from detcore.registry import MODELS\n" in shown.output
    assert f"{path}:2: mmdet.models.CentripetalHead: detcore does not have it yet" in shown.output
    assert f"{broken}:2: is not valid Python" in shown.output
    assert "1 files to be changed (--write does it), 2 things left to do by hand" in shown.output
    assert path.read_text().startswith("from mmdet.registry")
    CliRunner().invoke(main, ["migrate", str(tmp_path), "--write"])
    assert path.read_text().startswith("from detcore.registry")
    assert hidden.read_text().startswith("from mmdet.registry")
    assert broken.read_text().startswith("from mmdet.registry")


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\x00", b"x = '\xe9'\n", b"# coding: nonsense\n", b"x = 1\x00\n", b""]
)
def test_files_that_are_no_python_are_named_and_left(tmp_path, content):
    path = tmp_path / "a.py"
    path.write_bytes(content)
    result = CliRunner().invoke(command, [str(path), "--write"])
    assert path.read_bytes() == content
    assert result.exit_code == (1 if content else 0)
    assert (str(path) in result.output) == bool(content)
    assert not isinstance(result.exception, Exception) or isinstance(result.exception, SystemExit)
