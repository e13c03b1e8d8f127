import math

import pytest
import torch
import torch.nn.functional as F
from det_models.losses.cross_entropy import CrossEntropyLoss
from det_models.losses.iou import (
    BoundedIoULoss,
    CIoULoss,
    DIoULoss,
    EIoULoss,
    GIoULoss,
    IoULoss,
)
from det_models.losses.reduce import weight_reduce_loss, weighted_loss
from det_models.losses.smooth_l1 import L1Loss, SmoothL1Loss
from hypothesis import given
from hypothesis import strategies as st

BOX_LOSSES = [IoULoss, GIoULoss, DIoULoss, CIoULoss, EIoULoss, BoundedIoULoss]
PRED = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
TARGET = torch.tensor([[0.0, 0.0, 2.0, 2.0], [1.0, 0.0, 3.0, 2.0], [2.0, 0.0, 3.0, 1.0]], dtype=torch.float64)

coordinate = st.floats(-100, 100, width=32)
side = st.floats(0.125, 200, width=32)
boxes = st.lists(st.tuples(coordinate, coordinate, side, side), min_size=2, max_size=2)


def as_boxes(drawn):
    return [torch.tensor([[x, y, x + w, y + h]], dtype=torch.float64) for x, y, w, h in drawn]


# -- overlap of boxes
# --------------------------------------------------------------------------------------------


def test_iou_loss_by_hand():
    # overlaps 1, 1/3 and 0
    got = IoULoss(mode="linear", reduction="none")(PRED, TARGET)
    torch.testing.assert_close(got, torch.tensor([0, 2 / 3, 1 - 1e-6]).double())
    got = IoULoss(mode="square", reduction="none")(PRED, TARGET)
    torch.testing.assert_close(got, torch.tensor([0, 8 / 9, 1]).double())
    got = IoULoss(reduction="none")(PRED, TARGET)
    torch.testing.assert_close(got, torch.tensor([0, math.log(3), -math.log(1e-6)]).double())


def test_giou_diou_ciou_loss_by_hand():
    # hulls 4, 6, 3; centre distances 0, 1, 4 over diagonals 8, 13, 10
    torch.testing.assert_close(
        GIoULoss(reduction="none")(PRED, TARGET), torch.tensor([0, 2 / 3, 1 + 1 / 3]).double()
    )
    want = torch.tensor([0, 2 / 3 + 1 / 13, 1 + 4 / 10]).double()
    torch.testing.assert_close(DIoULoss(reduction="none")(PRED, TARGET), want, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(CIoULoss(reduction="none")(PRED, TARGET), want, rtol=1e-6, atol=1e-6)
    tall, wide = torch.tensor([[0.0, 0.0, 2.0, 4.0]]), torch.tensor([[0.0, 0.0, 3.0, 4.0]])
    iou, v = 2 / 3, 4 / math.pi**2 * (math.atan(3 / 4) - math.atan(2 / 4)) ** 2
    want = 1 - iou + 0.25 / 25 + v / (1 - iou + v) * v
    assert float(CIoULoss()(tall, wide)) == pytest.approx(want, rel=1e-4)


def test_eiou_loss_by_hand():
    # squares one apart: the overlap is -1, the union 3
    got = EIoULoss(reduction="none")(PRED[2:], TARGET[2:])
    torch.testing.assert_close(got, torch.tensor([1 + 1 / 3 - 0.05]).double(), rtol=1e-6, atol=0)
    got = EIoULoss(reduction="none")(PRED[:2], TARGET[:2])
    torch.testing.assert_close(got, torch.tensor([0, 2 / 3 - 0.05]).double(), rtol=1e-6, atol=1e-9)


def test_bounded_iou_loss_by_hand():
    got = BoundedIoULoss(reduction="none", eps=0)(PRED[1:2], TARGET[1:2])  # shifted by half a width
    torch.testing.assert_close(got, torch.tensor([[1 - 0.1, 0, 0, 0]]).double())


@given(boxes)
def test_losses_are_bounded_and_zero_for_equal_boxes(drawn):
    pred, target = as_boxes(drawn)
    for kind, greatest in ((IoULoss(mode="linear"), 1), (GIoULoss(), 2), (DIoULoss(), 2), (CIoULoss(), 2)):
        assert -1e-5 <= float(kind(pred, target)) <= greatest + 1e-5
    for kind in BOX_LOSSES:
        assert float(kind()(pred, pred)) == pytest.approx(0, abs=0.01)


@given(boxes)
def test_losses_do_not_depend_on_where_the_boxes_are(drawn):
    pred, target = as_boxes(drawn)
    for kind in BOX_LOSSES:
        assert float(kind()(pred + 50, target + 50)) == pytest.approx(float(kind()(pred, target)), abs=1e-6)


@pytest.mark.parametrize("kind", BOX_LOSSES)
def test_gradients_of_box_losses_are_derivatives(kind):
    if kind is CIoULoss:
        pytest.skip("its trade-off factor counts as a constant, as the paper has it")
    generator = torch.Generator().manual_seed(0)
    corner, sides = (
        torch.rand(6, 2, generator=generator).double() * 5,
        torch.rand(6, 2, generator=generator).double() + 4,
    )
    pred = torch.cat([corner, corner + sides], 1).requires_grad_()
    target = pred.detach() + torch.rand(6, 4, generator=generator).double()
    assert torch.autograd.gradcheck(lambda x: kind()(x, target, avg_factor=2.0), pred)


@pytest.mark.parametrize("kind", BOX_LOSSES)
def test_weights_of_rows_and_of_coordinates_mean_the_same(kind):
    pred, target = PRED + 0.25, TARGET
    weight = torch.tensor([1.0, 0.0, 2.0]).double()
    one = kind()(pred, target, weight, avg_factor=2.0)
    torch.testing.assert_close(one, kind()(pred, target, weight[:, None].expand(-1, 4), avg_factor=2.0))
    alone = kind()(pred[1:2], target[1:2], torch.zeros(1).double(), avg_factor=2.0)
    assert float(alone) == 0


@pytest.mark.parametrize("kind", BOX_LOSSES)
def test_boxes_without_area_stay_finite(kind):
    empty = torch.zeros(2, 4, requires_grad=True)
    value = kind()(empty, torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 2.0, 2.0]]))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(empty.grad).all()


