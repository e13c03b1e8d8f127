import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detcore.ops import batched_nms, multiclass_nms, nms, soft_nms
from detcore.structures.bbox import bbox_overlaps

NMS = {"type": "nms", "iou_threshold": 0.5}


def problem(n, classes=5, seed=0, size=300):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(n, 2, generator=generator) * size
    boxes = torch.cat([corners, corners + 10 + torch.rand(n, 2, generator=generator) * size / 3], 1)
    scores = torch.rand(n, generator=generator)
    return boxes, scores, torch.randint(0, classes, (n,), generator=generator)


def greedy(boxes, scores, threshold):
    """The definition, written out."""
    overlaps = bbox_overlaps(boxes, boxes)
    left, keep = scores.argsort(descending=True, stable=True).tolist(), []
    while left:
        best, *rest = left
        keep.append(best)
        left = [i for i in rest if overlaps[best, i] <= threshold]
    return keep


@pytest.mark.parametrize("n", [0, 1, 2, 40])
def test_suppression_is_that_of_the_definition(n):
    boxes, scores, _ = problem(n)
    dets, keep = nms(boxes, scores, 0.5)
    assert keep.tolist() == greedy(boxes, scores, 0.5)
    assert dets.shape == (len(keep), 5)
    assert torch.equal(dets, torch.cat([boxes[keep], scores[keep, None]], 1))


@pytest.mark.parametrize("n", [0, 1, 30, 400, 1100])
@pytest.mark.parametrize("split_thr", [10000, 20])
def test_classes_do_not_touch_each_other(n, split_thr):
    boxes, scores, idxs = problem(n)
    dets, keep = batched_nms(boxes, scores, idxs, {**NMS, "split_thr": split_thr})
    want = []
    for c in range(5):
        members = (idxs == c).nonzero().flatten()
        want += members[greedy(boxes[members], scores[members], 0.5)].tolist()
    assert sorted(keep.tolist()) == sorted(want)
    assert (dets[:-1, 4] >= dets[1:, 4]).all()
    assert torch.equal(dets[:, :4], boxes[keep])


def test_many_classes_of_large_coordinates_do_not_blur():
    # Two boxes whose IoU is just on one side of the threshold, as class 0 and as class 9,999.
    boxes = torch.tensor([[0.0, 0, 100, 100], [0, 0, 100, 50.01], [4000.25, 0, 4001, 1]])
    for label in (0, 9999):
        idxs = torch.tensor([label, label, 3])
        assert len(batched_nms(boxes, torch.tensor([0.9, 0.8, 0.7]), idxs, NMS)[1]) == 2
        boxes[1, 3] = 49.99
        assert len(batched_nms(boxes, torch.tensor([0.9, 0.8, 0.7]), idxs, NMS)[1]) == 3
        boxes[1, 3] = 50.01


def test_negative_coordinates_do_not_reach_into_the_next_class():
    boxes = torch.tensor([[0.0, 0, 50, 50], [-51, -51, -1, -1], [-51, -51, -1, -1]])
    _, keep = batched_nms(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 1, 1]), NMS)
    assert keep.tolist() == [0, 1]


def test_a_broken_box_does_not_change_the_others():
    boxes, scores, idxs = problem(30)
    _, keep = batched_nms(boxes, scores, idxs, NMS)
    for value in (float("nan"), float("inf")):
        broken = torch.cat([boxes, torch.full((1, 4), value)])
        scores_now, idxs_now = torch.cat([scores, scores.new_zeros(1)]), torch.cat([idxs, idxs[:1]])
        _, now = batched_nms(broken, scores_now, idxs_now, NMS)
        assert [k for k in now.tolist() if k < 30] == keep.tolist()


def test_options_of_nms_cfg():
    boxes, scores, idxs = problem(60)
    every, keep = batched_nms(boxes, scores, idxs, None)
    assert len(every) == 60
    assert keep.tolist() == scores.argsort(descending=True).tolist()
    dets, _ = batched_nms(boxes, scores, idxs, NMS)
    limited, _ = batched_nms(boxes, scores, idxs, {**NMS, "max_num": 3})
    assert torch.equal(limited, dets[:3])
    across = nms(boxes, scores, 0.5)[1]
    assert torch.equal(batched_nms(boxes, scores, idxs, {**NMS, "class_agnostic": True})[1], across)
    assert torch.equal(batched_nms(boxes, scores, idxs, NMS, class_agnostic=True)[1], across)
    assert torch.equal(batched_nms(boxes, scores, idxs, {"iou_threshold": 0.5})[0], dets)
    above, _ = batched_nms(boxes, scores, idxs, {**NMS, "score_threshold": 0.5})
    assert above[:, 4].min() > 0.5
    assert NMS == {"type": "nms", "iou_threshold": 0.5}


