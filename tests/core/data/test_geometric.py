"""Rotation, shear and translation: image, boxes, masks, label map and homography move together."""
import copy
from pathlib import Path

import cv2
import numpy as np
import pytest

from detcore.data.transforms.filter import FilterAnnotations
from detcore.data.transforms.geometric import GeomTransform, Rotate, ShearX, ShearY, TranslateX, TranslateY
from detcore.data.transforms.proposals import ProposalBroadcaster
from detcore.structures.mask import BitmapMasks, PolygonMasks

MOVING = (Rotate, ShearX, ShearY, TranslateX, TranslateY)
BOXES = np.array([[30, 22, 75, 61], [52, 40, 100, 82], [95, 28, 130, 50]], np.float32)


def made_up():
    """A 120 x 160 image with texture of several scales."""
    noise = np.random.default_rng(0)
    coarse = cv2.resize(noise.integers(0, 256, (8, 11, 3)).astype(np.uint8), (160, 120))
    return (coarse * 0.7 + noise.integers(0, 60, coarse.shape)).astype(np.uint8)


def sample(masks="bitmap", img=None):
    """A picture whose objects fill their boxes, with a label map and proposals."""
    img = made_up() if img is None else img
    height, width = img.shape[:2]
    boxes = BOXES * np.array([width / 160, height / 120] * 2, np.float32)
    boxes = boxes.round()
    seg = np.zeros((height, width), np.uint8)
    bitmaps = np.zeros((3, height, width), np.uint8)
    for number, (x1, y1, x2, y2) in enumerate(boxes.astype(int)):
        bitmaps[number, y1:y2, x1:x2] = 1
        seg[y1:y2, x1:x2] = number + 1
    outlines = [[np.array([a, b, c, b, c, d, a, d], np.float64)] for a, b, c, d in boxes]
    return {
        "img": img.copy(), "img_shape": (height, width), "ori_shape": (height, width), "gt_bboxes": boxes,
        "gt_bboxes_labels": np.array([1, 0, 2]), "gt_ignore_flags": np.array([False, True, False]),
        "gt_masks": (
            BitmapMasks(bitmaps, height, width)
            if masks == "bitmap"
            else PolygonMasks(outlines, height, width)
        ),
        "gt_seg_map": seg, "proposals": boxes + 1, "proposals_scores": np.ones(3, np.float32),
    }  # fmt: skip


def seeded(transform, results, seed=0):
    np.random.seed(seed)
    return transform(copy.deepcopy(results))


def place_of(changed, plain):
    """(x, y) of what two images differ in."""
    difference = np.abs(changed.astype(np.float64) - plain).sum(-1)
    ys, xs = np.mgrid[0 : difference.shape[0], 0 : difference.shape[1]]
    return np.array([(xs * difference).sum(), (ys * difference).sum()]) / difference.sum()


def check_points_follow(transform, img, seed):
    """Marks painted on the image are where the homography takes them, within a pixel."""
    given = sample(img=img)
    plain = seeded(transform, given, seed)
    matrix = plain["homography_matrix"]
    height, width = plain["img_shape"]
    followed = 0
    for x, y in ((0.3, 0.35), (0.5, 0.5), (0.7, 0.4), (0.45, 0.65)):
        x, y = int(x * img.shape[1]), int(y * img.shape[0])
        marked = copy.deepcopy(given)
        marked["img"][y - 3 : y + 4, x - 3 : x + 4] ^= 255
        expected = (matrix @ (x, y, 1))[:2]
        if not (8 < expected[0] < width - 8 and 8 < expected[1] < height - 8):
            continue
        found = place_of(seeded(transform, marked, seed)["img"], plain["img"])
        assert np.abs(found - expected).max() < 1, (found, expected)
        followed += 1
    assert followed >= 1


@pytest.mark.parametrize("kind", [*MOVING, GeomTransform])
def test_points_land_where_the_homography_says(kind):
    for seed in range(8):
        check_points_follow(kind(), made_up(), seed)


@pytest.mark.shared
@pytest.mark.parametrize("kind", MOVING)
def test_points_land_where_the_homography_says_on_photographs(kind, shared):
    found = sorted(Path(shared("data/coco_permissive/images")).rglob("*.jpg"))[:3]
    assert len(found) == 3
    for seed, path in enumerate(found):
        check_points_follow(kind(), cv2.imread(str(path)), seed)