@pytest.mark.parametrize("kind", [*BOX_LOSSES, L1Loss, SmoothL1Loss])
def test_losses_reckon_in_float32_and_take_empty_input(kind):
    pred = torch.tensor([[0.0, 0.0, 3.0, 2.0]], dtype=torch.bfloat16)
    assert kind()(pred, torch.tensor([[0.0, 0.0, 2.0, 2.0]])).dtype == torch.float32
    empty = torch.zeros(0, 4, requires_grad=True)
    value = kind()(empty, torch.zeros(0, 4), avg_factor=0.0)
    value.backward()
    assert float(value.detach()) == 0


@pytest.mark.parametrize("kind", [*BOX_LOSSES, L1Loss, SmoothL1Loss])
def test_shapes_that_differ_are_refused(kind):
    with pytest.raises(ValueError, match=r"\(2, 4\).*\(3, 4\)"):
        kind()(torch.zeros(2, 4), torch.zeros(3, 4))


def test_the_older_name_of_the_linear_mode_warns():
    with pytest.warns(DeprecationWarning, match="mode='linear'"):
        assert IoULoss(linear=True).mode == "linear"
    with pytest.raises(ValueError, match="linear, square, log"):
        IoULoss(mode="cube")


# -- coordinates
# -------------------------------------------------------------------------------------------------


def test_l1_and_smooth_l1_by_hand():
    pred, target = torch.tensor([0.0, 1.0, 3.0]), torch.tensor([0.25, 1.0, 1.0])
    assert L1Loss(reduction="none")(pred, target).tolist() == [0.25, 0, 2]
    assert float(L1Loss(loss_weight=2.0)(pred, target)) == pytest.approx(1.5)
    assert SmoothL1Loss(beta=1.0, reduction="none")(pred, target).tolist() == [0.03125, 0, 1.5]
    assert SmoothL1Loss(beta=0.125, reduction="none")(pred, target).tolist() == [0.1875, 0, 1.9375]


def test_smooth_l1_needs_a_bend():
    with pytest.raises(ValueError, match="L1Loss"):
        SmoothL1Loss(beta=0)


# -- reduction
# -----------------------------------------------------------------------------------------------------


