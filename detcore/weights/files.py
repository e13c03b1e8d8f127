"""Reading the files in which weights lie."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detcore.errors import CheckpointError
from detcore.weights.reader import read_weights_file, upgraded


def load_file(path: Path, map_location: str) -> Mapping[str, Any]:
    """The content of a ``.safetensors`` file, or of one that torch wrote, as tensors and plain data.

    Nothing in it is run, and an older layout that a plugin knows has become today's.

    Raises:
        CheckpointError: It is missing or damaged, or holds more than tensors and plain data.
    """
    if not path.exists():
        raise CheckpointError(f"there is no file {path} (from {Path.cwd()})")
    safe = path.suffix == ".safetensors"
    content = _load_safetensors(path, map_location) if safe else read_weights_file(path, map_location)
    current: Mapping[str, Any] = upgraded(content)
    return current


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
