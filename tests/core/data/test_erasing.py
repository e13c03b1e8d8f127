"""Rectangles put over the image: where they are, and which objects they leave."""
import copy
import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest

from detcore.data.transforms.erasing import CutOut, RandomErasing, covered_share, erased_masks
from detcore.structures.mask import BitmapMasks, PolygonMasks
from detcore.testing import tiny_results


def seeded(transform, results, seed=0):
    np.random.seed(seed)
    return transform(copy.deepcopy(results))


def plain(height=100, width=200, boxes=((20, 30, 80, 60), (100, 10, 190, 90)), masks="bitmap"):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    bitmaps = np.zeros((len(boxes), height, width), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(bitmaps, boxes.astype(int), strict=True):
        mask[y1:y2, x1:x2] = 1
    outlines = [[np.array([a, b, c, b, c, d, a, d], np.float64)] for a, b, c, d in boxes]
    return {
        "img": np.full((height, width, 3), 50, np.uint8), "img_shape": (height, width), "gt_bboxes": boxes,
        "gt_bboxes_labels": np.arange(len(boxes)), "gt_ignore_flags": np.zeros(len(boxes), bool),
        "gt_masks": (
            BitmapMasks(bitmaps, height, width)
            if masks == "bitmap"
            else PolygonMasks(outlines, height, width)
        ),
        "gt_seg_map": np.ones((height, width), np.uint8),
    }  # fmt: skip


def rectangles(covered):
    """Whether a bool image (H, W) is one full rectangle, and its (h, w)."""
    ys, xs = np.nonzero(covered)
    height, width = int(np.ptp(ys)) + 1, int(np.ptp(xs)) + 1
    return covered.sum() == height * width, (height, width)


@pytest.mark.parametrize("masks", ["bitmap", "polygon"])
def test_the_same_rectangle_is_erased_from_everything(masks):
    for seed in range(10):
        given = plain(masks=masks)
        out = seeded(RandomErasing(1, 0.3, img_border_value=(7, 8, 9)), given, seed)
        erased = (out["img"] == (7, 8, 9)).all(-1)
        assert rectangles(erased) == (True, (30, 60))
        assert np.array_equal(out["gt_seg_map"] == 255, erased)
        kept = np.isin(given["gt_bboxes_labels"], out["gt_bboxes_labels"])
        expected = given["gt_masks"].to_ndarray()[kept] & ~erased
        assert np.array_equal(out["gt_masks"].to_ndarray(), expected)
        assert (out["img"][~erased] == 50).all()


def test_objects_go_by_the_part_of_their_box_that_is_erased():
    kept = dropped = 0
    for seed in range(60):
        given = plain(boxes=[(20, 30, 40, 50), (100, 10, 190, 90), (60, 60, 75, 80)])
        out = seeded(RandomErasing((1, 4), (0.1, 0.5), bbox_erased_thr=0.5), given, seed)
        erased = (out["img"] == 128).all(-1)
        shares = [erased[y1:y2, x1:x2].mean() for x1, y1, x2, y2 in given["gt_bboxes"].astype(int)]
        expected = [number for number, share in enumerate(shares) if share < 0.5]
        assert out["gt_bboxes_labels"].tolist() == expected
        assert np.array_equal(out["gt_bboxes"], given["gt_bboxes"][expected])
        assert len(out["gt_masks"]) == len(out["gt_ignore_flags"]) == len(expected)
        kept, dropped = kept + len(expected), dropped + 3 - len(expected)
    assert min(kept, dropped) > 10


def test_shares_are_exact_for_any_boxes_and_count_overlaps_once():
    draw = np.random.default_rng(0)
    for _ in range(50):
        patches = np.sort(draw.integers(0, 40, (draw.integers(0, 5), 2, 2)), 1).reshape(-1, 4)
        boxes = np.sort(draw.integers(0, 160, (6, 2, 2)), 1).reshape(-1, 4) / 4  # in quarters of a pixel
        fine = np.zeros((160, 160), bool)
        for x1, y1, x2, y2 in patches * 4:
            fine[y1:y2, x1:x2] = True
        areas = [fine[y1:y2, x1:x2] for x1, y1, x2, y2 in (boxes * 4).astype(int)]
        expected = [float(area.mean()) if area.size else 0.0 for area in areas]
        assert np.allclose(covered_share(boxes.astype(np.float32), patches), expected, atol=1e-6)


def test_a_hole_in_a_polygon_leaves_the_area_around_it():
    square = [np.array([0, 0, 20, 0, 20, 20, 0, 20], np.float64)]
    triangle = [np.array([30, 0, 50, 0, 30, 20], np.float64)]
    masks = PolygonMasks([square, triangle], 40, 60)
    hole = np.array([[5, 5, 10, 15], [30, 0, 50, 20]])
    rest = erased_masks(masks, hole)
    assert rest.areas.tolist() == [350, 0]
    assert len(rest) == 2
    assert masks.areas.tolist() == [400, 200]


def test_sides_are_drawn_together_or_apart():
    shapes = {True: set(), False: set()}
    for squared, seed in itertools.product((True, False), range(15)):
        out = seeded(RandomErasing(1, (0.1, 0.6), squared), plain(), seed)
        shapes[squared].add(rectangles((out["img"] == 128).all(-1))[1])
    assert all(abs(height * 2 - width) <= 2 for height, width in shapes[True])
    assert any(abs(height * 2 - width) > 20 for height, width in shapes[False])
    assert len(shapes[True]) > 10


def test_the_whole_image_may_go_and_nothing_may_go():
    out = seeded(RandomErasing(1, 1.0), plain())
    assert (out["img"] == 128).all()
    assert len(out["gt_bboxes"]) == len(out["gt_masks"]) == 0
    for nothing in (RandomErasing(0, 0.5), RandomErasing(3, 0.0)):
        assert (seeded(nothing, plain())["img"] == 50).all()


@pytest.mark.shared
def test_photographs_lose_the_rectangles_and_nothing_else(shared):
    for seed, path in enumerate(sorted(Path(shared("data/coco_permissive/images")).rglob("*.jpg"))[:5]):
        img = cv2.imread(str(path))
        out = seeded(RandomErasing((1, 5), (0, 0.2)), {"img": img}, seed)["img"]
        changed = (out != img).any(-1)
        assert (out[changed] == 128).all()
        assert changed.mean() <= 5 * 0.2**2


@pytest.mark.parametrize("transform", [RandomErasing((1, 5), (0, 0.2)), CutOut((1, 3), (9, 7))], ids=repr)
def test_seeds_empty_and_grey_images(transform):
    given = tiny_results()
    before = copy.deepcopy(given)
    np.random.seed(4)
    once = transform(given)["img"]
    assert np.array_equal(once, seeded(transform, before, 4)["img"])
    assert not np.array_equal(once, seeded(transform, before, 5)["img"])
    empty = seeded(transform, tiny_results(objects=0))
    assert empty["gt_bboxes"].shape == (0, 4)
    kind = type(transform)
    grey = kind(3, (0.5, 0.5)) if kind is RandomErasing else kind(3, (2, 3), fill_in=0)
    for shape in ((8, 9), (8, 9, 1)):
        out = seeded(grey, {"img": np.full(shape, 77, np.uint8)})["img"]
        assert out.shape == shape
        assert (out != 77).any()


def test_the_given_image_is_not_written_to():
    for transform in (RandomErasing(2, 0.4), CutOut(2, (20, 20))):
        img = np.full((50, 60, 3), 5, np.uint8)
        transform({"img": img})
        assert (img == 5).all()


def test_cut_out_covers_shapes_and_parts_and_leaves_annotations():
    fill = (1, 2, 3)
    for transform in (CutOut(1, (40, 20), None, fill), CutOut(1, None, (0.2, 0.2), fill)):
        sizes = set()
        for seed in range(30):
            given = plain()
            out = seeded(transform, given, seed)
            full, size = rectangles((out["img"] == (1, 2, 3)).all(-1))
            assert full
            sizes.add(size)
            assert np.array_equal(out["gt_bboxes"], given["gt_bboxes"])
            assert np.array_equal(out["gt_masks"].masks, given["gt_masks"].masks)
        assert max(sizes) == (20, 40)
        assert any(size < (20, 40) for size in sizes)  # those that reach beyond the image
    several = CutOut((0, 2), [(40, 20), (4, 5)])
    counts = [(seeded(several, plain(), seed)["img"] == 0).all(-1).sum() for seed in range(40)]
    assert 0 in counts
    assert max(counts) > 800


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomErasing(-1, 0.1), "n_patches must be a number from 0 on, .* got -1"),
        (lambda: RandomErasing((3, 1), 0.1), r"n_patches .* got \(3, 1\)"),
        (lambda: RandomErasing(1, 1.5), r"ratio must be a part in \[0, 1\].* got 1.5"),
        (lambda: RandomErasing(1, (0.5, 0.1)), "ratio"),
        (lambda: RandomErasing(1, 0.1, bbox_erased_thr=0), "bbox_erased_thr must lie"),
        (lambda: RandomErasing(1, 0.1, img_border_value=-1), "img_border_value must be a number"),
        (lambda: CutOut(1), "give one of cutout_shape and cutout_ratio"),
        (lambda: CutOut(1, (2, 2), (0.1, 0.1)), "give one of cutout_shape and cutout_ratio"),
        (lambda: CutOut(1, [(2, 2, 2)]), r"cutout_shape must be \(width, height\)"),
        (lambda: CutOut(1, cutout_ratio=0.5), r"cutout_ratio must be \(width, height\) .* got 0.5"),
        (lambda: CutOut(0.5, (2, 2)), "n_holes must be a number"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_does_not_fit_the_sample_is_named():
    with pytest.raises(ValueError, match="mask_border_value must be 0 for polygon masks, got 1"):
        RandomErasing(1, 0.5, mask_border_value=1)(plain(masks="polygon"))
    with pytest.raises(ValueError, match=r"fill_in=.* has 3 values, but the image has 1 channel"):
        CutOut(1, (2, 2), fill_in=(1, 2, 3))({"img": np.zeros((4, 5), np.uint8)})
