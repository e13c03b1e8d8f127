import copy
import pickle

import pytest
import torch
from det_models.points import MlvlPointGenerator


@pytest.fixture
def generator():
    return MlvlPointGenerator([8, 16])


def test_points_are_the_centres_of_cells_row_by_row(generator):
    fine, coarse = generator.grid_priors([(2, 3), (1, 1)])
    assert fine.tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12]]
    assert coarse.tolist() == [[8, 8]]
    assert generator.num_base_priors == [1, 1]


def test_offset_and_stride_of_each_direction_move_the_points():
    (points,) = MlvlPointGenerator([(4, 10)], offset=0).grid_priors([(2, 2)])
    assert points.tolist() == [[0, 0], [4, 0], [0, 10], [4, 10]]


def test_the_stride_stands_beside_the_point_where_asked_for():
    generator = MlvlPointGenerator([(4, 10)])
    (points,) = generator.grid_priors([(1, 2)], with_stride=True)
    assert points.tolist() == [[2, 5, 4, 10], [6, 5, 4, 10]]
    assert generator.grid_priors([(1, 2)])[0].shape == (2, 2)


def test_points_are_made_once_for_each_size_and_dtype(generator):
    first = generator.grid_priors([(4, 5), (2, 3)])
    assert generator.grid_priors([(4, 5), (2, 3)])[0] is first[0]
    assert generator.grid_priors([(4, 5), (2, 3)], dtype=torch.float64)[0].dtype == torch.float64
    for height in range(100):
        generator.grid_priors([(height + 1, 1), (1, 1)])
    assert len(generator._grids) <= 64


def test_points_made_in_inference_serve_training(generator):
    with torch.inference_mode():
        generator.grid_priors([(1, 1)] * 2)
    weight = torch.ones(1, 2, requires_grad=True)
    (weight * generator.grid_priors([(1, 1)] * 2)[0]).sum().backward()
    assert weight.grad.tolist() == [[4, 4]]


def test_single_points_are_those_of_the_grid(generator):
    points = generator.grid_priors([(4, 5), (1, 1)])[0]
    places = torch.tensor([0, 7, 19])
    assert torch.equal(generator.sparse_priors(places, (4, 5), 0), points[places])


def test_flags_tell_points_on_padding(generator):
    fine, coarse = generator.valid_flags([(3, 4), (2, 2)], (16, 20))
    assert fine.view(3, 4).tolist() == [[True, True, True, False]] * 2 + [[False] * 4]
    assert coarse.view(2, 2).tolist() == [[True, True], [False, False]]
    assert all(flags.all() for flags in generator.valid_flags([(3, 4), (2, 2)], (24, 32)))
    assert generator.batch_valid_flags([(3, 4), (2, 2)], [(24, 32)] * 2, torch.zeros(1)) is None
    batch = generator.batch_valid_flags([(3, 4), (2, 2)], [(24, 32), (16, 20)], torch.zeros(1))
    assert batch[0].all()
    assert torch.equal(batch[1], torch.cat([fine, coarse]))


def test_another_number_of_maps_than_of_strides_is_named(generator):
    with pytest.raises(ValueError, match=r"points are made for 2 levels .* got 1 feature maps"):
        generator.grid_priors([(1, 1)])


def test_generators_are_copied_and_pickled(generator):
    generator.grid_priors([(1, 1)] * 2)
    for twin in (copy.deepcopy(generator), pickle.loads(pickle.dumps(generator))):
        assert torch.equal(twin.grid_priors([(2, 1)] * 2)[0], generator.grid_priors([(2, 1)] * 2)[0])
    assert repr(generator) == "MlvlPointGenerator(strides=[(8, 8), (16, 16)], offset=0.5)"
