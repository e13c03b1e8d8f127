"""Weights by name: from a path, an address, or a name with a scheme."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from functools import reduce
from pathlib import Path
from typing import Any

from torch import Tensor

from detcore.errors import CheckpointError
from detcore.weights.explain import some_names
from detcore.weights.fetch import fetch, wanted_prefix
from detcore.weights.files import load_file

_WRAPPERS = ("state_dict", "model", "model_state_dict")
_OPTIMISER = {"optimizer", "param_groups"}


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
    state = weights_in(content, source)
    other = [str(key) for key, value in state.items() if not isinstance(value, Tensor)]
    if other:
        raise CheckpointError(f"{source} holds no state dict: no tensors under {some_names(other)}")
    prefix = wanted_prefix(source)
    if prefix:
        state = strip_prefix(state, prefix, source=str(source))
    return revised(state, revise_keys)


def revised(state: Mapping[str, Tensor], revise_keys: Iterable[tuple[str, str]]) -> dict[str, Tensor]:
    """A copy under other names: each pattern is replaced in all names before the next one."""
    patterns = [(re.compile(pattern), replacement) for pattern, replacement in revise_keys]
    copied: OrderedDict[str, Tensor] = OrderedDict()
    for name, value in state.items():
        copied[reduce(lambda new, pair: pair[0].sub(pair[1], new), patterns, name)] = value
    return keep_versions(copied, state)


def keep_versions(state: OrderedDict[str, Any], like: Mapping[str, Any]) -> OrderedDict[str, Any]:
    """Give a copy the versions by which modules recognise weights in an older layout."""
    if hasattr(like, "_metadata"):
        state._metadata = like._metadata  # type: ignore[attr-defined]
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


def weights_in(content: Any, source: str | Path) -> Mapping[str, Any]:
    """The state dict in the content of a file, which may lie below ``state_dict`` or ``model``.

    Raises:
        CheckpointError: There is none.
    """
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{source} holds no state dict but {type(content).__name__}")
    if not any(isinstance(value, Tensor) for value in content.values()):
        names = [str(name) for name in content]
        got = f"no tensors under {some_names(names)}" if names else "nothing in it"
        optimiser = " (an optimiser's state is no model)" if _OPTIMISER & set(names) else ""
        raise CheckpointError(
            f"{source} holds no state dict: {got}{optimiser}; looked into {', '.join(_WRAPPERS)} too"
        )
    return content
