import pytest
import torch
from torch import nn

from detcore.nn import ConvModule, ConvWS2d, Sequential, build_conv_layer


def standardised(weight, eps):
    """Each kernel minus its mean, over its deviation (of a sample: n - 1) plus eps."""
    kernels = []
    for kernel in weight:
        values = kernel.flatten().tolist()
        mean = sum(values) / len(values)
        deviation = (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5
        kernels.append(torch.tensor([(value - mean) / (deviation + eps) for value in values]))
    return torch.stack(kernels).view_as(weight).to(weight)


@pytest.mark.parametrize("eps", [1e-5, 0.5])
def test_kernels_are_standardised_one_by_one(eps):
    torch.manual_seed(0)
    cfg = {"type": "ConvWS", "eps": eps}
    layer = build_conv_layer(cfg, 4, 6, (3, 2), stride=2, padding=1, dilation=(1, 2), groups=2)
    x = torch.rand(2, 4, 9, 8)
    with torch.no_grad():
        layer.weight.add_(3)
    weight = standardised(layer.weight, eps)
    want = nn.functional.conv2d(x, weight, layer.bias, 2, 1, (1, 2), 2)
    assert torch.allclose(layer(x), want, atol=1e-4)
    assert not torch.allclose(layer(x), nn.functional.conv2d(x, layer.weight, layer.bias, 2, 1, (1, 2), 2))


def test_it_is_a_convolution_by_names_values_and_place():
    layer = build_conv_layer({"type": "mmcv.ConvWS"}, 4, 6, 3, bias=False)
    assert type(layer) is ConvWS2d
    assert layer.eps == 1e-5
    assert list(layer.state_dict()) == ["weight"]
    plain = nn.Conv2d(4, 6, 3, bias=False)
    layer.load_state_dict(plain.state_dict(), strict=True)
    assert torch.equal(layer.weight, plain.weight)  # what is stored is not standardised
    net = Sequential(layer, init_cfg={"type": "Constant", "layer": "Conv2d", "val": 0.5})
    net.init_weights()
    assert layer.weight.min() == 0.5
    block = ConvModule(4, 6, 3, conv_cfg={"type": "ConvWS"}, padding=1, padding_mode="reflect")
    assert block(torch.rand(1, 4, 5, 5)).shape == (1, 6, 5, 5)


def test_scale_and_shift_of_the_stored_weights_change_nothing():
    layer = ConvWS2d(4, 6, 3, bias=False)
    x = torch.rand(1, 4, 8, 8)
    before = layer(x)
    with torch.no_grad():
        layer.weight.mul_(3).add_(1)
    assert torch.allclose(layer(x), before, atol=1e-2)
    constant = ConvWS2d(4, 6, 3, bias=False)
    nn.init.ones_(constant.weight)
    assert constant(x).abs().max() == 0  # no deviation: eps keeps it from being infinite


def test_gradients_are_those_of_the_function():
    layer = ConvWS2d(2, 3, 2).double()
    x = torch.rand(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)

    def function(x, weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))

    given = [x, layer.weight.detach().requires_grad_(), layer.bias.detach().requires_grad_()]
    assert torch.autograd.gradcheck(function, given)


def test_autocast_narrows_the_result_only_after_the_weights_are_standardised():
    layer, x = ConvWS2d(4, 6, 3, bias=False), torch.rand(1, 4, 8, 8)
    with torch.no_grad():
        layer.weight.mul_(1e-3).add_(1)  # bfloat16 holds no such difference
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.bfloat16
    assert torch.allclose(out.float(), layer(x), atol=0.1)
    assert layer(x).abs().max() > 1


def test_a_kernel_of_one_weight_is_refused():
    with pytest.raises(ValueError, match="in_channels=4, groups=4, kernel_size=1"):
        ConvWS2d(4, 4, 1, groups=4)
