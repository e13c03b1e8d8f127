"""What is read once is remembered while it is true, and plugins load only when they are needed."""
import os
import sys
import time

import pytest

from detcore.plugins.memory import Memory, memory_file, stamp
from detcore.plugins.sources import named_in, source_of

OBSERVER = """
    from detcore.plugins import hookimpl
    DETCORE_API = 1

    @hookimpl
    def run_ended(reason):
        print("{package}", reason)
"""
RUN = """
    import sys
    from detcore.plugins import host, observers
    observers().run_ended(state=1, reason="over")
    host().checkpoints()
    print(sorted(name for name in sys.modules if name.endswith(".plugin")))
    print("importlib_metadata" in sys.modules)
"""


@pytest.fixture
def settled(site):
    """A site whose files are older than what counts as just now."""
    def settle():
        old = time.time() - 60
        for folder, _, names in os.walk(site.folder):
            for name in names:
                os.utime(os.path.join(folder, name), (old, old))  # noqa: PTH118
    site.settle = settle
    return site


def only(done):
    return {"DETCORE_PLUGINS": done}


def test_a_run_loads_the_plugins_that_observe_and_no_others(site):
    site.plugin("quiet")
    site.plugin("broken", "1 / 0")
    site.plugin("seeing", OBSERVER)
    seen = site.output(RUN, **only("quiet,broken,seeing")).splitlines()
    assert seen[:2] == ["det_seeing over", "['det_seeing.plugin']"]


@pytest.mark.parametrize("source", [
    "from det_odd.parts import *",
    "globals()['run_' + 'ended'] = hookimpl(lambda reason: print('odd', reason))",
    "seen = hookimpl(specname='run' + '_ended')(lambda reason: print('odd', reason))",
    "import sys; setattr(sys.modules[__name__], 'run' + '_ended', hookimpl(lambda reason: print(reason)))",
])
def test_a_plugin_whose_source_does_not_tell_its_hooks_is_loaded(site, source):
    site.plugin("odd", f"from detcore.plugins import hookimpl\nDETCORE_API = 1\n{source}\n")
    assert "'det_odd.plugin'" in site.output(RUN, **only("odd"))


def test_what_is_remembered_needs_no_metadata_library(settled):
    settled.plugin("quiet")
    settled.plugin("seeing", OBSERVER)
    settled.settle()
    first, second = (settled.output(RUN, **only("quiet,seeing")).splitlines() for _ in range(2))
    assert first[:2] == second[:2]
    assert [first[2], second[2]] == ["True", "False"]


def test_a_hook_that_is_written_later_is_called(settled):
    settled.plugin("good")
    settled.settle()
    assert settled.output(RUN, **only("good")).splitlines()[0] == "[]"
    assert settled.output(RUN, **only("good")).splitlines()[0] == "[]"
    path = settled.folder / "det_good" / "plugin.py"
    path.write_text(path.read_text() + "\n@hookimpl\ndef run_ended(reason):\n    print('later', reason)\n")
    assert settled.output(RUN, **only("good")).splitlines()[0] == "later over"


def test_what_is_installed_changed_or_removed_later_is_noticed(settled):
    scopes = "from detcore.plugins import host; print({s: r.owner for s, r in host().records().items()})"
    settled.plugin("good")
    settled.settle()
    for _ in range(2):
        assert "'good': 'det-good 1.0'" in settled.output(scopes)
    settled.plugin("other")
    points = settled.folder / "det_good-1.0.dist-info" / "entry_points.txt"
    points.write_text("[detcore.plugins]\nrenamed = det_good.plugin\n")
    settled.settle()
    seen = settled.output(scopes)
    assert "'renamed': 'det-good 1.0'" in seen
    assert "'other'" in seen
    assert "'good'" not in seen
    points.unlink()
    assert "det-good" not in settled.output(scopes)


