"""Every model of timm that gives feature maps is a backbone: quickly one of each family, slowly all."""

import gc
import re

import pytest
import timm
import torch
from timm.models._registry import _model_to_module

from det_timm.backbone import TIMMBackbone
from det_timm.zoo import on_meta
from detcore.errors import ConfigError

LARGE = 2e8  # parameters; such models are run without numbers, on the meta device
SMALL = re.compile(r"tiny|nano|atto|pico|femto|small|_s\b|_xs|xxs|b0|18|_m0|035|050|_t_|light|mini|cs3")
READS_NUMBERS = ("gemma4_vit",)  # out of tensors, when they run: they need real ones


def one_of_each_module():
    """A small model of each of timm's modules, as far as names tell."""
    modules = {}
    for name in timm.list_models():
        modules.setdefault(_model_to_module[name], []).append(name)

    def size(name):
        return not name.startswith("test_"), SMALL.search(name) is None, len(name), name

    return [min(names, key=size) for _, names in sorted(modules.items())]


def check(name, *, real):
    """Maps as told, and gradients; with real numbers, or for large models and quick tests without any."""
    large = sum(each.numel() for each in on_meta(name).parameters()) > LARGE
    real = real and (not large or name.startswith(READS_NUMBERS))
    device = torch.device("cpu" if real else "meta")
    with device:
        backbone = TIMMBackbone(name)
    if name.startswith(READS_NUMBERS) and not real:
        return
    maps, size = run(backbone, device)
    assert [each.shape[1] for each in maps] == list(backbone.out_channels)
    for each, stride in zip(maps, backbone.out_strides, strict=True):
        for got, side in zip(each.shape[2:], size, strict=True):
            assert abs(got - side / stride) < 5, (tuple(each.shape), stride, size)
    sum(each.float().mean() for each in maps).backward()
    assert any(each.grad is not None for each in backbone.parameters())


def run(backbone, device):
    """Maps of a small image, or of the size that a model's design fixes."""
    fixed = tuple(backbone.timm_model.pretrained_cfg["input_size"][1:])
    error = None
    for size in ((128, 128), fixed):
        try:
            return backbone(torch.rand(2, 3, *size, device=device)), size
        except (ConfigError, RuntimeError, AssertionError, ValueError) as failed:
            error = failed
    raise error


@pytest.mark.filterwarnings("ignore")  # of what training from scratch would need
@pytest.mark.parametrize("name", one_of_each_module())
def test_one_model_of_each_module_gives_the_maps_that_it_tells(name):
    check(name, real=False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", timm.list_models())
def test_every_model_gives_maps_and_gradients(name):
    check(name, real=True)
    gc.collect()
