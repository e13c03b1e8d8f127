"""Every block of the pages on plugins, and of the recipes, does what the page says: commands are run."""

import os
import re
import shlex
import subprocess
import sys

import pytest

PAGES = [
    "plugins.md",
    "plugins/command.md",
    "plugins/observer.md",
    pytest.param("recipes.md", marks=pytest.mark.slow),  # small trainings
]
BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXPECTED = {  # what the output of a command must hold, by its beginning
    "detcore plugins list": "stripes",
    "detcore plugins doctor stripes": "stripes (stripes 0.1.0): ok",
    "detcore run striped.py": "one step and one evaluation went through",
    "python -m pytest": "1 passed",
    "detcore count": "circle",
    "cat beacon.jsonl": '"reason": "finished"',
    "detcore run frozen.py": "the backbone trains from epoch 2 on",
    "python channels.py": "(1, 64, 8, 8)\n(1, 128, 4, 4)\n(1, 256, 2, 2)\n(1, 512, 1, 1)\n(64, 128, 256",
    "detcore check fcos_rpn.py": "no errors, no warnings",
    "detcore run fcos_rpn.py": "one step and one evaluation went through",
    "detcore run rpn.py": "loss_rpn_cls",
    "detcore test rpn.py": "Wrote shapes/proposals/",
    "detcore check fast.py": "no errors, no warnings",
    "detcore run fast.py": "coco/bbox_mAP",
    "detcore run with_context.py": "one step and one evaluation went through",
}
OFFLINE = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_works(page, root, tmp_path):
    site = tmp_path / "site"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DETCORE_")}
    environment = {
        **clean,
        "PYTHONPATH": os.pathsep.join([str(site), clean.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
    }
    ran = []
    for language, title, text in BLOCK.findall((root / "docs" / page).read_text()):
        if title:
            path = tmp_path / title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            continue
        assert language == "console", f"{page}: a {language} block without a title is not run"
        for line in text.splitlines():
            command = line.removeprefix("$ ")
            done = subprocess.run(
                translated(command, site),
                env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
            )  # fmt: skip
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
            for beginning, expected in EXPECTED.items():
                if command.startswith(beginning):
                    assert expected in done.stdout + done.stderr, command
                    ran.append(beginning)
    assert ran


def translated(command, site):
    """The command of this interpreter; packages go into a folder of the test's own."""
    words = shlex.split(command)
    if words[:3] == ["pip", "install", "-e"]:
        return [sys.executable, "-m", "pip", "install", *OFFLINE, "--target", str(site), f"./{words[3]}"]
    if words[0] == "pip":
        offline = [each for each in OFFLINE if each not in words]
        return [sys.executable, "-m", *words[:-1], *offline, f"./{words[-1]}"]
    if words[0] == "python":
        return [sys.executable, *words[1:]]
    return [sys.executable, "-m", *words] if words[0] == "detcore" else words


def test_the_plugin_of_the_page_is_two_files_of_at_most_25_lines(root):
    blocks = {title: text for _, title, text in BLOCK.findall((root / "docs" / "plugins.md").read_text())}
    lines = [len(blocks[f"stripes/{name}.py"].splitlines()) for name in ("plugin", "neck")]
    assert sum(lines) <= 25
