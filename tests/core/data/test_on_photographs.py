"""What moves a picture moves it as `homography_matrix` says: image, boxes and masks of real photographs."""
import copy
import random

import cv2
import numpy as np
import pytest
import torch

from detcore.data import build_dataloader
from detcore.data.transforms.base import keep_instances
from detcore.data.transforms.copy_paste import CopyPaste
from detcore.registry import DATASETS, TRANSFORMS
from detcore.registry.scopes import STANDARD_SCOPES, source
from detcore.structures.mask import BitmapMasks, PolygonMasks, mask_polygons

NORM = {"mean": (103, 116, 123), "std": (1, 1, 1), "to_rgb": False}
GEOMETRIC = [
    {"type": "Expand", "mean": (103, 116, 123), "prob": 1.0, "ratio_range": (1, 2)},
    {"type": "FixScaleResize", "scale": (500, 333), "keep_ratio": True},
    {"type": "FixShapeResize", "width": 400, "height": 300, "keep_ratio": True},
    {"type": "FixShapeResize", "width": 350, "height": 450},
    {"type": "GeomTransform"},
    {"type": "MinIoURandomCrop", "min_ious": (0.0, 0.1)},
    {"type": "Pad", "size_divisor": 31},
    {"type": "RandomAffine", "max_rotate_degree": 25.0, "border": (-40, 16)},
    {"type": "RandomCenterCropPad", "crop_size": (400, 333), "test_pad_mode": None, **NORM},
    {"type": "RandomCenterCropPad", "ratios": None, "border": None, "test_mode": True, **NORM},
    {"type": "RandomChoiceResize", "scales": [(400, 300), (900, 500)], "keep_ratio": True},
    {"type": "RandomCrop", "crop_size": (331, 257), "allow_negative_crop": True},
    {
        "type": "RandomCrop", "crop_size": (0.3, 0.4), "crop_type": "relative_range",
        "allow_negative_crop": True,
    },
    {"type": "RandomFlip", "prob": 1.0},
    {"type": "RandomFlip", "prob": 1.0, "direction": ["vertical", "diagonal"]},
    {"type": "RandomResize", "scale": (500, 400), "ratio_range": (0.6, 1.6), "keep_ratio": True},
    {"type": "RandomShift", "prob": 1.0, "max_shift_px": 60},
    {"type": "Resize", "scale": (333, 555)},
    {"type": "Rotate", "min_mag": 5.0, "max_mag": 40.0},
    {"type": "ShearX", "max_mag": 25.0},
    {"type": "ShearY", "max_mag": 25.0},
    {"type": "TranslateX", "max_mag": 0.4},
    {"type": "TranslateY", "max_mag": 0.4},
]  # fmt: skip
MIXING = ("CachedMixUp", "CachedMosaic", "CopyPaste", "MixUp", "Mosaic")
STILL = (
    "AutoContrast", "Brightness", "Color", "ColorTransform", "Contrast", "CutOut", "Equalize",
    "FilterAnnotations", "Invert", "LoadAnnotations", "LoadEmptyAnnotations", "LoadImageFromFile",
    "LoadImageFromNDArray", "LoadProposals", "PackDetInputs", "PhotoMetricDistortion", "Posterize",
    "RandomErasing", "SegRescale", "Sharpness", "Solarize", "SolarizeAdd", "YOLOXHSVRandomAug",
)  # fmt: skip
OF_OTHERS = (
    "AutoAugment", "Compose", "ProposalBroadcaster", "RandAugment", "RandomApply", "RandomChoice",
    "RandomOrder", "TestTimeAug",
)  # fmt: skip
LOAD = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations", "with_mask": True}]


def test_every_registered_transform_is_looked_at_here_or_moves_nothing():
    names = {name for scope in STANDARD_SCOPES for name in source().table(scope).names("transforms")}
    listed = {cfg["type"] for cfg in GEOMETRIC} | {*MIXING, *STILL, *OF_OTHERS}
    assert names - listed == set()


def nuts(folder, pipeline, part="train"):
    return {
        "type": "CocoDataset", "data_root": str(folder), "ann_file": f"annotations/instances_{part}.json",
        "data_prefix": {"img": "images/"}, "metainfo": {"classes": ("date", "fig", "hazelnut")},
        "pipeline": pipeline,
    }  # fmt: skip


@pytest.fixture(scope="module")
def photographs(shared):
    """Six photographs of people, animals and things, and of nuts, with masks."""
    coco = {
        "type": "CocoDataset", "data_root": str(shared("data/coco_permissive")),
        "ann_file": "annotations/instances_train2017.json", "data_prefix": {"img": "images/train2017/"},
        "pipeline": LOAD, "metainfo": {"classes": ("person", "vase", "train", "dog", "umbrella", "elephant")},
        "filter_cfg": {"filter_empty_gt": True},
    }  # fmt: skip
    people, fruit = DATASETS.build(coco), DATASETS.build(nuts(shared("data/nuts"), LOAD))
    return [sample(each) for each in (*(people[i] for i in range(4)), fruit[0], fruit[5])]


