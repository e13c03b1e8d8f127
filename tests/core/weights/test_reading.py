import logging

import pytest
import torch
from torch import nn

from detcore.errors import CheckpointError
from detcore.weights import load_into_module, load_state
from detcore.weights.recognise import recognise


def net():
    return nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))


@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: {"state_dict": s, "meta": {"epoch": 3}}, lambda s: {"model": s}]
)
def test_files_are_read_and_unwrapped(tmp_path, wrap):
    state = net().state_dict()
    torch.save(wrap(state), tmp_path / "w.pth")
    got = load_state(tmp_path / "w.pth")
    assert list(got) == list(state)
    assert all(torch.equal(got[k], state[k]) for k in state)


def test_safetensors_are_read(tmp_path):
    from safetensors.torch import save_file

    state = net().state_dict()
    save_file(state, str(tmp_path / "w.safetensors"))
    got = load_state(str(tmp_path / "w.safetensors"))
    assert all(torch.equal(got[k], state[k]) for k in state)
    (tmp_path / "bad.safetensors").write_bytes(b"nothing of use")
    with pytest.raises(CheckpointError, match=r"bad.safetensors is damaged"):
        load_state(tmp_path / "bad.safetensors")


def test_names_can_be_revised(tmp_path):
    torch.save({"module.a.w": torch.zeros(1)}, tmp_path / "w.pth")
    assert list(load_state(tmp_path / "w.pth")) == ["a.w"]
    assert list(load_state(tmp_path / "w.pth", revise_keys=[(r"^module\.a", "b")])) == ["b.w"]


class Stranger:
    pass


