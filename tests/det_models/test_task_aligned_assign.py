"""TaskAlignedAssigner against a plain loop over objects and anchors."""

import pytest
import torch
from det_models.task_aligned_assign import AlignedMatches, TaskAlignedAssigner, scaled_metrics
from det_models.truth import GroundTruth

from detcore.structures import InstanceData
from detcore.structures.bbox import bbox_overlaps


def boxes(count, seed, size=60.0):
    random = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=random) * 60
    return torch.cat((corner, corner + 8 + size * torch.rand(count, 2, generator=random)), 1)


def plain(priors, predicted, scores, gt, topk, alpha, beta, allowed=None):
    """Owner, overlap and metric of each prior."""
    overlaps = bbox_overlaps(predicted, gt.bboxes)
    owner, best, metric = [0] * len(priors), [0.0] * len(priors), [0.0] * len(priors)
    for number, (box, label) in enumerate(zip(gt.bboxes.tolist(), gt.labels.tolist(), strict=True)):
        aligned = scores[:, label] ** alpha * overlaps[:, number] ** beta
        places = range(len(priors)) if allowed is None else allowed
        for place in sorted(places, key=lambda p: -float(aligned[p]))[:topk]:
            x, y = ((priors[place, :2] + priors[place, 2:]) / 2).tolist()
            inside = min(x - box[0], y - box[1], box[2] - x, box[3] - y) > 0.01
            if aligned[place] > 0 and inside and float(overlaps[place, number]) > best[place]:
                owner[place], best[place] = number + 1, float(overlaps[place, number])
                metric[place] = float(aligned[place])
    return owner, best, metric


@pytest.mark.parametrize("powers", [(1, 6), (0.5, 2)], ids=str)
@pytest.mark.parametrize("limited", [False, True], ids=["all", "some"])
def test_a_batch_is_matched_as_by_a_plain_loop(limited, powers):
    priors, predicted = boxes(90, 0), torch.stack([boxes(90, seed) for seed in (1, 2, 3)])
    scores = torch.rand(3, 90, 5, generator=torch.Generator().manual_seed(7))
    batch = [
        InstanceData(bboxes=boxes(count, 9 + count), labels=torch.arange(count) % 5) for count in (5, 0, 12)
    ]
    valid = torch.rand(3, 90, generator=torch.Generator().manual_seed(4)) > 0.4 if limited else None
    alpha, beta = powers
    found = TaskAlignedAssigner(13).match_predictions(
        priors, predicted, scores, GroundTruth.pack(batch), valid, alpha=alpha, beta=beta
    )
    for number, gt in enumerate(batch):
        take = slice(None) if valid is None else valid[number]
        allowed = None if valid is None else torch.nonzero(valid[number]).flatten().tolist()
        given = priors, predicted[number], scores[number], gt
        owner, overlap, metric = plain(*given, 13, alpha, beta, allowed)
        assert found.matches[number][take].tolist() == torch.tensor(owner)[take].tolist()
        assert found.overlaps[number].tolist() == pytest.approx(overlap)
        assert found.metrics[number].tolist() == pytest.approx(metric)
    if valid is not None:
        assert (found.matches[~valid] == -1).all()
    assert found.matches.max() > 3


def test_one_image():
    priors, predicted = boxes(40, 0), boxes(40, 1)
    scores = torch.rand(40, 3, generator=torch.Generator().manual_seed(7))
    gt = InstanceData(bboxes=boxes(3, 5), labels=torch.tensor([2, 0, 1]))
    given = InstanceData(priors=priors, bboxes=predicted, scores=scores)
    result = TaskAlignedAssigner(9).assign(given, gt, None, 1, 6)
    owner, overlap, metric = plain(priors, predicted, scores, gt, 9, 1, 6)
    assert result.gt_inds.tolist() == owner
    assert result.max_overlaps.tolist() == pytest.approx(overlap)
    assert result.extra["assign_metrics"].tolist() == pytest.approx(metric)
    assert result.labels.tolist() == [int(gt.labels[each - 1]) if each else -1 for each in owner]
    assert TaskAlignedAssigner(9).assign(given, gt[:0]).gt_inds.tolist() == [0] * 40


def test_the_best_of_each_object_is_as_good_as_its_best_overlap():
    found = AlignedMatches(
        torch.tensor([[1, 2, 1, 0, -1], [2, 0, 0, 0, 0]]),
        torch.tensor([[0.5, 0.9, 0.8, 0.0, 0.0], [0.7, 0.0, 0.0, 0.0, 0.0]]),
        torch.tensor([[0.4, 0.1, 0.2, 0.0, 0.0], [0.3, 0.0, 0.0, 0.0, 0.0]]),
    )
    want = [[0.8, 0.9, 0.4, 0, 0], [0.7, 0, 0, 0, 0]]
    torch.testing.assert_close(scaled_metrics(found, 3), torch.tensor(want), atol=1e-5, rtol=1e-5)


def test_no_priors_is_an_error():
    with pytest.raises(ValueError, match="topk is a number of priors, at least 1, got 0"):
        TaskAlignedAssigner(0)
