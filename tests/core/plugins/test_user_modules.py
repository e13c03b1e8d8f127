import pickle
import sys
import textwrap

import pytest

from detcore.errors import ConfigError, PluginError
from detcore.plugins import load_user_modules, plugin_state, user_modules
from detcore.registry import MODELS
from detcore.registry.core import REGISTRIES, USER

HEAD = """
    from detcore.registry import MODELS

    @MODELS.register_module()
    class {name}:
        value = {value}
"""


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    """Nothing that a test loads outlives it."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(user_modules, "_imports", [])
    monkeypatch.setattr(user_modules, "_files", {})
    modules = set(sys.modules)
    kept = {name: dict(registry._registered) for name, registry in REGISTRIES.items()}
    yield
    for name in set(sys.modules) - modules:
        if name.startswith(("detcore_user_", "um_")):
            del sys.modules[name]
    for name, registry in REGISTRIES.items():
        registry._registered = kept[name]


@pytest.fixture
def write(tmp_path):
    def write(path, name="UserHead", value=1, more=""):
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(textwrap.dedent(HEAD.format(name=name, value=value)) + more)
        return target

    return write


def test_files_and_modules_register_their_components(write):
    write("my_head.py", "FileHead")
    write("um_heads.py", "ModuleHead")
    load_user_modules(["um_heads"], ["./my_head.py"], trusted=True)
    assert MODELS.get("FileHead").value == 1
    assert MODELS.get("ModuleHead").__module__ == "um_heads"


def test_one_name_and_file_names_among_imports_are_fine(write):
    write("um_heads.py", "ModuleHead")
    load_user_modules("um_heads", trusted=True)
    write("my_head.py", "FileHead")
    load_user_modules("./my_head.py", trusted=True)
    assert MODELS.get("FileHead")


@pytest.mark.parametrize("wanted", [{"imports": ["um_heads"]}, {"files": ["um_heads.py"]}])
def test_without_trust_nothing_runs_and_the_flag_is_named(write, wanted):
    write("um_heads.py", more="raise AssertionError('was run')")
    with pytest.raises(ConfigError, match=r"um_heads.*--trust-config"):
        load_user_modules(**wanted, trusted=False)
    assert "um_heads" not in sys.modules


def test_what_an_installed_plugin_holds_needs_no_trust():
    load_user_modules(["detcore.errors"], trusted=False)
    with pytest.raises(ConfigError, match="os"):
        load_user_modules(["detcore.errors", "os"], trusted=False)


def test_loading_again_does_nothing_unless_the_file_changed(write):
    import builtins

    count = "import builtins\nbuiltins.um_count = getattr(builtins, 'um_count', 0) + 1\n"
    path = write("my_head.py", more=count)
    load_user_modules(files=[path], trusted=True)
    load_user_modules(files=["my_head.py"], trusted=True)
    assert builtins.um_count == 1
    first = MODELS.get("UserHead")
    write("my_head.py", value=22)
    load_user_modules(files=[path], trusted=True)
    assert MODELS.get("UserHead").value == 22
    assert MODELS.get("UserHead") is not first
    del builtins.um_count


def test_files_of_one_name_in_two_folders_do_not_meet(write):
    load_user_modules(files=[write("a/head.py", "HeadA"), write("b/head.py", "HeadB")], trusted=True)
    assert MODELS.get("HeadA").__module__ != MODELS.get("HeadB").__module__


def test_a_module_that_raises_is_rolled_back_and_chained(write):
    write("my_head.py", more="raise OSError('no device')")
    with pytest.raises(PluginError, match=r"cannot import './my_head.py': OSError: no device") as caught:
        load_user_modules(files=["./my_head.py"], trusted=True)
    assert isinstance(caught.value.__cause__, OSError)
    assert MODELS.registered(USER, "UserHead") is None
    assert plugin_state().files == ()


def test_modules_that_were_imported_whole_keep_their_names(write):
    write("um_whole.py", "Whole")
    write("um_half.py", "Half", more="import um_whole\nraise OSError")
    with pytest.raises(PluginError):
        load_user_modules(["um_half"], trusted=True)
    assert MODELS.registered(USER, "Half") is None
    assert MODELS.get("Whole")


def test_missing_modules_are_errors_unless_failures_are_allowed(caplog):
    with pytest.raises(PluginError, match="cannot import 'um_nowhere': ModuleNotFoundError"):
        load_user_modules(["um_nowhere"], trusted=True)
    with pytest.raises(PluginError, match=r"cannot import 'nowhere.py': FileNotFoundError"):
        load_user_modules(["nowhere.py"], trusted=True)
    load_user_modules(["um_nowhere"], trusted=True, allow_failed=True)
    assert "cannot import 'um_nowhere', which may fail here" in caplog.text


def test_a_scope_stands_in_for_a_package_that_is_not_there(site):
    site.plugin("mmseg")
    seen = site.output("""
        import sys
        from detcore.plugins import host, load_user_modules, plugin_state
        load_user_modules(["mmseg.models"], trusted=False)
        print(host().records()["mmseg"].status, "mmseg" in sys.modules, plugin_state().imports)
    """)
    assert seen == "loaded False ()\n"


def test_the_state_names_what_was_loaded_and_survives_a_pickle(write):
    path = write("my_head.py")
    write("um_heads.py", "ModuleHead")
    load_user_modules(["um_heads"], [path], trusted=True)
    state = pickle.loads(pickle.dumps(plugin_state()))
    assert state.imports == ("um_heads",)
    assert state.files == (str(path),)


WORKERS = """
    import multiprocessing, sys
    from detcore.plugins import load_user_modules, plugin_state
    from detcore.registry import MODELS

    def look(parcel):
        state, part = parcel
        from detcore.plugins import host
        import os
        return [type(part).__name__, MODELS.get("UserHead").__name__, MODELS.get("good.Thing").__name__,
                MODELS.build(dict(type="ModuleHead")).value, host().describe("off"),
                os.environ.get("DETCORE_DISABLE_PLUGINS")]

    if __name__ == "__main__":
        import os
        load_user_modules(["um_heads"], ["my_head.py"], trusted=True)
        parcel = (plugin_state(), MODELS.build(dict(type="UserHead")))
        del os.environ["DETCORE_DISABLE_PLUGINS"]
        with multiprocessing.get_context(sys.argv[1]).Pool(1) as pool:
            print(*pool.apply(look, (parcel,)), sep="; ")
"""


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_workers_see_the_same_plugins_and_user_modules(site, method):
    site.plugin("good")
    site.plugin("off")
    site.write("my_head.py", HEAD.format(name="UserHead", value=1))
    site.write("um_heads.py", HEAD.format(name="ModuleHead", value=5))
    script = site.write("script.py", WORKERS)
    done = site.start(str(script), method, DETCORE_DISABLE_PLUGINS="off")
    variable = "None" if method == "fork" else "off"  # a fork inherits the host itself
    assert done.stdout == (
        f"UserHead; UserHead; Thing; 5; blocked: disabled by DETCORE_DISABLE_PLUGINS; {variable}\n"
    ), done.stderr
