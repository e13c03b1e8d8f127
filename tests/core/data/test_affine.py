"""RandomAffine: image, boxes, masks, label map, proposals and homography move together."""

import copy

import cv2
import numpy as np
import pytest

from detcore.data.transforms.affine import RandomAffine
from detcore.data.transforms.geometry import warp_array
from detcore.structures.mask import BitmapMasks, PolygonMasks

BOXES = np.array([[30, 22, 75, 61], [52, 40, 100, 82], [120, 90, 158, 118]], np.float32)
STILL = {
    "max_rotate_degree": 0.0, "max_translate_ratio": 0.0, "max_shear_degree": 0.0,
    "scaling_ratio_range": (1, 1),
}  # fmt: skip


def sample(polygons=False):
    """A picture of 120 x 160 whose objects fill their boxes."""
    coarse = np.random.default_rng(0).integers(0, 256, (12, 16, 3)).astype(np.uint8)
    img = cv2.resize(coarse, (160, 120))
    seg, bitmaps = np.zeros((120, 160), np.uint8), np.zeros((3, 120, 160), np.uint8)
    for number, (x1, y1, x2, y2) in enumerate(BOXES.astype(int)):
        bitmaps[number, y1:y2, x1:x2] = 1
        seg[y1:y2, x1:x2] = number + 1
    outlines = [[np.array([a, b, c, b, c, d, a, d], np.float64)] for a, b, c, d in BOXES]
    masks = PolygonMasks(outlines, 120, 160) if polygons else BitmapMasks(bitmaps, 120, 160)
    return {
        "img": img, "img_shape": (120, 160), "ori_shape": (120, 160), "gt_bboxes": BOXES.copy(),
        "gt_bboxes_labels": np.array([1, 0, 2]), "gt_ignore_flags": np.array([False, True, False]),
        "gt_masks": masks, "gt_seg_map": seg,
        "proposals": BOXES + 1, "proposals_scores": np.ones(3, np.float32),
    }  # fmt: skip


def drawn(seed, **arguments):
    np.random.seed(seed)
    return RandomAffine(**arguments)(sample())


@pytest.mark.parametrize("seed", range(5))
def test_everything_goes_where_the_homography_says(seed):
    got = drawn(seed, max_rotate_degree=20, border=(8, -6))
    matrix, shape = got["homography_matrix"], (108, 176)
    assert got["img"].shape[:2] == got["img_shape"] == got["gt_seg_map"].shape == shape
    want = cv2.warpPerspective(
        sample()["img"], matrix.astype(np.float64), shape[::-1], borderValue=(114, 114, 114)
    )
    off = np.abs(got["img"].astype(int) - want)
    assert off.mean() < 0.5
    kept = {1: 0, 0: 1, 2: 2}  # label -> place
    for box, label, mask in zip(
        got["gt_bboxes"], got["gt_bboxes_labels"], got["gt_masks"].masks, strict=True
    ):
        x1, y1, x2, y2 = BOXES[kept[int(label)]]
        corners = np.array([[x1, y1, 1], [x2, y1, 1], [x1, y2, 1], [x2, y2, 1]]) @ matrix.T
        low = np.clip(corners[:, :2].min(0), 0, shape[::-1])
        high = np.clip(corners[:, :2].max(0), 0, shape[::-1])
        np.testing.assert_allclose(box, [*low, *high], atol=1e-3)
        rows, columns = np.nonzero(mask)
        if len(rows):
            assert columns.min() >= box[0] - 2
            assert rows.max() <= box[3] + 2


def test_the_map_is_about_the_upper_left_corner():
    got = drawn(0, **{**STILL, "scaling_ratio_range": (0.5, 0.5)}, border=(-40, -30))
    assert got["img"].shape == (60, 80, 3)
    np.testing.assert_allclose(got["gt_bboxes"], BOXES / 2)
    quarter = {**STILL, "max_rotate_degree": 90.0}
    np.random.seed(0)
    transform = RandomAffine(**quarter)
    matrices = [transform._get_random_homography_matrix(120, 160) for _ in range(200)]
    angles = np.rad2deg([np.arctan2(m[1, 0], m[0, 0]) for m in matrices])
    assert -90 <= angles.min() < -80
    assert 80 < angles.max() <= 90
    assert all(np.allclose(m[:2, 2], 0) and np.isclose(np.linalg.det(m), 1) for m in matrices)


