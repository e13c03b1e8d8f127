"""Checks for metrics."""

from collections.abc import Mapping
from typing import Any

import torch

from detcore.registry import METRICS
from detcore.structures import InstanceData
from detcore.testing.batches import tiny_batch
from detcore.testing.building import Source, build, require


def check_metric(source: Source, *, num_classes: int = 3, figures: bool = True) -> None:
    """Check all that a metric promises.

    ``process`` takes predictions, ``evaluate`` gives figures by name and forgets what it has seen; a batch
    without predictions is no error; the order of the images does not matter.

    Args:
        source: ``dict(type=...)``, or a function that builds the metric. Ground truth comes with the samples.
        num_classes: Of the made-up data.
        figures: Whether it measures; others write files.

    Raises:
        AssertionError: Says which promise is broken.
    """
    metric = build(source, METRICS)
    metric.dataset_meta = {"classes": tuple(f"class {i}" for i in range(num_classes))}
    samples = _predicted(num_classes)
    told = _evaluate(metric, samples, figures)
    for name, value in told.items():
        require(isinstance(name, str), f"figures have names, got {name!r}")
        require(isinstance(value, int | float), f"{name} must be a number, got {type(value).__name__}")
    prefix = getattr(metric, "prefix", None)
    named = all(name.startswith(f"{prefix}/") for name in told) if prefix else True
    require(named, f"every figure must start with '{prefix}/', got {sorted(told)}")
    turned = _evaluate(metric, samples[::-1], figures)
    require(_near(turned, told), "the figures depend on the order of the images, or on an earlier evaluation")
    _evaluate(metric, [_without_predictions(sample) for sample in samples], figures)


def _evaluate(metric: Any, samples: list[dict[str, Any]], measures: bool) -> dict[str, Any]:
    metric.process(None, samples)
    figures = metric.evaluate(len(samples))
    is_told = isinstance(figures, Mapping) and bool(figures) >= measures
    require(is_told, f"evaluate must give figures by name, got {figures!r}")
    return dict(figures)


def _near(one: Mapping[str, float], two: Mapping[str, float]) -> bool:
    pairs = [(one.get(name), value) for name, value in two.items()]
    same = all(a == b or (a is not None and (a != a or abs(a - b) < 1e-6)) for a, b in pairs)
    return one.keys() == two.keys() and same


def _predicted(num_classes: int) -> list[dict[str, Any]]:
    """Samples whose predictions are their objects, a little aside."""
    _, samples = tiny_batch(num_classes, objects=(2, 0, 3))
    for sample in samples:
        truth = sample.gt_instances
        scores = torch.linspace(0.9, 0.5, len(truth.bboxes))
        sample.pred_instances = InstanceData(bboxes=truth.bboxes + 1, scores=scores, labels=truth.labels)
    return [sample.to_dict() for sample in samples]


def _without_predictions(sample: dict[str, Any]) -> dict[str, Any]:
    nothing = {
        "bboxes": torch.zeros(0, 4),
        "scores": torch.zeros(0),
        "labels": torch.zeros(0, dtype=torch.long),
    }
    return {**sample, "pred_instances": nothing}
