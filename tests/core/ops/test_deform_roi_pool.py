import importlib
import itertools
import math
import re

import pytest
import torch
from torch.nn.functional import embedding_bag

from detcore.nn import ModuleList
from detcore.ops import deform_roi_pool as function
from detcore.ops import roi_align
from detcore.ops.deform_roi_pool import DeformRoIPool, DeformRoIPoolPack, ModulatedDeformRoIPoolPack
from detcore.registry import MODELS

# Within the image, over its border, beside it, without area, upside down, thin, larger than the image.
SHAPES = torch.tensor([
    [0.0, 4, 4, 40, 30], [1, 0, 0, 63, 63], [1, 10.5, 20.25, 11, 21], [0, -20, -9, 13, 80],
    [1, 80, 80, 99, 99], [0, 5, 5, 5, 5], [1, 30, 30, 20, 10], [0, 1, 8, 62, 9], [1, 31, 0, 31.5, 63],
    [0, -100, -90, 200, 190],
])  # fmt: skip


def between_cells(image, y, x):
    """The value at ``(y, x)`` of a list of rows: the border goes on for a cell, then all is 0."""
    height, width = len(image), len(image[0])
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = math.floor(y), math.floor(x)
    value = 0.0
    for row, column in itertools.product((top, top + 1), (left, left + 1)):
        share = (1 - abs(y - row)) * (1 - abs(x - column))
        value += share * image[min(row, height - 1)][min(column, width - 1)]
    return value


def slow(features, rois, offset, size, scale, sampling_ratio, gamma):
    """The pooling, sample by sample, from its definition."""
    result = torch.zeros(len(rois), features.shape[1], *size, dtype=features.dtype)
    for k, (image, *corners) in enumerate(rois.tolist()):
        left, top, right, bottom = (each * scale - 0.5 for each in corners)
        width, height = right - left, bottom - top
        bin_y, bin_x = height / size[0], width / size[1]
        rows, columns = (sampling_ratio or max(math.ceil(each), 0) for each in (bin_y, bin_x))
        for c, i, j in itertools.product(range(features.shape[1]), range(size[0]), range(size[1])):
            plane = features[int(image), c].tolist()
            y = top + i * bin_y + gamma * height * offset[k, 1, i, j].item()
            x = left + j * bin_x + gamma * width * offset[k, 0, i, j].item()
            samples = [
                between_cells(plane, y + (u + 0.5) * bin_y / rows, x + (v + 0.5) * bin_x / columns)
                for u, v in itertools.product(range(rows), range(columns))
            ]
            result[k, c, i, j] = sum(samples) / max(len(samples), 1)
    return result


def made_up(size, rois=SHAPES, dtype=torch.float64):
    made = torch.Generator().manual_seed(0)
    features = torch.rand(2, 3, 17, 16, generator=made, dtype=dtype)
    return features, rois.to(dtype), torch.randn(len(rois), 2, *size, generator=made, dtype=dtype)


@pytest.mark.parametrize("sampling_ratio", [0, 1, 2])
@pytest.mark.parametrize(("size", "gamma"), [((2, 2), 0.1), ((3, 5), 0.6)])
def test_equals_the_definition_reckoned_sample_by_sample(sampling_ratio, size, gamma):
    features, rois, offset = made_up(size)
    got = function(features, rois, offset, size, 0.25, sampling_ratio, gamma)
    torch.testing.assert_close(got, slow(features, rois, offset, size, 0.25, sampling_ratio, gamma))


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_without_offsets_and_with_offsets_of_zero_it_is_roi_align(sampling_ratio):
    features, rois, offset = made_up((3, 4))
    want = roi_align(features, rois, (3, 4), 0.25, sampling_ratio)
    for none in (None, torch.zeros_like(offset)):
        torch.testing.assert_close(function(features, rois, none, (3, 4), 0.25, sampling_ratio), want)


