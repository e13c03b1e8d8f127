import pytest
import torch
from torch import nn

from detcore.errors import ConfigError
from detcore.nn import (
    ConvModule,
    DepthwiseSeparableConvModule,
    DropPath,
    build_activation_layer,
    build_conv_layer,
    build_norm_layer,
    build_padding_layer,
    build_upsample_layer,
    checkpointed,
    is_norm,
)
from detcore.registry import MODELS

NORMS = {
    "BN": "bn", "BN1d": "bn", "BN2d": "bn", "BN3d": "bn", "SyncBN": "bn", "GN": "gn", "LN": "ln",
    "IN": "in", "IN1d": "in", "IN2d": "in", "IN3d": "in",
}
ACTIVATIONS = [
    "ReLU", "LeakyReLU", "PReLU", "RReLU", "ReLU6", "ELU", "Sigmoid", "Tanh", "GELU", "SiLU", "Swish",
    "HSwish", "HSigmoid", "Clip", "Clamp",
]


@pytest.mark.parametrize(("kind", "abbreviation"), NORMS.items())
def test_norms_are_named_after_their_kind(kind, abbreviation):
    cfg = {"type": kind, "requires_grad": False}
    if kind == "GN":
        cfg["num_groups"] = 2
    name, layer = build_norm_layer(cfg, 8, postfix=3)
    assert name == f"{abbreviation}3"
    assert is_norm(layer)
    assert not is_norm(layer, exclude=type(layer))
    assert layer.eps == 1e-5
    assert not any(p.requires_grad for p in layer.parameters())
    assert cfg["requires_grad"] is False
    assert build_norm_layer({**cfg, "eps": 1e-3, "requires_grad": True}, 8)[1].eps == 1e-3


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations_build_alone_and_in_conv_modules(kind):
    x = torch.linspace(-4, 4, 16).view(1, 1, 4, 4)
    assert build_activation_layer({"type": kind})(x).shape == x.shape
    assert ConvModule(1, 2, 1, act_cfg={"type": kind})(x).shape == (1, 2, 4, 4)


def test_swish_and_hsigmoid_and_clip_are_their_formulas():
    x = torch.linspace(-5, 5, 11)
    assert torch.allclose(build_activation_layer({"type": "Swish"})(x), x * x.sigmoid())
    assert torch.allclose(build_activation_layer({"type": "HSigmoid"})(x), ((x + 3) / 6).clamp(0, 1))
    assert torch.equal(build_activation_layer({"type": "Clip", "min": -2, "max": 1})(x), x.clamp(-2, 1))
    assert torch.allclose(build_activation_layer({"type": "HSwish"})(x), x * (x + 3).clamp(0, 6) / 6)


def test_convolutions_padding_and_upsampling_build():
    assert type(build_conv_layer(None, 3, 4, 1)) is nn.Conv2d
    assert build_conv_layer({"type": "Conv1d"}, 3, 4, 1, stride=2).stride == (2,)
    assert build_conv_layer({"type": "Conv2d", "bias": False}, 3, 4, 1).bias is None
    x = torch.rand(1, 4, 5, 5)
    for kind in ("zero", "reflect", "replicate"):
        assert build_padding_layer({"type": kind}, 2)(x).shape == (1, 4, 9, 9)
    for cfg in ({"type": "nearest", "scale_factor": 2}, {"type": "bilinear", "scale_factor": 2}):
        assert build_upsample_layer(cfg)(x).shape == (1, 4, 10, 10)
    assert build_upsample_layer({"type": "bilinear", "scale_factor": 2}).mode == "bilinear"
    deconv = build_upsample_layer({"type": "deconv"}, 4, 6, 2, stride=2)
    assert deconv(x).shape == (1, 6, 10, 10)
    shuffled = build_upsample_layer(
        {"type": "pixel_shuffle"}, in_channels=4, out_channels=6, scale_factor=2, upsample_kernel=3
    )
    assert shuffled(x).shape == (1, 6, 10, 10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: build_norm_layer({"num_groups": 2}, 8), "norm_cfg must be a dict with `type`"),
        (lambda: build_norm_layer({"type": "GN"}, 8), "needs num_groups"),
        (lambda: build_norm_layer({"type": "BN", "epsilon": 1}, 8), "norm_cfg .*epsilon"),
        (lambda: build_conv_layer({"type": "Conv2d", "kernel": 1}, 3, 4, 1), "conv_cfg .*kernel"),
        (lambda: build_activation_layer({"type": "ReLU", "slope": 1}), "act_cfg .*slope"),
        (lambda: build_activation_layer("ReLU"), "must be a dict"),
    ],
)
def test_malformed_layer_configs_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_typos_in_nested_layer_configs_are_found_before_anything_is_built():
    cfg = {"type": "ConvModule", "in_channels": 1, "out_channels": 1, "kernel_size": 1,
           "norm_cfg": {"type": "BN", "requires_grad": True, "epss": 1}, "act_cfg": {"type": "Relu"}}
    problems = MODELS.check(cfg, path="model.neck")
    assert {problem.path for problem in problems} == {"model.neck.norm_cfg.epss", "model.neck.act_cfg"}


