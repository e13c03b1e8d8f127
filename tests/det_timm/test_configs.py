"""Configs with backbones of timm: MMDetection's own two, and ours."""

import pytest

from detcore.config import Config
from detcore.engine.check import check_config
from detcore.engine.dry_run import make_dry

MODEL = "detcore::retinanet/retinanet_r50_fpn_1x_coco.py"
EXAMPLES = [  # as MMDetection 3.3 writes them, but for the neck's channels where its default is right
    ({"model_name": "efficientnet_b1"}, [24, 40, 112, 320]),
    ({"model_name": "tv_resnet50"}, [256, 512, 1024, 2048]),
]


def example(told, channels):
    config = Config.fromfile(MODEL)
    config.custom_imports = {"imports": ["mmpretrain.models"], "allow_failed_imports": False}
    config.model.backbone = {
        "type": "mmpretrain.TIMMBackbone",
        "features_only": True,
        "pretrained": True,
        "out_indices": (1, 2, 3, 4),
        **told,
    }
    config.model.neck.in_channels = channels
    return config


@pytest.mark.parametrize(("told", "channels"), EXAMPLES)
def test_mmdetections_examples_are_right_and_a_wrong_channel_is_found(told, channels):
    wrong = [each for each in check_config(example(told, channels)) if each.path.startswith("model")]
    assert not wrong
    (found,) = (
        each for each in check_config(example(told, [*channels[:3], 7])) if each.path.startswith("model")
    )
    assert found.path == "model.neck.in_channels"
    assert str(channels) in found.message


@pytest.mark.parametrize(("told", "message"), [
    ({"out_indices": (1, 2, 3, 9)}, "no map 9; it has 0: stride 2"),
    ({"drop_path_rat": 0.1}, "did you mean 'drop_path_rate'"),
    ({"frozen_stages": 12}, "has stages 0 to 7"),
])  # fmt: skip
def test_what_a_backbone_refuses_is_found_before_a_run(told, message):
    found = check_config(example({**EXAMPLES[0][0], **told}, None))
    (problem,) = (each for each in found if each.path.startswith("model"))
    assert (problem.path, problem.severity) == ("model.backbone", "error")
    assert message in problem.message


def test_a_dry_run_fetches_no_published_weights(tmp_path):
    config = example(*EXAMPLES[0])
    make_dry(config, tmp_path)
    assert config.model.backbone.pretrained is False
    assert config.model.backbone.model_name == "efficientnet_b1"


@pytest.mark.parametrize("config", [
    "detcore::timm_example/retinanet_timm-efficientnet-b1_fpn_1x_coco.py",
    "detcore::timm_example/retinanet_timm-tv-resnet50_fpn_1x_coco.py",
    "detcore::timm_example/retinanet_timm-efficientnet_fpn_shapes.py",
])  # fmt: skip
def test_our_own_configs_are_right(config):
    errors = [each for each in check_config(Config.fromfile(config)) if each.severity == "error"]
    assert not [each for each in errors if "does not exist" not in each.message]
