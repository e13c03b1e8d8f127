import logging
import math

import pytest
import torch
from torch import nn

from detcore.errors import CheckpointError, ConfigError
from detcore.nn import (
    BaseModule,
    ConvModule,
    ModuleDict,
    ModuleList,
    Sequential,
    bias_init_with_prob,
    initialize,
    kaiming_init,
    normal_init,
    trunc_normal_init,
    xavier_init,
)
from detcore.registry import WEIGHT_INITIALIZERS


class Net(BaseModule):
    """The layers of the manual's example."""

    def __init__(self, init_cfg=None):
        super().__init__(init_cfg)
        self.feat = nn.Conv1d(3, 1, 3)
        self.reg = nn.Conv2d(3, 3, 3)
        self.cls = nn.Linear(1, 2)


def values(layer):
    """The one value of weight and of bias, None where they have several."""
    found = []
    for tensor in (layer.weight, layer.bias):
        same = tensor.unique()
        found.append(same.item() if len(same) == 1 else None)
    return tuple(found)


def test_layers_are_chosen_by_class_name():
    net = Net([
        {"type": "Constant", "layer": "Conv1d", "val": 1},
        {"type": "Constant", "layer": ["Conv2d"], "val": 2, "bias": 4},
        {"type": "Constant", "layer": "Linear", "val": 3, "bias_prob": 0.01},
    ])
    net.init_weights()
    assert values(net.feat) == (1, 0)
    assert values(net.reg) == (2, 4)
    assert values(net.cls) == (3, pytest.approx(-math.log(99)))


def test_layers_are_chosen_by_the_name_of_a_base_class():
    class OwnConv(nn.Conv2d):
        pass

    net = nn.Sequential(OwnConv(1, 1, 1), nn.BatchNorm1d(1), nn.SyncBatchNorm(1), nn.GroupNorm(1, 1))
    initialize(net, {"type": "Constant", "val": 7, "bias": 1, "layer": ["Conv2d", "_BatchNorm"]})
    assert [values(layer)[0] for layer in net] == [7, 7, 7, 1]


def test_nothing_happens_without_layer_or_override():
    net = Net({"type": "Constant", "val": 1})
    before = [p.clone() for p in net.parameters()]
    net.init_weights()
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_an_override_with_its_own_type_ignores_the_outer_values():
    net = Net({
        "type": "Constant", "layer": ["Conv1d", "Conv2d"], "val": 1, "bias": 2,
        "override": {"type": "Constant", "name": "reg", "val": 3, "bias": 4},
    })
    net.init_weights()
    assert (values(net.feat), values(net.reg)) == ((1, 2), (3, 4))


def test_an_override_by_name_alone_takes_the_outer_values():
    net = Net({"type": "Constant", "val": 1, "bias": 2, "override": {"name": "reg"}})
    before = net.feat.weight.clone()
    net.init_weights()
    assert values(net.reg) == (1, 2)
    assert torch.equal(net.feat.weight, before)


def test_several_overrides_reach_layers_deep_inside():
    net = Sequential(nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)), nn.Conv2d(1, 1, 1))
    overrides = [{"type": "Constant", "name": "0", "val": 5}, {"type": "Constant", "name": "1", "val": 6}]
    initialize(net, {"type": "Normal", "override": overrides})
    assert [values(layer)[0] for layer in (net[0][0], net[0][1], net[1])] == [5, 5, 6]


def test_initialisers_of_matrices_leave_norms_alone_in_overrides():
    net = Sequential(ConvModule(2, 2, 1, norm_cfg={"type": "BN"}))
    for kind in ("Xavier", "Kaiming", "Caffe2Xavier"):
        initialize(net, {"type": "Constant", "val": 3, "layer": ["Conv2d", "BatchNorm2d"]})
        initialize(net, {"type": kind, "override": {"name": "0"}})
        assert values(net[0].bn)[0] == 3
        assert values(net[0].conv.bias is None and net[0].bn)[1] == 0
        assert net[0].conv.weight.unique().numel() > 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"type": "Constant", "val": 3}, "override needs the `name`"),
        ({"name": "reg", "val": 3}, "has arguments but no `type`"),
        ({"name": "rag"}, r"'rag', but Net has no such submodule; it has \['feat', 'reg', 'cls'\]"),
        (["reg"], "must be a dict"),
    ],
)
def test_malformed_overrides_are_refused(override, message):
    with pytest.raises(ConfigError, match=message):
        Net({"type": "Constant", "val": 1, "layer": "Conv2d", "override": override}).init_weights()


