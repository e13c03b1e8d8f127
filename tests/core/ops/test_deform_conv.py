import itertools
import math
from functools import partial

import pytest
import torch

from detcore.ops.deform_conv import deform_conv2d, modulated_deform_conv2d


def between_pixels(image, y, x):
    """The value at ``(y, x)`` of a list of rows: four pixels around, each by its nearness; 0 outside."""
    value, top, left = 0.0, math.floor(y), math.floor(x)
    for row, column in itertools.product((top, top + 1), (left, left + 1)):
        if 0 <= row < len(image) and 0 <= column < len(image[0]):
            value += image[row][column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return value


def slow(x, offset, weight, *, stride, padding, dilation, groups, deform_groups, mask=None, bias=None):
    """Deformable convolution, point by point, from its definition."""
    batch, channels = x.shape[:2]
    outs, per_group, kh, kw = weight.shape
    height, width = offset.shape[2:]
    result = torch.zeros(batch, outs, height, width, dtype=x.dtype)
    for b, c, v, u in itertools.product(range(batch), range(channels), range(height), range(width)):
        image = x[b, c].tolist()
        for i, j in itertools.product(range(kh), range(kw)):
            point = c // (channels // deform_groups) * kh * kw + i * kw + j
            down, right = offset[b, 2 * point, v, u].item(), offset[b, 2 * point + 1, v, u].item()
            y = v * stride[0] - padding[0] + i * dilation[0] + down
            value = between_pixels(image, y, u * stride[1] - padding[1] + j * dilation[1] + right)
            value *= 1.0 if mask is None else mask[b, point, v, u].item()
            group = c // per_group
            mine = slice(group * outs // groups, (group + 1) * outs // groups)
            result[b, mine, v, u] += value * weight[mine, c % per_group, i, j]
    return result if bias is None else result + bias.view(1, -1, 1, 1)


def made_up(kernel, size, groups, deform_groups, dtype=torch.float64, batch=2, channels=4, outs=6):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    points = deform_groups * kernel[0] * kernel[1]
    return (
        draw(batch, channels, 6, 7),
        draw(batch, 2 * points, *size) * 2,
        draw(batch, points, *size).sigmoid(),
        draw(outs, channels // groups, *kernel),
        draw(outs),
    )


CASES = [  # kernel, stride, padding, dilation, groups, deform_groups, size of the output
    ((3, 3), (1, 1), (1, 1), (1, 1), 1, 1, (6, 7)),
    ((3, 2), (2, 1), (1, 2), (1, 2), 2, 1, (3, 9)),
    ((1, 3), (1, 2), (0, 1), (1, 1), 1, 2, (6, 4)),
    ((2, 2), (1, 1), (1, 1), (2, 2), 2, 4, (6, 7)),
]


@pytest.mark.parametrize("case", CASES)
def test_equals_the_definition_reckoned_point_by_point(case):
    kernel, stride, padding, dilation, groups, deform_groups, size = case
    x, offset, mask, weight, bias = made_up(kernel, size, groups, deform_groups)
    geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    geometry["deform_groups"] = deform_groups
    assert torch.allclose(deform_conv2d(x, offset, weight, **geometry), slow(x, offset, weight, **geometry))
    got = modulated_deform_conv2d(x, offset, mask, weight, bias, **geometry)
    assert torch.allclose(got, slow(x, offset, weight, mask=mask, bias=bias, **geometry))


def test_offsets_of_whole_pixels_move_down_first_then_right():
    ramp = torch.arange(30.0).view(1, 1, 5, 6)
    offset = torch.zeros(1, 2, 5, 6)
    offset[:, 0], offset[:, 1] = 1, 2  # one down, two to the right
    moved = deform_conv2d(ramp, offset, torch.ones(1, 1, 1, 1))
    assert torch.equal(moved[0, 0, :4, :4], ramp[0, 0, 1:, 2:])
    assert moved[0, 0, 4].abs().max() == 0
    assert moved[0, 0, :, 4:].abs().max() == 0


@pytest.mark.parametrize("groups", [1, 2])
def test_without_offsets_it_is_the_plain_convolution(groups):
    x, offset, mask, weight, bias = made_up((3, 3), (3, 4), groups, 2)
    plain = torch.nn.functional.conv2d(x, weight, bias, stride=2, padding=1, groups=groups)
    zero = torch.zeros_like(offset)
    same = {"stride": 2, "padding": 1, "groups": groups, "deform_groups": 2}
    got = modulated_deform_conv2d(x, zero, torch.ones_like(mask), weight, bias, **same)
    assert torch.allclose(got, plain)
    assert torch.allclose(deform_conv2d(x, zero, weight, **same), plain - bias.view(1, -1, 1, 1))


def test_gradients_are_those_of_the_function():
    x, offset, mask, weight, bias = made_up((2, 2), (3, 3), 1, 2, batch=1, channels=2, outs=2)
    x = x[:, :, :4, :4].contiguous()
    # Between pixels the function is smooth; at whole pixels it has a kink.
    offset = offset.floor() + 0.2 + 0.6 * (offset - offset.floor())
    inputs = [each.requires_grad_() for each in (x, offset, mask, weight, bias)]
    assert torch.autograd.gradcheck(partial(modulated_deform_conv2d, deform_groups=2), inputs)
    assert torch.autograd.gradcheck(partial(deform_conv2d, deform_groups=2), [x, offset, weight])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_reckoned_in_float32(dtype):
    x, offset, mask, weight, bias = (each.to(dtype) for each in made_up((3, 3), (6, 7), 1, 1))
    got = modulated_deform_conv2d(x, offset, mask, weight, bias, padding=1)
    wide = [each.float() for each in (x, offset, mask, weight, bias)]
    assert got.dtype == dtype
    assert torch.equal(got, modulated_deform_conv2d(*wide, padding=1).to(dtype))
    # As under autocast: maps are narrow, weights and offsets are not.
    assert torch.equal(modulated_deform_conv2d(x, *wide[1:], padding=1), got)


def test_an_empty_batch_gives_an_empty_map_and_gradients_of_zero():
    x, offset, mask, weight, bias = made_up((3, 3), (6, 7), 1, 1, batch=0)
    weight.requires_grad_()
    out = modulated_deform_conv2d(x, offset, mask, weight, bias, padding=1)
    assert out.shape == (0, 6, 6, 7)
    out.sum().backward()
    assert torch.equal(weight.grad, torch.zeros_like(weight))


def test_images_smaller_than_the_kernel_work_where_the_padding_makes_room():
    x, offset, _, weight, _ = made_up((3, 3), (2, 1), 1, 1)
    small, once = x[:, :, :2, :1].contiguous(), (1, 1)
    want = slow(small, offset, weight, stride=once, padding=once, dilation=once, groups=1, deform_groups=1)
    assert torch.allclose(deform_conv2d(small, offset, weight, padding=1), want)
    with pytest.raises(ValueError, match=r"3 x 3 pixels does not fit into .* 2 x 1 with padding \(0, 0\)"):
        deform_conv2d(small, offset, weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offset": torch.zeros(2, 9, 6, 7)}, r"offset must .* \(2, 18, 6, 7\) here, got \(2, 9, 6, 7\)"),
        ({"offset": torch.zeros(2, 18, 4, 5)}, r"offset must have shape \(2, 18, 6, 7\) here"),
        ({"mask": torch.zeros(2, 18, 6, 7)}, r"mask must .* \(2, 9, 6, 7\) here, got \(2, 18, 6, 7\)"),
        ({"input": torch.zeros(2, 5, 6, 7)}, r"need 4 input channels .* the input has shape \(2, 5, 6, 7\)"),
        ({"input": torch.zeros(4, 6, 7)}, r"input must be \[B, C, H, W\].*got shapes \(4, 6, 7\)"),
        ({"groups": 4}, "4 groups of a weight"),
        ({"deform_groups": 3}, "4 channels cannot be cut into 3 deform_groups"),
    ],
)
def test_shapes_that_do_not_fit_are_named(change, message):
    x, offset, mask, weight, _ = made_up((3, 3), (6, 7), 1, 1, dtype=torch.float32)
    given = {"input": x, "offset": offset, "mask": mask, "weight": weight, "padding": 1}
    with pytest.raises(ValueError, match=message):
        modulated_deform_conv2d(**{**given, **change})


def test_the_first_kind_has_no_bias():
    x, offset, _, weight, _ = made_up((3, 3), (6, 7), 1, 1)
    with pytest.raises(ValueError, match="deform_conv2d has no bias"):
        deform_conv2d(x, offset, weight, padding=1, bias=True)
