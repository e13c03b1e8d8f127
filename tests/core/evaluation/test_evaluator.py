import logging

import pytest
import torch

from detcore.errors import ConfigError, DataError
from detcore.evaluation import Evaluator, Metric, build_evaluator
from detcore.registry import METRICS
from detcore.structures import DetDataSample, InstanceData


class Count(Metric):
    """Counts boxes; written as a user's metric is, on dicts."""

    def process(self, data_batch, data_samples):
        for sample in data_samples:
            self.results.append(len(sample["pred_instances"]["bboxes"]))

    def compute_metrics(self, results):
        return {"boxes": sum(results)}


class Listing(Count):
    def compute_metrics(self, results):
        return results


def samples(*numbers):
    return [DetDataSample(pred_instances=InstanceData(bboxes=torch.zeros(number, 4))) for number in numbers]


def test_every_metric_sees_every_batch_and_prefixes_keep_figures_apart():
    evaluator = Evaluator([Count(prefix="a"), Count(prefix="b")])
    evaluator.process(data_samples=samples(2, 3), data_batch=None)
    evaluator.process(None, samples(1))
    assert evaluator.evaluate(3) == {"a/boxes": 6, "b/boxes": 6}


def test_results_are_forgotten_after_an_evaluation():
    evaluator = Evaluator(Count())
    for _ in range(2):
        evaluator.process(None, samples(2))
        assert evaluator.evaluate(1) == {"boxes": 2}


def test_equal_names_are_an_error_that_names_both_metrics():
    evaluator = Evaluator([Count(), Count()])
    evaluator.process(None, samples(1))
    with pytest.raises(ConfigError, match=r"'boxes'.*Count and Count.*prefix"):
        evaluator.evaluate(1)


def test_dataset_meta_reaches_every_metric():
    evaluator = Evaluator([Count(), Count()])
    evaluator.dataset_meta = {"classes": ("a",)}
    assert [metric.dataset_meta for metric in evaluator.metrics] == [{"classes": ("a",)}] * 2


def test_no_metric_is_refused():
    with pytest.raises(ConfigError, match="at least one metric"):
        Evaluator([])


def test_nothing_processed_is_said(caplog):
    with caplog.at_level(logging.WARNING):
        assert Evaluator(Count()).evaluate(0) == {"boxes": 0}
    assert "nothing to evaluate" in caplog.text


def test_figures_that_are_no_dict_are_refused():
    evaluator = Evaluator(Listing())
    with pytest.raises(DataError, match="must return a dict"):
        evaluator.evaluate(0)


def test_predictions_at_hand_are_evaluated_in_chunks():
    assert Evaluator(Count()).offline_evaluate(samples(1, 2, 3), chunk_size=2) == {"boxes": 6}
    with pytest.raises(ConfigError, match="do not fit"):
        Evaluator(Count()).offline_evaluate(samples(1), data=[])


def test_unknown_collect_device_is_refused():
    with pytest.raises(ConfigError, match="collect_device"):
        Count(collect_device="tpu")


@pytest.fixture
def registered():
    METRICS.register_module(name="CountOfThisTest", module=Count, force=True)
    return "CountOfThisTest"


def test_an_evaluator_is_built_from_one_metric_from_several_and_from_its_own_type(registered):
    one = {"type": registered, "prefix": "one"}
    assert len(build_evaluator(one).metrics) == 1
    assert [m.prefix for m in build_evaluator([one, {"type": registered, "prefix": "two"}]).metrics] == [
        "one",
        "two",
    ]
    whole = build_evaluator({"type": "Evaluator", "metrics": [one]})
    assert isinstance(whole, Evaluator)
    assert whole.metrics[0].prefix == "one"
    assert build_evaluator(whole) is whole


def test_a_misspelt_argument_of_a_metric_is_named_with_its_place(registered):
    with pytest.raises(ConfigError, match=r"val_evaluator\.1\.prefx"):
        build_evaluator([{"type": registered}, {"type": registered, "prefx": "a"}])
