import pytest
from torch import nn

from detcore.errors import ConfigError
from detcore.nn import build_plugin_layer


class ContextBlock(nn.Module):
    def __init__(self, in_channels, ratio=1.0):
        super().__init__()
        self.in_channels, self.ratio = in_channels, ratio


class NonLocal2d(ContextBlock):
    _abbr_ = "nonlocal_block"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ContextBlock", "context_block"),
        ("GeneralizedAttention", "generalized_attention"),
        ("NL2dBlock", "nl2d_block"),
        ("SELayer", "se_layer"),
        ("Conv2dWS", "conv2d_ws"),
        ("already_lower", "already_lower"),
    ],
)
def test_names_are_those_of_the_class_in_lower_case(name, expected):
    kind = type(name, (ContextBlock,), {})
    assert build_plugin_layer({"type": kind}, in_channels=4)[0] == expected


def test_an_abbreviation_comes_first_and_a_postfix_last():
    name, layer = build_plugin_layer({"type": NonLocal2d, "ratio": 0.5}, "_2", in_channels=4)
    assert name == "nonlocal_block_2"
    assert type(layer) is NonLocal2d
    assert (layer.in_channels, layer.ratio) == (4, 0.5)
    assert build_plugin_layer({"type": ContextBlock}, 3, in_channels=4)[0] == "context_block3"


def test_what_cannot_be_built_is_named():
    with pytest.raises(ConfigError, match=r"plugin cfg must be a dict with `type`, got \{'ratio': 1\}"):
        build_plugin_layer({"ratio": 1}, in_channels=4)
    with pytest.raises(ConfigError, match=r"plugin cfg .*'depth'"):
        build_plugin_layer({"type": ContextBlock, "depth": 1}, in_channels=4)
