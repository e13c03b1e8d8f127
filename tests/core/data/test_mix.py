"""Mosaic and MixUp: where pixels, boxes and masks end up."""
import itertools

import cv2
import numpy as np
import pytest

from detcore.data import build_dataloader
from detcore.data.transforms.mix import MixUp, Mosaic
from detcore.errors import DataError
from detcore.structures.mask import BitmapMasks


def plain(value, size, *boxes):
    """An image (w, h) of one value with boxes, labelled ``value``, and masks that fill the boxes."""
    width, height = size
    masks = np.zeros((len(boxes), height, width), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = 1
    return {
        "img": np.full((height, width, 3), value, np.uint8), "img_shape": (height, width),
        "gt_bboxes": np.array(boxes, np.float32).reshape(-1, 4),
        "gt_bboxes_labels": np.full(len(boxes), value, np.int64),
        "gt_ignore_flags": np.zeros(len(boxes), bool), "gt_masks": BitmapMasks(masks, height, width),
        "homography_matrix": np.eye(3, dtype=np.float32),
    }


def mixed(transform, first, *others):
    np.random.seed(0)
    return transform({**first, "mix_results": list(others)})


def test_four_images_meet_at_a_corner():
    box = (4, 2, 12, 8)
    out = mixed(
        Mosaic((20, 10), (1.0, 1.0)),
        *(plain(value, (20, 10), box) for value in (10, 20, 30, 40)),
    )
    assert out["img"].shape == (20, 40, 3)
    assert out["img_shape"] == (20, 40)
    assert out["img"][::10, ::20, 0].tolist() == [[10, 20], [30, 40]]
    expected = [[4, 2, 12, 8], [24, 2, 32, 8], [4, 12, 12, 18], [24, 12, 32, 18]]
    assert out["gt_bboxes"].tolist() == expected
    assert out["gt_bboxes_labels"].tolist() == [10, 20, 30, 40]
    assert out["gt_masks"].get_bboxes().tolist() == expected
    assert out["gt_masks"].to_ndarray().shape == (4, 20, 40)
    assert "homography_matrix" not in out


def test_images_are_fitted_and_what_is_beyond_the_canvas_is_cut():
    # The corner is (10, 5). The first image, 40x20 fitted to 20x10, loses its left and upper half.
    first = plain(10, (40, 20), (0, 0, 18, 8), (10, 4, 36, 16))
    small = plain(40, (10, 10), (0, 0, 10, 10))
    empty = plain(7, (20, 10))
    out = mixed(Mosaic((20, 10), (0.5, 0.5), pad_val=99), first, empty, empty, small)
    assert out["gt_bboxes"].tolist() == [[0, 0, 8, 3], [10, 5, 20, 15]]
    assert out["gt_bboxes_labels"].tolist() == [10, 40]
    assert out["gt_masks"].get_bboxes().tolist() == [[0, 0, 8, 3], [10, 5, 20, 15]]
    assert out["img"][4, 9, 0] == 10
    assert out["img"][10, 19, 0] == 40
    assert out["img"][19, 39, 0] == 99
    unclipped = mixed(Mosaic((20, 10), (0.5, 0.5), bbox_clip_border=False), first, empty, empty, small)
    assert unclipped["gt_bboxes"].tolist()[0] == [-5, -3, 8, 3]


def test_a_mosaic_is_made_with_its_probability():
    images = [plain(value, (20, 10)) for value in (1, 2, 3, 4)]
    transform = Mosaic((20, 10), prob=0.3)
    np.random.seed(0)
    made = [
        transform({**images[0], "mix_results": images[1:]})["img"].shape == (20, 40, 3) for _ in range(400)
    ]
    assert sum(made) / 400 == pytest.approx(0.3, abs=0.06)


def test_half_of_two_images():
    first, second = plain(100, (20, 10), (1, 1, 5, 5)), plain(41, (20, 10), (2, 3, 8, 9))
    out = mixed(MixUp((20, 10), (1.0, 1.0), flip_ratio=0.0), first, second)
    assert (out["img"] == 70).all()
    assert out["gt_bboxes"].tolist() == [[1, 1, 5, 5], [2, 3, 8, 9]]
    assert out["gt_bboxes_labels"].tolist() == [100, 41]
    assert out["gt_masks"].get_bboxes().tolist() == out["gt_bboxes"].tolist()
    mirrored = mixed(MixUp((20, 10), (1.0, 1.0), flip_ratio=1.0), first, second)
    assert mirrored["gt_bboxes"].tolist() == [[1, 1, 5, 5], [12, 3, 18, 9]]
    assert mirrored["gt_masks"].get_bboxes().tolist() == mirrored["gt_bboxes"].tolist()


def test_a_smaller_second_image_is_padded_and_a_larger_one_cut():
    first, second = plain(100, (20, 10), (1, 1, 5, 5)), plain(40, (20, 10), (0, 0, 20, 10))
    halved = mixed(MixUp((20, 10), (0.5, 0.5), flip_ratio=0.0, pad_val=0), first, second)
    assert halved["gt_bboxes"].tolist() == [[1, 1, 5, 5], [0, 0, 10, 5]]
    assert (halved["img"][:5, :10] == 70).all()
    assert (halved["img"][5:] == 50).all()
    doubled = mixed(MixUp((20, 10), (2.0, 2.0), flip_ratio=0.0), first, second)
    assert doubled["img"].shape == (10, 20, 3)
    assert doubled["gt_bboxes"].tolist() == [[1, 1, 5, 5], [0, 0, 20, 10]]


def test_a_second_image_without_boxes_changes_nothing():
    first = plain(100, (20, 10), (1, 1, 5, 5))
    out = mixed(MixUp((20, 10)), first, plain(40, (20, 10)))
    assert out["img"] is first["img"]
    assert out["gt_bboxes"].tolist() == [[1, 1, 5, 5]]


def test_float_images_stay_float():
    first, second = plain(100, (20, 10)), plain(41, (20, 10), (2, 3, 8, 9))
    for sample in (first, second):
        sample["img"] = sample["img"].astype(np.float32)
    out = mixed(MixUp((20, 10), (1.0, 1.0)), first, second)
    assert out["img"].dtype == np.float32
    assert (out["img"] == 70.5).all()


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


SAMPLES = [(1, 100, 150, 4), (2, 200, 90, 3), (3, 64, 64, 2), (4, 50, 300, 5)]


def test_a_mosaic_equals_the_one_recorded_from_the_reference():
    first, *others = (made_up(*sample) for sample in SAMPLES)
    np.random.seed(3)
    out = Mosaic((160, 120))({**first, "mix_results": others})
    assert out["img"].shape == (240, 320, 3)
    assert int(out["img"].astype(int).sum()) == 27_764_584
    assert out["gt_bboxes_labels"].tolist() == [3, 2, 5, 8, 2, 7, 4, 7, 4, 5, 6, 7, 7, 1]
    recorded = [[89.536, 9.75, 141.108, 45.953], [195.168, 0, 228.497, 68.989]]
    assert out["gt_bboxes"][[0, 4]] == pytest.approx(np.array(recorded), abs=1e-3)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Mosaic(prob=1.5), "prob must lie"), (lambda: Mosaic((0, 10)), "scale"),
    (lambda: Mosaic(center_ratio_range=(1.5, 0.5)), "center_ratio_range must be two rising numbers"),
    (lambda: MixUp(flip_ratio=-1), "flip_ratio"), (lambda: MixUp(max_iters=0), "max_iters"),
    (lambda: MixUp(ratio_range=(0, 1)), "ratio_range must be two rising numbers"),
])
def test_arguments_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_mixing_needs_further_images_and_no_label_maps():
    image = plain(1, (20, 10), (1, 1, 5, 5))
    with pytest.raises(DataError, match=r"Mosaic needs 3 more image.*MultiImageMixDataset"):
        Mosaic()(dict(image))
    with pytest.raises(DataError, match=r"MixUp needs 1 more image\(s\), got 2"):
        mixed(MixUp(), image, image, image)
    with pytest.raises(DataError, match="no label maps"):
        mixed(MixUp(), {**image, "gt_seg_map": np.zeros((10, 20))}, image)


