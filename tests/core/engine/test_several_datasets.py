"""A training that evaluates on two data sets, each with figures of its own."""
import json
from pathlib import Path

from detcore.engine.runner import Runner


def test_each_data_set_has_its_own_figures_in_every_evaluation(toy_cfg):
    parts = [{"type": "ToyDataset", "length": length, "noisy": False} for length in (3, 5)]
    metrics = [{"type": "ToyMetric"}, {"type": "ToyMetric", "prefix": "other"}]
    cfg = toy_cfg(train_cfg={"max_epochs": 2})
    cfg["val_dataloader"]["dataset"] = {"type": "ConcatDataset", "datasets": parts}
    cfg["val_evaluator"] = {
        "type": "MultiDatasetsEvaluator",
        "metrics": metrics,
        "dataset_prefixes": ["three", "five"],
    }
    runner = Runner.from_cfg(cfg)
    runner.train()
    lines = (Path(runner.work_dir) / "log.jsonl").read_text().splitlines()
    figures = [record for record in map(json.loads, lines) if record["mode"] == "val"]
    assert [(one["three/toy/count"], one["five/other/count"]) for one in figures] == [(3, 5), (3, 5)]
