"""Random samplers: how many of which priors they take, of one image and of a batch."""

import pytest
import torch
from det_models.assign import AssignResult
from det_models.samplers import BaseSampler, PseudoSampler, RandomSampler, random_choice
from hypothesis import given, settings
from hypothesis import strategies as st

from detcore.errors import ConfigError
from detcore.registry import TASK_UTILS
from detcore.structures import InstanceData

matches_of_an_image = st.lists(st.sampled_from([-1, 0, 0, 1, 2]), min_size=1, max_size=40)
samplers = st.builds(
    RandomSampler,
    num=st.integers(1, 30),
    pos_fraction=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    neg_pos_ub=st.sampled_from([-1, 0, 1, 3, 2.5]),
    add_gt_as_proposals=st.just(False),
)


def assigned(matches):
    matches = torch.as_tensor(matches)
    labels = torch.where(matches > 0, matches - 1, -1)
    return AssignResult(num_gts=2, gt_inds=matches, max_overlaps=torch.zeros(len(matches)), labels=labels)


def priors(number):
    return InstanceData(priors=torch.arange(4.0 * number).view(number, 4))


def objects(number=2):
    corner = torch.arange(2.0 * number).view(number, 2)
    return InstanceData(bboxes=torch.cat([corner, corner + 5], 1), labels=torch.arange(number))


def limits(sampler, num_pos, num_neg):
    """How many are to be taken, from the definition."""
    pos = min(num_pos, int(sampler.num * sampler.pos_fraction))
    neg = min(num_neg, sampler.num - pos)
    return pos, neg if sampler.neg_pos_ub < 0 else min(neg, int(sampler.neg_pos_ub * max(1, pos)))


@settings(max_examples=200, deadline=None)
@given(sampler=samplers, matches=matches_of_an_image)
def test_an_image_gets_its_share_of_positives_and_no_place_twice(sampler, matches):
    result = sampler.sample(assigned(matches), priors(len(matches)), objects())
    want = limits(sampler, sum(m > 0 for m in matches), matches.count(0))
    assert (result.num_pos, result.num_neg) == want
    for places, right in (
        (result.pos_inds.tolist(), lambda m: m > 0),
        (result.neg_inds.tolist(), lambda m: m == 0),
    ):
        assert places == sorted(set(places))
        assert all(right(matches[place]) for place in places)
    assert [matches[place] - 1 for place in result.pos_inds] == result.pos_assigned_gt_inds.tolist()
    assert torch.equal(
        result.priors, priors(len(matches)).priors[torch.cat([result.pos_inds, result.neg_inds])]
    )
    assert torch.equal(result.pos_gt_bboxes, objects().bboxes[result.pos_assigned_gt_inds])
    assert torch.equal(result.pos_gt_labels, result.pos_assigned_gt_inds)
    assert result.avg_factor == max(1, want[0]) + max(1, want[1])


@settings(max_examples=200, deadline=None)
@given(sampler=samplers, batch=st.lists(matches_of_an_image, min_size=1, max_size=4))
def test_a_batch_gets_what_its_images_would_get(sampler, batch):
    length = max(map(len, batch))
    matches = torch.tensor([row + [-1] * (length - len(row)) for row in batch])
    chosen = sampler.select(matches)
    for row, before, after in zip(batch, matches, chosen, strict=True):
        assert ((after == before) | (after == -1)).all()
        want = limits(sampler, sum(m > 0 for m in row), row.count(0))
        assert (int((after > 0).sum()), int((after == 0).sum())) == want
    counts = [max(1, int((row > 0).sum())) + max(1, int((row == 0).sum())) for row in chosen]
    assert int(sampler.avg_factor(chosen)) == sum(counts)


@pytest.mark.parametrize("of_a_batch", [True, False])
def test_every_candidate_is_equally_likely(of_a_batch):
    sampler = RandomSampler(num=4, pos_fraction=0.5, add_gt_as_proposals=False)
    matches = torch.tensor([1, 0, 2, 0, -1, 1, 0, 0, 1, 0])
    torch.manual_seed(0)
    runs, counts = 4000, torch.zeros(10)
    if of_a_batch:
        counts = (sampler.select(matches.expand(runs, -1)) >= 0).sum(0)
    else:
        for _ in range(runs):
            result = sampler.sample(assigned(matches), priors(10), objects())
            counts[torch.cat([result.pos_inds, result.neg_inds])] += 1
    for places, share in ((matches > 0, 2 / 4), (matches == 0, 2 / 5)):
        # five standard deviations of a binomial share are 0.04
        torch.testing.assert_close(
            counts[places] / runs, torch.full((int(places.sum()),), share), atol=0.04, rtol=0
        )
    assert counts[matches < 0].sum() == 0


