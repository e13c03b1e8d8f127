"""GFL: its losses and boxes against a computation by hand, an anchor at a time."""

import math

import pytest
import torch
from det_models.gfl import GFL, GFLHead, Integral

from detcore.structures import InstanceData
from detcore.structures.bbox import bbox_overlaps

BOXES = [[10.0, 12.0, 50.0, 60.0], [20.0, 30.0, 90.0, 60.0]]
STRIDES = (8, 16, 32, 64, 128)


@pytest.fixture
def small_gfl(one_stage):
    return lambda **head: one_stage("GFL", **head)


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def samples(make_sample):
    return [make_sample(64, 96, BOXES, [0, 2]), make_sample(64, 96, BOXES[:1], [1])]


def means(logits):
    """Distances in strides from the logits of four distributions over 0 to 8."""
    found = []
    for side in logits.view(4, 9).tolist():
        total = sum(map(math.exp, side))
        found.append(sum(n * math.exp(each) / total for n, each in enumerate(side)))
    return found


def focal_entropy(y, p):
    return -((y - p) ** 2) * (y * math.log(p) + (1 - y) * math.log(1 - p))


def neighbours(logits, y):
    log = logits.log_softmax(-1).tolist()
    left = int(y)
    return -(left + 1 - y) * log[left] - (y - left) * log[left + 1]


def test_losses_are_those_of_a_computation_by_hand(small_gfl, images, samples):
    model = small_gfl()
    head = model.bbox_head
    scores, distributions = head(model.extract_feat(images))
    levels = head.prior_generator.grid_priors([tuple(level.shape[-2:]) for level in scores])
    lengths = list(map(len, levels))
    matches = [
        head.train_cfg.assigner.assign(InstanceData(priors=torch.cat(levels)), lengths, each.gt_instances)
        .gt_inds.split(lengths)
        for each in samples
    ]  # fmt: skip
    num_positive = sum(int((each > 0).sum()) for image in matches for each in image)
    want = {name: [0.0] * 5 for name in ("loss_cls", "loss_bbox", "loss_dfl")}
    total = 0.0
    for level, stride in enumerate(STRIDES):
        for image, sample in enumerate(samples):
            logits = scores[level][image].detach().flatten(1).T
            sides = distributions[level][image].detach().flatten(1).T
            for place, anchor in enumerate(levels[level].tolist()):
                number = int(matches[image][level][place]) - 1
                quality, label, p = 0.0, 3, logits[place].sigmoid().tolist()
                if number >= 0:
                    label = int(sample.gt_instances.labels[number])
                    gt = sample.gt_instances.bboxes[number] / stride
                    x, y = (anchor[0] + anchor[2]) / 2 / stride, (anchor[1] + anchor[3]) / 2 / stride
                    left, top, right, bottom = means(sides[place])
                    box = torch.tensor([[x - left, y - top, x + right, y + bottom]])
                    quality = float(bbox_overlaps(box, gt[None], is_aligned=True))
                    giou = float(bbox_overlaps(box, gt[None], mode="giou", is_aligned=True))
                    weight = max(p)
                    total += weight
                    want["loss_bbox"][level] += 2 * weight * (1 - giou)
                    true = torch.stack((x - gt[0], y - gt[1], gt[2] - x, gt[3] - y)).clamp(0, 7.9).tolist()
                    each = [neighbours(*pair) for pair in zip(sides[place].view(4, 9), true, strict=True)]
                    want["loss_dfl"][level] += 0.25 * weight * sum(each) / 4
                for k, score in enumerate(p):
                    want["loss_cls"][level] += focal_entropy(quality * (k == label), score) / num_positive
    for name in ("loss_bbox", "loss_dfl"):
        want[name] = [each / max(total, 1) for each in want[name]]
    assert num_positive > 4
    losses = model(images, samples, mode="loss")
    assert set(losses) == set(want)
    for name, found in losses.items():
        got = [float(value.detach()) for value in found]
        assert got == pytest.approx(want[name], rel=1e-4, abs=1e-6), name


def test_boxes_are_the_means_of_the_distributions_around_the_centres_of_the_cells(small_gfl):
    head = small_gfl(stacked_convs=0, in_channels=16).bbox_head.eval()
    with torch.no_grad():
        for layer in (head.gfl_cls, head.gfl_reg):
            layer.weight.zero_()
        head.gfl_cls.bias.fill_(-9)
        head.gfl_cls.bias[1] = 2.0
        head.gfl_reg.bias.fill_(-50.0)
        head.gfl_reg.bias.view(4, 9)[torch.arange(4), torch.tensor([1, 2, 3, 4])] = 50.0
        maps = [torch.zeros(1, 16, *size) for size in ((8, 12), (4, 6), (2, 3), (1, 2), (1, 1))]
        metas = [{"img_shape": (64, 96)}]
        found = head.predict_by_feat(*head(maps), batch_img_metas=metas, with_nms=False)[0]
    assert found.labels.unique().tolist() == [1]
    boxes = {tuple(box) for box in found.bboxes.round().tolist()}
    assert (40 - 8, 24 - 16, 40 + 24, 24 + 32) in boxes  # of the cell at column 5, row 3 of the finest level
    assert (32 - 16, 32 - 32, 32 + 48, 64) in boxes  # and at 2, 2 of the next, cut to the picture


def test_the_mean_of_a_distribution():
    logits = torch.full((2, 4, 17), -1e4)
    logits[:, :, 3] = logits[:, :, 4] = 0
    torch.testing.assert_close(Integral(16)(logits.flatten(1)), torch.full((2, 4), 3.5))


def test_what_it_cannot_do_is_said():
    def anchors(**arguments):
        from det_models.anchors import AnchorGenerator

        return AnchorGenerator(**{"strides": [8, 16], "ratios": [1.0], "scales": [8], **arguments})

    with pytest.raises(ValueError, match="one anchor a cell and equal strides along both axes, got 2"):
        GFLHead(3, 16, anchor_generator=anchors(ratios=[0.5, 1.0]))
    with pytest.raises(ValueError, match="one anchor a cell and equal strides"):
        GFLHead(3, 16, anchor_generator=anchors(strides=[(8, 16)]))
    with pytest.raises(ValueError, match="2 feature maps for a head of 5 levels"):
        GFLHead(3, 16, feat_channels=32)([torch.zeros(1, 16, 8, 8)] * 2)


def test_the_head_starts_with_rare_classes():
    head = GFLHead(4, 32, stacked_convs=1, feat_channels=32)
    head.init_weights()
    torch.testing.assert_close(head.gfl_cls.bias.sigmoid(), torch.full((4,), 0.01))


def test_it_is_two_classes_above_its_parts():
    for component in (GFL, GFLHead):
        ours = [cls for cls in component.__mro__[1:] if cls.__module__.startswith(("det_models", "detcore"))]
        assert len(ours) <= 2, ours
