import pytest
import torch
from det_models import assign
from det_models.assign import AssignResult, MaxIoUAssigner, match_each
from det_models.overlaps import BboxOverlaps2D
from det_models.samplers import PseudoSampler
from det_models.truth import GroundTruth
from hypothesis import given, settings
from hypothesis import strategies as st

from detcore.structures import InstanceData
from detcore.structures.bbox import bbox_overlaps

PRIORS = torch.tensor(
    [
        [0.0, 0, 10, 10],  # equal to the first box
        [0.0, 0, 10, 5],  # half of it
        [0.0, 0, 10, 4.5],  # 0.45 of it
        [50.0, 50, 60, 60],  # on nothing
        [22.0, 20, 32, 30],  # 2/3 of the second
        [24.0, 20, 34, 30],  # 3/7 of it
    ]
)
BOXES = torch.tensor([[0.0, 0, 10, 10], [20.0, 20, 30, 30]])


def truth_of(*boxes, ignored=None, labels=None):
    instances = [
        InstanceData(
            bboxes=each.float().reshape(-1, 4), labels=torch.arange(len(each)) if labels is None else labels
        )
        for each in boxes
    ]
    regions = None if ignored is None else [InstanceData(bboxes=each.reshape(-1, 4)) for each in ignored]
    return GroundTruth.pack(instances, regions)


