"""The Dice loss, against sums by hand."""

import pytest
import torch
from det_models.losses.dice import DiceLoss

LOGITS = torch.tensor([[[2.0, -1.0], [0.5, -3.0]], [[0.0, 1.0], [-2.0, 4.0]]])
MASKS = torch.tensor([[[1, 0], [1, 0]], [[0, 0], [0, 0]]], dtype=torch.uint8)


def by_hand(probabilities, mask, eps, naive):
    pairs = list(zip(probabilities.flatten().tolist(), mask.flatten().tolist(), strict=True))
    both = 2 * sum(p * t for p, t in pairs)
    if naive:
        return 1 - (both + eps) / (sum(p + t for p, t in pairs) + eps)
    return 1 - both / (sum(p**2 + t**2 for p, t in pairs) + 2 * eps)


@pytest.mark.parametrize("naive", [False, True])
@pytest.mark.parametrize("activate", [False, True])
def test_it_is_one_minus_twice_the_common_part_over_both(activate, naive):
    given = LOGITS if activate else LOGITS.sigmoid()
    loss = DiceLoss(activate=activate, naive_dice=naive, eps=0.01, loss_weight=3.0)
    want = [3 * by_hand(p, t, 0.01, naive) for p, t in zip(LOGITS.sigmoid(), MASKS, strict=True)]
    assert loss(given, MASKS, reduction_override="none").tolist() == pytest.approx(want)
    assert float(loss(given, MASKS)) == pytest.approx(sum(want) / 2)
    weight = torch.tensor([0.0, 2.0])
    assert float(loss(given, MASKS, weight=weight, avg_factor=5)) == pytest.approx(2 * want[1] / 5)


def test_equal_masks_cost_nothing_and_masks_apart_all():
    apart = DiceLoss(activate=False, eps=1e-6)
    mask = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    assert float(apart(mask, mask)) == pytest.approx(0, abs=1e-5)
    assert float(apart(mask, 1 - mask)) == pytest.approx(1)


def test_what_does_not_fit_is_said():
    with pytest.raises(ValueError, match="use_sigmoid=True, or activate=False"):
        DiceLoss(use_sigmoid=False)
    DiceLoss(use_sigmoid=False, activate=False)
    with pytest.raises(ValueError, match=r"predictions \(2, 2, 2\) and targets \(1, 2, 2\) differ"):
        DiceLoss()(LOGITS, MASKS[:1])
