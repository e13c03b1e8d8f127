"""What the command line imports, and how it tells about errors."""
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from detcore import __version__
from detcore.cli import main as cli
from detcore.errors import ConfigError

HEAVY = {"torch", "torchvision", "numpy", "cv2", "pycocotools", "rich", "pluggy", "importlib_metadata",
         "yaml", "det_models", "det_backbones", "det_datasets"}


def imported_by(code: str) -> set[str]:
    report = f"{code}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_installed_command_imports_nothing_heavy_for_its_help():
    script = Path(sys.executable).with_name("detcore")
    done = subprocess.run(
        [sys.executable, "-X", "importtime", script, "--help"], capture_output=True, text=True, check=True)
    names = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "click" in names
    assert not names & HEAVY
    assert re.search(r"run +Train and validate", done.stdout)


def test_registering_needs_no_torch():
    code = "import detcore, detcore.errors, detcore.plugins, detcore.cli.main\n"
    code += "from detcore.registry import MODELS\nMODELS.register_module(name='X', module=dict)"
    assert not imported_by(code) & {"torch", "torchvision", "numpy", "cv2", "rich"}


def test_the_core_can_be_imported_as_a_module_and_tells_its_version():
    command = [sys.executable, "-m", "detcore", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"detcore, version {__version__}\n"


def test_unknown_names_of_the_package_are_attribute_errors():
    import detcore

    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        detcore.nonsense  # noqa: B018
    assert "Config" in dir(detcore)


@pytest.fixture
def broken(monkeypatch):
    """Subcommand ``run`` as one that raises what the test wants."""
    raised = ConfigError("model.neck: unknown\n  second line")
    raised.add_note("while building model.neck: FPN")

    @click.command()
    def command():
        raise raised

    @click.group()
    def outer():
        pass

    outer.add_command(command, "inner")
    module = type(sys)("um_broken")
    module.command, module.outer = command, outer
    monkeypatch.setitem(sys.modules, "um_broken", module)
    monkeypatch.setitem(cli.COMMANDS, "run", ("um_broken", "Break."))
    nested = type(sys)("um_nested")
    nested.command = outer
    monkeypatch.setitem(sys.modules, "um_nested", nested)
    monkeypatch.setitem(cli.COMMANDS, "config", ("um_nested", "Break."))


@pytest.mark.parametrize("arguments", [["run"], ["config", "inner"]])
def test_an_error_is_its_message_and_notes_and_status_2(broken, arguments):
    done = CliRunner().invoke(cli.main, arguments)
    assert done.exit_code == 2
    assert done.stderr == "error: model.neck: unknown\n  second line\n  while building model.neck: FPN\n"


@pytest.mark.parametrize("arguments", [
    ["--traceback", "run"], ["run", "--traceback"], ["config", "inner", "--traceback"],
    ["config", "--traceback", "inner"],
])
def test_the_traceback_is_shown_on_demand(broken, arguments):
    done = CliRunner().invoke(cli.main, arguments)
    assert done.exit_code == 2
    assert "Traceback (most recent call last)" in done.stderr
    assert "raise raised" in done.stderr


def test_a_mistyped_command_is_answered_with_the_nearest():
    done = CliRunner().invoke(cli.main, ["pluginss"])
    assert done.exit_code == 2
    assert "there is no command 'pluginss'; did you mean 'plugins'?" in done.stderr


def test_the_help_of_a_subcommand_is_its_own():
    done = CliRunner().invoke(cli.main, ["plugins", "list", "--help"])
    assert done.exit_code == 0
    assert "--json" in done.stdout
    assert "--traceback" in done.stdout
