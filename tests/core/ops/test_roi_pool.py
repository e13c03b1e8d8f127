import pytest
import torch
import torchvision

from detcore.ops import RoIAlign, RoIPool, roi_align, roi_pool

ROIS = torch.tensor([[0.0, 4, 4, 40, 30], [1, 0, 0, 63, 63], [1, 10.5, 20.25, 11, 21]])


@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("aligned", [True, False])
def test_roi_align_is_torchvisions(sampling_ratio, aligned):
    features = torch.rand(2, 3, 16, 16)
    layer = RoIAlign(7, 0.25, sampling_ratio, aligned=aligned)
    want = torchvision.ops.roi_align(features, ROIS, 7, 0.25, sampling_ratio, aligned)
    assert torch.equal(layer(features, ROIS), want)
    assert "output_size=(7, 7)" in repr(layer)


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
