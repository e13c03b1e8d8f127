"""Weights by name: from a path, an address, or a name with a scheme."""
from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from detcore.errors import CheckpointError
from detcore.weights.download import load_torchvision, load_url
from detcore.weights.files import load_file
from detcore.weights.load_into import some_names

Loader = Callable[[str, str], Mapping[str, Any]]
"""Takes what was asked for (``'torchvision://resnet50'``) and a device, gives the content of the file."""

_WRAPPERS = ("state_dict", "model", "model_state_dict")


def load_state(
    source: str | Path,
    *,
    map_location: str = "cpu",
    revise_keys: Iterable[tuple[str, str]] = ((r"^module\.", ""),),
) -> dict[str, Tensor]:
    """The tensors of a weight file, by name. Nothing but tensors and plain data is ever unpickled.

    Args:
        source: A path to a ``.pth`` or ``.safetensors`` file, an http(s) address, or a name with a scheme
            (``'torchvision://resnet50'``; see :func:`register_scheme`).
        map_location: Where the tensors are read to.
        revise_keys: Pairs of a regular expression and its replacement, applied to the names.

    Returns:
        Name -> tensor, unwrapped from ``state_dict`` or ``model`` where the file has such a level.

    Raises:
        CheckpointError: The file is missing, damaged, holds something else, or cannot be downloaded.
    """
    name = str(source)
    scheme, separator, _ = name.partition("://")
    if separator:
        loader = _SCHEMES.get(scheme)
        if loader is None:
            known = ", ".join(sorted(f"{known}://" for known in _SCHEMES))
            raise CheckpointError(f"{name}: nobody here resolves {scheme}://; there are {known}")
        content = loader(name, map_location)
    else:
        content = load_file(Path(name).expanduser(), map_location)
    state = _unwrapped(content, name)
    for pattern, replacement in revise_keys:
        state = {re.sub(pattern, replacement, key): value for key, value in state.items()}
    return state


def register_scheme(scheme: str, loader: Loader, *, override: bool = False) -> None:
    """Make names with a scheme loadable: ``register_scheme('hub', loader)`` for ``hub://...``.

    Args:
        scheme: What stands before ``://``.
        loader: Called with the whole name and a device, returns the content of the file.
        override: Replace a loader that is there.

    Raises:
        ValueError: There is one, and ``override`` is not set.
    """
    if scheme in _SCHEMES and _SCHEMES[scheme] not in (loader, _load_foreign) and not override:
        raise ValueError(f"there is already a loader for {scheme}://")
    _SCHEMES[scheme] = loader


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


def _load_foreign(name: str, map_location: str) -> Mapping[str, Any]:
    raise CheckpointError(
        f"{name}: names of OpenMMLab's model zoo are resolved by det-mmdet (pip install det-mmdet); "
        "or download the file and give its path"
    )


def _load_path_url(name: str, map_location: str) -> Mapping[str, Any]:
    return load_file(Path(name.partition("://")[2]), map_location)


_SCHEMES: dict[str, Loader] = {
    "torchvision": load_torchvision,
    "modelzoo": load_torchvision,  # the name of the same before 2019
    "http": load_url,
    "https": load_url,
    "file": _load_path_url,
    "open-mmlab": _load_foreign,
    "openmmlab": _load_foreign,
    "mmcls": _load_foreign,
    "jhu": _load_foreign,
}
