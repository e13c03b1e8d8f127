"""What CenterNet is made of: peaks of heat maps, their focal loss, the neck that makes maps finer."""

import math

import pytest
import torch
import torch.nn.functional as F
from det_models.ct_resnet_neck import CTResNetNeck
from det_models.heatmaps import draw_gaussians, gaussian_radius, local_maxima
from det_models.losses.gaussian_focal import GaussianFocalLoss
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from detcore.errors import ConfigError
from detcore.nn import ModulatedDeformConv2dPack
from detcore.structures.bbox import bbox_overlaps

# -- heat maps
# ---------------------------------------------------------------------------------------------------

side = st.floats(0.5, 200, width=32)


@settings(max_examples=60, deadline=None)
@given(width=side, height=side, overlap=st.floats(0.1, 0.9))
def test_a_box_whose_corners_are_off_by_the_radius_overlaps_as_much_as_was_asked(width, height, overlap):
    radius = float(gaussian_radius(torch.tensor([[width, height]], dtype=torch.float64), overlap))
    assert radius > 0

    def least(r):
        box = torch.tensor([[0, 0, width, height]], dtype=torch.float64)
        moved = [[r, r, width + r, height + r], [-r, -r, width + r, height + r]]
        if 2 * r < min(width, height):
            moved.append([r, r, width - r, height - r])
        return float(bbox_overlaps(box, torch.tensor(moved, dtype=torch.float64)).min())

    assert least(radius * (1 - 1e-6)) >= overlap - 1e-6
    shrunk = 2 * radius * 1.001 < min(width, height)
    assert not shrunk or least(radius * 1.001) < overlap


def test_boxes_without_area_have_no_radius():
    assert gaussian_radius(torch.tensor([[0.0, 0.0], [0.0, 5.0]]), 0.3).tolist() == [0, 0]


def test_peaks_are_those_of_a_loop_over_objects_and_cells():
    cells = [(3, 2), (4, 2), (3, 2), (0, 5), (9, 1), (-2, 3)]
    radii, images, labels = [2, 3, 0, 1, 4, 3], [0, 0, 0, 0, 1, 1], [1, 1, 0, 1, 0, 0]
    want = torch.zeros(2, 2, 6, 8)
    for (x, y), r, image, label in zip(cells, radii, images, labels, strict=True):
        for row in range(6):
            for column in range(8):
                if max(abs(row - y), abs(column - x)) <= r:
                    sigma = (2 * r + 1) / 6
                    value = math.exp(-((row - y) ** 2 + (column - x) ** 2) / (2 * sigma**2))
                    want[image, label, row, column] = max(value, want[image, label, row, column])
    given_ = [torch.tensor(each) for each in (cells, radii, images, labels)]
    got = draw_gaussians(given_[0], given_[1].float(), *given_[2:], (2, 2, 6, 8))
    torch.testing.assert_close(got, want)
    assert torch.nonzero(got == 1).tolist() == [[0, 0, 2, 3], [0, 1, 2, 3], [0, 1, 2, 4], [0, 1, 5, 0]]


def test_what_is_not_the_greatest_around_it_is_nothing():
    heat = torch.rand(2, 3, 7, 9, generator=torch.Generator().manual_seed(0))
    for kernel in (1, 3, 5):
        got, reach = local_maxima(heat, kernel), kernel // 2
        for row in range(7):
            for column in range(9):
                around = heat[
                    ..., max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1
                ]
                greatest = around.flatten(2).amax(2) == heat[..., row, column]
                torch.testing.assert_close(got[..., row, column], heat[..., row, column] * greatest)


# -- loss
# ---------------------------------------------------------------------------------------------------


def by_hand(p, y, alpha=2.0, gamma=4.0, pos=1.0, neg=1.0):
    own = -pos * (1 - p) ** alpha * math.log(p) if y == 1 else 0
    return own - neg * (1 - y) ** gamma * p**alpha * math.log(1 - p)


PROBS, TARGETS = [[0.9, 0.2, 0.5], [0.4, 0.7, 0.1]], [[1.0, 0.3, 0.0], [0.9, 1.0, 0.0]]


@pytest.mark.parametrize(
    "arguments", [{}, {"alpha": 1.5, "gamma": 2.0}, {"pos_weight": 0.25, "neg_weight": 0.75}]
)
def test_gaussian_focal_loss_number_by_number(arguments):
    powers = {name.removesuffix("_weight"): value for name, value in arguments.items()}
    want = torch.tensor(
        [
            [by_hand(p, y, **powers) for p, y in zip(*row, strict=True)]
            for row in zip(PROBS, TARGETS, strict=True)
        ]
    )
    loss = GaussianFocalLoss(loss_weight=2.0, **arguments)
    prob, target = torch.tensor(PROBS), torch.tensor(TARGETS)
    torch.testing.assert_close(loss(prob, target, reduction_override="none"), 2 * want)
    weight = torch.tensor([[1.0], [0.5]])
    torch.testing.assert_close(loss(prob, target, weight, avg_factor=3.0), 2 * (want * weight).sum() / 3)


