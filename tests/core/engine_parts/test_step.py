"""One training step: what it sums, what it reports, what it refuses."""

import pytest
import torch

from detcore.engine.finite import FiniteGuard, non_finite_names
from detcore.engine.step import sum_losses, train_step
from detcore.errors import TrainingError


class Spoiled:
    """Wraps a detector's forward so that one loss, or one gradient, is not finite in one step."""

    def __init__(self, model, *, value=None, gradient=None):
        self.original, self.value, self.gradient = model.forward, value, gradient
        model.forward = self

    def __call__(self, **data):
        losses = self.original(**data)
        if self.value is not None:
            losses["loss_bbox"][0] = losses["loss_bbox"][0] * self.value
        if self.gradient is not None:
            losses["loss_cls"].register_hook(lambda gradient: gradient * self.gradient)
        return losses


def weights(state):
    return {name: value.clone() for name, value in state.model.state_dict().items() if "batches" not in name}


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in second)


def parameters(state):
    return {name: value.detach().clone() for name, value in state.model.named_parameters()}


def test_entries_whose_name_holds_loss_are_summed_and_lists_too():
    losses = {
        "loss_a": torch.tensor(1.0),
        "b_loss": [torch.tensor(2.0), torch.tensor([3.0, 5.0])],
        "acc": torch.tensor(9.0),
    }
    assert sum_losses(losses) == 1 + 2 + 4


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ({"acc": torch.tensor(1.0)}, "no entry.*acc"),
        ({}, "no entry.*none"),
        ({"loss": 1.0}, "'loss'.*float"),
        ({"loss": []}, "'loss'.*list"),
        ({"loss": [torch.tensor(1.0), "x"]}, "'loss'.*list"),
        ([torch.tensor(1.0)], "dict of tensors, got list"),
    ],
)
def test_losses_that_cannot_be_summed_are_named(losses, words):
    with pytest.raises(TrainingError, match=words):
        sum_losses(losses)


def test_a_step_reports_losses_rate_and_gradient_norm_and_leaves_the_count_to_the_loop(new_state, new_batch):
    state = new_state(schedule=[{"type": "ExponentialLR", "gamma": 0.5, "by_epoch": False}])
    report = train_step(state, new_batch(0))
    assert list(report.losses) == ["loss", "loss_cls", "loss_bbox", "acc"]
    assert report.losses["loss"] == report.losses["loss_cls"] + report.losses["loss_bbox"]
    assert not any(value.requires_grad for value in report.losses.values())
    assert report.lr == 0.1
    assert state.optim.get_lr() == {"lr": [0.05]}
    assert report.grad_norm > 0
    assert (report.step, state.step) == (0, 0)


def test_the_weights_move_and_the_updates_run_in_order(new_state, new_batch):
    state, seen = new_state(), []
    state.after_update = [lambda s: seen.append(("first", s.step)), lambda s: seen.append(("second", s.step))]
    before = parameters(state)
    train_step(state, new_batch(0))
    assert seen == [("first", 0), ("second", 0)]
    assert not same(before, parameters(state))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_on_the_cpu_a_loss_that_is_not_finite_stops_the_step_before_the_weights_change(
    new_state, new_batch, value
):
    state = new_state()
    for _ in range(3):
        train_step(state, new_batch(state.step))
        state.step += 1
    before = parameters(state)
    Spoiled(state.model, value=value)
    with pytest.raises(TrainingError) as caught:
        train_step(state, new_batch(7))
    message = str(caught.value)
    assert "step 3" in message
    assert f"loss_bbox={value}" in message
    assert "loss_cls=" in message.split("not finite:")[1]
    assert "photos/70.jpg (id 70), photos/71.jpg (id 71)" in message
    assert same(before, parameters(state))


def test_on_the_cpu_a_gradient_that_is_not_finite_names_the_parameters(new_state, new_batch):
    state = new_state()
    before = parameters(state)
    Spoiled(state.model, gradient=float("nan"))
    with pytest.raises(TrainingError, match=r"(?s)gradients are not.*backbone\.weight.*photos/0\.jpg"):
        train_step(state, new_batch(0))
    assert same(before, parameters(state))