def colour(labels):
    """uint8 (..., 3): a colour for each label."""
    labels = np.asarray(labels)
    return np.stack([labels * 37 % 256, labels * 101 % 256, labels * 59 % 256], -1).astype(np.uint8)


def sample(loaded, first_label=1):
    """A loaded photograph, made so that everything can be found again.

    Its objects do not overlap, each is filled with its label's colour, and no two have the same label.
    """
    masks = loaded["gt_masks"].to_ndarray()
    before = np.cumsum(masks, 0, dtype=np.int64) - masks
    masks = masks & (before == 0)
    masks = masks[masks.sum((1, 2)) >= 60]
    labels = np.arange(len(masks)) + first_label
    img = loaded["img"].copy()
    for label, mask in zip(labels, masks, strict=True):
        img[mask > 0] = colour(label)
    bitmaps = BitmapMasks(masks, *masks.shape[1:])
    return {
        "img": img, "img_shape": loaded["img_shape"], "ori_shape": loaded["ori_shape"],
        "img_path": loaded["img_path"], "gt_bboxes": bitmaps.get_bboxes(), "gt_bboxes_labels": labels,
        "gt_ignore_flags": np.zeros(len(masks), bool), "gt_masks": bitmaps,
    }  # fmt: skip


def with_polygons(given):
    """The same with traced outlines, and the boxes around those."""
    shape = given["img_shape"]
    outlines = [[np.asarray(each) for each in mask_polygons(mask)] for mask in given["gt_masks"].masks]
    masks = PolygonMasks(outlines, *shape)
    return {**given, "gt_masks": masks, "gt_bboxes": np.asarray(masks.get_bboxes(), np.float32)}


def under_seed(cfg, given, seed):
    """What a transform gives under a seed; the sample stays as it is."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return TRANSFORMS.build(cfg)(copy.deepcopy(given))


def moved(points, matrix):
    """Points (N, 2) under a homography (3, 3)."""
    ends = np.concatenate([points, np.ones((len(points), 1))], 1) @ np.asarray(matrix, np.float64).T
    return ends[:, :2] / ends[:, 2:]


def check_boxes(before, after):
    """Boxes lie where their corners went, to a pixel."""
    height, width = after["img_shape"]
    matrix = after.get("homography_matrix", np.eye(3))
    for box, label in zip(after["gt_bboxes"], after["gt_bboxes_labels"], strict=True):
        x1, y1, x2, y2 = before["gt_bboxes"][int(label) - 1]
        ends = moved(np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]]), matrix).clip(0, (width, height))
        assert np.abs(np.concatenate([ends.min(0), ends.max(0)]) - box).max() <= 1


def check_masks(before, after):
    """Points well within a mask lie in the moved one, those well outside do not; the box is around it."""
    matrix = np.asarray(after.get("homography_matrix", np.eye(3)), np.float64)
    scales = np.linalg.svd(matrix[:2, :2], compute_uv=False)
    kernel = np.ones((2 * int(np.ceil(2 / scales.min())) + 1,) * 2, np.uint8)
    height, width = after["img_shape"]
    sources, checked = before["gt_masks"].to_ndarray(), 0
    assert after["gt_masks"].to_ndarray().shape == (len(after["gt_bboxes"]), height, width)
    for box, label, mask in zip(
        after["gt_bboxes"], after["gt_bboxes_labels"], after["gt_masks"].to_ndarray(), strict=True
    ):
        original = np.pad(sources[int(label) - 1], 1)
        within, near = cv2.erode(original, kernel)[1:-1, 1:-1], cv2.dilate(original, kernel)[1:-1, 1:-1]
        for value, rows_columns in ((1, np.argwhere(within)), (0, np.argwhere(near == 0))):
            points = rows_columns[:: max(len(rows_columns) // 60, 1), ::-1] + 0.5
            ends = np.floor(moved(points, matrix)).astype(int)
            ends = ends[((ends >= 1) & (ends < (width - 1, height - 1))).all(1)]
            assert (mask[ends[:, 1], ends[:, 0]] == value).all()
            checked += len(ends)
        check_around(box, mask)
    return checked


def check_around(box, mask):
    """A mask lies within its box, but for pixels that it touches."""
    rows, columns = np.nonzero(mask)
    if len(rows):
        assert columns.min() >= box[0] - 1.5
        assert rows.min() >= box[1] - 1.5
        assert columns.max() + 1 <= box[2] + 1.5
        assert rows.max() + 1 <= box[3] + 1.5


def check_pixels(after, brightness=1.0):
    """Well within each mask the picture has the object's colour."""
    kernel, checked = np.ones((9, 9), np.uint8), 0
    for label, mask in zip(after["gt_bboxes_labels"], after["gt_masks"].to_ndarray(), strict=True):
        within = cv2.erode(np.pad(mask, 1), kernel)[1:-1, 1:-1] > 0
        off = np.abs(after["img"][within].astype(float) - colour(label) * brightness)
        assert off.size == 0 or off.max() <= 3
        checked += len(off)
    return checked


