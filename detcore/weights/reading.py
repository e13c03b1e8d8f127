"""Weights by name: from a path, an address, or a name with a scheme."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from detcore.errors import CheckpointError
from detcore.weights.fetch import fetch, wanted_prefix
from detcore.weights.files import load_file
from detcore.weights.explain import some_names

_WRAPPERS = ("state_dict", "model", "model_state_dict")


def load_state(
    source: str | Path,
    *,
    map_location: str = "cpu",
    revise_keys: Iterable[tuple[str, str]] = ((r"^module\.", ""),),
) -> dict[str, Tensor]:
    """The tensors of a weight file, by name. Nothing but tensors and plain data is ever unpickled.

    Args:
        source: A path to a ``.pth`` or ``.safetensors`` file, or another name of weights
            (see :func:`~detcore.weights.fetch`).
        map_location: Where the tensors are read to.
        revise_keys: Pairs of a regular expression and its replacement, applied to the names.

    Returns:
        Name -> tensor, unwrapped from ``state_dict`` or ``model`` where the file has such a level.

    Raises:
        CheckpointError: The file is missing, damaged, holds something else, or cannot be downloaded.
    """
    content = load_file(fetch(source), map_location)
    state = _unwrapped(content, str(source))
    prefix = wanted_prefix(source)
    if prefix:
        state = strip_prefix(state, prefix, source=str(source))
    for pattern, replacement in revise_keys:
        state = {re.sub(pattern, replacement, key): value for key, value in state.items()}
    return state


def strip_prefix(state: Mapping[str, Tensor], prefix: str, *, source: str = "") -> dict[str, Tensor]:
    """What begins with ``prefix`` (a dot at its end may be left out), without it.

    Raises:
        CheckpointError: Nothing begins with it.
    """
    start = prefix if prefix.endswith(".") else f"{prefix}."
    chosen = {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}
    if not chosen:
        first = some_names(sorted({key.partition(".")[0] for key in state}))
        raise CheckpointError(f"{source}: no name begins with {start!r}; names begin with {first}")
    return chosen


def _unwrapped(content: Any, source: str) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{source} holds no state dict but {type(content).__name__}")
    other = [str(key) for key, value in content.items() if not isinstance(value, Tensor)]
    if other or not content:
        got = f"no tensors under {some_names(other)}" if other else "nothing in it"
        raise CheckpointError(f"{source} holds no state dict: {got}; looked into {', '.join(_WRAPPERS)} too")
    return {str(key): value for key, value in content.items()}
