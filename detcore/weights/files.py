"""Reading the files in which weights lie."""
from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from detcore.errors import CheckpointError


def load_file(path: Path, map_location: str) -> Mapping[str, Any]:
    """The content of a ``.safetensors`` file, or of one that torch wrote; nothing in it is run.

    Raises:
        CheckpointError: It is missing or damaged, or holds more than tensors and plain data.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no file {path} (from {Path.cwd()})")
    if path.suffix == ".safetensors":
        return _load_safetensors(path, map_location)
    try:
        content: Mapping[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors and plain data, so it is not opened "
            f"({str(error).splitlines()[0]})"
        ) from error
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or no weight file: {error}") from error
    return content


def _load_safetensors(path: Path, map_location: str) -> Mapping[str, Any]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file as read
    except ImportError as error:
        raise CheckpointError(f"{path} needs the package safetensors: pip install safetensors") from error
    try:
        content: Mapping[str, Any] = read(path, device=map_location)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file: {error}") from error
    return content
