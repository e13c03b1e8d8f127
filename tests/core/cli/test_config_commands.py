"""``detcore config show --origin`` and ``detcore config diff``."""
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from detcore.cli.main import main

SHIPPED = "detcore::retinanet/retinanet_r18_fpn_1x_coco.py"


def run(*arguments, **options):
    return CliRunner().invoke(main, ["config", *map(str, arguments)], **options)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with a base and a config over it."""
    monkeypatch.chdir(tmp_path)
    Path("bases").mkdir()
    Path("bases/model.py").write_text(
        "model = dict(\n"
        "    type='Net',\n"
        "    depth=50,\n"
        "    mean=[1.0, 2.0])\n"
        "pipeline = [\n"
        "    dict(type='Load'),\n"
        "    dict(type='Flip', prob=0.5)]\n"
    )
    Path("config.py").write_text("_base_ = './bases/model.py'\nmodel = dict(depth=18)\nroot = 'data/'\n")
    return tmp_path


def origins(*arguments):
    """path -> (value, file, line)."""
    done = run("show", *arguments, "--json")
    assert done.exit_code == 0, done.output
    return {row["path"]: (row["value"], row["file"], row["line"]) for row in json.loads(done.stdout)}


def test_every_value_names_the_file_and_line_that_set_it_last(folder):
    done = run("show", "config.py", "--origin")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert [line.split("  # ")[0].rstrip() + " <- " + line.split("  # ")[1] for line in lines] == [
        "model.type = 'Net' <- bases/model.py:2",
        "model.depth = 18 <- config.py:2",
        "model.mean = [1.0, 2.0] <- bases/model.py:4",
        "pipeline.0.type = 'Load' <- bases/model.py:6",
        "pipeline.1.type = 'Flip' <- bases/model.py:7",
        "pipeline.1.prob = 0.5 <- bases/model.py:7",
        "root = 'data/' <- config.py:3",
    ]
    assert len({line.index("  # ") for line in lines}) == 1


def test_overrides_say_that_they_are_overrides(folder):
    found = origins("config.py", "--cfg-options", "model.depth=101", "pipeline.1.prob=0.1", "new.key=1")
    assert found["model.depth"] == (101, "--cfg-options", None)
    assert found["pipeline.1.prob"] == (0.1, "--cfg-options", None)
    assert found["pipeline.1.type"] == ("Flip", "bases/model.py", 7)
    assert found["new.key"] == (1, "--cfg-options", None)


@pytest.mark.parametrize("text", [
    "import math\nd = dict(x=int(math.sqrt(4)), y=dict(z=1))",
    "\nd = dict([('x', 2), ('y', dict([('z', 1)]))])",
    "\nd = {}\nd.setdefault('x', 2)\nd.setdefault('y', {'z': 1})",
])
def test_values_whose_own_line_is_unknown_name_that_of_what_holds_them(folder, text):
    """Not that of a file or an override that set something beside them later."""
    Path("bases/odd.py").write_text(text)
    Path("odd.py").write_text("_base_ = 'bases/odd.py'\nd = dict(new=1)")
    found = origins("odd.py", "--trust-config", "--cfg-options", "d.y.other=3")
    assert found["d.x"][1] == found["d.y.z"][1] == "bases/odd.py"
    assert found["d.new"] == (1, "odd.py", 2)
    assert found["d.y.other"] == (3, "--cfg-options", None)


def test_the_scope_of_another_packages_base_comes_from_that_base(folder):
    site = folder / "site/strangers/.mim/configs"
    site.mkdir(parents=True)
    (folder / "site/strangers/__init__.py").write_text("")
    (site / "a.py").write_text("model = dict(depth=1,\n    type='Net')")
    Path("own.py").write_text("_base_ = 'strangers::a.py'\nmodel = dict(depth=2)")
    sys.path.insert(0, str(folder / "site"))
    try:
        found = origins("own.py")
    finally:
        sys.path.remove(str(folder / "site"))
    assert found["model._scope_"] == ("strangers", "strangers::a.py", 2)
    assert found["model.depth"] == (2, "own.py", 2)


def test_a_key_narrows_to_what_is_below_it(folder):
    assert list(origins("config.py", "--key", "model.depth")) == ["model.depth"]
    assert list(origins("config.py", "--key", "pipeline.-1", "--key", "root")) == [
        "pipeline.1.type", "pipeline.1.prob", "root"]
    assert run("show", "config.py", "--key", "root").stdout == "root = 'data/'  # config.py:3\n"


@pytest.mark.parametrize(("key", "message"), [
    ("modle", "config.py has no key 'modle'; did you mean 'model'?"),
    ("model.dept", "model has no key 'dept'; did you mean 'depth'?"),
    ("pipeline.7", "pipeline has 2 items, so there is no pipeline.7"),
    ("pipeline.-3", "pipeline has 2 items, so there is no pipeline.-3"),
    ("root.x", "root is 'data/', which has no parts, so there is no root.x"),
])
def test_an_unknown_key_is_answered_with_close_ones(folder, key, message):
    done = run("show", "config.py", "--origin", "--key", key)
    assert done.exit_code == 2
    assert done.stderr == f"error: {message}\n"


@pytest.mark.parametrize(("name", "text", "line"), [
    ("a.json", '{\n "_base_": "bases/model.py",\n "model": {\n  "depth": 34}}', 4),
    ("a.yaml", "_base_: bases/model.py\nmodel:\n  depth: 34\n", 3),
])
def test_keys_of_json_and_yaml_know_their_lines(folder, name, text, line):
    Path(name).write_text(text)
    found = origins(name)
    assert found["model.depth"] == (34, name, line)
    assert found["model.type"] == ("Net", "bases/model.py", 2)


def test_the_line_of_a_json_key_is_its_own_whatever_stands_in_strings(folder):
    Path("a.json").write_text('{"x": "{\\":,",\n "y": [{"k": {}},\n {"k": [1]}],\n "}": {"":\n 1}}')
    assert {path: line for path, (_, _, line) in origins("a.json").items()} == {
        "x": 1, "y.0.k": 2, "y.1.k": 3, "}['']": 4}


def test_shipped_files_go_by_the_names_that_they_can_be_asked_for_by(folder):
    found = origins(SHIPPED, "--key", "model.backbone")
    assert found["model.backbone.depth"][:2] == (18, SHIPPED)
    assert found["model.backbone.type"][1] == "detcore::_base_/models/retinanet_r50_fpn.py"
    assert run("show", found["model.backbone.type"][1]).exit_code == 0


def test_keys_that_are_no_words_are_shown_and_can_be_asked_for(folder):
    Path("odd.py").write_text("t = {'a.b': 1, 2: 3, (1, 'x'): dict(c=[]), '': {}, 'a b': 4, '0': 5}")
    found = {path: value for path, (value, _, _) in origins("odd.py").items()}
    assert found == {
        "t['a.b']": 1, "t[2]": 3, "t[(1, 'x')].c": [], "t['']": {}, "t['a b']": 4, "t.0": 5}
    for path in found:
        assert list(origins("odd.py", "--key", path)) == [path]
    assert "t has no key 'a'; there are: 0, [''], ['a b'], ['a.b']" in run(
        "show", "odd.py", "--key", "t.a.b").stderr


def test_long_values_are_shortened_in_text_only(folder):
    Path("long.py").write_text("names = [f'class{i}' for i in range(500)]\npath = 'x' * 500 + '/end.pth'")
    for row in run("show", "long.py", "--origin").stdout.splitlines():
        assert len(row.split("  # ")[0]) < 80
    assert "...xxx/end.pth'  " in run("show", "long.py", "--origin").stdout
    assert "'class250'" in run("show", "long.py", "--origin", "--full").stdout
    assert len(origins("long.py")["names"][0]) == 500


def test_json_is_strict_whatever_the_config_holds(folder):
    Path("odd.py").write_text(
        "import datetime\n"
        "class Own: pass\n"
        "x = dict(inf=-float('inf'), nan=float('nan'), t=(1, (2,)), s={2, 1}, f=[lambda: 0], r=range(3))\n"
        "own = Own\nwhen = datetime.date(2020, 1, 1)\n"
    )
    found = {path: value for path, (value, _, _) in origins("odd.py", "--trust-config").items()}
    assert found["x.inf"] == "-inf"
    assert found["x.nan"] == "nan"
    assert found["x.t"] == [1, [2]]
    assert found["x.s"] == [1, 2]
    assert "<lambda>" in found["x.f"][0]
    assert found["x.r"] == "range(0, 3)"
    assert "Own" in found["own"]
    assert found["when"] == "datetime.date(2020, 1, 1)"
    assert "own = <class" in run("show", "odd.py", "--trust-config", "--origin").stdout
    assert run("show", "odd.py", "--origin").exit_code == 2


def test_control_characters_do_not_reach_the_terminal(folder):
    Path("odd.py").write_text("x = '\\x1b[31m'\ny = {'\\x1b]0;': '\\u202e'}")
    assert run("show", "odd.py", "--origin").stdout.replace("\n", "").isprintable()


def test_a_format_and_a_list_of_origins_exclude_one_another(folder):
    for arguments in (["--format", "yaml", "--origin"], ["--format", "json", "--key", "model"], ["--full"]):
        assert run("show", "config.py", *arguments).exit_code == 2


def test_output_may_end_early_in_a_pipe(folder):
    Path("long.py").write_text("x = [dict(a=i) for i in range(9000)]")
    command = f"{Path(sys.executable).with_name('detcore')} config show long.py --origin | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.stdout == "x.0.a = 0        # long.py:1\n"
    assert done.stderr == ""


def test_showing_and_comparing_import_no_torch(folder):
    code = (
        "import sys\nfrom detcore.cli.main import main\n"
        f"for arguments in (['show', {SHIPPED!r}, '--origin'], ['diff', {SHIPPED!r}, 'config.py']):\n"
        "    main(['config', *arguments], standalone_mode=False)\n"
        "assert not {'torch', 'numpy', 'cv2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True)


# ---- diff


def diff(old, new, *arguments):
    """The lines of the difference between two texts, and the exit status."""
    Path("a.py").write_text(old)
    Path("b.py").write_text(new)
    done = run("diff", "a.py", "b.py", *arguments)
    lines = done.stdout.splitlines()
    assert lines[:2] == (["--- a.py", "+++ b.py"] if done.exit_code else [])
    assert done.exit_code == (1 if lines else 0), done.output
    return lines[2:]


def test_what_was_added_removed_and_changed_is_shown_by_path(folder):
    assert diff(
        "lr = 0.1\nmodel = dict(a=1, b=dict(c=2))\nold = 'x'",
        "lr = 0.1\nmodel = dict(b=dict(c=3), d=[4])\nnew = None",
    ) == [
        "- model.a = 1", "- model.b.c = 2", "+ model.b.c = 3", "+ model.d = [4]", "- old = 'x'",
        "+ new = None",
    ]


def test_equal_configs_print_nothing_and_end_with_0(folder):
    done = run("diff", "config.py", "config.py")
    assert (done.exit_code, done.stdout) == (0, "")
    assert diff("a = dict(x=1, y=float('nan'))", "a = dict(y=float('nan'), x=1)") == []
    assert json.loads(run("diff", "config.py", "config.py", "--json").stdout) == []


@pytest.mark.parametrize(("old", "new"), [
    ("1", "1.0"), ("1", "True"), ("0.0", "False"), ("[1, 2]", "(1, 2)"), ("[1]", "[True]"),
    ("{'a': 1}", "{'a': 1.0}"), ("{1: 2}", "{True: 2}"), ("None", "False"), ("'1'", "1"),
    ("{}", "[]"), ("{1, 2}", "[1, 2]"), ("[dict(a=1)]", "(dict(a=1),)"),
])
def test_types_count(folder, old, new):
    lines = diff(f"x = {old}", f"x = {new}")
    assert {line[0] for line in lines} == {"-", "+"}
    assert diff(f"x = {old}", f"x = {old}") == []


PIPELINE = """pipeline = [
    dict(type='Load'), dict(type='Resize', scale=(1333, 800)), dict(type='Flip', prob=0.5), dict(type='Pack')]
