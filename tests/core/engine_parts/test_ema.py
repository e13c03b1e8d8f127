"""Averaged weights: the rules, the exchange for validation, the state, and no poison."""

import contextlib
import math

import pytest
import torch
from torch import nn

from detcore.engine.checkpoint.plain import to_plain
from detcore.engine.ema import (
    ExpMomentumEMA,
    ExponentialMovingAverage,
    MomentumAnnealingEMA,
    StochasticWeightAverage,
)
from detcore.engine.step import train_step
from detcore.errors import ConfigError, TrainingError
from detcore.registry import MODELS


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))


def walk(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in [*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())]:
            p.add_(torch.randn(p.shape, generator=generator).abs())
        model[1].num_batches_tracked += 1


RULES = {
    "constant": (lambda m: ExponentialMovingAverage(m, momentum=0.1), lambda t: 0.1),
    "exponential": (
        lambda m: ExpMomentumEMA(m, momentum=0.1, gamma=5),
        lambda t: 0.9 * math.exp(-(1 + t) / 5) + 0.1,
    ),
    "annealing": (lambda m: MomentumAnnealingEMA(m, momentum=0.2, gamma=2), lambda t: max(0.2, 2 / (2 + t))),
    "mean": (StochasticWeightAverage, lambda t: 1 / (t + 1)),
}


@pytest.mark.parametrize("name", RULES)
def test_each_average_follows_its_formula(name):
    make, momentum = RULES[name]
    model = small()
    average = make(model)
    expected = None
    for t in range(12):
        walk(model, t)
        weight = model[0].weight.detach().double()
        expected = weight if expected is None else (1 - momentum(t)) * expected + momentum(t) * weight
        average.update_parameters(model)
    torch.testing.assert_close(average.module[0].weight.double(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(average.module[1].running_mean, model[1].running_mean)
    assert average.steps == 12


def test_buffers_are_averaged_where_asked_and_counters_always_copied():
    model = small()
    average = ExponentialMovingAverage(model, momentum=0.25, update_buffers=True)
    walk(model, 0)
    average.update_parameters(model)
    first = model[1].running_var.clone()
    walk(model, 1)
    average.update_parameters(model)
    torch.testing.assert_close(average.module[1].running_var, 0.75 * first + 0.25 * model[1].running_var)
    assert average.module[1].num_batches_tracked == 2


def test_the_interval_leaves_steps_out():
    model = small()
    average = ExponentialMovingAverage(model, momentum=0.5, interval=3)
    seen = []
    for t in range(7):
        walk(model, t)
        before = average.module[0].weight.clone()
        average.update_parameters(model)
        seen.append(not torch.equal(before, average.module[0].weight))
    assert seen == [True, False, False, True, False, False, True]


def test_a_model_has_the_average_within_the_block_and_its_own_bits_after_it():
    model = small()
    average = ExponentialMovingAverage(model, momentum=0.1, update_buffers=True)
    for t in range(3):
        walk(model, t)
        average.update_parameters(model)
    own = {k: v.clone() for k, v in model.state_dict().items()}
    mean = {k: v.clone() for k, v in average.module.state_dict().items()}
    with contextlib.suppress(KeyError), average.swap(model):
        inside = {k: v.clone() for k, v in model.state_dict().items()}
        raise KeyError("an exception in the block changes nothing")
    assert all(torch.equal(v, mean[k]) for k, v in inside.items())
    assert all(torch.equal(v, own[k]) for k, v in model.state_dict().items())
    assert all(torch.equal(v, mean[k]) for k, v in average.module.state_dict().items())


def test_state_restores_exactly_and_has_the_usual_names():
    model = small()
    average = ExpMomentumEMA(model, momentum=0.1, gamma=5)
    for t in range(4):
        walk(model, t)
        average.update_parameters(model)
    state = {k: v.clone() for k, v in to_plain(average.state_dict()).items()}
    assert set(state) == {"steps", *(f"module.{name}" for name in model.state_dict())}
    again = ExpMomentumEMA(small(), momentum=0.1, gamma=5)
    again.load_state_dict(state)
    walk(model, 9)
    average.update_parameters(model)
    again.update_parameters(model)
    assert again.steps == average.steps == 5
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in average.state_dict().items())


def test_state_without_the_number_of_steps_is_incomplete():
    average = ExponentialMovingAverage(small())
    state = average.state_dict()
    del state["steps"]
    with pytest.raises(RuntimeError, match="steps"):
        average.load_state_dict(state)


def test_an_average_does_not_share_memory_or_gradients_with_its_model():
    model = small()
    average = ExponentialMovingAverage(model)
    assert not any(p.requires_grad for p in average.parameters())
    walk(model, 0)
    assert not torch.equal(average.module[0].weight, model[0].weight)
    average.copy_from(model)
    assert torch.equal(average.module[0].weight, model[0].weight)
    assert average.steps == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_model_that_is_not_finite_never_reaches_the_average(bad):
    model = small()
    average = ExponentialMovingAverage(model, momentum=0.1)
    walk(model, 0)
    average.update_parameters(model)
    before = {k: v.clone() for k, v in average.state_dict().items()}
    with torch.no_grad():
        model[0].weight[0, 0] = bad
    with pytest.raises(TrainingError, match=r"not finite after this step.*0\.weight"):
        average.update_parameters(model)
    assert all(torch.equal(v, before[k]) for k, v in average.state_dict().items())


def test_it_follows_a_run(new_state, new_batch):
    state = new_state()
    average = ExponentialMovingAverage(state.model, momentum=0.5)
    state.after_update.append(average.update)
    for step in range(3):
        train_step(state, new_batch(step))
        state.step += 1
    assert average.steps == 3
    assert not torch.equal(average.module.head.weight, state.model.head.weight)


@pytest.mark.parametrize(
    "name", ["ExponentialMovingAverage", "ExpMomentumEMA", "MomentumAnnealingEMA", "StochasticWeightAverage"]
)
def test_configs_name_them(name):
    assert type(MODELS.build({"type": name, "interval": 2}, model=small())).__name__ == name


@pytest.mark.parametrize("settings", [{"momentum": 1.5}, {"momentum": 0.0}, {"interval": 0}, {"gamma": 0}])
def test_wrong_settings_are_refused(settings):
    with pytest.raises(ConfigError):
        ExpMomentumEMA(small(), **settings)