def test_the_version_of_a_source_tree_is_noticed(settled):
    info = settled.folder / "det_tree.egg-info"
    info.mkdir()
    (info / "entry_points.txt").write_text("[detcore.plugins]\ntree = det_tree.plugin\n")
    (info / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: det-tree\nVersion: 1.0\n")
    settled.write("det_tree/plugin.py", "")
    settled.settle()
    owner = "from detcore.plugins import host; print(host().records()['tree'].owner)"
    for _ in range(2):
        assert settled.output(owner) == "det-tree 1.0\n"
    (info / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: det-tree\nVersion: 1.1.dev0\n")
    assert settled.output(owner) == "det-tree 1.1.dev0\n"


@pytest.mark.parametrize("damage", [
    b"", b"\xff\xfe", b"1\n", b"\0" * 100,
    lambda text: text[: len(text) // 2], lambda text: text.replace(b"\t", b"\n"),
    lambda text: text.replace(b"det_good.plugin", b""), lambda text: text + b"\nx\ty",
])
def test_a_damaged_memory_costs_nothing_but_time(settled, damage):
    settled.plugin("good")
    settled.settle()
    works = "from detcore.registry import MODELS; print(MODELS.get('good.Thing').__name__)"
    settled.output(works)
    file, = settled.cache.glob("plugins-*.txt")
    text = file.read_bytes()
    assert b"det_good.plugin" in text
    file.write_bytes(damage(text) if callable(damage) else damage)
    settled.python(works)
    if not callable(damage) or b"det_good.plugin" in damage(text):
        assert settled.output(works) == "Thing\n"
        assert b"det_good.plugin" in file.read_bytes()


def test_a_cache_that_cannot_be_written_is_no_error(site):
    site.plugin("good")
    site.cache.write_text("a file where the folder should be")
    assert site.output("from detcore.plugins import host; print('good' in host().scopes())") == "True\n"


def test_what_changed_just_now_is_not_remembered(tmp_path):
    file, source = tmp_path / "memory.txt", tmp_path / "source"
    source.write_text("x")
    memory = Memory(file)
    memory.remember(str(source), ["x"], [stamp(str(source))])
    memory.save()
    assert Memory(file).recall(str(source)) == []
    os.utime(source, (1, 1))
    memory.remember(str(source), ["x", "two words"], [stamp(str(source))])
    memory.save()
    assert Memory(file).recall(str(source)) == ["x", "two words"]
    memory.remember(str(source), ["a\nb"], [stamp(str(source))])
    memory.save()
    assert Memory(file).recall(str(source)) == []


def test_what_lies_on_another_path_is_kept_until_it_is_gone(tmp_path):
    file, here, there = (tmp_path / name for name in ("memory.txt", "here", "there"))
    for path in (here, there):
        path.write_text("x")
        os.utime(path, (1, 1))
        memory = Memory(file)
        memory.remember(str(path), ["x"], [stamp(str(path))])
        memory.save()
    assert Memory(file).recall(str(here)) == Memory(file).recall(str(there)) == ["x"]
    here.unlink()
    memory = Memory(file)
    memory.remember(str(there), ["y"], [stamp(str(there))])
    memory.save()
    assert Memory(file).recall(str(here)) == []


def test_the_memory_lies_in_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("DETCORE_CACHE", str(tmp_path))
    assert memory_file().parent == tmp_path
    monkeypatch.delenv("DETCORE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert memory_file().parent == tmp_path / "detcore"


def test_names_are_found_in_the_source_and_modules_without_importing_them(tmp_path, monkeypatch):
    package = tmp_path / "lazy_package"
    (package / "inner").mkdir(parents=True)
    for folder in (package, package / "inner"):
        (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    file = package / "inner" / "plugin.py"
    file.write_text("def step_finished(): ...\ndef f(c):\n    c.words('a', 'b')\nabsent = run_endeds = 1")
    monkeypatch.syspath_prepend(tmp_path)
    assert source_of("lazy_package.inner.plugin") == file
    assert named_in(file) == {"step_finished", "words"}
    assert source_of("lazy_package.inner.other") is None
    assert source_of("no_such_package.plugin") is None
    assert source_of("sys") is None
    assert "lazy_package" not in sys.modules
