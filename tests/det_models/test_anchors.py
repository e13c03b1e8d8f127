import copy
import pickle

import pytest
import torch
from det_models.anchors import AnchorGenerator


@pytest.fixture
def paper():
    return AnchorGenerator(
        strides=[8, 16, 32, 64, 128], ratios=[0.5, 1.0, 2.0], octave_base_scale=4, scales_per_octave=3
    )


def test_the_papers_anchors(paper):
    assert paper.num_base_priors == [9] * 5
    base = paper.base_anchors[0]
    sides = base[:, 2:] - base[:, :2]
    torch.testing.assert_close(sides[3:6, 0], torch.tensor([32.0, 32 * 2 ** (1 / 3), 32 * 2 ** (2 / 3)]))
    torch.testing.assert_close(sides[:, 1] / sides[:, 0], torch.tensor([0.5] * 3 + [1.0] * 3 + [2.0] * 3))
    torch.testing.assert_close(base[:, :2], -base[:, 2:])


def test_anchors_run_by_row_column_and_kind():
    generator = AnchorGenerator(strides=[10], ratios=[1.0], scales=[1.0, 2.0])
    (priors,) = generator.grid_priors([(2, 3)])
    assert priors.shape == (12, 4)
    assert priors[0].tolist() == [-5, -5, 5, 5]
    assert priors[1].tolist() == [-10, -10, 10, 10]
    assert priors[2].tolist() == [5, -5, 15, 5]
    assert priors[6].tolist() == [-5, 5, 5, 15]


def test_strides_may_differ_by_direction():
    (priors,) = AnchorGenerator(strides=[(4, 10)], ratios=[1.0], scales=[1.0]).grid_priors([(2, 2)])
    assert priors[3].tolist() == [2, 8, 6, 12]


@pytest.mark.parametrize(
    ("arguments", "want"),
    [
        ({"center_offset": 0.5}, [0, 0, 8, 8]),
        ({"centers": [(1.0, 2.0)]}, [-3, -2, 5, 6]),
        ({"base_sizes": [16]}, [-8, -8, 8, 8]),
    ],
)
def test_centres_and_base_sizes_move_the_first_anchor(arguments, want):
    generator = AnchorGenerator(strides=[8], ratios=[1.0], scales=[1.0], **arguments)
    assert generator.grid_priors([(1, 1)])[0].tolist() == [want]


def test_scales_or_ratios_may_run_fastest():
    arguments = {"strides": [8], "ratios": [1.0, 4.0], "scales": [1.0, 2.0]}
    by_scale = AnchorGenerator(**arguments).base_anchors[0]
    by_ratio = AnchorGenerator(**arguments, scale_major=False).base_anchors[0]
    torch.testing.assert_close(by_scale[[0, 2, 1, 3]], by_ratio)


def test_priors_are_made_once_for_each_size_and_dtype(paper):
    sizes = [(4, 5), (2, 3), (1, 2), (1, 1), (1, 1)]
    first = paper.grid_priors(sizes)
    assert paper.grid_priors(sizes)[0] is first[0]
    assert paper.grid_priors(sizes, dtype=torch.float64)[0].dtype == torch.float64
    assert paper.grid_priors([(5, 4), *sizes[1:]])[0] is not first[0]
    for height in range(100):
        paper.grid_priors([(height + 1, 1)] * 5)
    assert len(paper._grids) <= 64


def test_priors_made_in_inference_serve_training(paper):
    sizes = [(1, 1)] * 5
    with torch.inference_mode():
        paper.grid_priors(sizes)
    weight = torch.ones(9, 4, requires_grad=True)
    (weight * paper.grid_priors(sizes)[0]).sum().backward()
    assert weight.grad.abs().sum() > 0


def test_single_priors_are_those_of_the_grid(paper):
    (priors, *_) = paper.grid_priors([(4, 5), (1, 1), (1, 1), (1, 1), (1, 1)])
    places = torch.tensor([0, 17, 100, 179])
    torch.testing.assert_close(paper.sparse_priors(places, (4, 5), 0), priors[places])


def test_flags_tell_anchors_on_padding(paper):
    sizes = [(4, 6), (2, 3), (1, 2), (1, 1), (1, 1)]
    flags = paper.valid_flags(sizes, (17, 40))
    finest = flags[0].view(4, 6, 9)
    assert finest[:3, :5].all()
    assert not finest[3].any()
    assert not finest[:, 5].any()
    assert [len(each) for each in flags] == [h * w * 9 for h, w in sizes]
    assert all(each.all() for each in paper.valid_flags(sizes, (32, 48)))


def test_flags_of_a_batch_are_those_of_its_images(paper):
    sizes = [(4, 6), (2, 3), (1, 2), (1, 1), (1, 1)]
    batch = paper.batch_valid_flags(sizes, [(17, 40), (32, 48)], torch.zeros(1))
    for row, shape in zip(batch, [(17, 40), (32, 48)], strict=True):
        assert row.tolist() == torch.cat(paper.valid_flags(sizes, shape)).tolist()
    assert paper.batch_valid_flags(sizes, [(32, 48)] * 2, torch.zeros(1)) is None


def test_generators_are_copied_and_pickled(paper):
    paper.grid_priors([(1, 1)] * 5)
    for twin in (copy.deepcopy(paper), pickle.loads(pickle.dumps(paper))):
        torch.testing.assert_close(twin.grid_priors([(2, 1)] * 5)[0], paper.grid_priors([(2, 1)] * 5)[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either scales, or octave_base_scale"),
        ({"scales": [1.0], "octave_base_scale": 4}, "either scales"),
        ({"scales": [1.0], "octave_base_scale": 4, "scales_per_octave": 3}, "either scales"),
        ({"octave_base_scale": 4}, "together"),
        ({"scales": [1.0], "base_sizes": [1, 2]}, "2 base sizes for 1 strides"),
        ({"scales": [1.0], "center_offset": 2.0}, "0..1"),
        ({"scales": [1.0], "center_offset": 0.5, "centers": [(1.0, 1.0)]}, "not both"),
        ({"scales": [1.0], "centers": [(1.0, 1.0)] * 2}, "2 centers for 1 strides"),
    ],
)
def test_arguments_that_contradict_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        AnchorGenerator(strides=[8], ratios=[1.0], **arguments)
