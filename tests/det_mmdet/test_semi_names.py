"""Teacher-student detectors in configs of MMDetection: det-semi's where it is installed, else a pip line."""

import pytest

from detcore.config import Config
from detcore.engine.check import check_config, errors_among
from detcore.errors import RegistryError
from detcore.plugins import replace_host
from detcore.plugins.host import PluginHost
from detcore.registry import HOOKS, LOOPS, MODELS, TRANSFORMS
from detcore.registry.scopes import source

NAMES = [
    (MODELS, "SoftTeacher"),
    (MODELS, "SemiBaseDetector"),
    (MODELS, "MultiBranchDataPreprocessor"),
    (TRANSFORMS, "MultiBranch"),
    (HOOKS, "MeanTeacherHook"),
    (LOOPS, "TeacherStudentValLoop"),
]
CONFIG = "detcore::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py"


@pytest.fixture
def without_det_semi():
    before = replace_host(PluginHost({"DETCORE_DISABLE_PLUGINS": "semi"}))
    yield
    replace_host(before)


def test_these_are_all_that_det_semi_has():
    listed = {(registry, name) for registry, name, _ in source().table("semi")}
    assert listed == {(registry.name, name) for registry, name in NAMES}


@pytest.mark.parametrize(("registry", "name"), NAMES)
def test_names_of_mmdetection_mean_det_semis(registry, name):
    own = registry.get(f"semi.{name}")
    assert registry.get(f"mmdet.{name}") is own
    assert registry.get(name, default_scope="mmdet") is own


@pytest.mark.parametrize(("registry", "name"), NAMES)
def test_a_plain_name_without_a_scope_is_refused_and_told_its_scope(registry, name):
    with pytest.raises(RegistryError, match=rf"no '{name}' in [\s\S]*did you mean 'semi\.{name}'\?"):
        registry.get(name)


@pytest.mark.parametrize(("registry", "name"), NAMES)
@pytest.mark.parametrize("scope", [None, "mmdet"])
def test_without_det_semi_the_error_is_what_to_install(registry, name, scope, without_det_semi):
    for written in (name, f"mmdet.{name}"):
        with pytest.raises(RegistryError, match=rf"'{written}' .*: det-semi has it \(pip install det-semi\)"):
            registry.get(written, default_scope=scope)
    with pytest.raises(RegistryError, match=rf"no 'semi\.{name}' in"):
        registry.get(f"semi.{name}")


def in_the_dialect(value):
    """A config as MMDetection writes it: the names of det-semi without their scope."""
    if isinstance(value, dict):
        return {key: in_the_dialect(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(in_the_dialect, value))
    return value.removeprefix("semi.") if isinstance(value, str) else value


def errors(config):
    """What a check finds besides files that are not here."""
    found = errors_among(check_config(config))
    return [each for each in found if "does not exist" not in each.message]


@pytest.fixture(scope="module")
def theirs():
    return Config({**in_the_dialect(Config.fromfile(CONFIG).to_dict()), "default_scope": "mmdet"})


def test_a_config_of_mmdetection_is_right_and_builds_its_detector(theirs):
    assert theirs.model.type == "SoftTeacher"
    assert theirs.custom_hooks[0].type == "MeanTeacherHook"
    assert not errors(theirs)
    model = MODELS.build(theirs.model, default_scope="mmdet")
    assert type(model) is MODELS.get("semi.SoftTeacher")


def test_a_slip_in_it_is_found(theirs):
    wrong = Config(theirs.to_dict())
    wrong.model.semi_train_cfg.jitter_time = 10
    (found,) = errors(wrong)
    assert found.path == "model.semi_train_cfg.jitter_time"
    assert "jitter_times" in str(found)


def test_without_det_semi_every_part_of_it_says_what_to_install(theirs, without_det_semi):
    found = [each for each in errors(theirs) if "det-semi has it (pip install det-semi)" in each.message]
    paths = {each.path for each in found}
    assert {"model", "model.data_preprocessor", "val_cfg", "custom_hooks.0"} <= paths
    assert any(path.startswith("train_dataloader.dataset") for path in paths)
