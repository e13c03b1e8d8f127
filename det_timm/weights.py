"""Published and local weights of timm's models."""

import contextlib
import logging
import os
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from torch import Tensor, nn

from det_timm._timm import timm
from detcore.errors import CheckpointError
from detcore.weights import load_state

logger = logging.getLogger(__name__)

Create = Callable[..., nn.Module]

SOURCES = ("hf_hub_id", "url", "file", "state_dict", "source")  # entries of timm's pretrained_cfg


def pretrained_state(
    create: Create, model_name: str, checkpoint_path: str, published: Mapping[str, Any]
) -> Mapping[str, Any]:
    """The weights of a model's feature maps.

    timm fits the weights of the whole model to the part that gives the maps: other channels of the image,
    other sizes of position embeddings, older names.

    Args:
        create: Builds the model; takes further arguments of ``timm.create_model``.
        model_name: A model of timm.
        checkpoint_path: A local file; empty for the published weights.
        published: Where these are, as timm's ``pretrained_cfg`` tells.

    Raises:
        CheckpointError: There are none, they cannot be reached, or they are another model's.
    """
    if checkpoint_path:
        return _from_file(create, model_name, checkpoint_path)
    if not any(published.get(key) for key in SOURCES):
        raise CheckpointError(
            f"timm {timm.__version__} has no published weights of {model_name}: pretrained=False"
        )
    with _offline(model_name, published) if _is_offline() else contextlib.nullcontext():
        try:
            return create(pretrained=True).state_dict()
        except Exception as error:  # the hub's client raises kinds of its own for all that a network can do
            raise CheckpointError(_unreachable(model_name, published, error)) from error


def _unreachable(model_name: str, published: Mapping[str, Any], error: Exception) -> str:
    """What to say where published weights do not come."""
    place = published.get("hf_hub_id") or published.get("url") or "its source"
    cache = constants.HF_HUB_CACHE
    why = f"{type(error).__name__}: {_first_line(error)}"
    if _is_offline():
        return (
            f"DETCORE_OFFLINE is set and the weights of timm's {model_name} ({place}) are not in the hub's "
            f"cache {cache} ({why}); run once without DETCORE_OFFLINE, copy the cache of a machine that has "
            "them, or give a local file as checkpoint_path"
        )
    return (
        f"the weights of timm's {model_name} cannot be fetched from {place}: {why}; give a local file as "
        f"checkpoint_path, or copy them into the hub's cache {cache}"
    )


def _from_file(create: Create, model_name: str, path: str) -> Mapping[str, Any]:
    given = load_state(path)
    state = _fitted(create, model_name, path, given, seed=0)
    other = _fitted(create, model_name, path, given, seed=1)
    # What differs between two builds was drawn at random, so it did not come from the file.
    drawn = [name for name, value in state.items() if not torch.equal(value, other[name])]
    matrices = [name for name, value in state.items() if value.ndim > 1]
    if len(set(drawn) & set(matrices)) > len(matrices) / 2:
        raise CheckpointError(_unfit(path, model_name, f"it has no weights for {_some(drawn)}", given))
    if drawn:
        logger.warning("%s has no weights for %s of timm's %s", path, _some(drawn), model_name)
    return state


def _fitted(
    create: Create, model_name: str, path: str, given: Mapping[str, Tensor], *, seed: int
) -> Mapping[str, Any]:
    with torch.random.fork_rng(devices=[]), _quiet():
        torch.manual_seed(seed)
        try:
            # timm takes entries out of what it is given.
            return create(pretrained=True, pretrained_cfg_overlay={"state_dict": dict(given)}).state_dict()
        except (RuntimeError, KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
            raise CheckpointError(_unfit(path, model_name, _mismatch(error), given)) from error


def _unfit(path: str, model_name: str, why: str, given: Mapping[str, Any]) -> str:
    return (
        f"{path} does not fit timm's {model_name}: {why}; its names are {_some(list(given))}. Give a file of "
        f"{model_name}'s weights as checkpoint_path, or write the type of the model that this file is of"
    )


def _mismatch(error: Exception) -> str:
    """What PyTorch complains of first; the line before it names but the class of the module."""
    lines = [line.strip().rstrip(".") for line in str(error).strip().splitlines()]
    told = [line for line in lines if not line.startswith("Error(s) in loading state_dict")]
    return textwrap.shorten(next(iter(told), _first_line(error)), 240)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep timm from warning of the weights behind the last map, which are not wanted."""
    chatty = logging.getLogger("timm.models._builder")
    before = chatty.level
    chatty.setLevel(logging.ERROR)
    try:
        yield
    finally:
        chatty.setLevel(before)


def _is_offline() -> bool:
    return os.environ.get("DETCORE_OFFLINE", "").lower() not in ("", "0", "false")


@contextlib.contextmanager
def _offline(model_name: str, published: Mapping[str, Any]) -> Iterator[None]:
    """Keep the hub's client, which read its environment when it was imported, from asking the network."""
    address = published.get("url")
    if address and not any(published.get(key) for key in SOURCES if key != "url"):
        # torch.hub asks the network for what its cache lacks.
        file = Path(torch.hub.get_dir()) / "checkpoints" / Path(address).name
        if not file.exists():
            raise CheckpointError(
                f"DETCORE_OFFLINE is set and the weights of timm's {model_name} are not in {file}; put the "
                f"file of {address} there, or give one as checkpoint_path"
            )
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
