import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detcore.structures import bbox as B

coordinates = st.floats(-100, 1400, allow_nan=False, width=32)


def boxes(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(n, 4, generator=generator) * 100
    return torch.cat([corners[:, :2], corners[:, :2] + corners[:, 2:] + 1], 1)


def iou_by_hand(a, b):
    w = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    h = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    area = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    union = area[0] + area[1] - w * h
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return w * h / union, w * h / area[0], w * h / union - (hull - union) / hull


@pytest.mark.parametrize(("mode", "which"), [("iou", 0), ("iof", 1), ("giou", 2)])
def test_overlaps_are_those_computed_by_hand(mode, which):
    a, b = boxes(5), boxes(4, seed=1)
    got = B.bbox_overlaps(a, b, mode)
    want = [[iou_by_hand(x, y)[which] for y in b.tolist()] for x in a.tolist()]
    assert torch.allclose(got, torch.tensor(want), atol=1e-5)
    assert torch.allclose(B.bbox_overlaps(a[:4], b, mode, is_aligned=True), got[:4].diagonal(), atol=1e-6)
    batched = B.bbox_overlaps(a.expand(3, 5, 4), b.expand(3, 4, 4), mode)
    assert torch.allclose(batched, got.expand(3, 5, 4))


def test_overlaps_of_nothing_have_the_right_shape():
    none = torch.zeros(0, 4)
    for mode in ("iou", "iof", "giou"):
        assert B.bbox_overlaps(none, boxes(3), mode).shape == (0, 3)
        assert B.bbox_overlaps(boxes(3), none, mode).shape == (3, 0)
        assert B.bbox_overlaps(none, none, mode, is_aligned=True).shape == (0,)


def test_boxes_without_area_overlap_nothing_and_give_no_nan():
    point = torch.tensor([[5.0, 5, 5, 5]])
    assert B.bbox_overlaps(point, point).item() == 0
    assert B.bbox_overlaps(point, point, "giou").isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_overlaps_of_large_boxes_in_half_precision_do_not_overflow(dtype):
    large = torch.tensor([[0.0, 0, 1024, 1024], [0, 0, 1024, 512]], dtype=dtype)
    assert B.bbox_overlaps(large, large)[0].tolist() == [1, 0.5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(2, 5), torch.zeros(2, 4)), r"bboxes1 must be \[..., N, 4\], got shape \(2, 5\)"),
        ((torch.zeros(2, 4), torch.zeros(4)), "bboxes2"),
        ((torch.zeros(2, 4), torch.zeros(2, 4), "diou"), "'diou'"),
        ((torch.zeros(2, 4), torch.zeros(3, 4), "iou", True), "equal numbers, got 2 and 3"),
    ],
)
def test_overlaps_refuse_what_does_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        B.bbox_overlaps(*arguments)


@settings(max_examples=50, deadline=None)
@given(st.tuples(coordinates, coordinates, st.floats(1, 500, width=32), st.floats(1, 500, width=32)),
       st.tuples(coordinates, coordinates, st.floats(1, 500, width=32), st.floats(1, 500, width=32)))
def test_overlaps_are_symmetric_and_bounded(first, second):
    one, other = (torch.tensor([[x, y, x + w, y + h]]) for x, y, w, h in (first, second))
    iou, giou = B.bbox_overlaps(one, other).item(), B.bbox_overlaps(one, other, "giou").item()
    assert 0 <= iou <= 1 + 1e-4
    assert -1 - 1e-4 <= giou <= iou + 1e-4
    assert iou == pytest.approx(B.bbox_overlaps(other, one).item(), abs=1e-5)
    assert B.bbox_overlaps(one, one).item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("kind", [lambda b: b, lambda b: b.numpy()], ids=["tensor", "array"])
def test_flips_mirror_within_the_image_and_undo_themselves(kind):
    given_boxes = kind(torch.tensor([[1.0, 2, 30, 40], [5, 6, 7, 8]]))
    flipped = B.bbox_flip(given_boxes, (50, 100))
    assert flipped.tolist() == [[70, 2, 99, 40], [93, 6, 95, 8]]
    assert B.bbox_flip(given_boxes, (50, 100), "vertical")[0].tolist() == [1, 10, 30, 48]
    assert B.bbox_flip(given_boxes, (50, 100), "diagonal")[0].tolist() == [70, 10, 99, 48]
    assert given_boxes[0].tolist() == [1, 2, 30, 40]
    for direction in ("horizontal", "vertical", "diagonal"):
        twice = B.bbox_flip(B.bbox_flip(given_boxes, (50, 100), direction), (50, 100), direction)
        assert twice.tolist() == given_boxes.tolist()
    several = B.bbox_flip(given_boxes.reshape(1, 8), (50, 100))
    assert several.reshape(2, 4).tolist() == flipped.tolist()
    with pytest.raises(ValueError, match="'left'"):
        B.bbox_flip(given_boxes, (50, 100), "left")
    with pytest.raises(ValueError, match=r"4 \* k"):
        B.bbox_flip(given_boxes[:, :3], (50, 100))


