import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from detcore.structures.mask import BitmapMasks, PolygonMasks, polygon_to_bitmap

# pycocotools' decoder has not learnt numpy 2's copy argument yet.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

BOXES = np.array([[10, 12, 70, 60], [50.5, 40.25, 120, 110], [100, 5, 155, 45]], np.float32)
H, W = 120, 160


def ellipses():
    """The same three ellipses as bitmaps and as polygons."""
    ys, xs = np.mgrid[0:H, 0:W]
    bitmaps, polygons = [], []
    t = np.linspace(0, 2 * np.pi, 65)[:-1]
    for x1, y1, x2, y2 in BOXES.astype(float):
        cx, cy, rx, ry = (x1 + x2) / 2, (y1 + y2) / 2, (x2 - x1) / 2, (y2 - y1) / 2
        bitmaps.append((((xs - cx) / rx) ** 2 + ((ys - cy) / ry) ** 2 <= 1).astype(np.uint8))
        polygons.append([np.stack([cx + rx * np.cos(t), cy + ry * np.sin(t)], 1).reshape(-1)])
    return BitmapMasks(bitmaps, H, W), PolygonMasks(polygons, H, W)


OPERATIONS = {
    "resize": lambda m: m.resize((90, 100)),
    "rescale": lambda m: m.rescale((100, 64)),
    "rescale by factor": lambda m: m.rescale(0.5),
    "flip": lambda m: m.flip(),
    "flip vertical": lambda m: m.flip("vertical"),
    "flip diagonal": lambda m: m.flip("diagonal"),
    "pad": lambda m: m.pad((150, 170)),
    "crop": lambda m: m.crop(np.array([30, 30, 110, 100])),
    "expand": lambda m: m.expand(200, 300, 30, 40),
    "translate right": lambda m: m.translate((H, W), 40),
    "translate up": lambda m: m.translate((H, W), -30, "vertical"),
    "shear": lambda m: m.shear((H, W), 0.3),
    "shear vertical": lambda m: m.shear((H, W), -0.2, "vertical"),
    "rotate": lambda m: m.rotate((H, W), 30),
    "rotate back": lambda m: m.rotate((H, W), -25, scale=0.8),
    "rotate about a corner": lambda m: m.rotate((H, W), 10, center=(0, 0)),
    "crop_and_resize": lambda m: m.crop_and_resize(BOXES + 4, (56, 56), np.array([0, 1, 2])),
    "index": lambda m: m[[2, 0]],
    "cat": lambda m: type(m).cat([m, m[1:]]),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_bitmaps_and_polygons_agree_after_every_operation(name):
    bitmap, polygon = (OPERATIONS[name](m) for m in ellipses())
    assert (bitmap.height, bitmap.width, len(bitmap)) == (polygon.height, polygon.width, len(polygon))
    filled = polygon.to_bitmap()
    for one, other in zip(bitmap, filled, strict=True):
        # Borders differ by half a pixel: how samples are centred is not the same for the two.
        border = 4 * (bitmap.height + bitmap.width) ** 0.5 + 0.07 * one.sum()
        assert np.count_nonzero(one != other) <= border
    assert np.allclose(bitmap.areas, polygon.areas, rtol=0.06, atol=30)


@pytest.mark.parametrize("angle", range(-180, 181, 30))
def test_rotated_polygons_keep_their_area(angle):
    square = np.array([60, 40, 100, 40, 100, 80, 60, 80], float)
    turned = PolygonMasks([[square]], H, W).rotate((H, W), angle)
    assert turned.areas == pytest.approx([1600])


def test_polygons_are_cut_where_the_image_ends_not_squeezed_into_it():
    # A rotated square of which a corner leaves the image: what stays inside stays as it is.
    square = np.array([0, 0, 40, 0, 40, 40, 0, 40], float)
    turned = PolygonMasks([[square]], 100, 100).rotate((100, 100), 45, center=(0, 0))
    half_diagonal = 40 / 2**0.5
    assert turned.areas == pytest.approx([half_diagonal**2], rel=1e-6)
    assert turned.get_bboxes()[0].tolist() == pytest.approx([0, 0, half_diagonal, 2 * half_diagonal])


def test_flipping_twice_gives_the_same_masks():
    for masks in ellipses():
        for direction in ("horizontal", "vertical", "diagonal"):
            twice = masks.flip(direction).flip(direction)
            assert np.array_equal(twice.to_ndarray(), masks.to_ndarray())


def test_operations_leave_the_original_alone():
    for masks in ellipses():
        before = masks.to_ndarray().copy()
        for operation in OPERATIONS.values():
            operation(masks)
        assert np.array_equal(masks.to_ndarray(), before)


def test_boxes_and_areas():
    bitmap, polygon = ellipses()
    assert np.abs(bitmap.get_bboxes() - BOXES).max() <= 1.5
    assert np.abs(polygon.get_bboxes() - BOXES).max() < 0.5
    expected = np.pi / 4 * (BOXES[:, 2] - BOXES[:, 0]) * (BOXES[:, 3] - BOXES[:, 1])
    assert np.allclose(bitmap.areas, expected, rtol=0.02)
    assert np.allclose(polygon.areas, expected, rtol=0.02)
    block = np.zeros((1, 8, 9), np.uint8)
    block[0, 2:5, 3:7] = 1
    assert BitmapMasks(block, 8, 9).get_bboxes().tolist() == [[3, 2, 7, 5]]
    assert BitmapMasks(np.zeros((1, 8, 9)), 8, 9).get_bboxes().tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize("kind", [BitmapMasks, PolygonMasks])
@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - {"index", "crop_and_resize"}))
def test_no_masks_stay_no_masks(kind, name):
    result = OPERATIONS[name](kind([], H, W))
    assert len(result) == 0
    assert result.to_ndarray().shape == (0, result.height, result.width)
    assert result.areas.shape == (0,)
    assert result.get_bboxes().shape == (0, 4)
    assert result.to_tensor(torch.uint8, "cpu").shape == (0, result.height, result.width)


