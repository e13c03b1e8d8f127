import math

import pytest
import torch
from det_models.coders import DeltaXYWHBBoxCoder, DistancePointBBoxCoder, PseudoBBoxCoder, clip_boxes
from hypothesis import given
from hypothesis import strategies as st

position = st.floats(-500, 500, width=32)
length = st.floats(1, 300, width=32)
one_box = st.tuples(position, position, length, length)


def as_box(drawn):
    x, y, w, h = drawn
    return torch.tensor([[x, y, x + w, y + h]], dtype=torch.float64)


def test_deltas_by_hand():
    coder = DeltaXYWHBBoxCoder()
    anchor, box = torch.tensor([[0.0, 0, 10, 20]]), torch.tensor([[5.0, 10, 25, 30]])
    want = torch.tensor([[1.0, 0.5, math.log(2), 0.0]])
    torch.testing.assert_close(coder.encode(anchor, box), want)
    torch.testing.assert_close(coder.decode(anchor, want), box)


def test_means_and_deviations_normalise_deltas():
    coder = DeltaXYWHBBoxCoder(target_means=[0.1, 0, 0, 0], target_stds=[0.1, 0.1, 0.2, 0.2])
    anchor, box = torch.tensor([[0.0, 0, 10, 20]]), torch.tensor([[5.0, 10, 25, 30]])
    want = torch.tensor([[9.0, 5.0, 5 * math.log(2), 0.0]])
    torch.testing.assert_close(coder.encode(anchor, box), want)
    torch.testing.assert_close(coder.decode(anchor, want), box)


@given(one_box, one_box)
def test_decoding_undoes_encoding(anchor, box):
    coder = DeltaXYWHBBoxCoder(target_means=[0.0, 0.1, 0.2, 0.3], target_stds=[0.1, 0.1, 0.2, 0.2])
    anchor, box = as_box(anchor), as_box(box)
    back = coder.decode(anchor, coder.encode(anchor, box), wh_ratio_clip=1e-6)
    torch.testing.assert_close(back, box, rtol=1e-6, atol=1e-6)


def test_growth_is_limited_both_ways():
    coder = DeltaXYWHBBoxCoder()
    anchor = torch.tensor([[0.0, 0, 10, 10]])
    grown = coder.decode(anchor, torch.tensor([[0.0, 0, 100, 100]]))
    assert float(grown[0, 2] - grown[0, 0]) == pytest.approx(10 * 1000 / 16)
    shrunk = coder.decode(anchor, torch.tensor([[0.0, 0, -100, -100]]))
    assert float(shrunk[0, 2] - shrunk[0, 0]) == pytest.approx(10 * 16 / 1000, rel=1e-4)


def test_the_shift_of_the_centre_may_be_limited():
    coder = DeltaXYWHBBoxCoder(add_ctr_clamp=True, ctr_clamp=32)
    anchor = torch.tensor([[0.0, 0, 100, 100]])
    assert coder.decode(anchor, torch.tensor([[1.0, -1, 0, 0]])).tolist() == [[32, -32, 132, 68]]


def test_boxes_are_clipped_to_each_image():
    coder = DeltaXYWHBBoxCoder()
    anchors = torch.tensor([[-5.0, -5, 50, 50]]).expand(2, 1, 4)
    boxes = coder.decode(anchors, torch.zeros(2, 1, 4), max_shape=[(40, 30), (20, 45)])
    assert boxes[:, 0].tolist() == [[0, 0, 30, 40], [0, 0, 45, 20]]
    same = coder.decode(anchors, torch.zeros(2, 1, 4), max_shape=[(40, 30), (40, 30)])
    assert same[:, 0].tolist() == [[0, 0, 30, 40]] * 2
    assert coder.decode(anchors[0], torch.zeros(1, 4), max_shape=(40, 30)).tolist() == [[0, 0, 30, 40]]
    tensor = coder.decode(anchors, torch.zeros(2, 1, 4), max_shape=torch.tensor([[40, 30], [20, 45]]))
    torch.testing.assert_close(tensor, boxes)
    free = DeltaXYWHBBoxCoder(clip_border=False)
    assert free.decode(anchors[0], torch.zeros(1, 4), max_shape=(40, 30)).tolist() == [[-5, -5, 50, 50]]


def test_several_sets_of_deltas_share_a_box():
    coder = DeltaXYWHBBoxCoder()
    boxes = torch.tensor([[0.0, 0, 10, 10], [20.0, 20, 30, 40]])
    deltas = torch.randn(2, 12, generator=torch.Generator().manual_seed(0))
    got = coder.decode(boxes, deltas, max_shape=(35, 25))
    for k in range(3):
        part = slice(4 * k, 4 * k + 4)
        torch.testing.assert_close(got[:, part], coder.decode(boxes, deltas[:, part], max_shape=(35, 25)))
    batch = coder.decode(
        boxes.expand(3, 2, 4), deltas.expand(3, 2, 12), max_shape=[(35, 25), (9, 9), (8, 40)]
    )
    torch.testing.assert_close(batch[0], got)


def test_shapes_of_other_images_are_refused():
    with pytest.raises(ValueError, match=r"3 image shapes do not fit boxes of shape \(2, 1, 4\)"):
        clip_boxes(torch.zeros(2, 1, 4), [(1, 1), (2, 2), (3, 3)])


def test_four_means_are_wanted():
    with pytest.raises(ValueError, match="target_means has 4 values"):
        DeltaXYWHBBoxCoder(target_means=[0.0, 0.0])


def test_the_pseudo_coder_leaves_boxes_alone():
    boxes = torch.rand(3, 4)
    assert PseudoBBoxCoder().encode(torch.zeros(3, 4), boxes) is boxes
    assert PseudoBBoxCoder().decode(torch.zeros(3, 4), boxes, max_shape=(1, 1)) is boxes


def test_distances_lead_from_a_point_to_its_box_and_back():
    coder = DistancePointBBoxCoder()
    points = torch.tensor([[10.0, 20.0], [40.0, 5.0]])
    boxes = torch.tensor([[4.0, 8.0, 13.0, 24.0], [45.0, 1.0, 60.0, 9.0]])
    distances = coder.encode(points, boxes)
    assert distances.tolist() == [[6, 12, 3, 4], [-5, 4, 20, 4]]
    assert torch.equal(coder.decode(points, distances), boxes)
    with_stride = torch.cat([points, torch.full((2, 2), 8.0)], 1)
    assert torch.equal(coder.decode(with_stride, distances), boxes)
    assert coder.encode(points, boxes, max_dis=10, eps=0.5).tolist() == [[6, 9.5, 3, 4], [0, 4, 9.5, 4]]


def test_boxes_around_points_are_clipped_to_their_pictures():
    points, distances = torch.tensor([[10.0, 20.0]]).expand(2, 1, 2), torch.full((2, 1, 4), 30.0)
    boxes = DistancePointBBoxCoder().decode(points, distances, max_shape=[(40, 30), (20, 45)])
    assert boxes[:, 0].tolist() == [[0, 0, 30, 40], [0, 0, 40, 20]]
    free = DistancePointBBoxCoder(clip_border=False).decode(points, distances, max_shape=(40, 30))
    assert free[0, 0].tolist() == [-20, -10, 40, 50]
