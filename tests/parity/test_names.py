"""The lists of names that det-mmdet keeps are those of the reference's sources."""

import json
from importlib.resources import files

import det_mmdet
import pytest

pytestmark = [pytest.mark.parity, pytest.mark.slow]


@pytest.fixture
def committed():
    return lambda name: files(det_mmdet).joinpath(name).read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # in their docstrings
def test_reference_names_are_those_of_the_wheels(wheels, script, committed, table):
    module = script("reference_names")
    found = module.read([wheels.mmdet, wheels.mmengine, wheels.mmcv])
    assert module.as_text(found) == committed("reference_names.json")
    names = {name for registries in found.values() for known in registries.values() for name in known}
    table.append(("registered names, as listed", len(names)))


def test_no_word_of_the_configs_is_missing(wheels, script, committed):
    module = script("reference_words")
    found = json.loads(module.as_text(module.read(sorted(wheels.configs.rglob("*.py")))))
    known = json.loads(committed("reference_words.json"))
    unknown = {place: {*words} - {*known.get(place, ())} for place, words in found.items()}
    assert not any(unknown.values()), unknown


def test_published_weights_are_those_of_the_wheels(wheels, script, committed):
    module = script("published_weights")
    assert module.read_zoo(wheels.mmdet / "mmdet") == json.loads(committed("zoo.json"))
    assert module.read_addresses(wheels.mmengine / "mmengine") == json.loads(committed("addresses.json"))
