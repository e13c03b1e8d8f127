import pytest
import torch
from torch import nn

from detcore.engine.optim_constructor import DefaultOptimWrapperConstructor
from detcore.errors import ConfigError
from detcore.nn import (
    ConvModule,
    DeformConv2d,
    DeformConv2dPack,
    ModulatedDeformConv2d,
    ModulatedDeformConv2dPack,
    Sequential,
    build_conv_layer,
)
from detcore.ops import deform_conv2d, modulated_deform_conv2d
from detcore.registry import MODELS

BOTH = pytest.mark.parametrize("kind", ["DCN", "DCNv2"])


def layer(kind, *args, **kwargs):
    """A layer whose offsets are not zero, as after some training."""
    torch.manual_seed(0)
    made = build_conv_layer({"type": kind}, *args, **kwargs)
    nn.init.normal_(made.conv_offset.weight, std=0.2)
    nn.init.normal_(made.conv_offset.bias)
    return made


def test_names_in_configs_and_in_the_state_dict():
    for kind, cls, values, bias in (
        ("DCN", DeformConv2dPack, 18, []),
        ("DCNv2", ModulatedDeformConv2dPack, 27, [("bias", (8,))]),
        ("mmcv.DCN", DeformConv2dPack, 18, []),
    ):
        made = build_conv_layer({"type": kind, "deform_groups": 2}, 4, 8, 3, groups=2)
        assert type(made) is cls
        offsets = [("conv_offset.weight", (2 * values, 4, 3, 3)), ("conv_offset.bias", (2 * values,))]
        got = [(name, tuple(value.shape)) for name, value in made.state_dict().items()]
        assert got == [("weight", (8, 2, 3, 3)), *bias, *offsets]
    assert isinstance(made, DeformConv2d)
    assert issubclass(ModulatedDeformConv2dPack, ModulatedDeformConv2d)
    assert list(ModulatedDeformConv2dPack(4, 8, 3, bias=False).state_dict()) == [
        "weight", "conv_offset.weight", "conv_offset.bias",
    ]  # fmt: skip


def test_the_kernel_starts_undeformed():
    x = torch.rand(2, 4, 9, 8)
    first = build_conv_layer({"type": "DCN"}, 4, 6, 3, stride=2, padding=2, dilation=2, bias=False)
    plain = nn.functional.conv2d(x, first.weight, stride=2, padding=2, dilation=2)
    assert torch.allclose(first(x), plain, atol=1e-6)
    second = build_conv_layer({"type": "DCNv2"}, 4, 6, 3, padding=1)
    nn.init.ones_(second.bias)
    plain = nn.functional.conv2d(x, second.weight, padding=1)
    assert torch.allclose(second(x), plain / 2 + 1, atol=1e-6)  # a mask that starts at the sigmoid of 0


def test_offsets_and_mask_are_the_thirds_of_one_convolution():
    x = torch.rand(2, 4, 7, 6)
    first = layer("DCN", 4, 6, 3, stride=2, padding=1, deform_groups=2, bias=False)
    told = nn.functional.conv2d(x, first.conv_offset.weight, first.conv_offset.bias, 2, 1)
    assert torch.equal(first(x), deform_conv2d(x, told, first.weight, 2, 1, deform_groups=2))
    second = layer("DCNv2", 4, 6, 3, stride=2, padding=1, deform_groups=2)
    down_right = slice(0, 36)
    told = nn.functional.conv2d(x, second.conv_offset.weight, second.conv_offset.bias, 2, 1)
    want = modulated_deform_conv2d(
        x, told[:, down_right], told[:, 36:].sigmoid(), second.weight, second.bias, 2, 1, deform_groups=2
    )
    assert torch.equal(second(x), want)


def test_layers_with_given_offsets():
    x, offset = torch.rand(1, 4, 5, 5), torch.randn(1, 18, 5, 5)
    first = DeformConv2d(4, 6, 3, padding=1)
    assert torch.equal(first(x, offset), deform_conv2d(x, offset, first.weight, padding=1))
    second, mask = ModulatedDeformConv2d(4, 6, 3, padding=1), torch.rand(1, 9, 5, 5)
    want = modulated_deform_conv2d(x, offset, mask, second.weight, second.bias, padding=1)
    assert torch.equal(second(x, offset, mask), want)
    assert "deform_groups=1" in repr(second)


def test_weights_start_as_in_the_reference():
    first, second = DeformConv2dPack(64, 128, 3), ModulatedDeformConv2dPack(64, 128, 3)
    for made, bound in ((first, (6 / (64 * 9)) ** 0.5), (second, (64 * 9) ** -0.5)):
        assert 0.99 * bound < made.weight.abs().max() <= bound
        assert made.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    assert second.bias.abs().max() == 0


