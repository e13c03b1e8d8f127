"""Backbones of several families: equal to the reference's recorded figures, and what each has of its own."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from detcore.registry import MODELS

GOLDEN = json.loads((Path(__file__).parent / "golden" / "families.json").read_text())
EVERY = [name for name in GOLDEN if name != "what"]
STAGES = {
    f"stage{branches}": {
        "num_modules": 1, "num_branches": branches, "block": "BASIC" if branches > 1 else "BOTTLENECK",
        "num_blocks": (1,) * branches, "num_channels": tuple(8 * 2**i for i in range(branches)),
    }
    for branches in (1, 2, 3, 4)
}  # fmt: skip
SWIN = {
    "type": "SwinTransformer", "embed_dims": 8, "depths": (1, 2), "num_heads": (2, 2), "strides": (4, 2),
    "out_indices": (0, 1), "window_size": 4,
}  # fmt: skip
CONVNEXT = {"type": "ConvNeXt", "arch": {"depths": (1, 2), "channels": (8, 16)}, "out_indices": (0, 1)}
REGNET = {"w0": 16, "wa": 16.0, "wm": 2.0, "group_w": 8, "depth": 5, "bot_mul": 1.0}


def random_of(name):
    return np.random.Generator(np.random.PCG64([zlib.crc32(name.encode()), 0]))


def filled(model):
    """Weights that depend on names and shapes only; batch norms work on the batch."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            shape, random = tuple(parameter.shape), random_of(name)
            if len(shape) >= 2:
                value = random.standard_normal(shape) * float(np.prod(shape[1:])) ** -0.5
            else:
                value = random.uniform(0.5, 1.5, shape)
                if name.endswith("bias"):
                    value = random_of(name).standard_normal(shape) * 0.02
            parameter.copy_(torch.from_numpy(np.asarray(value, np.float32)))
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm):
            module.train()
    return model


@pytest.mark.parametrize("name", EVERY)
def test_names_and_maps_are_those_on_record(name):
    record = GOLDEN[name]
    net = MODELS.build({"type": name, **record["cfg"]})
    names = "\n".join(sorted(f"{key} {list(value.shape)}" for key, value in net.state_dict().items()))
    assert zlib.crc32(names.encode()) == record["names"]
    image = random_of("image").standard_normal((2, 3, *record["size"])).astype(np.float32)
    with torch.no_grad():
        maps = filled(net)(torch.from_numpy(image))
    for got, want in zip(maps, record["maps"], strict=True):
        assert list(got.shape) == want["shape"]
        flat = got.double().flatten()
        samples = flat[np.linspace(0, len(flat) - 1, 8).astype(int)].tolist()
        assert samples == pytest.approx(want["samples"], rel=2e-3, abs=2e-3 * want["abs_mean"])
        assert flat.abs().mean().item() == pytest.approx(want["abs_mean"], rel=1e-3)


@pytest.mark.parametrize("name", EVERY)
def test_channels_and_strides_describe_the_maps_of_odd_sizes(name):
    net = MODELS.build({"type": name, **GOLDEN[name]["cfg"]}).eval()
    with torch.no_grad():
        maps = net(torch.rand(1, 3, 101, 77))
    assert [each.shape[1] for each in maps] == list(net.out_channels)
    for each, stride in zip(maps, net.out_strides, strict=True):
        assert abs(each.shape[2] - 101 / stride) < 1
        assert abs(each.shape[3] - 77 / stride) < 1


@pytest.mark.parametrize(
    ("cfg", "frozen", "trained"),
    [
        (
            {"type": "Res2Net", "depth": 50, "base_channels": 8, "stem_channels": 8, "frozen_stages": 1},
            ("stem.", "layer1."),
            ("layer2.", "layer3.", "layer4."),
        ),
        ({"type": "RegNet", "arch": "regnetx_400mf", "frozen_stages": 0}, ("conv1.", "bn1."), ("layer1.",)),
        (
            {"type": "EfficientNet", "frozen_stages": 2},
            ("layers.0.", "layers.1."),
            ("layers.2.", "layers.6."),
        ),
        ({**SWIN, "frozen_stages": 1}, ("patch_embed.", "stages.0.", "norm0."), ("stages.1.", "norm1.")),
        (
            {**CONVNEXT, "frozen_stages": 1},
            ("downsample_layers.0.", "stages.0."),
            ("downsample_layers.1.", "stages.1.", "norm0.", "norm1."),
        ),
    ],
)
def test_frozen_stages_do_not_train(cfg, frozen, trained):
    net = MODELS.build(cfg).train()
    sum(each.sum() for each in net(torch.rand(2, 3, 64, 64))).backward()
    for name, parameter in net.named_parameters():
        if name.startswith(frozen):
            assert not parameter.requires_grad, name
            assert parameter.grad is None, name
        if name.startswith(trained):
            assert parameter.grad is not None, name
    assert not any(net.get_submodule(name.rstrip(".")).training for name in frozen)


