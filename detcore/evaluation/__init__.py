"""Metrics and what they share."""
from detcore.evaluation.evaluator import Evaluator, build_evaluator
from detcore.evaluation.metric import Metric

__all__ = ["Evaluator", "Metric", "build_evaluator"]
