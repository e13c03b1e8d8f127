"""Pasting masks, against sampling every pixel of the image."""

import numpy as np
import pycocotools.mask as coco_mask
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detcore.ops import paste_masks, paste_run_lengths
from detcore.ops.mask_paste import _paste_chunks


def sampled_everywhere(masks, boxes, size):
    """Every mask at every pixel of the image, the plain way, in float64."""
    height, width = size
    values = torch.zeros(len(masks), height, width, dtype=torch.float64)
    for row, (mask, (x1, y1, x2, y2)) in enumerate(zip(masks.double(), boxes.double().tolist(), strict=True)):
        if not (x2 > x1 and y2 > y1):
            continue
        x = (torch.arange(width, dtype=torch.float64) + 0.5 - x1) / (x2 - x1) * 2 - 1
        y = (torch.arange(height, dtype=torch.float64) + 0.5 - y1) / (y2 - y1) * 2 - 1
        grid = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=2)
        values[row] = torch.nn.functional.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0]
    return values


def assert_pasted(masks, boxes, size, threshold):
    values = sampled_everywhere(masks, boxes, size)
    pasted = paste_masks(masks, boxes, size, threshold)
    assert pasted.dtype == torch.bool
    assert pasted.shape == (len(masks), *size)
    differs = pasted != (values >= threshold)
    assert ((values[differs] - threshold).abs() < 1e-5).all()
    assert differs.sum() <= 1e-3 * pasted.numel()
    return pasted


BOXES = torch.tensor([
    [3.2, 4.7, 30.9, 22.1],  # inside
    [-10.5, -7.25, 12.0, 9.0],  # reaches out at the upper left
    [50.0, 30.0, 90.0, 70.0],  # and at the lower right
    [-40.0, 5.0, -20.0, 15.0],  # outside
    [70.0, 50.0, 80.0, 60.0],
    [-20.0, -30.0, 100.0, 90.0],  # around the image
    [10.0, 10.0, 10.0, 20.0],  # no width
    [10.0, 10.0, 20.0, 10.0],  # no height
    [20.0, 20.0, 10.0, 30.0],  # turned over
    [5.5, 5.5, 5.9, 5.9],  # within one pixel, off its centre
    [5.3, 5.3, 5.9, 5.9],
])
SIZE = (45, 61)


@pytest.mark.parametrize("shape", [(28, 28), (7, 13), (1, 1), (14, 2)])
@pytest.mark.parametrize("threshold", [0.5, 0.3, 0.75])
def test_every_pixel_is_the_one_of_plain_sampling(shape, threshold):
    masks = torch.rand(len(BOXES), *shape, generator=torch.Generator().manual_seed(3))
    pasted = assert_pasted(masks, BOXES, SIZE, threshold)
    if shape != (1, 1):
        assert pasted[5].any()
    assert not pasted[[3, 4, 6, 7, 8]].any()


def test_a_full_mask_fills_its_box_and_nothing_else():
    pasted = paste_masks(torch.ones(1, 28, 28), torch.tensor([[10.0, 5, 30, 15]]), SIZE)
    want = torch.zeros(1, *SIZE, dtype=torch.bool)
    want[:, 5:15, 10:30] = True
    assert torch.equal(pasted, want)


def test_a_negative_threshold_gives_probabilities_as_bytes():
    masks = torch.rand(len(BOXES), 28, 28, generator=torch.Generator().manual_seed(4))
    pasted = paste_masks(masks, BOXES, SIZE, -1)
    assert pasted.dtype == torch.uint8
    want = sampled_everywhere(masks, BOXES, SIZE) * 255
    assert (pasted.double() - want.floor()).abs().max() <= 1
    assert ((pasted.double() != want.floor()).double().mean()) < 1e-3


def test_a_threshold_of_zero_does_not_fill_the_image():
    pasted = paste_masks(torch.ones(1, 4, 4), torch.tensor([[10.0, 5, 30, 15]]), SIZE, 0.0)
    assert pasted.sum() == 24 * 12  # half a cell, 2.5 and 1.25 pixels, around the box


@pytest.mark.parametrize("threshold", [0.5, 0.2])
def test_run_lengths_are_those_of_the_pasted_masks(threshold):
    masks = torch.rand(len(BOXES), 14, 14, generator=torch.Generator().manual_seed(7))
    pasted = paste_masks(masks, BOXES, SIZE, threshold).numpy()
    encoded = paste_run_lengths(masks, BOXES, SIZE, threshold)
    for one, mask in zip(encoded, pasted, strict=True):
        want = coco_mask.encode(np.asfortranarray(mask.view(np.uint8)))
        assert one == {"size": list(SIZE), "counts": want["counts"].decode()}
    assert paste_run_lengths(masks[:0], BOXES[:0], SIZE) == []
    assert coco_mask.area(paste_run_lengths(torch.ones(1, 0, 4), BOXES[:1], SIZE)[0]) == 0
    with pytest.raises(ValueError, match="must be 0 or more, got -1"):
        paste_run_lengths(masks, BOXES, SIZE, -1)


