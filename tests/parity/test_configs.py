"""Every config of MMDetection 3.3.0 gives what mmengine makes of it, and nothing of it is run.

Ours are equal to those of the same names.
"""

import pickle
import subprocess
import sys
from itertools import islice

import pytest

from detcore.config import Config, shipped_configs
from detcore.engine.config_schema.places import DESCRIPTIONS
from detcore.errors import ConfigError

pytestmark = pytest.mark.parity

HELPER_SCRIPTS = [
    f"{folder}/odinw/override_category.py" for folder in ("glip", "grounding_dino", "mm_grounding_dino")
]
NO_SUCH_BASE = [
    "bytetrack/bytetrack_yolox_x_8xb4-amp-80e_crowdhuman-mot17halftrain_test-mot17test.py",
    "sort/faster-rcnn_r50_fpn_8xb2-4e_mot17train_test-mot17train.py",
    "sort/faster-rcnn_r50_fpn_8xb2-8e_mot20halftrain_test-mot20halfval.py",
    "sort/faster-rcnn_r50_fpn_8xb2-8e_mot20train_test-mot20train.py",
]
OUR_OWN = {"bccd", "nuts", "semi", "semi_bccd", "shapes", "timm_example"}
"""Methods and data sets that the reference has no configs of, and backbones that it names in another way."""
FOLDERS = {file.parent.relative_to(shipped_configs()).as_posix() for file in shipped_configs().rglob("*.py")}
VIEWS = [f"retinanet/retinanet_r18_fpn_{schedule}_coco.py" for schedule in ("1x", "1xb8-1x")]
"""Ours can be tested on several views of an image, which the reference sets up for its ResNet-50 only."""
_PASTED = "simple_copy_paste/mask-rcnn_r50_fpn_rpn-2conv_4conv1fc_syncbn-all_32xb2"
MENDED = {f"{_PASTED}-{kind}-90k_coco.py": {"train_cfg"} for kind in ("ssj", "ssj-scp")}
"""Parts that the reference's file does not set as its name says."""
EQUAL, NEED_MMPRETRAIN = 851, 11
SECONDS = 300


def differences(ours, theirs, path=""):
    """Paths at which two values differ, be it in type: a tuple is no list, 1 is no 1.0 and no True."""
    if type(ours) is not type(theirs):
        yield f"{path}: {type(ours).__name__}, not {type(theirs).__name__}"
    elif isinstance(ours, dict):
        for key in ours.keys() ^ theirs.keys():
            yield f"{path}.{key}: {'missing' if key in theirs else 'not in the reference'}"
        for key in ours.keys() & theirs.keys():
            yield from differences(ours[key], theirs[key], f"{path}.{key}")
    elif isinstance(ours, list | tuple):
        if len(ours) != len(theirs):
            yield f"{path}: {len(ours)} items, not {len(theirs)}"
        for i, (one, other) in enumerate(zip(ours, theirs, strict=False)):
            yield from differences(one, other, f"{path}.{i}")
    elif ours != theirs:
        yield f"{path}: {ours!r}, not {theirs!r}"


def test_differences_are_noticed_in_value_and_type():
    one = {"a": [1, (2.0, None)], "b": {"c": True}}
    assert not list(differences(one, {"b": {"c": True}, "a": [1, (2.0, None)]}))
    for other in ([1, [2.0, None]], [1, (2, None)], [1.0, (2.0, None)], [1], 1, [True, (2.0, None)]):
        assert list(differences(one, {**one, "a": other}))
    assert list(differences(one, {**one, "b": {"c": 1}})) == [".b.c: bool, not int"]
    assert list(differences(one, {"a": one["a"]})) == [".b: not in the reference"]


@pytest.fixture(scope="module")
def load_all(wheels, script, tmp_path_factory):
    """Load all configs in a fresh process: ``load_all('detcore', *folders on its path)``."""
    file = script("load_all").__file__

    def run(toolbox, *folders, options=()):
        result = tmp_path_factory.mktemp("loaded") / "result.pickle"
        command = [sys.executable, file, toolbox, str(wheels.configs), str(result), *options]
        environment = wheels.environment(*folders)
        subprocess.run(command, check=True, timeout=SECONDS, env=environment, cwd=result.parent)
        return pickle.loads(result.read_bytes())

    return run