@pytest.mark.parametrize("masks", ["bitmap", "polygon"])
@pytest.mark.parametrize("kind", MOVING)
def test_masks_label_map_and_proposals_follow_the_boxes(kind, masks):
    for seed in range(10):
        given = sample(masks)
        out = seeded(kind(), given, seed)
        matrix = out["homography_matrix"].astype(np.float64)
        assert out["gt_bboxes"].dtype == np.float32
        assert out["img"].shape == given["img"].shape
        assert (out["gt_masks"].height, out["gt_masks"].width) == out["img_shape"]
        # Bitmaps are warped by the centres of their pixels, boxes by corners: up to a pixel and a half apart.
        near = 1.6 if masks == "bitmap" else 1e-3
        for number, (x1, y1, x2, y2) in enumerate(given["gt_bboxes"]):
            corners = np.array([[x1, y1, 1], [x2, y1, 1], [x1, y2, 1], [x2, y2, 1]]) @ matrix.T
            low, high = corners.min(0)[:2], corners.max(0)[:2]
            box, mask = out["gt_bboxes"][number], out["gt_masks"].get_bboxes()[number]
            assert np.allclose(box, [*low.clip(0, (160, 120)), *high.clip(0, (160, 120))], atol=1e-3)
            if (low >= 0).all() and (high <= (160, 120)).all():
                assert np.abs(mask - box).max() <= near
            elif out["gt_masks"].areas[number]:  # what is left of an object may be less than its box
                assert (mask[:2] >= box[:2] - near).all()
                assert (mask[2:] <= box[2:] + near).all()
        bitmap = out["gt_masks"].to_ndarray()[1].astype(bool)  # the one that no other object covers later
        covered = bitmap & ~out["gt_masks"].to_ndarray()[2].astype(bool)
        assert (out["gt_seg_map"][covered] == 2).mean() > 0.95
        moved = seeded(kind(), {**given, "gt_bboxes": given["proposals"]}, seed)["gt_bboxes"]
        assert np.array_equal(out["proposals"], moved)


@pytest.mark.parametrize("kind", MOVING)
def test_a_broadcaster_moves_proposals_the_same_way(kind):
    given = sample()
    alone = seeded(kind(), given)
    wrapped = seeded(ProposalBroadcaster([kind()]), given)
    assert np.array_equal(alone["proposals"], wrapped["proposals"])


DIRECTIONS = [  # kind, level, where (80, 60), right of and below the middle of 101 x 81 pixels, goes
    (Rotate(level=10, max_mag=90.0, reversal_prob=1.0), (30, 70)),
    (Rotate(level=10, max_mag=90.0, reversal_prob=0.0), (70, 10)),
    (ShearX(level=10, max_mag=45.0, reversal_prob=1.0), (140, 60)),
    (ShearX(level=10, max_mag=45.0, reversal_prob=0.0), (20, 60)),
    (ShearY(level=10, max_mag=45.0, reversal_prob=1.0), (80, 140)),
    (ShearY(level=10, max_mag=45.0, reversal_prob=0.0), (80, -20)),
    (TranslateX(level=10, max_mag=0.2, reversal_prob=1.0), (100, 60)),
    (TranslateX(level=10, max_mag=0.2, reversal_prob=0.0), (60, 60)),
    (TranslateY(level=10, max_mag=0.2, reversal_prob=1.0), (80, 76)),
    (TranslateY(level=10, max_mag=0.2, reversal_prob=0.0), (80, 44)),
]


@pytest.mark.parametrize(("transform", "expected"), DIRECTIONS, ids=repr)
def test_directions(transform, expected):
    out = transform({"img": np.zeros((81, 101, 3), np.uint8)})
    assert np.allclose((out["homography_matrix"] @ (80, 60, 1))[:2], expected, atol=1e-3)


def test_translation_moves_pixels_as_they_are_and_fills_the_rest():
    given = sample()
    values = {"img_border_value": (10, 20, 30), "seg_ignore_label": 9}
    out = TranslateX(level=10, max_mag=0.2, reversal_prob=1.0, **values)(copy.deepcopy(given))
    assert np.array_equal(out["img"][:, 32:], given["img"][:, :-32])
    assert (out["img"][:, :32] == (10, 20, 30)).all()
    assert np.array_equal(out["gt_seg_map"][:, 32:], given["gt_seg_map"][:, :-32])
    assert (out["gt_seg_map"][:, :32] == 9).all()


def test_an_object_that_leaves_the_picture_is_clipped_and_dropped_by_the_filter():
    given = sample()
    out = TranslateX(level=10, max_mag=0.5, reversal_prob=0.0)(copy.deepcopy(given))
    assert out["gt_bboxes"][0].tolist() == [0, 22, 0, 61]  # 80 pixels to the left: it ended at 75
    assert out["gt_bboxes"][2].tolist() == [15, 28, 50, 50]
    assert len(out["gt_masks"]) == len(out["gt_bboxes_labels"]) == 3
    kept = FilterAnnotations(min_gt_bbox_wh=(1e-2, 1e-2))(out)
    assert kept["gt_bboxes_labels"].tolist() == [0, 2]
    assert len(kept["gt_masks"]) == 2


def test_changes_are_chained():
    given = sample()
    first = seeded(Rotate(level=5), given)
    second = seeded(ShearY(level=5), first, seed=1)
    alone = seeded(ShearY(level=5), given, seed=1)
    expected = alone["homography_matrix"] @ first["homography_matrix"]
    assert np.allclose(second["homography_matrix"], expected, atol=1e-4)


