"""Deformable convolutions, plugin layers, standardised weights and group norm in the ResNet family."""

import pytest
import torch
from det_backbones.residual import BasicBlock, Bottleneck
from det_backbones.resnet import ResNet, ResNetV1d
from det_backbones.resnext import ResNeXt
from torch import nn

from detcore.errors import ConfigError
from detcore.nn import ConvWS2d, DeformConv2dPack, ModulatedDeformConv2dPack
from detcore.registry import MODELS

C3_TO_C5 = (False, True, True, True)
DCN = {"type": "DCN", "deform_groups": 1, "fallback_on_stride": False}
DCN_V2 = {**DCN, "type": "DCNv2"}
GN = {"type": "GN", "num_groups": 32}
GN_WS = {"conv_cfg": {"type": "ConvWS"}, "norm_cfg": GN}


class Scale(nn.Module):
    """A plugin layer whose effect is easily told: it multiplies."""

    def __init__(self, in_channels, factor=2.0):
        super().__init__()
        self.scale = nn.Parameter(torch.full((in_channels, 1, 1), factor))

    def forward(self, x):
        return x * self.scale


class Shift(Scale):
    _abbr_ = "moved"

    def forward(self, x):
        return x + self.scale


SCALED = {"cfg": {"type": Scale}, "position": "after_conv1"}


def parameters(net, trained=False):
    return sum(p.numel() for p in net.parameters() if p.requires_grad or not trained)


def middle(net):
    """The classes of the 3x3 convolutions, by stage."""
    return [[type(block.conv2) for block in net.get_submodule(name)] for name in net.res_layers]


# ------------------------------------------------------------------------------ what the reference has


@pytest.mark.parametrize(
    ("kind", "cfg", "names", "total"),
    [
        (ResNet, {"dcn": DCN, "stage_with_dcn": C3_TO_C5}, 344, 24_088_874),
        (ResNet, {"dcn": DCN_V2, "stage_with_dcn": C3_TO_C5}, 344, 24_379_295),
        (ResNet, {"norm_cfg": GN}, 159, 23_508_032),
        (ResNet, GN_WS, 159, 23_508_032),
        (ResNeXt, {"groups": 32, "base_width": 4, **GN_WS}, 159, 22_979_904),
    ],
)
def test_names_and_sizes_are_as_many_as_in_the_reference(kind, cfg, names, total):
    with torch.device("meta"):
        net = kind(depth=50, **cfg)
    assert len(net.state_dict()) == names
    assert parameters(net) == total


@pytest.mark.parametrize(("cfg", "values"), [(DCN, 18), (DCN_V2, 27)])
def test_offsets_have_the_references_names(cfg, values):
    with torch.device("meta"):
        state = ResNet(50, dcn=cfg, stage_with_dcn=C3_TO_C5).state_dict()
    assert tuple(state["layer2.0.conv2.conv_offset.weight"].shape) == (values, 128, 3, 3)
    assert tuple(state["layer4.2.conv2.conv_offset.bias"].shape) == (values,)
    assert {name.split(".")[0] for name in state if "conv_offset" in name} == {"layer2", "layer3", "layer4"}
    assert not any(name.endswith("conv2.bias") for name in state)


def test_a_resnext_with_deformable_convolutions_has_the_references_parameters():
    with torch.device("meta"):
        net = ResNeXt(
            depth=101, groups=32, base_width=4, dcn=DCN, stage_with_dcn=C3_TO_C5, frozen_stages=1
        )
    assert parameters(net) == 42_128_704 + 2_571_804
    assert parameters(net, trained=True) == 41_913_344 + 2_571_804
    assert net.layer3[5].conv2.groups == 32
    assert tuple(net.layer3[5].conv2.weight.shape) == (512, 16, 3, 3)


def test_group_norm_and_standardised_weights_reach_everything():
    for net in (ResNet(50, base_channels=32, **GN_WS), ResNetV1d(depth=50, base_channels=64, **GN_WS)):
        convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
        assert {type(m) for m in convolutions} == {ConvWS2d}
        assert not any(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    names = set(ResNet(50, base_channels=32, **GN_WS).state_dict())
    assert {"conv1.weight", "gn1.bias", "layer1.0.gn3.weight", "layer2.0.downsample.1.weight"} <= names


# ------------------------------------------------------------------------------ deformable convolutions


def test_stages_and_the_caffe_style_and_falling_back():
    small = {"depth": 50, "base_channels": 8, "stage_with_dcn": C3_TO_C5}
    net = ResNet(dcn=DCN_V2, **small)
    assert middle(net) == [
        [nn.Conv2d] * 3, *([ModulatedDeformConv2dPack] * count for count in (4, 6, 3)),
    ]  # fmt: skip
    assert net.layer2[0].conv2.stride == (2, 2)
    falls = {**DCN, "fallback_on_stride": True}
    plain_first = [[nn.Conv2d, *[DeformConv2dPack] * (count - 1)] for count in (4, 6, 3)]
    assert middle(ResNet(dcn=falls, **small))[1:] == plain_first
    caffe = ResNet(dcn=falls, style="caffe", **small)  # its stride is elsewhere
    assert middle(caffe)[1:] == [[DeformConv2dPack] * count for count in (4, 6, 3)]
    assert (caffe.layer2[0].conv1.stride, caffe.layer2[0].conv2.stride) == ((2, 2), (1, 1))
    assert falls["fallback_on_stride"] is True  # what was given is not changed
    grouped = ResNet(dcn={"type": "DCN", "deformable_groups": 4}, **small)  # its name before mmcv 1.0
    assert grouped.layer3[1].conv2.deform_groups == 4
    dilated = ResNet(dcn=DCN, strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2), **small)
    assert (dilated.layer4[0].conv2.dilation, dilated.layer4[0].conv2.padding) == ((2, 2), (2, 2))
    assert middle(ResNet(50, base_channels=8, dcn=DCN)) == middle(ResNet(50, base_channels=8))


