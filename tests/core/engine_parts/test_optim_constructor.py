"""Which parameter gets which learning rate and weight decay."""

import logging

import pytest
import torch
from torch import nn

from detcore.engine.optim import (
    AmpOptimWrapper,
    DefaultOptimWrapperConstructor,
    OptimWrapper,
    build_optim_wrapper,
)
from detcore.errors import ConfigError
from detcore.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS


class DeformConv2d(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, 2, 3, 3))
        self.bias = nn.Parameter(torch.zeros(2))
        self.conv_offset = nn.Conv2d(2, 2, 3)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 3, groups=2))
        self.dcn = DeformConv2d()
        self.head = nn.Linear(2, 2)
        self.scale = nn.Parameter(torch.ones(2))
        self.query = nn.Parameter(torch.ones(2, 2))


def table(optim, model):
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        names[id(p)]: (group["lr"], group["weight_decay"])
        for group in optim.optimizer.param_groups
        for p in group["params"]
    }


def build(model, paramwise, **settings):
    optimizer = {"type": "SGD", "lr": 1.0, "weight_decay": 1.0, **settings}
    return build_optim_wrapper(
        model, {"type": "OptimWrapper", "optimizer": optimizer, "paramwise_cfg": paramwise}
    )


def test_each_rule_reaches_its_parameters_and_no_others():
    model = Model()
    paramwise = {
        "bias_lr_mult": 2.0,
        "bias_decay_mult": 0.1,
        "norm_decay_mult": 0.2,
        "dwconv_decay_mult": 0.3,
        "flat_decay_mult": 0.4,
        "dcn_offset_lr_mult": 5.0,
    }
    assert table(build(model, paramwise), model) == {
        "scale": (1.0, 0.4),
        "query": (1.0, 1.0),
        "backbone.0.weight": (1.0, 1.0),
        "backbone.0.bias": (2.0, 0.1),
        "backbone.1.weight": (1.0, 0.2),
        "backbone.1.bias": (1.0, 0.2),
        "backbone.2.weight": (1.0, 0.3),
        "backbone.2.bias": (2.0, 0.1),
        "dcn.weight": (1.0, 1.0),
        "dcn.bias": (2.0, 0.1),
        "dcn.conv_offset.weight": (5.0, 1.0),
        "dcn.conv_offset.bias": (5.0, 1.0),
        "head.weight": (1.0, 1.0),
        "head.bias": (2.0, 0.1),
    }


def test_the_longest_custom_key_decides_and_other_rules_do_not_apply():
    model = Model()
    paramwise = {
        "custom_keys": {
            "backbone": {"lr_mult": 0.1},
            "backbone.1": {"decay_mult": 0.0},
            "head": {"tag": "mine"},
        },
        "norm_decay_mult": 0.5,
        "bias_lr_mult": 9.0,
    }
    optim = build(model, paramwise)
    got = table(optim, model)
    assert got["backbone.0.bias"] == (0.1, 1.0)
    assert got["backbone.1.weight"] == (1.0, 0.0)
    assert got["head.bias"] == (1.0, 1.0)
    assert got["dcn.bias"] == (9.0, 1.0)
    assert [group["tag"] for group in optim.optimizer.param_groups if "tag" in group] == ["mine"]


def test_of_two_custom_keys_of_equal_length_the_first_in_the_alphabet_decides():
    model = Model()
    optim = build(model, {"custom_keys": {"weight": {"lr_mult": 3.0}, "head.w": {"lr_mult": 2.0}}})
    assert table(optim, model)["head.weight"] == (2.0, 1.0)


def test_parameters_of_equal_settings_share_a_group():
    groups = build(Model(), {"norm_decay_mult": 0.0}).optimizer.param_groups
    assert [len(group["params"]) for group in groups] == [12, 2]


def test_frozen_parameters_stay_as_they_are_until_they_are_thawed():
    model = Model()
    model.backbone.requires_grad_(False)
    optim = build(model, {"norm_decay_mult": 0.0})
    weight = next(model.backbone.parameters())

    def step():
        before = weight.detach().clone()
        optim.update_params(sum(p.pow(2).sum() for p in model.parameters() if p.requires_grad))
        return not torch.equal(weight.detach(), before)

    assert not step()
    model.backbone.requires_grad_(True)
    assert step()
    model.requires_grad_(False)
    with pytest.raises(ConfigError, match="no parameter that requires a gradient"):
        build(model, {})


def test_a_custom_key_that_decides_about_nothing_is_warned_of(caplog):
    with caplog.at_level(logging.WARNING):
        build(Model(), {"custom_keys": {"bakbone": {"lr_mult": 0.1}}})
    assert "'bakbone' decides about no trainable parameter" in caplog.text


def test_shared_parameters_need_a_decision_only_where_there_are_rules():
    model = Model()
    model.tied = nn.Linear(2, 2)
    model.tied.weight = model.head.weight
    build(model, None)
    with pytest.raises(ConfigError, match=r"'tied\.weight' is shared.*bypass_duplicate"):
        build(model, {"norm_decay_mult": 0.0})
    optim = build(model, {"custom_keys": {"tied": {"lr_mult": 7.0}}, "bypass_duplicate": True})
    assert table(optim, model)["head.weight"] == (1.0, 1.0)


