"""Blocks of cross stage partial networks, against their layers called one by one."""

import pytest
import torch

from detcore.nn import ChannelAttention, CSPLayer, CSPNeXtBlock, DarknetBottleneck

X = torch.randn(2, 8, 6, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("block", [DarknetBottleneck, CSPNeXtBlock])
def test_a_shortcut_goes_around_both_convolutions_where_channels_agree(block):
    layer = block(8, 8, 0.5).eval()
    assert layer.conv1(X).shape[1] == 4
    torch.testing.assert_close(layer(X), layer.conv2(layer.conv1(X)) + X)
    for other in (block(8, 8, 0.5, add_identity=False).eval(), block(8, 6).eval()):
        torch.testing.assert_close(other(X), other.conv2(other.conv1(X)))


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("cspnext", [False, True])
def test_half_of_the_channels_go_through_the_blocks(cspnext, attention):
    torch.manual_seed(0)
    layer = CSPLayer(
        8, 12, 0.5, num_blocks=2, use_cspnext_block=cspnext, channel_attention=attention
    ).eval()
    through = layer.blocks[1](layer.blocks[0](layer.main_conv(X)))
    both = torch.cat((through, layer.short_conv(X)), 1)
    assert both.shape[1] == 12
    if attention:
        both = layer.attention(both)
    torch.testing.assert_close(layer(X), layer.final_conv(both))
    kind = CSPNeXtBlock if cspnext else DarknetBottleneck
    assert [type(block) for block in layer.blocks] == [kind, kind]


def test_channels_are_weighed_by_what_their_means_say():
    layer = ChannelAttention(8)
    factors = (layer.fc.weight[:, :, 0, 0] @ X.mean((2, 3)).T).T + layer.fc.bias
    want = X * ((factors + 3) / 6).clamp(0, 1)[..., None, None]
    torch.testing.assert_close(layer(X), want)
    assert ChannelAttention(8).bfloat16()(X.bfloat16()).dtype == torch.bfloat16


def test_separable_convolutions_have_fewer_weights():
    plain, separable = (CSPLayer(8, 16, use_depthwise=each) for each in (False, True))
    assert "blocks.0.conv2.depthwise_conv.conv.weight" in separable.state_dict()
    assert "blocks.0.conv2.conv.weight" in plain.state_dict()
