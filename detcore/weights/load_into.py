"""Putting named tensors into modules, and saying what did not fit."""
from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from detcore.errors import CheckpointError

logger = logging.getLogger(__name__)
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
        logger.debug("%s: %d names are not for %s: %s", source, len(quiet), what, some_names(quiet))
    if differences:
        logger.warning("%s into %s: %d names loaded; %s", source, what, len(loaded), differences)
    else:
        logger.info("%s into %s: all %d names loaded", source, what, len(loaded))
    return report


def _differences(report: LoadReport) -> str:
    parts = []
    if report.mismatched:
        shapes = [f"{name} {got} instead of {want}" for name, got, want in report.mismatched]
        parts.append(f"{len(shapes)} of another shape: {some_names(shapes)}")
    if report.missing:
        parts.append(f"{len(report.missing)} missing: {some_names(report.missing)}")
    if report.unexpected:
        parts.append(f"{len(report.unexpected)} unexpected: {some_names(report.unexpected)}")
    return "; ".join(parts)


def _nothing_fits(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    theirs, ours = some_names(list(state)), some_names(list(own))
    text = f"none of its names is known. It has {theirs}; the module has {ours}"
    first = next(iter(own))
    inside = next((name for name in state if name.endswith(f".{first}")), None)
    if inside is not None:
        text += f". Taking prefix={inside.removesuffix(first)!r} may help"
    return text


def some_names(names: Sequence[str]) -> str:
    """The first names, and how many there are where they are many."""
    shown = ", ".join(str(name) for name in names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown}, ... ({len(names)} in all)"