def random_boxes(count, seed, size=100.0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * size
    return torch.cat([corner, corner + torch.rand(count, 2, generator=generator) * size / 2 + 1], 1)


def by_the_rules(priors, boxes, pos, neg, least, all_of_them=True, low_quality=True):
    """One anchor and one box after the other, straight from the paper."""
    matches = torch.full((len(priors),), -1)
    if not len(boxes):
        return torch.zeros(len(priors), dtype=torch.long)
    overlaps = bbox_overlaps(boxes, priors)
    for a in range(len(priors)):
        best = overlaps[:, a].max()
        if best < neg:
            matches[a] = 0
        elif best >= pos:
            matches[a] = int(overlaps[:, a].argmax()) + 1
    for g in range(len(boxes) if low_quality else 0):
        most = overlaps[g].max()
        if most >= least and most > 0:
            places = (overlaps[g] == most).nonzero().flatten() if all_of_them else [int(overlaps[g].argmax())]
            for a in places:
                matches[a] = g + 1
    return matches


def test_anchors_are_matched_by_hand():
    assigner = MaxIoUAssigner(pos_iou_thr=0.5, neg_iou_thr=0.4, match_low_quality=False)
    assert assigner.match(PRIORS, truth_of(BOXES))[0].tolist() == [1, 1, -1, 0, 2, -1]


def test_every_box_gets_its_best_anchor_however_bad():
    assigner = MaxIoUAssigner(pos_iou_thr=0.9, neg_iou_thr=0.3)
    assert assigner.match(PRIORS, truth_of(BOXES))[0].tolist() == [1, -1, -1, 0, 2, -1]
    strict = MaxIoUAssigner(pos_iou_thr=0.9, neg_iou_thr=0.3, min_pos_iou=0.8)
    assert strict.match(PRIORS, truth_of(BOXES))[0].tolist() == [1, -1, -1, 0, -1, -1]


def test_a_box_that_overlaps_no_anchor_claims_none():
    """With min_pos_iou=0, all anchors would be equally good."""
    assigner = MaxIoUAssigner(pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0)
    assert assigner.match(PRIORS, truth_of(torch.tensor([[80.0, 80, 90, 90]])))[0].tolist() == [0] * 6


def test_of_equally_good_anchors_all_are_taken_or_one():
    twins = torch.tensor([[0.0, 0, 10, 4], [0.0, 6, 10, 10], [50.0, 50, 60, 60]])
    box = truth_of(BOXES[:1])
    assert MaxIoUAssigner(0.5, 0.3).match(twins, box)[0].tolist() == [1, 1, 0]
    one = MaxIoUAssigner(0.5, 0.3, gt_max_assign_all=False).match(twins, box)[0]
    assert (one == 1).sum() == 1


def test_a_range_of_background_leaves_the_rest_out():
    assigner = MaxIoUAssigner(pos_iou_thr=0.9, neg_iou_thr=(0.1, 0.46), match_low_quality=False)
    assert assigner.match(PRIORS, truth_of(BOXES))[0].tolist() == [1, -1, 0, -1, -1, 0]


def test_images_without_boxes_are_background():
    assigner = MaxIoUAssigner(0.5, 0.4)
    truth = truth_of(BOXES, torch.zeros(0, 4))
    assert assigner.match(PRIORS, truth).tolist() == [[1, 1, -1, 0, 2, -1], [0] * 6]
    assert assigner.match(PRIORS, truth_of(torch.zeros(0, 4))).tolist() == [[0] * 6]


def test_anchors_that_do_not_take_part_are_left_out_and_claim_nothing():
    valid = torch.tensor([[False, True, True, True, True, True]])
    matches = MaxIoUAssigner(0.9, 0.3).match(PRIORS, truth_of(BOXES), valid)
    assert matches[0].tolist() == [-1, 1, -1, 0, 2, -1]


@pytest.mark.parametrize(("of_candidates", "want"), [(True, [-1, -1, 0]), (False, [-1, 0, 0])])
def test_ignored_regions_are_measured_by_either_area(of_candidates, want):
    priors = torch.tensor([[0.0, 0, 40, 40], [0.0, 0, 10, 10], [50.0, 50, 60, 60]])
    assigner = MaxIoUAssigner(0.5, 0.4, ignore_iof_thr=0.5, ignore_wrt_candidates=of_candidates)
    for boxes in (torch.zeros(0, 4), torch.tensor([[80.0, 80, 90, 90]])):
        truth = truth_of(boxes, ignored=[torch.tensor([[0.0, 0, 40, 40], [90.0, 0, 91, 1]])])
        assert assigner.match(priors, truth)[0].tolist() == want


def test_regions_are_looked_at_only_where_asked_for():
    truth = truth_of(torch.zeros(0, 4), ignored=[torch.tensor([[0.0, 0, 100, 100]])])
    assert MaxIoUAssigner(0.5, 0.4).match(PRIORS, truth)[0].tolist() == [0] * 6


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 6), st.booleans(), st.booleans(), st.sampled_from([0.0, 0.2]))
def test_matches_follow_the_rules(seed, num_boxes, all_of_them, low_quality, least):
    priors, boxes = random_boxes(40, seed), random_boxes(num_boxes, seed + 1)
    assigner = MaxIoUAssigner(
        0.5, 0.4, min_pos_iou=least, gt_max_assign_all=all_of_them, match_low_quality=low_quality
    )
    want = by_the_rules(priors, boxes, 0.5, 0.4, least, all_of_them, low_quality)
    assert assigner.match(priors, truth_of(boxes))[0].tolist() == want.tolist()


@pytest.mark.parametrize("entries", [1, 300, 1 << 20])
def test_a_batch_is_matched_as_its_images_are(monkeypatch, entries):
    monkeypatch.setitem(assign._ENTRIES, "cpu", entries)
    priors = random_boxes(50, 0)
    truth = truth_of(random_boxes(5, 1), torch.zeros(0, 4), random_boxes(2, 2), random_boxes(9, 3))
    valid = torch.rand(4, 50, generator=torch.Generator().manual_seed(4)) > 0.2
    assigner = MaxIoUAssigner(0.5, 0.4)
    together = assigner.match(priors, truth, valid)
    assert together.tolist() == match_each(assigner, priors, truth, valid).tolist()


