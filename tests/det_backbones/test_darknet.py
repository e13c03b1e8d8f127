"""Darknet-53."""

import gzip
import json

import pytest
import torch
from det_backbones.darknet import Darknet, ResBlock
from torch import nn


@pytest.mark.shared
def test_names_and_shapes_are_those_on_record(shared):
    path = shared("golden/records/yolo__yolov3_d53_8xb8-320-273e_coco.json.gz")
    recorded = json.loads(gzip.decompress(path.read_bytes()))["state_dict"]
    want = [(k.removeprefix("backbone."), shape) for k, shape in recorded if k.startswith("backbone.")]
    with torch.device("meta"):
        net = Darknet(53)
    assert [(k, list(v.shape)) for k, v in net.state_dict().items()] == want


def test_it_has_the_52_convolutions_of_the_paper_in_front_of_its_classifier():
    with torch.device("meta"):
        convs = [each for each in Darknet().modules() if isinstance(each, nn.Conv2d)]
    assert len(convs) == 52
    assert [each.out_channels for each in convs if each.stride == (2, 2)] == [64, 128, 256, 512, 1024]
    assert all(each.kernel_size == (3, 3) for each in convs if each.stride == (2, 2))


def test_a_block_adds_what_its_two_convolutions_make():
    torch.manual_seed(0)
    block = ResBlock(8).eval()
    x = torch.randn(1, 8, 5, 6)
    inner = nn.functional.leaky_relu(block.conv1.bn(block.conv1.conv(x)), 0.1)
    inner = nn.functional.leaky_relu(block.conv2.bn(block.conv2.conv(inner)), 0.1)
    torch.testing.assert_close(block(x), x + inner)


def test_channels_and_strides_describe_the_maps():
    net = Darknet(out_indices=range(6)).eval()
    with torch.no_grad():
        maps = net(torch.rand(1, 3, 32, 64))
    assert tuple(each.shape[1] for each in maps) == net.out_channels == (32, 64, 128, 256, 512, 1024)
    assert tuple(64 // each.shape[3] for each in maps) == net.out_strides == (1, 2, 4, 8, 16, 32)
    assert (Darknet().out_channels, Darknet().out_strides) == ((256, 512, 1024), (8, 16, 32))


@pytest.mark.parametrize("frozen", [-1, 0, 2])
def test_frozen_stages_do_not_train_and_norms_keep_their_averages(frozen):
    with torch.device("meta"):
        net = Darknet(frozen_stages=frozen).train()
    for number, name in enumerate(net.stages):
        stage = net.get_submodule(name)
        assert all(each.requires_grad == (number >= frozen) for each in stage.parameters())
        assert stage.training == (number >= frozen)
    norms = [each for each in net.modules() if isinstance(each, nn.BatchNorm2d)]
    assert not any(each.training for each in norms)
    with torch.device("meta"):
        trained = Darknet(norm_eval=False).train()
    assert all(each.training for each in trained.modules())


def test_what_it_cannot_do_is_said():
    with pytest.raises(ValueError, match=r"Darknet has depth \[53\], got 19"):
        Darknet(19)
    with pytest.raises(ValueError, match=r"out_indices must be 0 to 5, got \(3, 6\)"):
        Darknet(out_indices=(3, 6))
