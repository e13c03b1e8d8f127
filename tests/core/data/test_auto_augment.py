"""Policies, random choices and orders of transforms, and annotations of unlabelled images."""
import copy
from collections import Counter

import numpy as np
import pytest

from detcore.data.transforms.auto_augment import AutoAugment, RandAugment
from detcore.data.transforms.color import ColorTransform, Equalize, Invert
from detcore.data.transforms.compose import RandomOrder
from detcore.data.transforms.geometric import GeomTransform
from detcore.data.transforms.load import LoadEmptyAnnotations
from detcore.registry import TRANSFORMS
from detcore.structures.mask import BitmapMasks
from detcore.testing import tiny_results

COLORS = (
    "ColorTransform", "AutoContrast", "Equalize", "Sharpness", "Posterize", "Solarize", "Color", "Contrast",
    "Brightness",
)  # fmt: skip
MOVES = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")


def leaves_its_name(name):
    def step(results):
        return {**results, "trace": (*results.get("trace", ()), name)}

    return step


def refuse(results):
    return None


def traces(transform, times=300):
    np.random.seed(0)
    return [transform({}).get("trace", ()) for _ in range(times)]


def test_rand_augment_draws_different_ones_in_any_order():
    seen = Counter(traces(RandAugment([[leaves_its_name(name)] for name in "abcd"], aug_num=2), 600))
    assert set(seen) == {(one, two) for one in "abcd" for two in "abcd" if one != two}
    assert min(seen.values()) > 20  # 50 of each are expected


def test_rand_augment_follows_the_probabilities():
    space = [[leaves_its_name(name)] for name in "abc"]
    drawn = Counter(trace[0] for trace in traces(RandAugment(space, aug_num=1, prob=[0.7, 0.3, 0.0]), 1000))
    assert drawn.keys() == {"a", "b"}
    assert 620 < drawn["a"] < 780


def test_rand_augment_may_draw_none_or_all():
    space = [[leaves_its_name(name)] for name in "abc"]
    assert set(traces(RandAugment(space, aug_num=0), 5)) == {()}
    assert {tuple(sorted(trace)) for trace in traces(RandAugment(space, aug_num=3), 20)} == {("a", "b", "c")}


def test_auto_augment_applies_one_policy_in_its_order():
    policies = [[leaves_its_name("a"), leaves_its_name("b")], [leaves_its_name("c")]]
    assert set(traces(AutoAugment(policies))) == {("a", "b"), ("c",)}
    assert set(traces(AutoAugment(policies, prob=[0.0, 1.0]))) == {("c",)}


def test_random_order_applies_all_in_any_order():
    seen = Counter(traces(RandomOrder([leaves_its_name(name) for name in "abc"]), 600))
    assert len(seen) == 6
    assert min(seen.values()) > 60


@pytest.mark.parametrize(
    "transform",
    [RandAugment([[refuse], [refuse]]), AutoAugment([[refuse, leaves_its_name("a")]]), RandomOrder([refuse])],
    ids=lambda transform: type(transform).__name__,
)
def test_a_refusal_ends_it(transform):
    assert transform({}) is None


def test_the_defaults_are_those_of_the_papers():
    transform = AutoAugment()
    assert len(transform.transforms) == 25
    assert all(len(policy.transforms) == 2 for policy in transform.transforms)
    first, second = transform.transforms[0].transforms
    assert repr(first) == "Equalize(prob=0.8, level=1, min_mag=0.1, max_mag=1.9)"
    assert repr(second).startswith("ShearY(prob=0.8, level=4, ")
    names = [type(each.transforms[0]).__name__ for each in RandAugment().choice.transforms]
    assert len(set(names)) == 15
    assert {"Rotate", "SolarizeAdd", "Sharpness"} < set(names)


@pytest.mark.parametrize("cfg", [{"type": "AutoAugment"}, {"type": "RandAugment", "aug_num": 3}], ids=str)
def test_the_defaults_run_on_pictures(cfg):
    transform = TRANSFORMS.build(cfg)
    changed = 0
    for seed in range(40):
        given = tiny_results()
        np.random.seed(seed)
        out = transform(copy.deepcopy(given))
        assert out["img"].shape == given["img"].shape
        assert len(out["gt_bboxes"]) == len(out["gt_masks"]) == 3
        changed += not np.array_equal(out["img"], given["img"])
    assert changed > 25


