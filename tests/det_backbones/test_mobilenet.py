"""MobileNetV2, beside torchvision's."""

import pytest
import torch
import torchvision
from det_backbones.mobilenet import MobileNetV2, divisible_by_8
from torch import nn


@pytest.mark.parametrize("training", [False, True])
def test_equals_torchvisions_with_equal_weights(training):
    torch.manual_seed(0)
    reference = torchvision.models.mobilenet_v2().features.train(training)
    net = MobileNetV2(out_indices=(1, 6, 7)).train(training)
    # The same layers in the same order, under other names.
    values = reference.state_dict().values()
    net.load_state_dict(dict(zip(net.state_dict(), values, strict=True)), strict=True)
    x = want = torch.rand(2, 3, 64, 96)
    maps = []
    for number, layer in enumerate(reference):
        want = layer(want)
        if number in (3, 17, 18):
            maps.append(want)
    for got, want in zip(net(x), maps, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("factor", [0.25, 0.5, 1.4])
def test_narrower_and_wider_ones_have_torchvisions_channels(factor):
    with torch.device("meta"):
        reference = torchvision.models.mobilenet_v2(width_mult=factor).features
        net = MobileNetV2(factor)
    shapes = [value.shape for value in reference.state_dict().values()]
    assert [value.shape for value in net.state_dict().values()] == shapes


def test_channels_and_strides_describe_the_maps():
    net = MobileNetV2(0.25, out_indices=range(8)).eval()
    maps = net(torch.rand(1, 3, 64, 96))
    assert tuple(each.shape[1] for each in maps) == net.out_channels
    assert tuple(64 // each.shape[2] for each in maps) == net.out_strides == (2, 4, 8, 16, 16, 32, 32, 32)


def test_channels_are_multiples_of_8_and_not_much_fewer_than_asked():
    assert [divisible_by_8(each) for each in (1, 8, 11.9, 12, 18, 19.9, 33.6)] == [8, 8, 16, 16, 24, 24, 32]


@pytest.mark.parametrize("frozen", [-1, 0, 2, 7])
def test_frozen_stages_do_not_train(frozen):
    net = MobileNetV2(0.25, frozen_stages=frozen).train()
    for number, stage in enumerate((net.conv1, *(net.get_submodule(f"layer{i}") for i in range(1, 8)))):
        assert all(each.requires_grad == (number > frozen) for each in stage.parameters())
        assert all(each.training == (number > frozen) for each in stage.modules())
    assert net.conv2.training
    assert net(torch.rand(2, 3, 64, 64))[0].requires_grad == (frozen < 2)


def test_batch_norms_use_their_averages_where_asked():
    net = MobileNetV2(0.25, norm_eval=True).train()
    norms = [each for each in net.modules() if isinstance(each, nn.BatchNorm2d)]
    assert not any(each.training for each in norms)
    assert all(each.weight.requires_grad for each in norms)
    assert net.conv1.training


def test_recomputing_activations_changes_nothing():
    results = []
    for with_cp in (False, True):
        torch.manual_seed(0)
        net = MobileNetV2(0.25, with_cp=with_cp).train()
        torch.manual_seed(1)
        sum(each.square().mean() for each in net(torch.rand(2, 3, 64, 64))).backward()
        results.append([each.grad for each in net.parameters()] + list(net.buffers()))
    torch.testing.assert_close(results[0], results[1], rtol=1e-3, atol=1e-5)


def test_what_it_cannot_do_is_said():
    with pytest.raises(ValueError, match=r"out_indices must be 0 to 7, got \(8,\)"):
        MobileNetV2(out_indices=(8,))
    with pytest.raises(ValueError, match=r"frozen_stages must be -1 to 7, got \(8,\)"):
        MobileNetV2(frozen_stages=8)
