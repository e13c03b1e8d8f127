"""Several data sets in a row: each metric sees its own, whatever the batches and processes."""
from types import SimpleNamespace

import pytest

from detcore.errors import ConfigError
from detcore.evaluation import Metric, build_evaluator, gather
from detcore.evaluation.multi import MultiDatasetsEvaluator
from detcore.registry import METRICS


class Seen(Metric):
    """Tells which samples it was given, and the inputs that came with them."""

    def process(self, data_batch, data_samples):
        inputs = data_batch["inputs"] if data_batch else [None] * len(data_samples)
        self.results += [
            {"id": sample["id"], "input": given} for sample, given in zip(data_samples, inputs, strict=True)
        ]

    def compute_metrics(self, results):
        assert all(result["input"] in (None, result["id"] * 10) for result in results)
        return {"ids": sorted(result["id"] for result in results), "classes": self.dataset_meta["classes"]}


def concat(*lengths):
    parts = [SimpleNamespace(metainfo={"classes": (f"class {i}",)}) for i in range(len(lengths))]
    ends = [sum(lengths[: i + 1]) for i in range(len(lengths))]
    return SimpleNamespace(datasets=parts, cumulative_sizes=ends)


def evaluator(*prefixes, inner=None):
    return MultiDatasetsEvaluator([Seen(prefix=inner) for _ in prefixes], list(prefixes))


def batches(order, size):
    for start in range(0, len(order), size):
        ids = order[start : start + size]
        yield {"inputs": [i * 10 for i in ids], "data_samples": ids}, [{"id": i} for i in ids]


@pytest.mark.parametrize("size", [1, 2, 4, 9])
def test_each_metric_sees_its_data_set_also_where_a_batch_holds_two(size):
    made = evaluator("first", "second", inner="seen")
    made.use_dataset(concat(3, 6))
    for _ in range(2):  # the second evaluation begins anew
        for batch, samples in batches(range(9), size):
            made.process(data_batch=batch, data_samples=samples)
        assert made.evaluate(9) == {
            "first/seen/ids": [0, 1, 2],
            "first/seen/classes": ("class 0",),
            "second/seen/ids": [3, 4, 5, 6, 7, 8],
            "second/seen/classes": ("class 1",),
        }


@pytest.mark.parametrize("rank", [0, 1])
def test_processes_tell_the_data_set_from_their_turn_and_drop_repeats(rank, monkeypatch):
    made = evaluator("a", "b")
    made.use_dataset(concat(3, 4))
    with monkeypatch.context() as two:
        two.setattr(gather, "rank", lambda: rank)
        two.setattr(gather, "world_size", lambda: 2)
        dealt = [position % 7 for position in range(rank, 8, 2)]  # 7 samples; the last turn repeats the first
        for batch, samples in batches(dealt, 3):
            made.process(batch, samples)
    figures = made.evaluate(7)
    expected = {0: ([0, 2], [4, 6]), 1: ([1], [3, 5])}[rank]
    assert (figures["a/ids"], figures["b/ids"]) == expected


def test_predictions_that_are_there_already_are_evaluated_with_given_sizes():
    made = evaluator("a", "b")
    made.dataset_meta = {"classes": ("x",), "cumulative_sizes": [1, 3]}
    assert made.offline_evaluate([{"id": 0}, {"id": 1}, {"id": 2}], chunk_size=2) == {
        "a/ids": [0],
        "a/classes": ("x",),
        "b/ids": [1, 2],
        "b/classes": ("x",),
    }


def test_a_config_builds_it():
    METRICS.register_module(name="SeenForMulti", module=Seen, force=True)
    metrics = [{"type": "SeenForMulti"}, {"type": "SeenForMulti"}]
    cfg = {"type": "MultiDatasetsEvaluator", "metrics": metrics, "dataset_prefixes": ["a", "b"]}
    assert build_evaluator(cfg).dataset_prefixes == ["a", "b"]


def test_numbers_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="2 metrics, but 1 dataset_prefixes"):
        MultiDatasetsEvaluator([Seen(), Seen()], ["a"])
    with pytest.raises(ConfigError, match="2 metrics, and needs as many"):
        evaluator("a", "b").use_dataset(concat(1, 2, 3))
    with pytest.raises(ConfigError, match=r"needs a ConcatDataset.*got a SimpleNamespace"):
        evaluator("a").use_dataset(SimpleNamespace(metainfo={}))
    with pytest.raises(ConfigError, match="set its dataset_meta"):
        evaluator("a").process(None, [{"id": 0}])


def test_equal_prefixes_are_an_error_that_names_the_figure():
    made = evaluator("a", "a")
    made.use_dataset(concat(1, 1))
    made.process(None, [{"id": 0}, {"id": 1}])
    with pytest.raises(ConfigError, match="two data sets give 'a/ids'"):
        made.evaluate(2)
