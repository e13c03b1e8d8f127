"""``detcore timm``: which models there are, and what one gives."""

import json

import pytest
import torch
from click.testing import CliRunner

from det_timm.backbone import TIMMBackbone
from det_timm.cli import command
from detcore.errors import ConfigError


def output(*arguments):
    return CliRunner().invoke(command, arguments, catch_exceptions=False).output


def test_models_and_sets_of_weights_are_listed_by_pattern():
    assert output("list", "resnet18*").split() == ["resnet18", "resnet18d"]
    assert "resnet18.a1_in1k" in json.loads(output("list", "resnet18*", "--pretrained", "--json"))
    with pytest.raises(ConfigError, match=r"has no model that matches 'nothing'$"):
        output("list", "nothing")
    for pattern in ("efficientnet", "EfficientNet*"):
        with pytest.raises(ConfigError, match=r"; '\*efficientnet\*' matches some"):
            output("list", pattern)


def test_classes_are_listed_with_the_model_that_each_means_alone():
    told = output("list", "efficientnet", "--classes")
    assert told == "EfficientNet  (timm.EfficientNet alone is efficientnet_b0)\n"
    lines = output("list", "highres*", "--classes").splitlines()
    assert lines == ["HighResolutionNet  (timm.HighResolutionNet alone is hrnet_w18)"]


@pytest.mark.parametrize("name", ["resnet18", "ResNet", "tv_resnet50"])
def test_a_model_is_described(name):
    told = json.loads(output("info", name, "--json"))
    assert told["class"] == "ResNet"
    assert [each["stride"] for each in told["maps"]] == [2, 4, 8, 16, 32]
    assert [each["used"] for each in told["maps"]] == [False, True, True, True, True]
    assert {"name": f"{told['model'].partition('.')[0]}.a1_in1k", "license": "apache-2.0"} in told["weights"]
    assert told["parameters"] > 1e7
    assert f"parameters    {told['parameters']}\n" in output("info", name)


@pytest.mark.parametrize(("name", "channels", "strides"), [
    ("resnet18", [64, 128, 256, 512], [4, 8, 16, 32]),
    ("vit_tiny_patch16_224", [48, 96, 192, 192], [4, 8, 16, 32]),
])  # fmt: skip
def test_what_a_config_gets_that_does_not_choose_is_told_as_the_backbone_tells_it(name, channels, strides):
    told = json.loads(output("info", name, "--json"))
    with torch.device("meta"):
        backbone = TIMMBackbone(name)
    assert told["out_channels"] == channels == list(backbone.out_channels)
    assert told["out_strides"] == strides == list(backbone.out_strides)


def test_an_unknown_model_names_close_ones():
    with pytest.raises(ConfigError, match="did you mean 'resnet18'"):
        output("info", "resnett18")
