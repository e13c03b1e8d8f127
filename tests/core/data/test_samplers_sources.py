import itertools
import time
from collections import Counter

import numpy as np
import pytest

from detcore.data import BaseDetDataset, ConcatDataset, build_dataloader
from detcore.data.samplers_sources import GroupMultiSourceSampler, MultiSourceSampler
from detcore.data.table import AnnotationTable, Ragged
from detcore.errors import ConfigError, DataError


class Shapes:
    """A data set of which only the images' shapes are known, as ``(height, width)``."""

    metainfo = {"classes": ("a",)}  # noqa: RUF012

    def __init__(self, *shapes):
        self.shapes = shapes

    def __len__(self):
        return len(self.shapes)

    def full_init(self):
        pass

    def get_data_info(self, idx):
        height, width = self.shapes[idx]
        return {"height": height, "width": width} if height else {}


class Columns(BaseDetDataset):
    """So many images of one size and without objects, straight as columns."""

    METAINFO = {"classes": ("a",)}  # noqa: RUF012

    def __init__(self, count, **arguments):
        self.count = count
        super().__init__(**arguments)

    def read_table(self):
        sizes = np.tile(np.array([[480, 640], [640, 480]], np.int32), (self.count // 2, 1))
        return AnnotationTable(
            paths=Ragged(np.zeros(0, np.uint8), np.zeros(self.count + 1, np.int64)),
            ids=np.arange(self.count), sizes=sizes, first=np.zeros(self.count + 1, np.int64),
            boxes=np.zeros((0, 4), np.float32), labels=np.zeros(0, np.int32), ignored=np.zeros(0, bool),
        )


WIDE, HIGH = (10, 20), (20, 10)


@pytest.fixture
def two():
    """7 labelled samples, 0..6, of them 2, 5 high; 20 unlabelled ones, 7..26, every other one high."""
    labelled = Shapes(*[HIGH if k in (2, 5) else WIDE for k in range(7)])
    return ConcatDataset([labelled, Shapes(*[HIGH if k % 2 else WIDE for k in range(20)])])


def is_high(index):
    return index in (2, 5) if index < 7 else (index - 7) % 2 == 1


KINDS = (MultiSourceSampler, GroupMultiSourceSampler)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("batch_size", "ratio", "expected"), [
    (5, [1, 4], [1, 4]), (10, [1, 4], [2, 8]), (4, [1, 1], [2, 2]), (4, [0.5, 1.5], [1, 3]),
])
def test_every_batch_has_the_ratio_and_the_first_source_first(two, kind, batch_size, ratio, expected):
    sampler = kind(two, batch_size, ratio, seed=1)
    assert sampler.num_per_source == expected
    stream = iter(sampler)
    for _ in range(50):
        batch = list(itertools.islice(stream, batch_size))
        assert [index < 7 for index in batch] == [True] * expected[0] + [False] * expected[1]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_each_source_is_gone_through_pass_after_pass(two, ranks, world):
    made = ranks(world, lambda: MultiSourceSampler(two, 5, [1, 4], seed=3))
    streams = [list(itertools.islice(sampler, 5 * 7 * 4)) for sampler in made]
    for source, size in ((0, 7), (1, 20)):
        parts = [[index for index in stream if (index >= 7) == source] for stream in streams]
        together = [index for several in zip(*parts, strict=True) for index in several]
        passes = [together[k : k + size] for k in range(0, len(together) - size + 1, size)]
        assert len(passes) > 3
        assert all(sorted(one) == list(range(7 * source, 7 * source + size)) for one in passes)
        assert passes[0] != passes[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("world", [1, 2])
def test_it_goes_on_the_same_from_any_position(two, ranks, kind, world):
    for sampler in ranks(world, lambda: kind(two, 5, [1, 4], seed=9)):
        whole = list(itertools.islice(sampler, 150))
        for position in range(0, 120, 1 if world == 1 else 7):
            rest = list(itertools.islice(sampler.iterate_from(position), 30))
            assert rest == whole[position : position + 30]


def test_groups_go_on_the_same_beyond_the_first_block(two, monkeypatch):
    monkeypatch.setattr("detcore.data.samplers_sources.BLOCK", 8)
    sampler = GroupMultiSourceSampler(two, 5, [1, 4], seed=9)
    whole = list(itertools.islice(sampler, 300))
    for position in (0, 39, 40, 41, 80, 123, 250):
        assert list(itertools.islice(sampler.iterate_from(position), 50)) == whole[position : position + 50]


def test_a_position_far_ahead_is_found_at_once():
    data = ConcatDataset([Columns(1_000), Columns(10_000)])
    sampler = GroupMultiSourceSampler(data, 5, [1, 4], seed=0)
    begin = time.process_time()
    next(sampler.iterate_from(5 * 1_000_000))
    assert time.process_time() - begin < 2


def test_a_batch_is_all_high_or_all_wide_as_often_as_images_are(two):
    stream = iter(GroupMultiSourceSampler(two, 5, [1, 4], seed=2))
    batches = [list(itertools.islice(stream, 5)) for _ in range(4000)]
    kinds = [{is_high(index) for index in batch} for batch in batches]
    assert all(len(kind) == 1 for kind in kinds)
    assert sum(True in kind for kind in kinds) / 4000 == pytest.approx(12 / 27, abs=0.03)
    counts = Counter(index for batch in batches for index in batch)
    assert set(counts) == set(range(27))
    # Within a shape and a source all images come equally often, to within one pass.
    for members in ([2, 5], [0, 1, 3, 4, 6], range(7, 27, 2), range(8, 27, 2)):
        drawn = [counts[index] for index in members]
        assert max(drawn) - min(drawn) <= 1


def test_ranks_have_batches_of_the_same_shape_and_no_sample_in_common(two, ranks):
    one, other = (
        list(itertools.islice(sampler, 100))
        for sampler in ranks(2, lambda: GroupMultiSourceSampler(two, 4, [1, 3], seed=4))
    )
    assert [is_high(index) for index in one] == [is_high(index) for index in other]
    assert not set(one[:4]) & set(other[:4])


def test_the_seed_decides_the_order_and_sources_of_one_length_differ():
    data = ConcatDataset([Shapes(*[WIDE] * 9), Shapes(*[WIDE] * 9)])

    def drawn(seed):
        return list(itertools.islice(MultiSourceSampler(data, 2, [1, 1], seed=seed), 18))

    assert drawn(1) == drawn(1) != drawn(2)
    assert drawn(1)[::2] != [index - 9 for index in drawn(1)[1::2]]
    plain = MultiSourceSampler(data, 2, [1, 1], shuffle=False)
    assert list(itertools.islice(plain, 6)) == [0, 9, 1, 10, 2, 11]
    assert len(plain) == 18


@pytest.mark.parametrize(("batch_size", "ratio", "counts", "fitting", "smallest"), [
    (4, [1, 4], "0.8, 3.2", 5, 5), (6, [1, 4], "1.2, 4.8", 10, 5), (5, [9, 1], "4.5, 0.5", 10, 10),
    (1, [1, 4], "0.2, 0.8", 5, 5), (4, [0.5, 1], "1.33, 2.67", 6, 3), (7, [2, 4], "2.33, 4.67", 9, 3),
])
def test_a_ratio_that_makes_no_whole_numbers_is_refused_and_a_batch_size_named(
    two, batch_size, ratio, counts, fitting, smallest
):
    with pytest.raises(ValueError, match=f"does not fit batch_size={batch_size}: ") as caught:
        MultiSourceSampler(two, batch_size, ratio)
    assert f"the sources would have {counts} samples" in str(caught.value)
    assert f"batch_size={fitting} would fit" in str(caught.value)
    assert f"multiple of {smallest}" in str(caught.value)
    assert sum(MultiSourceSampler(two, fitting, ratio).num_per_source) == fitting


def test_shares_are_reckoned_as_they_are_written(two):
    assert 6 * 0.1 / (0.1 + 0.1) != 3  # in binary numbers
    assert MultiSourceSampler(two, 6, [0.1, 0.1]).num_per_source == [3, 3]


@pytest.mark.parametrize(("batch_size", "ratio", "message"), [
    (3, [1, 4, 2], "3 numbers for 2 sources"), (2, [1, 4, 0], "3 numbers"), (5, [1], "1 numbers"),
    (5, [0, 1], "positive number"), (5, [1, -1], "positive number"), (5, [1, "4"], "positive number"),
    (5, [1, float("nan")], "positive number"), (5, [1, True], "positive number"),
    (0, [1, 4], "batch_size"), (2.0, [1, 4], "batch_size"),
])
def test_a_ratio_that_makes_no_batch_is_refused(two, batch_size, ratio, message):
    with pytest.raises(ValueError, match=message):
        MultiSourceSampler(two, batch_size, ratio)


def test_sources_must_be_there_and_hold_something():
    with pytest.raises(DataError, match="needs a ConcatDataset; got Shapes"):
        MultiSourceSampler(Shapes(WIDE), 2, [1, 1])
    with pytest.raises(DataError, match=r"datasets\[1\] is empty; the sources have \[1, 0\]"):
        MultiSourceSampler(ConcatDataset([Shapes(WIDE), Shapes()]), 2, [1, 1])


def test_groups_need_sizes_and_both_shapes_in_every_source():
    with pytest.raises(DataError, match="height and width of every image"):
        GroupMultiSourceSampler(ConcatDataset([Shapes(WIDE), Shapes((0, 0))]), 2, [1, 1])
    with pytest.raises(DataError, match=r"\[0, 1\] images that are higher than wide"):
        GroupMultiSourceSampler(ConcatDataset([Shapes(WIDE), Shapes(WIDE, HIGH)]), 2, [1, 1])
    square = GroupMultiSourceSampler(ConcatDataset([Shapes((9, 9)), Shapes(WIDE)]), 2, [1, 1], seed=0)
    assert sorted(itertools.islice(square, 2)) == [0, 1]


def test_a_large_data_set_is_grouped_in_no_time():
    data = ConcatDataset([Columns(11_800), Columns(106_400)])
    begin = time.process_time()
    sampler = GroupMultiSourceSampler(data, 5, [1, 4], seed=0)
    next(iter(sampler))
    assert time.process_time() - begin < 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("taken", [1, 3, 8])
def test_a_loader_resumes_on_every_rank_where_it_was(tiny_cfg, ranks, kind, taken):
    cfg = {
        "batch_size": 3, "dataset": {"type": "ConcatDataset", "datasets": [tiny_cfg(indices=4), tiny_cfg()]},
        "sampler": {"type": kind.__name__, "batch_size": 3, "source_ratio": [1, 2]},
    }

    def ids(loader, count):
        return [
            [(sample.img_id, int(image.sum())) for image, sample in zip(*batch.values(), strict=True)]
            for batch in itertools.islice(loader, count)
        ]

    for whole, first, second in ranks(2, lambda: [build_dataloader(cfg, seed=seed) for seed in (5, 5, 77)]):
        expected = ids(whole, taken + 4)
        assert ids(first, taken) == expected[:taken]
        second.load_state_dict(first.state_dict())
        assert ids(second, 4) == expected[taken:]


def test_a_sampler_with_a_seed_of_its_own_keeps_it_when_resumed(tiny_cfg):
    cfg = {"batch_size": 1, "dataset": tiny_cfg(), "sampler": {"type": "InfiniteSampler", "seed": 3}}

    def ids(loader, count):
        return [batch["data_samples"][0].img_id for batch in itertools.islice(loader, count)]

    first, second = build_dataloader(cfg, seed=1), build_dataloader(cfg, seed=1)
    whole = ids(build_dataloader(cfg, seed=1), 9)
    assert ids(first, 4) == whole[:4]
    second.load_state_dict(first.state_dict())
    assert ids(second, 5) == whole[4:]


def test_no_seed_in_the_config_means_that_of_the_run(tiny_cfg):
    cfg = {"batch_size": 1, "dataset": tiny_cfg(), "sampler": {"type": "DefaultSampler", "seed": None}}
    assert build_dataloader(cfg, seed=8).sampler.seed == 8


def test_sampler_and_loader_must_cut_the_same_batches(tiny_cfg):
    cfg = {
        "batch_size": 4, "dataset": {"type": "ConcatDataset", "datasets": [tiny_cfg(), tiny_cfg()]},
        "sampler": {"type": "MultiSourceSampler", "batch_size": 2, "source_ratio": [1, 1]},
    }
    with pytest.raises(ConfigError, match=r"sampler.batch_size=2 differs from train_dataloader.batch_size=4"):
        build_dataloader(cfg, seed=0)
