"""Checks for parts of networks: what a backbone and a neck promise to everything behind them."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detcore.registry import MODELS
from detcore.testing.building import Source, build, require


def check_backbone(
    source: Source, *, in_channels: int = 3, size: tuple[int, int] = (64, 96), tolerance: float = 1e-4
) -> None:
    """Check all that a backbone promises.

    Feature maps are ``Tensor[B, C, H, W]`` in a tuple or list, of the image's dtype, finest first, as
    ``out_channels`` and ``out_strides`` tell; gradients reach every parameter that trains; in evaluation an
    image's maps depend on no other image; weights survive a round trip; autocast works.

    Args:
        source: ``dict(type=...)``, or a function that builds the backbone.
        in_channels: Channels of the image.
        size: Height and width of the image, which the coarsest stride should divide.
        tolerance: Largest difference that the order of additions may make.

    Raises:
        AssertionError: Says which promise is broken.
    """
    backbone = build(source, MODELS)
    torch.manual_seed(1)
    image = torch.rand(2, in_channels, *size)
    maps = _maps(backbone, image, "the backbone")
    channels, strides = getattr(backbone, "out_channels", None), getattr(backbone, "out_strides", None)
    for name, told in (("out_channels", channels), ("out_strides", strides)):
        require(
            isinstance(told, tuple | list) and len(told) == len(maps),
            f"{name} must have one entry for each of the {len(maps)} maps, got {told!r}",
        )
    require(
        [each.shape[1] for each in maps] == list(channels or ()),
        f"out_channels is {channels}, the maps have {[each.shape[1] for each in maps]}",
    )
    for each, stride in zip(maps, strides or (), strict=True):
        expected = tuple(-(-side // stride) for side in size)
        off = max(abs(got - want) for got, want in zip(each.shape[2:], expected, strict=True))
        require(
            off <= 1, f"out_strides says {stride}: {expected} pixels; the map has {tuple(each.shape[2:])}"
        )
    check_gradients(backbone, maps)
    _check_modes(source, image, tolerance)
    _check_autocast(backbone, image)


def check_neck(
    source: Source,
    *,
    in_channels: Sequence[int],
    strides: Sequence[int] = (4, 8, 16, 32),
    tolerance: float = 1e-4,
) -> None:
    """Check all that a neck promises: one tuple of maps from another, as for :func:`check_backbone`.

    Args:
        source: ``dict(type=...)``, or a function that builds the neck.
        in_channels: Channels of the maps that it gets.
        strides: Their strides.
        tolerance: Largest difference that the order of additions may make.

    Raises:
        AssertionError: Says which promise is broken.
    """
    neck = build(source, MODELS)
    if hasattr(neck, "connect"):
        neck.connect(tuple(in_channels), tuple(strides))
    torch.manual_seed(1)
    given = [torch.rand(2, c, 128 // s, 160 // s) for c, s in zip(in_channels, strides, strict=True)]
    maps = _maps(neck, given, "the neck")
    channels = getattr(neck, "out_channels", None)
    if channels is not None:
        told = [channels] * len(maps) if isinstance(channels, int) else list(channels)
        require(
            [each.shape[1] for each in maps] == told,
            f"out_channels is {channels}, the maps have {[each.shape[1] for each in maps]}",
        )
    check_gradients(neck, maps)
    alone = _maps(neck.eval(), [each[:1] for each in given], "the neck")
    for one, both in zip(alone, _maps(neck, given, "the neck"), strict=True):
        require(torch.allclose(one, both[:1], atol=tolerance), "an image's maps depend on the other images")


def check_gradients(module: nn.Module, outputs: Sequence[Tensor]) -> None:
    """Check that every parameter that trains gets a finite gradient from every output together.

    Raises:
        AssertionError: Names the parameters that get none.
    """
    module.zero_grad()
    sum(each.float().square().mean() for each in outputs).backward()  # type: ignore[union-attr]
    trained = [(name, each) for name, each in module.named_parameters() if each.requires_grad]
    unused = [name for name, each in trained if each.grad is None]
    require(not unused, f"no gradient reaches {', '.join(unused[:6])}: these parameters would never train")
    broken = [name for name, each in trained if each.grad is not None and not each.grad.isfinite().all()]
    require(not broken, f"the gradients of {', '.join(broken[:6])} are not finite")


def _maps(module: nn.Module, given: Any, what: str) -> Sequence[Tensor]:
    maps = module(given)
    is_sequence = isinstance(maps, tuple | list) and len(maps) > 0
    require(is_sequence, f"{what} must give a tuple of feature maps, got {type(maps).__name__}")
    for each in maps:
        require(
            isinstance(each, Tensor) and each.ndim == 4,
            f"every map must be Tensor[B, C, H, W], got {getattr(each, 'shape', type(each).__name__)}",
        )
        require(each.isfinite().all(), f"{what} gives values that are not finite")
        require(each.dtype == torch.float32, f"{what} makes maps of {each.dtype} from float32")
    found: Sequence[Tensor] = maps
    return found


def _check_modes(source: Source, image: Tensor, tolerance: float) -> None:
    first = build(source, MODELS)
    require(first.train() is first and first.eval() is first, "train() and eval() must return the module")
    twin, copied = build(source, MODELS).eval(), copy.deepcopy(first)
    twin.load_state_dict(first.state_dict(), strict=True)
    with torch.no_grad():
        expected, alone = first(image), first(image[:1])
        for what, got in (("loading its own state_dict", twin(image)), ("being copied", copied(image))):
            same = all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
            require(same, f"the outputs change by {what}")
        for one, both in zip(alone, expected, strict=True):
            near = torch.allclose(one, both[:1], atol=tolerance, rtol=1e-3)
            require(near, "in evaluation, an image's maps depend on the other images of the batch")


def _check_autocast(backbone: nn.Module, image: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        for each in backbone.eval()(image):
            require(each.isfinite().all(), "under autocast (bfloat16) the maps are not finite")
