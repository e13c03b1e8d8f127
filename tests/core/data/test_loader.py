import itertools
import random

import numpy as np
import pytest
import torch

from detcore.data import DefaultSampler, build_dataloader, collate_lists
from detcore.errors import ConfigError, DataError


def fingerprint(batch):
    return [
        (sample.img_id, tuple(img.shape), int(img.long().sum()), sample.gt_instances.bboxes.tolist())
        for img, sample in zip(batch["inputs"], batch["data_samples"], strict=True)
    ]


@pytest.fixture
def make(tiny_cfg):
    loaders = []

    def build(seed=5, **changes):
        cfg = {
            "batch_size": 2, "num_workers": 0, "persistent_workers": False, "dataset": tiny_cfg(),
            "sampler": {"type": "DefaultSampler", "shuffle": True},
        }
        loaders.append(build_dataloader({**cfg, **changes}, seed=seed))
        return loaders[-1]

    yield build
    for loader in loaders:
        loader.close()


def epochs(loader, count=2):
    result = []
    for epoch in range(count):
        loader.set_epoch(epoch)
        result.append([fingerprint(batch) for batch in loader])
    return result


def test_batches_are_lists_of_uint8_images_and_samples(make):
    batch = next(iter(make()))
    assert set(batch) == {"inputs", "data_samples"}
    assert batch["inputs"][0].dtype == torch.uint8
    assert batch["inputs"][0].shape[1:] == batch["data_samples"][0].img_shape


def test_the_number_of_workers_does_not_change_any_batch(make):
    alone = epochs(make())
    assert alone == epochs(make(num_workers=1))
    assert alone == epochs(make(num_workers=2, persistent_workers=True))
    assert alone[0] != alone[1]


def test_images_from_workers_are_contiguous(make):
    for batch in make(num_workers=1):
        assert all(image.is_contiguous() for image in batch["inputs"])


def test_another_seed_changes_order_and_augmentation(make):
    assert epochs(make(), 1) != epochs(make(seed=6), 1)


def test_the_generators_of_the_process_are_not_touched(make):
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    list(make())
    list(make(num_workers=1))
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_sampler", [None, {"type": "AspectRatioBatchSampler"}])
def test_it_resumes_behind_the_last_delivered_batch(make, workers, batch_sampler):
    changes = {"num_workers": workers, "batch_sampler": batch_sampler}
    whole = epochs(make(**changes))
    first = make(**changes)
    first.set_epoch(1)
    iterator = iter(first)
    taken = [fingerprint(next(iterator)) for _ in range(2)]
    state = first.state_dict()
    assert state["batches"] == 2
    second = make(**changes, seed=77)  # the seed is part of the state
    second.load_state_dict(state)
    second.set_epoch(1)
    assert taken + [fingerprint(batch) for batch in second] == whole[1]
    second.set_epoch(0)
    assert [fingerprint(batch) for batch in second] == whole[0]


def test_an_endless_sampler_resumes_in_a_later_pass(make):
    sampler = {"type": "InfiniteSampler", "shuffle": True}
    whole = [fingerprint(batch) for batch in itertools.islice(make(sampler=sampler), 9)]
    first = make(sampler=sampler)
    list(itertools.islice(first, 6))
    second = make(sampler=sampler)
    second.load_state_dict(first.state_dict())
    assert [fingerprint(batch) for batch in itertools.islice(second, 3)] == whole[6:]


def test_a_finished_epoch_resumes_at_its_end_and_the_next_at_its_start(make):
    first = make()
    whole = epochs(first)
    first.set_epoch(0)
    list(first)
    second = make()
    second.load_state_dict(first.state_dict())
    assert list(second) == []
    second.load_state_dict(first.state_dict())
    second.set_epoch(1)
    assert [fingerprint(batch) for batch in second] == whole[1]


def test_two_ranks_together_draw_what_one_draws_with_twice_the_batch(make, monkeypatch):
    alone = [sample for batch in epochs(make(batch_size=4), 1)[0] for sample in batch]
    ranks = []
    for rank in range(2):
        monkeypatch.setattr("detcore.data.samplers.rank_and_world", lambda rank=rank: (rank, 2))
        monkeypatch.setattr("detcore.data.loader.rank_and_world", lambda rank=rank: (rank, 2))
        ranks.append([sample for batch in epochs(make(batch_size=2), 1)[0] for sample in batch])
    together = [sample for pair in zip(*ranks, strict=True) for sample in pair]
    assert together[: len(alone)] == alone


def test_a_resume_with_another_batch_size_keeps_the_place_in_the_data(make):
    whole = [sample for batch in epochs(make(), 1)[0] for sample in batch]
    first = make()
    list(itertools.islice(first, 2))
    second = make(batch_size=4)
    second.load_state_dict(first.state_dict())
    assert [sample for batch in second for sample in fingerprint(batch)] == whole[4:]


def test_drop_last_and_batches_per_epoch_shorten_the_epoch(make):
    assert len(make()) == len(list(make())) == 4
    assert len(make(drop_last=True)) == len(list(make(drop_last=True))) == 3
    assert len(make(num_batch_per_epoch=2)) == len(list(make(num_batch_per_epoch=2))) == 2


def test_built_parts_are_taken_as_they_are(make):
    loader = make()
    again = make(dataset=loader.dataset, sampler=DefaultSampler(loader.dataset, shuffle=False))
    assert [sample[0] for batch in epochs(again, 1)[0] for sample in batch] == list(range(7))
    assert build_dataloader(again, seed=0) is again


@pytest.mark.parametrize(("changes", "message"), [
    ({"batchsize": 2}, r"train_dataloader.batchsize.*batch_size"),
    ({"num_workers": -1}, "num_workers"),
    ({"batch_size": 0}, "batch_size"),
    ({"collate_fn": {"type": "mystery"}}, "mystery"),
    ({"multiprocessing_context": "thread"}, "spawn"),
])
def test_a_wrong_key_or_value_names_its_config_path(make, changes, message):
    with pytest.raises(ConfigError, match=message):
        make(**changes)


def test_samples_with_branches_are_gathered_branch_by_branch_and_mix_with_no_others():
    one, other = {"inputs": {"sup": 1}}, {"inputs": {"weak": 2, "strong": {"left": 3}}}
    expected = {"sup": [1, None], "weak": [None, 2], "strong": {"left": [None, 3]}}
    assert collate_lists([one, other]) == {"inputs": expected}
    for samples in ([one, {"inputs": 4}], [{"inputs": 4}, one]):
        with pytest.raises(DataError, match=r"'inputs' of one sample has the branches sup, .* a int:"):
            collate_lists(samples)
    with pytest.raises(DataError, match=r"'inputs.strong' of one sample has the branches left"):
        collate_lists([other, {"inputs": {"strong": 5}}])


def test_a_sampler_that_refuses_its_settings_is_named_by_its_place(make):
    with pytest.raises(ConfigError, match=r"^train_dataloader.sampler: .*num_sample_class") as caught:
        make(sampler={"type": "ClassAwareSampler", "num_sample_class": 0})
    assert isinstance(caught.value.__cause__, ValueError)
