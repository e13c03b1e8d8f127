"""Metrics and what they share."""
from detcore.evaluation.boxes import average_precision, eval_recalls, print_recall_summary
from detcore.evaluation.evaluator import Evaluator, build_evaluator
from detcore.evaluation.mean_ap import eval_map
from detcore.evaluation.metric import Metric

__all__ = [
    "Evaluator", "Metric", "average_precision", "build_evaluator", "eval_map", "eval_recalls",
    "print_recall_summary",
]
