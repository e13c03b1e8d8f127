"""NAS-FCOS: the pyramid and the towers that the search found."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from det_models.nas_fcos import NASFCOS_FPN, ConcatCell, NASFCOSHead
from torch import nn

from detcore.errors import ConfigError
from detcore.nn import ModulatedDeformConv2dPack
from detcore.registry import MODELS
from detcore.structures import InstanceData

BOXES = [[10.0, 12.0, 50.0, 60.0], [20.0, 30.0, 90.0, 60.0]]
DCN = {"conv_cfg": {"type": "DCNv2", "deform_groups": 2}, "norm_cfg": {"type": "BN"}}


@pytest.fixture
def small_nas_fcos(fill_by_name, small_config):
    """Of a few thousand weights, 3 classes."""
    cfg = small_config()
    del cfg["train_cfg"]
    head = {
        "type": "NASFCOSHead", "num_classes": 3, "in_channels": 16, "feat_channels": 16,
        "strides": (8, 16, 32, 64, 128), "norm_cfg": {"type": "GN", "num_groups": 4},
    }  # fmt: skip
    neck = {"type": "NASFCOS_FPN", "in_channels": [8, 16, 32, 64], "out_channels": 16, **DCN}
    return fill_by_name(MODELS.build({**cfg, "type": "NASFCOS", "neck": neck, "bbox_head": head}))


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def samples(make_sample):
    return [make_sample(64, 96, BOXES, [0, 2]), make_sample(64, 96, BOXES[:1], [1])]


def values(losses):
    return {name: float(value.detach()) for name, value in losses.items()}


# -- pyramid
# ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("conv_second", [True, False])
def test_a_cell_merges_at_the_larger_size_each_channel_from_two(conv_second):
    torch.manual_seed(0)
    cell = ConcatCell(4, conv_second).eval()
    coarse, fine = torch.randn(2, 4, 3, 4), torch.randn(2, 4, 6, 8)
    for first, second in ((coarse, fine), (fine, coarse), (fine, fine)):
        parts = [
            F.relu(F.conv2d(first, cell.input1_conv.conv.weight, cell.input1_conv.conv.bias, padding=1)),
            second,
        ]
        if conv_second:
            parts[1] = F.relu(
                F.conv2d(second, cell.input2_conv.conv.weight, cell.input2_conv.conv.bias, padding=1)
            )
        large = [
            each if each.shape[-1] == 8 else each.repeat_interleave(2, 2).repeat_interleave(2, 3)
            for each in parts
        ]
        merged = F.relu(torch.cat(large, 1) / (1 + 1e-5) ** 0.5)  # a batch norm that has seen nothing
        weight = cell.out_conv.conv.weight[:, :, 0, 0]
        want = [merged[:, 2 * k] * weight[k, 0] + merged[:, 2 * k + 1] * weight[k, 1] for k in range(4)]
        torch.testing.assert_close(cell(first, second), torch.stack(want, 1))


def test_results_of_the_search_become_p3_to_p5_and_all_get_one_map_added(monkeypatch):
    """With cells that tell what they merged; C3 is 1, C4 is 2, C5 is 4."""
    neck = NASFCOS_FPN([2, 2, 2, 2], 2)
    numbers = {name: 10 * place for place, name in enumerate(neck.cells, start=1)}
    for name in neck.cells:
        number = numbers[name]
        neck.fpn[name].forward = lambda first, second, number=number: torch.full(
            (1, 2, *max(first.shape[2:], second.shape[2:])),
            first.mean().item() * 100 + second.mean().item() + number,
        )
    for value, adapt in zip((1.0, 2.0, 4.0), neck.adapt_convs, strict=True):
        monkeypatch.setattr(adapt, "forward", lambda x, value=value: torch.full_like(x, value))
    sizes = [(16, 24), (8, 12), (4, 6), (2, 3)]
    found = neck([torch.zeros(1, 2, *size) for size in sizes])
    first, second = 404 + 10, 404 + 20
    shared = first * 100 + 4 + 30
    fine = 1 * 100 + 4 + 40
    p5 = second * 100 + 4 + 50
    p4 = first * 100 + fine + 60
    p3 = fine * 100 + 2 + 70
    for level, want in zip(found, (p3, p4, p5), strict=False):
        torch.testing.assert_close(level, torch.full_like(level, want + shared))
    assert [tuple(each.shape[2:]) for each in found] == [(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)]


def test_coarser_maps_are_strided_convolutions_the_second_of_what_is_positive():
    neck = NASFCOS_FPN([4, 4, 4, 4], 4, num_outs=5).eval()
    found = neck([torch.randn(1, 4, 32 // 2**i, 32 // 2**i) for i in range(4)])
    convs = [each.conv for each in neck.extra_downsamples]
    p6 = F.conv2d(found[2], convs[0].weight, convs[0].bias, stride=2, padding=1)
    torch.testing.assert_close(found[3], p6)
    torch.testing.assert_close(
        found[4], F.conv2d(p6.relu(), convs[1].weight, convs[1].bias, stride=2, padding=1)
    )
    assert len(NASFCOS_FPN([4] * 4, 4, num_outs=3).extra_downsamples) == 0


def test_maps_of_odd_sizes_fit_the_backbones_levels():
    neck = NASFCOS_FPN(out_channels=4)
    neck.connect((2, 2, 2, 2), (4, 8, 16, 32))
    found = neck([torch.randn(1, 2, *size) for size in ((34, 26), (17, 13), (9, 7), (5, 4))])
    assert [tuple(each.shape[2:]) for each in found] == [(17, 13), (9, 7), (5, 4), (3, 2), (2, 1)]
    assert neck.out_strides == (8, 16, 32, 64, 128)
    with pytest.raises(
        ConfigError, match=r"in_channels is \[2, 2, 2, 2\], but the backbone gives \[2, 2, 2\]"
    ):
        neck.connect((2, 2, 2))
    with pytest.raises(ValueError, match="got 1 maps"):
        neck([torch.zeros(1, 2, 4, 4)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_outs": 2}, "num_outs must be at least 3, got 2"),
        (
            {"in_channels": [4, 4, 4]},
            "the search was for 3 maps, got levels 1 to 2 of a backbone with 3 maps",
        ),
        ({"in_channels": [4] * 5}, "got levels 1 to 4"),
        ({"in_channels": [4] * 3, "end_level": 3}, "got levels 1 to 3 of a backbone with 3 maps"),
        ({"in_channels": "all"}, "in_channels is a list, or 'auto' to ask the backbone; got 'all'"),
    ],
)
def test_what_does_not_fit_is_said(arguments, message):
    with pytest.raises(ConfigError, match=message):
        NASFCOS_FPN(**arguments)


def test_convolutions_outside_of_the_cells_start_as_in_caffe2():
    neck = NASFCOS_FPN([8, 8, 8, 8], 8, **DCN)
    neck.init_weights()
    for conv in (neck.adapt_convs[0].conv, neck.extra_downsamples[0].conv):
        bound = (3 / conv.weight[0].numel()) ** 0.5
        assert 0.9 * bound < float(conv.weight.detach().abs().max()) <= bound
    assert not neck.fpn["c32"].input1_conv.conv.conv_offset.weight.any()


# -- head
# ---------------------------------------------------------------------------------------------------


def test_the_towers_are_those_of_the_search():
    head = NASFCOSHead(3, 8, feat_channels=16, stacked_convs=0, norm_cfg={"type": "GN", "num_groups": 4})
    for tower in (head.cls_convs, head.reg_convs):
        kinds = [type(each.conv) for each in tower]
        assert kinds == [ModulatedDeformConv2dPack, nn.Conv2d] * 2
        assert [each.conv.weight.shape[-1] for each in tower] == [3, 3, 3, 1]
        assert [each.conv.bias is not None for each in tower] == [True, False, True, False]
        assert {each.conv.deform_groups for each in tower[::2]} == {2}
    assert head.cls_convs[0].conv.weight is not head.reg_convs[0].conv.weight
    assert head.conv_cls.in_channels == 16


def test_the_head_starts_unsure_and_its_towers_as_in_caffe2():
    head = NASFCOSHead(3, 32, feat_channels=64)
    head.init_weights()
    assert float(head.conv_cls.bias.detach().sigmoid().mean()) == pytest.approx(0.01)
    for conv in (head.conv_cls, head.conv_reg, head.conv_centerness):
        assert float(conv.weight.detach().std()) == pytest.approx(0.01, rel=0.15)
    conv = head.cls_convs[1].conv
    bound = (3 / conv.weight[0].numel()) ** 0.5
    assert 0.9 * bound < float(conv.weight.detach().abs().max()) <= bound


def test_an_argument_that_is_none_is_named():
    with pytest.raises(Exception, match="center_smapling"):
        MODELS.build({"type": "NASFCOSHead", "num_classes": 3, "in_channels": 8, "center_smapling": True})


# -- detector
# ---------------------------------------------------------------------------------------------------


def test_losses_are_fcoss_of_what_the_head_predicts(small_nas_fcos, images, samples):
    model = small_nas_fcos
    features = model.extract_feat(images)
    fcos = MODELS.build({
        "type": "FCOSHead", "num_classes": 3, "in_channels": 16, "feat_channels": 16,
        "strides": (8, 16, 32, 64, 128), "norm_cfg": {"type": "GN", "num_groups": 4},
    })  # fmt: skip
    outs = model.bbox_head(features)
    truth = [each.gt_instances for each in samples]
    want = values(fcos.loss_by_feat(*outs, truth, [each.metainfo for each in samples]))
    assert values(model.bbox_head.loss(features, samples)) == want
    assert all(value > 0 for value in want.values())


@pytest.mark.parametrize("numbers", [(0, 0), (2, 0)], ids=["none", "one_image"])
def test_images_without_objects_are_all_background(numbers, small_nas_fcos, images, make_sample):
    samples = [make_sample(64, 96, BOXES[:number], [0, 2][:number]) for number in numbers]
    losses = small_nas_fcos(images, samples, mode="loss")
    assert losses["loss_cls"] > 0
    assert (losses["loss_bbox"] > 0) == (losses["loss_centerness"] > 0) == (sum(numbers) > 0)
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad.isfinite().all() for p in small_nas_fcos.parameters() if p.requires_grad)


def test_every_parameter_learns(small_nas_fcos, images, samples):
    losses = small_nas_fcos(images, samples, mode="loss")
    torch.stack(list(losses.values())).sum().backward()
    named = small_nas_fcos.named_parameters()
    # A level's own factor needs an object on its level, which these images do not have for all of them.
    idle = [name for name, p in named if p.requires_grad and not p.grad.any() and "scales" not in name]
    assert idle == []


def test_crowds_are_background(small_nas_fcos, images, samples):
    want = values(small_nas_fcos(images, samples, mode="loss"))
    samples[1].ignored_instances = InstanceData(bboxes=torch.tensor([[0.0, 0.0, 60.0, 60.0]]))
    assert values(small_nas_fcos(images, samples, mode="loss")) == want


@pytest.mark.shared
@pytest.mark.slow
def test_the_recorded_detector_passes(shared, root):
    check = [sys.executable, str(shared("golden/check.py")), "--configs", str(root / "configs"), "nas_fcos/"]
    done = subprocess.run(check, capture_output=True, text=True, timeout=600, check=False)
    assert done.stdout.strip().endswith("1 passed, 0 failed"), done.stdout + done.stderr
