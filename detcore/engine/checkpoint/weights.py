"""Loading weights into a model, with errors that say which keys and shapes are to blame."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from detcore.engine.distributed import unwrap_model
from detcore.errors import CheckpointError

logger = logging.getLogger(__name__)

WRAPPER = "module."
SHOWN = 6


class LoadReport(NamedTuple):
    """What did not fit.

    Attributes:
        missing: Keys of the model that the checkpoint lacks.
        unexpected: Keys of the checkpoint that the model lacks.
        reshaped: Keys whose shapes differ: ``name: file (80, 256), model (3, 256)``.
    """

    missing: list[str]
    unexpected: list[str]
    reshaped: list[str]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.reshaped)


def load_into_model(
    model: nn.Module, state_dict: Mapping[str, Any], *, strict: bool, source: str | Path
) -> LoadReport:
    """Load weights into a model, in place.

    A leading ``module.``, which DDP puts before every key, is dropped.

    Args:
        model: The detector, or the DDP module around it.
        state_dict: Name -> tensor.
        strict: Every key must fit. Else what fits is loaded and the rest is named in a warning: this is how a
            detector starts from weights for other classes.
        source: File or URL, for messages.

    Returns:
        What did not fit; empty if strict.

    Raises:
        CheckpointError: When strict and something does not fit (the model is as it was if shapes differ), or
            when nothing fits at all.
    """
    model = unwrap_model(model)
    weights = _without_wrapper(state_dict, model)
    own = model.state_dict()
    reshaped = [
        f"{name}: file {tuple(value.shape)}, model {tuple(own[name].shape)}"
        for name, value in weights.items()
        if isinstance(value, Tensor) and isinstance(own.get(name), Tensor) and value.shape != own[name].shape
    ]
    if reshaped and strict:
        missing, unexpected = [n for n in own if n not in weights], [n for n in weights if n not in own]
        raise CheckpointError(_explain(LoadReport(missing, unexpected, reshaped), weights, own, source))
    skipped = {line.split(":", 1)[0] for line in reshaped}
    fitting = {name: value for name, value in weights.items() if name not in skipped}
    if hasattr(state_dict, "_metadata"):
        fitting = _with_metadata(fitting, state_dict)
    try:
        result = model.load_state_dict(fitting, strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"{source} does not fit {type(model).__name__}: {error}") from error
    missing = [name for name in result.missing_keys if name not in skipped]
    report = LoadReport(missing, list(result.unexpected_keys), reshaped)
    fits = len(weights) - len(report.unexpected) - len(reshaped)
    if not report:
        return report
    if strict or fits == 0:
        raise CheckpointError(_explain(report, weights, own, source))
    logger.warning("%s", _explain(report, weights, own, source))
    return report


def _without_wrapper(state_dict: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    if not isinstance(state_dict, Mapping) or not all(isinstance(name, str) for name in state_dict):
        raise CheckpointError(
            f"weights must be a dict from names to tensors, got {type(state_dict).__name__}"
        )
    wrapped = bool(state_dict) and all(name.startswith(WRAPPER) for name in state_dict)
    if wrapped and not hasattr(model, "module"):
        return {name.removeprefix(WRAPPER): value for name, value in state_dict.items()}
    return dict(state_dict)


def _with_metadata(weights: dict[str, Any], state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Carry along the versions by which modules recognise weights in an older layout."""
    from collections import OrderedDict

    ordered: Any = OrderedDict(weights)
    ordered._metadata = state_dict._metadata  # type: ignore[attr-defined]
    return ordered


def _explain(
    report: LoadReport, weights: Mapping[str, Any], own: Mapping[str, Any], source: str | Path
) -> str:
    fits = len(weights) - len(report.unexpected) - len(report.reshaped)
    lines = [f"{source} does not fit the model in every key: {fits} of the model's {len(own)} are in it"]
    for what, names in (
        ("missing in the file", report.missing),
        ("not in the model", report.unexpected),
        ("of another shape", report.reshaped),
    ):
        if names:
            lines.append(f"  {len(names)} {what}: {_shorten(names)}")
    hint = _hint(weights, own, report)
    return "\n".join([*lines, f"  {hint}"] if hint else lines)


def _shorten(names: Sequence[str]) -> str:
    """The first few names, and how the rest spread over the model's parts."""
    shown = ", ".join(names[:SHOWN])
    if len(names) <= SHOWN:
        return shown
    parts = Counter(name.split(".", 1)[0] for name in names[SHOWN:])
    return f"{shown}, ... ({', '.join(f'{count} more in {part}' for part, count in parts.most_common(4))})"


def _hint(weights: Mapping[str, Any], own: Mapping[str, Any], report: LoadReport) -> str:
    if report.unexpected and report.missing:
        for part in sorted({name.split(".", 1)[0] + "." for name in report.unexpected}):
            bare = [name.removeprefix(part) for name in report.unexpected if name.startswith(part)]
            if _mostly_in(bare, own):
                return f"the file's keys have the prefix '{part}' that the model's have not"
        for part in sorted({name.split(".", 1)[0] + "." for name in report.missing}):
            if _mostly_in([part + name for name in report.unexpected], own):
                return (
                    f"the file's keys lack the prefix '{part}': if these are weights of that part alone, give"
                    " them to it with init_cfg=dict(type='Pretrained', checkpoint=...)"
                )
    if "state_dict" in weights:
        return "the weights seem to be below the key 'state_dict' of this file"
    heads = [line for line in report.reshaped if "cls" in line or "mask" in line or "heatmap" in line]
    if heads and len(heads) == len(report.reshaped):
        return "only classification layers differ: the file is for another number of classes"
    return ""


def _mostly_in(names: Sequence[str], own: Mapping[str, Any]) -> bool:
    return bool(names) and sum(name in own for name in names) > len(names) / 2