"""


def test_an_inserted_transform_is_one_insertion(folder):
    inserted = PIPELINE.replace("dict(type='Resize'", "dict(type='Mosaic', p=1), dict(type='Resize'")
    assert diff(PIPELINE, inserted) == ["+ pipeline.1 = dict(type='Mosaic', p=1)"]
    assert diff(inserted, PIPELINE) == ["- pipeline.1 = dict(type='Mosaic', p=1)"]


def test_changes_within_an_item_that_has_moved_are_found_under_both_its_paths(folder):
    moved = PIPELINE.replace("dict(type='Load')", "dict(type='Load'), dict(type='Ann')").replace("0.5", "0.1")
    assert diff(PIPELINE, moved) == [
        "+ pipeline.1 = dict(type='Ann')", "- pipeline.2.prob = 0.5", "+ pipeline.3.prob = 0.1"]


def test_of_two_items_of_one_type_the_more_alike_face_each_other(folder):
    resize = "dict(type='Resize', scale={}, keep_ratio={})"
    old = f"p = [{resize.format(1, True)}, {resize.format(2, False)}]"
    assert diff(old, f"p = [{resize.format(3, False)}]") == [
        "- p.0 = dict(type='Resize', scale=1, keep_ratio=True)", "- p.1.scale = 2", "+ p.0.scale = 3"]


def test_an_item_of_another_type_is_removed_and_added(folder):
    other = PIPELINE.replace("dict(type='Flip', prob=0.5)", "dict(type='Crop')")
    assert diff(PIPELINE, other) == [
        "- pipeline.2 = dict(type='Flip', prob=0.5)", "+ pipeline.2 = dict(type='Crop')"]


def test_lists_within_lists_are_compared_inside(folder):
    old = "p = [dict(type='TTA', transforms=[[dict(type='R', s=1), dict(type='R', s=2)], [dict(type='F')]])]"
    assert diff(old, old.replace("s=2", "s=3")) == [
        "- p.0.transforms.0.1.s = 2", "+ p.0.transforms.0.1.s = 3"]


def test_long_lists_are_compared_item_by_item_and_short_ones_whole(folder):
    names = "names = [f'class{i}' for i in range(80)]"
    assert diff(names, f"{names}\nnames[57] = 'cat'") == ["- names.57 = 'class57'", "+ names.57 = 'cat'"]
    assert diff(names, f"{names}\nnames.insert(3, 'cat')") == ["+ names.3 = 'cat'"]
    assert diff("scale = [1333, 800]", "scale = [1333, 640]") == [
        "- scale = [1333, 800]", "+ scale = [1333, 640]"]


def test_very_long_lists_are_compared_in_bounded_time(folder):
    lines = diff("x = [dict(a=i) for i in range(4000)]", "x = [dict(a=i) for i in range(4001, 0, -1)]")
    assert len(lines) > 4000


def test_overrides_of_either_side(folder):
    done = run("diff", "config.py", "config.py", "--cfg-options-b", "model.depth=101", "--origin")
    assert done.stdout.splitlines()[2:] == [
        "- model.depth = 18  # config.py:2", "+ model.depth = 101  # --cfg-options"]
    options = ["--cfg-options-a", "model.depth=101", "--cfg-options-b", "model.depth=101"]
    assert run("diff", "config.py", "config.py", *options).exit_code == 0


def test_an_inserted_item_knows_its_own_line(folder):
    Path("a.py").write_text("p = [\n  dict(type='A'),\n  dict(type='B')]")
    Path("b.py").write_text("p = [\n  dict(type='A'),\n  dict(x=1,\n    type='C'),\n  dict(type='B')]")
    assert "# b.py:4" in run("diff", "a.py", "b.py", "--origin").stdout


def test_json_holds_both_sides_whole(folder):
    Path("a.py").write_text("x = (1, 2)\nlong = ['y' * 300]\n")
    Path("b.py").write_text("x = [1, 2]\nz = float('nan')")
    rows = json.loads(run("diff", "a.py", "b.py", "--json").stdout)
    assert rows == [
        {"change": "changed",
         "a": {"path": "x", "value": [1, 2], "file": "a.py", "line": 1, "type": "tuple"},
         "b": {"path": "x", "value": [1, 2], "file": "b.py", "line": 1, "type": "list"}},
        {"change": "removed",
         "a": {"path": "long", "value": ["y" * 300], "file": "a.py", "line": 2, "type": "list"}, "b": None},
        {"change": "added", "a": None,
         "b": {"path": "z", "value": "nan", "file": "b.py", "line": 2, "type": "float"}},
    ]


def test_only_what_is_below_a_key_is_compared(folder):
    Path("b.py").write_text("model = dict(type='Net', depth=18, mean=[1.0, 2.0])")
    assert run("diff", "config.py", "b.py", "--key", "model").exit_code == 0
    done = run("diff", "config.py", "b.py", "--key", "pipeline")
    assert done.exit_code == 2
    assert done.stderr == "error: b.py has no key 'pipeline'; there are: model\n"


def test_a_work_folder_stands_for_its_saved_config(folder):
    Path("work").mkdir()
    assert "a folder without a saved config" in run("diff", "config.py", "work").stderr
    Path("work/config.py").write_text(run("show", "config.py").stdout)
    assert run("diff", "config.py", "work").exit_code == 0
    Path("work/other.py").write_text("x = 1")
    done = run("diff", "config.py", "work")
    assert done.exit_code == 2
    assert "work/config.py, work/other.py" in done.stderr


def test_trouble_ends_with_2(folder):
    Path("bad.py").write_text("import os\nx = os.getcwd()")
    for arguments in (["nope.py", "config.py"], ["config.py", "nope.py"], ["config.py"],
                      ["config.py", "bad.py"], ["config.py", "config.py", "--cfg-options-a", "nonsense"]):
        done = run("diff", *arguments)
        assert done.exit_code == 2, arguments
        assert "Traceback" not in done.output
    assert run("diff", "config.py", "bad.py", "--trust-config").exit_code == 1


def test_objects_of_trusted_configs_that_are_made_anew_are_no_difference(folder):
    Path("own.py").write_text("class Own: pass\nf = [lambda: 0]\nown = Own()\nc = Own")
    done = run("diff", "own.py", "own.py", "--trust-config")
    assert (done.exit_code, done.stdout) == (0, "")


def test_colours_are_for_terminals(folder, monkeypatch):
    Path("b.py").write_text("x = 1")
    assert "\x1b" not in run("diff", "config.py", "b.py").stdout
    assert "\x1b[32m+ x = 1" in run("diff", "config.py", "b.py", color=True).stdout
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in run("diff", "config.py", "b.py", color=True).stdout


# ---- the page about these commands


def test_the_page_shows_what_the_commands_print(root, folder):
    page = (root / "docs/config-commands.md").read_text()
    Path("pets.yaml").write_text(page.split("```yaml\n")[1].split("```")[0])
    shown = [block.split("```")[0] for block in page.split("```console\n")[1:]]
    assert len(shown) >= 5
    for block in shown:
        command, _, output = block.partition("\n")
        arguments = command.removeprefix("$ detcore config ").split()
        if arguments[0] != "schema":  # takes seconds, has tests of its own
            assert run(*arguments).output == output, command