def equal(one, two):
    assert one.keys() == two.keys()
    for key in ("img", "gt_bboxes", "gt_bboxes_labels", "gt_ignore_flags", "homography_matrix"):
        if key in one:
            assert np.array_equal(one[key], two[key]), key
    assert np.array_equal(one["gt_masks"].to_ndarray(), two["gt_masks"].to_ndarray())


def named(cfg):
    told = ("crop_type", "direction", "keep_ratio", "test_mode")
    return "-".join([cfg["type"], *(f"{key}={cfg[key]}" for key in told if key in cfg)])


@pytest.mark.shared
@pytest.mark.parametrize("polygons", [False, True], ids=["bitmaps", "polygons"])
@pytest.mark.parametrize("cfg", GEOMETRIC, ids=named)
def test_image_boxes_and_masks_go_where_the_homography_says(photographs, cfg, polygons):
    checked = 0
    for seed, photograph in enumerate(photographs):
        given = with_polygons(photograph) if polygons else photograph
        after = under_seed(cfg, given, seed)
        assert after["img"].shape[:2] == after["img_shape"]
        check_boxes(given, after)
        checked += check_masks(given, after)
        checked += check_pixels(after)
        if seed < 2:
            equal(after, under_seed(cfg, given, seed))
    assert checked > 1000


@pytest.mark.shared
def test_crops_may_set_boxes_anew_around_masks(photographs):
    cfg = {"type": "RandomCrop", "crop_size": (250, 250), "recompute_bbox": True, "allow_negative_crop": True}
    for seed, photograph in enumerate(photographs):
        after = under_seed(cfg, photograph, seed)
        check_masks(photograph, after)
        assert np.array_equal(after["gt_bboxes"], after["gt_masks"].get_bboxes())


@pytest.fixture(scope="module")
def several(photographs):
    """Photographs whose labels go on from one to the next, and one without objects."""
    first, made = 1, []
    for photograph in photographs:
        loaded = {**photograph, "img": photograph["img"]}
        made.append(sample(loaded, first))
        first += len(made[-1]["gt_bboxes"])
    nothing = np.zeros(len(made[0]["gt_bboxes"]), bool)
    empty = copy.deepcopy(made[0])
    keep_instances(empty, nothing)
    return [*made, empty]


@pytest.mark.shared
@pytest.mark.parametrize("kind", ["Mosaic", "CachedMosaic"])
def test_mosaics_of_photographs_keep_objects_with_their_pixels(several, kind):
    transform, checked = TRANSFORMS.build({"type": kind, "img_scale": (320, 256)}), 0
    np.random.seed(0)
    for turn in range(12):
        four = [several[(turn + step) % len(several)] for step in range(4)]
        others = {"mix_results": four[1:]} if kind == "Mosaic" else {}
        after = transform({**copy.deepcopy(four[0]), **copy.deepcopy(others)})
        if kind == "CachedMosaic" and turn < 4:
            continue
        assert after["img"].shape == (512, 640, 3)
        for box, mask in zip(after["gt_bboxes"], after["gt_masks"].to_ndarray(), strict=True):
            check_around(box, mask)
        checked += check_pixels(after)
    assert checked > 1000


@pytest.mark.shared
@pytest.mark.parametrize("kind", ["MixUp", "CachedMixUp"])
def test_mixed_photographs_keep_objects_with_half_of_their_pixels(several, kind):
    black = {**copy.deepcopy(several[-1]), "img": np.zeros_like(several[-1]["img"])}
    checked = 0
    for turn in range(10):
        transform = TRANSFORMS.build({"type": kind, "img_scale": (500, 400)})
        other = copy.deepcopy(several[turn % 6])
        np.random.seed(turn)
        if kind == "CachedMixUp":
            transform(other)
            after = transform(copy.deepcopy(black))
        else:
            after = transform({**copy.deepcopy(black), "mix_results": [other]})
        assert after["img"].shape == black["img"].shape
        for box, mask in zip(after["gt_bboxes"], after["gt_masks"].to_ndarray(), strict=True):
            check_around(box, mask)
        checked += check_pixels(after, brightness=0.5)
    assert checked > 1000


