"""VGG as SSD uses it, beside torchvision's."""

import pytest
import torch
import torchvision
from det_backbones.vgg import SSDVGG
from torch import nn


def test_its_stages_are_those_of_torchvision():
    torch.manual_seed(0)
    reference = torchvision.models.vgg16().features
    net = SSDVGG(16, ceil_mode=False, out_feature_indices=(22, 29))
    want = {key: value for key, value in reference.state_dict().items() if int(key.split(".")[0]) < 30}
    missing = net.features.load_state_dict(want, strict=False).missing_keys
    assert [key.split(".")[0] for key in missing] == ["31", "31", "33", "33"]
    x = torch.rand(1, 3, 40, 56)
    fine, coarse = net(x)
    torch.testing.assert_close(fine, reference[:23](x))
    torch.testing.assert_close(coarse, reference[:30](x))


@pytest.mark.parametrize("depth", [11, 13, 16, 19])
def test_every_depth_has_the_convolutions_of_torchvision(depth):
    with torch.device("meta"):
        reference = getattr(torchvision.models, f"vgg{depth}")().features
        net = SSDVGG(depth, out_feature_indices=(4,))
    want = [each.weight.shape for each in reference if isinstance(each, nn.Conv2d)]
    assert [each.weight.shape for each in net.features if isinstance(each, nn.Conv2d)][:-2] == want


def test_the_last_layers_see_far_without_striding():
    net = SSDVGG(16).features
    pool, fc6, fc7 = net[30], net[31], net[33]
    assert (pool.kernel_size, pool.stride, pool.padding) == (3, 1, 1)
    assert (fc6.in_channels, fc6.out_channels, fc6.dilation, fc6.padding) == (512, 1024, (6, 6), (6, 6))
    assert (fc7.in_channels, fc7.out_channels, fc7.kernel_size) == (1024, 1024, (1, 1))


@pytest.mark.parametrize("kept", [False, True])
def test_channels_and_strides_describe_the_maps(kept):
    net = SSDVGG(11, with_last_pool=kept, out_feature_indices=(14, 24 + kept))
    assert net.out_channels == (512, 1024)
    assert net.out_strides == (8, 32 if kept else 16)
    maps = net(torch.rand(1, 3, 96, 64))
    assert [tuple(each.shape[2:]) for each in maps] == [(12, 8), (3, 2) if kept else (6, 4)]


def test_poolings_round_up_where_asked():
    sizes = [SSDVGG(11, ceil_mode=ceil, out_feature_indices=(10,))(torch.rand(1, 3, 30, 30))[0].shape[-1]
             for ceil in (True, False)]  # fmt: skip
    assert sizes == [4, 3]


def test_a_map_in_front_of_a_relu_keeps_its_negative_values():
    net = SSDVGG(11, out_feature_indices=(13, 14))
    before, after = net(torch.randn(1, 3, 32, 32))
    assert (before < 0).any()
    assert torch.equal(before.relu(), after)


def test_what_it_cannot_do_is_said():
    with pytest.raises(ValueError, match=r"SSDVGG has depth \[11, 13, 16, 19\], got 12"):
        SSDVGG(12)
    with pytest.raises(ValueError, match=r"out_feature_indices must be 0 to 24, got \(22, 34\)"):
        SSDVGG(11)
    with pytest.raises(ValueError, match="give pretrained or init_cfg"):
        SSDVGG(16, pretrained="a.pth", init_cfg={"type": "Kaiming", "layer": "Conv2d"})
