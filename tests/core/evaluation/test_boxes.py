import numpy as np
import pytest

from detcore.errors import ConfigError
from detcore.evaluation.boxes import average_precision, eval_recalls


def test_area_uses_the_best_precision_at_each_recall_or_beyond():
    # hits: yes, no, yes, with two objects: precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1
    recalls, precisions = np.array([0.5, 0.5, 1.0]), np.array([1.0, 0.5, 2 / 3])
    assert average_precision(recalls, precisions) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_eleven_points_reach_recalls_that_floats_cannot_write():
    recalls = np.arange(1, 11) / 10
    assert average_precision(recalls, np.ones(10), "11points") == 1.0
    assert average_precision(np.array([3 / 10]), np.array([1.0]), "11points") == pytest.approx(4 / 11)


def test_no_detection_is_zero_and_sizes_stay_apart():
    assert average_precision(np.zeros(0), np.zeros(0)) == 0.0
    assert average_precision(np.zeros(0), np.zeros(0), "11points") == 0.0
    two = average_precision(np.array([[1.0], [0.5]]), np.array([[1.0], [1.0]]))
    assert two.tolist() == [1.0, 0.5]


@pytest.mark.parametrize("arguments", [([1.0], [1.0, 2.0]), ([1.0], [1.0], "points")])
def test_mistakes_of_the_caller_are_named(arguments):
    with pytest.raises(ConfigError, match=r"shape|mode"):
        average_precision(*arguments)


def test_recall_counts_each_object_and_each_proposal_once():
    objects = [np.array([[0, 0, 10, 10], [20, 20, 30, 30]]), np.zeros((0, 4))]
    twice = np.array([[0, 0, 10, 10, 0.9], [0, 0, 10, 10, 0.8], [20, 20, 30, 28, 0.1]])
    recalls = eval_recalls(objects, [twice, twice], (2, 3), [0.5, 0.9])
    assert recalls.tolist() == [[0.5, 0.5], [1.0, 0.5]]


def test_recall_without_objects_is_undefined_and_without_proposals_zero():
    assert np.isnan(eval_recalls([np.zeros((0, 4))], [np.zeros((3, 4))], 10)).all()
    assert eval_recalls([np.ones((1, 4))], [np.zeros((0, 4))], 10).tolist() == [[0.0]]
    with pytest.raises(ConfigError, match="1 images"):
        eval_recalls([np.ones((1, 4))], [])
