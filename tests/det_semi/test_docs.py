"""The page on unlabelled images does what it says."""

import os
import re
import subprocess
import sys

import pytest

from det_semi.semi_base import SemiBaseDetector
from det_semi.settings import SoftTeacherTrainCfg
from det_semi.soft_teacher import SoftTeacher

BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def page(root):
    return (root / "docs" / "semi.md").read_text()


def test_every_setting_is_described_with_its_default(page):
    defaults = SoftTeacherTrainCfg()
    for name in SoftTeacherTrainCfg.__dataclass_fields__:
        (row,) = (line for line in page.splitlines() if re.match(rf"\|[^|]*`{name}`[^|]*\|", line))
        value = getattr(defaults, name)
        if value is not None and name not in ("sup_weight", "unsup_weight"):
            shown = re.sub(r"1e-0?2", "0.01", str(value))
            assert shown in row, row


def test_every_method_that_it_names_is_there(page):
    for name in re.findall(r"`(\w+(?:_instances|_with_aug))`", page):
        assert hasattr(SoftTeacher, name) or hasattr(SemiBaseDetector, name), name


@pytest.mark.slow
def test_its_config_goes_from_drawn_pictures_through_a_dry_run(page, tmp_path):
    blocks = BLOCK.findall(page)
    ((title, text),) = ((title, text) for _, title, text in blocks if title)
    (tmp_path / title).write_text(text)
    (commands,) = (text for language, _, text in blocks if language == "console" and "make-shapes" in text)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "300"}
    for command in commands.replace("400", "40").replace("80", "8").strip().splitlines():
        done = subprocess.run(
            [sys.executable, "-m", *command.removeprefix("$ ").split()],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, (command, done.stdout + done.stderr)
    assert "dry run: one step and one evaluation went through" in done.stdout + done.stderr