def test_it_starts_as_the_plain_network_and_init_weights_keeps_it_so():
    small = {"depth": 50, "base_channels": 8}
    plain, deformed = ResNet(**small), ResNet(dcn=DCN, stage_with_dcn=C3_TO_C5, **small)
    deformed.init_weights()
    offsets = [p for name, p in deformed.named_parameters() if "conv_offset" in name]
    assert len(offsets) == 26
    assert all(p.abs().max() == 0 for p in offsets)
    for name, parameter in plain.named_parameters():
        parameter.data.copy_(deformed.get_parameter(name))
    x = torch.rand(2, 3, 64, 64)
    for a, b in zip(plain(x), deformed(x), strict=True):
        assert torch.allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("cfg", [DCN, DCN_V2])
def test_recomputing_activations_and_autocast(cfg):
    results = []
    for with_cp in (False, True):
        torch.manual_seed(0)
        net = ResNet(50, base_channels=4, dcn=cfg, stage_with_dcn=C3_TO_C5, with_cp=with_cp)
        for name, parameter in net.named_parameters():
            if "conv_offset" in name:
                nn.init.normal_(parameter, std=0.1)
        maps = net(torch.rand(2, 3, 64, 64))
        sum(m.square().mean() for m in maps).backward()
        results.append({name: p.grad for name, p in net.named_parameters()})
    plain, again = results
    assert all(torch.allclose(plain[name], again[name], rtol=1e-4, atol=1e-6) for name in plain)
    assert plain["layer2.0.conv2.conv_offset.weight"].abs().max() > 0
    with torch.autocast("cpu", torch.bfloat16):
        assert [m.dtype for m in net(torch.rand(2, 3, 64, 64))] == [torch.bfloat16] * 4


def test_an_empty_batch_goes_through():
    net = ResNet(50, base_channels=8, dcn=DCN_V2, stage_with_dcn=C3_TO_C5)
    maps = net(torch.rand(0, 3, 64, 64))
    assert [tuple(m.shape) for m in maps] == [(0, 32, 16, 16), (0, 64, 8, 8), (0, 128, 4, 4), (0, 256, 2, 2)]
    sum(m.sum() for m in maps).backward()


# ------------------------------------------------------------------------------------------ plugin layers


def test_plugins_are_named_placed_and_sized():
    plugins = [
        {"cfg": {"type": Scale}, "stages": (False, True, True, True), "position": "after_conv1"},
        {"cfg": {"type": Scale, "postfix": "_b"}, "position": "after_conv2"},
        {"cfg": {"type": Shift, "postfix": 1, "factor": 3.0}, "stages": None, "position": "after_conv3"},
    ]
    net = ResNet(50, base_channels=8, plugins=plugins)
    shapes = {name: tuple(p.shape) for name, p in net.named_parameters() if "scale" in name}
    assert shapes["layer1.0.scale_b.scale"] == (8, 1, 1)
    assert shapes["layer2.3.scale.scale"] == (16, 1, 1)
    assert shapes["layer2.3.moved1.scale"] == (64, 1, 1)
    assert "layer1.0.scale.scale" not in shapes
    assert len(shapes) == 16 + 13 + 16
    assert net.layer1[0].moved1.scale.min() == 3
    assert plugins[1]["cfg"] == {"type": Scale, "postfix": "_b"}
    wide = ResNeXt(depth=50, groups=2, base_width=4, base_channels=8, plugins=plugins)
    assert wide.layer1[0].scale_b.scale.shape == (wide.layer1[0].conv2.out_channels, 1, 1)
    assert wide.layer1[0].conv2.out_channels == 8


def test_plugins_run_after_their_convolution_in_the_order_given():
    torch.manual_seed(0)
    plugins = [
        {"cfg": {"type": Shift}, "position": "after_conv1"},
        {"cfg": {"type": Scale, "factor": 3.0}, "position": "after_conv1"},
        {"cfg": {"type": Scale, "factor": 0.5, "postfix": 2}, "position": "after_conv2"},
        {"cfg": {"type": Scale, "factor": -1.0, "postfix": 3}, "position": "after_conv3"},
    ]
    block = Bottleneck(16, 4, plugins=plugins).eval()
    x = torch.randn(2, 16, 5, 5)
    out = (block.bn1(block.conv1(x)).relu() + 2) * 3
    out = block.bn2(block.conv2(out)).relu() * 0.5
    want = (-block.bn3(block.conv3(out)) + x).relu()
    assert torch.allclose(block(x), want, atol=1e-6)


