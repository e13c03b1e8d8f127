"""PAA: mixtures, choice of positives, losses and voting against computations by hand."""

import math

import pytest
import torch
from det_models.paa import PAA, PAAHead, vote
from det_models.paa_assign import fit_two_gaussians, likely_positives, lower_mode
from det_models.truth import GroundTruth

from detcore.structures import InstanceData
from detcore.structures.bbox import bbox_overlaps

BOXES = [[10.0, 12.0, 50.0, 60.0], [20.0, 30.0, 90.0, 60.0]]


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def samples(make_sample):
    return [make_sample(64, 96, BOXES, [0, 2]), make_sample(64, 96, BOXES[:1], [1])]


def density(x, mean, variance, weight):
    return weight * math.exp(-((x - mean) ** 2) / variance / 2) / math.sqrt(2 * math.pi * variance)


def mixture(values, tied=False):
    """Weight times density under each of two Gaussians, by the textbook's steps in double precision."""
    means, variances, weights, bound = [min(values), max(values)], [1.0, 1.0], [0.5, 0.5], -math.inf
    for _ in range(100):
        joint = [[density(x, *each) for each in zip(means, variances, weights, strict=True)] for x in values]
        shares = [[part / sum(row) for part in row] for row in joint]
        sizes = [sum(row[k] for row in shares) for k in range(2)]
        pairs = list(zip(shares, values, strict=True))
        means = [sum(row[k] * x for row, x in pairs) / sizes[k] for k in range(2)]
        spread = [sum(row[k] * (x - means[k]) ** 2 for row, x in pairs) for k in range(2)]
        variances = [each / size + 1e-6 for each, size in zip(spread, sizes, strict=True)]
        if tied:
            variances = [sum(spread) / len(values) + 1e-6] * 2
        weights = [size / len(values) for size in sizes]
        new_bound = sum(math.log(sum(row)) for row in joint) / len(values)
        if abs(new_bound - bound) < 1e-3:
            break
        bound = new_bound
    return [[density(x, *each) for each in zip(means, variances, weights, strict=True)] for x in values]


def chosen(values, tied=False):
    """Which of ascending values are positives: of the lower Gaussian, up to the most likely value."""
    if len(values) < 2:
        return [False] * len(values)
    joint = mixture(values, tied)
    lower = [place for place, (one, other) in enumerate(joint) if one >= other]
    if not lower:
        return [False] * len(values)
    best = max(lower, key=lambda place: sum(joint[place]))
    return [place in lower and place <= best for place in range(len(values))]


def some_values(seed, count):
    random = torch.Generator().manual_seed(seed)
    low, high = torch.randn(count, generator=random), 4 + 2 * torch.randn(count, generator=random)
    return torch.where(torch.rand(count, generator=random) < 0.5, low, high).abs().sort().values


@pytest.mark.parametrize("tied", [False, True])
def test_many_mixtures_at_once_are_those_of_the_textbook(tied):
    counts = [9, 2, 45, 1, 0, 17, 30]
    values = torch.full((len(counts), 45), torch.inf)
    for row, count in enumerate(counts):
        values[row, :count] = some_values(row, count)
    counted = values < torch.inf
    joint = fit_two_gaussians(values, counted, tied=tied)
    kept = lower_mode(values, counted, "tied" if tied else "diag")
    for row, count in enumerate(counts):
        if count > 1:
            want = torch.tensor(mixture(values[row, :count].tolist(), tied)).clamp(min=1e-30).log()
            got = joint[row, :count].clamp(min=-69)  # beyond, the other is sure anyway
            torch.testing.assert_close(got, want.clamp(min=-69), rtol=1e-2, atol=1e-2)
        assert kept[row, :count].tolist() == chosen(values[row, :count].tolist(), tied)
        assert not kept[row, count:].any()
    assert kept.sum() > 10


def test_equal_values_are_no_trouble():
    kept = lower_mode(torch.full((1, 5), 2.5), torch.ones(1, 5, dtype=torch.bool))
    assert kept.any()
    far = torch.tensor([[1e-3, 1.0, 900.0, 905.0]])
    assert lower_mode(far, far > 0).tolist() == [chosen(far[0].tolist())]


def by_hand(losses, matches, lengths, topk):
    """Positives of one image, an object at a time."""
    kept = [False] * len(losses)
    for number in range(1, max(matches) + 1):
        candidates, start = [], 0
        for length in lengths:
            level = [place for place in range(start, start + length) if matches[place] == number]
            candidates += sorted(level, key=lambda place: losses[place])[:topk]
            start += length
        candidates.sort(key=lambda place: losses[place])
        flags = chosen([losses[place] for place in candidates])
        for place, flag in zip(candidates, flags, strict=True):
            kept[place] = flag
    return kept


def test_positives_of_a_batch_are_those_of_a_plain_loop():
    random, lengths = torch.Generator().manual_seed(0), [60, 25, 6]
    matches = torch.randint(-1, 5, (3, 91), generator=random)
    matches[1] = matches[1].clamp(max=0)  # an image without
    matches[2, 1:] = matches[2, 1:].clamp(max=0)
    matches[2, 0] = 1  # and one with a single candidate
    losses = some_values(3, 273)[torch.randperm(273, generator=random)].view(3, 91)
    kept = likely_positives(losses, matches, lengths, 4, topk=9)
    for image in range(3):
        want = by_hand(losses[image].tolist(), matches[image].tolist(), lengths, 9)
        assert kept[image].tolist() == want
    assert kept[0].sum() > 8
    assert not kept[1:].any()


def focal(p, own):
    return -0.25 * (1 - p) ** 2 * math.log(p) if own else -0.75 * p**2 * math.log(1 - p)