def test_ground_truth_joins_the_proposals_in_front():
    sampler = RandomSampler(num=6, pos_fraction=0.5)
    torch.manual_seed(0)
    for _ in range(20):
        result = sampler.sample(assigned([0, 1, -1, 0]), priors(4), objects())
        assert result.num_pos == 3
        assert result.neg_inds.tolist() == [2, 5]
        assert result.pos_is_gt.tolist() == [True, True, False]
        assert result.pos_assigned_gt_inds.tolist() == [0, 1, 0]
        assert torch.equal(result.pos_priors[:2], objects().bboxes)


def test_an_image_without_objects_has_negatives_only():
    sampler = RandomSampler(num=3, pos_fraction=0.5)
    empty = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    result = sampler.sample(assigned([0, 0, 0, 0]), priors(4), empty)
    assert (result.num_pos, result.num_neg) == (0, 3)
    assert result.pos_gt_bboxes.shape == (0, 4)
    nothing = AssignResult(
        0, torch.zeros(0, dtype=torch.long), torch.zeros(0), torch.zeros(0, dtype=torch.long)
    )
    result = sampler.sample(nothing, InstanceData(priors=torch.zeros(0, 4)), empty)
    assert (result.num_pos, result.num_neg, result.avg_factor) == (0, 0, 2)
    assert result.priors.shape == (0, 4)


def test_one_seed_gives_one_choice():
    sampler, found = RandomSampler(num=4, pos_fraction=0.5), []
    for _ in range(2):
        torch.manual_seed(3)
        found.append(sampler.select(torch.zeros(2, 50, dtype=torch.long)))
    assert torch.equal(*found)


def test_a_pseudo_sampler_keeps_all():
    matches = torch.tensor([[1, 0, -1, 2]])
    sampler = PseudoSampler()
    assert torch.equal(sampler.select(matches), matches)
    assert int(sampler.avg_factor(matches)) == 2
    result = sampler.sample(assigned(matches[0]), priors(4), objects())
    assert (result.pos_inds.tolist(), result.neg_inds.tolist(), result.avg_factor) == ([0, 3], [1], 2)


def test_a_choice_of_few_places_is_all_of_them():
    assert random_choice(torch.tensor([3, 5]), 2).tolist() == [3, 5]
    assert random_choice(torch.tensor([3, 5]), 0).tolist() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num": 0, "pos_fraction": 0.5}, "num must be at least 1, got 0"),
        ({"num": 4, "pos_fraction": 1.5}, "pos_fraction must be between 0 and 1, got 1.5"),
        ({"num": 4, "pos_fraction": 0.5, "neg_pos_up": 3}, "neg_pos_up.*neg_pos_ub"),
    ],
)
def test_arguments_that_leave_nothing_to_sample_are_refused(arguments, message):
    with pytest.raises((ValueError, ConfigError), match=message):
        TASK_UTILS.build({"type": "RandomSampler", **arguments})


def test_a_users_choice_of_single_images_is_refused_where_batches_are_sampled():
    class Greedy(RandomSampler):
        def _sample_pos(self, assign_result, num_expected, **kwargs):
            return torch.nonzero(assign_result.gt_inds > 0).flatten()[:num_expected]

    sampler = Greedy(num=4, pos_fraction=0.5, add_gt_as_proposals=False)
    result = sampler.sample(assigned([0, 1, 2, 1]), priors(4), objects())
    assert result.pos_inds.tolist() == [1, 2]
    with pytest.raises(ConfigError, match=r"Greedy redefines _sample_pos, .* redefine select"):
        sampler.select(torch.tensor([[0, 1, 2, 1]]))


def test_a_users_sampler_defines_one_method():
    class Every(BaseSampler):
        def select(self, matches):
            return matches.masked_fill(matches > 1, -1)

    result = Every().sample(assigned([2, 1, 0]), priors(3), objects())
    assert (result.pos_inds.tolist(), result.neg_inds.tolist()) == ([1], [2])