@pytest.mark.parametrize("kind", [BitmapMasks, PolygonMasks])
def test_targets_of_no_boxes_are_empty(kind):
    targets = kind.random(3, 32, 32).crop_and_resize(np.zeros((0, 4)), (14, 14), np.zeros(0, int))
    assert targets.to_ndarray().shape == (0, 14, 14)


def test_instances_that_leave_the_crop_keep_their_place():
    for masks in ellipses():
        cropped = masks.crop(np.array([0, 70, 40, 120]))
        assert len(cropped) == 3
        assert cropped.areas[2] == 0


def test_a_crop_is_at_least_one_pixel():
    for masks in ellipses():
        cropped = masks.crop(np.array([160, 120, 160, 120]))
        assert (cropped.height, cropped.width) == (1, 1)
        assert cropped.to_ndarray().shape == (3, 1, 1)


def test_indexing_by_every_kind_of_index():
    for masks in ellipses():
        assert len(masks[0]) == 1
        assert len(masks[1:]) == 2
        for index in (torch.tensor([True, False, True]), np.array([0, 2]), torch.tensor([0, 2]), [0, -1]):
            assert np.array_equal(masks[index].areas, masks.areas[[0, 2]])
        assert len(masks[torch.zeros(3, dtype=torch.bool)]) == 0
        with pytest.raises(IndexError, match="out of range for 3"):
            masks[3]
        with pytest.raises(IndexError, match="length 2 does not fit 3"):
            masks[np.array([True, False])]
        with pytest.raises(TypeError, match="integers or booleans"):
            masks[np.array([0.5])]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: BitmapMasks(np.zeros((2, 3, 4)), 4, 4), ValueError, r"\(N, 4, 4\), got shape \(2, 3, 4\)"),
        (lambda: BitmapMasks([], -1, 4), ValueError, "height -1"),
        (lambda: PolygonMasks(np.zeros(6), 4, 4), TypeError, "list of lists"),
        (lambda: PolygonMasks([np.zeros(6)], 4, 4), TypeError, r"masks\[0\] must be a list of polygons"),
        (lambda: PolygonMasks([[np.zeros(4)]], 4, 4), ValueError, "at least 3 points"),
        (lambda: PolygonMasks([[np.zeros(7)]], 4, 4), ValueError, "x, y, x, y"),
        (lambda: BitmapMasks.random().flip("sideways"), ValueError, "'sideways'"),
        (lambda: PolygonMasks.random().shear((9, 9), 1, "up"), ValueError, "'up'"),
        (lambda: BitmapMasks.random().pad((4, 4)), ValueError, "cannot be padded"),
        (lambda: BitmapMasks.random().expand(40, 40, 10, 0), ValueError, "do not fit"),
        (lambda: PolygonMasks.random().expand(40, 40, -1, 0), ValueError, "do not fit"),
        (lambda: BitmapMasks.random().crop(np.zeros((1, 4))), ValueError, r"\(4,\) xyxy"),
        (lambda: BitmapMasks.random().rescale(0), ValueError, "positive"),
        (lambda: BitmapMasks.random().get_bboxes("rbox"), ValueError, "'hbox'"),
        (lambda: BitmapMasks.cat([]), ValueError, "at least one"),
        (lambda: PolygonMasks.cat([PolygonMasks([], 3, 4), PolygonMasks([], 4, 3)]), ValueError, "one size"),
    ],
)
def test_wrong_arguments_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@settings(max_examples=40, deadline=None)
@example([(7.0, 0.0), (16.0, 18.0), (0.0, 0.0), (0.0, 18.0)], (0, 0, 21, 21))  # crosses itself: net area 0
@given(
    st.lists(st.tuples(st.floats(-20, 60), st.floats(-20, 60)), min_size=3, max_size=9),
    st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(21, 40), st.integers(21, 40)),
)
def test_cropping_a_filled_polygon_equals_filling_the_cropped_polygon(points, box):
    polygon = np.array(points, float).reshape(-1)
    x1, y1, x2, y2 = box
    whole = polygon_to_bitmap([polygon], 40, 40)[y1:y2, x1:x2]
    cropped = PolygonMasks([[polygon]], 40, 40).crop(np.array(box)).to_ndarray()[0]
    # A cut may move the rounding of the edges that it shortens.
    assert np.count_nonzero(whole != cropped) <= (x2 - x1) + (y2 - y1)


