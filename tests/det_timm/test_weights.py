"""Weights from local files and from timm's hub, and names of weights that others gave."""

import logging

import pytest
import timm
import torch

from det_timm.backbone import TIMMBackbone
from detcore.errors import CheckpointError
from detcore.weights import load_into_module


def whole(name, seed=7):
    torch.manual_seed(seed)
    return timm.create_model(name).state_dict()


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("DETCORE_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))

    def forbidden(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr("socket.socket.connect", forbidden)


@pytest.mark.parametrize("name", ["resnet18.a1_in1k", "efficientnet_b0", "tv_resnet50"])
def test_offline_nobody_asks_the_network(offline, name, tmp_path):
    with pytest.raises(CheckpointError, match=r"DETCORE_OFFLINE is set.*checkpoint_path") as raised:
        TIMMBackbone(name, pretrained=True).init_weights()
    backbone = TIMMBackbone(name, pretrained=True)
    assert backbone.timm_model.pretrained_cfg["hf_hub_id"] in str(raised.value)
    assert str(tmp_path) in str(raised.value)


def test_without_a_network_the_error_names_the_weights_and_their_place(monkeypatch, tmp_path):
    monkeypatch.delenv("DETCORE_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    def unreachable(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", unreachable)
    message = r"resnet18 cannot be fetched from timm/resnet18\.a1_in1k: OSError: no route.*checkpoint_path"
    with pytest.raises(CheckpointError, match=message):
        TIMMBackbone("resnet18", pretrained=True).init_weights()


def test_offline_weights_behind_an_address_say_where_the_file_belongs(offline):
    with pytest.raises(CheckpointError, match=r"checkpoints/resnet18-5c106cde\.pth.*checkpoint_path"):
        TIMMBackbone("resnet18", pretrained=True, pretrained_cfg_overlay=WITH_ADDRESS).init_weights()


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_efficientnet"])
def test_a_file_of_the_whole_model_fills_every_weight_of_the_maps(tmp_path, name, caplog):
    state = whole(name)
    torch.save(state, tmp_path / "w.pth")
    backbone = TIMMBackbone(name, checkpoint_path=str(tmp_path / "w.pth"))
    with caplog.at_level(logging.WARNING, logger="det_timm"):
        backbone.init_weights()
    assert not caplog.records
    flat = {name.replace(".", "_"): value for name, value in state.items()}
    for key, value in backbone.timm_model.state_dict().items():
        torch.testing.assert_close(value, flat[key.removeprefix("model.").replace(".", "_")])


def test_a_file_that_lacks_some_weights_names_them(tmp_path, caplog):
    state = {key: value for key, value in whole("resnet18").items() if not key.startswith("layer4.1")}
    torch.save(state, tmp_path / "w.pth")
    backbone = TIMMBackbone("resnet18", checkpoint_path=str(tmp_path / "w.pth"))
    with caplog.at_level(logging.WARNING, logger="det_timm"):
        backbone.init_weights()
    assert "has no weights for layer4.1.conv1.weight, layer4.1.conv2.weight of timm's resnet18" in caplog.text


@pytest.mark.parametrize("other", ["resnet34", "vit_tiny_patch16_224", "convnext_atto", "nothing"])
def test_a_file_of_another_model_is_refused_and_nothing_changes(tmp_path, other):
    torch.save({"a": torch.zeros(3)} if other == "nothing" else whole(other), tmp_path / "w.pth")
    backbone = TIMMBackbone("swin_tiny_patch4_window7_224", checkpoint_path=str(tmp_path / "w.pth"))
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    with pytest.raises(CheckpointError, match="fit timm's swin_tiny_patch4_window7_224") as raised:
        backbone.init_weights()
    message = str(raised.value)
    assert "it has no weights for " in message or "size mismatch for " in message
    assert "its names are " in message
    assert "as checkpoint_path" in message
    assert all(torch.equal(before[key], value) for key, value in backbone.state_dict().items())


def test_a_file_that_is_not_there_or_runs_code_is_refused(tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match=r"missing\.pth"):
        TIMMBackbone("resnet18", checkpoint_path=str(tmp_path / "missing.pth")).init_weights()

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    torch.save({"conv1.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError):
        TIMMBackbone("resnet18", checkpoint_path=str(tmp_path / "evil.pth")).init_weights()
    assert not (tmp_path / "written").exists()
    torch.save(whole("resnet18"), tmp_path / "w.pth")
    monkeypatch.chdir(tmp_path)
    TIMMBackbone("resnet18", checkpoint_path="w.pth").init_weights()


@pytest.mark.parametrize("name", ["convnext_atto", "swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"])
def test_names_of_the_whole_model_are_followed(name):
    state = whole(name)
    backbone = TIMMBackbone(name, pyramid=False)
    report = load_into_module(backbone, {f"timm_model.{key}": value for key, value in state.items()})
    assert not report.missing
    assert {each.removeprefix("timm_model.").split(".")[0] for each in report.unexpected} <= {"head", "norm"}
    flat = {key.replace(".", "_"): value for key, value in state.items()}
    for key, value in backbone.timm_model.state_dict().items():
        assert torch.equal(value, flat[key.removeprefix("model.").replace(".", "_")])


WITH_ADDRESS = {"url": "https://example.org/resnet18-5c106cde.pth", "hf_hub_id": None}