def test_unknown_initialisers_and_arguments_are_refused():
    with pytest.raises(ConfigError, match="Xavier"):
        Net({"type": "Xaver", "layer": "Conv2d"}).init_weights()
    with pytest.raises(ConfigError, match="did you mean 'layer'"):
        Net({"type": "Xavier", "layers": "Conv2d"}).init_weights()
    with pytest.raises(ConfigError, match="val"):
        Net({"type": "Constant", "layer": "Conv2d"}).init_weights()


def test_an_inner_module_has_the_last_word():
    outer = Sequential(
        Net({"type": "Constant", "layer": "Conv2d", "val": 2}), Net(),
        init_cfg={"type": "Constant", "layer": ["Conv1d", "Conv2d"], "val": 1},
    )
    outer.init_weights()
    assert [values(net.reg)[0] for net in outer] == [2, 1]
    assert [values(net.feat)[0] for net in outer] == [1, 1]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda net: nn.ModuleList([net]),
        lambda net: nn.Sequential(nn.Sequential(net)),
        lambda net: ModuleList([net]),
        lambda net: ModuleDict({"a": net}),
    ],
)
def test_modules_in_any_container_are_initialised(wrap):
    net = Net({"type": "Constant", "layer": "Conv2d", "val": 2})
    outer = BaseModule()
    outer.inside = wrap(net)
    outer.init_weights()
    assert values(net.reg)[0] == 2


def test_containers_have_an_init_cfg_of_their_own():
    cfg = {"type": "Constant", "layer": "Conv2d", "val": 4}
    for container in (
        Sequential(nn.Conv2d(1, 1, 1), init_cfg=cfg),
        ModuleList([nn.Conv2d(1, 1, 1)], init_cfg=cfg),
        ModuleDict({"a": nn.Conv2d(1, 1, 1)}, init_cfg=cfg),
    ):
        container.init_weights()
        assert values(next(m for m in container.modules() if isinstance(m, nn.Conv2d)))[0] == 4
        assert "init_cfg" in repr(container)
    assert isinstance(Sequential(nn.ReLU(), nn.ReLU())[:1], Sequential)


def test_values_of_conv_modules_yield_to_the_init_cfg_around_them():
    outer = BaseModule({"type": "Constant", "layer": "Conv2d", "val": 0.5})
    outer.direct = ConvModule(2, 2, 1)
    outer.inside = nn.ModuleList([ConvModule(2, 2, 1), ConvModule(2, 2, 1, init_cfg={
        "type": "Constant", "layer": "Conv2d", "val": 2,
    })])
    outer.init_weights()
    assert values(outer.direct.conv)[0] == 0.5
    assert [values(module.conv)[0] for module in outer.inside] == [0.5, 2]


def test_a_module_with_its_own_init_weights_is_called_as_a_child_but_not_within_foreign_containers():
    class Foreign(nn.Module):
        called = False

        def init_weights(self):
            self.called = True

    outer = BaseModule()
    outer.child, outer.inside = Foreign(), nn.Sequential(Foreign())
    outer.init_weights()
    assert outer.child.called
    assert not outer.inside[0].called


def test_weights_are_initialised_once(caplog):
    net = Net({"type": "Normal", "layer": "Conv2d"})
    assert not net.is_init
    net.init_weights()
    assert net.is_init
    before = net.reg.weight.clone()
    with caplog.at_level(logging.WARNING, "detcore.nn.base_module"):
        net.init_weights()
    assert "called before" in caplog.text
    assert torch.equal(net.reg.weight, before)
    outer = Sequential(net, init_cfg=None)
    outer.init_weights()
    assert torch.equal(net.reg.weight, before)


