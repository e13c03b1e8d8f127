"""Configs from strangers: refused with file and line, in bounded time, and nothing of them is run."""
import importlib.util
import os
import re
import time
from itertools import pairwise
from pathlib import Path

import pytest

from detcore.config import Config
from detcore.errors import ConfigError

_spec = importlib.util.spec_from_file_location("config_hostile", Path(__file__).with_name("hostile.py"))
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
HOSTILE, ANY = _module.HOSTILE, _module.ANY
SECONDS = 1.0


def refused(path):
    """The message of the ConfigError that reading the file must raise, in time."""
    start = time.process_time()  # not the wall clock: other tests run beside this one
    with pytest.raises(ConfigError) as caught:
        Config.fromfile(path)
    assert time.process_time() - start < SECONDS
    return str(caught.value)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_python_config_is_refused_with_its_line_and_not_run(name, tmp_path):
    source, line = HOSTILE[name]
    canary = tmp_path / "canary"
    path = tmp_path / "config.py"
    path.write_text(source.replace("CANARY", str(canary)), encoding="utf-8", newline="")
    message = refused(path)
    assert not canary.exists()
    assert message.startswith(str(path)), message
    found = re.match(re.escape(str(path)) + r":(\d+): ", message)
    if line:
        assert found, message
        assert int(found[1]) == line or line == ANY, message
    assert len(message) < 600


def test_there_are_more_than_a_hundred_of_them():
    assert len(HOSTILE) > 110


ESCAPES = {
    "absolute": "/etc/passwd.py",
    "absolute_json": "/proc/self/environ.json",
    "device": "/dev/zero",
    "upwards": "../../../../../../../../etc/passwd.py",
    "sibling_project": "../outside/secret.py",
    "over_the_project_and_back": "../../{tmp}/outside/secret.py",
    "home": "~/secret.py",
    "hidden_folder": "./.hidden/secret.json",
    "hidden_file": "./.secret.json",
    "link_to_file": "./link.py",
    "through_linked_folder": "./linked/secret.py",
    "link_to_nowhere": "./dangling.py",
    "link_to_itself": "./ring.py",
    "fifo": "./pipe.py",
    "folder": "./folder.py",
    "missing": "./mising.py",
    "missing_folder": "./nowhere/x.py",
    "no_suffix": "./present",
    "other_suffix": "./present.txt",
    "pickle": "./weights.pkl",
    "url": "https://example.com/config.py",
    "file_url": "file:///etc/passwd.py",
    "null_byte": "./a\\0.py",
    "surrogate": "./\\ud800.py",
    "endless_name": "./" + "a" * 5000 + ".py",
    "package_upwards": "detcore::../pyproject.json",
    "package_absolute": "detcore::/etc/passwd.py",
    "package_unknown": "nobody::x.py",
    "package_not_a_name": "../..::x.py",
    "package_without_configs": "json::decoder.py",
    "empty": "",
    "dot": ".",
    "huge_file": "./huge.py",
    "binary_file": "./binary.py",
    "latin_file": "./latin.py",
    "importing_file": "./importing.py",
}


@pytest.fixture
def project(tmp_path):
    """A project with things that a base must not reach, and a secret beside it."""
    folder = tmp_path / "project"
    outside = tmp_path / "outside"
    (folder / ".hidden").mkdir(parents=True)
    (folder / "folder.py").mkdir()
    outside.mkdir()
    (folder / "pyproject.toml").write_text("")
    for secret in (outside / "secret.py", folder / ".hidden/secret.json", folder / ".secret.json"):
        secret.write_text("{}" if secret.suffix == ".json" else "secret = 1")
    (folder / "link.py").symlink_to(outside / "secret.py")
    (folder / "linked").symlink_to(outside)
    (folder / "dangling.py").symlink_to(folder / "nothing.py")
    (folder / "ring.py").symlink_to(folder / "ring.py")
    os.mkfifo(folder / "pipe.py")
    for present in ("present", "present.txt", "present.py", "weights.pkl"):
        (folder / present).write_text("x = 1")
    (folder / "huge.py").write_text("x = 1\n" * 200_000)
    (folder / "binary.py").write_bytes(b"x = 1\n\x80\x04\x95")
    (folder / "latin.py").write_bytes("# -*- coding: latin-1 -*-\nx = 'ä'".encode("latin-1"))
    (folder / "importing.py").write_text("import os")
    return folder