def test_conv_module_names_and_bias():
    plain = ConvModule(3, 4, 1)
    assert set(plain.state_dict()) == {"conv.weight", "conv.bias"}
    normed = ConvModule(3, 4, 1, norm_cfg={"type": "BN"}, act_cfg=None)
    assert set(normed.state_dict()) == {
        "conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var", "bn.num_batches_tracked",
    }
    assert normed.norm is normed.bn
    assert not normed.with_activation
    grouped = ConvModule(3, 4, 1, norm_cfg={"type": "GN", "num_groups": 2}, bias=True)
    assert set(grouped.state_dict()) == {"conv.weight", "conv.bias", "gn.weight", "gn.bias"}


def test_conv_module_runs_its_steps_in_order():
    x = torch.randn(2, 3, 5, 5)
    module = ConvModule(3, 4, 3, padding=1, norm_cfg={"type": "BN"})
    assert torch.equal(module(x), module.activate(module.bn(module.conv(x))))
    assert torch.equal(module(x, activate=False, norm=False), module.conv(x))
    before = ConvModule(3, 4, 1, norm_cfg={"type": "BN"}, order=("norm", "act", "conv"), inplace=False)
    assert before.bn.num_features == 3
    assert torch.equal(before(x), before.conv(before.activate(before.bn(x))))
    with pytest.raises(ValueError, match="order"):
        ConvModule(3, 4, 1, order=("conv", "norm"))


def test_conv_module_starts_from_kaimings_values():
    torch.manual_seed(0)
    module = ConvModule(64, 128, 3, norm_cfg={"type": "BN"})
    assert module.conv.weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)
    assert module.bn.weight.unique().tolist() == [1]
    leaky = ConvModule(64, 128, 3, act_cfg={"type": "LeakyReLU", "negative_slope": 1.0})
    assert leaky.conv.weight.std().item() == pytest.approx((1 / (128 * 9)) ** 0.5, rel=0.02)


def test_conv_module_pads_and_normalises_spectrally():
    x = torch.randn(1, 3, 8, 8)
    for mode in ("zeros", "reflect", "replicate", "circular"):
        assert ConvModule(3, 4, 3, padding=1, padding_mode=mode)(x).shape == (1, 4, 8, 8)
    spectral = ConvModule(3, 4, 1, with_spectral_norm=True).eval()
    for _ in range(30):
        spectral.train()(x)
    largest = torch.linalg.matrix_norm(spectral.eval().conv.weight.flatten(1), 2)
    assert largest.item() == pytest.approx(1, abs=0.05)


def test_separable_convolution_has_configs_for_each_half():
    module = DepthwiseSeparableConvModule(4, 8, 3, padding=1, norm_cfg={"type": "BN"}, dw_act_cfg=None)
    assert module.depthwise_conv.conv.groups == 4
    assert not module.depthwise_conv.with_activation
    assert module.pointwise_conv.with_activation
    assert module(torch.rand(2, 4, 5, 5)).shape == (2, 8, 5, 5)
    assert "depthwise_conv.bn.weight" in module.state_dict()
    with pytest.raises(ValueError, match="groups"):
        DepthwiseSeparableConvModule(4, 8, 3, groups=2)


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    drop = DropPath(0.25)
    x = torch.ones(4000, 2, 1, 1)
    out = drop(x)
    assert sorted(out.unique().tolist()) == pytest.approx([0, 4 / 3])
    assert torch.equal(out[:, 0], out[:, 1])
    assert out.mean().item() == pytest.approx(1, abs=0.05)
    assert drop.eval()(x) is x
    with pytest.raises(ValueError, match="drop_prob"):
        DropPath(1.0)


def test_recomputed_activations_change_neither_gradients_nor_averages():
    results = []
    for use in (False, True):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
        x = torch.randn(4, 3, 6, 6)
        out = checkpointed(net, net.forward, x) if use else net(x)
        out.square().sum().backward()
        results.append((out.detach(), net[0].weight.grad, dict(net.named_buffers())))
    (out, grad, buffers), (out_cp, grad_cp, buffers_cp) = results
    assert torch.equal(out, out_cp)
    assert torch.equal(grad, grad_cp)
    for name, value in buffers.items():
        assert torch.equal(value, buffers_cp[name]), name


def test_nothing_is_recomputed_where_nothing_trains():
    net = nn.Sequential(nn.Conv2d(1, 1, 1)).requires_grad_(False)
    assert not checkpointed(net, net.forward, torch.rand(1, 1, 2, 2)).requires_grad
    with torch.no_grad():
        assert not checkpointed(net.requires_grad_(True), net.forward, torch.rand(1, 1, 2, 2)).requires_grad
