"""MMDetection's own configs of Soft Teacher, as its wheel brings them: right, and their detector is built."""

import pytest

from detcore.config import Config
from detcore.engine.check import check_config
from detcore.errors import ConfigError
from detcore.registry import HOOKS, LOOPS, MODELS

pytestmark = pytest.mark.parity

PARAMETERS = 83_506_112
SHARES = ["0.01", "0.02", "0.05", "0.1"]


@pytest.fixture
def read(wheels):
    folder = wheels.configs / "soft_teacher"
    return lambda share: Config.fromfile(
        folder / f"soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-{share}-coco.py"
    )


@pytest.mark.parametrize("share", SHARES)
def test_nothing_but_missing_files_is_wrong_with_them(read, share):
    problems = check_config(read(share))
    assert not [str(each) for each in problems if "does not exist" not in each.message]


def test_a_word_that_nobody_knows_would_be_found_in_them(read):
    wrong = read("0.1")
    wrong.model.semi_train_cfg.cls_pseudo_threshold = 0.9
    assert [each.path for each in check_config(wrong) if "does not exist" not in each.message] == [
        "model.semi_train_cfg.cls_pseudo_threshold"
    ]


def test_their_detector_is_built_in_their_scope(read):
    config = read("0.1")
    assert config.default_scope == "mmdet"
    model = MODELS.build(config.model, default_scope="mmdet")
    assert type(model) is MODELS.get("semi.SoftTeacher")
    assert sum(weight.numel() for weight in model.parameters()) == PARAMETERS
    with pytest.raises(ConfigError, match="two stages"):
        MODELS.build({**config.model, "detector": RETINANET}, default_scope="mmdet")


def test_their_hook_and_loop_are_det_semis(read):
    config = read("0.1")
    (hook,) = config.custom_hooks
    assert HOOKS.get(hook.type, default_scope="mmdet") is HOOKS.get("semi.MeanTeacherHook")
    assert LOOPS.get(config.val_cfg.type, default_scope="mmdet") is LOOPS.get("semi.TeacherStudentValLoop")


RETINANET = Config.fromfile("detcore::_base_/models/retinanet_r50_fpn.py").model