def test_mixup_looks_for_an_image_with_objects():
    class Rare:
        def __len__(self):
            return 10

        def get_cat_ids(self, idx):
            return [0] if idx == 7 else []

    np.random.seed(0)
    assert MixUp(max_iters=500).get_indexes(Rare()) == 7
    assert 0 <= MixUp(max_iters=1).get_indexes(Rare()) < 10


@pytest.mark.parametrize("workers", [0, 2])
def test_mixed_batches_resume_anywhere_with_any_number_of_workers(tiny_cfg, workers):
    load = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations", "with_bbox": True}]
    pipeline = [
        {"type": "Mosaic", "img_scale": (32, 24)}, {"type": "MixUp", "img_scale": (32, 24)},
        {"type": "RandomFlip", "prob": 0.5}, {"type": "PackDetInputs"},
    ]
    dataset = {"type": "MultiImageMixDataset", "dataset": tiny_cfg(pipeline=load), "pipeline": pipeline}

    def loader(num_workers):
        cfg = {"batch_size": 2, "num_workers": num_workers, "dataset": dataset}
        return build_dataloader({**cfg, "sampler": {"type": "InfiniteSampler"}}, seed=1)

    def batches(source, count):
        return [
            [
                (sample.img_id, int(image.sum()), sample.gt_instances.bboxes.tolist())
                for image, sample in zip(*batch.values(), strict=True)
            ]
            for batch in itertools.islice(source, count)
        ]

    whole = batches(loader(0), 6)
    resumed = loader(workers)
    resumed.load_state_dict({**resumed.state_dict(), "batches": 2})
    assert batches(resumed, 4) == whole[2:]
    resumed.close()
