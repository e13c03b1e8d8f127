"""Mixing transforms and what follows them, with input at the edge of what makes sense."""
import numpy as np
import pytest

from detcore.data.transforms.affine import RandomAffine
from detcore.data.transforms.copy_paste import CopyPaste
from detcore.data.transforms.filter import FilterAnnotations
from detcore.data.transforms.load import LoadEmptyAnnotations
from detcore.data.transforms.mix import MixUp, Mosaic
from detcore.data.transforms.mix_cached import CachedMixUp, CachedMosaic
from detcore.data.transforms.pad import Pad
from detcore.errors import DataError
from detcore.registry import DATASETS
from detcore.structures.mask import BitmapMasks, PolygonMasks

SIZE = (40, 30)


def picture(value, *boxes, size=SIZE, masks="bitmap", channels=(3,), dtype=np.uint8):
    """An image (w, h) of one value with boxes, and masks that fill what of them is in it."""
    width, height = size
    bitmaps = np.zeros((len(boxes), height, width), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(bitmaps, boxes, strict=True):
        mask[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)] = 1
    outlines = [[np.array([a, b, c, b, c, d, a, d], np.float64)] for a, b, c, d in boxes]
    made = {"bitmap": BitmapMasks(bitmaps, height, width), "polygon": PolygonMasks(outlines, height, width)}
    return {
        "img": np.full((height, width, *channels), value, dtype), "img_shape": (height, width),
        "gt_bboxes": np.array(boxes, np.float32).reshape(-1, 4),
        "gt_bboxes_labels": np.full(len(boxes), value, np.int64),
        "gt_ignore_flags": np.zeros(len(boxes), bool),
        **({"gt_masks": made[masks]} if masks else {}),
    }


def mosaic(*four, seed=0, **arguments):
    np.random.seed(seed)
    given = {**four[0], "mix_results": list(four[1:])}
    return Mosaic(**{"img_scale": SIZE, "center_ratio_range": (1.0, 1.0), **arguments})(given)


def in_step(out):
    count = len(out["gt_bboxes"])
    assert out["gt_bboxes"].shape == (count, 4)
    assert out["gt_bboxes"].dtype == np.float32
    assert len(out["gt_bboxes_labels"]) == len(out["gt_ignore_flags"]) == count
    if "gt_masks" in out:
        assert out["gt_masks"].to_ndarray().shape == (count, *out["img_shape"])
    assert out["img"].shape[:2] == out["img_shape"]
    return out


@pytest.mark.parametrize("masks", ["bitmap", "polygon", None])
def test_pictures_without_objects_can_be_mixed(masks):
    empty, full = picture(1, masks=masks), picture(2, (5, 5, 20, 20), masks=masks)
    assert len(in_step(mosaic(empty, empty, empty, empty))["gt_bboxes"]) == 0
    assert in_step(mosaic(empty, full, empty, full))["gt_bboxes_labels"].tolist() == [2, 2]
    np.random.seed(0)
    assert in_step(MixUp(SIZE)({**empty, "mix_results": [full]}))["gt_bboxes_labels"].tolist() == [2]
    affine = RandomAffine(border=(-10, -5))
    assert len(in_step(affine(mosaic(empty, empty, empty, empty)))["gt_bboxes"]) == 0
    for transform in (CachedMosaic(SIZE), CachedMixUp(SIZE)):
        assert all(len(in_step(transform(dict(empty)))["gt_bboxes"]) == 0 for _ in range(6))


def test_unlabelled_pictures_stand_beside_those_with_outlines():
    unlabelled = LoadEmptyAnnotations(with_mask=True)(picture(1, masks=None))
    full = picture(2, (5, 5, 20, 20), masks="polygon")
    out = in_step(mosaic(unlabelled, full, full, unlabelled))
    assert isinstance(out["gt_masks"], BitmapMasks)
    assert out["gt_masks"].areas.tolist() == [225, 225]
    assert isinstance(mosaic(full, full, full, full)["gt_masks"], PolygonMasks)


@pytest.mark.parametrize("clip", [True, False])
def test_boxes_that_leave_the_picture_are_cut_at_the_canvas_or_dropped_with_it(clip):
    out_of_it = picture(1, (-20, -10, 10, 10), (30, 20, 60, 50), (-30, -30, -5, -5))
    empty = picture(2)
    out = in_step(mosaic(out_of_it, empty, empty, empty, bbox_clip_border=clip))
    first = [0, 0, 10, 10] if clip else [-20, -10, 10, 10]
    assert out["gt_bboxes"].tolist() == [first, [30, 20, 60, 50]]  # within the canvas, beyond their part
    last = in_step(mosaic(empty, empty, empty, out_of_it, bbox_clip_border=clip))
    assert last["gt_bboxes"].tolist() == [
        [20, 20, 50, 40], [70, 50, *((80, 60) if clip else (100, 80))], [10, 0, 35, 25],
    ]  # fmt: skip
    np.random.seed(0)
    mix_up = MixUp(SIZE, (1.0, 1.0), flip_ratio=0.0, bbox_clip_border=clip)
    assert in_step(mix_up({**empty, "mix_results": [out_of_it]}))["gt_bboxes"].tolist()[0] == first
    moved = in_step(RandomAffine(0.0, 0.0, (1, 1), 0.0, bbox_clip_border=clip)(dict(out_of_it)))
    assert moved["gt_bboxes"].tolist() == [first, [30, 20, *((40, 30) if clip else (60, 50))]]