@BOTH
def test_offsets_stay_zero_whatever_is_said_of_convolutions_around_them(kind):
    deep = nn.Sequential(build_conv_layer({"type": kind}, 4, 4, 3, bias=False), nn.Conv2d(4, 4, 1))
    near = build_conv_layer({"type": kind}, 4, 4, 3, bias=False)
    before = near.weight.clone()
    net = Sequential(deep, near, init_cfg={"type": "Normal", "layer": "Conv2d", "std": 3.0, "bias": 1.0})
    net.init_weights()
    assert deep[1].weight.std() > 1
    for made in (deep[0], near):
        assert made.conv_offset.weight.abs().max() == 0
        assert made.conv_offset.bias.abs().max() == 0
    assert torch.equal(near.weight, before)


@BOTH
def test_an_init_cfg_that_names_the_layer_holds(kind):
    made = build_conv_layer({"type": kind}, 4, 4, 3, bias=False)
    net = Sequential(made, init_cfg={"type": "Constant", "layer": type(made).__name__, "val": 0.25})
    net.init_weights()
    assert torch.equal(made.weight, torch.full_like(made.weight, 0.25))


def test_conv_modules_take_them():
    first = ConvModule(4, 32, 3, padding=1, conv_cfg={"type": "DCN"}, norm_cfg={"type": "BN"})
    second = ConvModule(4, 32, 3, padding=1, conv_cfg={"type": "DCNv2"})
    x = torch.rand(2, 4, 6, 6)
    assert first(x).shape == second(x).shape == (2, 32, 6, 6)
    # Kaiming's normal values of a ConvModule; the second kind has its own.
    assert first.conv.weight.std().item() == pytest.approx((2 / (32 * 9)) ** 0.5, rel=0.1)
    assert second.conv.weight.abs().max() <= 1 / 6
    assert first.conv.conv_offset.weight.abs().max() == 0
    with pytest.raises(ValueError, match="DeformConv2dPack has no bias: bias must be False, got True"):
        ConvModule(4, 4, 3, conv_cfg={"type": "DCN"})
    with pytest.raises(ConfigError, match="padding_mode"):
        ConvModule(4, 4, 3, conv_cfg={"type": "DCNv2"}, padding_mode="reflect")


@BOTH
def test_autocast_leaves_coordinates_and_sampling_in_float32(kind):
    made, x = layer(kind, 4, 6, 3, padding=1, bias=False), torch.rand(2, 4, 12, 12) * 9
    narrow = x.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        got, wide = made(narrow), made(x)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, made(narrow.float()).bfloat16())
    assert wide.dtype == torch.float32
    assert torch.equal(wide, made(x))


@BOTH
def test_narrow_and_wide_weights_work_without_autocast(kind):
    for dtype in (torch.bfloat16, torch.float64):
        made = layer(kind, 4, 6, 3, padding=1, bias=False).to(dtype)
        assert made(torch.rand(1, 4, 5, 5, dtype=dtype)).dtype == dtype


@BOTH
def test_every_parameter_learns_also_from_an_empty_batch(kind):
    made = layer(kind, 4, 6, 3, padding=1, bias=False)
    made(torch.rand(2, 4, 5, 5)).square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in made.parameters())
    made.zero_grad()
    out = made(torch.rand(0, 4, 5, 5))
    assert out.shape == (0, 6, 5, 5)
    out.sum().backward()
    assert all(parameter.grad.abs().max() == 0 for parameter in made.parameters())


@BOTH
def test_offsets_have_a_learning_rate_of_their_own(kind):
    net = nn.Sequential(build_conv_layer({"type": kind}, 4, 6, 3, bias=False), nn.Conv2d(6, 6, 1))
    cfg = {"type": "OptimWrapper", "optimizer": {"type": "SGD", "lr": 1.0}}
    wrapper = DefaultOptimWrapperConstructor(cfg, {"dcn_offset_lr_mult": 0.1})(net)
    groups = wrapper.optimizer.param_groups
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    got = {name: rates[id(parameter)] for name, parameter in net.named_parameters()}
    offsets = {"0.conv_offset.weight": 0.1, "0.conv_offset.bias": 0.1}
    assert got == {"0.weight": 1.0, **offsets, "1.weight": 1.0, "1.bias": 1.0}


@BOTH
def test_graphs_of_the_compiler_hold_the_layer_whole(kind):
    made, x = layer(kind, 4, 6, 3, padding=1, bias=False), torch.rand(2, 4, 5, 5)
    compiled = torch.compile(made, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), made(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groups": 3}, "4 channels cannot be cut into 3 groups"),
        ({"groups": 4}, "6 channels cannot be cut into 4 groups"),
        ({"deform_groups": 3}, "4 channels cannot be cut into 3 deform_groups"),
        ({"deform_groups": 0}, "into 0 deform_groups"),
    ],
)
@BOTH
def test_channels_that_cannot_be_cut_are_named(kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build({"type": kind, "in_channels": 4, "out_channels": 6, "kernel_size": 3, **arguments})


def test_misspelt_arguments_are_found():
    sizes = {"in_channels": 4, "out_channels": 4, "kernel_size": 3}
    with pytest.raises(ConfigError, match=r"(?s)deformgroups.*did you mean 'deform_groups'"):
        MODELS.build({"type": "DCN", **sizes, "deformgroups": 1})
