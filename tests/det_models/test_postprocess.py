import math

import pytest
import torch
from det_models.postprocess import flatten_level, logit_bound, rescale_boxes, suppress, top_candidates
from hypothesis import given, settings
from hypothesis import strategies as st

from detcore.structures import InstanceData


def instances(boxes, scores, labels):
    return InstanceData(
        bboxes=torch.tensor(boxes).float().reshape(-1, 4),
        scores=torch.tensor(scores).float(),
        labels=torch.tensor(labels).long(),
    )


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([1, 3, 50, 10**6, -1]),
    st.sampled_from([-math.inf, 0.0, 1.5, 99.0]),
    st.sampled_from([1, 2]),
)
def test_the_best_pairs_are_found(seed, limit, least, images):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(images, 3 * 4, 5, 6, generator=generator)
    values, priors, labels = top_candidates(maps.unflatten(1, (3, 4)), limit, least)
    flat = flatten_level(maps, 4)
    for image in range(images):
        found = flat[image, priors[image], labels[image]]
        torch.testing.assert_close(found, values[image])
        entries = flat[image].flatten()
        want = entries[entries > least].sort(descending=True).values[: limit if limit > 0 else None]
        got = values[image][values[image] > least].sort(descending=True).values
        torch.testing.assert_close(got, want)


def test_memory_order_of_maps_does_not_matter():
    maps = torch.randn(2, 3 * 4, 5, 6, generator=torch.Generator().manual_seed(0))
    last = maps.to(memory_format=torch.channels_last)
    one = top_candidates(maps.unflatten(1, (3, 4)), 20, -9.0)
    other = top_candidates(last.unflatten(1, (3, 4)), 20, -9.0)
    for left, right in zip(one, other, strict=True):
        assert sorted(left.flatten().tolist()) == sorted(right.flatten().tolist())


def test_the_bound_on_logits_loses_nothing():
    assert logit_bound(0.0) == -math.inf
    assert logit_bound(1.0) == math.inf
    assert torch.tensor(logit_bound(0.05)).sigmoid() < 0.05
    assert torch.tensor(logit_bound(0.05)).sigmoid() > 0.045


def test_doubles_and_surplus_are_dropped():
    found = instances(
        [[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 9], [30, 30, 31, 60], [50, 50, 70, 70]],
        [0.9, 0.8, 0.7, 0.6, 0.5],
        [0, 0, 1, 0, 0],
    )
    nms = {"type": "nms", "iou_threshold": 0.5}
    got = suppress(found, nms)
    assert got.scores.tolist() == pytest.approx([0.9, 0.7, 0.6, 0.5])
    assert suppress(found, nms, max_per_img=2).labels.tolist() == [0, 1]
    assert len(suppress(found, None, max_per_img=2)) == 5
    assert nms == {"type": "nms", "iou_threshold": 0.5}


def test_soft_suppression_lowers_scores():
    found = instances([[0, 0, 10, 10], [0, 0, 10, 9]], [0.9, 0.8], [0, 0])
    got = suppress(found, {"type": "soft_nms", "iou_threshold": 0.3, "min_score": 0.01})
    assert len(got) == 2
    assert float(got.scores[1]) < 0.8


def test_nothing_stays_nothing():
    assert len(suppress(instances([], [], []), {"type": "nms", "iou_threshold": 0.5}, 10)) == 0


def test_boxes_return_to_the_original_images_pixels():
    boxes = torch.tensor([[[2.0, 3.0, 4.0, 6.0]]] * 2)
    assert rescale_boxes(boxes, [(2.0, 3.0), (1.0, 1.0)]).tolist() == [[[1, 1, 2, 2]], [[2, 3, 4, 6]]]
    assert rescale_boxes(boxes, [(1.0, 1.0)] * 2) is boxes