@pytest.fixture(scope="module")
def ours(load_all):
    return load_all("detcore")


@pytest.fixture(scope="module")
def theirs(load_all, wheels):
    return load_all("mmengine", wheels.mmengine, wheels.needs)


def loaded(result):
    return {name for name, found in result["configs"].items() if isinstance(found, dict)}


def compared(ours, theirs, names):
    """The first differences of each config that has any."""
    each = {name: differences(ours["configs"][name], theirs["configs"][name]) for name in names}
    return {name: first for name, found in each.items() if (first := list(islice(found, 3)))}


@pytest.mark.slow
def test_what_the_reference_loads_is_equal(ours, theirs, table):
    both = sorted(loaded(theirs) - {*HELPER_SCRIPTS})
    wrong = compared(ours, theirs, both)
    table.append(("configs that the reference loads", len(both)))
    table.append(("  of these equal in values and types", len(both) - len(wrong)))
    assert not wrong
    assert len(both) == EQUAL


@pytest.mark.slow
def test_what_needs_mmpretrain_loads(ours, theirs, load_all, wheels, table):
    needy = sorted({*ours["configs"]} - loaded(theirs) - {*NO_SUCH_BASE, *HELPER_SCRIPTS})
    assert len(needy) == NEED_MMPRETRAIN
    # Six ask for its modules by custom_imports; five have bases there, for which det-mmdet's stand in.
    paths = (wheels.mmengine, wheels.needs, wheels.mmpretrain)
    reference = load_all("mmengine", *paths, options=["--no-custom-imports"])
    assert {*needy} <= loaded(reference)
    wrong = compared(ours, reference, needy)
    with_it = compared(load_all("detcore", wheels.mmpretrain), reference, needy)
    table.append(("configs that it cannot load without MMPretrain", len(needy)))
    table.append(("  of these ours loads without it, equal", len(needy) - len(wrong)))
    table.append(("  of these ours loads with it, equal", len(needy) - len(with_it)))
    assert not wrong
    assert not with_it


@pytest.mark.slow
def test_a_missing_base_is_an_error_that_names_it(ours, theirs, table):
    found = [ours["configs"][name] for name in NO_SUCH_BASE]
    for error in found:
        assert error.startswith("ConfigFileError")
        assert ":1: _base_: " in error
        assert "did you mean" in error
    assert not loaded(theirs) & {*NO_SUCH_BASE}
    table.append(("configs with a missing base, told so", len(found)))


@pytest.mark.slow
def test_scripts_among_the_configs_are_refused(ours, table):
    for name in HELPER_SCRIPTS:
        assert ":2: an import is not allowed" in ours["configs"][name]
    table.append(("helper scripts refused", len(HELPER_SCRIPTS)))


@pytest.mark.slow
def test_no_code_is_run(ours, theirs, table):
    assert len(theirs["executed"]) > len(theirs["configs"]), "the watch notices code that is run"
    table.append(("code objects run: theirs, ours", f"{len(theirs['executed'])}, {len(ours['executed'])}"))
    assert ours["executed"] == []


@pytest.mark.slow
def test_it_takes_less_time_than_the_reference(ours, theirs, table):
    ratio = theirs["cpu_s"] / ours["cpu_s"]
    figures = f"{theirs['cpu_s']:.1f} s, {ours['cpu_s']:.1f} s ({ratio:.1f} times faster)"
    table.append(("CPU time for all: theirs, ours", figures))
    assert ratio > 2


def test_a_planted_side_effect_stays_undone(wheels, tmp_path):
    canary = tmp_path / "canary"
    lines = (wheels.configs / "_base_/models/retinanet_r50_fpn.py").read_text().splitlines()
    path = tmp_path / "config.py"
    for at in (0, len(lines)):
        planted = [*lines[:at], f"planted = open({str(canary)!r}, 'w')", *lines[at:]]
        path.write_text("\n".join(planted))
        with pytest.raises(ConfigError, match=rf"config\.py:{at + 1}: calling open is not allowed"):
            Config.fromfile(path)
    assert not canary.exists()