@pytest.mark.parametrize(
    "cfg",
    [
        {"type": "Res2Net", "depth": 50, "base_channels": 8, "stem_channels": 8},
        {"type": "RegNet", "arch": REGNET, "strides": (2, 2, 2), "dilations": (1, 1, 1), "out_indices": (2,)},
        {"type": "HRNet", "extra": STAGES},
        {"type": "EfficientNet"},
        {**SWIN, "drop_path_rate": 0.0},
        {**CONVNEXT, "use_grn": True},
    ],
)
def test_computing_again_changes_nothing_but_memory(cfg):
    results = []
    for again in (False, True):
        net = filled(MODELS.build({**cfg, "with_cp": again}))
        maps = net(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
        sum(each.square().mean() for each in maps).backward()
        results.append([*maps, *(each.grad for each in net.parameters())])
    for plain, anew in zip(*results, strict=True):
        assert torch.equal(plain, anew)


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ({"type": "Res2Net", "depth": 34}, "depth"),
        ({"type": "Res2Net", "depth": 50, "scales": 1}, "scales must be at least 2"),
        ({"type": "Res2Net", "depth": 50, "style": "caffe"}, "v1d"),
        ({"type": "RegNet", "arch": "regnetx_5gf"}, "regnetx_4.0gf"),
        ({"type": "RegNet", "arch": "regnetx_800mf", "deep_stem": True}, "deep_stem"),
        ({"type": "RegNet", "arch": "regnetx_800mf", "strides": (2, 2)}, "4 stages"),
        ({"type": "RegNet", "arch": "regnetx_800mf", "out_indices": (4,)}, "out_indices"),
        ({"type": "HRNet", "extra": {**STAGES, "stage3": STAGES["stage2"]}}, "stage3"),
        ({"type": "EfficientNet", "arch": "b9"}, "b8"),
        ({"type": "EfficientNet", "out_indices": (7,)}, "out_indices"),
        ({"type": "PyramidVisionTransformer", "num_layers": (1, 1)}, "num_layers"),
        ({"type": "PyramidVisionTransformerV2", "out_indices": (4,)}, "out_indices"),
        ({**SWIN, "patch_size": 2}, "strides"),
        ({**SWIN, "num_heads": (2,)}, "num_heads"),
        ({**SWIN, "out_indices": (2,)}, "out_indices"),
        ({"type": "ConvNeXt", "arch": "giant"}, "atto"),
        ({**CONVNEXT, "arch": {"depths": (1, 2)}}, "channels"),
        ({**CONVNEXT, "arch": {"depths": (1, 2), "channels": (8,)}}, "of each stage"),
        ({**CONVNEXT, "out_indices": (2,)}, "out_indices"),
        ({**CONVNEXT, "frozen_stages": 3}, "frozen_stages"),
        ({"type": "ConvNeXt", "gap_before_final_norm": True}, "set it to False"),
    ],
)
def test_what_does_not_fit_is_said(cfg, message):
    with pytest.raises(Exception, match=message):
        MODELS.build(cfg)


def test_widths_of_regnets_are_those_of_the_paper():
    from det_backbones.regnet import RegNet

    with torch.device("meta"):
        found = {name: RegNet(name) for name in RegNet.arch_settings}
    assert found["regnetx_400mf"].out_channels == (32, 64, 160, 384)
    assert found["regnetx_3.2gf"].out_channels == (96, 192, 432, 1008)
    assert found["regnetx_12gf"].out_channels == (224, 448, 896, 2240)
    assert found["regnetx_3.2gf"].stage_blocks == [2, 6, 15, 2]


def test_hrnet_gives_the_finest_map_alone_where_asked():
    net = MODELS.build({"type": "HRNet", "extra": STAGES, "multiscale_output": False})
    assert (net.out_channels, net.out_strides) == ((8,), (4,))
    assert [each.shape for each in net(torch.rand(1, 3, 64, 64))] == [(1, 8, 16, 16)]


def test_edge_networks_build_with_the_channels_of_the_authors():
    with torch.device("meta"):
        net = MODELS.build({"type": "EfficientNet", "arch": "el", "out_indices": (0, 1, 3, 5, 6)})
    assert net.out_channels == (40, 32, 56, 232, 1536)
    assert net.out_strides == (2, 2, 8, 32, 32)
    assert net.layers[1][1].conv1.conv.out_channels == 128  # the second block is wider


# ------------------------------------------------------------------------------------------------- PVT

PVT = {
    "embed_dims": 8, "num_stages": 2, "num_layers": (1, 2), "num_heads": (1, 2), "sr_ratios": (2, 1),
    "out_indices": (0, 1), "mlp_ratios": (2, 2),
}  # fmt: skip
PVT_1 = {
    "type": "PyramidVisionTransformer", **PVT, "pretrain_img_size": 32, "patch_sizes": (4, 2),
    "strides": (4, 2), "paddings": (0, 0),
}  # fmt: skip