def test_reductions_follow_weight_and_average_factor():
    loss, weight = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 0.0, 2.0])
    assert weight_reduce_loss(loss, weight, "none").tolist() == [1, 0, 6]
    assert float(weight_reduce_loss(loss, weight, "sum")) == 7
    assert float(weight_reduce_loss(loss, weight, "mean")) == pytest.approx(7 / 3)
    assert float(weight_reduce_loss(loss, weight, "mean", avg_factor=2)) == pytest.approx(3.5)
    assert float(weight_reduce_loss(loss, weight, "mean", avg_factor=torch.tensor(2))) == pytest.approx(3.5)
    with pytest.raises(ValueError, match="avg_factor"):
        weight_reduce_loss(loss, weight, "sum", avg_factor=2)


def test_a_users_elementwise_loss_gets_weights_by_the_decorator():
    @weighted_loss
    def my_loss(pred, target):
        """Mine."""
        return torch.abs(pred - target)

    pred, target = torch.tensor([0.0, 2.0]), torch.tensor([1.0, 1.0])
    assert float(my_loss(pred, target, torch.tensor([1.0, 0.0]), reduction="sum")) == 1
    assert my_loss.__doc__ == "Mine."


# -- cross entropy
# -------------------------------------------------------------------------------------------------


@pytest.fixture
def logits():
    return torch.randn(6, 3, generator=torch.Generator().manual_seed(0))


def test_softmax_cross_entropy_is_torchs(logits):
    labels = torch.tensor([0, 1, 2, 2, 1, 0])
    torch.testing.assert_close(CrossEntropyLoss()(logits, labels), F.cross_entropy(logits, labels))
    weight = torch.tensor([1.0, 0, 0, 0, 0, 1])
    want = F.cross_entropy(logits[[0, 5]], labels[[0, 5]], reduction="sum") / 4
    torch.testing.assert_close(CrossEntropyLoss()(logits, labels, weight, avg_factor=4.0), want)
    classes = [0.5, 1.0, 2.0]
    want = F.cross_entropy(logits, labels, torch.tensor(classes), reduction="none")
    torch.testing.assert_close(CrossEntropyLoss(class_weight=classes, reduction="none")(logits, labels), want)


def test_ignored_labels_do_not_count(logits):
    labels = torch.tensor([0, 1, 255, 255, 1, 0])
    kept = labels != 255
    loss = CrossEntropyLoss(ignore_index=255, avg_non_ignore=True)
    torch.testing.assert_close(loss(logits, labels), F.cross_entropy(logits[kept], labels[kept]))
    loss = CrossEntropyLoss(use_sigmoid=True, ignore_index=255, avg_non_ignore=True)
    target = F.one_hot(labels[kept], 3).float()
    torch.testing.assert_close(loss(logits, labels), F.binary_cross_entropy_with_logits(logits[kept], target))


def test_sigmoid_cross_entropy_takes_labels_or_targets(logits):
    labels = torch.tensor([0, 1, 3, 3, 1, 0])  # 3 is background
    target = F.one_hot(labels, 4)[:, :3].float()
    want = F.binary_cross_entropy_with_logits(logits, target)
    loss = CrossEntropyLoss(use_sigmoid=True)
    torch.testing.assert_close(loss(logits, labels), want)
    torch.testing.assert_close(loss(logits, target), want)
    weight = torch.tensor([1.0, 1, 1, 0, 0, 0])
    want = F.binary_cross_entropy_with_logits(logits[:3], target[:3], reduction="sum") / 5
    torch.testing.assert_close(loss(logits, labels, weight, avg_factor=5.0), want)


def test_mask_cross_entropy_takes_the_labels_own_mask():
    masks = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    target, labels = torch.ones(2, 4, 4), torch.tensor([2, 0])
    loss = CrossEntropyLoss(use_mask=True)
    want = F.binary_cross_entropy_with_logits(torch.stack([masks[0, 2], masks[1, 0]]), target)
    torch.testing.assert_close(loss(masks, target, labels), want)
    assert float(loss(masks[:0], target[:0], labels[:0])) == 0
    with pytest.raises(ValueError, match="labels"):
        loss(masks, target)


def test_two_forms_at_once_are_refused():
    with pytest.raises(ValueError, match="set one"):
        CrossEntropyLoss(use_sigmoid=True, use_mask=True)
