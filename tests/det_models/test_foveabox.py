"""FoveaBox: foveae, losses and boxes against computations by hand."""

import math

import pytest
import torch
from det_models.foveabox import FOVEA, FoveaHead
from det_models.truth import GroundTruth

from detcore.structures import InstanceData

BOXES = [[10.0, 12.0, 50.0, 60.0], [20.0, 30.0, 90.0, 60.0]]
STRIDES, EDGES = (8, 16, 32, 64, 128), (16, 32, 64, 128, 256)
RANGES = ((1, 64), (32, 128), (64, 256), (128, 512), (256, 2048))


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def samples(make_sample):
    return [make_sample(64, 96, BOXES, [0, 2]), make_sample(64, 96, BOXES[:1], [1])]


def plain(boxes, size, stride, limits, sigma):
    """Owner of each cell of a level: smaller objects are painted over greater ones."""
    height, width = size
    owners = [[0] * width for _ in range(height)]
    edges = [math.sqrt((x2 - x1) * (y2 - y1)) for x1, y1, x2, y2 in boxes]
    for number in sorted(range(len(boxes)), key=lambda n: -edges[n]):
        if not limits[0] <= edges[number] <= limits[1]:
            continue
        (x1, y1, x2, y2), spans = (side / stride for side in boxes[number]), []
        for low, high, length in ((x1, x2, width), (y1, y2, height)):
            half = (high - low) / 2
            first = math.ceil(low + (1 - sigma) * half - 0.5)
            last = math.floor(low + (1 + sigma) * half - 0.5)
            spans.append([min(max(each, 0), length - 1) for each in (first, last)])
        for row in range(spans[1][0], spans[1][1] + 1):
            for column in range(spans[0][0], spans[0][1] + 1):
                owners[row][column] = number + 1
    return [owner for row in owners for owner in row]


def test_cells_of_a_batch_answer_as_by_a_plain_loop():
    levels = {"strides": (4, 8), "base_edge_list": (16, 32), "scale_ranges": ((1, 30), (15, 90))}
    head = FoveaHead(9, 4, stacked_convs=0, **levels)
    batch, sizes = [], [(16, 20), (8, 10)]
    for seed, count in enumerate((8, 1, 0, 12)):
        random = torch.Generator().manual_seed(seed)
        corner = torch.rand(count, 2, generator=random) * 60 - 5  # some reach out of the picture
        boxes = torch.cat((corner, corner + 2 + 40 * torch.rand(count, 2, generator=random)), 1)
        batch.append(InstanceData(bboxes=boxes, labels=torch.arange(count) % 9))
    found = head.match_foveae(sizes, GroundTruth.pack(batch))
    for level, (size, stride, limits) in enumerate(zip(sizes, (4, 8), head.scale_ranges, strict=True)):
        for image, truth in enumerate(batch):
            assert found[level][image].tolist() == plain(truth.bboxes.tolist(), size, stride, limits, 0.4)
    assert len(found[0][3].unique()) > 3
    assert len(found[1][3].unique()) > 3