def test_losses_are_those_of_a_computation_by_hand(one_stage, images, samples):
    model = one_stage("PAA")
    head = model.bbox_head
    with torch.no_grad():
        outputs = head(model.extract_feat(images))
    scores, encoded, ious = (
        torch.cat([level.permute(0, 2, 3, 1).reshape(2, -1, size) for level in levels], 1)
        for levels, size in zip(outputs, (3, 4, 1), strict=True)
    )
    levels = head.prior_generator.grid_priors([tuple(level.shape[-2:]) for level in outputs[0]])
    anchors, lengths = torch.cat(levels), list(map(len, levels))
    truth = GroundTruth.pack([each.gt_instances for each in samples])
    matches = head.train_cfg.assigner.match(anchors, truth).tolist()
    want, count, total = {"loss_cls": 0.0, "loss_bbox": 0.0, "loss_iou": 0.0}, 0, 0.0
    for image in range(2):
        probs = scores[image].sigmoid().tolist()
        boxes, costs = head.bbox_coder.decode(anchors, encoded[image]), []
        fits = []
        for place, number in enumerate(matches[image]):
            overlap = giou = 0.0
            if number > 0:
                pair = boxes[place][None], truth.boxes[image, number - 1][None]
                overlap = float(bbox_overlaps(*pair, is_aligned=True))
                giou = float(bbox_overlaps(*pair, mode="giou", is_aligned=True))
            label = int(truth.labels[image, number - 1]) if number > 0 else 3
            classes = sum(focal(p, k == label) for k, p in enumerate(probs[place]))
            fits.append((overlap, 1.3 * (1 - giou)))
            costs.append(classes + 1.3 * (1 - giou))
        kept = by_hand(costs, matches[image], lengths, 9)
        for place, number in enumerate(matches[image]):
            label = int(truth.labels[image, number - 1]) if kept[place] else 3
            want["loss_cls"] += sum(focal(p, k == label) for k, p in enumerate(probs[place]))
            if kept[place]:
                (overlap, box_loss), p = fits[place], float(ious[image, place].sigmoid())
                want["loss_bbox"] += overlap * box_loss
                want["loss_iou"] -= 0.5 * (overlap * math.log(p) + (1 - overlap) * math.log(1 - p))
                total, count = total + overlap, count + 1
    assert count > 4
    assert count < sum(number > 0 for image in matches for number in image)
    want = {"loss_cls": want["loss_cls"] / count, "loss_bbox": want["loss_bbox"] / total,
            "loss_iou": want["loss_iou"] / count}  # fmt: skip
    losses = {name: float(value.detach()) for name, value in model(images, samples, mode="loss").items()}
    assert losses == pytest.approx(want, rel=1e-4)


def test_boxes_are_averaged_with_those_around_them_of_their_class():
    boxes = torch.tensor([[0.0, 0, 10, 10], [1.0, 0, 11, 10], [0.0, 2, 10, 12], [50.0, 50, 60, 60]])
    scores, labels = torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([1, 1, 0, 1])
    found = InstanceData(bboxes=boxes, scores=scores, labels=labels)
    first = math.exp(0) * 0.9
    second = math.exp(-((1 - 9 / 11) ** 2) / 0.025) * 0.8
    left = second / (first + second)
    want = torch.tensor([[left, 0, 10 + left, 10], [50, 50, 60, 60]])
    torch.testing.assert_close(vote(found[torch.tensor([0, 3])], found), want)
    flat = InstanceData(bboxes=torch.tensor([[5.0, 5, 5, 9]]), scores=scores[:1], labels=labels[:1])
    assert torch.equal(vote(flat, flat), flat.bboxes)


def test_predictions_are_ranked_by_score_and_iou_and_voted_on(one_stage, images, samples):
    model = one_stage("PAA").eval()
    head = model.bbox_head
    head.test_cfg.min_bbox_size = -1  # as many boxes as scores
    with torch.no_grad():
        outputs = head(model.extract_feat(images))
        metas = [sample.metainfo for sample in samples]
        every = head.predict_by_feat(*outputs, batch_img_metas=metas, with_nms=False)
        voted = head.predict_by_feat(*outputs, batch_img_metas=metas)
        head.with_score_voting = False
        plain = head.predict_by_feat(*outputs, batch_img_metas=metas)
    probs = torch.cat([(score.sigmoid() * iou.sigmoid()).sqrt().flatten(1) for score, iou in
                       zip(outputs[0], outputs[2], strict=True)], 1)  # fmt: skip
    for image in range(2):
        want = probs[image][probs[image] > head.test_cfg.score_thr].sort().values
        torch.testing.assert_close(every[image].scores.sort().values, want)
        assert torch.equal(voted[image].scores, plain[image].scores)
        assert (voted[image].scores.diff() <= 0).all()
        torch.testing.assert_close(voted[image].bboxes, vote(plain[image], every[image]))
        assert not torch.equal(voted[image].bboxes, plain[image].bboxes)


def test_what_it_cannot_do_is_said(one_stage, images, samples):
    with pytest.raises(ValueError, match="at least 1, got 0"):
        PAAHead(3, 16, topk=0)
    with pytest.raises(ValueError, match="must have use_sigmoid=True"):
        PAAHead(3, 16, loss_cls={"type": "CrossEntropyLoss"})
    with pytest.raises(ValueError, match="2 feature maps for a head of 5 levels"):
        one_stage("PAA").bbox_head([torch.zeros(1, 16, 8, 8)] * 2)


def test_it_is_two_classes_above_its_parts():
    for component in (PAA, PAAHead):
        ours = [cls for cls in component.__mro__[1:] if cls.__module__.startswith(("det_models", "detcore"))]
        assert len(ours) <= 2, ours
