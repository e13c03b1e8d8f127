import logging

import numpy as np
import pytest

from detcore.errors import ConfigError
from detcore.evaluation import average_precision, eval_recalls, print_recall_summary


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


def test_old_coordinates_count_the_last_pixel_into_a_side():
    objects, found = [np.array([[0, 0, 9, 9]])], [np.array([[0, 0, 9, 4]])]
    assert eval_recalls(objects, found, 10, 0.5, use_legacy_coordinate=True).tolist() == [[1.0]]  # 50 of 100
    assert eval_recalls(objects, found, 10, 0.5).tolist() == [[0.0]]  # 36 of 81


def test_a_summary_shows_the_rows_and_columns_that_are_asked_for(caplog):
    recalls = np.array([[0.125, 0.25], [0.5, 0.75]])
    with caplog.at_level(logging.INFO):
        print_recall_summary(recalls, [100, 300], [0.5, 0.9], row_idxs=[1], col_idxs=[0])
        print_recall_summary(recalls[:1], 100, [0.5, 0.9], logger=logging.getLogger("mine"))
    assert [record.getMessage() for record in caplog.records] == [
        "recall of 300 proposals: 0.500 at 0.5", "recall of 100 proposals: 0.125 at 0.5, 0.250 at 0.9"
    ]
    assert caplog.records[1].name == "mine"
    with pytest.raises(ConfigError, match=r"shape \(1, 2\), got \(2, 2\)"):
        print_recall_summary(recalls, 100, [0.5, 0.9])


def test_the_usual_numbers_of_proposals():
    assert eval_recalls([np.ones((1, 4))], [np.zeros((0, 4))]).shape == (3, 1)
