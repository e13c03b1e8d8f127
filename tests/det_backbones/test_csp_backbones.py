"""CSPDarknet and CSPNeXt: maps, what is frozen, what they start from, what is refused."""

import pytest
import torch
from det_backbones.csp_darknet import CSPDarknet, Focus, SPPBottleneck
from det_backbones.cspnext import CSPNeXt
from torch import nn

BOTH = pytest.mark.parametrize("backbone", [CSPDarknet, CSPNeXt])
SMALL = {"deepen_factor": 0.33, "widen_factor": 0.125}


@BOTH
def test_maps_are_as_it_tells(backbone):
    network = backbone(arch="P6", out_indices=(0, 2, 5), **SMALL).eval()
    maps = network(torch.rand(1, 3, 128, 64))
    assert network.out_channels == (8, 32, 128)
    assert network.out_strides == (2, 8, 64)
    assert [tuple(each.shape) for each in maps] == [(1, 8, 64, 32), (1, 32, 16, 8), (1, 128, 2, 1)]


@BOTH
def test_factors_are_of_blocks_and_channels(backbone):
    blocks = {"CSPDarknet": [1, 3, 3, 1], "CSPNeXt": [1, 2, 2, 1]}[backbone.__name__]
    network = backbone(**SMALL)
    assert [len(getattr(network, f"stage{n}")[-1].blocks) for n in (1, 2, 3, 4)] == blocks
    own = backbone(arch_ovewrite=[(8, 16, 2, True, True), (16, 24, 1, False, False)], out_indices=(1, 2))
    assert own.out_channels == (16, 24)
    assert [len(own.stage1), len(own.stage2)] == [3, 2]  # one of them pools


@BOTH
def test_frozen_stages_and_norms(backbone):
    network = backbone(frozen_stages=1, norm_eval=True, **SMALL).train()
    trains = {name.partition(".")[0] for name, p in network.named_parameters() if p.requires_grad}
    assert trains == {"stage2", "stage3", "stage4"}
    assert not any(m.training for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    assert network.stage3.training
    assert not network.stem.training
    free = backbone(**SMALL).train()
    assert all(m.training for m in free.modules())
    assert all(p.requires_grad for p in free.parameters())


@BOTH
def test_it_starts_with_kaiming_s_values(backbone):
    torch.manual_seed(0)
    network = backbone(**SMALL)
    network.init_weights()
    for conv in (m for m in network.modules() if isinstance(m, nn.Conv2d)):
        bound = conv.weight[0].numel() ** -0.5  # gain 1 / sqrt(3), times sqrt(3) of a uniform distribution
        assert 0.5 * bound < conv.weight.abs().max() <= bound * 1.0001
    assert all((m.weight == 1).all() for m in network.modules() if isinstance(m, nn.BatchNorm2d))


@BOTH
def test_what_is_wrong_is_said(backbone):
    name = backbone.__name__
    with pytest.raises(ValueError, match=f"{name}: arch is one of P5, P6, got 'P7'"):
        backbone(arch="P7")
    with pytest.raises(ValueError, match=f"{name}: out_indices must be among 0 to 4, got \\(5,\\)"):
        backbone(out_indices=(5,))
    with pytest.raises(ValueError, match=f"{name}: frozen_stages must be -1 to 4, got 5"):
        backbone(frozen_stages=5)
    with pytest.raises(ValueError, match="a stage is \\(in_channels"):
        backbone(arch_ovewrite=[(8, 16)])


def test_focus_keeps_every_pixel():
    focus = Focus(1, 4)
    image = torch.arange(16.0).view(1, 1, 4, 4)
    with torch.no_grad():
        focus.conv.conv.weight.copy_(torch.eye(4)[..., None, None])
        focus.eval().conv.bn.eps = 0
        focus.conv.activate = nn.Identity()
        corners = focus(image)[0, :, 0, 0].tolist()
    assert corners == [0, 4, 1, 5]  # upper left, lower left, upper right, lower right
    with pytest.raises(ValueError, match="even height and width, got \\(3, 4\\)"):
        focus(torch.zeros(1, 1, 3, 4))


def test_pooling_looks_at_squares_of_several_sizes():
    spp = SPPBottleneck(4, 6, (3, 5)).eval()
    x = spp.conv1(torch.randn(1, 4, 7, 7)).detach()
    assert x.shape[1] == 2
    pools = [pool(x) for pool in spp.poolings]
    for side, pooled in zip((1, 2), pools, strict=True):
        assert float(pooled[0, 0, 3, 3]) == float(x[0, 0, 3 - side : 4 + side, 3 - side : 4 + side].max())
