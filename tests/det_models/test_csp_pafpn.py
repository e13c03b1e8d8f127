"""The necks of YOLOX and RTMDet, against their layers called one by one."""

import pytest
import torch
import torch.nn.functional as F
from det_models.csp_pafpn import YOLOXPAFPN, CSPNeXtPAFPN

from detcore.errors import ConfigError
from detcore.nn import CSPNeXtBlock, DarknetBottleneck

CHANNELS = [4, 8, 16]
BOTH = pytest.mark.parametrize("neck", [YOLOXPAFPN, CSPNeXtPAFPN])


def maps(finest=(12, 16)):
    random = torch.Generator().manual_seed(0)
    sizes = [tuple(-(-side // 2**level) for side in finest) for level in range(3)]
    return [torch.randn(2, c, *size, generator=random) for c, size in zip(CHANNELS, sizes, strict=True)]


@BOTH
def test_from_the_coarsest_down_then_from_the_finest_up(neck):
    torch.manual_seed(0)
    pyramid = neck(CHANNELS, 6, num_csp_blocks=1).eval()
    fine, middle, coarse = maps()
    coarse = pyramid.reduce_layers[0](coarse)
    middle = pyramid.top_down_blocks[0](torch.cat((F.interpolate(coarse, scale_factor=2), middle), 1))
    middle = pyramid.reduce_layers[1](middle)
    first = pyramid.top_down_blocks[1](torch.cat((F.interpolate(middle, scale_factor=2), fine), 1))
    second = pyramid.bottom_up_blocks[0](torch.cat((pyramid.downsamples[0](first), middle), 1))
    third = pyramid.bottom_up_blocks[1](torch.cat((pyramid.downsamples[1](second), coarse), 1))
    want = [conv(each) for conv, each in zip(pyramid.out_convs, (first, second, third), strict=True)]
    torch.testing.assert_close(list(pyramid(maps())), want)
    assert pyramid.out_channels == (6, 6, 6)


def test_their_blocks_and_last_convolutions_differ():
    yolox, rtmdet = YOLOXPAFPN(CHANNELS, 6), CSPNeXtPAFPN(CHANNELS, 6)
    assert type(yolox.top_down_blocks[0].blocks[0]) is DarknetBottleneck
    assert type(rtmdet.top_down_blocks[0].blocks[0]) is CSPNeXtBlock
    assert [each.out_convs[0].conv.kernel_size for each in (yolox, rtmdet)] == [(1, 1), (3, 3)]
    kinds = (YOLOXPAFPN, CSPNeXtPAFPN)
    yolox, rtmdet = (kind(CHANNELS, 6, use_depthwise=True).state_dict() for kind in kinds)
    assert "out_convs.0.conv.weight" in yolox
    assert "out_convs.0.depthwise_conv.conv.weight" in rtmdet


@BOTH
def test_maps_of_odd_size_keep_it(neck):
    pyramid = neck(CHANNELS, 6, num_csp_blocks=1).eval()
    shapes = [each.shape[2:] for each in maps((9, 13))]
    assert [each.shape[2:] for each in pyramid(maps((9, 13)))] == shapes


@BOTH
def test_it_asks_the_backbone(neck):
    pyramid = neck("auto", 6)
    pyramid.connect(CHANNELS, [8, 16, 32])
    assert pyramid.in_channels == tuple(CHANNELS)
    assert pyramid.out_strides == (8, 16, 32)
    name = neck.__name__
    with pytest.raises(ConfigError, match=f"{name}: in_channels is .4, 8, 16., but the backbone gives .4, 8"):
        pyramid.connect([4, 8, 8])
    with pytest.raises(ConfigError, match="joins 2 maps or more"):
        neck([4])
    with pytest.raises(ConfigError, match="scale_factor=2, got 4"):
        neck(CHANNELS, upsample_cfg={"scale_factor": 4})
    with pytest.raises(ConfigError, match="got 'all'"):
        neck("all")
    with pytest.raises(ValueError, match=f"{name} for channels .4, 8, 16. got 2 maps"):
        pyramid(maps()[:2])
