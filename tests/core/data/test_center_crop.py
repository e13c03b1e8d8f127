"""RandomCenterCropPad: windows around a drawn centre in training, padding on all sides in testing."""
import cv2
import numpy as np
import pytest

from detcore.data.pack import PackDetInputs
from detcore.data.transforms.center_crop import RandomCenterCropPad, _inner_border
from detcore.structures.mask import BitmapMasks, PolygonMasks

NORM = {"mean": [1, 2, 3], "std": [1, 1, 1], "to_rgb": True}
TRAIN = {**NORM, "crop_size": (64, 50), "ratios": (0.6, 0.9, 1.0, 1.3), "border": 40, "test_pad_mode": None}
TEST = {**NORM, "crop_size": None, "ratios": None, "border": None, "test_mode": True}


def made_up(seed, height, width, count):
    """A smooth image with boxes that follow from a seed."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3)).astype(np.uint8)
    corners = random.uniform(0, 1, (count, 4)) * [width, height, width, height]
    first, second = corners[:, :2], corners[:, 2:]
    boxes = np.concatenate([np.minimum(first, second), np.maximum(first, second)], 1).astype(np.float32)
    return {
        "img": cv2.resize(coarse, (width, height)), "img_shape": (height, width), "gt_bboxes": boxes,
        "gt_bboxes_labels": random.integers(0, 9, count), "gt_ignore_flags": np.zeros(count, bool),
    }


def stream(count):
    return [made_up(i, 60 + 13 * i % 90, 70 + 29 * i % 120, i % 4) for i in range(count)]


def full(polygons=False):
    """A picture of 60 x 80 with two objects that fill their boxes, a label map and proposals."""
    sample = made_up(0, 60, 80, 0)
    boxes = np.array([[10, 8, 30, 22], [50, 40, 80, 60]], np.float32)
    bitmaps, seg = np.zeros((2, 60, 80), np.uint8), np.zeros((60, 80), np.uint8)
    for number, (x1, y1, x2, y2) in enumerate(boxes.astype(int)):
        bitmaps[number, y1:y2, x1:x2] = 1
        seg[y1:y2, x1:x2] = number + 1
    outlines = [[np.array([a, b, c, b, c, d, a, d], np.float64)] for a, b, c, d in boxes]
    return {
        **sample, "gt_bboxes": boxes, "gt_bboxes_labels": np.array([4, 7]),
        "gt_ignore_flags": np.array([False, True]), "gt_seg_map": seg,
        "gt_masks": PolygonMasks(outlines, 60, 80) if polygons else BitmapMasks(bitmaps, 60, 80),
        "proposals": boxes.copy(), "proposals_scores": np.ones(2, np.float32),
    }


# Of images 0 to 11, from the reference's own transform under the same seed.
SHAPES = [
    (50, 64), (30, 38), (45, 57), (65, 83), (45, 57), (65, 83),
    (50, 64), (65, 83), (50, 64), (45, 57), (30, 38), (65, 83),
]
PIXELS = [
    1122848, 477481, 936303, 1930545, 963201, 1988498, 1226743, 1746855, 1183507, 964418, 436299,
    1982414,
]
BOXES = [
    0.0, 59.93, 108.83, 423.94, 0.0, 101.28, 143.94, 302.17, 0.0, 106.87, 99.67, 204.26,
]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_windows_equal_those_recorded_from_the_reference(dtype):
    transform = RandomCenterCropPad(**TRAIN)
    np.random.seed(3)
    out = [transform({**sample, "img": sample["img"].astype(dtype)}) for sample in stream(12)]
    assert [each["img"].shape[:2] for each in out] == [each["img_shape"] for each in out] == SHAPES
    assert [int(each["img"].astype(float).sum()) for each in out] == PIXELS
    assert [float(each["gt_bboxes"].sum()) for each in out] == pytest.approx(BOXES, abs=0.01)
    assert all(each["img"].dtype == dtype for each in out)


@pytest.mark.parametrize("polygons", [False, True])
def test_everything_moves_together(polygons):
    transform = RandomCenterCropPad(**TRAIN)
    np.random.seed(0)
    seen = set()
    for _ in range(60):
        out = transform(full(polygons))
        height, width = out["img_shape"]
        assert out["img"].shape[:2] == out["gt_seg_map"].shape == (height, width)
        assert len(out["gt_bboxes"]) == len(out["gt_masks"]) == len(out["gt_ignore_flags"]) >= 1
        right, down = out["homography_matrix"][:2, 2]
        for box, label, mask in zip(
            out["gt_bboxes"], out["gt_bboxes_labels"], out["gt_masks"].to_ndarray(), strict=True
        ):
            seen.add(int(label))
            whole = full()["gt_bboxes"][{4: 0, 7: 1}[int(label)]] + [right, down, right, down]
            assert box.tolist() == whole.clip(0, [width, height] * 2).tolist()
            rows, columns = np.nonzero(mask)
            found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert np.abs(found - box).max() <= 1  # an odd canvas is filled but for its last pixel
            number = {4: 1, 7: 2}[int(label)]
            assert np.mean((out["gt_seg_map"] == number) != mask) < 0.02
        assert len(out["proposals"]) == len(out["proposals_scores"])
    assert seen == {4, 7}


def test_the_canvas_has_the_mean_s_colour_and_a_label_that_is_not_learned():
    transform = RandomCenterCropPad(**{**TRAIN, "crop_size": (300, 300), "ratios": (1.0,)})
    np.random.seed(0)
    out = transform(full())
    assert out["img"][0, 0].tolist() == [3, 2, 1]
    assert out["gt_seg_map"][0, 0] == 255
    plain = RandomCenterCropPad(**{**TRAIN, "to_rgb": False, "crop_size": (300, 300)})(full())
    assert plain["img"][0, 0].tolist() == [1, 2, 3]


def test_a_picture_without_objects_gives_any_window_and_one_whose_objects_are_out_of_reach_none():
    transform = RandomCenterCropPad(**{**TRAIN, "crop_size": (20, 20), "ratios": (1.0,), "border": 28})
    np.random.seed(0)
    assert transform({**made_up(0, 60, 80, 0)})["img"].shape == (20, 20, 3)
    assert transform({"img": made_up(0, 60, 80, 0)["img"]})["img"].shape == (20, 20, 3)
    corner = {**made_up(0, 60, 80, 1), "gt_bboxes": np.array([[0, 0, 4, 4]], np.float32)}
    assert transform(corner) is None


@pytest.mark.parametrize(("mode", "extra", "shape"), [
    (("logical_or", 127), 0, (127, 127)), (["logical_or", 31], 1, (64, 96)),
    (("size_divisor", 32), 0, (64, 96)), (("size_divisor", 7), 0, (63, 84)),
])  # fmt: skip
def test_testing_pads_on_all_sides_and_says_where_the_picture_lies(mode, extra, shape):
    out = RandomCenterCropPad(**TEST, test_pad_mode=mode, test_pad_add_pix=extra)(full())
    assert out["img"].shape[:2] == out["img_shape"] == shape
    top, bottom, left, right = out["border"].astype(int).tolist()
    assert out["border"].dtype == np.float32
    assert (top, left) == (shape[0] // 2 - 30, shape[1] // 2 - 40)
    assert np.array_equal(out["img"][top:bottom, left:right], full()["img"])
    assert out["homography_matrix"][:2, 2].tolist() == [left, top]
    assert (out["gt_bboxes"] - full()["gt_bboxes"]).tolist() == [[left, top, left, top]] * 2
    packed = PackDetInputs(("img_shape", "border"))(out)["data_samples"]
    assert packed.border.tolist() == [top, bottom, left, right]


def test_a_single_pixel_is_padded_like_any_picture():
    pixel = np.full((1, 1, 3), 9, np.uint8)
    out = RandomCenterCropPad(**TEST)({"img": pixel})
    assert out["img"].shape == (127, 127, 3)
    assert (out["img"] == 9).all(-1).sum() == 1
    assert RandomCenterCropPad(**TRAIN)({"img": pixel})["img"].shape[2] == 3


def test_the_border_is_halved_until_a_centre_is_left():
    assert [_inner_border(128, side) for side in (1000, 257, 256, 200, 60, 1)] == [128, 128, 64, 64, 16, 0]
    assert _inner_border(0, 50) == 0
    assert all(side - 2 * _inner_border(100, side) > 0 for side in range(1, 500))


@pytest.mark.parametrize(("arguments", "message"), [
    ({**TRAIN, "mean": None}, "give mean, std and to_rgb"),
    ({**TRAIN, "crop_size": None}, "crop_size must be a positive .width, height. unless test_mode"),
    ({**TRAIN, "crop_size": (0, 9)}, "crop_size must be a positive"),
    ({**TRAIN, "ratios": (0.001,)}, "ratios must be factors that leave pixels"),
    ({**TRAIN, "border": None}, "border must be a number of pixels"),
    ({**TRAIN, "test_pad_mode": ("logical_or", 127)}, "test_pad_mode is for test_mode=True"),
    ({**TEST, "ratios": (1.0,)}, "must be None, got .'ratios': .1.0,.."),
    ({**TEST, "test_pad_mode": ("logical_and", 3)}, "test_pad_mode must be one of logical_or, size_divisor"),
    ({**TEST, "test_pad_mode": ("size_divisor", 0)}, "with a number above 1"),
    ({**TRAIN, "mean": [1, 2, 300]}, "mean must be a number from 0 to 255"),
])  # fmt: skip
def test_arguments_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RandomCenterCropPad(**arguments)


def test_a_mean_for_other_channels_is_refused():
    with pytest.raises(ValueError, match=r"RandomCenterCropPad: mean=.* has 3 values, but the image has 1"):
        RandomCenterCropPad(**TEST)({"img": np.zeros((5, 6), np.uint8)})
