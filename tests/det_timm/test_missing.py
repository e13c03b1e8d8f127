"""Where det-timm is installed and timm is not: what says so, and what works all the same."""

import importlib
import sys

import pytest
from click.testing import CliRunner

from detcore.errors import PluginError
from detcore.plugins import host

HINT = "timm is not installed; `pip install det-timm`"


@pytest.fixture
def without_timm(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] in ("timm", "det_timm")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "timm", None)


def test_every_component_says_how_to_come_by_it(without_timm):
    components = [reference for _, _, reference in host().table("timm")]
    assert len(components) == 2
    for reference in components:
        with pytest.raises(PluginError, match=HINT):
            reference.load()
    with pytest.raises(PluginError, match=HINT):
        importlib.import_module("det_timm.names")


@pytest.mark.parametrize("arguments", [["list"], ["list", "--classes"], ["info", "resnet18"]])
def test_every_command_says_so(without_timm, arguments):
    cli = importlib.import_module("det_timm.cli")
    with pytest.raises(PluginError, match=HINT):
        CliRunner().invoke(cli.command, arguments, catch_exceptions=False)


def test_the_scope_itself_needs_no_timm(without_timm):
    importlib.import_module("det_timm.plugin")
    assert sys.modules["timm"] is None
