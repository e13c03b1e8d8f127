"""Config and ConfigDict: dicts with attributes."""
import copy
import json
import pickle
from collections import OrderedDict

import pytest

from detcore.config import Config, ConfigDict
from detcore.config.document import origins_of
from detcore.errors import ConfigError


@pytest.fixture
def config():
    return Config.fromstring("model = dict(type='A', neck=dict(c=[dict(k=1), (2, dict(k=3))]))\nlr = 0.1")


def test_keys_are_attributes_at_every_level_also_within_lists(config):
    assert config.model.neck.c[0].k == 1
    assert config["model"]["neck"]["c"][1][1].k == 3
    assert isinstance(config.model, dict)
    assert json.loads(json.dumps(config.model)) == {"type": "A", "neck": {"c": [{"k": 1}, [2, {"k": 3}]]}}


def test_what_is_put_in_becomes_a_config_too(config):
    config.model.head = {"loss": [{"type": "L"}]}
    config["x"] = OrderedDict(a={"b": 1})
    config.model.update(extra={"a": {"b": 2}})
    config.model.setdefault("more", {"a": 3})
    config.model |= {"last": {"a": 4}}
    assert config.model.head.loss[0].type == "L"
    assert config.x.a.b == 1
    assert config.model.extra.a.b == 2
    assert config.model.more.a == 3
    assert config.model.last.a == 4
    assert (config.model | {"n": {"a": 5}}).n.a == 5
    assert ConfigDict([("a", {"b": 1})], c=2).a.b == 1


def test_a_missing_key_suggests_the_closest(config):
    with pytest.raises(AttributeError, match="no key 'modle' here; did you mean 'model'"):
        config.modle  # noqa: B018
    with pytest.raises(AttributeError, match="no key 'nekc' here; did you mean 'neck'"):
        config.model.nekc  # noqa: B018
    with pytest.raises(AttributeError, match="there are: neck, type"):
        config.model.zzz  # noqa: B018
    with pytest.raises(KeyError):
        config.model["zzz"]
    assert not hasattr(config.model, "zzz")
    assert getattr(config, "zzz", 5) == 5


def test_config_is_a_mapping(config):
    assert "lr" in config
    assert list(config) == ["model", "lr"]
    assert len(config) == 2
    assert config.get("lr") == 0.1
    assert config.get("nope", 3) == 3
    assert config.pop("lr") == 0.1
    assert config.pop("lr", None) is None
    with pytest.raises(KeyError):
        config.pop("lr")
    assert config.setdefault("lr", 1) == 1
    assert dict(config.items()) == dict(zip(config.keys(), config.values(), strict=True))
    assert {**config} == config.to_dict()
    config.update(lr=5)
    del config["lr"]
    del config.model.type
    assert config.to_dict() == {"model": {"neck": {"c": [{"k": 1}, (2, {"k": 3})]}}}
    with pytest.raises(AttributeError, match="no key 'typ'"):
        del config.model.typ


def test_update_of_a_config_dict_is_shallow_as_for_any_dict():
    config = ConfigDict(a={"b": 1, "c": 2})
    config.update(a={"b": 5})
    assert config == {"a": {"b": 5}}


def test_methods_cannot_be_overwritten_by_attribute(config):
    with pytest.raises(AttributeError, match=r"cfg\['items'\]"):
        config.model.items = 3
    with pytest.raises(AttributeError, match=r"cfg\['filename'\]"):
        config.filename = "x"
    config.model["items"] = 3
    assert config.model["items"] == 3


def test_to_dict_holds_no_config_dict(config):
    def kinds(value):
        yield type(value)
        parts = value.values() if isinstance(value, dict) else value
        for part in parts if isinstance(value, (dict, list, tuple)) else ():
            yield from kinds(part)

    assert ConfigDict not in set(kinds(config.to_dict()))
    assert type(config.model.to_dict()) is dict


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_a_deep_copy_shares_nothing_and_keeps_origins(config, clone):
    twin = clone(config)
    assert twin == config
    assert twin.filename == config.filename
    places = {"type": ("<string>", 1), "neck": ("<string>", 1)}
    assert origins_of(twin.model) == origins_of(config.model) == places
    twin.model.neck.c[0].k = 9
    twin.model.new = 1
    assert config.model.neck.c[0].k == 1
    assert "new" not in config.model
    assert type(twin.model.neck) is ConfigDict


def test_a_shallow_copy_shares_the_parts(config):
    for twin in (config.copy(), copy.copy(config)):
        twin.new = 1
        assert "new" not in config
        assert twin.model is config.model
    part = copy.copy(config.model)
    part.type = "B"
    assert config.model.type == "A"
    assert part.neck is config.model.neck


def test_equality_and_representation(config):
    assert config == Config(config.to_dict())
    assert config != Config({})
    assert config.model == {"type": "A", "neck": {"c": [{"k": 1}, (2, {"k": 3})]}}
    assert "'lr': 0.1" in repr(config)
    with pytest.raises(TypeError, match="unhashable"):
        hash(config)


def test_a_config_is_made_of_a_dict():
    assert Config({"a": {"b": 1}}, filename="x.py").a.b == 1
    assert Config().to_dict() == {}
    with pytest.raises(ConfigError, match="holds a dict, got list"):
        Config([1])


def test_a_config_dict_reaches_functions_as_keywords():
    def build(a, b):
        return a + b

    assert build(**ConfigDict(a=1, b=2)) == 3


def test_the_file_is_remembered(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("x: 1")
    assert Config.fromfile(path).filename == str(path)
    assert Config.fromstring("x = 1").filename is None


@pytest.mark.parametrize("suffix", [".py", ".yaml", "yml", ".json"])
def test_from_string_reads_every_format(suffix):
    texts = {".py": "x = 1", ".json": '{"x": 1}'}
    assert Config.fromstring(texts.get(suffix, "x: 1"), suffix).to_dict() == {"x": 1}


def test_from_string_refuses_other_formats():
    with pytest.raises(ConfigError, match=r"\.toml.*must end in \.py"):
        Config.fromstring("x = 1", ".toml")


def test_errors_survive_pickling_between_processes():
    with pytest.raises(ConfigError) as caught:
        Config.fromstring("\nx = y")
    twin = pickle.loads(pickle.dumps(caught.value))
    assert str(twin) == str(caught.value)
    assert (twin.file, twin.line) == ("<string>", 2)