@pytest.mark.parametrize(
    "optimizer",
    [
        {"type": "SGD", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.01},
        {"type": "SGD", "lr": 0.1, "momentum": 0.9, "fused": True},
        {"type": "SGD", "lr": 0.1},
        {"type": "AdamW", "lr": 0.01},
        {"type": "AdamW", "lr": 0.01, "fused": True},
        {"type": "RMSprop", "lr": 0.01},
    ],
)
@pytest.mark.parametrize("spoil", [{"value": float("nan")}, {"gradient": float("inf")}])
@pytest.mark.parametrize("bad_step", [0, 2])
def test_where_flags_stay_on_the_device_nothing_poisons_weights_or_state(
    new_state, new_batch, optimizer, spoil, bad_step
):
    state = new_state({"optimizer": optimizer, "clip_grad": {"max_norm": 1.0}}, deferred=True)
    original = state.model.forward
    for step in range(6):
        if step == bad_step:
            before = parameters(state)
            Spoiled(state.model, **spoil)
        train_step(state, new_batch(step))
        if step == bad_step:
            state.model.forward = original
            if optimizer.get("fused"):
                assert same(before, parameters(state))
        state.step += 1
    assert non_finite_names(state.model.state_dict()) == []
    for entry in state.optim.optimizer.state.values():
        assert non_finite_names(entry) == []
    with pytest.raises(TrainingError, match=rf"(?s)step {bad_step}:.*photos/{bad_step * 10}\.jpg"):
        state.finite.raise_if_broken()
    state.finite.raise_if_broken()


@pytest.mark.parametrize(
    "optimizer",
    [
        {"type": "SGD", "lr": 0.1, "momentum": 0.9, "fused": True},
        {"type": "AdamW", "lr": 0.01, "fused": True},
    ],
)
def test_a_fused_optimiser_goes_on_after_a_left_out_first_step_as_if_it_had_not_been(
    new_state, new_batch, optimizer
):
    runs = []
    for spoil_first in (True, False):
        state = new_state({"optimizer": optimizer}, deferred=True)
        if spoil_first:
            original = state.model.forward
            Spoiled(state.model, value=float("nan"))
            train_step(state, new_batch(99))
            state.model.forward = original
        state.model.norm.reset_running_stats()
        for step in range(3):
            train_step(state, new_batch(step))
        runs.append(parameters(state))
    assert same(*runs)


def test_deferred_and_immediate_flags_train_alike_while_all_is_finite(new_state, new_batch):
    runs = []
    for deferred in (True, False):
        state = new_state(deferred=deferred)
        for step in range(4):
            train_step(state, new_batch(step))
        state.finite.raise_if_broken()
        runs.append(parameters(state))
    assert same(*runs)


def test_a_loss_without_parameters_behind_it_is_refused(new_state, new_batch):
    state = new_state()
    state.model.forward = lambda **_: {"loss": torch.tensor(1.0)}
    with pytest.raises(TrainingError, match="depends on no trainable parameter"):
        train_step(state, new_batch(0))


def test_flags_that_nobody_reads_are_read_by_themselves_after_a_while():
    guard = FiniteGuard(deferred=True, max_pending=3)
    guard.begin(0, {"loss": torch.tensor(float("nan"))}, None)
    guard.check_loss(torch.tensor(float("nan")))
    for step in (1, 2):
        guard.begin(step, {}, None)
    with pytest.raises(TrainingError, match="step 0"):
        guard.begin(3, {}, None)


def test_many_images_and_several_branches_are_named_shortly():
    guard = FiniteGuard()
    samples = {"sup": [type("S", (), {"metainfo": {"img_id": i}})() for i in range(40)], "unsup": [object()]}
    guard.begin(5, {"loss": torch.tensor(float("nan"))}, {"data_samples": samples})
    with pytest.raises(TrainingError, match=r"id 0, id 1, .*and 9 more"):
        guard.check_loss(torch.tensor(float("nan")))