def test_losses_are_those_of_a_computation_by_hand(one_stage, images, samples):
    model = one_stage("FOVEA")
    scores, distances = model.bbox_head(model.extract_feat(images))
    classes, boxes, count = 0.0, 0.0, 0
    for level, (stride, edge) in enumerate(zip(STRIDES, EDGES, strict=True)):
        size = tuple(scores[level].shape[-2:])
        for image, sample in enumerate(samples):
            truth, labels = sample.gt_instances.bboxes.tolist(), sample.gt_instances.labels.tolist()
            logits = scores[level][image].detach().flatten(1).T.sigmoid().tolist()
            found = distances[level][image].detach().flatten(1).T.tolist()
            for place, owner in enumerate(plain(truth, size, stride, RANGES[level], 0.4)):
                label = labels[owner - 1] if owner else 3
                for k, p in enumerate(logits[place]):
                    classes -= (
                        0.4 * (1 - p) ** 1.5 * math.log(p) if k == label else 0.6 * p**1.5 * math.log(1 - p)
                    )
                if not owner:
                    continue
                count += 1
                x, y = (place % size[1] + 0.5) * stride, (place // size[1] + 0.5) * stride
                x1, y1, x2, y2 = truth[owner - 1]
                for got, side in zip(found[place], (x - x1, y - y1, x2 - x, y2 - y), strict=True):
                    d = abs(got - math.log(min(max(side / edge, 1 / 16), 16)))
                    boxes += 0.5 * d * d / 0.11 if d < 0.11 else d - 0.055
    losses = model(images, samples, mode="loss")
    assert count > 4
    assert float(losses["loss_cls"].detach()) == pytest.approx(classes / (count + 2), rel=1e-4)
    assert float(losses["loss_bbox"].detach()) == pytest.approx(boxes / count, rel=1e-4)


def test_boxes_are_exponentials_of_base_lengths_and_end_at_the_last_pixel(one_stage):
    head = one_stage("FOVEA", stacked_convs=0, in_channels=16).bbox_head.eval()
    with torch.no_grad():
        head.conv_cls.weight.zero_()
        head.conv_reg.weight.zero_()
        head.conv_cls.bias.copy_(torch.tensor([-9.0, 2.0, -9.0]))
        head.conv_reg.bias.copy_(torch.tensor([0.25, 0.5, 1.0, 2.0]).log())
        maps = [torch.zeros(1, 16, *size) for size in ((8, 12), (4, 6), (2, 3), (1, 2), (1, 1))]
        metas = [{"img_shape": (64, 96)}]
        found = head.predict_by_feat(*head(maps), batch_img_metas=metas, with_nms=False)[0]
    assert found.labels.unique().tolist() == [1]
    boxes = {tuple(box) for box in found.bboxes.round().tolist()}
    assert (44 - 4, 28 - 8, 44 + 16, 28 + 32) in boxes  # of the cell at column 5, row 3 of the finest level
    assert (40 - 8, 40 - 16, 40 + 32, 63) in boxes  # and at 2, 2 of the next, cut to the picture


def test_aligned_features_see_the_predicted_box(one_stage, images, samples):
    model = one_stage("FOVEA", with_deform=True)
    state = {name: tuple(value.shape) for name, value in model.bbox_head.state_dict().items()}
    assert state["feature_adaption.conv_offset.weight"] == (4 * 18, 4, 1, 1)
    assert state["feature_adaption.conv_adaption.weight"] == (16, 16, 3, 3)
    assert state["cls_convs.1.conv.weight"] == (64, 64, 1, 1)
    sum(model(images, samples, mode="loss").values()).backward()
    assert model.bbox_head.feature_adaption.conv_offset.weight.grad.any()
    head, maps = model.bbox_head, [each.detach() for each in model.extract_feat(images)]
    before = head(maps)[0][0].detach()
    with torch.no_grad():
        head.conv_reg.bias += 1
    assert not torch.allclose(head(maps)[0][0].detach(), before)
    with pytest.raises(ValueError, match="feat_channels=8 must be in_channels=16"):
        FoveaHead(3, 16, feat_channels=8, with_deform=True)


def test_a_last_convolution_may_be_deformable(one_stage, images, samples):
    losses = one_stage("FOVEA", dcn_on_last_conv=True)(images, samples, mode="loss")
    assert sum(losses.values()).isfinite()


def test_levels_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="one entry a level, got 5, 5 and 2"):
        FoveaHead(3, 16, strides=(8, 16))


def test_the_head_starts_with_rare_classes():
    head = FoveaHead(4, 32, stacked_convs=1, feat_channels=32, with_deform=True)
    head.init_weights()
    torch.testing.assert_close(head.conv_cls.bias.sigmoid(), torch.full((4,), 0.01))
    offsets, adapted = head.feature_adaption.conv_offset.weight, head.feature_adaption.conv_adaption.weight
    assert float(offsets.detach().std()) == pytest.approx(0.1, rel=0.2)
    assert float(adapted.detach().std()) == pytest.approx(0.01, rel=0.2)


def test_it_is_two_classes_above_its_parts():
    for component in (FOVEA, FoveaHead):
        ours = [cls for cls in component.__mro__[1:] if cls.__module__.startswith(("det_models", "detcore"))]
        assert len(ours) <= 2, ours
