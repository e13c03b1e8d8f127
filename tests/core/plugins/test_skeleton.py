"""Packages that ``detcore plugins new`` writes install, pass their own tests, and train."""

import os
import subprocess
import sys

import pytest

from detcore.errors import PluginError
from detcore.plugins.skeleton import KINDS, write_plugin
from detcore.testing import make_shapes


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """One package of each kind, installed by pip into a folder of its own."""
    folder = tmp_path_factory.mktemp("plugins")
    packages = [write_plugin(f"my-{kind}", kind, folder) for kind in KINDS]
    site = folder / "site"
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    install = [sys.executable, "-m", "pip", "install", *offline, "--target", site, *packages]
    subprocess.run(install, check=True, timeout=120)
    return folder, site


def environment(site):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DETCORE_")}
    path = os.pathsep.join([str(site), clean.get("PYTHONPATH", "")])
    return {**clean, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def test_every_kind_installs_and_passes_its_own_tests(written):
    folder, site = written
    tests = [folder / f"my_{kind}" / "tests" for kind in KINDS]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", *tests],
        env=environment(site), cwd=folder, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(KINDS)} passed" in done.stdout
    assert sorted(path.name for path in (site / "my_hook").iterdir() if path.name != "__pycache__") == [
        "__init__.py", "hook.py", "plugin.py", "py.typed",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "kind", [kind if kind == "backbone" else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def test_every_kind_trains_in_the_first_runs_config(written, tmp_path, kind):
    folder, site = written
    make_shapes(tmp_path / "data", 8, 4)
    options = [f"data_root={tmp_path}/data/", "train_cfg.max_epochs=1", "param_scheduler=None"]
    config = folder / f"my_{kind}" / "configs" / "shapes.py"
    places = [config, "--device", "cpu", "--work-dir", tmp_path / "run"]
    done = subprocess.run(
        [sys.executable, "-m", "detcore", "run", *places, "--cfg-options", *options],
        env=environment(site), cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "run" / "epoch_1.pth").is_file()


@pytest.mark.parametrize(("name", "message"), [
    ("timm", "det-timm's"),
    ("class", "cannot be called"),
    ("1st", "no name of a distribution"),
    ("my--plugin", "no name of a distribution"),
    ("../evil", "no name of a distribution"),
    ("", "no name of a distribution"),
])  # fmt: skip
def test_names_that_cannot_be(tmp_path, name, message):
    with pytest.raises(PluginError, match=message):
        write_plugin(name, "hook", tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten_and_unknown_kinds_are_named(tmp_path):
    folder = write_plugin("mine", "neck", tmp_path)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(PluginError, match="there already"):
        write_plugin("mine", "hook", tmp_path)
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(PluginError, match="backbone, neck, head"):
        write_plugin("other", "wheel", tmp_path)


def test_the_smallest_package_is_two_files_of_25_lines(tmp_path):
    folder = write_plugin("mine", "backbone", tmp_path)
    lines = (folder / "plugin.py").read_text().splitlines()
    assert len(lines) < 15