def test_pretrained_weights_come_last_and_stay(tmp_path):
    source = Net()
    torch.save({"state_dict": source.state_dict()}, tmp_path / "net.pth")
    pretrained = {"type": "Pretrained", "checkpoint": str(tmp_path / "net.pth")}
    constant = {"type": "Constant", "layer": "Conv2d", "val": 1}
    both = Net([pretrained, constant])
    both.init_weights()
    assert torch.equal(both.reg.weight, source.reg.weight)
    outer = Sequential(Net(pretrained), Net(), init_cfg=constant)
    outer.init_weights()
    assert torch.equal(outer[0].reg.weight, source.reg.weight)
    assert values(outer[1].reg)[0] == 1


def test_pretrained_of_a_part_of_a_file(tmp_path):
    source = nn.ModuleDict({"backbone": Net(), "head": nn.Linear(1, 1)})
    torch.save(source.state_dict(), tmp_path / "net.pth")
    cfg = {"type": "Pretrained", "checkpoint": str(tmp_path / "net.pth")}
    for prefix in ("backbone", "backbone."):
        net = Net({**cfg, "prefix": prefix})
        net.init_weights()
        assert torch.equal(net.reg.weight, source["backbone"].reg.weight)
    with pytest.raises(CheckpointError, match=r"no name begins with 'neck\.'; .* backbone, head"):
        Net({**cfg, "prefix": "neck"}).init_weights()
    with pytest.raises(CheckpointError, match=r"prefix='backbone\.' may help"):
        Net(cfg).init_weights()


def test_an_initialiser_of_the_users_own():
    def fill_with_nine(module):
        nn.init.constant_(module.reg.weight, 9)

    class Nine:
        def __call__(self, module):
            fill_with_nine(module)

    before = WEIGHT_INITIALIZERS.registered_names("")
    WEIGHT_INITIALIZERS.register_module(module=Nine)
    try:
        net = Net({"type": "Nine"})
        net.init_weights()
        assert values(net.reg)[0] == 9
    finally:
        WEIGHT_INITIALIZERS.forget(lambda scope, registration: registration.component is Nine)
    assert WEIGHT_INITIALIZERS.registered_names("") == before


def spread(fill, **kwargs):
    torch.manual_seed(0)
    layer = nn.Conv2d(64, 128, 3)
    fill(layer, **kwargs)
    return layer.weight.mean().item(), layer.weight.std().item(), layer.weight.abs().max().item()


def test_values_follow_their_distributions():
    fan_in, fan_out = 64 * 9, 128 * 9
    assert spread(kaiming_init)[1] == pytest.approx((2 / fan_out) ** 0.5, rel=0.02)
    assert spread(kaiming_init, mode="fan_in", distribution="uniform")[2] <= (6 / fan_in) ** 0.5
    assert spread(xavier_init)[1] == pytest.approx((2 / (fan_in + fan_out)) ** 0.5, rel=0.02)
    assert spread(xavier_init, gain=2, distribution="uniform")[2] <= 2 * (6 / (fan_in + fan_out)) ** 0.5
    assert spread(normal_init, mean=1, std=0.1)[:2] == pytest.approx((1, 0.1), rel=0.02)
    assert spread(trunc_normal_init, std=1, a=-0.5, b=0.5)[2] <= 0.5
    with pytest.raises(ValueError, match="'cauchy'"):
        xavier_init(nn.Linear(1, 1), distribution="cauchy")


def test_a_prior_probability_becomes_the_bias_of_a_sigmoid():
    assert torch.sigmoid(torch.tensor(bias_init_with_prob(0.01))).item() == pytest.approx(0.01)
    for wrong in (0, 1, -0.1):
        with pytest.raises(ValueError, match="between 0 and 1"):
            bias_init_with_prob(wrong)
