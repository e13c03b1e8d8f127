"""CopyPaste: which pixels, boxes and masks come from where, and what is covered too far to stay."""
import cv2
import numpy as np
import pytest

from detcore.data import build_dataloader
from detcore.data.transforms.copy_paste import CopyPaste
from detcore.errors import DataError
from detcore.structures.mask import BitmapMasks, PolygonMasks


def plain(value, *boxes, size=(40, 30), polygons=False):
    """An image (w, h) of one value with boxes, labelled ``value``, and masks that fill the boxes."""
    width, height = size
    masks = np.zeros((len(boxes), height, width), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[max(y1, 0) : y2, max(x1, 0) : x2] = 1
    outlines = [[np.array([a, b, c, b, c, d, a, d], np.float64)] for a, b, c, d in boxes]
    return {
        "img": np.full((height, width, 3), value, np.uint8), "img_shape": (height, width),
        "gt_bboxes": np.array(boxes, np.float32).reshape(-1, 4),
        "gt_bboxes_labels": np.full(len(boxes), value, np.int64),
        "gt_ignore_flags": np.zeros(len(boxes), bool),
        "gt_masks": PolygonMasks(outlines, height, width) if polygons else BitmapMasks(masks, height, width),
        "homography_matrix": np.eye(3, dtype=np.float32),
    }


def without_masks(sample):
    return {key: value for key, value in sample.items() if key != "gt_masks"}


def pasted(transform, first, *others, seed=0):
    np.random.seed(seed)
    return transform({**first, "mix_results": list(others)})


ALL = {"selected": False, "bbox_occluded_thr": 2, "mask_occluded_thr": 60}


@pytest.mark.parametrize("polygons", [False, True])
def test_objects_are_pasted_where_they_are_and_cover_what_lies_there(polygons):
    first = plain(10, (2, 2, 12, 12), (20, 10, 30, 20), polygons=polygons)
    other = plain(99, (6, 2, 12, 12), (25, 25, 35, 28), polygons=polygons)
    out = pasted(CopyPaste(**{**ALL, "mask_occluded_thr": 30}), first, other)
    assert out["gt_bboxes"].tolist() == [[2, 2, 6, 12], [20, 10, 30, 20], [6, 2, 12, 12], [25, 25, 35, 28]]
    assert out["gt_bboxes_labels"].tolist() == [10, 10, 99, 99]
    assert out["gt_masks"].areas.tolist() == [40, 100, 60, 30]
    assert out["gt_masks"].get_bboxes().tolist() == out["gt_bboxes"].tolist()
    covered = out["gt_masks"].to_ndarray()[2:].any(0)
    assert np.array_equal(out["img"][..., 0], np.where(covered, 99, 10))
    assert out["img"].dtype == np.uint8
    assert (first["img"] == 10).all()  # a new image
    assert "homography_matrix" not in out


def test_an_object_is_dropped_where_its_box_changed_and_too_little_of_the_mask_is_left():
    first = plain(10, (0, 0, 10, 10), (20, 10, 30, 20), (20, 10, 22, 12))
    out = pasted(CopyPaste(**ALL), first, plain(99, (3, 0, 10, 10), (20, 16, 30, 20)))
    # Of the first 30 pixels of 100 are left; of the second 60, its box being 4 lower; the third is whole.
    assert out["gt_bboxes"].tolist() == [[20, 10, 22, 12], [3, 0, 10, 10], [20, 16, 30, 20]]
    assert len(out["gt_masks"]) == len(out["gt_bboxes_labels"]) == len(out["gt_ignore_flags"]) == 3
    near = pasted(CopyPaste(**{**ALL, "bbox_occluded_thr": 4}), first, plain(99, (20, 16, 30, 20)))
    assert near["gt_bboxes"].tolist()[1] == [20, 10, 30, 16]
    gone = pasted(CopyPaste(**ALL), plain(10, (5, 5, 9, 9)), plain(99, (0, 0, 40, 30)))
    assert gone["gt_bboxes_labels"].tolist() == [99]


def test_how_many_are_pasted_is_drawn_up_to_the_limit():
    other = plain(99, *[(4 * i, 0, 4 * i + 3, 3) for i in range(8)])
    few = CopyPaste(max_num_pasted=3)
    numbers = [len(pasted(few, plain(10), other, seed=seed)["gt_bboxes"]) for seed in range(60)]
    assert set(numbers) == {0, 1, 2, 3}
    chosen = {
        tuple(box) for seed in range(60)
        for box in pasted(CopyPaste(), plain(10), other, seed=seed)["gt_bboxes"].tolist()
    }  # fmt: skip
    assert len(chosen) == 8


def test_images_without_objects():
    first, empty = plain(10, (2, 2, 12, 12)), plain(99)
    assert pasted(CopyPaste(), first, empty)["img"] is first["img"]
    out = pasted(CopyPaste(**ALL), empty, first)
    assert out["gt_bboxes"].tolist() == [[2, 2, 12, 12]]
    assert len(pasted(CopyPaste(), empty, empty)["gt_bboxes"]) == 0


def test_boxes_stand_for_masks_where_asked_for():
    first, other = plain(10, (0, 0, 10, 10)), plain(99, (-4, 5, 6, 50))
    out = pasted(CopyPaste(**ALL, paste_by_box=True), without_masks(first), without_masks(other))
    assert out["gt_bboxes"].tolist() == [[0, 0, 10, 10], [-4, 5, 6, 50]]
    assert out["gt_masks"].areas.tolist() == [70, 6 * 25]
    assert (out["img"][5:, :6] == 99).all()
    with pytest.raises(DataError, match=r"has no masks; load them .with_mask=True., or .* paste_by_box=True"):
        pasted(CopyPaste(**ALL), without_masks(first), other)
    kept = pasted(CopyPaste(**ALL, paste_by_box=True), first, plain(99, (0, 0, 2, 2)))
    assert kept["gt_masks"].areas.tolist() == [96, 4]


def test_an_object_without_a_mask_stays_and_is_not_pasted():
    first, other = plain(10, (0, 0, 30, 30), (1, 1, 9, 9)), plain(99, (0, 0, 40, 30), (12, 12, 14, 14))
    for sample in (first, other):
        sample["gt_masks"].masks[0] = 0
        sample["gt_ignore_flags"][0] = True
    out = pasted(CopyPaste(**ALL), first, other)
    assert out["gt_bboxes"].tolist() == [[0, 0, 30, 30], [1, 1, 9, 9], [12, 12, 14, 14]]
    assert out["gt_ignore_flags"].tolist() == [True, False, False]
    assert (out["img"] == 99).all(-1).sum() == 4


def test_a_pixel_can_be_pasted():
    out = pasted(CopyPaste(**ALL), plain(10, (0, 0, 40, 30)), plain(99, (7, 5, 8, 6)))
    assert out["gt_bboxes"].tolist() == [[0, 0, 40, 30], [7, 5, 8, 6]]
    assert np.argwhere(out["img"][..., 0] == 99).tolist() == [[5, 7]]


def made_up(seed, height, width, count):
    """A smooth image with boxes and masks that fill them, following from a seed."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3)).astype(np.uint8)
    corners = random.uniform(0, 1, (count, 4)) * [width, height, width, height]
    first, second = corners[:, :2], corners[:, 2:]
    boxes = np.concatenate([np.minimum(first, second), np.maximum(first, second)], 1).astype(np.float32)
    masks = np.zeros((count, height, width), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int), strict=True):
        mask[y1 : y2 + 1, x1 : x2 + 1] = 1
    return {
        "img": cv2.resize(coarse, (width, height)), "img_shape": (height, width), "gt_bboxes": boxes,
        "gt_bboxes_labels": random.integers(0, 9, count), "gt_ignore_flags": np.zeros(count, bool),
        "gt_masks": BitmapMasks(masks, height, width),
    }


# Of twenty images each, from the reference's own transform under the same seed: the sums of all pixels, of
# all corners and of all masks.
RECORDED = [
    ({}, 82_810_619, 18601.91, 102_750),
    ({"selected": False}, 82_812_676, 26342.90, 144_242),
    ({"mask_occluded_thr": 10, "bbox_occluded_thr": 2}, 82_810_619, 19593.91, 103_396),
]


@pytest.mark.parametrize(("arguments", "pixels", "boxes", "masks"), RECORDED)
def test_results_equal_those_recorded_from_the_reference(arguments, pixels, boxes, masks):
    transform = CopyPaste(**arguments)
    np.random.seed(3)
    pairs = [(made_up(i, 90, 120, 3), made_up(100 + i, 90, 120, 4)) for i in range(20)]
    out = [transform({**first, "mix_results": [other]}) for first, other in pairs]
    assert sum(int(each["img"].astype(int).sum()) for each in out) == pixels
    assert sum(float(each["gt_bboxes"].sum()) for each in out) == pytest.approx(boxes, abs=0.1)
    assert sum(int(each["gt_masks"].areas.sum()) for each in out) == masks


@pytest.mark.parametrize(("make", "message"), [
    (lambda: CopyPaste(max_num_pasted=0), "max_num_pasted must be at least 1"),
    (lambda: CopyPaste(bbox_occluded_thr=-1), "must not be negative"),
    (lambda: CopyPaste(mask_occluded_thr=-1), "must not be negative"),
])  # fmt: skip
def test_arguments_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_images_that_do_not_fit_are_refused():
    first = plain(10, (2, 2, 12, 12))
    with pytest.raises(DataError, match=r"one size and type, got \(30, 40, 3\) .* and \(30, 50, 3\)"):
        pasted(CopyPaste(), first, plain(99, (1, 1, 4, 4), size=(50, 30)))
    with pytest.raises(DataError, match="CopyPaste needs 1 more image"):
        pasted(CopyPaste(), first)
    with pytest.raises(DataError, match="no label maps"):
        pasted(CopyPaste(), {**first, "gt_seg_map": np.zeros((30, 40))}, first)


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(tiny_cfg, workers):
    load = [
        {"type": "LoadImageFromFile"}, {"type": "LoadAnnotations", "with_bbox": True},
        {"type": "RandomResize", "scale": (48, 48), "ratio_range": (0.5, 2.0), "keep_ratio": True},
        {"type": "RandomCrop", "crop_size": (48, 48), "allow_negative_crop": True},
        {"type": "Pad", "size": (48, 48)},
    ]
    pipeline = [{"type": "CopyPaste", "paste_by_box": True}, {"type": "PackDetInputs"}]
    dataset = {"type": "MultiImageMixDataset", "dataset": tiny_cfg(pipeline=load), "pipeline": pipeline}

    def batches(num_workers):
        loader = build_dataloader({"batch_size": 2, "num_workers": num_workers, "dataset": dataset}, seed=1)
        loaded = [
            (sample.img_id, int(image.sum()), sample.gt_instances.bboxes.tolist())
            for batch in loader for image, sample in zip(*batch.values(), strict=True)
        ]  # fmt: skip
        loader.close()
        return loaded

    assert batches(workers) == batches(0)
