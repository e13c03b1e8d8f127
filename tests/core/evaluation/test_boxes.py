import numpy as np
import pytest

from detcore.errors import ConfigError
from detcore.evaluation.boxes import average_precision


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
