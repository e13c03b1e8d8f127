"""What is written reads back the same."""
import keyword
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detcore.config import Config, ConfigDict
from detcore.config.pretty import to_text
from detcore.errors import ConfigError

TRICKY = r"""
{{ fileBasename }}|{{_base_.x}}|{{$HOME:/x}}|{{'{{'}}|{{'{{'}}{{ fileDirname }}|{{|}}|${lr}|$${lr}|$$${a.b}
${|$|it's|a "q"|\\|ä|1|None|~|yes|1e-3|0E0|- a|a: b|# c|2020-01-01|<<|=| |{|!!python/name:os.system|*a|&a
%a|@a|? a|>|'|"|0x1|1:30
"""
tricky = st.sampled_from(
    [*TRICKY.strip("\n").replace("\n", "|").split("|"), "", "a\nb", "\u2028", "\x85", "\x00", "\ud800"]
)
texts = st.one_of(st.text(max_size=12), tricky, st.builds("{}{}".format, tricky, tricky))
floats = st.floats(allow_nan=False)
scalars = st.one_of(st.none(), st.booleans(), st.integers(-(2**200), 2**200), floats, texts)
names = st.from_regex(r"[A-Za-z][A-Za-z_0-9]{0,8}", fullmatch=True) | st.sampled_from(["dict", "range", "_x"])
top_names = names.filter(lambda name: not keyword.iskeyword(name))
keys = st.one_of(names, texts, st.integers(-99, 99), st.sampled_from(["class", "None", "a-b", "__x__", ""]))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(keys, inner, max_size=4),
        st.sets(st.integers(0, 9), max_size=3),
        st.builds(range, st.integers(-5, 5), st.integers(-5, 5)),
    ),
    max_leaves=20,
)
utf8_texts = texts.filter(lambda text: "\ud800" not in text)
markup_values = st.recursive(
    scalars.filter(lambda x: not (isinstance(x, str) and "\ud800" in x)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(utf8_texts, inner, max_size=4),
    max_leaves=20,
)


def same(a, b):
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(top_names, values, max_size=5))
def test_python_text_reads_back_value_by_value_and_type_by_type(tree):
    text = Config(tree).pretty_text
    assert same(Config.fromstring(text).to_dict(), tree), text


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
@settings(max_examples=80, deadline=None)
@given(tree=st.dictionaries(st.from_regex(r"[A-Za-z][a-z]{0,8}", fullmatch=True), markup_values, max_size=4))
def test_yaml_and_json_read_back(suffix, tree):
    text = to_text(tree, suffix)
    assert same(Config.fromstring(text, suffix).to_dict(), tree), text


def test_nan_and_infinities_are_written():
    text = Config({"a": [math.inf, -math.inf, math.nan]}).pretty_text
    a = Config.fromstring(text).a
    assert a[:2] == [math.inf, -math.inf]
    assert math.isnan(a[2])


def test_the_layout_is_readable():
    tree = {
        "model": {"type": "A", "neck": {"channels": [256, 512, 1024, 2048], "name": "x" * 60}, "one": (1,)},
        "empty": [{}, [], (), set()],
        "odd": {"a-b": 1, 2: {"c": None}},
    }
    assert Config(tree).pretty_text == (
        "model = dict(\n"
        "    type='A',\n"
        "    neck=dict(\n"
        "        channels=[256, 512, 1024, 2048],\n"
        f"        name='{'x' * 60}',\n"
        "    ),\n"
        "    one=(1,),\n"
        ")\n"
        "empty = [{}, [], (), set()]\n"
        "odd = {'a-b': 1, 2: dict(c=None)}\n"
    )


def test_dump_writes_the_format_of_the_suffix(tmp_path):
    config = Config.fromstring("a = dict(b=(1, 2), c=range(3))")
    assert config.dump() == config.pretty_text == "a = dict(b=(1, 2), c=range(0, 3))\n"
    for name in ("x.py", "x.yaml", "x.yml", "x.json"):
        text = config.dump(tmp_path / name)
        assert (tmp_path / name).read_text() == text
    assert Config.fromfile(tmp_path / "x.json").a == {"b": [1, 2], "c": [0, 1, 2]}
    with pytest.raises(ConfigError, match=r"not '\.toml'"):
        config.dump(tmp_path / "x.toml")


def test_a_top_level_key_that_is_no_name_needs_another_format():
    config = Config({"a-b": 1})
    with pytest.raises(ConfigError, match="'a-b' cannot be written as Python"):
        config.pretty_text  # noqa: B018
    with pytest.raises(ConfigError, match="'__x' cannot be written as Python"):
        Config({"__x": 1}).pretty_text  # noqa: B018


def test_objects_that_code_put_in_are_written_by_name_or_refused(tmp_path):
    import numpy as np

    model = {"type": ConfigDict, "path": tmp_path, "lr": np.float32(0.5), "n": np.int64(3)}
    config = Config({"model": model})
    assert Config.fromstring(config.pretty_text).model == {
        "type": "detcore.config.document.ConfigDict",
        "path": str(tmp_path),
        "lr": 0.5,
        "n": 3,
    }
    config.model.bad = [object()]
    with pytest.raises(ConfigError, match=r"model\.bad\.0: an object cannot be written"):
        config.pretty_text  # noqa: B018


def test_a_config_that_holds_itself_is_refused():
    tree = ConfigDict(a=[1])
    tree.a.append(tree)
    with pytest.raises(ConfigError, match="levels deep"):
        Config(tree).pretty_text  # noqa: B018
