"""Views of an image, batches with branches, and what becomes of them."""

import numpy as np
import pytest
import torch

from det_semi.branches import MultiBranch
from det_semi.preprocess import MultiBranchDataPreprocessor
from detcore.data import collate_lists
from detcore.errors import ConfigError, DataError
from detcore.registry import MODELS, TRANSFORMS

PACK = {"type": "PackDetInputs", "meta_keys": ["img_path", "homography_matrix"]}


def results(value=0):
    return {
        "img": np.full((8, 10, 3), value, np.uint8), "img_shape": (8, 10), "ori_shape": (8, 10),
        "img_path": f"{value}.jpg", "gt_bboxes": np.array([[1, 1, 4, 4]], np.float32),
        "gt_bboxes_labels": np.array([0]),
    }  # fmt: skip


def build(**given):
    return TRANSFORMS.build({"type": "semi.MultiBranch", **given})


def test_each_view_has_a_pipeline_of_its_own():
    flip = {"type": "RandomFlip", "prob": 1.0}
    packed = build(weak=[PACK], strong=[flip, PACK])(results(3))
    assert set(packed) == {"inputs", "data_samples"}
    assert set(packed["inputs"]) == {"weak", "strong"}
    boxes = {name: sample.gt_instances.bboxes.tolist() for name, sample in packed["data_samples"].items()}
    assert boxes == {"weak": [[1, 1, 4, 4]], "strong": [[6, 1, 9, 4]]}


def test_a_view_that_nothing_moved_has_a_homography_all_the_same():
    packed = build(weak=PACK)(results())
    np.testing.assert_array_equal(packed["data_samples"]["weak"].metainfo["homography_matrix"], np.eye(3))


def test_a_view_that_is_refused_refuses_the_sample():
    assert MultiBranch(weak=[lambda _: None])(results()) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "no pipeline"),
        ({"branch_field": ["sup", "unsup_teacher"], "spu": PACK}, "pipelines for spu.*sup, unsup_teacher"),
    ],
)
def test_mistakes_are_named(given, message):
    with pytest.raises(ConfigError, match=message):
        build(**given)


def preprocessor():
    return MODELS.build(
        {
            "type": "semi.MultiBranchDataPreprocessor",
            "data_preprocessor": {"type": "DetDataPreprocessor", "pad_size_divisor": 8},
        }
    )


@pytest.mark.parametrize("field", [None, ["sup", "weak", "strong"]])
def test_a_batch_of_both_kinds_is_prepared_branch_by_branch(field):
    labelled = build(branch_field=field, sup=PACK)
    unlabelled = build(branch_field=field, weak=PACK, strong=PACK)
    batch = collate_lists([labelled(results(1)), unlabelled(results(2)), unlabelled(results(3))])
    assert [entry is None for entry in batch["inputs"]["weak"]] == [True, False, False]
    ready = preprocessor()(batch, training=True)
    shapes = {name: tuple(value.shape) for name, value in ready["inputs"].items()}
    assert shapes == {"sup": (1, 3, 8, 16), "weak": (2, 3, 8, 16), "strong": (2, 3, 8, 16)}
    paths = {name: [s.metainfo["img_path"] for s in value] for name, value in ready["data_samples"].items()}
    assert paths == {"sup": ["1.jpg"], "weak": ["2.jpg", "3.jpg"], "strong": ["2.jpg", "3.jpg"]}
    assert ready["data_samples"]["weak"][0].metainfo["batch_input_shape"] == (8, 16)


def test_a_branch_without_images_is_left_out():
    batch = collate_lists([build(branch_field=["sup", "weak"], sup=PACK)(results())])
    batch["inputs"]["weak"] = batch["data_samples"]["weak"] = [None]
    assert set(preprocessor()(batch, training=True)["inputs"]) == {"sup"}


def test_a_batch_without_branches_passes_as_usual():
    packed = TRANSFORMS.build(PACK)(results(5))
    ready = preprocessor()(collate_lists([packed, packed]), training=False)
    assert ready["inputs"].shape == (2, 3, 8, 16)


def test_images_and_samples_of_different_numbers_are_refused():
    with pytest.raises(DataError, match="branch 'sup' has 1 images and 0 samples"):
        preprocessor()({"inputs": {"sup": [torch.zeros(3, 8, 8)]}, "data_samples": {}}, training=True)


def test_it_has_no_weights_and_tells_its_device():
    made = MultiBranchDataPreprocessor({"type": "DetDataPreprocessor"})
    assert not made.state_dict()
    assert made.device == torch.device("cpu")
