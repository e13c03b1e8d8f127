"""Quality and distribution focal losses, number by number."""

import math

import pytest
import torch
from det_models.losses.gfocal import DistributionFocalLoss, QualityFocalLoss

LOGITS = [[0.3, -1.2, 2.0], [-0.4, 0.8, 0.1], [1.5, -2.5, 0.0], [0.0, 0.0, 0.0]]
LABELS, QUALITIES = [2, 3, 0, 1], [0.7, 0.9, 0.0, 1.0]  # 3 is the background, whatever its quality


def by_hand(beta):
    rows = []
    for logits, label, quality in zip(LOGITS, LABELS, QUALITIES, strict=True):
        row = 0.0
        for k, logit in enumerate(logits):
            p, y = 1 / (1 + math.exp(-logit)), quality if k == label else 0.0
            row -= abs(y - p) ** beta * ((1 - y) * math.log(1 - p) + y * math.log(p))
        rows.append(row)
    return rows


@pytest.mark.parametrize("beta", [1.0, 2.0, 1.5])
def test_the_score_of_the_objects_class_is_to_be_its_quality(beta):
    loss = QualityFocalLoss(beta=beta, loss_weight=2.0)
    logits, labels, qualities = torch.tensor(LOGITS), torch.tensor(LABELS), torch.tensor(QUALITIES)
    want = torch.tensor(by_hand(beta)) * 2
    torch.testing.assert_close(loss(logits, (labels, qualities), reduction_override="none"), want)
    weight = torch.tensor([1.0, 0.0, 2.0, 0.5])
    got = loss(logits, (labels, qualities), weight, avg_factor=4.0)
    torch.testing.assert_close(got, (want * weight).sum() / 4)
    torch.testing.assert_close(loss(logits, (labels, qualities)), want.mean())


def test_labels_with_qualities_are_the_targets_of_all_classes():
    target = torch.zeros(4, 3)
    target[0, 2], target[3, 1] = 0.7, 1.0
    pair = torch.tensor(LABELS), torch.tensor(QUALITIES)
    loss, logits = QualityFocalLoss(), torch.tensor(LOGITS)
    torch.testing.assert_close(loss(logits, target), loss(logits, pair))


def test_maps_and_probabilities_are_the_same_loss():
    logits, labels, qualities = torch.tensor(LOGITS), torch.tensor(LABELS), torch.tensor(QUALITIES)
    want = QualityFocalLoss()(logits, (labels, qualities), avg_factor=3.0)
    maps = logits.view(2, 2, 3).transpose(1, 2)
    by_map = QualityFocalLoss()(maps, (labels.view(2, 2), qualities.view(2, 2)), avg_factor=3.0)
    activated = QualityFocalLoss(activated=True)(logits.sigmoid(), (labels, qualities), avg_factor=3.0)
    torch.testing.assert_close(by_map, want)
    torch.testing.assert_close(activated, want)


def test_the_gradient_is_none_where_the_score_is_the_quality():
    logits = torch.tensor([[0.0, 3.0]], requires_grad=True)
    QualityFocalLoss()(logits, (torch.tensor([0]), torch.tensor([0.5]))).backward()
    assert logits.grad[0, 0] == 0
    assert logits.grad[0, 1] > 0


def test_what_does_not_fit_is_named():
    logits = torch.zeros(4, 3)
    with pytest.raises(ValueError, match=r"\(4, 2\) do not fit predictions of shape \(4, 3\)"):
        QualityFocalLoss()(logits, torch.zeros(4, 2))
    with pytest.raises(ValueError, match=r"labels \(4,\) and qualities \(3,\) do not fit"):
        QualityFocalLoss()(logits, (torch.tensor(LABELS), torch.zeros(3)))
    with pytest.raises(ValueError, match="over sigmoids only"):
        QualityFocalLoss(use_sigmoid=False)


def test_the_two_numbers_around_the_true_one_are_to_be_likely():
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([0.0, 1.25, 3.9, 4.0])
    want = []
    for row, y in zip(logits.tolist(), target.tolist(), strict=True):
        total, left = sum(map(math.exp, row)), min(int(y), 3)
        log = [math.log(math.exp(each) / total) for each in row]
        want.append(-(left + 1 - y) * log[left] - (y - left) * log[left + 1])
    got = DistributionFocalLoss()(logits, target, reduction_override="none")
    torch.testing.assert_close(got, torch.tensor(want))
    weight = torch.tensor([1.0, 2.0, 0.0, 1.0])
    got = DistributionFocalLoss(loss_weight=0.25)(logits, target, weight, avg_factor=4.0)
    torch.testing.assert_close(got, (torch.tensor(want) * weight).sum() / 16)
