"""Necks beside FPN: equal to the reference's recorded figures, and what each has of its own."""

import json
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from det_models.dyhead import DyHead, SpatialConv
from det_models.nas_fpn import NASFPN, MergingCell
from det_models.retina_sepbn import RetinaSepBNHead

from detcore.errors import ConfigError
from detcore.registry import MODELS

GOLDEN = json.loads((Path(__file__).parent / "golden" / "necks.json").read_text())
CHANNELS, STRIDES = (8, 16, 24, 32), (4, 8, 16, 32)


def pyramid(random_of, height=128, width=160):
    return [
        torch.from_numpy(
            random_of(f"map{channels}")
            .standard_normal((2, channels, -(-height // stride), -(-width // stride)))
            .astype(np.float32)
        )
        for channels, stride in zip(CHANNELS, STRIDES, strict=True)
    ]


@pytest.mark.parametrize("name", [name for name in GOLDEN if name != "what"])
def test_names_and_maps_are_those_on_record(name, fill_by_name, random_of):
    record = GOLDEN[name]
    neck = fill_by_name(MODELS.build({"type": name, **record["cfg"]})).eval()
    names = "\n".join(sorted(f"{key} {list(value.shape)}" for key, value in neck.state_dict().items()))
    assert zlib.crc32(names.encode()) == record["names"]
    with torch.no_grad():
        maps = neck(pyramid(random_of))
    for got, want in zip(maps, record["maps"], strict=True):
        assert list(got.shape) == want["shape"]
        flat = got.double().flatten()
        samples = flat[np.linspace(0, len(flat) - 1, 8).astype(int)].tolist()
        assert samples == pytest.approx(want["samples"], rel=1e-4, abs=1e-4)
        assert flat.abs().mean().item() == pytest.approx(want["abs_mean"], rel=1e-5)


@pytest.mark.parametrize("name", ["HRFPN", "NASFPN", "PAFPN"])
def test_strides_describe_the_maps_of_odd_sizes(name, random_of):
    neck = MODELS.build({"type": name, "out_channels": 8})
    neck.connect(CHANNELS, STRIDES)
    maps = neck(pyramid(random_of, height=135, width=101))
    assert [each.shape[1] for each in maps] == [8] * 5
    for each, stride in zip(maps, neck.out_strides, strict=True):
        assert abs(each.shape[2] - 135 / stride) < 1 + 1e-6
        assert abs(each.shape[3] - 101 / stride) < 1 + 1e-6
    with pytest.raises(ConfigError, match="the backbone gives"):
        neck.connect((1, 2, 3, 4), STRIDES)


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ({"type": "PAFPN", "in_channels": [8, 8], "num_outs": 1}, "PAFPN: num_outs"),
        ({"type": "HRFPN", "pooling_type": "MEAN"}, "pooling_type"),
        ({"type": "HRFPN", "norm_cfg": {"type": "BN"}}, "no norm layers"),
        ({"type": "NASFPN", "num_outs": 4}, "num_outs must be 5"),
        ({"type": "NASFPN", "in_channels": [8, 8], "start_level": 2}, "NASFPN: levels"),
        ({"type": "DyHead", "in_channels": 8, "out_channels": 8}, "multiple of 16"),
        ({"type": "DyHead", "in_channels": 8, "out_channels": 16, "num_blocks": 0}, "num_blocks"),
        ({"type": "RetinaSepBNHead", "num_classes": 3, "num_ins": 0, "in_channels": 8}, "num_ins"),
        ({"type": "NeckChain", "necks": []}, "at least one"),
    ],
)
def test_what_does_not_fit_is_said(cfg, message):
    with pytest.raises(Exception, match=message):
        MODELS.build(cfg)


def test_hrfpn_says_which_map_is_too_small():
    neck = MODELS.build({"type": "HRFPN", "in_channels": [4, 4], "out_channels": 4})
    with pytest.raises(ValueError, match="needs 16 cells a side"):
        neck([torch.rand(1, 4, 8, 32), torch.rand(1, 4, 4, 16)])


def test_merging_cells_are_those_of_the_paper():
    fine, coarse = torch.rand(1, 2, 8, 8), torch.rand(1, 2, 4, 4)
    merge = MergingCell(2, "sum", None, with_out_conv=False)
    assert torch.equal(merge(fine, coarse, (4, 4)), F.max_pool2d(fine, 2) + coarse)
    enlarged = coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(merge(fine, coarse, (8, 8)), fine + enlarged)
    pooled = MergingCell(2, "gp", None, with_out_conv=False)(coarse, fine, (4, 4))
    small = F.max_pool2d(fine, 2)
    assert torch.allclose(pooled, small + small.mean((2, 3), keepdim=True).sigmoid() * coarse)


def test_every_stack_of_nas_fpn_has_the_cells_that_the_search_found():
    neck = NASFPN(in_channels=[8, 8, 8], out_channels=8, stack_times=2)
    assert [list(stage) for stage in neck.fpn_stages] == [list(NASFPN.cells)] * 2
    assert len(neck.extra_downsamples) == 2


# ----------------------------------------------------------------------------------------------- DyHead


def test_without_offsets_and_with_full_masks_it_is_a_convolution():
    torch.manual_seed(0)
    layer = SpatialConv(4, 16)
    x = torch.rand(2, 4, 6, 8)
    got = layer(x, torch.zeros(2, 18, 6, 8), torch.ones(2, 9, 6, 8))
    assert torch.allclose(got, layer.norm(F.conv2d(x, layer.conv.weight, padding=1)), atol=1e-5)


def test_a_coarser_map_reads_the_beginning_of_a_finer_ones_offsets():
    torch.manual_seed(0)
    layer = SpatialConv(4, 16)
    x, offset, mask = torch.rand(2, 4, 3, 4), torch.rand(2, 18, 6, 8), torch.rand(2, 9, 6, 8)
    begun = offset.reshape(2, -1)[:, : 18 * 12].reshape(2, 18, 3, 4)
    weighed = mask.reshape(2, -1)[:, : 9 * 12].reshape(2, 9, 3, 4)
    assert torch.equal(layer(x, offset, mask), layer(x, begun, weighed))


@pytest.mark.parametrize("zero", [True, False])
def test_offsets_start_at_zero_where_asked(zero):
    neck = DyHead(16, 16, num_blocks=2, zero_init_offset=zero)
    neck.init_weights()
    for block in neck.dyhead_blocks:
        assert (block.spatial_conv_offset.weight == 0).all() == zero
        assert block.spatial_conv_mid.conv.weight.std().item() == pytest.approx(0.01, rel=0.2)


# ------------------------------------------------------------------------------- lists of necks, and heads


def test_a_list_of_necks_is_one_neck(small_config):
    cfg = small_config()
    cfg["neck"] = [cfg["neck"], {"type": "DyHead", "in_channels": 16, "out_channels": 16, "num_blocks": 1}]
    detector = MODELS.build(cfg)
    names = {name.split(".")[1] for name in detector.state_dict() if name.startswith("neck.")}
    assert names == {"0", "1"}
    assert detector.neck.out_strides == (8, 16, 32, 64, 128)
    assert len(detector(torch.rand(2, 3, 64, 64))[0]) == 5


def test_levels_share_convolutions_but_not_norms():
    head = RetinaSepBNHead(3, 2, 8, stacked_convs=2, feat_channels=8, norm_cfg={"type": "BN"})
    for tower in (head.cls_convs, head.reg_convs):
        for first, second in zip(*tower, strict=True):
            assert first.conv is second.conv
            assert first.bn is not second.bn
    with pytest.raises(ValueError, match="2 levels"):
        head([torch.rand(1, 8, 4, 4)])


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize(
    "word", ["regnet/", "hrnet/", "swin/", "pvt/", "convnext/", "efficientnet/", "nas_fpn/", "dyhead/"]
)
def test_the_whole_record(shared, root, word):
    check = [sys.executable, str(shared("golden/check.py")), "--configs", str(root / "configs"), word]
    done = subprocess.run(check, capture_output=True, text=True, check=False, cwd=root)
    assert done.returncode == 0, done.stdout
    assert "0 failed" in done.stdout