@pytest.mark.parametrize("suffix", [".py", ".yaml", ".json"])
@pytest.mark.parametrize("name", ESCAPES)
def test_a_base_that_leads_astray_is_refused(name, suffix, project):
    text = ESCAPES[name].replace("{tmp}", project.parent.name)
    path = project / f"config{suffix}"
    form = {".py": '\n_base_ = ["TEXT"]', ".yaml": '\n_base_: ["TEXT"]', ".json": '\n{"_base_": ["TEXT"]}'}
    path.write_text(form[suffix].replace("TEXT", text))
    message = refused(path)
    assert "secret = 1" not in message
    if suffix != ".json":
        line = re.match(r".*?\.(?:py|yaml):(\d+): ", message, re.DOTALL)
        assert line, message


@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "missing", "suffix", "null"])
def test_what_is_no_config_file_is_refused_when_the_user_names_it(kind, project):
    path = {
        "fifo": project / "pipe.py",
        "device": "/dev/zero",
        "folder": project / "folder.py",
        "missing": project / "nope.py",
        "suffix": project / "present.txt",
        "null": "a\0.py",
    }[kind]
    refused(path)


def test_base_loops_name_the_chain(tmp_path):
    (tmp_path / "a.py").write_text("_base_ = 'b.yaml'")
    (tmp_path / "b.yaml").write_text("_base_: c.json")
    (tmp_path / "c.json").write_text('{"_base_": "./sub/../a.py"}')
    assert "a.py -> b.yaml -> c.json -> a.py" in refused(tmp_path / "a.py")
    (tmp_path / "self.py").write_text("x = 1\n_base_ = ['self.py']")
    assert re.search(r"self\.py:2: .*self\.py -> self\.py", refused(tmp_path / "self.py"))


def test_a_tree_of_empty_bases_ends(tmp_path):
    for i in range(25):
        (tmp_path / f"f{i}.py").write_text(f"_base_ = ['f{i + 1}.py', 'f{i + 1}.py']")
    (tmp_path / "f25.py").write_text("")
    assert "at most" in refused(tmp_path / "f0.py")


def test_a_chain_of_bases_ends(tmp_path):
    for i in range(100):
        (tmp_path / f"f{i}.py").write_text(f"_base_ = 'f{i + 1}.py'")
    (tmp_path / "f100.py").write_text("")
    assert "at most" in refused(tmp_path / "f0.py")