def test_a_registered_plugin_is_found_by_name_and_its_arguments_are_checked():
    kept = dict(MODELS._registered)
    try:
        MODELS.register_module(name="ScaleOfATest", module=Scale)
        good = {"type": "ScaleOfATest", "postfix": "x"}
        cfg = {"type": "ResNet", "depth": 50, "base_channels": 8}
        net = MODELS.build({**cfg, "plugins": [{"cfg": good, "position": "after_conv2"}]})
        assert type(net.layer1[0].scalex) is Scale
        wrong = [
            {"cfg": {**good, "faktor": 1.0}, "position": "after_conv2"},
            {"cfg": good, "position": "after_conv4", "stage": (True,)},
            {"cfg": {"type": "ScaleOfATests"}, "position": "after_conv1"},
        ]
        paths = {problem.path for problem in MODELS.check({**cfg, "plugins": wrong})}
        assert paths == {f"plugins.{path}" for path in ("0.cfg.faktor", "1.position", "1.stage", "2.cfg")}
    finally:
        MODELS._registered = kept


# -------------------------------------------------------------------------- freezing, with group norm too


def test_frozen_stages_and_norm_eval_with_group_norm():
    options = {"dcn": DCN, "stage_with_dcn": C3_TO_C5, "norm_cfg": GN}
    net = ResNet(50, base_channels=32, frozen_stages=2, norm_eval=True, **options).train()
    for name, parameter in net.named_parameters():
        assert parameter.requires_grad != name.startswith(("conv1", "gn1", "layer1", "layer2")), name
    assert not any(m.training for m in net.layer2.modules())
    assert all(m.training for m in net.layer3.modules())  # group norms have no averages to keep
    maps = net(torch.rand(2, 3, 32, 32))
    assert [m.requires_grad for m in maps] == [False, False, True, True]


def test_blocks_with_group_norm_and_standardised_weights_start_as_identities():
    net = ResNet(50, base_channels=32, **GN_WS)
    net.init_weights()
    assert net.layer3[1].gn3.weight.abs().max() == 0
    assert net.layer3[1].gn2.weight.min() == 1
    assert net.layer3[1].conv2.weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.05)


# ------------------------------------------------------------------------------------------ wrong arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dcn": DCN, "stage_with_dcn": (True, True)}, r"each of the 4 stages, got \(True, True\)"),
        ({"dcn": DCN, "stage_with_dcn": C3_TO_C5, "conv_cfg": {"type": "ConvWS"}}, "give dcn or conv_cfg"),
        ({"plugins": [{**SCALED, "position": "before_conv1"}]}, "after_conv3; got 'before_conv1'"),
        ({"plugins": [{"cfg": {"type": Scale}}]}, "after_conv3; got None"),
        ({"plugins": [{**SCALED, "stages": (True,)}]}, r"stages of a plugin .* the 4 stages, got \(True,\)"),
        ({"plugins": [SCALED, {**SCALED, "position": "after_conv2"}]}, "already has 'scale'.* a postfix"),
        ({"depth": 18, "dcn": DCN, "stage_with_dcn": C3_TO_C5}, r"BasicBlock \(depth 18 and 34\) has no dcn"),
        ({"depth": 34, "plugins": [SCALED]}, "BasicBlock .* has no plugins"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ResNet(**{"depth": 50, "base_channels": 4, **arguments})


def test_blocks_refuse_them_alone_too():
    with pytest.raises(ValueError, match="has no dcn, Bottleneck has"):
        BasicBlock(4, 4, dcn=DCN)
    with pytest.raises(ValueError, match="conv_cfg must be None, got"):
        Bottleneck(16, 4, dcn=DCN, conv_cfg={"type": "ConvWS"})
    with pytest.raises(ValueError, match="after_conv3; got 'conv1'"):
        Bottleneck(16, 4, plugins=[{"cfg": {"type": Scale}, "position": "conv1"}])


def test_unknown_kinds_and_misspelt_settings_are_found_in_the_config():
    cfg = {"type": "ResNet", "depth": 50, "stage_with_dcn": C3_TO_C5}
    with pytest.raises(ConfigError, match=r"(?s)model\.backbone\.dcn.*'DCNv3'"):
        MODELS.build({**cfg, "dcn": {"type": "DCNv3"}}, path="model.backbone")
    with pytest.raises(ConfigError, match=r"(?s)dcn\.deform_group.*did you mean 'deform_groups'"):
        MODELS.build({**cfg, "dcn": {**DCN, "deform_group": 1}})
    with pytest.raises(ConfigError, match="stage_with_dcn"):
        MODELS.build({**cfg, "dcn": DCN, "stages_with_dcn": C3_TO_C5})
    assert MODELS.check({**cfg, "dcn": DCN}) == []
    assert MODELS.check({**cfg, "dcn": {"type": "DCNv2", "deformable_groups": 1}}) == []