def test_each_part_keeps_within_its_limits():
    def matrices(height=9, width=9, **limit):
        transform = RandomAffine(**{**STILL, **limit})
        return np.stack([transform._get_random_homography_matrix(height, width) for _ in range(300)])

    np.random.seed(0)
    shifts = matrices(100, 200, max_translate_ratio=0.1)[:, :2, 2]
    assert 18 < np.abs(shifts)[:, 0].max() <= 20
    assert 9 < np.abs(shifts)[:, 1].max() <= 10
    leans = matrices(max_shear_degree=10.0)
    assert 0.15 < np.abs(leans[:, 0, 1]).max() <= np.tan(np.deg2rad(10))
    assert 0.15 < np.abs(leans[:, 1, 0]).max() <= np.tan(np.deg2rad(10))
    factors = matrices(scaling_ratio_range=(0.5, 2))[:, 0, 0]
    assert 0.5 <= factors.min() < 0.55
    assert 1.9 < factors.max() <= 2


def test_nothing_to_do_changes_nothing():
    got, want = drawn(0, **STILL), sample()
    np.testing.assert_array_equal(got["img"], want["img"])
    np.testing.assert_array_equal(got["gt_seg_map"], want["gt_seg_map"])
    np.testing.assert_array_equal(got["gt_masks"].masks, want["gt_masks"].masks)
    np.testing.assert_array_equal(got["gt_bboxes"], BOXES)


def test_objects_that_have_left_the_picture_are_dropped_with_all_that_is_theirs():
    got = drawn(0, **{**STILL, "scaling_ratio_range": (1.5, 1.5)})
    assert got["gt_bboxes_labels"].tolist() == [1, 0]
    assert got["gt_ignore_flags"].tolist() == [False, True]
    assert len(got["gt_masks"]) == 2
    assert got["gt_bboxes"][1].tolist() == [78, 60, 150, 120]  # cut to the picture
    free = drawn(0, **{**STILL, "scaling_ratio_range": (1.5, 1.5)}, bbox_clip_border=False)
    assert free["gt_bboxes"][1].tolist() == [78, 60, 150, 123]
    np.random.seed(0)
    polygons = RandomAffine(**{**STILL, "scaling_ratio_range": (1.5, 1.5)})(sample(polygons=True))
    assert len(polygons["gt_masks"]) == 2
    areas = [45 * 39 * 2.25, 48 * 42 * 2.25 * 60 / 63]
    np.testing.assert_allclose(polygons["gt_masks"].areas, areas, rtol=0.1)


def test_new_pixels_have_the_border_s_value():
    got = drawn(0, **STILL, border=(10, 0), border_val=(1, 2, 3))
    assert got["img"].shape == (120, 180, 3)
    assert (got["img"][:, 170:] == (1, 2, 3)).all()
    assert (got["gt_seg_map"][:, 170:] == 255).all()


def test_homographies_are_chained():
    first = drawn(0, **{**STILL, "scaling_ratio_range": (0.5, 0.5)})
    second = RandomAffine(**{**STILL, "scaling_ratio_range": (0.5, 0.5)})(copy.deepcopy(first))
    np.testing.assert_allclose(second["homography_matrix"], np.diag([0.25, 0.25, 1]))


@pytest.mark.parametrize("seed", range(30))
def test_colours_are_warped_to_the_values_that_three_channels_give(seed):
    random = np.random.default_rng(seed)
    height, width, h, w = random.integers(1, 300, 4).tolist()
    img = random.integers(0, 256, (height, width, 3)).astype(np.uint8)
    angle, scale = random.uniform(-3, 3), random.uniform(0.2, 2.5)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    right, down = random.uniform(-100, 100, 2)
    matrix = np.array([[cos, 0.1 - sin, right], [sin, cos, down]])
    fill = (114.0, 3.0, 250.0)
    want = cv2.warpAffine(img, matrix, (w, h), flags=cv2.INTER_LINEAR, borderValue=fill)
    assert np.array_equal(warp_array(img, matrix, (h, w), "bilinear", fill), want)
    assert (warp_array(img, matrix + [[0, 0, 1e5]] * 2, (h, w), "bilinear", fill) == fill).all()


def test_what_is_wrong_is_said():
    with pytest.raises(ValueError, match=r"max_translate_ratio is in .0, 1., got 2"):
        RandomAffine(max_translate_ratio=2)
    with pytest.raises(ValueError, match=r"max_shear_degree in .0, 90., got 10.0 and 90"):
        RandomAffine(max_shear_degree=90)
    with pytest.raises(ValueError, match=r"two rising factors, got .2, 1."):
        RandomAffine(scaling_ratio_range=(2, 1))
    with pytest.raises(ValueError, match="leaves nothing of an image of 160 x 120 pixels"):
        drawn(0, border=(-80, 0))
