"""Random numbers that belong to a sample, not to the worker that happens to load it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

MASK = (1 << 64) - 1


def sample_seed(seed: int, epoch: int, position: int) -> int:
    """A 63-bit seed from the run's seed, the epoch and the sample's position in it.

    The three are mixed one after the other with SplitMix64 (Steele et al. 2014), so that neighbours
    get unrelated seeds.
    """
    state = 0
    for part in (seed, epoch, position):
        state = (state ^ (part & MASK)) + 0x9E3779B97F4A7C15 & MASK
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & MASK
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & MASK
        state ^= state >> 31
    return state >> 1


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block under generators seeded with ``seed``, and put the process's own states back afterwards.

    Seeds `random`, `numpy.random` and torch's CPU generator; CUDA's is not touched.
    """
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed([seed & 0xFFFFFFFF, seed >> 32])
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
