"""Larger canvases, shifts, crops that keep objects, fixed shapes, label maps alone, hue and saturation."""
import copy
from pathlib import Path

import cv2
import numpy as np
import pytest

from detcore.data.transforms.expand import Expand, RandomShift
from detcore.data.transforms.hsv import YOLOXHSVRandomAug
from detcore.data.transforms.min_iou_crop import MinIoURandomCrop
from detcore.data.transforms.resize import FixShapeResize
from detcore.data.transforms.seg import SegRescale
from detcore.errors import DataError
from detcore.structures.mask import BitmapMasks, PolygonMasks

BOXES = np.array([[30, 22, 75, 61], [52, 40, 100, 82], [95, 28, 130, 50]], np.float32)


def sample(masks="bitmap", img=None, boxes=BOXES):
    """A picture whose pixels tell where they are from, and objects that fill their boxes."""
    ys, xs = np.mgrid[0:120, 0:160]
    img = np.stack([ys, xs, 255 - ys], -1).astype(np.uint8) if img is None else img
    height, width = img.shape[:2]
    bitmaps = np.zeros((len(boxes), height, width), np.uint8)
    seg = np.zeros((height, width), np.uint8)
    for number, (x1, y1, x2, y2) in enumerate(boxes.astype(int)):
        bitmaps[number, y1:y2, x1:x2] = 1
        seg[y1:y2, x1:x2] = number + 1
    outlines = [[np.array([a, b, c, b, c, d, a, d], np.float64)] for a, b, c, d in boxes]
    return {
        "img": img.copy(), "img_shape": (height, width), "gt_bboxes": boxes.copy(),
        "gt_bboxes_labels": np.arange(len(boxes)), "gt_ignore_flags": np.zeros(len(boxes), bool),
        "gt_masks": (
            BitmapMasks(bitmaps, height, width)
            if masks == "bitmap"
            else PolygonMasks(outlines, height, width)
        ),
        "gt_seg_map": seg, "proposals": boxes + 1, "proposals_scores": np.ones(len(boxes), np.float32),
    }  # fmt: skip


def seeded(transform, results, seed=0):
    np.random.seed(seed)
    return transform(copy.deepcopy(results))


MOVING = [
    Expand((1, 2, 3), seg_ignore_label=255, prob=1.0),
    Expand((9, 9, 9), ratio_range=(1, 1), seg_ignore_label=255, prob=1.0),
    RandomShift(prob=1.0, max_shift_px=40),
    MinIoURandomCrop(),
    MinIoURandomCrop(min_ious=(0.02,), min_crop_size=0.5),
    FixShapeResize(200, 90, keep_ratio=True),
    FixShapeResize(90, 200, pad_val={"img": (1, 2, 3), "seg": 255}, keep_ratio=True),
    FixShapeResize(90, 200),
]


@pytest.mark.parametrize("masks", ["bitmap", "polygon"])
@pytest.mark.parametrize("transform", MOVING, ids=repr)
def test_everything_moves_as_the_homography_says(transform, masks):
    for seed in range(15):
        given = sample(masks)
        out = seeded(transform, given, seed)
        shape = out["img"].shape[:2]
        assert out["img_shape"] == shape == out["gt_seg_map"].shape
        assert (out["gt_masks"].height, out["gt_masks"].width) == shape
        assert out["gt_bboxes"].dtype == np.float32
        matrix = out.get("homography_matrix", np.eye(3)).astype(np.float64)
        corners = given["gt_bboxes"].reshape(-1, 2, 2)
        moved = corners @ matrix[:2, :2].T + matrix[:2, 2]
        moved = moved.reshape(-1, 4).clip(0, [shape[1], shape[0]] * 2)
        kept = out["gt_bboxes_labels"]
        assert np.allclose(out["gt_bboxes"], moved[kept], atol=1e-3)
        assert len(out["gt_masks"]) == len(out["gt_ignore_flags"]) == len(kept)
        scale = matrix[[0, 1], [0, 1]]
        drawn = out["gt_masks"].get_bboxes()
        assert np.abs(drawn - out["gt_bboxes"]).max() <= max(1e-3, 1.1 * (scale != 1).any())
        points = np.random.default_rng(seed).uniform((5, 5), (155, 115), (200, 2)).round()
        targets = points @ matrix[:2, :2].T + matrix[:2, 2] + (scale - 1) / 2
        inside = ((targets > 2) & (targets < (shape[1] - 3, shape[0] - 3))).all(1)
        columns, rows = targets[inside].round().astype(int).T
        values = out["img"][rows, columns].astype(float)
        # The first two channels tell the pixel's own row and column: within one pixel of the new image.
        assert (np.abs(values[:, :2] - points[inside][:, ::-1]) <= 1 / scale[::-1] + 1e-6).all()


