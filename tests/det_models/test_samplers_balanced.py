"""Samplers that do not leave the choice to chance alone."""

import pytest
import torch
from det_models.assign import AssignResult
from det_models.samplers_balanced import (
    CombinedSampler,
    InstanceBalancedPosSampler,
    IoUBalancedNegSampler,
    OHEMSampler,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from detcore.errors import ConfigError
from detcore.registry import MODELS, TASK_UTILS
from detcore.structures import InstanceData

LIBRA = {  # as the configs of Libra R-CNN write it
    "type": "CombinedSampler", "num": 512, "pos_fraction": 0.25, "add_gt_as_proposals": True,
    "pos_sampler": {"type": "InstanceBalancedPosSampler"},
    "neg_sampler": {"type": "IoUBalancedNegSampler", "floor_thr": -1, "floor_fraction": 0, "num_bins": 3},
}  # fmt: skip


def assigned(matches, overlaps=None):
    matches = torch.as_tensor(matches)
    overlaps = torch.zeros(len(matches)) if overlaps is None else torch.as_tensor(overlaps)
    return AssignResult(3, matches, overlaps, torch.where(matches > 0, matches - 1, -1))


def sample(sampler, result, **kwargs):
    number = len(result.gt_inds)
    boxes = InstanceData(bboxes=torch.rand(3, 4), labels=torch.arange(3))
    return sampler.sample(result, InstanceData(priors=torch.rand(number, 4)), boxes, **kwargs)


rows = st.lists(
    st.tuples(st.sampled_from([-1, 0, 1, 2, 3]), st.floats(0, 0.5, width=32)), min_size=1, max_size=60
)
kinds = st.sampled_from(["instance", "iou", "floor", "overlapping", "one_bin"])


def balanced(kind, num, fraction):
    floors = {
        "iou": {}, "floor": {"floor_thr": 0.1, "floor_fraction": 0.5}, "one_bin": {"num_bins": 1},
        "overlapping": {"floor_thr": 0, "floor_fraction": 0.3},
    }  # fmt: skip
    if kind == "instance":
        return InstanceBalancedPosSampler(num, fraction, add_gt_as_proposals=False)
    neg = {"type": "IoUBalancedNegSampler", **floors[kind]}
    return TASK_UTILS.build(
        {**LIBRA, "num": num, "pos_fraction": fraction, "neg_sampler": neg, "add_gt_as_proposals": False}
    )


@settings(max_examples=200, deadline=None)
@given(kind=kinds, rows=rows, num=st.integers(1, 40), fraction=st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_numbers_are_those_of_chance_and_no_place_stands_twice(kind, rows, num, fraction):
    matches = [match for match, _ in rows]
    overlaps = torch.tensor([overlap for _, overlap in rows])
    result = sample(balanced(kind, num, fraction), assigned(matches, overlaps))
    pos = min(sum(m > 0 for m in matches), int(num * fraction))
    assert result.num_pos == pos
    assert result.num_neg == min(matches.count(0), num - pos)
    for places in (result.pos_inds.tolist(), result.neg_inds.tolist()):
        assert places == sorted(set(places))
    assert all(matches[place] > 0 for place in result.pos_inds)
    assert all(matches[place] == 0 for place in result.neg_inds)


def test_every_object_gets_as_many_positives_where_it_has_them():
    matches = [1] * 100 + [2] * 10 + [3] * 3
    sampler = InstanceBalancedPosSampler(num=18, pos_fraction=1.0, add_gt_as_proposals=False)
    torch.manual_seed(0)
    for _ in range(20):
        counts = sample(sampler, assigned(matches)).pos_assigned_gt_inds.bincount(minlength=3)
        # seven of each at most, the third has three: 17 of 18, one more by chance
        assert counts[2] == 3
        assert counts[0] + counts[1] == 15
        assert counts[0] >= 7
        assert counts[1] >= 7


def test_negatives_come_from_all_intervals_of_overlap():
    overlaps = torch.cat([torch.full((1000,), 0.05), torch.full((20,), 0.15), torch.full((20,), 0.3)])
    sampler = IoUBalancedNegSampler(num=30, pos_fraction=0.0, num_bins=3)
    torch.manual_seed(0)
    counts = torch.zeros(3)
    for _ in range(20):
        chosen = sampler._sample_neg(assigned([0] * 1040, overlaps), 30)
        assert len(chosen) == len(chosen.unique()) == 30
        found = overlaps[chosen]
        counts += torch.tensor([int((found == value).sum()) for value in (0.05, 0.15, 0.3)])
    assert counts.tolist() == [200, 200, 200]


@pytest.mark.parametrize(("threshold", "low"), [(0.1, 0.05), (0, 0.0)])
def test_a_share_comes_from_below_the_floor(threshold, low):
    overlaps = torch.cat([torch.full((50,), low), torch.linspace(0.15, 0.45, 50)])
    sampler = IoUBalancedNegSampler(num=20, pos_fraction=0, floor_thr=threshold, floor_fraction=0.25)
    for _ in range(10):
        found = overlaps[sampler._sample_neg(assigned([0] * 100, overlaps), 20)]
        assert int((found == low).sum()) == 5


def test_few_negatives_above_the_floor_are_filled_from_below():
    overlaps = torch.cat([torch.full((50,), 0.01), torch.full((3,), 0.3)])
    sampler = IoUBalancedNegSampler(num=20, pos_fraction=0, floor_thr=0.1, floor_fraction=0.0)
    found = overlaps[sampler._sample_neg(assigned([0] * 53, overlaps), 20)]
    assert len(found) == 20
    assert int((found > 0.2).sum()) == 3


def test_a_combined_sampler_is_built_as_libra_rcnns_configs_write_it(
    parts, filled, region_images, region_samples
):
    sampler = TASK_UTILS.build(LIBRA)
    assert isinstance(sampler, CombinedSampler)
    assert isinstance(sampler.pos_sampler, InstanceBalancedPosSampler)
    assert isinstance(sampler.neg_sampler, IoUBalancedNegSampler)
    assert (sampler.pos_sampler.num, sampler.neg_sampler.pos_fraction) == (512, 0.25)
    cfg = parts.faster_rcnn()
    cfg["train_cfg"]["rcnn"] = {**parts.rcnn_train(), "sampler": LIBRA}
    losses = filled(cfg)(region_images, region_samples, mode="loss")
    sum(losses[name] for name in ("loss_cls", "loss_bbox")).backward()
    with pytest.raises(ConfigError, match=r"neg_sampler\.num_bin.*num_bins"):
        TASK_UTILS.build({**LIBRA, "neg_sampler": {**LIBRA["neg_sampler"], "num_bin": 3}})


def test_the_hardest_are_taken():
    losses = torch.tensor([0.1, 5.0, 0.2, 3.0, 4.0, 0.3, 9.0])
    matches = torch.tensor([1, 2, 1, 0, 0, 0, -1])
    sampler = OHEMSampler(num=4, pos_fraction=0.5, add_gt_as_proposals=False)
    asked = []

    def hardness(boxes, labels):
        asked.append(labels.tolist())
        return losses[matches > 0] if 0 in labels else losses[matches == 0]

    result = sample(sampler, assigned(matches), hardness=hardness)
    assert result.pos_inds.tolist() == [1, 2]
    assert result.neg_inds.tolist() == [3, 4]
    assert asked == [[0, 1, 0], [-1, -1, -1]]


@pytest.mark.parametrize("name", ["faster_rcnn", "cascade_mask_rcnn"])
def test_the_second_stage_learns_from_the_regions_with_the_greatest_losses(
    name, parts, filled, region_images, region_samples
):
    """A few hard ones lose at least as much as all of them on average, and as any random few."""
    cfg = parts.VARIANTS[name]()
    every = filled(cfg)(region_images, region_samples, mode="loss")
    stages = cfg["train_cfg"]["rcnn"]
    for stage in stages if isinstance(stages, list) else [stages]:
        stage["sampler"] = {"type": "OHEMSampler", "num": 8, "pos_fraction": 0.25}
    hard = filled(cfg)(region_images, region_samples, mode="loss")
    first = "s0.loss_cls" if name == "cascade_mask_rcnn" else "loss_cls"
    assert hard[first] > every[first]
    hard[first].backward()


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("IoUBalancedNegSampler", {"floor_fraction": 2}, "floor_fraction must be between 0 and 1, got 2"),
        ("IoUBalancedNegSampler", {"num_bins": 0}, "num_bins must be at least 1, got 0"),
        ("InstanceBalancedPosSampler", {"num": 0}, "num must be at least 1, got 0"),
        ("OHEMSampler", {"pos_fraction": -1}, "pos_fraction must be between 0 and 1, got -1"),
    ],
)
def test_arguments_out_of_range_are_refused(kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        TASK_UTILS.build({"type": kind, "num": 4, "pos_fraction": 0.5, **arguments})


def test_samplers_that_need_more_say_what():
    with pytest.raises(TypeError, match="needs hardness"):
        sample(OHEMSampler(num=2, pos_fraction=0.5), assigned([0, 0, 0, 0]))
    with pytest.raises(TypeError, match="samples negatives only; use it in a CombinedSampler"):
        sample(IoUBalancedNegSampler(num=2, pos_fraction=0.5), assigned([0, 0, 0, 0]))


@pytest.mark.parametrize("sampler", [LIBRA, {"type": "OHEMSampler", "num": 8, "pos_fraction": 0.25}])
def test_a_dense_head_says_which_sampler_it_needs(sampler, parts, filled, region_images, region_samples):
    cfg = parts.rpn()
    cfg["train_cfg"]["rpn"]["sampler"] = sampler
    with pytest.raises(ConfigError, match="samples proposals; a dense head needs a RandomSampler"):
        MODELS.build(cfg)(region_images, region_samples, mode="loss")
