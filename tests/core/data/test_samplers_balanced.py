import time
from collections import Counter

import numpy as np
import pytest

from detcore.data import BaseDetDataset, ClassBalancedDataset, ConcatDataset, RepeatDataset
from detcore.data.columns import images_of_classes
from detcore.data.samplers_balanced import ClassAwareSampler, CustomSampleSizeSampler, MultiDataSampler
from detcore.data.table import AnnotationTable, Ragged
from detcore.errors import DataError


class Made(BaseDetDataset):
    """Images with the labels that the test gives."""

    METAINFO = {"classes": ("a", "b", "c")}  # noqa: RUF012

    def __init__(self, *labels, **arguments):
        self.labels = labels
        super().__init__(**arguments)

    def load_data_list(self):
        return [
            {"img_path": "x", "instances": [{"bbox": [0, 0, 5, 5], "bbox_label": label} for label in found]}
            for found in self.labels
        ]


class Labelled:
    """A data set of which only the labels of each image are known."""

    def __init__(self, *labels, classes=("a", "b", "c")):
        self.labels, self.metainfo = labels, {"classes": classes}

    def __len__(self):
        return len(self.labels)

    def full_init(self):
        pass

    def get_cat_ids(self, idx):
        return self.labels[idx]


# 40 images of class 0, among them the 6 of class 1; one of class 2; three with nothing.
SKEWED = Labelled(*[[0, 1] if k < 6 else [0, 0] for k in range(40)], [2], [], [], [])