def test_soft_targets_are_fractions():
    targets = ellipses()[0].crop_and_resize(BOXES, (7, 7), [0, 1, 2], binarize=False).masks
    assert targets.dtype == np.float32
    assert ((targets > 0) & (targets < 1)).any()


TAN_21 = 0.383864  # what the reference shears by at level 7
REFERENCE = [  # areas of MMDetection 3.3.0 after the operation: of bitmaps, of polygons
    ("resize", lambda m: m.resize((160, 213)), [3996, 6758, 3070], [3912.6, 6585.6, 2988.8]),
    ("resize down", lambda m: m.resize((64, 85)), [644, 1078, 484], [624.5, 1051.2, 477.1]),
    ("flip", lambda m: m.flip("diagonal"), [2253, 3803, 1724], [2204.3, 3710.2, 1683.8]),
    ("shear x", lambda m: m.shear((H, W), -TAN_21), [2176, 3803, 1724], [2116.2, 3710.2, 1683.8]),
    ("shear y", lambda m: m.shear((H, W), -TAN_21, "vertical"), [2134, 3803, 0], [2066.5, 3710.2, 0]),
    ("translate x", lambda m: m.translate((H, W), -16), [2151, 3803, 1724], [2086.1, 3710.2, 1683.8]),
    ("translate y", lambda m: m.translate((H, W), -12, "vertical"), [2253, 3803, 1544], [2204, 3710, 1486]),
    ("rotate 15", lambda m: m.rotate((H, W), -15), [2253, 3806, 1554], None),
    ("rotate 30", lambda m: m.rotate((H, W), -30), [2250, 3802, 1162], None),
    ("rotate back", lambda m: m.rotate((H, W), 24), [2213, 3804, 1657], None),
]


@pytest.mark.parametrize(("name", "operation", "of_bitmaps", "of_polygons"), REFERENCE)
def test_areas_are_those_of_the_reference(name, operation, of_bitmaps, of_polygons):
    bitmaps, _ = ellipses()
    of_16_corners = [[p.reshape(-1, 2)[::4].reshape(-1)] for [p] in ellipses()[1]]
    polygons = PolygonMasks(of_16_corners, H, W)
    assert operation(bitmaps).areas.tolist() == of_bitmaps
    # It moves points to the border instead of cutting there, and loses polygons when it rotates.
    want = of_polygons or operation(polygons.to_bitmap()).areas
    assert operation(polygons).areas == pytest.approx(want, rel=0.03, abs=12)