def test_the_pipelines_of_semi_supervised_training_build_from_configs():
    """Those of the manual (3.12.2): the student's strong changes, which keep the homography."""
    strong = [
        {"type": "RandomResize", "scale": [(64, 48), (80, 60)], "keep_ratio": True},
        {"type": "RandomFlip", "prob": 0.5},
        {
            "type": "RandomOrder",
            "transforms": [
                {"type": "RandAugment", "aug_space": [[{"type": name}] for name in COLORS], "aug_num": 1},
                {"type": "RandAugment", "aug_space": [[{"type": name}] for name in MOVES], "aug_num": 1},
            ],
        },
        {"type": "RandomErasing", "n_patches": (1, 5), "ratio": (0, 0.2)},
        {"type": "FilterAnnotations", "min_gt_bbox_wh": (1e-2, 1e-2)},
        {"type": "PackDetInputs", "meta_keys": ("img_shape", "homography_matrix", "flip")},
    ]
    pipeline = TRANSFORMS.build({"type": "Compose", "transforms": strong})
    unlabelled = TRANSFORMS.build({"type": "LoadEmptyAnnotations"})
    seen = set()
    for seed in range(10):
        given = tiny_results()
        bare = {key: given[key] for key in ("img", "img_id", "img_path", "img_shape", "ori_shape")}
        for results in (given, unlabelled(bare)):
            np.random.seed(seed)
            packed = pipeline(copy.deepcopy(results))
            sample = packed["data_samples"]
            assert packed["inputs"].shape[1:] == sample.img_shape
            assert sample.homography_matrix.shape == (3, 3)
        assert len(sample.gt_instances) == 0
        seen.add(packed["inputs"].numpy().tobytes())
    assert len(seen) == 10


def test_nested_configs_are_checked():
    with pytest.raises(Exception, match=r"Equalise.*Equalize"):
        TRANSFORMS.build({"type": "RandAugment", "aug_space": [[{"type": "Equalise"}]], "aug_num": 1})
    with pytest.raises(Exception, match="levle"):
        TRANSFORMS.build({"type": "AutoAugment", "policies": [[{"type": "Rotate", "levle": 3}]]})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandAugment([[Invert()]], aug_num=2), "aug_num must be a whole number from 0 to 1, .*got 2"),
        (lambda: RandAugment([[Invert()], [Equalize()]], 2, [1.0, 0.0]), "aug_num .* from 0 to 1"),
        (lambda: RandAugment([[Invert()]], 1, [0.5, 0.5]), "prob needs 1 values that sum to 1"),
        (lambda: RandAugment([]), "RandAugment: aug_space must be a list of lists"),
        (lambda: RandAugment([Invert(), Equalize()]), "RandAugment: aug_space must be a list of lists"),
        (lambda: AutoAugment([[]]), "AutoAugment: policies must be a list of lists"),
        (lambda: AutoAugment([[Invert()]], [0.5]), "prob needs 1 values that sum to 1"),
        (lambda: LoadEmptyAnnotations(seg_ignore_label=300), r"seg_ignore_label must lie in .*, got 300"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_empty_annotations_have_the_shapes_of_loaded_ones():
    out = LoadEmptyAnnotations(with_mask=True, with_seg=True, seg_ignore_label=7)({"img_shape": (5, 6)})
    assert (out["gt_bboxes"].shape, out["gt_bboxes"].dtype) == ((0, 4), np.float32)
    assert (out["gt_bboxes_labels"].shape, out["gt_bboxes_labels"].dtype) == ((0,), np.int64)
    assert (out["gt_ignore_flags"].shape, out["gt_ignore_flags"].dtype) == ((0,), bool)
    assert isinstance(out["gt_masks"], BitmapMasks)
    assert out["gt_masks"].to_ndarray().shape == (0, 5, 6)
    assert out["gt_seg_map"].dtype == np.uint8
    assert (out["gt_seg_map"] == 7).all()
    nothing = LoadEmptyAnnotations(with_bbox=False, with_label=False)({"img_shape": (5, 6)})
    assert nothing.keys() == {"img_shape"}


def test_the_bases_are_choices_that_change_nothing():
    given = tiny_results()
    for transform in (ColorTransform(), GeomTransform()):
        assert np.array_equal(transform(copy.deepcopy(given))["img"], given["img"])