def epoch(sampler, number=0):
    sampler.set_epoch(number)
    return list(sampler)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_share_out_an_epoch_of_the_whole_length(ranks, world):
    data = ConcatDataset([Labelled(*[[0]] * 9), Labelled(*[[1]] * 5)])
    for make in (
        lambda: ClassAwareSampler(data, seed=1),
        lambda: CustomSampleSizeSampler(data, [4, -1], seed=1),
        lambda: MultiDataSampler(data, [1, 3], seed=1),
    ):
        whole = list(make())
        parts = [list(sampler) for sampler in ranks(world, make)]
        assert {len(part) for part in parts} == {-(-len(whole) // world)}
        together = [index for several in zip(*parts, strict=True) for index in several]
        assert together[: len(whole)] == whole
        assert [len(sampler) for sampler in ranks(world, make)] == [len(part) for part in parts]


@pytest.mark.parametrize("make", [
    lambda seed: ClassAwareSampler(SKEWED, seed=seed, num_sample_class=2),
    lambda seed: CustomSampleSizeSampler(ConcatDataset([SKEWED, SKEWED]), [7, 20], seed=seed),
    lambda seed: MultiDataSampler(ConcatDataset([SKEWED, SKEWED]), [1, 2], seed=seed),
])
def test_an_epochs_order_follows_from_seed_and_epoch_alone(make):
    sampler = make(1)
    first, second = epoch(sampler, 0), epoch(sampler, 5)
    assert first != second
    assert epoch(make(1), 5) == second == epoch(sampler, 5)
    assert epoch(make(2), 0) != first


def test_every_class_comes_equally_often_and_with_all_its_images():
    sampler = ClassAwareSampler(SKEWED, seed=0)
    drawn = [index for number in range(60) for index in epoch(sampler, number)]
    assert len(drawn) == 60 * 44
    share = Counter("two" if index == 40 else "other" for index in drawn)["two"] / len(drawn)
    assert share == pytest.approx(1 / 3, abs=0.01)
    counts = Counter(drawn)
    assert set(counts) == set(range(41))  # all but those without objects
    # Class 1 has its third on 6 images, class 0 its third on 40.
    for index in range(6):
        assert counts[index] / len(drawn) == pytest.approx(1 / 18 + 1 / 120, abs=0.01)
    for index in range(6, 40):
        assert counts[index] / len(drawn) == pytest.approx(1 / 120, abs=0.005)


def test_within_an_epoch_classes_take_turns():
    data = Labelled([0], [0], [1], [1], [1], [2], [2], [2])
    one = epoch(ClassAwareSampler(data, seed=3))
    labels = [data.labels[index][0] for index in one]
    assert [sorted(labels[k : k + 3]) for k in (0, 3)] == [[0, 1, 2]] * 2
    pairs = epoch(ClassAwareSampler(data, seed=3, num_sample_class=2))
    labels = [data.labels[index][0] for index in pairs]
    assert labels[0::2] == labels[1::2]
    assert pairs[0] != pairs[1]  # a class's images are used up before one comes again


def test_classes_without_images_are_named(caplog):
    sampler = ClassAwareSampler(Labelled([0], [2], classes=("cat", "dog", "owl", "elk")), seed=0)
    assert "2 of 4 classes are on no image and never come: dog, elk" in caplog.text
    assert set(sampler) == {0, 1}
    assert sampler.get_cat2imgs() == {0: [0], 1: [], 2: [1], 3: []}


@pytest.mark.parametrize(("data", "message"), [
    (Labelled([], []), "no image of the data set has an object"),
    (Labelled([0], [3]), "sample 1 has the label 3, but the data set has 3 classes"),
    (Labelled([0], classes=()), "has no `classes`"),
])
def test_data_without_usable_classes_is_refused(data, message):
    with pytest.raises(DataError, match=message):
        ClassAwareSampler(data)


@pytest.mark.parametrize("number", [0, -1, 1.5, True, "2"])
def test_the_images_of_a_turn_are_a_positive_number(number):
    with pytest.raises(ValueError, match="num_sample_class must be a positive whole number"):
        ClassAwareSampler(SKEWED, num_sample_class=number)


def test_labels_are_read_through_every_wrapper():
    data = Made([0], [1, 1], [2, 0])
    wrapped = ConcatDataset([RepeatDataset(data, 2), ClassBalancedDataset(Made([0], [0], [1]), 0.9)])
    found = images_of_classes(wrapped)
    one_by_one = {
        label: [index for index in range(len(wrapped)) if label in wrapped.get_cat_ids(index)]
        for label in range(3)
    }
    assert {label: images.tolist() for label, images in found.items()} == one_by_one


def test_an_overridden_get_cat_ids_is_asked():
    class Merged(Made):
        def get_cat_ids(self, idx):
            return [min(label, 1) for label in super().get_cat_ids(idx)]

    found = images_of_classes(Merged([0], [1], [2]))
    assert {label: images.tolist() for label, images in found.items()} == {0: [0], 1: [1, 2]}
    with pytest.raises(DataError, match="list has no method get_cat_ids"):
        images_of_classes([1, 2])


def test_the_classes_of_a_large_data_set_are_found_in_no_time():
    class Coco(Made):
        """As many images and objects as COCO's train2017."""

        def read_table(self):
            rng = np.random.default_rng(0)
            first = np.linspace(0, 860_001, 118_288).astype(np.int64)
            return AnnotationTable(
                paths=Ragged(np.zeros(0, np.uint8), np.zeros(len(first), np.int64)),
                ids=np.arange(len(first) - 1), sizes=np.full((len(first) - 1, 2), 480, np.int32), first=first,
                boxes=np.ones((860_001, 4), np.float32), labels=rng.integers(0, 80, 860_001, np.int32),
                ignored=np.zeros(860_001, bool),
            )

    data = Coco(metainfo={"classes": tuple(map(str, range(80)))})
    begin = time.process_time()
    next(iter(ClassAwareSampler(data, seed=0)))
    assert time.process_time() - begin < 1


def test_an_epoch_has_the_asked_sizes_and_goes_on_where_the_last_one_stopped():
    data = ConcatDataset([Labelled(*[[0]] * 10), Labelled(*[[0]] * 4)])
    sampler = CustomSampleSizeSampler(data, [5, -1], seed=0)
    first, second = epoch(sampler, 0), epoch(sampler, 1)
    for drawn in (first, second):
        assert sorted(index for index in drawn if index >= 10) == [10, 11, 12, 13]
    of_large = [sorted(index for index in drawn if index < 10) for drawn in (first, second)]
    assert sorted(of_large[0] + of_large[1]) == list(range(10))
    halves = CustomSampleSizeSampler(data, [0.3, 1.0], ratio_mode=True)
    assert halves.dataset_size == [3, 4]
    assert len(halves) == 7


@pytest.mark.parametrize(("sizes", "ratio_mode", "message"), [
    ([5], False, "1 numbers for 2 data sets"), ([11, 1], False, r"dataset_size\[0\]=11: expected -1 or"),
    ([1, 0], False, r"dataset_size\[1\]=0"), ([1, -2], False, "-2"), ([1.5, 1], False, "1.5"),
    ([1.5, 1.0], True, r"a part of the data set in \(0, 1\]"), ([0.01, 1.0], True, "at least one of its 10"),
])
def test_sizes_that_a_data_set_cannot_give_are_refused(sizes, ratio_mode, message):
    data = ConcatDataset([Labelled(*[[0]] * 10), Labelled(*[[0]] * 4)])
    with pytest.raises(ValueError, match=message):
        CustomSampleSizeSampler(data, sizes, ratio_mode)


def test_data_sets_are_drawn_by_their_ratio_and_their_samples_evenly():
    sampler = MultiDataSampler(ConcatDataset([Labelled(*[[0]] * 10), Labelled(*[[0]] * 4)]), [1, 3], seed=0)
    counts = Counter(index for number in range(1000) for index in epoch(sampler, number))
    total = sum(counts.values())
    assert sum(counts[index] for index in range(10, 14)) / total == pytest.approx(0.75, abs=0.02)
    for index in range(14):
        assert counts[index] / total == pytest.approx(0.025 if index < 10 else 0.1875, abs=0.01)


@pytest.mark.parametrize("ratio", [[1], [0, 0], [1, -1], [1, float("inf")]])
def test_a_ratio_that_draws_nothing_is_refused(ratio):
    with pytest.raises(ValueError, match="dataset_ratio"):
        MultiDataSampler(ConcatDataset([SKEWED, SKEWED]), ratio)