@pytest.mark.shared
@pytest.mark.parametrize("polygons", [False, True], ids=["bitmaps", "polygons"])
def test_objects_that_are_pasted_keep_their_pixels_and_take_those_of_others(several, polygons):
    steps = [
        {"type": "RandomResize", "scale": (320, 320), "ratio_range": (0.8, 1.6), "keep_ratio": True},
        {"type": "RandomCrop", "crop_size": (320, 320), "recompute_bbox": True, "allow_negative_crop": True},
        {"type": "FilterAnnotations", "min_gt_bbox_wh": (0.01, 0.01), "keep_empty": False},
        {"type": "Pad", "size": (320, 320)},
    ]
    jitter, paste, checked = TRANSFORMS.build({"type": "Compose", "transforms": steps}), CopyPaste(), 0
    for turn in range(10):
        np.random.seed(turn)
        pair = [copy.deepcopy(several[number % len(several)]) for number in (turn, turn + 3)]
        first, other = (jitter(with_polygons(each) if polygons else each) for each in pair)
        after = paste({**first, "mix_results": [other]})
        masks = after["gt_masks"].to_ndarray()
        assert len(masks) == len(after["gt_bboxes"]) == len(after["gt_bboxes_labels"])
        for box, mask in zip(after["gt_bboxes"], masks, strict=True):
            check_around(box, mask)
        if not polygons:  # outlines of neighbours share pixels
            assert masks.sum(0).max(initial=0) <= 1
        checked += check_pixels(after)
    assert checked > 1000


WITH_OTHERS = [
    {"type": "Mosaic", "img_scale": (160, 120)},
    {"type": "RandomAffine", "scaling_ratio_range": (0.5, 1.5), "border": (-80, -60)},
    {"type": "MixUp", "img_scale": (160, 120), "ratio_range": (0.8, 1.6)},
    {"type": "RandomFlip", "prob": 0.5},
    {"type": "CopyPaste"},
]
PLAIN = [
    {"type": "RandomResize", "scale": (240, 180), "ratio_range": (0.5, 1.5), "keep_ratio": True},
    {"type": "Expand", "prob": 0.5, "ratio_range": (1, 1.5)},
    {"type": "MinIoURandomCrop"},
    {"type": "RandomCenterCropPad", "crop_size": (160, 120), "test_pad_mode": None, **NORM},
    {"type": "RandomShift"}, {"type": "Rotate"}, {"type": "PhotoMetricDistortion"},
]
CACHED = [
    {"type": "CachedMosaic", "img_scale": (160, 120), "max_cached_images": 6},
    {"type": "RandomFlip", "prob": 0.5},
    {"type": "CachedMixUp", "img_scale": (160, 120), "max_cached_images": 4},
]


def batches(folder, steps, num_workers):
    """What a loader of nuts gives in one epoch, in order."""
    pipeline = [*steps, {"type": "PackDetInputs"}]
    if steps is WITH_OTHERS:
        size = [{"type": "Resize", "scale": (160, 120)}]
        dataset = {
            "type": "MultiImageMixDataset", "dataset": nuts(folder, [*LOAD, *size]), "pipeline": pipeline,
        }  # fmt: skip
    else:
        dataset = nuts(folder, [*LOAD, *pipeline])
    cfg = {"batch_size": 3, "num_workers": num_workers, "dataset": dataset}
    loader = build_dataloader({**cfg, "sampler": {"type": "DefaultSampler", "shuffle": True}}, seed=5)
    samples = [
        (one.img_id, image.numpy().copy(), one.gt_instances.bboxes.numpy(), one.gt_instances.masks.areas)
        for batch in loader for image, one in zip(*batch.values(), strict=True)
    ]  # fmt: skip
    loader.close()
    return samples


def are_equal(one, two):
    return all(
        all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
        for first, second in zip(one, two, strict=True)
    )


@pytest.mark.shared
@pytest.mark.parametrize("steps", [PLAIN, WITH_OTHERS], ids=["plain", "mixing"])
def test_samples_of_photographs_do_not_depend_on_the_number_of_workers(shared, steps):
    folder = shared("data/nuts")
    alone = batches(folder, steps, 0)
    assert len(alone) == 14
    assert are_equal(alone, batches(folder, steps, 1))
    assert are_equal(alone, batches(folder, steps, 2))


@pytest.mark.shared
def test_cached_mixes_depend_on_the_number_of_workers_and_on_nothing_else(shared):
    folder = shared("data/nuts")
    alone, two = batches(folder, CACHED, 0), batches(folder, CACHED, 2)
    assert are_equal(alone, batches(folder, CACHED, 1))
    assert are_equal(two, batches(folder, CACHED, 2))
    assert not are_equal(alone, two)
    assert [each[0] for each in alone] == [each[0] for each in two]
