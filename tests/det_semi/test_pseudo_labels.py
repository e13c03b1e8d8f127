"""Boxes on their way from the teacher's view to the student's, and which of them go."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from det_semi.pseudo_labels import (
    above,
    as_one_class,
    between_views,
    chosen,
    homography_of,
    into_view,
    to_original,
    weighted,
    wider_than,
    with_instances,
)
from detcore.errors import DataError
from detcore.registry import TRANSFORMS
from detcore.structures import DetDataSample, InstanceData
from detcore.structures.bbox import bbox_project

LARGE = (10_000, 10_000)


def sample(matrix, boxes=(), shape=LARGE, scores=None, **fields):
    made = DetDataSample(
        metainfo={"homography_matrix": matrix, "img_shape": shape, "ori_shape": shape, "img_path": "a.jpg"}
    )
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    made.gt_instances = InstanceData(
        bboxes=boxes,
        labels=torch.arange(len(boxes)),
        scores=torch.ones(len(boxes)) if scores is None else torch.tensor(scores),
    )
    for name, value in fields.items():
        setattr(made.gt_instances, name, value)
    return made


@settings(max_examples=60, deadline=None)
@given(
    scale=st.floats(0.2, 4), flip=st.booleans(), shift=st.tuples(st.floats(0, 500), st.floats(0, 500)),
    corner=st.tuples(st.floats(0, 600), st.floats(0, 400)),
    size=st.tuples(st.floats(1, 300), st.floats(1, 300)),
)  # fmt: skip
def test_there_and_back_is_where_it_began(scale, flip, shift, corner, size):
    width = 1333.0
    mirror = np.array([[-1, 0, width], [0, 1, 0], [0, 0, 1.0]]) if flip else np.eye(3)
    matrix = np.array([[scale, 0, shift[0]], [0, scale * 1.1, shift[1]], [0, 0, 1]]) @ mirror
    box = [*corner, corner[0] + size[0], corner[1] + size[1]]
    there = bbox_project(torch.tensor([box]), matrix.astype(np.float32))  # what a view's transforms did
    view = sample(matrix.astype(np.float32), there.tolist())
    back = to_original(view).gt_instances.bboxes
    assert back[0].tolist() == pytest.approx(box, abs=1e-3)
    again = into_view(to_original(view).gt_instances, view).gt_instances.bboxes
    inside = there.clamp(min=0)
    assert again[0].tolist() == pytest.approx(inside[0].tolist(), abs=1e-3)


@pytest.mark.parametrize("angle", [0.0, 0.3, -1.2])
def test_a_point_goes_from_view_to_view_as_through_the_original(angle):
    c, s = math.cos(angle), math.sin(angle)
    teacher = np.array([[c, -s, 40], [s, c, 7], [0, 0, 1]], np.float32)
    student = np.array([[2, 0.1, -3], [0, 1.5, 9], [0, 0, 1]], np.float32)
    direct = between_views(sample(teacher), sample(student))
    point = np.array([12.0, 34.0, 1.0])
    np.testing.assert_allclose(direct @ (teacher @ point), student @ point, atol=1e-4)


@pytest.mark.parametrize("name", ["Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY", "RandomFlip"])
def test_boxes_follow_what_the_pipeline_did(name):
    """A painted mark is found in the box that the homography says."""
    img = np.zeros((120, 160, 3), np.uint8)
    img[50:70, 60:90] = 255
    arguments = {"prob": 1.0} if name == "RandomFlip" else {"prob": 1.0, "level": 4}
    np.random.seed(0)
    made = TRANSFORMS.build({"type": name, **arguments})(
        {"img": img, "img_shape": (120, 160), "ori_shape": (120, 160)}
    )
    box = sample(np.eye(3), [[60, 50, 90, 70]], (120, 160)).gt_instances
    moved = into_view(box, sample(made["homography_matrix"], shape=(120, 160))).gt_instances.bboxes[0]
    ys, xs = np.nonzero((made["img"] > 200).all(-1))
    seen = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    assert moved.tolist() == pytest.approx(seen, abs=2.0)


def test_boxes_are_cut_to_the_view_and_small_ones_left_out():
    view = sample(np.array([[1, 0, -50], [0, 1, 0], [0, 0, 1]], np.float32), shape=(100, 100))
    boxes = torch.tensor([[10.0, 10, 40, 40], [40, 10, 70, 40], [0, 0, 300, 300]])
    moved = into_view(InstanceData(bboxes=boxes), view)
    assert moved.gt_instances.bboxes.tolist() == [[0, 10, 0, 40], [0, 10, 20, 40], [0, 0, 100, 100]]
    kept = chosen([moved], wider_than((1e-2, 1e-2)))[0].gt_instances
    assert kept.bboxes.tolist() == [[0, 10, 20, 40], [0, 0, 100, 100]]


def test_thresholds_are_exclusive_and_keep_every_field_in_step():
    made = sample(np.eye(3), [[0, 0, 5, 5]] * 3, scores=[0.9, 0.91, 0.2], reg_uncs=torch.tensor([1.0, 2, 3]))
    kept = chosen([made], above(0.9))[0].gt_instances
    assert kept.labels.tolist() == [1]
    assert kept.reg_uncs.tolist() == [2.0]
    assert len(made.gt_instances) == 3  # what was given stays as it was


def test_no_boxes_stay_no_boxes():
    empty = sample(np.eye(3))
    assert len(to_original(empty).gt_instances) == 0
    assert len(chosen([empty], above(0.5))[0].gt_instances) == 0
    assert into_view(empty.gt_instances, empty).gt_instances.bboxes.shape == (0, 4)


def test_one_class_leaves_the_labels_of_the_given_samples():
    made = sample(np.eye(3), [[0, 0, 5, 5]] * 3)
    assert as_one_class([made])[0].gt_instances.labels.tolist() == [0, 0, 0]
    assert made.gt_instances.labels.tolist() == [0, 1, 2]
    assert with_instances(made, made.gt_instances[:1]).metainfo == made.metainfo


def test_only_losses_are_weighted():
    losses = {"loss_cls": torch.tensor(2.0), "acc": torch.tensor(50.0), "loss_bbox": [torch.tensor(1.0)] * 2}
    assert weighted(losses, 4.0, "unsup_") == {
        "unsup_loss_cls": 8.0, "unsup_acc": 50.0, "unsup_loss_bbox": [4.0, 4.0],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("matrix", "message"),
    [(None, "meta_keys"), (np.zeros((3, 3)), "invertible"), (np.eye(2), "3 x 3"), (np.eye(3) * np.nan, "3")],
)
def test_a_missing_or_useless_homography_is_named(matrix, message):
    made = DetDataSample(metainfo={} if matrix is None else {"homography_matrix": matrix})
    with pytest.raises(DataError, match=message):
        homography_of(made)
