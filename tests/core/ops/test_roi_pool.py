import pytest
import torch
import torchvision

from detcore.ops import RoIAlign, RoIPool, by_level, roi_align, roi_align_levels, roi_pool

ROIS = torch.tensor([[0.0, 4, 4, 40, 30], [1, 0, 0, 63, 63], [1, 10.5, 20.25, 11, 21]])


# Within the image, over its border, beside it, without area, upside down, thin, larger than the image.
SHAPES = torch.tensor([
    [0.0, 4, 4, 40, 30], [1, 0, 0, 63, 63], [1, 10.5, 20.25, 11, 21], [0, -20, -9, 13, 80],
    [1, 80, 80, 99, 99], [0, 5, 5, 5, 5], [1, 30, 30, 20, 10], [0, 1, 8, 62, 9], [1, 31, 0, 31.5, 63],
    [0, -100, -90, 200, 190],
])  # fmt: skip


@pytest.mark.parametrize("sampling_ratio", [0, 1, 2])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("size", [7, (3, 5)])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_roi_align_and_its_gradients_are_torchvisions(sampling_ratio, aligned, size, memory):
    made = torch.Generator().manual_seed(0)
    features = torch.rand(2, 3, 17, 16, generator=made).contiguous(memory_format=memory).requires_grad_()
    layer = RoIAlign(size, 0.25, sampling_ratio, aligned=aligned)
    want = torchvision.ops.roi_align(features, SHAPES, size, 0.25, sampling_ratio, aligned)
    got = layer(features, SHAPES)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    grad = torch.rand(want.shape, generator=made)
    (of_want,) = torch.autograd.grad(want, features, grad)
    (of_got,) = torch.autograd.grad(got, features, grad)
    torch.testing.assert_close(of_got, of_want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shapes", [[(17, 16), (9, 8), (5, 4)], [(6, 30), (30, 6), (1, 1)]])
@pytest.mark.parametrize("aligned", [True, False])
def test_each_region_is_sampled_in_the_map_of_its_level(shapes, aligned):
    made = torch.Generator().manual_seed(0)
    maps = [torch.rand(2, 3, *shape, generator=made, requires_grad=True) for shape in shapes]
    scales, levels = [0.25, 0.125, 0.0625], torch.arange(len(SHAPES)) % 3
    got = roi_align_levels(maps, SHAPES, levels, (3, 2), scales, 0, aligned)
    want = torch.empty_like(got)
    for number, (each, scale) in enumerate(zip(maps, scales, strict=True)):
        of_level = torchvision.ops.roi_align(each, SHAPES[levels == number], (3, 2), scale, 0, aligned)
        want = want.index_put((levels == number,), of_level)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    grad = torch.rand(want.shape, generator=made)
    pairs = zip(torch.autograd.grad(got, maps, grad), torch.autograd.grad(want, maps, grad), strict=True)
    for of_got, of_want in pairs:
        torch.testing.assert_close(of_got, of_want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_rows_worked_on_level_by_level_come_back_to_their_places(memory):
    rows = torch.arange(24.0).view(6, 4).requires_grad_()
    levels = torch.tensor([2, 0, 2, 0, 0, 2])

    def call(number, part):
        return (part * (number + 1)).view(-1, 2, 2, 1).contiguous(memory_format=memory)

    placed = by_level(call, rows, levels, 4)
    want = rows * (levels + 1)[:, None]
    assert torch.equal(placed.flatten(1), want)
    weights = torch.rand(6, 2, 2, 1)
    (grad,) = torch.autograd.grad((placed * weights).sum(), rows)
    assert torch.equal(grad, weights.flatten(1) * (levels + 1)[:, None])


@pytest.mark.parametrize("image", [-1, 2])
def test_a_region_of_no_image_does_not_read_another_level(image):
    maps = [torch.rand(2, 3, 8, 8), torch.rand(2, 3, 4, 4)]
    rois = torch.tensor([[0.0, 0, 0, 20, 20], [image, 0, 0, 20, 20]])
    with pytest.raises(ValueError, match="the maps have images 0 to 1"):
        roi_align_levels(maps, rois, torch.tensor([1, 0]), 2, [0.25, 0.125])


def test_a_region_that_is_none_is_left_to_torchvision():
    features = torch.rand(1, 2, 8, 8)
    far = torch.tensor([[0.0, 0, 0, 1e6, 8], [0, 1, 1, 5, 5]])
    want = torchvision.ops.roi_align(features, far, 2, 1.0, 0, True)
    torch.testing.assert_close(roi_align(features, far, 2), want)
    broken = torch.tensor([[0.0, float("nan"), 0, 8, 8], [0, 1, 1, 5, 5]])
    assert torch.equal(roi_align(features, broken, 2)[1], roi_align(features, broken[1:], 2)[0])


def test_gradients_of_roi_align_are_those_of_its_values():
    features = torch.rand(1, 2, 6, 5, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor([[0, 0.3, 0.4, 4.1, 5.2], [0, -2, 1, 3, 9]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda each: roi_align(each, rois, 2), (features,))


def test_a_compiled_roi_align_gives_the_same():
    compiled = torch.compile(lambda each, rois: roi_align(each, rois, 3), backend="eager")
    features, rois = torch.rand(1, 2, 8, 8), torch.tensor([[0, 1.0, 2, 7, 6]])
    torch.testing.assert_close(compiled(features, rois), roi_align(features, rois, 3))
    assert "output_size=(7, 7)" in repr(RoIAlign(7, 0.25))


def test_a_constant_map_stays_constant_and_a_ramp_gives_bin_centres():
    ones = torch.ones(1, 1, 16, 16)
    assert torch.allclose(roi_align(ones, ROIS[:1], (3, 5), 0.25), torch.ones(1, 1, 3, 5))
    ramp = torch.arange(16.0).expand(1, 1, 16, 16)
    pooled = roi_align(ramp, torch.tensor([[0.0, 8, 8, 40, 40]]), 4, 0.25)
    # Pixel i's centre is at i + 0.5; bins of 2 pixels from 2 to 10 have centres 3, 5, 7, 9.
    assert torch.allclose(pooled[0, 0, 0], torch.tensor([2.5, 4.5, 6.5, 8.5]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("layer", [RoIAlign(7, 0.25), RoIPool(7, 0.25)])
def test_other_precisions_keep_their_type_and_exact_coordinates(layer, dtype):
    features = torch.rand(2, 3, 16, 16).to(dtype)
    pooled = layer(features, ROIS)
    assert pooled.dtype == dtype
    exact = layer(features.double(), ROIS.double())
    assert torch.allclose(pooled.double(), exact, atol=1e-2)
    assert layer(features, ROIS[:0]).shape == (0, 3, 7, 7)


def test_gradients_flow_also_without_regions():
    features = torch.rand(2, 3, 16, 16, requires_grad=True)
    roi_align(features, ROIS[:0], 7).sum().backward()
    assert features.grad is not None
    assert features.grad.abs().sum() == 0
    roi_align(features, ROIS, 7, 0.25).sum().backward()
    assert features.grad.abs().sum() > 0


def test_roi_pool_takes_the_largest():
    features = torch.zeros(1, 1, 8, 8)
    features[0, 0, 3, 3] = 5
    assert roi_pool(features, torch.tensor([[0.0, 0, 0, 7, 7]]), 1).item() == 5


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match=r"\[B, C, H, W\], got shape \(3, 4, 4\)"):
        roi_align(torch.zeros(3, 4, 4), ROIS, 7)
    with pytest.raises(ValueError, match=r"rois must be \[K, 5\]"):
        roi_align(torch.zeros(1, 3, 4, 4), ROIS[:, :4], 7)
    with pytest.raises(ValueError, match="'max'"):
        RoIAlign(7, pool_mode="max")
