"""What a config may say about the wrapper around the model, and what it comes to."""

import pytest
import torch
from torch import nn

from detcore.engine.model_wrapper import check_runner_type, ddp_settings, unused_parameters, watch_unused
from detcore.errors import ConfigError, DetcoreError

USUAL = {
    "find_unused_parameters": False,
    "broadcast_buffers": False,
    "static_graph": False,
    "sync_batch_norm": False,
}


def test_a_config_without_a_wrapper_may_set_what_it_does_at_the_top():
    assert ddp_settings({}) == USUAL
    cfg = {"find_unused_parameters": True, "sync_bn": "torch"}
    assert ddp_settings(cfg) == {**USUAL, "find_unused_parameters": True, "sync_batch_norm": True}


@pytest.mark.parametrize(
    "kind",
    [None, "MMDistributedDataParallel", "mmengine.MMDistributedDataParallel", "DistributedDataParallel"],
)
def test_a_wrapper_has_the_defaults_of_torch_and_its_own_settings(kind):
    given = {"type": kind, "find_unused_parameters": True, "detect_anomalous_params": True}
    cfg = {"model_wrapper_cfg": {k: v for k, v in given.items() if v is not None}, "static_graph": True}
    assert ddp_settings(cfg) == {
        "find_unused_parameters": True,
        "broadcast_buffers": True,
        "sync_batch_norm": False,
    }


@pytest.mark.parametrize(
    ("wrapper", "words"),
    [
        ({"type": "MMSeparateDistributedDataParallel"}, "optimisers of their own"),
        ({"type": "MMFullyShardedDataParallel"}, "not sharded"),
        ({"type": "MMDeepSpeedEngineWrapper"}, "another training framework"),
        ({"type": "MyWrapper"}, "there are MMDistributedDataParallel"),
        ({"device_ids": [0]}, "the launcher decides"),
        ({"find_unused_params": True}, "find_unused_params is unknown; it takes find_unused_parameters"),
        ([], "must be a dict, got list"),
    ],
)
def test_what_has_no_meaning_is_refused_with_the_reason(wrapper, words):
    with pytest.raises(ConfigError, match=words):
        ddp_settings({"model_wrapper_cfg": wrapper})


def test_an_unknown_way_to_synchronise_norms_is_refused():
    with pytest.raises(ConfigError, match=r"sync_bn must be 'torch'.*got 'apex'"):
        ddp_settings({"sync_bn": "apex"})


class Forked(nn.Module):
    """One of two branches makes the loss."""

    def __init__(self):
        super().__init__()
        self.used, self.idle = nn.Linear(2, 1), nn.Linear(2, 1)
        self.frozen = nn.Linear(2, 1).requires_grad_(False)
        self.both = False

    def forward(self, inputs, mode="tensor"):
        score = self.used(inputs).mean()
        more = self.idle(inputs).mean()
        if mode == "loss":
            return {"loss_a": [score], "loss_b": more if self.both else score * 2, "acc": more}
        return score


def test_parameters_without_influence_on_the_loss_are_named_once(caplog):
    model = Forked()
    losses = model(torch.ones(1, 2), mode="loss")
    assert unused_parameters(model, [losses["loss_b"]]) == ["idle.weight", "idle.bias"]
    watch_unused(model, {"model_wrapper_cfg": {"detect_anomalous_params": True}})
    for both in (False, False, True):
        model.both = both
        model(torch.ones(1, 2), mode="loss")
        model(torch.ones(1, 2))
    messages = [record.message for record in caplog.records]
    assert messages == ["the loss does not depend on idle.weight, idle.bias"]


def test_nothing_is_watched_unless_asked(caplog):
    model = Forked()
    watch_unused(model, {"model_wrapper_cfg": {}})
    model(torch.ones(1, 2), mode="loss")
    assert not caplog.records


def test_another_runner_is_refused():
    check_runner_type({})
    check_runner_type({"runner_type": "Runner"})
    check_runner_type({"runner_type": "mmengine.Runner"})
    with pytest.raises(DetcoreError, match="FlexibleRunner"):
        check_runner_type({"runner_type": "FlexibleRunner"})