def test_rotating_polygons_loses_no_area():
    given = sample("polygon")
    given["gt_masks"] = given["gt_masks"][[1]]
    given = {key: given[key] for key in ("img", "img_shape", "gt_masks")}
    for level in (1, 4, 8):
        out = Rotate(level=level)(copy.deepcopy(given))
        assert np.allclose(out["gt_masks"].areas, given["gt_masks"].areas)


@pytest.mark.parametrize("kind", MOVING)
def test_one_seed_gives_one_result_and_another_seed_another(kind):
    given = sample()
    once, twice = seeded(kind(), given), seeded(kind(), given)
    assert np.array_equal(once["img"], twice["img"])
    assert np.array_equal(once["gt_bboxes"], twice["gt_bboxes"])
    several = {seeded(kind(), given, seed)["homography_matrix"].tobytes() for seed in range(20)}
    # Shares of the side are rounded to tenths: none, one to the left, one to the right.
    assert len(several) >= (3 if kind in (TranslateX, TranslateY) else 15)


@pytest.mark.parametrize("kind", [*MOVING, GeomTransform])
def test_images_without_objects_or_annotations_pass(kind):
    empty = sample()
    for key in ("gt_bboxes", "gt_bboxes_labels", "gt_ignore_flags", "gt_masks"):
        empty[key] = empty[key][:0]
    out = seeded(kind(), empty)
    assert out["gt_bboxes"].shape == (0, 4)
    assert out["gt_bboxes"].dtype == np.float32
    assert len(out["gt_masks"]) == 0
    bare = seeded(kind(), {"img": made_up()})
    assert bare.keys() == {"img", "homography_matrix"}
    assert seeded(kind(prob=0.0), {"img": made_up()}).keys() == {"img"}


@pytest.mark.parametrize("kind", MOVING)
@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 1), (1, 1, 3), (20, 30, 4)], ids=str)
def test_grey_images_and_single_pixels_keep_their_shape(kind, shape):
    out = seeded(kind(), {"img": np.full(shape, 9, np.uint8)})
    assert out["img"].shape == shape


class Mirrored(GeomTransform):
    """One of a user's own, as it is written for MMDetection."""

    def _get_homography_matrix(self, results, mag):
        return np.array([[-1, 0, results["img_shape"][1] - 1], [0, 1, 0], [0, 0, 1]], np.float32)

    def _transform_seg(self, results, mag):
        results["gt_seg_map"] = results["gt_seg_map"][:, ::-1].copy()


def test_classes_of_users_override_what_they_did():
    given = sample()
    out = Mirrored()(copy.deepcopy(given))
    assert np.array_equal(out["img"], given["img"][:, ::-1])
    assert np.array_equal(out["gt_masks"].masks, given["gt_masks"].masks[:, :, ::-1])
    assert np.array_equal(out["gt_seg_map"], given["gt_seg_map"][:, ::-1])
    assert out["gt_bboxes"][0].tolist() == [84, 22, 129, 61]


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "area", "lanczos"])
def test_every_interpolation_is_accepted_and_the_label_map_keeps_its_labels(interpolation):
    out = seeded(Rotate(level=7, interpolation=interpolation), sample())
    assert set(np.unique(out["gt_seg_map"])) <= {0, 1, 2, 3, 255}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rotate(prob=-0.1), "Rotate: prob"),
        (lambda: Rotate(level=12), "Rotate: level must be a whole number from 0 to 10"),
        (lambda: Rotate(max_mag=200.0), "Rotate: 0.0 <= min_mag <= max_mag <= 180.0"),
        (lambda: ShearX(max_mag=91.0), "ShearX: .*90.0"),
        (lambda: ShearY(min_mag=40.0), "ShearY: .*got min_mag=40.0, max_mag=30.0"),
        (lambda: TranslateX(max_mag=1.1), "TranslateX: .*1.0"),
        (lambda: TranslateY(reversal_prob=2.0), r"TranslateY: reversal_prob must lie in \[0, 1\], got 2.0"),
        (lambda: Rotate(img_border_value=300), "Rotate: img_border_value must be a number from 0 to 255"),
        (lambda: Rotate(img_border_value=()), "Rotate: img_border_value"),
        (lambda: Rotate(interpolation="cubic"), "interpolation='cubic', expected one of nearest"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_does_not_fit_the_sample_is_named():
    with pytest.raises(ValueError, match=r"Rotate: img_border_value=.* has 3 values.*1 channel"):
        Rotate(img_border_value=(1, 2, 3))({"img": np.zeros((4, 5), np.uint8)})
    with pytest.raises(ValueError, match="border_value must be 0"):
        Rotate(mask_border_value=1)(sample("polygon"))
    with pytest.raises(ValueError, match=r"at most 4 channels .* \(4, 5, 6\)"):
        Rotate()({"img": np.zeros((4, 5, 6), np.uint8)})