def test_files_that_are_no_weights_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="there is no file"):
        load_state(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("<html>Not found</html>")
    with pytest.raises(CheckpointError, match=r"text\.pth"):
        load_state(tmp_path / "text.pth")
    torch.save(net().state_dict(), tmp_path / "cut.pth")
    whole = (tmp_path / "cut.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"cut\.pth is damaged"):
        load_state(tmp_path / "cut.pth")
    (tmp_path / "empty.pth").touch()
    with pytest.raises(CheckpointError, match=r"empty\.pth"):
        load_state(tmp_path / "empty.pth")
    contents = (([1], "but list"), ({"epoch": 3}, "no tensors under epoch"), ({}, "nothing in it"))
    for content, message in contents:
        torch.save(content, tmp_path / "other.pth")
        with pytest.raises(CheckpointError, match=message):
            load_state(tmp_path / "other.pth")


def test_files_that_would_run_code_are_not_opened(tmp_path):
    torch.save({"state_dict": net().state_dict(), "hook": Stranger()}, tmp_path / "code.pth")
    with pytest.raises(CheckpointError, match=r"code\.pth is refused: it holds .*Stranger"):
        load_state(tmp_path / "code.pth")


def test_what_does_not_fit_is_one_entry_of_the_log(caplog):
    state = net().state_dict()
    del state["1.bias"], state["1.num_batches_tracked"]
    state["fc.weight"] = torch.zeros(1)
    with caplog.at_level(logging.WARNING, "detcore.weights.load_into"):
        report = load_into_module(net(), state, source="w.pth")
    assert (report.missing, report.unexpected, report.mismatched) == (["1.bias"], ["fc.weight"], [])
    assert len(report.loaded) == 5
    [record] = caplog.records
    assert record.message == (
        "w.pth does not fit Sequential in every key: 5 of the model's 7 are in it\n"
        "  1 missing in the file: 1.bias\n  1 not in the model: fc.weight"
    )


def test_expected_leftovers_are_no_news(caplog):
    state = {**net().state_dict(), "fc.weight": torch.zeros(1)}
    with caplog.at_level(logging.DEBUG, "detcore.weights.load_into"):
        load_into_module(net(), state, ignore_unexpected=[r"^fc\."], strict=True)
    assert [record.levelname for record in caplog.records] == ["DEBUG", "INFO"]
    assert "1 names are not for Sequential: fc.weight" in caplog.text


def test_strict_loading_and_other_shapes_are_errors_that_change_nothing(caplog):
    module = net()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    extra = {**net().state_dict(), "fc.weight": torch.zeros(1)}
    with pytest.raises(
        CheckpointError, match=r"does not fit Sequential(?s:.*)1 not in the model: fc\.weight"
    ):
        load_into_module(module, extra, strict=True)
    other = {**net().state_dict(), "0.weight": torch.zeros(3, 1, 1, 1)}
    with pytest.raises(CheckpointError, match=r"0\.weight: file \(3, 1, 1, 1\), model \(2, 1, 1, 1\)"):
        load_into_module(module, other)
    with pytest.raises(CheckpointError, match="0 of the model's 7 are in it"):
        load_into_module(module, {"x": torch.zeros(1)})
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())
    report = load_into_module(module, other, allow_mismatch=True)
    assert report.mismatched == [("0.weight", (3, 1, 1, 1), (2, 1, 1, 1))]
    assert "1 of another shape" in caplog.text


def test_long_lists_of_names_are_cut(caplog):
    state = {**net().state_dict(), **{f"extra{i}": torch.zeros(1) for i in range(100)}}
    load_into_module(net(), state)
    assert "100 not in the model" in caplog.text
    assert "(100 in all)" in caplog.text
    assert "extra50" not in caplog.text


class Renamed(nn.Module):
    """A layer that knows weights under the name that it once had."""

    def __init__(self):
        super().__init__()
        self.new = nn.Linear(1, 1)

    def _load_from_state_dict(self, state_dict, prefix, *args):
        for kind in ("weight", "bias"):
            if f"{prefix}old.{kind}" in state_dict:
                state_dict[f"{prefix}new.{kind}"] = state_dict.pop(f"{prefix}old.{kind}")
        super()._load_from_state_dict(state_dict, prefix, *args)


def test_modules_may_rename_what_they_are_given():
    module = nn.Sequential(Renamed())
    state = {"0.old.weight": torch.full((1, 1), 3.0), "0.old.bias": torch.zeros(1)}
    assert not load_into_module(module, state, strict=True)
    assert module[0].new.weight.item() == 3
    with pytest.raises(CheckpointError, match=r"1 missing in the file: 0\.new\.bias"):
        load_into_module(module, {"0.old.weight": torch.full((1, 1), 4.0)}, strict=True)
    assert module[0].new.weight.item() == 3  # as it was
    with pytest.raises(CheckpointError, match="does not fit Sequential"):
        load_into_module(module, {"0.old.weight": torch.ones(2, 2), "0.old.bias": torch.ones(1)}, strict=True)
    assert module[0].new.weight.item() == 3


def test_versions_of_modules_outlive_revised_names(tmp_path):
    state = nn.Sequential(nn.BatchNorm2d(2)).state_dict()
    torch.save(state, tmp_path / "w.pth")
    assert load_state(tmp_path / "w.pth", revise_keys=[("^0", "1")])._metadata == state._metadata


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["backbone.conv1.weight", "rpn_head.rpn_conv.weight", "roi_head.mask_head.a"], "a Mask R-CNN"),
        (["backbone.conv1.weight", "bbox_head.retina_cls.weight"], "a RetinaNet"),
        (["bbox_head.transformer.encoder.layers.0.norms.0.weight"], "a DETR of MMDetection 2.x"),
        (["student.backbone.conv1.weight"], "a teacher-student detector"),
        (["conv1.weight", "layer1.0.conv1.weight", "fc.weight"], "a classification model"),
        (["layer1.0.conv1.weight"], "a backbone alone"),
        (["something"], ""),
    ],
)
def test_weights_are_recognised_by_their_names(names, kind):
    assert recognise(names).startswith(kind)
    assert bool(recognise(names)) == bool(kind)