def authors_pvt(state):
    """The weights of our network of two stages as the authors' classifier would hold them."""
    theirs = {"head.weight": torch.rand(10, 16), "norm.weight": torch.rand(16)}
    theirs["cls_token"] = torch.rand(1, 1, 16)
    for ours, value in state.items():
        _, stage, part, rest = ours.split(".", 3)
        number = int(stage) + 1
        if part == "0":
            theirs[f"patch_embed{number}.{rest.replace('projection', 'proj')}"] = value
            continue
        block, _, name = rest.partition(".")
        if name == "pos_embed":
            value = torch.cat([torch.rand(1, 1, 16), value], 1) if number == 2 else value
            theirs[f"pos_embed{number}"] = value
            continue
        start = f"block{number}.{int(block) - 1}."
        if "in_proj_" in name:
            third = len(value) // 3
            kind = name.rpartition("_")[2]
            theirs[f"{start}attn.q.{kind}"], theirs[f"{start}attn.kv.{kind}"] = value[:third], value[third:]
            continue
        name = name.replace("attn.attn.out_proj", "attn.proj")
        name = name.replace("ffn.layers.0", "mlp.fc1").replace("ffn.layers.3", "mlp.fc2")
        theirs[start + name] = value[:, :, 0, 0] if "mlp" in name and value.ndim == 4 else value
    return theirs


def test_pvts_authors_weights_are_converted(tmp_path):
    source = filled(MODELS.build(PVT_1))
    theirs = authors_pvt(source.state_dict())
    assert {"block2.1.attn.q.bias", "block1.0.attn.sr.weight", "block1.0.mlp.fc1.weight"} <= theirs.keys()
    file = tmp_path / "pvt.pth"
    torch.save(theirs, file)
    net = MODELS.build({**PVT_1, "init_cfg": {"checkpoint": str(file)}})  # no type: as older configs write it
    net.init_weights()
    for name, value in net.state_dict().items():
        assert torch.equal(value, source.state_dict()[name]), name


def test_pvts_second_version_has_its_own_names():
    from det_backbones.pvt_weights import converted

    state = {
        "block1.0.mlp.dwconv.dwconv.weight": torch.rand(4, 1, 3, 3),
        "block1.0.mlp.fc2.weight": torch.rand(2, 4),
        "norm1.weight": torch.rand(2),
    }
    names = ["layers.0.1.0.ffn.layers.1.weight", "layers.0.1.0.ffn.layers.4.weight", "layers.0.2.weight"]
    assert list(converted(state, with_positions=False)) == names


# ------------------------------------------------------------------------------------------------- Swin


def test_moved_windows_do_not_join_opposite_sides():
    from det_backbones.window_attention import ShiftWindowMSA

    torch.manual_seed(0)
    layer = ShiftWindowMSA(
        4, 4, 2, 0.0, num_heads=2, qkv_bias=True, qk_scale=None, attn_drop_rate=0.0, proj_drop_rate=0.0
    )
    tokens = torch.rand(1, 64, 4, requires_grad=True)
    layer(tokens, (8, 8)).unflatten(1, (8, 8))[0, 0, 0].sum().backward()
    seen = tokens.grad.unflatten(1, (8, 8))[0].abs().sum(-1) > 1e-12
    assert seen[:2, :2].all()  # the window at the corner, cut by the edge
    assert not seen[2:].any()
    assert not seen[:, 2:].any()


def authors_swin(state):
    """The weights of our network as the authors' classifier would hold them."""
    theirs = {"head.weight": torch.rand(10, 16), "norm.weight": torch.rand(16)}
    for ours, value in state.items():
        name = ours.replace("patch_embed.projection", "patch_embed.proj").replace("stages.", "layers.")
        name = name.replace(".w_msa.", ".").replace(".ffn.layers.0.0.", ".mlp.fc1.")
        name = name.replace(".ffn.layers.1.", ".mlp.fc2.")
        if ".downsample." in name:  # ours: channel, down, right; theirs: right, down, channel
            value = value.unflatten(-1, (-1, 2, 2)).movedim((-3, -2, -1), (-1, -2, -3)).flatten(-3)
        if not name.startswith("norm"):
            theirs[name] = value
    return theirs


def test_swins_authors_weights_are_converted(tmp_path):
    source = filled(MODELS.build(SWIN))
    file = tmp_path / "swin.pth"
    torch.save({"model": authors_swin(source.state_dict())}, file)
    pretrained = {"type": "Pretrained", "checkpoint": str(file)}
    net = MODELS.build({**SWIN, "convert_weights": True, "init_cfg": pretrained})
    net.init_weights()
    for name, value in net.state_dict().items():
        if not name.startswith("norm"):
            assert torch.equal(value, source.state_dict()[name]), name
    assert net.init_cfg == pretrained
    larger = MODELS.build({**SWIN, "window_size": 6, "convert_weights": True, "init_cfg": pretrained})
    larger.init_weights()
    name = "stages.0.blocks.0.attn.w_msa.relative_position_bias_table"
    small, large = (each.state_dict()[name] for each in (net, larger))
    assert large.shape == (121, 2)
    assert torch.allclose(large[60], small[24], atol=1e-5)  # the distance of nothing, the middle of both
