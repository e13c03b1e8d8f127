"""Words for weights that do not fit: which names, which shapes, and what may be the matter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from detcore.weights.recognise import recognise

_SHOWN = 6


def explain_misfit(
    report: Any, given: Mapping[str, Any], own: Mapping[str, Any], what: str, source: str
) -> str:
    """What did not fit where weights were put into a module, one line for each kind of misfit.

    Args:
        report: A :class:`~detcore.weights.LoadReport`.
        given: The weights.
        own: The module's.
        what: The module's class.
        source: Where the weights come from.
    """
    shapes = [f"{name}: file {theirs}, model {ours}" for name, theirs, ours in report.mismatched]
    fits = f"{len(report.loaded)} of the model's {len(own)} are in it"
    lines = [f"{source} does not fit {what} in every key: {fits}"]
    for kind, names in (
        ("missing in the file", report.missing),
        ("not in the model", report.unexpected),
        ("of another shape", shapes),
    ):
        if names:
            lines.append(f"  {len(names)} {kind}: {some_names(names)}")
    lines += [f"  {hint}" for hint in _hints(report, given, own)]
    return "\n".join(lines)


def some_names(names: Sequence[str]) -> str:
    """The first few names, and how the rest spread over the parts of a model, or how many there are."""
    shown = ", ".join(names[:_SHOWN])
    if len(names) <= _SHOWN:
        return shown
    parts = Counter(name.split(".", 1)[0] for name in names[_SHOWN:]).most_common(4)
    if 2 * sum(count for _, count in parts) < len(names) - _SHOWN:
        return f"{shown}, ... ({len(names)} in all)"
    return f"{shown}, ... ({', '.join(f'{count} more in {part}' for part, count in parts)})"


def _hints(report: Any, given: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    prefix = _prefix_hint(report, own)
    if prefix:
        return [prefix]
    if "state_dict" in given:
        return ["the weights seem to be below the key 'state_dict' of this file"]
    names = [name for name, _, _ in report.mismatched]
    if names and all("cls" in name or "mask" in name or "heatmap" in name for name in names):
        return ["only classification layers differ: the file is for another number of classes"]
    if 2 * len(report.loaded) < max(len(own), len(given)):
        theirs, ours = recognise(given), recognise(own)
        if theirs and theirs != ours:
            return [f"the file seems to be of {theirs}" + (f", the model is {ours}" if ours else "")]
    return []


def _prefix_hint(report: Any, own: Mapping[str, Any]) -> str:
    if not report.unexpected or not report.missing:
        return ""
    for part in sorted({name.split(".", 1)[0] + "." for name in report.unexpected}):
        bare = [name.removeprefix(part) for name in report.unexpected if name.startswith(part)]
        if _mostly_in(bare, own):
            return (
                f"the file's keys have the prefix '{part}' that the model's have not; in"
                f" init_cfg=dict(type='Pretrained', ...) prefix='{part}' may help"
            )
    for part in sorted({name.split(".", 1)[0] + "." for name in report.missing}):
        if _mostly_in([part + name for name in report.unexpected], own):
            return (
                f"the file's keys lack the prefix '{part}': if these are weights of that part alone, give"
                " them to it with init_cfg=dict(type='Pretrained', checkpoint=...)"
            )
    return ""


def _mostly_in(names: Sequence[str], own: Mapping[str, Any]) -> bool:
    return bool(names) and sum(name in own for name in names) > len(names) / 2