@pytest.mark.shared
@pytest.mark.parametrize("transform", MOVING[:5], ids=repr)
def test_photographs_are_moved_pixel_by_pixel(transform, shared):
    for seed, path in enumerate(sorted(Path(shared("data/coco_permissive/images")).rglob("*.jpg"))[:4]):
        img = cv2.imread(str(path))
        out = seeded(transform, sample(img=img), seed)
        right, down = out.get("homography_matrix", np.eye(3))[:2, 2].astype(int)
        height, width = out["img_shape"]
        y1, y2 = max(down, 0), min(down + img.shape[0], height)
        x1, x2 = max(right, 0), min(right + img.shape[1], width)
        assert np.array_equal(out["img"][y1:y2, x1:x2], img[y1 - down : y2 - down, x1 - right : x2 - right])


@pytest.mark.parametrize("transform", [*MOVING, YOLOXHSVRandomAug()], ids=repr)
def test_seeds_and_images_without_objects(transform):
    given = sample()
    assert np.array_equal(seeded(transform, given)["img"], seeded(transform, given)["img"])
    for seed in range(5):
        empty = seeded(transform, sample(boxes=BOXES[:0]), seed)
        assert empty["gt_bboxes"].shape == (0, 4)
        assert empty["img_shape"] == empty["img"].shape[:2]
        bare = seeded(transform, {"img": given["img"]}, seed)
        assert "gt_bboxes" not in bare


@pytest.mark.parametrize("transform", [Expand(7, prob=1.0), *MOVING[1:6]], ids=repr)
@pytest.mark.parametrize("shape", [(30, 40), (30, 40, 1)], ids=str)
def test_grey_images_stay_grey(transform, shape):
    out = seeded(transform, {"img": np.full(shape, 9, np.uint8)})
    assert out["img"].ndim == len(shape)


def test_expand_fills_the_canvas_and_turns_the_mean_round():
    out = seeded(Expand((10, 20, 30), seg_ignore_label=7, prob=1.0, ratio_range=(2, 3)), sample())
    left, top = out["homography_matrix"][:2, 2].astype(int)
    canvas = np.ones(out["img_shape"], bool)
    canvas[top : top + 120, left : left + 160] = False
    assert (out["img"][canvas] == (30, 20, 10)).all()
    assert (out["gt_seg_map"][canvas] == 7).all()
    assert np.array_equal(out["proposals"], out["gt_bboxes"] + 1)
    assert 2 <= out["img_shape"][0] / 120 <= 3
    straight = seeded(Expand((10, 20, 30), to_rgb=False, prob=1.0), {"img": sample()["img"]})
    assert (straight["img"][-1, -1] == (10, 20, 30)).all()


def test_probabilities():
    img = sample()["img"]
    for transform in (Expand(prob=0.0), RandomShift(prob=0.0)):
        assert transform({"img": img})["img"] is img
    np.random.seed(0)
    moved = sum(Expand(prob=0.3)({"img": img})["img"].shape != img.shape for _ in range(300))
    assert 60 < moved < 120


def test_shifts_go_all_ways_up_to_the_limit():
    shifts = [seeded(RandomShift(1.0, 3), sample(), seed)["homography_matrix"][:2, 2] for seed in range(150)]
    assert {tuple(shift.astype(int)) for shift in shifts} >= {(x, y) for x in (-3, 3) for y in (-3, 3)}
    assert np.abs(shifts).max() == 3
    assert (RandomShift(1.0, 0)(sample())["img"] == sample()["img"]).all()


def test_shifts_drop_objects_that_leave_but_never_all():
    boxes = np.array([[0, 50, 8, 58], [60, 50, 90, 80]], np.float32)
    counts = {len(seeded(RandomShift(1.0, 20), sample(boxes=boxes), seed)["gt_bboxes"]) for seed in range(60)}
    assert counts == {1, 2}
    alone = sample(boxes=boxes[:1])
    for seed in range(60):
        out = seeded(RandomShift(1.0, 20), alone, seed)
        assert len(out["gt_bboxes"]) == 1
        if "homography_matrix" not in out:
            assert np.array_equal(out["img"], alone["img"])
            assert np.array_equal(out["gt_bboxes"], alone["gt_bboxes"])


def test_windows_hold_the_centres_of_their_objects_and_are_neither_wide_nor_high():
    boxes = np.array([[20, 20, 140, 100]], np.float32)
    transform = MinIoURandomCrop(min_crop_size=0.2)
    sizes = set()
    for seed in range(60):
        out = seeded(transform, sample(boxes=boxes), seed)
        height, width = out["img_shape"]
        sizes.add((height, width))
        assert (height, width) == (120, 160) or 0.5 <= height / width <= 2
        x1, y1 = -out.get("homography_matrix", np.eye(3))[:2, 2]
        centre = np.array([80 - x1, 60 - y1])
        assert (centre > 0).all()
        assert (centre < (width, height)).all()
    assert len(sizes) > 20


@pytest.mark.parametrize("least", [0.1, 0.5])
def test_windows_have_the_iou_that_was_drawn(least, monkeypatch):
    monkeypatch.setattr(np.random, "randint", lambda low, high: 0)  # the first of min_ious
    boxes = np.array([[20, 20, 140, 100]], np.float32)
    ious = []
    for seed in range(40):
        out = seeded(MinIoURandomCrop((least, 0.9), min_crop_size=0.2), sample(boxes=boxes), seed)
        height, width = out["img_shape"]
        box = out["gt_bboxes"][0]
        both = (box[2] - box[0]) * (box[3] - box[1])
        ious.append(both / (120 * 80 + height * width - both))
    assert min(ious) >= least - 1e-5
    assert min(ious) < 0.7


