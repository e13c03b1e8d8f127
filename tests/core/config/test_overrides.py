"""``--cfg-options`` and ``merge_from_dict``."""
import copy

import pytest

from detcore.config import Config, parse_cfg_options
from detcore.errors import ConfigError

VALUES = {
    "1": 1,
    "-1": -1,
    "1e-3": 0.001,
    "0.5": 0.5,
    ".5": 0.5,
    "True": True,
    "false": False,
    "None": None,
    "none": "none",
    "abc": "abc",
    "data/coco/": "data/coco/",
    "a=b": "a=b",
    "": "",
    "1,2,3": [1, 2, 3],
    "[1,2]": [1, 2],
    "[1, 2.5, a b]": [1, 2.5, "a b"],
    "(1333,800)": (1333, 800),
    "(1,)": (1,),
    "(1)": (1,),
    "[]": [],
    "()": (),
    "[(640,480),(800,600)]": [(640, 480), (800, 600)],
    "(1,2),(3,4)": [(1, 2), (3, 4)],
    "[(a,[1,b]),None]": [("a", [1, "b"]), None],
    "'1'": "1",
    '"True"': "True",
    "'a,b'": "a,b",
    "['1','x,y']": ["1", "x,y"],
    '"[1,2]"': [1, 2],
    "'(1,2)'": (1, 2),
    r"'it\'s'": "it's",
    "it's": "it's",
    "{a: 1, 'b': [2, x]}": {"a": 1, "b": [2, "x"]},
    "{}": {},
    "http://host:80/x": "http://host:80/x",
    "inf": float("inf"),
    "1_000": 1000,
    "hello world": "hello world",
    "${data_root}": "${data_root}",
    "x${data_root}y{z}": "x${data_root}y{z}",
}


@pytest.mark.parametrize("text", VALUES)
def test_values_are_typed(text):
    value = parse_cfg_options([f"key={text}"])["key"]
    assert value == VALUES[text]
    assert type(value) is type(VALUES[text])


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("novalue", "expected key=value"),
        ("=1", "expected key=value"),
        ("configs/b.py", "expected key=value, got 'configs/b.py'; a command takes one config"),
        ("a=[1,2", "'\\]' is missing"),
        ("a=1]", "do not match"),
        ("a=[1)", "do not match"),
        ("a={1}", "expected 'key: value'"),
        ("a=" + "[" * 60 + "]" * 60, "too deeply"),
    ],
)
def test_a_malformed_option_is_refused(argument, message):
    with pytest.raises(ConfigError, match=message):
        parse_cfg_options([argument])


@pytest.fixture
def config():
    return Config.fromstring(
        """
model = dict(backbone=dict(type='ResNet', depth=50), mean=[1.0, 2.0], size=(1333, 800))
pipeline = [dict(type='Load'), dict(type='Flip', prob=0.5, inner=[dict(a=1)])]
lr = 0.1
"""
    )


def test_dict_and_list_paths(config):
    config.merge_from_dict(
        {
            "model.backbone.depth": 101,
            "model.backbone.new": {"a": {"b": 1}},
            "model.mean.1": 5,
            "model.size.0": 640,
            "pipeline.1.prob": 0.3,
            "pipeline.-1.inner.0.b": 2,
            "pipeline.0": {"to_float32": True},
            "brand.new.key": [1],
            "lr": None,
        }
    )
    assert config.to_dict() == {
        "model": {
            "backbone": {"type": "ResNet", "depth": 101, "new": {"a": {"b": 1}}},
            "mean": [1.0, 5],
            "size": (640, 800),
        },
        "pipeline": [
            {"type": "Load", "to_float32": True},
            {"type": "Flip", "prob": 0.3, "inner": [{"a": 1, "b": 2}]},
        ],
        "lr": None,
        "brand": {"new": {"key": [1]}},
    }
    assert config.model.backbone.new.a.b == 1


def test_nested_dicts_merge_and_may_index_lists_and_delete(config):
    model = {"backbone": {"_delete_": True, "x": 1}}
    config.merge_from_dict({"pipeline": {"0": {"type": "Other"}}, "model": model})
    assert config.pipeline[0] == {"type": "Other"}
    assert len(config.pipeline) == 2
    assert config.model.backbone == {"x": 1}


def test_a_list_replaces_a_list(config):
    config.merge_from_dict({"pipeline": [{"type": "Only"}]})
    assert config.pipeline == [{"type": "Only"}]
    assert config.pipeline[0].type == "Only"


def test_the_options_stay_as_they_were(config):
    options = {"pipeline": {"0": {"_delete_": True, "type": "Other"}}, "a.b": {"_delete_": False}}
    before = copy.deepcopy(options)
    config.merge_from_dict(options)
    assert options == before


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("lr.x", r"lr is a float \(0.1\), so 'x' cannot be set in it"),
        ("model.backbone.depth.x", r"model\.backbone\.depth is an int"),
        ("pipeline.2.type", r"pipeline has 2 items, so there is no pipeline\.2"),
        ("pipeline.-3", "pipeline has 2 items"),
        ("pipeline.first.type", "pipeline is a list of 2 items, 'first' is no index"),
        ("model.mean.7", "model.mean has 2 items"),
        ("model..depth", "is no path"),
        ("", "is no path"),
    ],
)
def test_a_path_that_cannot_be_is_refused_and_changes_nothing(config, path, message):
    before = config.to_dict()
    with pytest.raises(ConfigError, match=f"--cfg-options: .*{message}"):
        config.merge_from_dict({"lr": 5, path: 1})
    assert config.to_dict() == before


def test_a_path_through_a_value_suggests_the_container_that_was_meant():
    config = Config.fromstring("modell = 1\nmodel = dict(a=1)")
    with pytest.raises(ConfigError, match="did you mean 'model'"):
        config.merge_from_dict({"modell.a": 2})


def test_options_that_contradict_one_another_are_refused(config):
    with pytest.raises(ConfigError, match="contradict"):
        config.merge_from_dict({"new": 1, "new.key": 2})


def test_a_dict_over_a_value_is_refused_with_its_path(config):
    with pytest.raises(ConfigError, match=r"--cfg-options: model\.backbone\.depth is a dict here but an int"):
        config.merge_from_dict({"model.backbone": {"depth": {"x": 1}}})


def test_references_in_options_are_replaced(config):
    config.merge_from_dict({"work_dir": "runs/${model.backbone.type}", "raw": "$${lr}"})
    config.merge_from_dict({"copied": "${model.mean}"})
    assert config.work_dir == "runs/ResNet"
    assert config.copied == [1.0, 2.0]
    assert config.raw == "${lr}"
    with pytest.raises(ConfigError, match="no key 'lrr'; did you mean 'lr'"):
        config.merge_from_dict({"x": "${lrr}"})


def test_a_text_that_looks_like_a_reference_survives_later_merges():
    config = Config.fromstring("raw = '$${x}'\nlr = 1")
    config.merge_from_dict({"lr": 2, "new": "${lr}"})
    assert config.to_dict() == {"raw": "${x}", "lr": 2, "new": 2}


def test_options_reach_a_config_while_it_is_read(tmp_path):
    path = tmp_path / "a.py"
    path.write_text("data_root = 'a/'\npipeline = [dict(path='${data_root}x')]")
    config = Config.fromfile(path, cfg_options=parse_cfg_options(["data_root=b/", "pipeline.0.n=2"]))
    assert config.pipeline == [{"path": "b/x", "n": 2}]
