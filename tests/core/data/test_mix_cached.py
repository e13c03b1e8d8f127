"""CachedMosaic and CachedMixUp: what is mixed with what, and what workers and resuming change."""
import copy
import itertools
import pickle

import cv2
import numpy as np
import pytest

from detcore.data import build_dataloader
from detcore.data.transforms.mix import Mosaic
from detcore.data.transforms.mix_cached import CachedMixUp, CachedMosaic, ImageCache
from detcore.errors import DataError
from detcore.structures.mask import BitmapMasks


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
    """Images of all shapes, every fourth without objects."""
    return [made_up(i, 60 + 13 * i % 90, 70 + 29 * i % 120, i % 4) for i in range(count)]


def passed(transform, samples):
    np.random.seed(3)
    return [transform(sample) for sample in samples]


def test_the_first_four_images_pass_as_they_are():
    samples = stream(6)
    out = passed(CachedMosaic((50, 40)), copy.deepcopy(samples))
    shapes = [each["img"].shape[:2] for each in out]
    assert shapes == [s["img"].shape[:2] for s in samples[:4]] + [(80, 100)] * 2
    assert all((one["img"] == two["img"]).all() for one, two in zip(out[:4], samples, strict=False))


def test_a_cached_mosaic_is_the_mosaic_of_the_same_images():
    samples = stream(9)
    transform = CachedMosaic((50, 40), center_ratio_range=(0.7, 0.7))
    out = passed(transform, copy.deepcopy(samples))[-1]
    np.random.seed(3)
    plain = Mosaic((50, 40), center_ratio_range=(0.7, 0.7))
    pictures = []
    for three in itertools.product(range(8), repeat=3):
        others = [copy.deepcopy(samples[i]) for i in three]
        pictures.append(plain({**copy.deepcopy(samples[8]), "mix_results": others}))
    equal = [one for one in pictures if np.array_equal(one["img"], out["img"])]
    assert equal
    assert np.array_equal(equal[0]["gt_bboxes"], out["gt_bboxes"])
    assert np.array_equal(equal[0]["gt_bboxes_labels"], out["gt_bboxes_labels"])


# Of images 5 to 11, from the reference's own transforms under the same seed: the sum of all pixels, how many
# boxes each has, and the sum of their corners.
RECORDED = [
    (
        CachedMosaic, {"max_cached_images": 6}, 83_298_975, [5, 8, 8, 7, 7, 2, 8],
        [1110.05, 2647.78, 2894.58, 2386.12, 3173.07, 282.51, 3263.7],
    ),
    (
        CachedMosaic, {"max_cached_images": 6, "prob": 0.7, "random_pop": False}, 75_203_181,
        [5, 7, 9, 6, 2, 2, 8], [1110.05, 2509.54, 3476.81, 1942.89, 749.63, 403.13, 1830.42],
    ),
    (
        CachedMixUp, {"max_cached_images": 6, "prob": 0.8}, 33_179_625,
        [2, 5, 5, 0, 1, 4, 4], [278.1, 1107.43, 798.15, 0.0, 191.32, 568.67, 855.78],
    ),
    (
        CachedMixUp, {"max_cached_images": 6, "ratio_range": (1.0, 1.0), "pad_val": (114, 114, 114)},
        33_121_828, [3, 3, 4, 2, 2, 4, 4], [509.7, 803.92, 580.49, 454.23, 333.76, 863.22, 864.89],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "arguments", "pixels", "counts", "boxes"), RECORDED)
def test_mixes_equal_those_recorded_from_the_reference(kind, arguments, pixels, counts, boxes):
    out = passed(kind((100, 80), **arguments), stream(12))[5:]
    assert [len(each["gt_bboxes_labels"]) for each in out] == counts
    assert [float(each["gt_bboxes"].sum()) for each in out] == pytest.approx(boxes, abs=0.02)
    # MixUp of the reference scales its second image in floating point, ours in bytes.
    within = 0 if kind is CachedMosaic else pixels / 1000
    assert abs(sum(int(each["img"].astype(int).sum()) for each in out) - pixels) <= within


def test_the_cache_keeps_the_newest_and_no_more_than_it_may():
    for random_pop in (True, False):
        np.random.seed(0)
        cache = ImageCache((10, 10), 4, random_pop)
        for number in range(50):
            newest = cache.put(made_up(number, 20, 30, 1))
            assert len(cache) == min(number + 1, 4)
            assert cache.images[-1] is newest
            assert newest.img.shape[1] == 10  # as small as it will be needed
        kept = {float(image.instances["gt_bboxes"][0, 0]) for image in cache.images}
        last = {float(made_up(number, 20, 30, 1)["gt_bboxes"][0, 0]) for number in range(46, 50)}
        assert (kept == last) is not random_pop
        assert {id(cache.draw()) for _ in range(200)} == {id(image) for image in cache.images[:3]}


def test_a_copy_remembers_nothing():
    transform = CachedMosaic((50, 40), max_cached_images=7, random_pop=False)
    passed(transform, stream(5))
    for twin in (copy.deepcopy(transform), pickle.loads(pickle.dumps(transform))):
        assert len(twin.cache) == 0
        assert (twin.cache.max_cached_images, twin.cache.random_pop) == (7, False)
    assert len(transform.cache) == 5


