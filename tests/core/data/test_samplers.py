from itertools import islice

import pytest

from detcore.data import AspectRatioBatchSampler, DefaultSampler, InfiniteSampler
from detcore.data.samplers import PlainBatchSampler
from detcore.errors import DataError


class Sized:
    """A data set of given (height, width)."""

    def __init__(self, *sizes):
        self.sizes = sizes

    def __len__(self):
        return len(self.sizes)

    def get_data_info(self, idx):
        height, width = self.sizes[idx]
        return {"height": height, "width": width} if height else {}


TEN = Sized(*[(10, 20), (20, 10)] * 5)


def test_an_epoch_has_every_sample_once_in_an_order_of_its_own():
    sampler = DefaultSampler(TEN, shuffle=True, seed=3)
    first = list(sampler)
    assert sorted(first) == list(range(10))
    assert first == list(sampler)
    sampler.set_epoch(1)
    assert sorted(sampler) == list(range(10))
    assert list(sampler) != first
    assert list(DefaultSampler(TEN, shuffle=False)) == list(range(10))


@pytest.mark.parametrize("world", [2, 3, 4, 11])
def test_ranks_share_an_epoch_out_evenly(ranks, world):
    parts = [list(sampler) for sampler in ranks(world, lambda: DefaultSampler(TEN, shuffle=True, seed=0))]
    assert len({len(part) for part in parts}) == 1
    assert {index for part in parts for index in part} == set(range(10))
    uneven = ranks(world, lambda: DefaultSampler(TEN, shuffle=True, seed=0, round_up=False))
    assert sorted(index for sampler in uneven for index in sampler) == list(range(10))
    assert [len(sampler) for sampler in uneven] == [len(list(sampler)) for sampler in uneven]


def test_an_endless_sampler_goes_pass_after_pass_and_can_start_anywhere():
    sampler = InfiniteSampler(TEN, shuffle=True, seed=1)
    drawn = list(islice(sampler, 35))
    assert all(sorted(drawn[k : k + 10]) == list(range(10)) for k in (0, 10, 20))
    assert drawn[:10] != drawn[10:20]
    for start in (0, 1, 9, 10, 23):
        assert list(islice(sampler.iterate_from(start), 12)) == drawn[start : start + 12]
    assert list(islice(InfiniteSampler(TEN, shuffle=False), 12)) == [*range(10), 0, 1]
    assert len(sampler) == 10


def test_ranks_interleave_the_endless_stream(ranks):
    whole = list(islice(InfiniteSampler(TEN, seed=1), 30))
    parts = [list(islice(sampler, 10)) for sampler in ranks(3, lambda: InfiniteSampler(TEN, seed=1))]
    assert [index for trio in zip(*parts, strict=True) for index in trio] == whole


@pytest.mark.parametrize("kind", [PlainBatchSampler, AspectRatioBatchSampler])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3, 4, 20])
def test_batches_hold_an_epoch_and_can_start_anywhere(kind, drop_last, batch_size):
    batches = kind(DefaultSampler(TEN, seed=2), batch_size, drop_last)
    drawn = list(batches)
    assert len(drawn) == len(batches)
    flat = [index for batch in drawn for index in batch]
    assert len(set(flat)) == len(flat) == (10 // batch_size * batch_size if drop_last else 10)
    for start in range(len(drawn) + 1):
        assert list(batches.iterate_from(start)) == drawn[start:]


def test_batches_are_all_wide_or_all_high_but_the_left_over_one():
    batches = list(AspectRatioBatchSampler(DefaultSampler(TEN, seed=2), 2))
    kinds = [{index % 2 for index in batch} for batch in batches]
    assert [len(kind) for kind in kinds] == [1, 1, 1, 1, 2]


def test_images_without_a_size_cannot_be_batched_by_shape():
    sampler = AspectRatioBatchSampler(DefaultSampler(Sized((0, 0))), 2)
    with pytest.raises(DataError, match="height and width"):
        list(sampler)


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, True, "4"])
def test_a_batch_size_is_a_positive_whole_number(batch_size):
    for kind in (PlainBatchSampler, AspectRatioBatchSampler):
        with pytest.raises(ValueError, match="batch_size"):
            kind(DefaultSampler(TEN), batch_size)