def test_scaling_clipping_and_sizes():
    given_boxes = torch.tensor([[10.0, 20, 30, 40]])
    assert B.scale_boxes(given_boxes, (2, 0.5)).tolist() == [[20, 10, 60, 20]]
    scaled = B.scale_boxes(given_boxes.numpy(), (2, 0.5))
    assert scaled.tolist() == [[20, 10, 60, 20]]
    assert scaled.dtype == np.float32
    assert B.bbox_rescale(given_boxes, 2).tolist() == [[0, 10, 40, 50]]
    assert B.bbox_rescale(torch.tensor([[3.0, 10, 20, 30, 40]]), 0.5).tolist() == [[3, 15, 25, 25, 35]]
    assert B.bbox_clip(torch.tensor([[-5.0, -5, 200, 200]]), (50, 100)).tolist() == [[0, 0, 100, 50]]
    assert B.bbox_clip(np.array([[-5.0, -5, 200, 200]]), (50, 100)).tolist() == [[0, 0, 100, 50]]
    width, height = B.get_box_wh(torch.tensor([[1.0, 2, 4, 8]]))
    assert (width.item(), height.item()) == (3, 6)
    inside = B.find_inside_bboxes(torch.tensor([[0.0, 0, 5, 5], [100, 0, 110, 5], [-9, 0, 0, 5]]), 50, 100)
    assert inside.tolist() == [True, False, False]


@pytest.mark.parametrize("kind", [lambda b: b, lambda b: b.numpy()], ids=["tensor", "array"])
def test_conversions_undo_each_other(kind):
    given_boxes = kind(boxes(6))
    there = B.bbox_xyxy_to_cxcywh(given_boxes)
    assert np.allclose(B.bbox_cxcywh_to_xyxy(there), given_boxes, atol=1e-4)
    corners = B.bbox2corner(given_boxes)
    assert corners.shape == (6, 4, 2)
    assert np.allclose(B.corner2bbox(corners), given_boxes)
    assert B.cat_boxes([given_boxes, given_boxes[:2]]).shape == (8, 4)
    with pytest.raises(ValueError, match="got none"):
        B.cat_boxes([])


@pytest.mark.parametrize("kind", [lambda b: b, lambda b: b.numpy()], ids=["tensor", "array"])
def test_projection_bounds_the_projected_corners(kind):
    given_boxes = kind(torch.tensor([[0.0, 0, 10, 20]]))
    moved = B.bbox_project(given_boxes, np.array([[1, 0, 5], [0, 1, -5], [0, 0, 1.0]]))
    assert moved.tolist() == [[5, -5, 15, 15]]
    assert B.bbox_project(given_boxes, np.diag([2.0, 2, 1]), (30, 15)).tolist() == [[0, 0, 15, 30]]
    quarter = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]])
    assert B.bbox_project(given_boxes, quarter).tolist() == [[-20, 0, 0, 10]]
    perspective = np.array([[1, 0, 0], [0, 1, 0], [0.1, 0, 1.0]])
    assert B.bbox_project(given_boxes, perspective)[0].tolist() == pytest.approx([0, 0, 5, 20])
    assert B.bbox_project(given_boxes[:0], quarter).shape == (0, 4)


def test_distances_undo_each_other_and_are_cut():
    points, given_boxes = torch.rand(6, 2) * 50, boxes(6)
    distances = B.bbox2distance(points, given_boxes)
    assert torch.allclose(B.distance2bbox(points, distances), given_boxes, atol=1e-4)
    cut = B.bbox2distance(points, given_boxes, max_dis=10, eps=0.5)
    assert cut.min() >= 0
    assert cut.max() <= 9.5
    inside = B.distance2bbox(points, distances, (40, 60))
    assert torch.equal(inside, B.bbox_clip(B.distance2bbox(points, distances), (40, 60)))
    sizes = torch.tensor([[40, 60], [1000, 1000]])
    batched = B.distance2bbox(points.expand(2, 6, 2), distances.expand(2, 6, 4), sizes)
    assert torch.allclose(batched[0], inside)
    assert torch.allclose(batched[1], given_boxes, atol=1e-4)
    with pytest.raises(ValueError, match="max_shape"):
        B.distance2bbox(points, distances, sizes)


def test_regions_carry_the_number_of_their_image():
    per_image = [boxes(2), torch.zeros(0, 4), boxes(1, seed=2)]
    rois = B.bbox2roi(per_image)
    assert rois[:, 0].tolist() == [0, 0, 2]
    back = B.roi2bbox(rois)
    assert [len(b) for b in back] == [2, 0, 1]
    assert torch.equal(back[2], per_image[2])
    assert [len(b) for b in B.roi2bbox(rois[:0], num_images=2)] == [0, 0]
    assert math.isclose(rois[2, 1].item(), per_image[2][0, 0].item())