def test_no_masks_and_no_pixels():
    assert paste_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), SIZE).shape == (0, *SIZE)
    assert paste_masks(torch.ones(2, 28, 28), torch.ones(2, 4), (0, 5)).shape == (2, 0, 5)


def test_boxes_that_are_not_finite_or_enormous_are_no_trouble():
    boxes = torch.tensor([[float("nan"), 0, 5, 5], [0, 0, float("inf"), 5], [-1e30, -1e30, 1e30, 1e30]])
    pasted = paste_masks(torch.ones(3, 4, 4), boxes, SIZE)
    assert not pasted[:2].any()
    assert pasted[2].all()


@pytest.mark.parametrize("threshold", [0.5, -1.0])
def test_the_way_of_accelerators_gives_the_same_pixels(threshold, monkeypatch):
    monkeypatch.setattr("detcore.ops.mask_paste.DEVICE_BYTES", 3 * 12 * SIZE[0] * SIZE[1])  # three at a time
    masks = torch.rand(len(BOXES), 28, 28, generator=torch.Generator().manual_seed(5))
    boxes = BOXES.clone()
    boxes[3, 0] = float("nan")
    ours = paste_masks(masks, boxes, SIZE, threshold)
    other = torch.zeros_like(ours)
    _paste_chunks(masks, boxes, other, threshold)
    assert (ours != other).double().mean() < 1e-3
    assert (ours.int() - other.int()).abs().max() <= 1


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*[st.floats(-50, 120, width=32)] * 4),
    st.integers(1, 30), st.integers(1, 30), st.integers(0, 999),
)
def test_any_box(box, h, w, seed):
    mask = torch.rand(1, h, w, generator=torch.Generator().manual_seed(seed))
    x, y = sorted(box[0::2]), sorted(box[1::2])
    assert_pasted(mask, torch.tensor([[x[0], y[0], x[1], y[1]]]), SIZE, 0.5)


def test_half_precision_and_gradients_are_no_obstacle():
    masks = torch.rand(2, 28, 28, generator=torch.Generator().manual_seed(6))
    want = paste_masks(masks.half().float(), BOXES[:2], SIZE)
    assert torch.equal(paste_masks(masks.half().requires_grad_(), BOXES[:2], SIZE), want)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"masks must be \[N, h, w\], got shape \(1, 1, 4, 4\)"):
        paste_masks(torch.zeros(1, 1, 4, 4), torch.zeros(1, 4), SIZE)
    with pytest.raises(ValueError, match=r"boxes must be \[2, 4\].*got shape \(1, 4\)"):
        paste_masks(torch.zeros(2, 4, 4), torch.zeros(1, 4), SIZE)
    with pytest.raises(ValueError, match=r"\(height, width\) in pixels, got \(-1, 5\)"):
        paste_masks(torch.zeros(2, 4, 4), torch.zeros(2, 4), (-1, 5))


def test_the_largest_extra_array_is_as_large_as_the_largest_box():
    import tracemalloc

    boxes = torch.tensor([[10.0, 10, 210, 160]]).expand(30, 4)
    masks = torch.ones(30, 28, 28)
    paste_masks(masks, boxes, (40, 40))  # what is imported on first use is not counted
    tracemalloc.start()
    pasted = paste_masks(masks, boxes, (1000, 1000))
    _, peak = tracemalloc.get_traced_memory()  # numpy's arrays; the result is torch's
    tracemalloc.stop()
    assert np.prod(pasted.shape) == 30_000_000
    assert peak < 1_000_000


@pytest.mark.slow
def test_the_benchmark_measures_time_and_memory(root, monkeypatch, capsys):
    import runpy
    import sys

    arguments = ["--instances", "30", "--height", "600", "--width", "800", "--runs", "1"]
    monkeypatch.setattr(sys, "argv", ["mask_paste.py", *arguments])
    runpy.run_path(str(root / "benchmarks" / "mask_paste.py"), run_name="__main__")
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()[1:] if line}
    ours, theirs, ratio, _ = (float(number) for number in rows["megabytes"])
    assert 600 * 800 * 30 / 2**20 <= ours + 3 < theirs
    assert ratio == pytest.approx(ours / theirs, abs=0.01)
