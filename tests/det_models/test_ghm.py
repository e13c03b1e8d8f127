"""Harmonised losses, example by example, and RetinaNet with them."""

import copy
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from det_models.dense_targets import regressed_rows
from det_models.losses.ghm import GHMC, GHMR

LABELS = torch.tensor([0, 3, 2, 1, 3, 0])  # 3 is the background
WEIGHT = torch.tensor([1.0, 1.0, 0.0, 2.0, 1.0, 1.0])


@pytest.fixture
def logits():
    return 2 * torch.randn(6, 3, generator=torch.Generator().manual_seed(0))


def weights_by_hand(norms, valid, bins, total, density=None):
    """N over how many share an example's bin, over the number of bins that are not empty."""
    counts = [0] * bins
    for norm, counted in zip(norms, valid, strict=True):
        counts[min(int(norm * bins), bins - 1)] += counted
    filled = sum(count > 0 for count in counts)
    share = [total / max(each, 1e-9) / filled for each in density or counts]
    return [
        counted and share[min(int(norm * bins), bins - 1)] for norm, counted in zip(norms, valid, strict=True)
    ]


def class_loss_by_hand(logits, bins):
    target = F.one_hot(LABELS, 4)[:, :3].float()
    norms = (logits.sigmoid() - target).abs().flatten().tolist()
    valid = (WEIGHT > 0).repeat_interleave(3).tolist()
    weights = torch.tensor(weights_by_hand(norms, valid, bins, sum(valid)))
    each = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return each.flatten(), weights, sum(valid)


@pytest.mark.parametrize("bins", [1, 7, 10])
def test_classes_count_the_less_the_more_there_are_of_their_kind(bins, logits):
    each, weights, total = class_loss_by_hand(logits, bins)
    loss = GHMC(bins=bins, loss_weight=2.0)
    want = 2 * (each * weights).sum() / total
    torch.testing.assert_close(loss(logits, LABELS, WEIGHT), want)
    torch.testing.assert_close(loss(logits, LABELS, WEIGHT, avg_factor=7.0), want)
    none = loss(logits, LABELS, WEIGHT, reduction_override="none")
    torch.testing.assert_close(none.flatten(), 2 * each * weights)
    torch.testing.assert_close(loss(logits, LABELS, WEIGHT, reduction_override="sum"), none.sum())
    assert not none[2].any()


def test_targets_and_weights_of_all_classes_are_the_same_loss(logits):
    target, weight = F.one_hot(LABELS, 4)[:, :3], WEIGHT[:, None].expand(-1, 3)
    torch.testing.assert_close(GHMC()(logits, target, weight), GHMC()(logits, LABELS, WEIGHT))


def test_with_one_bin_it_is_the_plain_mean(logits):
    want = F.binary_cross_entropy_with_logits(logits, F.one_hot(LABELS, 4)[:, :3].float())
    torch.testing.assert_close(GHMC(bins=1)(logits, LABELS, torch.ones(6)), want)


def test_bins_are_averaged_over_time(logits):
    loss, norms = GHMC(bins=4, momentum=0.75), None
    average, wanted = [0.0] * 4, []
    for step in range(3):
        given = logits + step
        norms = (given.sigmoid() - F.one_hot(LABELS, 4)[:, :3]).abs().flatten().tolist()
        counts = [sum(min(int(norm * 4), 3) == place for norm in norms) for place in range(4)]
        average = [0.75 * a + 0.25 * c if c else a for a, c in zip(average, counts, strict=True)]
        weights = torch.tensor(weights_by_hand(norms, [1] * 18, 4, 18, average)).view(6, 3)
        each = F.binary_cross_entropy_with_logits(given, F.one_hot(LABELS, 4)[:, :3].float(), weights)
        wanted.append(each)
        torch.testing.assert_close(loss(given, LABELS, torch.ones(6)), each)
    torch.testing.assert_close(loss.acc_sum, torch.tensor(average))
    twin = GHMC(bins=4, momentum=0.75)
    twin.load_state_dict(loss.state_dict())
    torch.testing.assert_close(twin(logits, LABELS, WEIGHT), loss(logits, LABELS, WEIGHT))
    assert set(GHMC().state_dict()) == {"edges"}


def test_boxes_count_the_less_the_more_there_are_of_their_kind():
    random = torch.Generator().manual_seed(0)
    pred, target = torch.randn(5, 4, generator=random) / 20, torch.randn(5, 4, generator=random) / 20
    weight = torch.ones(5, 4)
    weight[1] = 0
    away = (pred - target).flatten()
    length = (away**2 + 0.02**2).sqrt()
    valid = (weight > 0).flatten().tolist()
    weights = torch.tensor(weights_by_hand((away / length).abs().tolist(), valid, 10, 16))
    want = 10 * ((length - 0.02) * weights).sum() / 16
    torch.testing.assert_close(GHMR(loss_weight=10.0)(pred, target, weight), want)


@pytest.mark.parametrize("loss", [GHMC(), GHMR()])
def test_nothing_that_counts_is_a_zero_with_a_gradient(loss):
    for rows in (0, 3):
        pred = torch.randn(rows, 4, requires_grad=True)
        value = loss(pred, torch.zeros(rows, 4), torch.zeros(rows, 4))
        value.backward()
        assert value == 0
        assert not pred.grad.any()


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="over sigmoids only"):
        GHMC(use_sigmoid=False)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        GHMC(bins=0)
    with pytest.raises(ValueError, match="from 0 to below 1, got 1"):
        GHMR(momentum=1)
    with pytest.raises(ValueError, match="mu must be above 0, got 0"):
        GHMR(mu=0)


def test_a_retinanet_learns_with_them_and_few_rows_are_all_rows(small_retinanet, make_sample, monkeypatch):
    kinds = {"loss_cls": {"type": "GHMC", "momentum": 0.75}, "loss_bbox": {"type": "GHMR", "momentum": 0.7}}
    model = small_retinanet(**kinds)
    twin = copy.deepcopy(model)
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    samples = [make_sample(64, 96, [[10.0, 12, 50, 60]], [1]), make_sample(64, 96, [], [])]
    losses = model(images, samples, mode="loss")
    sum(sum(levels) for levels in losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.bbox_head.parameters())
    assert sum(losses["loss_bbox"]) > 0
    monkeypatch.setattr(
        "det_models.dense.regressed_rows", lambda *given, **_: regressed_rows(*given, every=True)
    )
    torch.testing.assert_close(twin(images, samples, mode="loss"), losses)
    torch.testing.assert_close(twin.state_dict(), model.state_dict())


@pytest.mark.shared
@pytest.mark.slow
def test_the_recorded_detector_passes(shared, root):
    check = [sys.executable, str(shared("golden/check.py")), "--configs", str(root / "configs"), "ghm/"]
    done = subprocess.run(check, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.strip().endswith("1 passed, 0 failed"), done.stdout + done.stderr
