"""What users' modules read and write under the name "message hub"."""

import gc

import pytest
import torch

from detcore.engine.message_hub import MessageHub
from detcore.engine.runner import Runner
from detcore.errors import ConfigError


def test_without_a_run_a_hub_knows_what_it_is_told():
    hub = MessageHub()
    hub.update_scalars({"a": 1.0, "b": {"value": torch.tensor(2.0), "count": 3}})
    hub.update_scalar("a", 3.0)
    assert hub.get_scalar("a").data == [1.0, 3.0]
    assert hub.get_scalar("a").current() == 3.0
    assert hub.get_scalar("a").mean() == 2.0
    assert (hub.get_scalar("a").min(1), hub.get_scalar("a").max(1), hub.get_scalar("b").current()) == (
        3.0,
        3.0,
        2.0,
    )
    assert hub.get_info("iter") is None
    hub.update_info_dict({"x": [1]})
    assert hub.get_info("x") == [1]
    assert hub.pop_info("x") == [1]
    assert hub.runtime_info == {}


def test_a_figure_that_is_not_there_and_one_that_is_no_number_are_errors():
    with pytest.raises(KeyError, match="no figure 'train/loss'"):
        MessageHub().get_scalar("train/loss")
    with pytest.raises(ConfigError, match="one number"):
        MessageHub().update_scalar("a", torch.zeros(2))


def test_figures_of_a_mode_are_those_of_the_log(toy_cfg):
    runner = Runner.from_cfg(toy_cfg(train_cfg={"max_epochs": 1}))
    runner.train()
    hub = runner.message_hub
    assert hub.get_scalar("train/loss").data[-1] == runner.log_processor.histories()["train"]["loss"][-1]
    assert hub.get_scalar("train/lr").current() == runner.rates["lr"]
    hub.update_scalar("train/mine", torch.tensor(5.0))
    assert runner.log_processor.histories()["train"]["mine"] == [5.0]


def test_facts_are_those_of_the_run(toy_cfg):
    runner = Runner.from_cfg(toy_cfg(train_cfg={"max_epochs": 2}))
    runner.train()
    hub = MessageHub.get_current_instance()
    assert hub is runner.message_hub is MessageHub.get_instance("any name")
    assert [hub.get_info(key) for key in ("iter", "epoch", "max_iters", "max_epochs")] == [12, 2, 12, 2]
    assert hub.get_info("dataset_meta") == {"classes": ("dark", "bright")}
    assert hub.get_info("unknown", 3) == 3
    assert "ToyDetector" in hub.get_info("cfg")
    hub.update_info("epoch", "mine")
    assert hub.get_info("epoch") == "mine"


def test_the_hub_of_a_run_that_is_gone_is_not_found(toy_cfg):
    runner = Runner.from_cfg(toy_cfg())
    assert MessageHub.get_current_instance() is runner.message_hub
    del runner
    gc.collect()
    assert MessageHub.get_current_instance().runtime_info == {}


def test_what_shall_be_resumed_is_in_the_state():
    hub, twin = MessageHub(), MessageHub()
    assert hub.state_dict() == {}
    hub.update_info("kept", {"a": torch.ones(1)})
    hub.update_info("left", 2, resumed=False)
    hub.update_scalar("figure", torch.tensor(1.5))
    hub.update_scalar("fleeting", 1.0, resumed=False)
    state = hub.state_dict()
    assert set(state["infos"]) == {"kept"}
    assert state["scalars"] == {"figure": [1.5]}
    twin.load_state_dict(state)
    assert twin.get_scalar("figure").current() == 1.5
    assert twin.get_info("left") is None