@pytest.mark.parametrize(
    ("cfg", "words"),
    [
        (
            {"optimizer": {"type": "SGD", "lr": 1.0}, "paramwise_cfg": {"norm_decay_mlt": 0.0}},
            "did you mean 'norm_decay_mult'",
        ),
        (
            {"optimizer": {"type": "SGD", "lr": 1.0}, "paramwise_cfg": {"norm_decay_mult": 0.0}},
            "weight_decay",
        ),
        (
            {
                "optimizer": {"type": "SGD", "lr": 1.0},
                "paramwise_cfg": {"custom_keys": {"a": {"decay_mult": 0}}},
            },
            "weight_decay",
        ),
        ({"optimizer": {"type": "SGD", "lr": 1.0}, "paramwise_cfg": {"custom_keys": {"a": 0.1}}}, "must map"),
        ({"optimizer": {"type": "Adadelta"}, "paramwise_cfg": {"bias_lr_mult": 2.0}}, "needs optimizer.lr"),
        (
            {"optimizer": {"type": "SGD", "learning_rate": 1.0}},
            r"(?s)optim_wrapper\.optimizer.*learning_rate",
        ),
        ({"optimizer": {"type": "AdamWW", "lr": 1.0}}, r"(?s)optim_wrapper\.optimizer.*AdamW"),
        (
            {"optimizer": {"type": "SGD", "lr": 1.0}, "clip_gard": {}},
            r"(?s)optim_wrapper.*clip_gard.*clip_grad",
        ),
        ({"type": "OptimWrapper"}, "optimizer=dict"),
        ("SGD", "must be a dict"),
    ],
)
def test_wrong_settings_are_named_with_their_path(cfg, words):
    with pytest.raises(ConfigError, match=words):
        build_optim_wrapper(Model(), cfg)


@pytest.mark.parametrize(
    "name",
    [
        "ASGD",
        "Adadelta",
        "Adafactor",
        "Adagrad",
        "Adam",
        "AdamW",
        "Adamax",
        "NAdam",
        "RAdam",
        "RMSprop",
        "Rprop",
        "SGD",
        "TorchAdafactor",
    ],
)
def test_torchs_optimisers_go_by_their_names_and_step(name):
    model = nn.Linear(2, 2)
    optim = build_optim_wrapper(model, {"optimizer": {"type": name, "lr": 0.01}})
    optim.update_params(model(torch.ones(1, 2)).sum())
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_optimisers_that_only_newer_versions_of_torch_have_are_found_too():
    assert OPTIMIZERS.get("LBFGS") is torch.optim.LBFGS
    assert "Optimizer" not in OPTIMIZERS


def test_fused_and_foreach_are_plain_settings():
    for setting in ("fused", "foreach"):
        cfg = {
            "type": "AmpOptimWrapper",
            "dtype": "bfloat16",
            "optimizer": {"type": "AdamW", "lr": 0.1, setting: True},
        }
        optim = build_optim_wrapper(nn.Linear(2, 2), cfg)
        assert isinstance(optim, AmpOptimWrapper)
        assert optim.optimizer.param_groups[0][setting] is True


def test_a_users_constructor_is_called_with_config_and_rules_and_may_return_a_bare_optimiser():
    calls = []

    class Mine:
        def __init__(self, optim_wrapper_cfg, paramwise_cfg=None):
            calls.append((dict(optim_wrapper_cfg), paramwise_cfg))

        def __call__(self, model):
            return torch.optim.SGD(model.parameters(), lr=0.5)

    OPTIM_WRAPPER_CONSTRUCTORS.register_module(module=Mine, name="MineForTests")
    cfg = {
        "type": "OptimWrapper",
        "optimizer": {"a": 1},
        "constructor": "MineForTests",
        "paramwise_cfg": {"x": 1},
        "accumulative_counts": 2,
    }
    optim = build_optim_wrapper(Model(), cfg)
    assert calls == [({"type": "OptimWrapper", "optimizer": {"a": 1}, "accumulative_counts": 2}, {"x": 1})]
    assert isinstance(optim, OptimWrapper)
    assert optim.accumulative_counts == 2
    assert optim.get_lr() == {"lr": [0.5]}


def test_a_users_constructor_may_extend_ours():
    class Layered(DefaultOptimWrapperConstructor):
        def add_params(self, params, module):
            for i, parameter in enumerate(module.parameters()):
                params.append({"params": [parameter], "lr": self.base_lr * 0.5**i})

    OPTIM_WRAPPER_CONSTRUCTORS.register_module(module=Layered, name="LayeredForTests")
    model = nn.Linear(2, 2)
    optim = build_optim_wrapper(
        model, {"optimizer": {"type": "SGD", "lr": 1.0}, "constructor": "LayeredForTests"}
    )
    assert optim.get_lr()["lr"] == [1.0, 0.5]


def test_a_users_optimiser_and_wrapper_build_by_name():
    class Slow(torch.optim.SGD):
        def __init__(self, params, a, lr=0.001):
            super().__init__(params, lr=lr * a)

    class Counting(OptimWrapper):
        pass

    OPTIMIZERS.register_module(module=Slow, name="SlowForTests")
    OPTIM_WRAPPERS.register_module(module=Counting, name="CountingForTests")
    optim = build_optim_wrapper(
        Model(), {"type": "CountingForTests", "optimizer": {"type": "SlowForTests", "a": 2.0}}
    )
    assert type(optim) is Counting
    assert optim.get_lr() == {"lr": [0.002]}


def test_a_wrapper_asks_for_a_built_optimiser():
    with pytest.raises(ConfigError, match="wraps a built optimizer, got dict"):
        OptimWrapper({"type": "SGD"})
    model = nn.Linear(2, 2)
    built = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    assert build_optim_wrapper(model, built) is built