def test_the_result_for_one_image_tells_overlaps_and_labels():
    instances = InstanceData(bboxes=BOXES, labels=torch.tensor([7, 5]))
    result = MaxIoUAssigner(0.5, 0.4).assign(InstanceData(priors=PRIORS), instances)
    assert (result.num_gts, result.num_preds) == (2, 6)
    assert result.labels.tolist() == [7, 7, -1, -1, 5, -1]
    torch.testing.assert_close(result.max_overlaps[:4], torch.tensor([1, 0.5, 0.45, 0]))
    result.add_gt_(instances.labels)
    assert result.gt_inds.tolist() == [1, 2, 1, 1, -1, 0, 2, -1]
    assert result.labels[:2].tolist() == [7, 5]


def test_many_boxes_may_be_matched_on_the_cpu():
    assigner = MaxIoUAssigner(0.5, 0.4, gpu_assign_thr=1)
    assert assigner.match(PRIORS, truth_of(BOXES))[0].tolist() == [1, 1, -1, 0, 2, -1]


@pytest.mark.parametrize(("pos", "neg"), [(0.4, 0.5), (0.5, (0.3, 0.2)), (0.5, -0.1)])
def test_thresholds_that_contradict_are_refused(pos, neg):
    with pytest.raises(ValueError, match="thresholds must rise"):
        MaxIoUAssigner(pos, neg)


def test_overlaps_are_those_of_the_structures():
    measure = BboxOverlaps2D()
    one, other = random_boxes(7, 0), random_boxes(9, 1)
    for mode in ("iou", "iof", "giou"):
        torch.testing.assert_close(measure(one, other, mode), bbox_overlaps(one, other, mode))
    batch = torch.stack([one, one + 5])
    torch.testing.assert_close(measure(batch, other), bbox_overlaps(batch, other))
    torch.testing.assert_close(
        measure(one, one + 1, is_aligned=True), bbox_overlaps(one, one + 1, is_aligned=True)
    )
    assert measure(torch.zeros(1, 4), torch.zeros(1, 4)).tolist() == [[0]]


def test_ground_truth_is_padded_and_found_again():
    truth = truth_of(BOXES, torch.zeros(0, 4), BOXES[1:], labels=None)
    assert truth.boxes.shape == (3, 2, 4)
    assert truth.mask.tolist() == [[True, True], [False, False], [True, False]]
    assert truth.boxes[1].sum() == 0
    matches = torch.tensor([[2, 0, -1], [0, 0, 0], [1, -1, 0]])
    assert truth.labels_at(matches, 9).tolist() == [[1, 9, 9], [9, 9, 9], [0, 9, 9]]
    assert truth.boxes_at(matches)[2, 0].tolist() == BOXES[1].tolist()


def test_the_pseudo_sampler_keeps_all():
    matches = torch.tensor([1, 0, -1, 2, 0])
    result = AssignResult(num_gts=2, gt_inds=matches, max_overlaps=torch.zeros(5), labels=torch.zeros(5))
    instances = InstanceData(bboxes=BOXES, labels=torch.tensor([7, 5]))
    sampled = PseudoSampler().sample(result, InstanceData(priors=PRIORS[:5]), instances)
    assert sampled.pos_inds.tolist() == [0, 3]
    assert sampled.neg_inds.tolist() == [1, 4]
    assert sampled.pos_gt_labels.tolist() == [7, 5]
    assert (sampled.num_pos, sampled.num_neg, sampled.avg_factor) == (2, 2, 2)
    torch.testing.assert_close(sampled.pos_gt_bboxes, BOXES)
    torch.testing.assert_close(sampled.pos_priors, PRIORS[[0, 3]])
    torch.testing.assert_close(sampled.neg_priors, PRIORS[[1, 4]])
    empty = PseudoSampler().sample(
        AssignResult(0, torch.zeros(5, dtype=torch.long), torch.zeros(5), torch.zeros(5)),
        InstanceData(priors=PRIORS[:5]),
        InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)),
    )
    assert (empty.num_pos, empty.avg_factor) == (0, 1)


def test_the_average_factor_counts_at_least_one_an_image():
    matches = torch.tensor([[1, 2, 0], [0, 0, -1]])
    assert int(PseudoSampler().avg_factor(matches)) == 3
