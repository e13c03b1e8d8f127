"""Loading weights: what does not fit is named, by key and by shape."""

import logging
from collections import OrderedDict

import pytest
import torch
from torch import nn

from detcore.engine.checkpoint import load_into_model
from detcore.errors import CheckpointError


class Detector(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.backbone = nn.Sequential(*(nn.Conv2d(2, 2, 1) for _ in range(5)))
        self.bbox_head = nn.ModuleDict(
            {"retina_cls": nn.Conv2d(2, classes, 1), "retina_reg": nn.Conv2d(2, 4, 1)}
        )


def copy_of(model):
    return OrderedDict((k, v.clone() + 1) for k, v in model.state_dict().items())


def test_what_fits_is_loaded_strictly():
    model = Detector()
    weights = copy_of(model)
    assert not load_into_model(model, weights, strict=True, source="a.pth")
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())


def test_a_leading_module_of_ddp_is_dropped():
    model = Detector()
    weights = {f"module.{k}": v for k, v in copy_of(model).items()}
    assert not load_into_model(model, weights, strict=True, source="a.pth")


def test_strict_names_missing_unexpected_and_reshaped_and_leaves_the_model_alone():
    model = Detector()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    weights = copy_of(Detector(classes=80))
    del weights["backbone.0.weight"]
    weights["mask_head.weight"] = torch.ones(1)
    with pytest.raises(CheckpointError) as caught:
        load_into_model(model, weights, strict=True, source="runs/a.pth")
    message = str(caught.value)
    assert "runs/a.pth" in message
    assert "1 missing in the file: backbone.0.weight" in message
    assert "1 not in the model: mask_head.weight" in message
    assert "bbox_head.retina_cls.weight: file (80, 2, 1, 1), model (3, 2, 1, 1)" in message
    assert "another number of classes" in message
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_not_strict_loads_what_fits_and_warns_of_the_rest(caplog):
    model = Detector()
    weights = copy_of(Detector(classes=80))
    with caplog.at_level(logging.WARNING):
        report = load_into_model(model, weights, strict=False, source="coco.pth")
    assert len(report.mismatched) == 2
    assert not report.missing
    assert not report.unexpected
    assert "another number of classes" in caplog.text
    assert torch.equal(model.backbone[0].weight, weights["backbone.0.weight"])
    assert torch.equal(model.bbox_head["retina_reg"].weight, weights["bbox_head.retina_reg.weight"])


def test_where_nothing_fits_it_is_an_error_even_if_not_strict():
    model = Detector()
    with pytest.raises(
        CheckpointError, match=r"0 of the model's 14 .*\n.*14 missing(?s:.*)1 not in the model: fc\.weight"
    ):
        load_into_model(model, {"fc.weight": torch.ones(1)}, strict=False, source="a.pth")
    with pytest.raises(CheckpointError, match="14 missing"):
        load_into_model(model, {}, strict=False, source="a.pth")


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        (lambda w: {f"student.{k}": v for k, v in w.items()}, "the file's keys have the prefix 'student.'"),
        (
            lambda w: {k.removeprefix("backbone."): v for k, v in w.items() if k.startswith("backbone.")},
            "lack the prefix 'backbone.'",
        ),
        (lambda w: {"meta": {}, "state_dict": w}, "below the key 'state_dict'"),
    ],
)
def test_a_hint_says_what_may_be_wrong_with_the_names(change, hint):
    model = Detector()
    with pytest.raises(CheckpointError, match=hint):
        load_into_model(model, change(copy_of(model)), strict=True, source="a.pth")


def test_long_lists_are_summed_up():
    model = Detector()
    with pytest.raises(
        CheckpointError,
        match=r"14 missing in the file: .*, \.\.\. \(4 more in backbone, 4 more in bbox_head\)",
    ):
        load_into_model(model, {"x": torch.ones(1)}, strict=True, source="a.pth")


def test_versions_of_modules_travel_along():
    seen = []

    class Versioned(nn.Linear):
        _version = 2

        def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args):
            seen.append(local_metadata.get("version"))
            super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    model = nn.Sequential(Versioned(1, 1))
    load_into_model(model, model.state_dict(), strict=True, source="a.pth")
    assert seen == [2]


def test_weights_must_be_a_dict():
    with pytest.raises(CheckpointError, match="got list"):
        load_into_model(Detector(), [1], strict=True, source="a.pth")
