"""The optimiser wrapper: accumulation, clipping, precision, state."""

import pytest
import torch
from torch import nn

from detcore.engine.checkpoint.plain import to_plain
from detcore.engine.optim import AmpOptimWrapper, OptimWrapper, build_optim_wrapper, scale_lr
from detcore.engine.schedules import build_schedules
from detcore.engine.step import train_step
from detcore.errors import CheckpointError, ConfigError, TrainingError


def linear(seed=0):
    torch.manual_seed(seed)
    return nn.Linear(4, 1)


def loss_of(model, index):
    generator = torch.Generator().manual_seed(index)
    return (model(torch.randn(5, 4, generator=generator)) - 1).square().mean()


def make(model, **settings):
    return OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), **settings)


def test_accumulated_steps_equal_one_step_on_the_mean_loss():
    first, second = linear(), linear()
    a, b = make(first, accumulative_counts=3), make(second)
    for update in range(4):
        losses = [loss_of(first, 3 * update + i) for i in range(3)]
        for i, loss in enumerate(losses):
            a.backward_and_step(loss, 3 * update + i)
        b.backward_and_step(sum(loss_of(second, 3 * update + i) for i in range(3)) / 3, update)
    torch.testing.assert_close(first.weight, second.weight, rtol=1e-6, atol=1e-7)


def test_the_incomplete_last_round_is_averaged_over_its_own_steps_and_applied():
    first, second = linear(), linear()
    a, b = make(first, accumulative_counts=4), make(second)
    a.max_steps = 6
    assert [a.will_step(i) for i in range(6)] == [False, False, False, True, False, True]
    assert [a.loss_divisor(i) for i in range(6)] == [4, 4, 4, 4, 2, 2]
    for i in range(6):
        a.backward_and_step(loss_of(first, i), i)
    for update, indices in enumerate(([0, 1, 2, 3], [4, 5])):
        b.backward_and_step(sum(loss_of(second, i) for i in indices) / len(indices), update)
    torch.testing.assert_close(first.weight, second.weight, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kill_at", [1, 2, 3, 4, 5])
def test_a_run_killed_within_a_round_of_accumulation_goes_on_with_the_same_bits(kill_at):
    model = linear()
    optim = make(model, accumulative_counts=3)
    saved = None
    for i in range(9):
        optim.backward_and_step(loss_of(model, i), i)
        if i + 1 == kill_at:
            saved = to_plain({"optim": optim.state_dict(), "model": model.state_dict()})
            saved = {"optim": saved["optim"], "model": {k: v.clone() for k, v in saved["model"].items()}}
            gradients = saved["optim"].get("accumulated_gradients", {})
            saved["optim"]["accumulated_gradients"] = {k: v.clone() for k, v in gradients.items()}
            states = saved["optim"]["state"]
            saved["optim"]["state"] = {k: {n: t.clone() for n, t in v.items()} for k, v in states.items()}
    again = linear(1)
    again.load_state_dict(saved["model"])
    resumed = make(again, accumulative_counts=3)
    resumed.load_state_dict(saved["optim"])
    for i in range(kill_at, 9):
        resumed.backward_and_step(loss_of(again, i), i)
    assert torch.equal(again.weight, model.weight)
    assert torch.equal(again.bias, model.bias)


def test_update_params_counts_its_own_steps():
    model = linear()
    optim = make(model, accumulative_counts=2)
    before = model.weight.detach().clone()
    optim.update_params(loss_of(model, 0))
    assert torch.equal(model.weight, before)
    assert optim.last_grad_norm is None
    optim.update_params(loss_of(model, 1))
    assert not torch.equal(model.weight, before)


def test_clipping_by_norm_is_over_all_parameters_and_reports_the_norm_before():
    model = linear()
    optim = make(model, clip_grad={"max_norm": 0.01, "norm_type": 2})
    before = [p.detach().clone() for p in model.parameters()]
    optim.backward_and_step(loss_of(model, 0), 0)
    moved = torch.cat([(p.detach() - q).flatten() for p, q in zip(model.parameters(), before, strict=True)])
    assert moved.norm() == pytest.approx(0.1 * 0.01, rel=1e-3)
    assert optim.last_grad_norm > 0.1


def test_clipping_by_value_is_for_each_element():
    model = linear()
    optim = make(model, clip_grad={"type": "value", "clip_value": 0.02})
    before = model.weight.detach().clone()
    optim.backward_and_step(loss_of(model, 0), 0)
    assert (model.weight - before).abs().max() <= 0.1 * 0.02 + 1e-7


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"clip_grad": {"norm": 1}}, "unknown norm"),
        ({"clip_grad": {"norm_type": 2}}, "max_norm must be a number above 0, got None"),
        ({"clip_grad": {"type": "percentile", "max_norm": 1}}, "'norm' or 'value'"),
        ({"accumulative_counts": 0}, "accumulative_counts"),
    ],
)
def test_wrong_settings_are_named(settings, words):
    with pytest.raises(ConfigError, match=words):
        make(linear(), **settings)


def test_without_guard_non_finite_gradients_are_refused_too():
    model = linear()
    with pytest.raises(TrainingError, match="step 4: the loss is not finite"):
        make(model).backward_and_step(loss_of(model, 0) * float("inf"), 4)
    loss = loss_of(model, 0)
    loss.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(TrainingError, match=r"step 5: the loss is finite but its gradients are not.*weight"):
        make(model).backward_and_step(loss, 5, model=model)


