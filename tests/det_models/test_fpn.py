import pytest
import torch
import torch.nn.functional as F
from det_models.fpn import FPN
from torch import nn

from detcore.config import Config
from detcore.errors import ConfigError
from detcore.registry import MODELS

CHANNELS = [2, 3, 4, 5]


@pytest.fixture
def maps():
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(1, c, h, w, generator=generator)
        for c, (h, w) in zip(CHANNELS, [(17, 20), (9, 10), (5, 5), (3, 3)], strict=True)
    ]


def test_maps_are_enlarged_to_the_finer_ones_and_added(maps):
    neck = FPN(CHANNELS, 6, num_outs=4)
    outputs = neck(maps)
    laterals = [conv(each) for conv, each in zip(neck.lateral_convs, maps, strict=True)]
    for level in (2, 1, 0):
        laterals[level] = laterals[level] + F.interpolate(laterals[level + 1], size=laterals[level].shape[2:])
    for output, conv, lateral in zip(outputs, neck.fpn_convs, laterals, strict=True):
        torch.testing.assert_close(output, conv(lateral))


@pytest.mark.parametrize(
    ("arguments", "num_convs", "shapes"),
    [
        ({"num_outs": 5}, 4, [(17, 20), (9, 10), (5, 5), (3, 3), (2, 2)]),
        (
            {"num_outs": 5, "start_level": 1, "add_extra_convs": True},
            5,
            [(9, 10), (5, 5), (3, 3), (2, 2), (1, 1)],
        ),
        (
            {"num_outs": 5, "start_level": 1, "add_extra_convs": "on_lateral"},
            5,
            [(9, 10), (5, 5), (3, 3), (2, 2), (1, 1)],
        ),
        (
            {"num_outs": 5, "start_level": 1, "add_extra_convs": "on_output"},
            5,
            [(9, 10), (5, 5), (3, 3), (2, 2), (1, 1)],
        ),
        ({"num_outs": 2, "start_level": 1, "end_level": 2}, 2, [(9, 10), (5, 5)]),
    ],
)
def test_levels_are_chosen_and_added(maps, arguments, num_convs, shapes):
    neck = FPN(CHANNELS, 6, **arguments)
    outputs = neck(maps)
    assert [tuple(each.shape[2:]) for each in outputs] == shapes
    assert len(neck.fpn_convs) == num_convs
    assert neck.out_channels == (6,) * len(shapes)


def test_coarser_maps_come_from_where_the_config_says(maps):
    for source in ("on_input", "on_lateral", "on_output"):
        neck = FPN(
            CHANNELS, 6, num_outs=5, start_level=1, add_extra_convs=source, relu_before_extra_convs=True
        )
        outputs = neck(maps)
        first = {"on_input": maps[3], "on_lateral": neck.lateral_convs[-1](maps[3]), "on_output": outputs[2]}[
            source
        ]
        torch.testing.assert_close(outputs[3], neck.fpn_convs[3](first))
        torch.testing.assert_close(outputs[4], neck.fpn_convs[4](F.relu(outputs[3])))


def test_without_convolutions_coarser_maps_are_picked_pixels(maps):
    outputs = FPN(CHANNELS, 6, num_outs=5)(maps)
    torch.testing.assert_close(outputs[4], outputs[3][:, :, ::2, ::2])


def test_norm_activation_and_upsampling_are_settings(maps):
    neck = FPN(
        CHANNELS,
        6,
        num_outs=4,
        norm_cfg={"type": "BN"},
        act_cfg={"type": "ReLU"},
        no_norm_on_lateral=True,
        upsample_cfg={"mode": "bilinear", "align_corners": False},
    )
    names = set(neck.state_dict())
    assert "fpn_convs.0.bn.weight" in names
    assert "lateral_convs.0.bn.weight" not in names
    assert "lateral_convs.0.conv.bias" in names
    assert all((each >= 0).all() for each in neck(maps))
    even = [torch.zeros(1, c, 2 ** (4 - i), 2 ** (4 - i)) for i, c in enumerate(CHANNELS)]
    FPN(CHANNELS, 6, num_outs=4, upsample_cfg={"scale_factor": 2, "mode": "nearest"})(even)


def test_channels_and_strides_are_heard_from_the_backbone():
    neck = FPN(out_channels=6, num_outs=5, start_level=1)
    neck.connect((2, 3, 4, 5), (4, 8, 16, 32))
    assert neck.in_channels == (2, 3, 4, 5)
    assert neck.out_strides == (8, 16, 32, 64, 128)
    with pytest.raises(ConfigError, match=r"\[2, 3, 4, 5\].*\[2, 3\]"):
        neck.connect((2, 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_outs": 3}, "at least 4"),
        ({"num_outs": 3, "end_level": 1}, "num_outs must be 2"),
        ({"num_outs": 5, "start_level": 4}, "levels 4 to 3"),
        ({"num_outs": 5, "add_extra_convs": "on_top"}, "on_input.*'on_top'"),
    ],
)
def test_levels_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        FPN(CHANNELS, 6, **arguments)


def test_another_number_of_maps_is_named(maps):
    with pytest.raises(ValueError, match="got 3 maps"):
        FPN(CHANNELS, 6, num_outs=4)(maps[:3])


@pytest.mark.parametrize("told", ["auto", None])
def test_channels_that_are_left_out_are_asked_of_the_backbone(told):
    model = Config.fromfile("detcore::shapes/retinanet_r18_fpn_shapes.py").model
    model.neck.in_channels = told
    detector = MODELS.build(model)
    assert detector.neck.in_channels == detector.backbone.out_channels
    with pytest.raises(ConfigError, match="or 'auto' to ask the backbone, got 'automatic'"):
        FPN(in_channels="automatic")


def test_a_backbone_that_does_not_tell_its_channels_leaves_them_to_the_config():
    model = Config.fromfile("detcore::shapes/retinanet_r18_fpn_shapes.py").model
    model.backbone, model.neck.in_channels = nn.Conv2d(3, 8, 4, 4), "auto"
    with pytest.raises(ConfigError, match=r"Conv2d does not tell its channels.*write neck\.in_channels"):
        MODELS.build(model)
