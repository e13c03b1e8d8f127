"""Rates that fall towards the stem: ``lr * decay_rate ** (num_layers + 1 - depth)``, by timm's layers."""

import pytest
import torch
from torch import nn

from det_timm.backbone import TIMMBackbone
from detcore.engine.optim_constructor import build_optim_wrapper
from detcore.errors import ConfigError

LR, DECAY, WEIGHT_DECAY = 0.1, 0.5, 0.05


class Detector(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone, self.neck = backbone, nn.Conv2d(2, 2, 1)


def settings_of(detector, **paramwise):
    wrapper = {
        "type": "OptimWrapper",
        "optimizer": {"type": "AdamW", "lr": LR, "weight_decay": WEIGHT_DECAY},
        "constructor": "LearningRateDecayOptimizerConstructor",
        "paramwise_cfg": {"decay_rate": DECAY, **paramwise},
    }
    optim = build_optim_wrapper(detector, wrapper)
    found = {id(each): group for group in optim.param_groups for each in group["params"]}
    return {name: found[id(each)] for name, each in detector.named_parameters()}


CASES = {  # model -> the number of layers, and the depths of some parameters
    "vit_tiny_patch16_224": (12, {
        "model.pos_embed": 0, "model.cls_token": 0, "model.patch_embed.proj.weight": 0,
        "model.blocks.0.attn.qkv.weight": 1, "model.blocks.5.mlp.fc1.bias": 6,
        "model.blocks.11.attn.proj.weight": 12,
    }),
    "swin_tiny_patch4_window7_224": (12, {
        "patch_embed.proj.weight": 0, "layers_0.blocks.0.attn.qkv.weight": 1,
        "layers_1.blocks.1.attn.proj.weight": 4, "layers_2.blocks.5.norm1.weight": 10,
        "layers_3.blocks.1.mlp.fc2.weight": 12,
    }),
    "convnext_atto": (12, {
        "stem_0.weight": 0, "stages_0.blocks.0.conv_dw.weight": 1, "stages_1.blocks.1.mlp.fc1.weight": 4,
        "stages_2.blocks.5.conv_dw.weight": 10, "stages_3.blocks.1.mlp.fc2.weight": 12,
    }),
}  # fmt: skip


@pytest.mark.parametrize(("name", "layers", "depths"), [(name, *case) for name, case in CASES.items()])
@pytest.mark.parametrize("more", [0, 3])
def test_every_layer_has_its_rate(name, layers, depths, more):
    with torch.device("meta"):
        detector = Detector(TIMMBackbone(name))
    told = {"num_layers": layers + more} if more else {}
    found = settings_of(detector, **told)
    for parameter, depth in depths.items():
        rate = LR * DECAY ** (layers + more + 1 - depth)
        assert found[f"backbone.timm_model.{parameter}"]["lr"] == pytest.approx(rate), parameter
    ids = {f"backbone.{key}": depth for key, depth in detector.backbone.layer_ids().items()}
    assert max(ids.values()) == layers
    for parameter, value in detector.named_parameters():
        depth = ids.get(parameter, layers + more + 1)  # the neck and the pyramid have the full rate
        assert found[parameter]["lr"] == pytest.approx(LR * DECAY ** (layers + more + 1 - depth))
        assert found[parameter]["weight_decay"] == (WEIGHT_DECAY if value.ndim > 1 else 0)
    assert found["neck.weight"]["lr"] == LR


def test_stages_have_rates_of_their_own():
    with torch.device("meta"):
        detector = Detector(TIMMBackbone("resnet18"))
    found = settings_of(detector, decay_type="stage_wise")
    for name, stage in (("conv1.weight", 0), ("layer1.0.conv1.weight", 1), ("layer4.1.conv2.weight", 4)):
        rate = LR * DECAY ** (5 - stage)
        assert found[f"backbone.timm_model.{name}"]["lr"] == pytest.approx(rate)


class Told(nn.Module):
    """A backbone of somebody's own that tells its layers."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)

    def layer_ids(self):
        return {"first.weight": 0, "first.bias": 0, "second.weight": 1, "second.bias": 1}


def test_any_backbone_may_tell_its_layers():
    found = settings_of(Detector(Told()))
    assert found["backbone.first.weight"]["lr"] == LR * DECAY**2
    assert found["backbone.second.weight"]["lr"] == LR * DECAY
    assert found["backbone.second.bias"]["weight_decay"] == 0
    with pytest.raises(ConfigError, match=r"finds no stages: the backbone is a Told.*stage_ids\(\)"):
        settings_of(Detector(Told()), decay_type="stage_wise")
