"""Rates that fall from head to stem: every layer's rate, by the formula, in both namings of a ConvNeXt."""

import pytest
import torch
from torch import nn

from detcore.engine.optim import build_optim_wrapper
from detcore.engine.optim_layer_decay import layer_id, stage_id
from detcore.errors import ConfigError

DEPTHS = (3, 3, 9, 3)
LR, DECAY, LAYERS = 1e-3, 0.7, 6


def parameter():
    return nn.Conv2d(2, 2, 1)


def mmpretrain_backbone():
    backbone = nn.Module()
    backbone.downsample_layers = nn.ModuleList(nn.Sequential(parameter()) for _ in DEPTHS)
    backbone.stages = nn.ModuleList(nn.Sequential(*(parameter() for _ in range(n))) for n in DEPTHS)
    backbone.norm3 = nn.LayerNorm(2)
    return backbone


def timm_backbone():
    backbone = nn.Module()
    backbone.timm_model = nn.Module()
    backbone.timm_model.stem_0 = parameter()
    for number, depth in enumerate(DEPTHS):
        stage = nn.Module()
        if number:
            stage.downsample = nn.Sequential(parameter())
        stage.blocks = nn.Sequential(*(parameter() for _ in range(depth)))
        setattr(backbone.timm_model, f"stages_{number}", stage)
    return backbone


class Detector(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.bbox_head = nn.Linear(2, 2)


def groups_of(model, **paramwise):
    cfg = {
        "constructor": "LearningRateDecayOptimizerConstructor",
        "optimizer": {"type": "AdamW", "lr": LR, "weight_decay": 0.05},
        "paramwise_cfg": {"num_layers": LAYERS, "decay_rate": DECAY, **paramwise},
    }
    names = {id(p): name for name, p in model.named_parameters()}
    groups = build_optim_wrapper(model, cfg).optimizer.param_groups
    return {names[id(p)]: group for group in groups for p in group["params"]}


# Layers from the stem: downsampling and blocks of the four stages, three blocks of the third to a layer.
LAYER_WISE = {
    "backbone.downsample_layers.0.0.weight": 0,
    "backbone.stages.0.2.weight": 1,
    "backbone.downsample_layers.1.0.weight": 2,
    "backbone.stages.1.0.weight": 2,
    "backbone.downsample_layers.2.0.weight": 3,
    "backbone.stages.2.2.weight": 3,
    "backbone.stages.2.3.weight": 4,
    "backbone.stages.2.8.weight": 5,
    "backbone.downsample_layers.3.0.weight": 6,
    "backbone.stages.3.1.weight": 6,
    "backbone.norm3.weight": 7,
    "bbox_head.weight": 7,
}
STAGE_WISE = {
    "backbone.downsample_layers.0.0.weight": 0,
    "backbone.downsample_layers.3.0.weight": 0,
    "backbone.stages.0.0.weight": 1,
    "backbone.stages.2.8.weight": 3,
    "backbone.stages.3.2.weight": 4,
    "bbox_head.weight": 7,
}
TIMM_NAMES = {
    "backbone.timm_model.stem_0.weight": "backbone.downsample_layers.0.0.weight",
    "backbone.timm_model.stages_0.blocks.2.weight": "backbone.stages.0.2.weight",
    "backbone.timm_model.stages_1.downsample.0.weight": "backbone.downsample_layers.1.0.weight",
    "backbone.timm_model.stages_2.blocks.3.weight": "backbone.stages.2.3.weight",
    "backbone.timm_model.stages_3.blocks.1.weight": "backbone.stages.3.1.weight",
    "bbox_head.weight": "bbox_head.weight",
}


@pytest.mark.parametrize(("kind", "expected"), [("layer_wise", LAYER_WISE), ("stage_wise", STAGE_WISE)])
def test_each_layer_has_the_rate_of_the_formula(kind, expected):
    groups = groups_of(Detector(mmpretrain_backbone()), decay_type=kind)
    for name, layer in expected.items():
        assert groups[name]["lr"] == pytest.approx(LR * DECAY ** (LAYERS + 2 - layer - 1), rel=1e-12), name
        assert groups[name]["group_name"].startswith(f"layer_{layer}_"), name
        assert groups[name]["lr_scale"] * LR == groups[name]["lr"], name
    assert groups["bbox_head.weight"]["lr"] == LR


def test_timms_names_mean_the_same_layers():
    ours, theirs = groups_of(Detector(timm_backbone())), groups_of(Detector(mmpretrain_backbone()))
    for name, twin in TIMM_NAMES.items():
        assert ours[name]["lr"] == theirs[twin]["lr"], name


def test_biases_and_norms_have_no_weight_decay():
    groups = groups_of(Detector(mmpretrain_backbone()))
    for name, group in groups.items():
        decays = name.endswith(".weight") and "norm" not in name
        assert group["weight_decay"] == (0.05 if decays else 0.0), name


def test_frozen_parameters_have_their_rates_for_when_they_are_thawed():
    model = Detector(mmpretrain_backbone())
    thawed = groups_of(model)
    model.backbone.downsample_layers.requires_grad_(False)
    rates = {name: group["lr"] for name, group in groups_of(model).items()}
    assert rates == {name: group["lr"] for name, group in thawed.items()}


def test_tokens_belong_to_the_stem():
    assert layer_id("backbone.pos_embed", 6) == stage_id("backbone.cls_token", 6) == 0


def test_another_backbone_is_refused_with_the_way_out():
    with pytest.raises(ConfigError, match=r"finds no layers: the backbone is a Linear.*custom_keys"):
        groups_of(Detector(nn.Linear(2, 2)))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_layers": None}, "needs num_layers"),
        ({"decay_rate": 0}, "decay_rate above 0"),
        ({"decay_type": "block_wise"}, "'layer_wise' or 'stage_wise', got 'block_wise'"),
        ({"decay_rte": 0.5}, "did you mean 'decay_rate'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        groups_of(Detector(mmpretrain_backbone()), **settings)


def test_settings_without_effect_and_too_few_layers_are_warned_of(caplog):
    groups_of(Detector(mmpretrain_backbone()), norm_decay_mult=0.0)
    assert "norm_decay_mult means nothing to LearningRateDecayOptimizerConstructor" in caplog.text
    caplog.clear()
    groups_of(Detector(mmpretrain_backbone()), num_layers=3)
    assert "num_layers=3 is too few" in caplog.text


def test_it_trains():
    model = Detector(timm_backbone())
    cfg = {
        "constructor": "LearningRateDecayOptimizerConstructor",
        "optimizer": {"type": "SGD", "lr": LR},
        "paramwise_cfg": {"num_layers": LAYERS, "decay_rate": DECAY},
    }
    optim = build_optim_wrapper(model, cfg)
    before = model.bbox_head.weight.detach().clone()
    optim.update_params(model.bbox_head(torch.ones(1, 2)).sum())
    assert torch.allclose(before - model.bbox_head.weight, torch.full_like(before, LR))