def test_a_mosaic_with_the_smallest_cache_is_made_all_the_same():
    out = passed(CachedMosaic((50, 40), max_cached_images=4), stream(8))
    assert [each["img"].shape[:2] == (80, 100) for each in out] == [False] * 3 + [True] * 5


def test_what_later_steps_do_to_an_image_does_not_reach_the_cache():
    # Of the last image the frame is the size, so that it need not be scaled.
    samples = [*stream(3), made_up(3, 40, 50, 3)]

    def spoiled(transform):
        np.random.seed(3)
        for sample in copy.deepcopy(samples):
            masks = np.ones((len(sample["gt_bboxes"]), *sample["img_shape"]), np.uint8)
            out = transform({**sample, "gt_masks": BitmapMasks(masks, *sample["img_shape"])})
            yield out["gt_masks"].masks.sum()
            for key in ("img", "gt_bboxes", "gt_bboxes_labels"):
                out[key][...] = 77
            out["gt_masks"].masks[...] = 0

    transform = CachedMosaic((50, 40), max_cached_images=40)
    assert sum(spoiled(transform)) > 0
    for kept, sample in zip(transform.cache.images, samples, strict=True):
        assert (kept.img != 77).any()
        assert np.array_equal(kept.instances["gt_bboxes"], sample["gt_bboxes"])
        assert kept.instances["gt_masks"].masks.all()


def test_images_without_objects_are_passed_over_by_mixup():
    empty, full = made_up(0, 40, 50, 0), made_up(1, 40, 50, 3)
    transform = CachedMixUp((50, 40), max_cached_images=5)
    np.random.seed(0)
    assert len(transform(dict(empty))["gt_bboxes"]) == 0
    before = transform({**full})
    assert before["img"] is full["img"]  # there was none with objects to mix it with
    assert len(transform(made_up(2, 40, 50, 1))["gt_bboxes"]) == 4


@pytest.mark.parametrize(("make", "message"), [
    (lambda: CachedMosaic(max_cached_images=3), "takes four images: max_cached_images is 3"),
    (lambda: CachedMosaic(prob=2), "prob must lie"),
    (lambda: CachedMosaic(center_ratio_range=(1.5, 0.5)), "center_ratio_range must be two rising"),
    (lambda: CachedMixUp(max_cached_images=1), "takes two images: max_cached_images is 1"),
    (lambda: CachedMixUp(prob=-0.1), "prob must lie"), (lambda: CachedMixUp(max_iters=0), "max_iters"),
    (lambda: CachedMixUp(pad_val=300), "pad_val must be a number from 0 to 255"),
])  # fmt: skip
def test_arguments_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("kind", [CachedMosaic, CachedMixUp])
def test_label_maps_and_proposals_are_refused_at_once(kind):
    with pytest.raises(DataError, match=f"{kind.__name__} mixes boxes and masks, but no label maps"):
        kind()({**made_up(0, 40, 50, 1), "gt_seg_map": np.zeros((40, 50), np.uint8)})
    with pytest.raises(DataError, match=f"{kind.__name__} mixes boxes and masks, but no proposals"):
        kind()({**made_up(0, 40, 50, 1), "proposals": np.zeros((0, 4), np.float32)})


def loader(tiny_cfg, num_workers, batches=0):
    pipeline = [
        {"type": "LoadImageFromFile"}, {"type": "LoadAnnotations", "with_bbox": True},
        {"type": "CachedMosaic", "img_scale": (32, 24), "max_cached_images": 6},
        {"type": "RandomFlip", "prob": 0.5},
        {"type": "CachedMixUp", "img_scale": (32, 24), "max_cached_images": 4},
        {"type": "PackDetInputs"},
    ]
    cfg = {"batch_size": 2, "num_workers": num_workers, "dataset": tiny_cfg(pipeline=pipeline)}
    made = build_dataloader({**cfg, "sampler": {"type": "InfiniteSampler"}}, seed=1)
    made.load_state_dict({**made.state_dict(), "batches": batches})
    return made


def taken(source, count):
    batches = [
        [
            (sample.img_id, int(image.sum()), sample.gt_instances.bboxes.tolist())
            for image, sample in zip(*batch.values(), strict=True)
        ]
        for batch in itertools.islice(source, count)
    ]
    source.close()
    return batches


def test_the_same_seed_and_number_of_workers_give_the_same_mixes(tiny_cfg):
    alone = taken(loader(tiny_cfg, 0), 9)
    assert taken(loader(tiny_cfg, 0), 9) == alone
    assert taken(loader(tiny_cfg, 1), 9) == alone  # one worker sees what one process sees
    two = taken(loader(tiny_cfg, 2), 9)
    assert taken(loader(tiny_cfg, 2), 9) == two


def test_two_workers_and_a_resumed_run_have_the_same_images_but_mix_others(tiny_cfg):
    def images(batches):
        return [[sample[0] for sample in batch] for batch in batches]

    alone, two = taken(loader(tiny_cfg, 0), 9), taken(loader(tiny_cfg, 2), 9)
    assert images(two) == images(alone)
    assert two != alone
    resumed = taken(loader(tiny_cfg, 0, batches=4), 5)
    assert images(resumed) == images(alone[4:])
    assert resumed != alone[4:]  # its caches began empty
    assert taken(loader(tiny_cfg, 0, batches=4), 5) == resumed
