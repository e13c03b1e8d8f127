"""Random number generators: captured, saved, restored to the bit."""

import random

import numpy as np
import pytest
import torch

from detcore.engine.checkpoint import load_checkpoint, save_checkpoint
from detcore.engine.rng import capture_rng, capture_rng_of_all_ranks, restore_rng, seed_everything
from detcore.errors import CheckpointError


@pytest.fixture(autouse=True)
def own_state():
    before = capture_rng()
    yield
    restore_rng(before)


def draw():
    return (
        random.random(),
        random.gauss(0, 1),
        np.random.rand(),
        np.random.randn(),
        float(torch.rand(1)),
        float(torch.randn(1)),
    )


@pytest.mark.parametrize("capture", [capture_rng, lambda: capture_rng_of_all_ranks()[0]])
def test_restored_generators_draw_the_same_numbers(tmp_path, capture):
    seed_everything(3)
    random.gauss(0, 1)  # leaves a second Gaussian behind in Python's and numpy's generators
    np.random.randn()
    save_checkpoint(tmp_path / "a.pth", {"rng": capture()})
    first = [draw() for _ in range(400)]
    seed_everything(4)
    restore_rng(load_checkpoint(tmp_path / "a.pth")["rng"])
    assert [draw() for _ in range(400)] == first


def test_capturing_draws_nothing():
    seed_everything(5)
    expected = draw()
    seed_everything(5)
    capture_rng()
    assert draw() == expected


def test_a_seed_seeds_all_of_them():
    seed_everything(2**40 + 1)
    first = draw()
    seed_everything(2**40 + 1)
    assert draw() == first


@pytest.mark.parametrize("spoil", [{}, {"python": [3]}, {"torch": torch.zeros(3)}])
def test_a_state_that_is_incomplete_is_refused(spoil):
    state = {**capture_rng(), **spoil} if spoil else {}
    with pytest.raises(CheckpointError, match="random number generators"):
        restore_rng(state)