def test_offset_counts_the_last_pixel():
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 4]])  # 10 x 10 and 10 x 5 pixels: IoU 0.5, else 0.444
    scores = torch.tensor([0.9, 0.8])
    assert len(nms(boxes, scores, 0.45, offset=1)[1]) == 1
    assert len(nms(boxes, scores, 0.45, offset=0)[1]) == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("cfg", [NMS, {"type": "soft_nms"}], ids=["nms", "soft_nms"])
def test_other_precisions_work_and_are_kept(dtype, cfg):
    boxes, scores, idxs = problem(20)
    dets, keep = batched_nms(boxes.to(dtype), scores.to(dtype), idxs, cfg)
    assert dets.dtype == dtype
    assert keep.dtype == torch.long
    for n in (0, 1):
        dets, keep = batched_nms(boxes[:n].to(dtype), scores[:n].to(dtype), idxs[:n], cfg)
        assert (len(dets), len(keep)) == (n, n)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(2, 5), torch.zeros(2), torch.zeros(2), NMS), r"boxes must be \[N, 4\]"),
        ((torch.zeros(2, 4), torch.zeros(3), torch.zeros(2), NMS), r"2 boxes need scores \[2\]"),
        ((torch.zeros(2, 4), torch.zeros(2), torch.zeros(3), NMS), "as many idxs, got 3"),
        ((torch.zeros(2, 4), torch.zeros(2), torch.zeros(2), {"type": "nmx"}), "'nmx'"),
        ((torch.zeros(2, 4), torch.zeros(2), torch.zeros(2), {"iou_thr": 0.5}), "iou_thr.*iou_threshold"),
        ((torch.zeros(2, 4), torch.zeros(2), torch.zeros(2), {"type": "nms"}), "needs iou_threshold"),
        ((torch.zeros(2, 4), torch.zeros(2), torch.zeros(2), {**NMS, "offset": 2}), "offset must be 0 or 1"),
        ((torch.zeros(2, 4), torch.zeros(2), torch.zeros(2), {"type": "soft_nms", "method": "x"}), "'x'"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        batched_nms(*arguments)


def soft_by_definition(boxes, scores, weight, min_score):
    overlaps = bbox_overlaps(boxes, boxes)
    left = {i: s for i, s in enumerate(scores.tolist()) if s > min_score}
    found = []
    while left:
        best = max(left, key=left.get)
        found.append((best, left.pop(best)))
        left = {i: s * weight(overlaps[best, i].item()) for i, s in left.items()}
        left = {i: s for i, s in left.items() if s > min_score}
    return found


@pytest.mark.parametrize(
    ("method", "weight"),
    [
        ("linear", lambda iou: 1 - iou if iou > 0.3 else 1),
        ("gaussian", lambda iou: torch.tensor(-(iou**2) / 0.5).exp().item()),
        ("naive", lambda iou: 0 if iou > 0.3 else 1),
    ],
)
def test_soft_suppression_is_that_of_the_definition(method, weight):
    boxes, scores, _ = problem(40)
    dets, keep = soft_nms(boxes, scores, method=method, min_score=0.05)
    want = soft_by_definition(boxes, scores, weight, 0.05)
    assert keep.tolist() == [i for i, _ in want]
    assert torch.allclose(dets[:, 4], torch.tensor([s for _, s in want]), atol=1e-5)


def test_soft_suppression_by_class_sorts_over_all_classes():
    boxes, scores, idxs = problem(50)
    dets, keep = batched_nms(boxes, scores, idxs, {"type": "soft_nms", "max_num": 20, "min_score": 0.01})
    assert len(dets) == 20
    assert (dets[:-1, 4] >= dets[1:, 4]).all()
    assert torch.equal(dets[:, :4], boxes[keep])
    assert (dets[:, 4] <= scores[keep] + 1e-6).all()


def test_naive_soft_suppression_equals_the_hard_one():
    boxes, scores, _ = problem(60)
    _, keep = soft_nms(boxes, scores, iou_threshold=0.5, method="naive", min_score=0)
    assert torch.equal(keep, nms(boxes, scores, 0.5)[1])


@pytest.mark.parametrize("per_class", [False, True])
def test_scores_of_all_classes_at_once(per_class):
    boxes, _, _ = problem(12)
    scores = torch.rand(12, 4, generator=torch.Generator().manual_seed(1))  # 3 classes and the background
    given_boxes = torch.cat([boxes, boxes + 1, boxes + 2], 1) if per_class else boxes
    dets, labels, inds = multiclass_nms(given_boxes, scores, 0.4, NMS, max_num=6, return_inds=True)
    assert len(dets) == 6
    assert labels.max() < 3
    assert torch.equal(labels, inds % 3)
    assert torch.equal(dets[:, 4], scores[inds // 3, labels])
    assert torch.equal(dets[:, :4], boxes[inds // 3] + (labels[:, None] if per_class else 0))
    assert dets[:, 4].min() > 0.4
    halved = multiclass_nms(given_boxes, scores, 0.4, None, score_factors=torch.full((12,), 0.5))[0]
    assert halved[:, 4].max() == scores[:, :3].max() / 2
    empty, no_labels = multiclass_nms(given_boxes, scores, 2.0, NMS)
    assert (empty.shape, no_labels.shape) == ((0, 5), (0,))
    with pytest.raises(ValueError, match="3 classes"):
        multiclass_nms(torch.zeros(12, 8), scores, 0.4, NMS)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 60), st.integers(1, 6), st.floats(0.05, 0.95), st.integers(0, 10**6))
def test_what_is_kept_is_apart_and_what_is_gone_was_covered(n, classes, threshold, seed):
    boxes, scores, idxs = problem(n, classes, seed)
    _, keep = batched_nms(boxes, scores, idxs, {"iou_threshold": threshold})
    overlaps = bbox_overlaps(boxes, boxes) * (idxs[:, None] == idxs[None])
    kept = overlaps[keep][:, keep].fill_diagonal_(0)
    assert (kept <= threshold + 1e-5).all()
    for gone in set(range(n)) - set(keep.tolist()):
        better = [k for k in keep.tolist() if scores[k] >= scores[gone]]
        assert overlaps[better, gone].max() > threshold - 1e-5


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 1300), st.integers(1, 40), st.integers(1, 120), st.booleans(), st.booleans(),
    st.integers(0, 10**6),
)  # fmt: skip
def test_the_best_few_are_those_of_all(n, classes, limit, crowded, agnostic, seed):
    # Crowded: few of the best stay, so that more have to be looked at. Ten scores: nearly all have equals.
    boxes, scores, idxs = problem(n, classes, seed, size=30 if crowded else 3000)
    scores = (scores * 10).round() / 10
    cfg = {**NMS, "class_agnostic": agnostic}
    dets, keep = batched_nms(boxes, scores, idxs, cfg)
    for few in (
        batched_nms(boxes, scores, idxs, cfg, max_num=limit),
        batched_nms(boxes, scores, idxs, {**cfg, "max_num": limit}),
        batched_nms(boxes, scores, idxs, {**cfg, "max_num": limit}, max_num=limit + 1),
        batched_nms(boxes, scores, idxs, {**cfg, "max_num": limit + 1}, max_num=limit),
    ):
        assert torch.equal(few[1], keep[:limit])
        assert torch.equal(few[0], dets[:limit])


@pytest.mark.parametrize("split_thr", [10000, 20])
def test_of_equal_scores_the_first_comes_first(split_thr):
    boxes, _, idxs = problem(1200, 7, size=10**5)
    _, keep = batched_nms(boxes, torch.full((1200,), 0.5), idxs, {**NMS, "split_thr": split_thr})
    assert torch.equal(keep, keep.sort().values)
    assert len(keep) > 1000


def test_a_limit_without_suppression():
    boxes, scores, idxs = problem(20)
    dets, keep = batched_nms(boxes, scores, idxs, None, max_num=3)
    assert torch.equal(keep, scores.topk(3).indices)
    assert torch.equal(dets[:, 4], scores.topk(3).values)
