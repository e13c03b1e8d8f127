"""Writes what a test predicts into one JSON file."""
import json
from pathlib import Path
from typing import Any

from detcore.engine import distributed
from detcore.engine.hooks.base import Hook


class PredictionFileHook(Hook):
    """Collects every image's predictions and writes them when the test is over.

    The file is a list with one object an image: ``img_id``, ``img_path``, ``bboxes`` (x1, y1, x2, y2 in
    pixels of the original image), ``scores``, ``labels`` (indices) and ``classes`` (their names).

    Args:
        path: The file; its folder is made.
    """

    priority = "LOWEST"

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._found: dict[str, dict[str, Any]] = {}

    def before_test(self, runner: Any) -> None:
        """Forget what an earlier test found."""
        self._found = {}

    def after_test_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Keep the predictions of one batch."""
        names = getattr(runner.test_dataloader.dataset, "metainfo", {}).get("classes") or ()
        for sample in outputs:
            found = sample.pred_instances
            labels = found.labels.tolist()
            self._found[str(sample.img_id)] = {
                "img_id": sample.img_id,
                "img_path": str(sample.metainfo.get("img_path", "")),
                "bboxes": found.bboxes.tolist(),
                "scores": found.scores.tolist(),
                "labels": labels,
                "classes": [str(names[label]) if label < len(names) else str(label) for label in labels],
            }

    def after_test(self, runner: Any) -> None:
        """Bring the processes' parts together and write the file."""
        parts = distributed.gather_bytes(json.dumps(self._found).encode())
        if runner.rank != 0:
            return
        merged: dict[str, Any] = {}
        for part in parts:
            merged.update(json.loads(part))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(f".{self.path.name}.tmp")
        partial.write_text(json.dumps(list(merged.values())), encoding="utf-8")
        partial.replace(self.path)