def test_mmdet_names_lead_to_the_wheel_where_it_is_installed(wheels, tmp_path):
    (tmp_path / "x.py").write_text("_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'")
    code = (
        "import sys; from detcore.config import Config; name, path = sys.argv[1:]\n"
        "model = Config.fromfile(path).model; assert (model.type, model._scope_) == ('FasterRCNN', 'mmdet')\n"
        "model = Config.fromfile(name).model; assert model.type == 'FasterRCNN' and '_scope_' not in model\n"
        "assert not [m for m in sys.modules if m.partition('.')[0] == 'mmdet']"
    )
    name = "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"
    command = [sys.executable, "-c", code, name, str(tmp_path / "x.py")]
    subprocess.run(command, check=True, timeout=60, env=wheels.environment(wheels.mmdet), cwd=tmp_path)


def test_some_configs_again_in_this_process(wheels):
    """A quick part for every day: one config in fifteen, each equal when it is printed and read again."""
    names = sorted(wheels.configs.rglob("*.py"))[7::15]
    read = 0
    for path in names:
        try:
            config = Config.fromfile(path)
        except ConfigError:
            assert {path.relative_to(wheels.configs).as_posix()} <= {*NO_SUCH_BASE, *HELPER_SCRIPTS} or (
                "classification" in path.parts
            )
            continue
        assert Config.fromstring(config.pretty_text) == config
        read += 1
    assert read > 50


def as_meant(value):
    """A config with what our configs and the reference's write differently though they mean the same.

    All types of the reference share a scope, or are MMPretrain's, whose modules it has to import; and what is
    off by default may be written out or not.
    """
    if isinstance(value, list | tuple):
        return type(value)(map(as_meant, value))
    if not isinstance(value, dict):
        return value
    kept = {key: as_meant(each) for key, each in value.items() if (key, each) != ("format_only", False)}
    if isinstance(value.get("type"), str):
        kept["type"] = value["type"].removeprefix("semi.").removeprefix("mmdet.").removeprefix("mmpretrain.")
    if value.get("default_scope") == "mmdet":
        kept["default_scope"] = "detcore"
    if value.get("custom_imports") == {"imports": ["mmpretrain.models"], "allow_failed_imports": False}:
        del kept["custom_imports"]
    if isinstance(value.get("auto_scale_lr"), dict):
        kept["auto_scale_lr"] = {"enable": False, **value["auto_scale_lr"]}
    return kept


def other_variables(ours, theirs):
    """Names that only one of the two files has for values on their way to where a run looks for them."""
    return (ours.keys() ^ theirs.keys()) - {*DESCRIPTIONS}


@pytest.mark.parametrize("folder", sorted(FOLDERS - OUR_OWN))
def test_ours_equal_the_references_of_the_same_name(folder, wheels, table):
    names = {path.name for path in (shipped_configs() / folder).glob("*.py")}
    names &= {path.name for path in (wheels.configs / folder).glob("*.py")}
    assert names
    wrong = {}
    for name in sorted(f"{folder}/{name}" for name in names):
        ours = as_meant(Config.fromfile(f"detcore::{name}").to_dict())
        theirs = as_meant(Config.fromfile(wheels.configs / name).to_dict())
        left_out = other_variables(ours, theirs) | ({"tta_model", "tta_pipeline"} if name in VIEWS else set())
        left_out |= MENDED.get(name, set())
        both = [{key: value for key, value in each.items() if key not in left_out} for each in (ours, theirs)]
        if first := list(islice(differences(*both), 3)):
            wrong[name] = first
    assert not wrong
    table.append((f"our configs equal to the reference's: {folder}", len(names)))


def test_the_comparison_of_ours_notices_a_value_and_a_part_that_is_missing(wheels):
    name = "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"
    theirs = as_meant(Config.fromfile(wheels.configs / name).to_dict())
    ours = as_meant(Config.fromfile(f"detcore::{name}").to_dict())
    ours["model"]["rpn_head"]["anchor_generator"]["scales"][0] = 4
    assert not other_variables(ours, theirs)
    assert list(differences(ours, theirs)) == [".model.rpn_head.anchor_generator.scales.0: 4, not 8"]
    del ours["default_hooks"]
    assert not other_variables(ours, theirs)
    assert ".default_hooks: missing" in list(differences(ours, theirs))