MARKUP = {
    "python_object.yaml": ("a: 1\nb: !!python/object/apply:os.system ['touch CANARY']", 2),
    "python_new.yaml": ("b: !!python/object/new:os.system ['touch CANARY']", 1),
    "python_name.yaml": ("b: !!python/name:os.system", 1),
    "python_module.yaml": ("b: !!python/module:os", 1),
    "python_tuple.yaml": ("b: !!python/tuple [1]", 1),
    "own_tag.yaml": ("b: !danger 1", 1),
    "binary.yaml": ("b: !!binary aGVsbG8=", 1),
    "timestamp.yaml": ("b: !!timestamp 2020-01-01", 1),
    "set.yaml": ("b: !!set {a, b}", 1),
    "alias_bomb.yaml": (
        "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n" for old, new in pairwise("abcdefghijkl")),
        0,
    ),
    "merge_bomb.yaml": (
        "a: &a {k: 1}\n"
        + "".join(
            f"{new}: &{new} {{<<: [{', '.join(['*' + old] * 9)}]}}\n" for old, new in pairwise("abcdefghijkl")
        ),
        0,
    ),
    "alias_of_itself.yaml": ("a: &a [*a]", 0),
    "mapping_of_itself.yaml": ("a: &a {b: *a}", 0),
    "merge_of_itself.yaml": ("a: &a {<<: *a}", 0),
    "merge_of_text.yaml": ("a: {<<: text}", 1),
    "unknown_alias.yaml": ("a: 1\nb: *nothing", 2),
    "deep_flow.yaml": ("a: " + "[" * 50_000, 0),
    "deep_flow_closed.yaml": ("a: " + "[" * 200 + "]" * 200, 0),
    "deep_map.yaml": ("a: " + "{a: " * 20_000, 0),
    "deep_block.yaml": ("- " * 20_000 + "a", 0),
    "two_documents.yaml": ("a: 1\n---\nb: 2", 0),
    "list.yaml": ("- 1", 1),
    "text.yaml": ("hello", 1),
    "tab.yaml": ("a:\n\t- 1", 2),
    "key_twice.yaml": ("a: 1\nb: 2\na: 3", 3),
    "list_key.yaml": ("? [[1]]\n: 1", 1),
    "number_key.yaml": ("1: 2", 0),
    "long_integer.yaml": ("a: " + "9" * 9000, 0),
    "sexagesimal.yaml": ("a: " + ":".join(["59"] * 9000), 0),
    "unprintable.yaml": ("a: \x07", 0),
    "unfinished.yaml": ('a: "x', 0),
    "percent.yaml": ("%YAML 9.9\n---\na: 1", 0),
    "many_events.yaml": ("a: [" + "1," * 190_000 + "]", 0),
    "placeholder.yaml": ("a: 1\nb: '{{_base_.x}}'", 2),
    "bare_placeholder.yaml": ("a: {{_base_.x}}", 1),
    "deep.json": ("[" * 100_000, 0),
    "deep_closed.json": ('{"a": ' + "[" * 200 + "]" * 200 + "}", 0),
    "deep_object.json": ('{"a":' * 50_000, 0),
    "list.json": ("[1]", 1),
    "comment.json": ('{"a": 1, // x\n "b": 2}', 1),
    "trailing_comma.json": ('{"a": 1,\n}', 2),
    "single_quotes.json": ("{'a': 1}", 1),
    "key_twice.json": ('{"a": 1,\n"a": 2}', 2),
    "long_integer.json": ('{"a": ' + "9" * 9000 + "}", 0),
    "long_lists.json": ("[" + '{"a":[1]},' * 38_000 + "1]", 1),
    "control.json": ('{"a": "\n"}', 1),
    "empty.json": ("", 1),
    "placeholder.json": ('{"b": [{"c": 1}],\n"a": "{{_base_.x}}"}', 2),
    "reference.json": ('{"a": "${b}"}', 1),
}


@pytest.mark.parametrize("name", MARKUP)
def test_hostile_markup_is_refused_and_not_run(name, tmp_path):
    text, line = MARKUP[name]
    canary = tmp_path / "canary"
    path = tmp_path / name
    path.write_text(text.replace("CANARY", str(canary)), encoding="utf-8")
    message = refused(path)
    assert not canary.exists()
    assert message.startswith(f"{path}:{line}:" if line else str(path)), message


def test_a_file_cannot_set_the_trust_that_it_needs(tmp_path, monkeypatch):
    canary = tmp_path / "canary"
    monkeypatch.setenv("DETCORE_TRUST_CONFIG", "1")
    path = tmp_path / "config.py"
    path.write_text(f"trust = True\ntrust_config = True\nopen({str(canary)!r}, 'w')")
    assert ":3: " in refused(path)
    assert not canary.exists()


def test_the_flag_holds_for_one_call_only(tmp_path):
    path = tmp_path / "config.py"
    path.write_text("import math\nx = math.floor(2.5)")
    assert Config.fromfile(path, trust=True).x == 2
    assert ":1: an import is not allowed" in refused(path)