@pytest.mark.parametrize("mask", [None, [True, True, False, True]])
def test_places_that_are_named_are_the_positives(mask):
    rows, classes = [0, 1, 1, 1], [2, 0, 1, 0]  # one of them twice
    counted = [1.0] * 4 if mask is None else [float(each) for each in mask]
    own = sum(
        -count * (1 - PROBS[r][c]) ** 2 * math.log(PROBS[r][c])
        for r, c, count in zip(rows, classes, counted, strict=True)
    )
    others = sum(
        -((1 - y) ** 4) * p**2 * math.log(1 - p)
        for each in zip(PROBS, TARGETS, strict=True)
        for p, y in zip(*each, strict=True)
    )
    places = {"pos_inds": torch.tensor(rows), "pos_labels": torch.tensor(classes)}
    if mask is not None:
        places["pos_mask"] = torch.tensor(mask)
    loss = GaussianFocalLoss(pos_weight=0.25, neg_weight=0.75)
    given_ = (torch.tensor(PROBS), torch.tensor(TARGETS))
    assert float(loss(*given_, avg_factor=3.0, **places)) == pytest.approx((0.25 * own + 0.75 * others) / 3)
    mean = 0.25 * own / sum(counted) + 0.75 * others / 6
    assert float(loss(*given_, **places)) == pytest.approx(mean)
    total = float(loss(*given_, reduction_override="sum", **places))
    assert total == pytest.approx(0.25 * own + 0.75 * others)


def test_probabilities_of_zero_and_one_have_finite_losses_and_gradients():
    logits = torch.tensor([[-200.0, 200.0], [200.0, -200.0]], requires_grad=True)
    loss = GaussianFocalLoss()(logits.sigmoid(), torch.tensor([[1.0, 0.0], [1.0, 0.5]]))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_what_does_not_fit_the_loss_is_said():
    loss, prob, place = GaussianFocalLoss(), torch.rand(2, 3), torch.tensor([0])
    with pytest.raises(ValueError, match=r"\(2, 2\) do not fit predictions of shape \(2, 3\)"):
        loss(prob, torch.zeros(2, 2))
    for arguments in (
        {},
        {"pos_labels": place, "weight": prob},
        {"pos_labels": place, "reduction_override": "none"},
    ):
        with pytest.raises(ValueError, match="pos_inds goes with pos_labels, without weight"):
            loss(prob, prob, pos_inds=place, **arguments)


# -- neck
# ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use_dcn", [True, False])
def test_the_neck_makes_the_last_map_eight_times_finer(use_dcn):
    neck = CTResNetNeck(16, (12, 8, 4), (4, 4, 4), use_dcn=use_dcn)
    neck.connect((8, 16), (16, 32))
    (out,) = neck([torch.rand(2, 8, 10, 6), torch.rand(2, 16, 5, 3)])
    assert out.shape == (2, 4, 40, 24)
    assert (neck.out_channels, neck.out_strides) == ((4,), (4,))
    kinds = [type(layer.conv) for layer in neck.deconv_layers]
    plain = ModulatedDeformConv2dPack if use_dcn else nn.Conv2d
    assert kinds == [plain, nn.ConvTranspose2d] * 3


def test_the_first_output_of_a_transposed_convolution_starts_as_linear_interpolation():
    torch.manual_seed(0)
    neck = CTResNetNeck(4, (3,), (4,), use_dcn=False)
    neck.init_weights()
    weight = neck.deconv_layers[1].conv.weight.detach()
    x = torch.rand(1, 3, 6, 6)
    got = F.conv_transpose2d(x, weight[:, :1], stride=2, padding=1)
    want = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False).sum(1, keepdim=True)
    torch.testing.assert_close(got[..., 1:-1, 1:-1], want[..., 1:-1, 1:-1])
    assert not torch.equal(weight[0, 1], weight[0, 0])
    bound = (4 * 9) ** -0.5  # PyTorch's own start, not Kaiming's normal one
    assert neck.deconv_layers[0].conv.weight.abs().max() <= bound


def test_offsets_of_the_deformable_convolutions_start_at_zero():
    neck = CTResNetNeck(4, (3, 3), (4, 4))
    neck.init_weights()
    assert not any(layer.conv.conv_offset.weight.any() for layer in neck.deconv_layers[::2])


def test_what_does_not_fit_the_neck_is_said():
    with pytest.raises(ConfigError, match="at least one; got"):
        CTResNetNeck(4, (), ())
    with pytest.raises(ConfigError, match=r"an entry a step.*\[8, 4\] and \[4\]"):
        CTResNetNeck(4, (8, 4), (4,))
    with pytest.raises(ConfigError, match="in_channels is 4, but the backbone's last map has 8"):
        CTResNetNeck(4, (8,), (4,)).connect((4, 8))