def test_the_first_offset_moves_to_the_right_the_second_down_by_shares_of_the_region():
    ramp = torch.arange(20.0).expand(20, 20)
    features = torch.stack([ramp, ramp.T])[None]  # channel 0 tells x, channel 1 tells y
    rois = torch.tensor([[0.0, 4, 2, 12, 6]])  # 8 wide, 4 high
    offset = torch.zeros(1, 2, 2, 2)
    offset[0, 0, 0, 1], offset[0, 1, 1, 0] = 2.5, -5.0
    still = function(features, rois, torch.zeros_like(offset), 2)
    moved = function(features, rois, offset, 2) - still
    assert torch.allclose(moved[0, 0], torch.tensor([[0.0, 0.1 * 8 * 2.5], [0, 0]]), atol=1e-5)
    assert torch.allclose(moved[0, 1], torch.tensor([[0.0, 0], [0.1 * 4 * -5, 0]]), atol=1e-5)


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_gradients_are_those_of_the_function(sampling_ratio):
    made = torch.Generator().manual_seed(1)
    features = torch.rand(2, 2, 6, 5, generator=made, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor([[1, 0.31, 0.42, 4.1, 5.2], [0, -2, 1, 3, 9], [0, 4, 4, 2, 2]], dtype=torch.float64)
    offset = torch.rand(3, 2, 2, 2, generator=made, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda maps, moved: function(maps, rois, moved, 2, 1.0, sampling_ratio, 0.3), (features, offset)
    )


def test_many_regions_are_reckoned_in_portions(monkeypatch):
    features, rois, offset = made_up((2, 2))
    features.requires_grad_()
    at_once = function(features, rois, offset, 2, 0.25)
    (want,) = torch.autograd.grad(at_once.square().sum(), features)
    calls = []
    module = importlib.import_module("detcore.ops.deform_roi_pool")  # the name is the function's, too
    monkeypatch.setattr(module, "_MOST_CELLS", 200)
    monkeypatch.setattr(
        module.F,
        "embedding_bag",
        lambda *given, **named: calls.append(1) or embedding_bag(*given, **named),
    )
    in_portions = function(features, rois, offset, 2, 0.25)
    assert len(calls) > 3
    torch.testing.assert_close(in_portions, at_once)
    (got,) = torch.autograd.grad(in_portions.square().sum(), features)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_reckoned_in_float32(dtype):
    features, rois, offset = made_up((2, 2), dtype=torch.float32)
    got = function(features.to(dtype), rois, offset, 2, 0.25)
    assert got.dtype == dtype
    assert torch.equal(got, function(features.to(dtype).float(), rois, offset, 2, 0.25).to(dtype))


def test_a_region_that_is_no_number_is_zero_and_spoils_no_other():
    features, rois, offset = made_up((2, 2))
    broken = rois.clone()
    broken[0, 1] = float("nan")
    got = function(features, broken, offset, 2, 0.25)
    assert got[0].abs().max() == 0
    assert torch.equal(got[1:], function(features, rois, offset, 2, 0.25)[1:])


@pytest.mark.parametrize("kind", [DeformRoIPoolPack, ModulatedDeformRoIPoolPack])
def test_the_layers_start_as_roi_align_and_learn_their_offsets(kind):
    torch.manual_seed(0)
    features, rois, _ = made_up((3, 3))
    layer = kind(3, output_channels=3, deform_fc_channels=8, spatial_scale=0.25).double()
    factor = 0.5 if kind is ModulatedDeformRoIPoolPack else 1.0
    torch.testing.assert_close(layer(features, rois), roi_align(features, rois, 3, 0.25) * factor)
    rois = rois[:2]
    hill = torch.sin(torch.arange(17.0)[:, None] / 3) + torch.cos(torch.arange(16.0) / 3)
    features = hill.double().expand(2, 3, 17, 16)
    target = function(features, rois, torch.full((2, 2, 3, 3), 1.5).double(), 3, 0.25) * factor
    optimiser, losses = torch.optim.Adam(layer.parameters(), lr=0.02), []
    for _ in range(40):
        loss = (layer(features, rois) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert all(each.grad.abs().max() > 0 for each in layer.parameters())
    assert losses[-1] < losses[0] / 4


def test_names_and_sizes_of_the_layers_weights():
    kinds = DeformRoIPoolPack, ModulatedDeformRoIPoolPack
    deform, modulated = (
        {name: tuple(value.shape) for name, value in kind(7, output_channels=256).state_dict().items()}
        for kind in kinds
    )
    fc = {"0": (1024, 12544), "2": (1024, 1024), "4": (98, 1024)}
    want = {f"offset_fc.{at}.weight": shape for at, shape in fc.items()}
    want |= {f"offset_fc.{at}.bias": shape[:1] for at, shape in fc.items()}
    assert deform == want
    masks = {"0": (1024, 12544), "2": (49, 1024)}
    want |= {f"mask_fc.{at}.weight": shape for at, shape in masks.items()}
    want |= {f"mask_fc.{at}.bias": shape[:1] for at, shape in masks.items()}
    assert modulated == want


@pytest.mark.parametrize("kind", ["DeformRoIPoolPack", "ModulatedDeformRoIPoolPack"])
def test_a_level_without_regions_gives_every_weight_a_gradient_of_zero(kind):
    layer = MODELS.build({"type": kind, "output_size": 2, "output_channels": 3, "deform_fc_channels": 4})
    features = torch.rand(2, 3, 8, 8, requires_grad=True)
    out = layer(features, SHAPES[:0])
    assert out.shape == (0, 3, 2, 2)
    out.sum().backward()
    for each in [features, *ModuleList([layer]).parameters()]:
        assert each.grad is not None
        assert each.grad.abs().max() == 0


def test_the_layers_run_under_autocast():
    layer = ModulatedDeformRoIPoolPack(2, output_channels=3, deform_fc_channels=4, spatial_scale=0.25)
    features, rois, _ = made_up((2, 2), dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(features.bfloat16(), rois)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert layer.offset_fc[4].weight.grad.isfinite().all()
    assert "output_size=(2, 2)" in repr(DeformRoIPool(2, gamma=0.2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offset": torch.zeros(10, 2, 3, 3)}, "(10, 2, 2, 2) (x, then y) here, got (10, 2, 3, 3)"),
        ({"rois": torch.zeros(10, 4)}, "rois must be [K, 5]"),
        ({"input": torch.zeros(3, 8, 8)}, "features must be [B, C, H, W], got shape (3, 8, 8)"),
        ({"rois": SHAPES * 1e6}, "it is no region of an image"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    features, rois, offset = made_up((2, 2), dtype=torch.float32)
    given = {"input": features, "rois": rois, "offset": offset, "output_size": 2, **change}
    with pytest.raises(ValueError, match=re.escape(message)):
        function(**given)
    with pytest.raises(ValueError, match="built for 256 channels"):
        DeformRoIPoolPack(2, output_channels=256, deform_fc_channels=4)(features, rois)