def test_boxes_of_a_pixel_live_through_mixing_until_they_are_filtered():
    tiny = picture(1, (39, 29, 40, 30), (0, 0, 1, 1), (7, 9, 8, 10))
    out = in_step(mosaic(tiny, tiny, tiny, tiny, img_scale=(20, 15)))
    assert len(out["gt_bboxes"]) == 12
    assert np.allclose(out["gt_bboxes"][:, 2:] - out["gt_bboxes"][:, :2], 0.5)
    assert FilterAnnotations((1, 1))(dict(out)) is None
    assert len(in_step(FilterAnnotations((0.4, 0.4))(dict(out)))["gt_bboxes"]) == 12
    turned = in_step(RandomAffine(max_rotate_degree=30.0, scaling_ratio_range=(0.1, 0.1))(dict(tiny)))
    assert np.isfinite(turned["gt_bboxes"]).all()
    one = picture(9, (0, 0, 1, 1), size=(1, 1))
    whole = in_step(mosaic(one, one, one, one))
    assert whole["gt_bboxes"].tolist()[0] == [10, 0, 40, 30]  # a picture of a pixel is made as large as any


@pytest.mark.parametrize("size", [(400, 1), (1, 300)])
def test_a_picture_that_is_a_line_keeps_a_pixel_across(size):
    line = picture(7, (0, 0, *size), size=size)
    out = in_step(mosaic(line, line, line, line))
    assert len(out["gt_bboxes"]) == 4
    assert (out["img"] == 7).any()
    np.random.seed(0)
    in_step(MixUp(SIZE, (0.5, 0.5))({**picture(1), "mix_results": [line]}))


@pytest.mark.parametrize("frame", [(33, 27), (101, 57), (7, 3)])
def test_sizes_that_no_stride_divides(frame):
    given = [picture(value, (3, 4, 30, 20), size=(41 + value, 33 - value)) for value in range(4)]
    out = in_step(mosaic(*given, img_scale=frame, center_ratio_range=(0.5, 1.5)))
    assert out["img_shape"] == (2 * frame[1], 2 * frame[0])
    back = in_step(RandomAffine(border=(-(frame[0] // 2), -(frame[1] // 2)))(out))
    assert back["img_shape"] == (2 * frame[1] - 2 * (frame[1] // 2), 2 * frame[0] - 2 * (frame[0] // 2))
    padded = in_step(Pad(size_divisor=32)(back))
    assert [side % 32 for side in padded["img_shape"]] == [0, 0]


def test_grey_pictures_stay_grey():
    grey = picture(10, (5, 5, 20, 20), channels=())
    assert in_step(mosaic(grey, grey, grey, grey))["img"].shape == (60, 80)
    np.random.seed(0)
    assert in_step(MixUp(SIZE)({**grey, "mix_results": [grey]}))["img"].shape == (30, 40)
    other = picture(99, (1, 1, 4, 4), channels=())
    pasted = CopyPaste(selected=False)({**grey, "mix_results": [other]})
    assert (in_step(pasted)["img"] == 99).sum() == 9


@pytest.mark.parametrize("odd", [{"channels": ()}, {"channels": (1,)}, {"dtype": np.float32}])
def test_pictures_of_other_channels_or_types_are_not_mixed(odd):
    first, other = picture(1, (5, 5, 20, 20)), picture(2, (5, 5, 20, 20), **odd)
    with pytest.raises(DataError, match=r"must have the same channels and type, got .*; .*load all alike"):
        mosaic(first, first, first, other)
    with pytest.raises(DataError, match="must have the same channels and type"):
        MixUp(SIZE)({**first, "mix_results": [other]})
    with pytest.raises(DataError, match="two images of one size and type"):
        CopyPaste()({**first, "mix_results": [other]})


def test_pictures_that_are_annotated_otherwise_are_not_mixed():
    first, other = picture(1, (5, 5, 20, 20)), picture(2, (5, 5, 20, 20), masks=None)
    with pytest.raises(DataError, match=r"must be annotated alike, got gt_bboxes.*gt_masks; gt_bboxes"):
        mosaic(first, first, first, other)
    with pytest.raises(DataError, match="must be annotated alike"):
        MixUp(SIZE)({**first, "mix_results": [other]})


def test_data_sets_of_other_classes_are_not_mixed(tiny_cfg):
    load = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}]
    renamed = tiny_cfg(pipeline=load, metainfo={"classes": ("cat", "dog")})
    both = {"type": "ConcatDataset", "datasets": [tiny_cfg(pipeline=load), renamed]}
    cfg = {"type": "MultiImageMixDataset", "dataset": both, "pipeline": [{"type": "Mosaic"}]}
    with pytest.raises(DataError, match=r"differ in metainfo 'classes'[^$]*would mean two things"):
        DATASETS.build(cfg)


@pytest.mark.parametrize("masks", ["bitmap", "polygon"])
def test_masks_under_an_affine_map_that_leaves_little_of_them(masks):
    given = picture(1, (0, 0, 40, 30), (38, 28, 40, 30), (10, 10, 11, 11), masks=masks)
    np.random.seed(2)
    for _ in range(20):
        out = in_step(RandomAffine(40.0, 0.5, (0.3, 3.0), 20.0, border=(-3, 5))(dict(given)))
        for box, mask in zip(out["gt_bboxes"], out["gt_masks"].to_ndarray(), strict=True):
            rows, columns = np.nonzero(mask)
            if len(rows):
                assert columns.min() >= box[0] - 1.5
                assert columns.max() + 1 <= box[2] + 1.5
                assert rows.min() >= box[1] - 1.5
                assert rows.max() + 1 <= box[3] + 1.5