def test_state_of_other_groups_is_refused():
    state = make(linear()).state_dict()
    model = linear()
    other = OptimWrapper(torch.optim.SGD([{"params": [model.weight]}, {"params": [model.bias]}], lr=0.1))
    with pytest.raises(CheckpointError, match=r"parameter groups.*paramwise_cfg"):
        other.load_state_dict(state)


def test_gradients_are_exchanged_only_in_steps_that_update():
    events = []

    class Quiet:
        def __enter__(self):
            events.append("quiet")

        def __exit__(self, *_):
            pass

    model = linear()
    object.__setattr__(model, "no_sync", Quiet)
    optim = make(model, accumulative_counts=2)
    for step in range(4):
        with optim.forward_context(model, "cpu", step):
            events.append(step)
    assert events == ["quiet", 0, 1, "quiet", 2, 3]


@pytest.mark.parametrize("dtype", ["bfloat16", None, torch.bfloat16])
def test_bfloat16_runs_the_forward_pass_in_it_and_keeps_float32_weights(new_state, new_batch, dtype):
    state = new_state({"type": "AmpOptimWrapper", "dtype": dtype})
    seen = []
    state.model.backbone.register_forward_hook(lambda _m, _i, output: seen.append(output.dtype))
    report = train_step(state, new_batch(0))
    assert seen == [torch.bfloat16]
    assert {p.dtype for p in state.model.parameters()} == {torch.float32}
    assert not state.optim.scaler.is_enabled()
    assert torch.isfinite(report.losses["loss"])


@pytest.mark.parametrize(
    ("loss_scale", "first"), [("dynamic", 65536.0), (512.0, 512.0), ({"init_scale": 8.0}, 8.0)]
)
def test_float16_scales_the_loss_and_trains(new_state, new_batch, loss_scale, first):
    wrapper = {
        "type": "AmpOptimWrapper",
        "dtype": "float16",
        "loss_scale": loss_scale,
        "clip_grad": {"max_norm": 5.0},
    }
    state = new_state(wrapper)
    assert state.optim.scaler.get_scale() == first
    losses = []
    for step in range(12):
        losses.append(float(train_step(state, new_batch(0)).losses["loss"]))
        state.step = step + 1
    assert losses[-1] < losses[0]
    if loss_scale == 512.0:
        assert state.optim.scaler.get_scale() == 512.0


def test_float16_leaves_out_steps_that_overflow_and_lowers_the_scale(new_state, new_batch):
    optimizer = {"type": "SGD", "lr": 0.1, "momentum": 0.9, "fused": True}
    wrapper = {
        "type": "AmpOptimWrapper",
        "dtype": "float16",
        "loss_scale": {"init_scale": 2.0**60},
        "optimizer": optimizer,
    }
    state = new_state(wrapper)
    before = [p.detach().clone() for p in state.model.parameters()]
    train_step(state, new_batch(0))
    assert all(torch.equal(p, q) for p, q in zip(state.model.parameters(), before, strict=True))
    assert state.optim.scaler.get_scale() == 2.0**59
    for _ in range(60):
        train_step(state, new_batch(0))
    assert all(torch.isfinite(p).all() for p in state.model.parameters())
    assert not torch.equal(state.model.head.weight, before[-2])


def test_the_loss_scale_is_saved(new_state, new_batch):
    wrapper = {
        "type": "AmpOptimWrapper",
        "dtype": "float16",
        "loss_scale": {"init_scale": 64.0, "growth_interval": 3},
    }
    state = new_state(wrapper)
    for _ in range(4):
        train_step(state, new_batch(0))
    fresh = new_state(wrapper)
    fresh.optim.load_state_dict(to_plain(state.optim.state_dict()))
    assert fresh.optim.scaler.get_scale() == state.optim.scaler.get_scale() == 128.0
    assert fresh.optim.scaler.state_dict() == state.optim.scaler.state_dict()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dtype": "half"}, "dtype 'half' is unknown; available: float16"),
        ({"loss_scale": "static"}, "loss_scale must be"),
        ({"loss_scale": -1.0}, "loss_scale must be"),
        ({"use_fsdp": True}, "sharded over the processes"),
    ],
)
def test_wrong_precision_settings_are_named(settings, words):
    with pytest.raises(ConfigError, match=words):
        AmpOptimWrapper(torch.optim.SGD(linear().parameters(), lr=0.1), **settings)


def test_auto_scaling_multiplies_every_rate_and_comes_before_the_schedules():
    model = linear()
    cfg = {
        "optimizer": {"type": "SGD", "lr": 0.02, "weight_decay": 0.1},
        "paramwise_cfg": {"bias_lr_mult": 2.0},
    }
    optim = build_optim_wrapper(model, cfg)
    assert scale_lr(optim, batch_size=4, base_batch_size=16) == 0.25
    assert optim.get_lr() == {"lr": [0.005, 0.01], "base_lr": [0.005]}
    build_schedules({"type": "ConstantLR"}, optim)
    with pytest.raises(ConfigError, match="before the schedules"):
        scale_lr(optim, batch_size=4, base_batch_size=16)


def test_optimisers_that_cannot_be_driven_are_refused():
    model = linear()
    with pytest.raises(ConfigError, match="LBFGS evaluates the loss several times"):
        OptimWrapper(torch.optim.LBFGS(model.parameters()))
    fused = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, dampening=0.1, fused=True)
    with pytest.raises(ConfigError, match="dampening"):
        AmpOptimWrapper(fused, dtype="float16")
