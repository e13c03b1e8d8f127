"""Targets of mask heads, against the operators that define them."""

import time

import numpy as np
import pycocotools.mask as coco_mask
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import roi_align

from detcore.structures.mask import BitmapMasks, PolygonMasks, mask_target
from detcore.structures.mask.targets import _on_device


def blobs(number, height, width, seed=0):
    """Bitmaps with round borders, so that no mean is 0.5 by construction."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    centres = rng.uniform((0, 0), (height, width), (number, 2))
    radii = rng.uniform(0.1, 0.5, (number, 2)) * (height, width)
    ovals = zip(centres, radii, strict=True)
    bitmaps = [((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1 for (cy, cx), (ry, rx) in ovals]
    return np.stack(bitmaps).astype(np.uint8)


def boxes_within(number, height, width, seed=0):
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.uniform(0, 1, (number, 2, 2)), axis=1) * (width, height)
    return torch.from_numpy(corners.reshape(-1, 4)).float()


def by_operator(masks, boxes, inds, size):
    """RoIAlign over whole bitmaps, one copy a box, as the definition says."""
    copies = torch.from_numpy(masks)[inds].float()[:, None]
    regions = torch.cat([torch.arange(len(boxes))[:, None].float(), boxes], 1)
    return roi_align(copies, regions, size, 1.0, 0, True)[:, 0]


@pytest.mark.parametrize("size", [(28, 28), (14, 20), (1, 1)])
def test_bitmap_targets_are_those_of_roi_align(size):
    masks = blobs(5, 80, 133)
    boxes, inds = boxes_within(300, 80, 133), torch.arange(300) % 5
    targets = mask_target([boxes], [inds], [BitmapMasks(masks, 80, 133)], size)
    assert targets.dtype == torch.float32
    want = (by_operator(masks, boxes, inds, size) >= 0.5).float()
    assert 0 < want.mean() < 1
    assert torch.equal(targets, want)


def test_means_of_exactly_a_half_fall_where_the_operator_puts_them():
    masks = np.zeros((1, 60, 90), np.uint8)
    masks[:, 10:31, 20:51] = 1
    boxes = torch.tensor([[x, y, x + w, y + h] for x in (5.0, 6.3) for y in (2.0, 9.1)
                          for w in (17.0, 61.7) for h in (23.0, 40.3)])
    inds = torch.zeros(len(boxes), dtype=torch.long)
    want = by_operator(masks, boxes, inds, (7, 9)) >= 0.5
    assert torch.equal(mask_target([boxes], [inds], [BitmapMasks(masks, 60, 90)], (7, 9)), want.float())


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 40), st.tuples(*[st.floats(-20, 60, width=32)] * 4),
    st.integers(1, 9), st.integers(1, 9), st.integers(0, 99), st.booleans(),
)
def test_any_box_of_any_bitmap(height, width, corners, h, w, seed, soft):
    masks = np.random.default_rng(seed).integers(0, 2, (2, height, width), dtype=np.uint8)
    x, y = sorted(corners[0::2]), sorted(corners[1::2])
    box, inds = torch.tensor([[x[0], y[0], x[1], y[1]]]), torch.tensor([1])
    targets = mask_target([box], [inds], [BitmapMasks(masks, height, width)], (h, w), soft_mask_target=soft)
    limits = torch.tensor([width, height, width, height])
    want = by_operator(masks, box.clamp(min=0).minimum(limits), inds, (h, w))
    if soft:
        assert torch.allclose(targets, want, atol=1e-4)
    else:
        assert torch.equal(targets, (want >= 0.5).float())


def test_boxes_that_reach_out_of_the_image_are_sampled_as_they_are_outside_of_mask_target():
    masks = blobs(2, 40, 50)
    boxes, inds = torch.tensor([[-8.0, -3, 30, 20], [20, 10, 70, 60]]), np.array([0, 1])
    cropped = BitmapMasks(masks, 40, 50).crop_and_resize(boxes, (9, 11), inds)
    want = by_operator(masks, boxes, torch.from_numpy(inds), (9, 11)) >= 0.5
    assert np.array_equal(cropped.to_ndarray(), want.numpy())


def test_polygon_targets_are_the_moved_and_scaled_polygons_filled():
    square = np.array([10.0, 10, 50, 12, 48, 44, 9, 40])
    two = [np.array([60.0, 5, 90, 5, 75, 30]), np.array([70.0, 40, 95, 40, 95, 58])]
    masks = PolygonMasks([[square], two], 60, 100)
    boxes = torch.tensor([[5.5, 5.25, 60, 50], [58, -4, 120, 70], [20, 20, 30, 30], [10, 10, 10.5, 10.5]])
    inds = torch.tensor([0, 1, 0, 0])
    targets = mask_target([boxes], [inds], [masks], (28, 20))
    for target, (x1, y1, x2, y2), polygons in zip(
        targets, [(5.5, 5.25, 60, 50), (58, 0, 100, 60), (20, 20, 30, 30), (10, 10, 10.5, 10.5)],
        [[square], two, [square], [square]], strict=True,
    ):
        scale = np.array([20 / max(x2 - x1, 1), 28 / max(y2 - y1, 1)])
        moved = [((p.reshape(-1, 2) - (x1, y1)) * scale).reshape(-1).tolist() for p in polygons]
        want = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(moved, 28, 20)))
        assert np.array_equal(target.numpy(), want)
    assert targets[2].all()
    assert 0 < targets[1].mean() < 1


def test_images_follow_one_another_and_may_have_no_proposals():
    masks = blobs(3, 40, 50)
    boxes = boxes_within(5, 40, 50)
    both = [BitmapMasks(masks, 40, 50), PolygonMasks.random(2, 30, 30), BitmapMasks(masks[:0], 40, 50)]
    inds = torch.tensor([2, 1, 0, 0, 1])
    none = (torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    targets = mask_target([boxes, none[0], none[0]], [inds, none[1], none[1]], both, 14)
    assert torch.equal(targets, mask_target([boxes], [inds], both[:1], 14))
    assert mask_target([none[0]], [none[1]], both[1:2], (14, 12)).shape == (0, 14, 12)
    assert mask_target([], [], [], 14).shape == (0, 14, 14)


def test_lists_and_shapes_that_do_not_match_are_refused():
    masks = [BitmapMasks(blobs(2, 20, 20), 20, 20)]
    boxes, inds = torch.tensor([[0.0, 0, 5, 5]]), torch.tensor([0])
    with pytest.raises(ValueError, match="got proposals of 2 images, indices of 1 and masks of 1"):
        mask_target([boxes, boxes], [inds], masks, 7)
    with pytest.raises(ValueError, match=r"image 0 of the batch: .* got shapes \(1, 4\) and \(2,\)"):
        mask_target([boxes], [torch.tensor([0, 1])], masks, 7)
    with pytest.raises(IndexError, match="out of range for 2 masks"):
        mask_target([boxes], [torch.tensor([5])], masks, 7)
    with pytest.raises(ValueError, match="1 boxes need as many indices, got 2"):
        masks[0].crop_and_resize(boxes, (7, 7), np.array([0, 1]))


def test_the_way_of_accelerators_gives_the_same_targets():
    masks = BitmapMasks(blobs(5, 80, 133), 80, 133)
    boxes, inds = boxes_within(50, 80, 133), torch.arange(50) % 5
    soft = _on_device(boxes, inds, masks, (28, 28))
    assert torch.equal((soft >= 0.5).float(), mask_target([boxes], [inds], [masks], 28))


def test_a_hundred_targets_of_large_bitmaps_take_milliseconds():
    masks = BitmapMasks(blobs(20, 800, 1333), 800, 1333)
    middle = boxes_within(100, 500, 800, seed=2) / 2
    inds = torch.arange(100) % 20
    mask_target([middle], [inds], [masks], 28)
    start = time.perf_counter()
    mask_target([middle], [inds], [masks], 28)
    assert time.perf_counter() - start < 0.5  # some 20 ms; whole bitmaps as floats take seconds
