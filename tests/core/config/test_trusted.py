"""``--trust-config``: the file runs as Python, and nothing else changes."""
import pytest

from detcore.config import Config
from detcore.errors import ConfigError

SOURCE = """
import math
from pathlib import Path
_base_ = './base.py'

def double(x):
    return 2 * x

name = '{{ fileBasename }}'
num = double({{_base_.num}})
copied = {{_base_.neck}}
here = Path(__file__).name
floor = math.floor(2.5)
with open(__file__) as file:
    first = file.readline()
del file
_base_.neck.c = 5
neck = dict(k=1)
kind = Path
"""


@pytest.fixture
def path(tmp_path):
    (tmp_path / "base.py").write_text("num = 40\nneck = dict(c=1)")
    path = tmp_path / "config.py"
    path.write_text(SOURCE)
    return path


def test_a_trusted_file_runs_with_bases_and_placeholders(path):
    config = Config.fromfile(path, trust=True).to_dict()
    kind = config.pop("kind")
    assert kind.__name__ == "Path"
    assert config == {
        "num": 80,
        "neck": {"c": 5, "k": 1},
        "name": "config.py",
        "copied": {"c": 1},
        "here": "config.py",
        "floor": 2,
        "first": "\n",
        "Path": kind,
    }


def test_an_exception_in_a_trusted_file_keeps_its_cause_and_line(path):
    path.write_text("x = 1\ndef f():\n    raise KeyError('why')\n\nf()\n")
    with pytest.raises(ConfigError, match=r"config\.py:3: KeyError: 'why'") as caught:
        Config.fromfile(path, trust=True)
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize("source", ["x = {{os.environ}}", "x = {{_base_.no}}", "x = '{{_base_.no}}'"])
def test_a_wrong_placeholder_is_an_error_in_a_trusted_file_too(path, source):
    path.write_text(source)
    with pytest.raises(ConfigError, match=r"config\.py:1: "):
        Config.fromfile(path, trust=True)


def test_the_same_data_comes_out_trusted_or_not(shared_configs):
    for name in shared_configs:
        assert Config.fromfile(name, trust=True) == Config.fromfile(name)


@pytest.fixture
def shared_configs():
    from detcore.config import shipped_configs

    return sorted(path for path in shipped_configs().rglob("*.py") if path.parent.name == "retinanet")


def test_trusted_files_may_reach_further_and_markup_stays_data(path, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x.py").write_text("reached = 1")
    path.write_text(f"_base_ = {str(outside / 'x.py')!r}")
    assert Config.fromfile(path, trust=True).reached == 1
    with pytest.raises(ConfigError, match="absolute path"):
        Config.fromfile(path)
    yaml = tmp_path / "a.yaml"
    yaml.write_text("x: !!python/name:os.system")
    with pytest.raises(ConfigError, match=r"a\.yaml:1: "):
        Config.fromfile(yaml, trust=True)
