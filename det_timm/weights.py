"""Published and local weights of timm's models."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import timm
from torch import nn

from detcore.errors import CheckpointError
from detcore.weights import load_state


def pretrained_state(
    create: Callable[..., nn.Module], model_name: str, checkpoint_path: str
) -> Mapping[str, Any]:
    """The weights of a model's feature maps.

    timm fits the weights of the whole model to the part that gives the maps: other channels of the image,
    other sizes of position embeddings, older names.

    Args:
        create: Builds the model; takes further arguments of ``timm.create_model``.
        model_name: A model of timm.
        checkpoint_path: A local file; empty for the published weights.

    Raises:
        CheckpointError: There are none, they cannot be reached, or they are another model's.
    """
    if checkpoint_path:
        state = load_state(checkpoint_path)
        return _loaded(create, model_name, checkpoint_path, pretrained_cfg_overlay={"state_dict": state})
    if not timm.is_model_pretrained(model_name):
        raise CheckpointError(
            f"timm {timm.__version__} has no published weights of {model_name}: pretrained=False"
        )
    if os.environ.get("DETCORE_OFFLINE", "").lower() not in ("", "0", "false"):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    return _loaded(create, model_name, "its published weights")


def _loaded(create: Callable[..., nn.Module], model_name: str, source: str, **more: Any) -> Mapping[str, Any]:
    try:
        return create(pretrained=True, **more).state_dict()
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{source} do not fit timm's {model_name}: {_first_line(error)}") from error
    except Exception as error:  # the hub's client raises kinds of its own for all that a network can do
        raise CheckpointError(
            f"the weights of timm's {model_name} cannot be fetched: {type(error).__name__}: "
            f"{_first_line(error)}; give a local file as checkpoint_path, or fill the hub's cache"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
