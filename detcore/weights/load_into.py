"""Putting named tensors into modules, and saying what did not fit."""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from detcore.errors import CheckpointError
from detcore.weights.explain import explain_misfit, some_names
from detcore.weights.reading import keep_versions

logger = logging.getLogger(__name__)
_WRAPPER = "module."  # what DistributedDataParallel puts before every name


@dataclass(frozen=True)
class LoadReport:
    """What became of the names of a state dict; true where something did not fit.

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

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.mismatched)


def load_into_module(
    module: nn.Module,
    state: Mapping[str, Any],
    *,
    strict: bool = False,
    allow_mismatch: bool = False,
    ignore_unexpected: Sequence[str] = (),
    source: str = "the state dict",
) -> LoadReport:
    """Copy tensors into a module. What did not fit is said in one entry of the log.

    A leading ``module.`` before every name is dropped. A missing ``num_batches_tracked`` is no news: averages
    of old files come without that count, which nothing depends on.

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
    given, own = _unwrapped(state, module), module.state_dict()
    mismatched = [
        (name, tuple(value.shape), tuple(own[name].shape))
        for name, value in given.items()
        if isinstance(value, Tensor) and isinstance(own.get(name), Tensor) and value.shape != own[name].shape
    ]
    what = type(module).__name__
    if mismatched and (strict or not allow_mismatch):
        report = _compare(own, given, mismatched)
        raise CheckpointError(explain_misfit(report, given, own, what, source))
    fitting = _without({name for name, _, _ in mismatched}, given)
    # Modules may rename what they are given, so only loading tells what fits; what does not is undone.
    before = None if fitting.keys() == own.keys() else _clone(own)
    try:
        result = module.load_state_dict(fitting, strict=False)
    except RuntimeError as error:
        module.load_state_dict(before or {}, strict=False)
        raise CheckpointError(f"{source} does not fit {what}: {error}") from error
    uncounted = {name for name in own if name.endswith("num_batches_tracked") and name not in given}
    missing = [name for name in result.missing_keys if name not in given and name not in uncounted]
    quiet = [name for name in result.unexpected_keys if any(re.search(p, name) for p in ignore_unexpected)]
    unexpected = [name for name in result.unexpected_keys if name not in quiet]
    unloaded = {*missing, *uncounted, *(name for name, _, _ in mismatched)}
    report = LoadReport([name for name in own if name not in unloaded], missing, unexpected, mismatched)
    if own and ((strict and report) or not (report.loaded or mismatched)):
        module.load_state_dict(before or {}, strict=False)
        raise CheckpointError(explain_misfit(report, given, own, what, source))
    if quiet:
        logger.debug("%s: %d names are not for %s: %s", source, len(quiet), what, some_names(quiet))
    if report:
        logger.warning("%s", explain_misfit(report, given, own, what, source))
    else:
        logger.info("%s into %s: all %d names loaded", source, what, len(report.loaded))
    return report if not quiet else LoadReport(report.loaded, missing, [*unexpected, *quiet], mismatched)


def _unwrapped(state: Mapping[str, Any], module: nn.Module) -> OrderedDict[str, Any]:
    """A copy, with the versions by which modules recognise weights in an older layout."""
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise CheckpointError(f"weights must be a dict from names to tensors, got {type(state).__name__}")
    wrapped = not hasattr(module, "module") and all(name.startswith(_WRAPPER) for name in state)
    names = {name: name.removeprefix(_WRAPPER) if wrapped else name for name in state}
    copied = OrderedDict((names[name], value) for name, value in state.items())
    return keep_versions(copied, state)


def _without(names: set[str], state: OrderedDict[str, Any]) -> OrderedDict[str, Any]:
    return keep_versions(OrderedDict((k, v) for k, v in state.items() if k not in names), state)


def _compare(own: Mapping[str, Any], given: Mapping[str, Any], mismatched: list[Any]) -> LoadReport:
    other = {name for name, _, _ in mismatched}
    return LoadReport(
        [name for name in own if name in given and name not in other],
        [name for name in own if name not in given and not name.endswith("num_batches_tracked")],
        [name for name in given if name not in own],
        mismatched,
    )


def _clone(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in state.items()}
