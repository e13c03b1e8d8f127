import random

import numpy as np
import pytest
import torch

from detcore.data.handover import SMALL, _shared_planes, reduce_for_parent
from detcore.data.pack import PackDetInputs
from detcore.data.transforms import (
    Compose,
    FilterAnnotations,
    LoadAnnotations,
    Pad,
    PhotoMetricDistortion,
    RandomApply,
    RandomChoice,
    RandomChoiceResize,
    RandomCrop,
    RandomFlip,
    RandomResize,
    Resize,
)
from detcore.errors import DataError, DetcoreError
from detcore.registry import TRANSFORMS
from detcore.structures.mask import BitmapMasks, PolygonMasks

BOXES = np.array([[10, 12, 70, 60], [50, 40, 120, 110], [100, 5, 155, 45]], np.float32)


@pytest.fixture(autouse=True)
def _seeded():
    random.seed(0)
    np.random.seed(0)


def sample(masks="bitmap"):
    """120 x 160 image whose pixels tell where they are from; each box is also its mask."""
    ys, xs = np.mgrid[0:120, 0:160]
    img = np.stack([ys, xs, np.full_like(xs, 7)], -1).astype(np.uint8)
    results = {
        "img": img, "img_shape": (120, 160), "ori_shape": (120, 160), "gt_bboxes": BOXES.copy(),
        "gt_bboxes_labels": np.array([1, 0, 2]), "gt_ignore_flags": np.array([False, True, False]),
        "gt_seg_map": (xs // 40).astype(np.uint8),
    }
    if masks == "bitmap":
        maps = np.zeros((3, 120, 160), np.uint8)
        for mask, (x1, y1, x2, y2) in zip(maps, BOXES.astype(int), strict=True):
            mask[y1:y2, x1:x2] = 1
        results["gt_masks"] = BitmapMasks(maps, 120, 160)
    else:
        outlines = [[np.array([a, b, c, b, c, d, a, d], np.float32)] for a, b, c, d in BOXES]
        results["gt_masks"] = PolygonMasks(outlines, 120, 160)
    return results


def consistent(results):
    """Image, label map and masks have one size, and every field as many instances."""
    shape = results["img"].shape[:2]
    count = len(results["gt_bboxes"])
    return (
        results["img_shape"] == shape == results["gt_seg_map"].shape
        and (results["gt_masks"].height, results["gt_masks"].width) == shape
        and len(results["gt_bboxes_labels"]) == len(results["gt_ignore_flags"]) == count
        and len(results["gt_masks"]) == count
        and results["gt_bboxes"].dtype == np.float32
    )


GEOMETRIC = [
    Resize(scale=(213, 160), keep_ratio=True), Resize(scale=(90, 200)), Resize(scale_factor=(0.5, 2.0)),
    RandomResize(scale=(200, 150), ratio_range=(0.5, 2), keep_ratio=True),
    RandomResize(scale=[(100, 50), (300, 200)], keep_ratio=True),
    RandomChoiceResize(scales=[(80, 60), (200, 300)]),
    RandomFlip(prob=1.0), RandomFlip(prob=[0.3, 0.3, 0.4], direction=["horizontal", "vertical", "diagonal"]),
    RandomCrop((100, 80)), RandomCrop((0.5, 0.6), "relative"), RandomCrop((0.4, 0.4), "relative_range"),
    RandomCrop((60, 130), "absolute_range"),
]


@pytest.mark.parametrize("masks", ["bitmap", "polygon"])
@pytest.mark.parametrize("transform", GEOMETRIC, ids=repr)
def test_everything_in_a_sample_moves_together(transform, masks):
    for _ in range(10):
        results = transform(sample(masks))
        if results is None:  # a crop without any box
            continue
        assert consistent(results)
        drawn = np.asarray(results["gt_masks"].get_bboxes(), np.float32)
        assert np.abs(drawn - results["gt_bboxes"]).max() <= 2.1


@pytest.mark.parametrize("transform", GEOMETRIC, ids=repr)
def test_the_homography_maps_the_original_to_the_result(transform):
    before = sample()
    results = transform(sample())
    if results is None:
        return
    corners = np.array([[x, y, 1] for a, b, c, d in before["gt_bboxes"] for x, y in ((a, b), (c, d))])
    moved = (corners @ results["homography_matrix"].T)[:, :2].reshape(-1, 4)
    ends = moved[:, :2], moved[:, 2:]
    moved = np.concatenate([np.minimum(*ends), np.maximum(*ends)], 1)
    h, w = results["img_shape"]
    moved = moved.clip(0, [w, h, w, h])
    kept = [row for row in moved if (row[2:] > row[:2]).all()]
    assert np.allclose(kept, results["gt_bboxes"], atol=1e-3)


def test_resize_clips_boxes_only_where_it_is_told_to():
    results = sample()
    results["gt_bboxes"][0] = (-10, -4, 170, 130)
    clipped = Resize(scale=(80, 60))({**results})
    kept = Resize(scale=(80, 60), clip_object_border=False)({**results})
    assert clipped["gt_bboxes"][0].tolist() == [0, 0, 80, 60]
    assert kept["gt_bboxes"][0].tolist() == [-5, -2, 85, 65]


def test_resize_reads_sizes_as_width_and_height():
    results = Resize(scale=(300, 200))(sample())
    assert results["img"].shape[:2] == results["img_shape"] == (200, 300)
    assert results["scale_factor"] == (300 / 160, 200 / 120)
    # The longer limit goes to the longer side, whichever way round both are.
    for scale in ((300, 120), (120, 300)):
        assert Resize(scale=scale, keep_ratio=True)(sample())["img_shape"] == (120, 160)


def test_resize_of_a_sliver_keeps_at_least_one_pixel():
    results = Resize(scale=(50, 50), keep_ratio=True)({"img": np.zeros((2, 1000, 3), np.uint8)})
    assert results["img_shape"] == (1, 50)


@pytest.mark.parametrize("arguments", [
    {}, {"scale": (10, 10), "scale_factor": 2.0}, {"scale": (10, 0)}, {"scale": (10.5, 3)},
    {"scale": (1, 2, 3)}, {"scale": (9, 9), "interpolation": "linear"},
    {"scale": (9, 9), "backend": "pillow"},
])
def test_resize_refuses_what_makes_no_sense(arguments):
    with pytest.raises((ValueError, TypeError)):
        Resize(**arguments)


def test_random_scales_stay_in_their_range_and_are_drawn_anew():
    resize = RandomResize(scale=(160, 120), ratio_range=(0.5, 2.0))
    shapes = {resize(sample())["img_shape"] for _ in range(40)}
    assert len(shapes) > 10
    assert all(60 <= h <= 240 and 80 <= w <= 320 for h, w in shapes)
    ends = RandomResize(scale=[(100, 50), (102, 50)])
    assert {ends(sample())["img_shape"] for _ in range(40)} == {(50, 100), (50, 101), (50, 102)}
    choice = RandomChoiceResize(scales=[(80, 60), (100, 90)])
    drawn = [choice(sample()) for _ in range(20)]
    assert {(r["img_shape"], r["scale_idx"]) for r in drawn} == {((60, 80), 0), ((90, 100), 1)}


def test_a_random_resize_can_use_another_transform():
    built = TRANSFORMS.build({
        "type": "RandomChoiceResize", "scales": [(80, 60)], "resize_type": "Resize", "keep_ratio": True
    })
    assert built(sample())["img_shape"] == (60, 80)


@pytest.mark.parametrize("arguments", [
    {"scale": (10, 10)}, {"scale": [(1, 1), (2, 2), (3, 3)]}, {"scale": (10, 10), "ratio_range": (1,)},
])
def test_random_resize_refuses_a_range_without_two_ends(arguments):
    with pytest.raises(ValueError, match=r"ratio_range|two ends"):
        RandomResize(**arguments)


def test_flips_follow_their_probabilities():
    flip = RandomFlip(prob=[0.2, 0.5], direction=["horizontal", "vertical"])
    drawn = [flip({"img": np.zeros((2, 2, 3), np.uint8)})["flip_direction"] for _ in range(2000)]
    shares = {name: drawn.count(name) / 2000 for name in ("horizontal", "vertical", None)}
    assert abs(shares["horizontal"] - 0.2) < 0.03
    assert abs(shares["vertical"] - 0.5) < 0.04
    shared = RandomFlip(prob=0.5, direction=["horizontal", "vertical"])
    drawn = [shared({"img": np.zeros((2, 2, 3), np.uint8)})["flip_direction"] for _ in range(2000)]
    assert abs(drawn.count(None) / 2000 - 0.5) < 0.04
    assert abs(drawn.count("vertical") / 2000 - 0.25) < 0.04


def test_a_flip_that_is_not_drawn_changes_nothing():
    results = RandomFlip(prob=0.0)(sample())
    assert results["flip"] is False
    assert results["flip_direction"] is None
    assert (results["img"] == sample()["img"]).all()


@pytest.mark.parametrize("arguments", [
    {}, {"prob": 1.5}, {"prob": [0.5, 0.6], "direction": ["horizontal", "vertical"]},
    {"prob": 0.5, "direction": "sideways"}, {"prob": [0.5, 0.5]},
])
def test_flip_refuses_probabilities_that_do_not_fit(arguments):
    with pytest.raises(ValueError, match=r"prob|direction"):
        RandomFlip(**arguments)


def test_a_crop_shows_the_window_that_the_homography_tells():
    results = RandomCrop((70, 50), allow_negative_crop=True)(sample())
    dx, dy = -results["homography_matrix"][:2, 2].astype(int)
    assert (results["img"] == sample()["img"][dy : dy + 50, dx : dx + 70]).all()


def test_a_crop_without_boxes_refuses_the_sample_unless_allowed():
    empty = {**sample(), "gt_bboxes": np.array([[150, 110, 160, 120]] * 3, np.float32)}
    crop = RandomCrop((20, 20))
    assert crop.crop({**empty}, 0, 0, 20, 20) is None
    allowed = RandomCrop((20, 20), allow_negative_crop=True).crop({**empty}, 0, 0, 20, 20)
    assert len(allowed["gt_bboxes"]) == len(allowed["gt_masks"]) == 0


def test_a_crop_can_set_boxes_anew_around_the_masks():
    results = sample("bitmap")
    results["gt_masks"].masks[0, :, 40:] = 0  # the object is smaller than its box
    cropped = RandomCrop((160, 120), recompute_bbox=True)(results)
    assert cropped["gt_bboxes"][0].tolist() == [10, 12, 40, 60]


def test_a_crop_leaves_boxes_unclipped_where_it_is_told_to():
    cropped = RandomCrop((20, 20), bbox_clip_border=False).crop(sample(), 60, 50, 80, 70)
    assert cropped["gt_bboxes"].tolist() == [[-50, -38, 10, 10], [-10, -10, 60, 60]]


@pytest.mark.parametrize("arguments", [
    {"crop_size": (10, 10), "crop_type": "fixed"}, {"crop_size": (0.5, 0.5)},
    {"crop_size": (2, 0.5), "crop_type": "relative"}, {"crop_size": (9, 3), "crop_type": "absolute_range"},
])
def test_crop_refuses_sizes_that_do_not_fit_its_type(arguments):
    with pytest.raises(ValueError, match="crop"):
        RandomCrop(**arguments)


def test_padding_keeps_the_picture_and_fills_the_rest():
    results = Pad(size=(200, 130), pad_val={"img": (1, 2, 3), "seg": 9, "masks": 0})(sample())
    assert consistent(results)
    assert results["pad_shape"] == (130, 200)
    assert (results["img"][:120, :160] == sample()["img"]).all()
    assert results["img"][-1, -1].tolist() == [1, 2, 3]
    assert results["gt_seg_map"][-1, -1] == 9
    assert Pad(size_divisor=32)(sample())["img_shape"] == (128, 160)
    assert Pad(pad_to_square=True, size_divisor=50)(sample())["img_shape"] == (200, 200)
    assert Pad(size=(10, 10))(sample())["img_shape"] == (120, 160)
    with pytest.raises(ValueError, match="size"):
        Pad()


def test_grey_images_keep_their_channel():
    results = {"img": np.zeros((12, 16, 1), np.uint8)}
    for transform in (Resize(scale=(8, 8)), RandomFlip(prob=1.0), Pad(size=(20, 20))):
        results = transform(results)
        assert results["img"].ndim == 3


def test_filter_drops_small_boxes_and_masks_from_every_field():
    results = FilterAnnotations(min_gt_bbox_wh=(56, 20), keep_empty=False)(sample())
    assert consistent(results)
    assert results["gt_bboxes_labels"].tolist() == [1, 0]
    assert FilterAnnotations(min_gt_bbox_wh=(500, 500))(sample()) is None  # the manual's keep_empty=True
    assert len(FilterAnnotations(min_gt_bbox_wh=(500, 500), keep_empty=False)(sample())["gt_bboxes"]) == 0


def test_colours_are_distorted_alike_in_bytes_and_floats():
    transform = PhotoMetricDistortion()
    img = np.random.randint(40, 200, (30, 40, 3)).astype(np.uint8)
    img = np.kron(img[::5, ::5], np.ones((5, 5, 1))).astype(np.uint8)
    differences = []
    for seed in range(60):
        np.random.seed(seed)
        as_bytes = transform({"img": img.copy()})["img"]
        np.random.seed(seed)
        as_floats = transform({"img": img.astype(np.float32)})["img"]
        assert as_bytes.dtype == np.uint8
        assert as_floats.dtype == np.float32
        differences.append(np.abs(as_bytes - as_floats.clip(0, 255)).mean())
    assert np.mean(differences) < 1.5


def test_a_neutral_colour_distortion_changes_nothing():
    neutral = PhotoMetricDistortion(0, (1, 1), (1, 1), 0)
    img = sample()["img"]
    seen = [neutral({"img": img.copy()})["img"] for _ in range(20)]
    # Only the order of channels may differ.
    assert all((np.sort(out, -1) == np.sort(img, -1)).all() for out in seen)
    with pytest.raises(ValueError, match="shape"):
        neutral({"img": img[..., 0]})


def test_annotations_load_from_plain_dicts_as_the_manual_shows():
    instances = [
        {"bbox": [1, 2, 11, 12], "bbox_label": 1, "mask": [[1, 2, 11, 2, 11, 12, 1, 12]]},
        {"bbox": [0, 0, 5, 5], "bbox_label": 0, "ignore_flag": 1,
         "mask": {"size": [20, 30], "counts": [0, 60, 540]}},
        {"bbox": [0, 0, 5, 5], "bbox_label": 2},
    ]
    results = {"instances": instances, "ori_shape": (20, 30), "img_path": "a.jpg"}
    loaded = LoadAnnotations(with_mask=True)({**results})
    assert loaded["gt_bboxes"].dtype == np.float32
    assert loaded["gt_bboxes_labels"].tolist() == [1, 0, 2]
    assert loaded["gt_ignore_flags"].tolist() == [False, True, True]  # the last has no mask to learn from
    assert loaded["gt_masks"].areas.tolist() == [100, 60, 0]
    polygons = LoadAnnotations(with_mask=True, poly2mask=False)({**results})
    assert polygons["gt_masks"].areas.tolist() == [100, 0, 0]
    assert LoadAnnotations(with_bbox=False, with_label=False)({**results}) == results


@pytest.mark.parametrize("rle", [
    {"size": [20, 31], "counts": [600]}, {"size": [20, 30], "counts": [10, 600]},
    {"size": [20, 30], "counts": "zzz"},
    {"size": [20, 30], "counts": "PPPPPPPPPPPPPPPPPP"}, {"size": [20, 30], "counts": ""},
])
def test_a_broken_rle_mask_is_an_error(rle):
    results = {"instances": [{"bbox": [0, 0, 5, 5], "bbox_label": 0, "mask": rle}], "ori_shape": (20, 30)}
    with pytest.raises(DataError, match="RLE"):
        LoadAnnotations(with_mask=True)(results)


def test_a_label_map_is_loaded_and_shifted(tmp_path):
    import cv2

    path = tmp_path / "map.png"
    cv2.imwrite(str(path), np.array([[0, 1, 255], [2, 3, 0]], np.uint8))
    results = {"instances": [], "seg_map_path": str(path), "img_path": "a.jpg"}
    assert LoadAnnotations(with_seg=True)({**results})["gt_seg_map"].tolist() == [[0, 1, 255], [2, 3, 0]]
    shifted = LoadAnnotations(with_seg=True, reduce_zero_label=True)({**results})
    assert shifted["gt_seg_map"].tolist() == [[255, 0, 255], [1, 2, 255]]
    with pytest.raises(DataError, match="seg_map_path"):
        LoadAnnotations(with_seg=True)({"instances": [], "img_path": "a.jpg"})


def test_packing_splits_ignored_instances_and_keeps_meta_information():
    packed = PackDetInputs(meta_keys=("img_shape", "ori_shape", "not_there"))(sample())
    data = packed["data_samples"]
    assert packed["inputs"].dtype == torch.uint8
    assert packed["inputs"].shape == (3, 120, 160)
    assert (packed["inputs"].numpy() == sample()["img"].transpose(2, 0, 1)).all()
    assert data.gt_instances.bboxes.tolist() == BOXES[[0, 2]].tolist()
    assert data.gt_instances.labels.tolist() == [1, 2]
    assert data.ignored_instances.labels.tolist() == [0]
    assert len(data.gt_instances.masks) == 2
    assert data.gt_sem_seg.sem_seg.shape == (1, 120, 160)
    assert data.metainfo == {"img_shape": (120, 160), "ori_shape": (120, 160)}


def test_packing_without_ground_truth_gives_empty_instances():
    packed = PackDetInputs()({"img": np.zeros((4, 6, 3), np.uint8), "img_id": 3})
    assert len(packed["data_samples"].gt_instances) == 0
    assert packed["data_samples"].img_id == 3
    with pytest.raises(DataError, match="img"):
        PackDetInputs()({})


def test_packing_a_view_or_a_grey_image_gives_sound_tensors():
    img = sample()["img"]
    for view in (img[10:50, 20:90], img[:, ::-1], img[..., 0]):
        inputs = PackDetInputs()({"img": view})["inputs"]
        assert (inputs.numpy() == np.atleast_3d(view).transpose(2, 0, 1)).all()
    img.flags.writeable = False
    assert (PackDetInputs()({"img": img})["inputs"].numpy() == img.transpose(2, 0, 1)).all()


@pytest.mark.parametrize("shape", [(300, 400, 3), (300, 400, 1), (300, 400, 4), (5, 4, 3)])
def test_every_kind_of_image_survives_the_way_to_the_parent(shape):
    image = torch.from_numpy(np.random.randint(0, 256, shape).astype(np.uint8)).permute(2, 0, 1)
    for view in (image, image[:, 5:-7, 3:-1] if shape[0] > 9 else image[:, :2]):
        if view.nbytes > SMALL:
            planes = _shared_planes(view)
            assert planes.is_shared()
            assert planes.is_contiguous()
            assert (planes == view).all()
        else:
            rebuild, arguments = reduce_for_parent(view)
            assert (rebuild(*arguments) == view).all()


def test_pipelines_stop_where_a_transform_refuses_the_sample():
    def refuse(results):
        return None

    assert Compose([refuse, Resize(scale=(1, 1))])({}) is None
    with pytest.raises(TypeError, match="callable"):
        Compose(["Resize"])


def test_transforms_of_transforms_draw_by_their_probabilities():
    count = {"img": 0}

    def add(results):
        return {"img": results["img"] + 1}

    sometimes = RandomApply([add], prob=0.25)
    assert abs(sum(sometimes(count)["img"] for _ in range(2000)) / 2000 - 0.25) < 0.04
    choice = RandomChoice([[add], [add, add]], prob=[0.25, 0.75])
    assert abs(sum(choice(count)["img"] for _ in range(2000)) / 2000 - 1.75) < 0.04
    with pytest.raises(ValueError, match="sum to 1"):
        RandomChoice([[add], [add]], prob=[0.5, 0.6])


def test_nested_pipelines_build_from_configs_and_misspelt_arguments_are_told_by_path():
    pipeline = {"type": "RandomChoice", "transforms": [
        [{"type": "Resize", "scale": (8, 8)}],
        [{"type": "RandomApply", "transforms": [{"type": "RandomFlip", "prob": 1.0}]},
         {"type": "Pad", "size": (9, 9)}],
    ]}
    built = TRANSFORMS.build(pipeline)
    assert {built({"img": np.zeros((4, 4, 3), np.uint8)})["img_shape"] for _ in range(20)} == {(8, 8), (9, 9)}
    pipeline["transforms"][1][0]["transforms"][0]["porb"] = 1
    with pytest.raises(DetcoreError, match=r"transforms\.1\.0\.transforms\.0\.porb.*prob"):
        TRANSFORMS.build(pipeline)