def test_images_too_narrow_for_a_window_stay_whole():
    for shape in ((2, 400, 3), (1, 1, 3)):
        img = np.zeros(shape, np.uint8)
        assert seeded(MinIoURandomCrop(), {"img": img})["img"].shape == shape


def test_fix_shape_fits_width_to_width_and_pads():
    out = FixShapeResize(80, 240, pad_val={"img": (1, 2, 3), "seg": 9}, keep_ratio=True)(sample())
    assert out["img"].shape == (240, 80, 3)
    assert out["scale_factor"] == (0.5, 0.5)
    assert (out["img"][60:] == (1, 2, 3)).all()
    assert (out["gt_seg_map"][60:] == 9).all()
    assert out["gt_bboxes"][0].tolist() == [15, 11, 37.5, 30.5]
    thin = FixShapeResize(10, 10, keep_ratio=True)({"img": np.full((1, 400, 3), 5, np.uint8)})
    assert (thin["img"][0] == 5).all()
    assert (thin["img"][1:] == 0).all()
    plain = FixShapeResize(80, 240)(sample())
    assert plain["scale_factor"] == (0.5, 2.0)


def test_seg_rescale_changes_the_label_map_alone():
    given = sample()
    out = SegRescale(0.25)(copy.deepcopy(given))
    assert out["gt_seg_map"].shape == (30, 40)
    assert set(np.unique(out["gt_seg_map"])) <= {0, 1, 2, 3}
    assert np.array_equal(out["img"], given["img"])
    assert SegRescale(1e-9)(copy.deepcopy(given))["gt_seg_map"].shape == (1, 1)
    with pytest.raises(DataError, match=r"a.jpg has no label map; LoadAnnotations\(with_seg=True\)"):
        SegRescale(0.5)({"img_path": "a.jpg"})


def test_hue_saturation_and_value_are_added_to():
    img = np.random.default_rng(0).integers(60, 190, (20, 30, 3)).astype(np.uint8)
    before = cv2.cvtColor(img, cv2.COLOR_BGR2HSV).astype(int)
    changed = np.zeros(3)
    for seed in range(60):
        given = img.copy()
        out = seeded(YOLOXHSVRandomAug(0, 0, 30), {"img": given}, seed)["img"]
        assert np.array_equal(given, img)
        added = cv2.cvtColor(out, cv2.COLOR_BGR2HSV).astype(int)[..., 2] - before[..., 2]
        assert added.min() == added.max()
        assert abs(added.min()) <= 30
        changed[0] += added.min() != 0
        out = seeded(YOLOXHSVRandomAug(0, 40, 0), {"img": img}, seed)["img"]
        added = cv2.cvtColor(out, cv2.COLOR_BGR2HSV).astype(int)[..., 1] - before[..., 1]
        assert np.ptp(np.percentile(added, (10, 90))) <= 4  # back and forth through bytes
        changed[1] += abs(np.median(added)) > 2
        out = seeded(YOLOXHSVRandomAug(20, 0, 0), {"img": img}, seed)["img"]
        changed[2] += not np.array_equal(out, seeded(YOLOXHSVRandomAug(0, 0, 0), {"img": img})["img"])
    assert (changed > 15).all()
    assert (changed < 45).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Expand(ratio_range=(0.5, 2)), r"ratio_range must be 1 <= .* got \(0.5, 2\)"),
        (lambda: Expand(prob=2), "prob must lie in"),
        (lambda: Expand(mean=(300, 0, 0)), "mean must be a number from 0 to 255"),
        (lambda: RandomShift(prob=-1), "prob must lie in"),
        (lambda: RandomShift(max_shift_px=-3), "max_shift_px must be a whole number from 0 on, got -3"),
        (lambda: MinIoURandomCrop(min_ious=(2,)), r"min_ious must lie in \[0, 1\], got \(2,\)"),
        (lambda: MinIoURandomCrop(min_crop_size=0), "min_crop_size must lie in"),
        (lambda: YOLOXHSVRandomAug(-5), "must not be negative"),
        (lambda: SegRescale(0), "scale_factor must be positive, got 0"),
        (lambda: SegRescale(1, "pillow"), "backend='pillow': label maps are scaled by 'cv2'"),
        (lambda: FixShapeResize(0, 5), r"whole pixels, got \(0, 5\)"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_does_not_fit_the_sample_is_named():
    with pytest.raises(ValueError, match="Expand: the sample has a label map, give seg_ignore_label"):
        Expand(prob=1.0)(sample())
    with pytest.raises(ValueError, match=r"Expand: mean=.* has 3 values, but the image has 1 channel"):
        Expand((1, 2, 3), prob=1.0)({"img": np.zeros((4, 5), np.uint8)})
    with pytest.raises(ValueError, match=r"YOLOXHSVRandomAug takes uint8 .*, got float32 \(4, 5, 3\)"):
        YOLOXHSVRandomAug()({"img": np.zeros((4, 5, 3), np.float32)})
