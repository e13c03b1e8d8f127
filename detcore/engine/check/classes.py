"""Do the heads predict as many classes as the data has?"""
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from detcore.engine.check.reading import datasets, name_of_type, table
from detcore.engine.settings import RunConfig
from detcore.registry import DATASETS, MODELS, Registry
from detcore.registry.lookup import known
from detcore.registry.problems import Problem
from detcore.registry.scopes import Absence

# Their classes are others: object or not, classes of pixels.
OTHER_HEADS = ("rpn_head", "semantic_head", "seg_head")


def check_classes(cfg: RunConfig, modes: Sequence[str], scope: str | None) -> Iterator[Problem]:
    """Classes that are one string, and heads with another number of classes than the data sets."""
    yield from _strings(cfg, modes)
    model = table(cfg.get("model"))
    # A model with a language model scores words, whatever the classes are.
    heads = [] if "language_model" in model else list(_heads(model, "model", scope))
    for mode in modes:
        path = f"{mode}_dataloader.dataset"
        for place, dataset in datasets(table(cfg.get(f"{mode}_dataloader")).get("dataset"), path):
            classes = _classes(dataset, scope)
            for head, number in heads if classes else ():
                if number != len(classes):
                    yield _differs(head, number, place, dataset, classes)
            if classes:
                break  # a data set of data sets has the classes of its first


def _differs(
    head: str, number: int, place: str, dataset: Mapping[str, Any], classes: Sequence[str]
) -> Problem:
    shown = ", ".join(map(str, classes[:3])) + (", ..." if len(classes) > 3 else "")
    kind = name_of_type(dataset)
    plural = "class" if len(classes) == 1 else "classes"
    return Problem(
        f"{head}.num_classes",
        f"{number} classes, but {place} ({kind}) has {len(classes)} {plural} ({shown})",
        f"set num_classes={len(classes)} in every head, or the data sets' metainfo=dict(classes=...)",
        subject=f"classes.{head}.{len(classes)}",
    )


def _strings(cfg: RunConfig, modes: Sequence[str]) -> Iterator[Problem]:
    found = False
    for mode in modes:
        path = f"{mode}_dataloader.dataset"
        for place, dataset in datasets(table(cfg.get(f"{mode}_dataloader")).get("dataset"), path):
            classes = table(dataset.get("metainfo")).get("classes")
            if isinstance(classes, str):
                found = True
                yield _string(f"{place}.metainfo.classes", classes)
            elif isinstance(cfg.get("classes"), str) and classes is not None:
                found = True  # the variable is one of the classes
    if isinstance(cfg.get("classes"), str) and not found:
        yield _string("classes", cfg["classes"], "warning")


def _string(path: str, classes: str, severity: Any = "error") -> Problem:
    return Problem(
        path,
        f"classes is the string {classes!r}, which would be read letter by letter",
        f"one class is written ({classes!r},) with a comma",
        severity=severity,
    )


def _classes(dataset: Mapping[str, Any], scope: str | None) -> Sequence[str]:
    """The classes that a data set will have; empty where that is not known."""
    classes = table(dataset.get("metainfo")).get("classes")
    if classes is None:
        component = _component(DATASETS, dataset.get("type"), dataset.get("_scope_", scope))
        classes = table(getattr(component, "METAINFO", None)).get("classes")
    return classes if isinstance(classes, list | tuple) else ()


def _heads(value: Any, path: str, scope: str | None) -> Iterator[tuple[str, int]]:
    """Heads with the number of classes that they are given, or have by default."""
    if isinstance(value, list | tuple):
        for index, each in enumerate(value):
            yield from _heads(each, f"{path}.{index}", scope)
    if not isinstance(value, Mapping):
        return
    key = next((part for part in reversed(path.split(".")) if not part.isdigit()), "")
    if key.endswith(OTHER_HEADS) or key == "backbone":
        return
    if key.endswith("head") and "type" in value:
        number = value.get("num_classes", _default(value, scope))
        if isinstance(number, int):
            yield path, number
    for name, inner in value.items():
        yield from _heads(inner, f"{path}.{name}", value.get("_scope_", scope))


def _default(head: Mapping[str, Any], scope: str | None) -> Any:
    component = _component(MODELS, head["type"], head.get("_scope_", scope))
    try:
        parameter = inspect.signature(component).parameters.get("num_classes") if component else None
    except (TypeError, ValueError):
        return None
    return None if parameter is None else parameter.default


def _component(registry: Registry, kind: Any, scope: str | None) -> Any:
    if callable(kind):
        return kind
    found = known(registry, kind, scope) if isinstance(kind, str) and kind else None
    return None if isinstance(found, Absence) else found
