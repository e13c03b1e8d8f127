"""Reading weights from files and addresses, and putting them into modules."""

from __future__ import annotations

import logging
import os
import pickle
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detcore.errors import CheckpointError

logger = logging.getLogger(__name__)

Loader = Callable[[str, str], Mapping[str, Any]]
"""Takes what was asked for (``'torchvision://resnet50'``) and a device, gives the content of the file."""

_WRAPPERS = ("state_dict", "model", "model_state_dict")
_HASHED_NAME = re.compile(r"-[a-f0-9]{8,}\.")
_SHOWN = 8


@dataclass(frozen=True)
class LoadReport:
    """What became of the names of a state dict.

    Attributes:
        loaded: Names that were loaded.
        missing: Names that the module has and the state dict lacks.
        unexpected: Names that the state dict has and the module lacks.
        mismatched: Names of other shapes: ``(name, shape in the state dict, shape in the module)``.
    """

    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)


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
        content = _load_file(Path(name).expanduser(), map_location)
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
        first = sorted({key.partition(".")[0] for key in state})
        raise CheckpointError(f"{source}: no name begins with {start!r}; names begin with {_some(first)}")
    return chosen


def load_into_module(
    module: nn.Module,
    state: Mapping[str, Tensor],
    *,
    strict: bool = False,
    allow_mismatch: bool = False,
    ignore_unexpected: Sequence[str] = (),
    source: str = "the state dict",
) -> LoadReport:
    """Copy tensors into a module. What did not fit is said in one line of the log.

    Args:
        module: Where to.
        state: Name -> tensor.
        strict: Refuse missing and unexpected names, instead of reporting them.
        allow_mismatch: Leave out tensors of another shape, instead of refusing.
        ignore_unexpected: Regular expressions of unexpected names that are no news (logged as debug only).
        source: Where the tensors come from, for messages.

    Raises:
        CheckpointError: Shapes differ, nothing fits, or names differ and ``strict`` is set. The module is
            as it was before.
    """
    own = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    mismatched = [
        (name, tuple(state[name].shape), tuple(own[name].shape))
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    excluded = {name for name, _, _ in mismatched}
    unexpected = [name for name in state if name not in own]
    # Averages of old checkpoints come without a count of batches, which nothing depends on.
    missing = [n for n in own if n not in state and not n.endswith("num_batches_tracked")]
    loaded = [name for name in own if name in state and name not in excluded]
    report = LoadReport(loaded, missing, unexpected, mismatched)
    what = type(module).__name__
    if own and not loaded and not mismatched:
        raise CheckpointError(f"{source} does not fit {what}: {_nothing_fits(own, state)}")
    quiet = [name for name in unexpected if any(re.search(p, name) for p in ignore_unexpected)]
    loud = LoadReport(loaded, missing, [name for name in unexpected if name not in quiet], mismatched)
    differences = _differences(loud)
    if (mismatched and not allow_mismatch) or (strict and (missing or loud.unexpected)):
        raise CheckpointError(f"{source} does not fit {what}: {differences}")
    module.load_state_dict({name: state[name] for name in loaded}, strict=False)
    if quiet:
        logger.debug("%s: %d names are not for %s: %s", source, len(quiet), what, _some(quiet))
    if differences:
        logger.warning("%s into %s: %d names loaded; %s", source, what, len(loaded), differences)
    else:
        logger.info("%s into %s: all %d names loaded", source, what, len(loaded))
    return report


def _differences(report: LoadReport) -> str:
    parts = []
    if report.mismatched:
        shapes = [f"{name} {got} instead of {want}" for name, got, want in report.mismatched]
        parts.append(f"{len(shapes)} of another shape: {_some(shapes)}")
    if report.missing:
        parts.append(f"{len(report.missing)} missing: {_some(report.missing)}")
    if report.unexpected:
        parts.append(f"{len(report.unexpected)} unexpected: {_some(report.unexpected)}")
    return "; ".join(parts)


def _nothing_fits(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    text = f"none of its names is known. It has {_some(list(state))}; the module has {_some(list(own))}"
    first = next(iter(own))
    inside = next((name for name in state if name.endswith(f".{first}")), None)
    if inside is not None:
        text += f". Taking prefix={inside.removesuffix(first)!r} may help"
    return text


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(str(name) for name in names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown}, ... ({len(names)} in all)"


def _unwrapped(content: Any, source: str) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{source} holds no state dict but {type(content).__name__}")
    other = [str(key) for key, value in content.items() if not isinstance(value, Tensor)]
    if other or not content:
        got = f"no tensors under {_some(other)}" if other else "nothing in it"
        raise CheckpointError(f"{source} holds no state dict: {got}; looked into {', '.join(_WRAPPERS)} too")
    return {str(key): value for key, value in content.items()}


def _load_file(path: Path, map_location: str) -> Mapping[str, Any]:
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
        from safetensors.torch import load_file
    except ImportError as error:
        raise CheckpointError(f"{path} needs the package safetensors: pip install safetensors") from error
    try:
        return load_file(path, device=map_location)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file: {error}") from error


def _load_url(url: str, map_location: str) -> Mapping[str, Any]:
    """The file behind an address, kept in torch's cache."""
    name = url.rpartition("/")[2].partition("?")[0]
    cached = Path(torch.hub.get_dir()) / "checkpoints" / name
    if cached.is_file():
        return _load_file(cached, map_location)
    if os.environ.get("DETCORE_OFFLINE", "").lower() not in ("", "0", "false"):
        raise CheckpointError(f"DETCORE_OFFLINE is set and {url} has not been downloaded; put it to {cached}")
    cached.parent.mkdir(parents=True, exist_ok=True)
    logger.info("downloading %s to %s", url, cached)
    try:
        torch.hub.download_url_to_file(url, str(cached), _hash_in(name), progress=sys.stderr.isatty())
    except (OSError, RuntimeError) as error:  # URLError is an OSError; a wrong hash is a RuntimeError
        raise CheckpointError(
            f"{url} cannot be downloaded ({error}); put the file to {cached}, or give a local path"
        ) from error
    return _load_file(cached, map_location)


def _hash_in(name: str) -> str | None:
    """The beginning of the file's hash, where its name carries one: ``resnet50-0676ba61.pth``."""
    found = _HASHED_NAME.search(name)
    return found.group()[1:-1] if found else None


def _load_torchvision(name: str, map_location: str) -> Mapping[str, Any]:
    """Weights that torchvision publishes: ``torchvision://resnet50``, ``torchvision://resnet50.IMAGENET1K_V2``."""
    import torchvision

    model, _, wanted = name.partition("://")[2].partition(".")
    try:
        weights = torchvision.models.get_model_weights(model)
    except ValueError as error:
        known = ", ".join(torchvision.models.list_models(module=torchvision.models))
        raise CheckpointError(f"{name}: torchvision has no model {model!r}; there are {known}") from error
    members = {member.name.lower(): member for member in weights}
    # The plain name means the first weights that were published: what recipes of detectors were tuned with.
    key = wanted.lower() or ("imagenet1k_v1" if "imagenet1k_v1" in members else next(iter(members)))
    if key not in members:
        raise CheckpointError(f"{name}: {model} has no weights {wanted!r}; there are {', '.join(members)}")
    return _load_url(members[key].url, map_location)


def _load_foreign(name: str, map_location: str) -> Mapping[str, Any]:
    raise CheckpointError(
        f"{name}: names of OpenMMLab's model zoo are resolved by det-mmdet (pip install det-mmdet); "
        "or download the file and give its path"
    )


def _load_path_url(name: str, map_location: str) -> Mapping[str, Any]:
    return _load_file(Path(name.partition("://")[2]), map_location)


_SCHEMES: dict[str, Loader] = {
    "torchvision": _load_torchvision,
    "modelzoo": _load_torchvision,  # the name of the same before 2019
    "http": _load_url,
    "https": _load_url,
    "file": _load_path_url,
    "open-mmlab": _load_foreign,
    "openmmlab": _load_foreign,
    "mmcls": _load_foreign,
    "jhu": _load_foreign,
}
