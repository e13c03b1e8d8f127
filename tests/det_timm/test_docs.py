"""Every console line of the page on timm gives what the page says."""

import os
import re
import subprocess
import sys

import pytest

BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def page(root, tmp_path):
    found = BLOCK.findall((root / "docs" / "timm.md").read_text())
    for _, title, text in found:
        if title:
            (tmp_path / title).write_text(text)
    return [text for language, _, text in found if language == "console"]


def commands(blocks):
    for block in blocks:
        for each in block.strip().split("\n\n"):
            command, _, output = each.partition("\n")
            yield command.removeprefix("$ "), output


def test_the_page_tells_what_the_backbone_tells(root):
    blocks = [text for language, _, text in BLOCK.findall((root / "docs" / "timm.md").read_text())]
    (block,) = (text for text in blocks if text.startswith("from det_timm"))
    *lines, last = block.splitlines()
    names: dict = {}
    exec("\n".join(lines), names)
    expression, _, told = last.partition("#")
    assert eval(expression, names) == eval(told)


@pytest.mark.slow
def test_every_command_prints_what_the_page_says(page, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "500"}
    seen = 0
    for command, expected in commands(page):
        done = subprocess.run(
            [sys.executable, "-m", *re.sub("'", "", command).split()],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        output = done.stdout + done.stderr
        last = expected.rpartition("...\n")[2]
        assert last.strip() in output, (command, output)
        seen += 1
    assert seen >= 7
