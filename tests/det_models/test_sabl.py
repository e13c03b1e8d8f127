"""SABL over RetinaNet: buckets, squares and their shapes, losses and boxes against plain loops."""

import math

import pytest
import torch
from det_models.anchors import AnchorGenerator
from det_models.approx_assign import ApproxMaxIoUAssigner
from det_models.bucketing_coder import BucketingBBoxCoder
from det_models.sabl_retina import SABLRetinaHead
from det_models.truth import GroundTruth

from detcore.registry import MODELS
from detcore.structures import InstanceData
from detcore.structures.bbox import bbox_overlaps
from detcore.testing import check_gradients

BOXES = [[10.0, 12.0, 50.0, 60.0], [20.0, 30.0, 90.0, 60.0]]
STRIDES = [8, 16, 32, 64, 128]


def boxes(count, seed, size=60.0):
    random = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=random) * 100
    return torch.cat((corner, corner + 8 + size * torch.rand(count, 2, generator=random)), 1)


# -- buckets
# ------------------------------------------------------------------------------------------------


def lines_of(box, number, scale):
    """Centre lines of the buckets of left, right, top, bottom, from outside to inside, and their widths."""
    found = []
    for low, high in ((box[0], box[2]), (box[1], box[3])):
        middle, half = (low + high) / 2, (high - low) / 2 * scale
        width, count = 2 * half / number, math.ceil(number / 2)
        found.append(([middle - half + (k + 0.5) * width for k in range(count)], width))
        found.append(([middle + half - (k + 0.5) * width for k in range(count)], width))
    return found


def plain_targets(box, gt, number, scale, topk=2, bound=1.0, ignore=True):
    """Offsets, their weights, labels and theirs, one list each."""
    columns = ([], [], [], [])
    for (lines, width), side in zip(lines_of(box, number, scale), (gt[0], gt[2], gt[1], gt[3]), strict=True):
        offsets = [(line - side) / width for line in lines]
        order = sorted(range(len(lines)), key=lambda k: abs(offsets[k]))
        near = {order[0], *(k for k in order[:topk] if abs(offsets[k]) < bound)}
        columns[0].extend(offsets)
        columns[1].extend(float(k in near) for k in range(len(lines)))
        columns[2].extend(float(k == order[0]) for k in range(len(lines)))
        between = [ignore and k != order[0] and abs(offsets[k]) < 1 for k in range(len(lines))]
        columns[3].extend(float(not each) for each in between)
    return columns


@pytest.mark.parametrize(
    ("number", "scale", "options"),
    [
        (14, 1.7, {}),
        (7, 3.0, {"offset_topk": 3, "offset_upperbound": 1.5}),
        (14, 1.3, {"offset_topk": 1, "cls_ignore_neighbor": False}),
    ],
)
def test_targets_are_those_of_a_plain_loop(number, scale, options):
    priors, gts = boxes(20, 0), boxes(20, 1)
    found = BucketingBBoxCoder(number, scale, **options).encode(priors, gts)
    plain = (options.get("offset_topk", 2), options.get("offset_upperbound", 1.0))
    ignore = options.get("cls_ignore_neighbor", True)
    for row, (prior, gt) in enumerate(zip(priors.tolist(), gts.tolist(), strict=True)):
        want = plain_targets(prior, gt, number, scale, *plain, ignore)
        for got, values in zip(found, want, strict=True):
            torch.testing.assert_close(got[row], torch.tensor(values), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("number", [14, 7])
def test_boxes_and_their_sureness_are_those_of_a_plain_loop(number):
    priors, random = boxes(12, 0), torch.Generator().manual_seed(2)
    size = 4 * math.ceil(number / 2)
    logits = 4 * torch.randn(12, size, generator=random)
    offsets = torch.randn(12, size, generator=random)
    found, sureness = BucketingBBoxCoder(number, 1.5, clip_border=False).decode(
        priors, (logits, offsets), (64, 64)
    )
    beside = 0
    for row, prior in enumerate(priors.tolist()):
        sides, sure = [], 0.0
        of_sides = zip(
            lines_of(prior, number, 1.5),
            logits[row].view(4, -1).softmax(1).tolist(),
            offsets[row].view(4, -1).tolist(),
            strict=True,
        )
        for (lines, width), scores, shifts in of_sides:
            first, second = sorted(range(len(lines)), key=lambda k: -scores[k])[:2]
            sides.append(lines[first] - shifts[first] * width)
            sure += scores[first] / 4
            if abs(first - second) == 1:
                beside += 1
                sure += scores[second] / 4
        left, right, top, bottom = sides
        torch.testing.assert_close(found[row], torch.tensor([left, top, right, bottom]), rtol=1e-4, atol=1e-3)
        assert float(sureness[row]) == pytest.approx(sure, rel=1e-4)
    assert 0 < beside < 48


def test_decoding_undoes_encoding_and_ends_at_the_last_pixels():
    coder, priors = BucketingBBoxCoder(14, 1.7), boxes(30, 0)
    gts = priors + torch.rand(30, 4, generator=torch.Generator().manual_seed(3)) * 6 - 3
    wanted = coder.encode(priors, gts)
    sides = (wanted.labels * 50, wanted.offsets)
    found, sureness = coder.decode(priors, sides)
    torch.testing.assert_close(found, gts, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(sureness, torch.ones(30))
    limit = torch.tensor([79.0, 49.0, 79.0, 49.0])
    clipped = torch.minimum(gts.clamp(min=0), limit)
    torch.testing.assert_close(coder.decode(priors, sides, (50, 80))[0], clipped, rtol=1e-4, atol=1e-3)
    # Two images of their own sizes at once.
    pair = [each.expand(2, -1, -1) for each in sides]
    for shapes in ([(50, 80), (30, 40)], torch.tensor([[50, 80], [30, 40]])):
        both, sure = coder.decode(priors.expand(2, -1, -1), pair, shapes)
        assert sure.shape == (2, 30)
        torch.testing.assert_close(both[0], clipped, rtol=1e-4, atol=1e-3)
        assert both[1].amax(0).tolist() == [39, 29, 39, 29]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_buckets": 2}, "got num_buckets=2, offset_topk=2"),
        ({"offset_topk": 8}, "got num_buckets=14, offset_topk=8"),
        ({"offset_topk": 0}, "got num_buckets=14, offset_topk=0"),
        ({"scale_factor": 0}, "above 0, got 0"),
    ],
)
def test_buckets_that_make_no_sense_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        BucketingBBoxCoder(**{"num_buckets": 14, "scale_factor": 1.7, **given})


# -- squares and their shapes
# ------------------------------------------------------------------------------------------------


def shapes_of(squares, seed=5):
    """Three shapes around each square, ``Tensor[A, 3, 4]``."""
    factors = 0.7 + 0.8 * torch.rand(len(squares), 3, 2, generator=torch.Generator().manual_seed(seed))
    center, half = (squares[:, :2] + squares[:, 2:]) / 2, (squares[:, 2:] - squares[:, :2]) / 2
    half = half[:, None] * factors
    return torch.cat((center[:, None] - half, center[:, None] + half), dim=-1)


def plain_match(squares, shapes, gts, crowds=(), allowed=None):
    """Owner of each square by the rules of RetinaNet: 0.5 to 0.4, and the best squares of every box."""
    allowed = set(range(len(squares)) if allowed is None else allowed)
    for crowd in crowds:
        for place in range(len(squares)):
            if float(bbox_overlaps(squares[place, None], crowd[None], mode="iof")) > 0.5:
                allowed.discard(place)
    best = {
        (number, place): max(float(bbox_overlaps(each[None], gt[None])) for each in shapes[place])
        for number, gt in enumerate(gts)
        for place in allowed
    }
    owner = [-1] * len(squares)
    for place in allowed:
        number = max(range(len(gts)), key=lambda n: best[n, place], default=None)
        most = 0 if number is None else best[number, place]
        owner[place] = number + 1 if most >= 0.5 else 0 if most < 0.4 else -1
    for number in range(len(gts)):
        most = max((best[number, place] for place in allowed), default=0)
        for place in allowed:
            if best[number, place] == most > 0:
                owner[place] = number + 1
    return owner


def assigner(**given):
    return ApproxMaxIoUAssigner(pos_iou_thr=0.5, neg_iou_thr=0.4, **given)


@pytest.mark.parametrize("limited", [False, True], ids=["all", "some"])
@pytest.mark.parametrize("crowded", [False, True], ids=["plain", "crowds"])
def test_a_batch_is_matched_as_by_a_plain_loop(limited, crowded):
    squares = boxes(60, 0)
    shapes, counts = shapes_of(squares), (5, 0, 12)
    batch = [InstanceData(bboxes=boxes(count, 9 + count), labels=torch.arange(count)) for count in counts]
    crowds = [boxes(2, 30 + number, 90) if crowded else torch.zeros(0, 4) for number in range(3)]
    valid = torch.rand(3, 60, generator=torch.Generator().manual_seed(4)) > 0.3 if limited else None
    truth = GroundTruth.pack(batch, [InstanceData(bboxes=each) for each in crowds])
    found = assigner(ignore_iof_thr=0.5).match(squares, truth, valid, shapes)
    for number, each in enumerate(batch):
        allowed = None if valid is None else torch.nonzero(valid[number]).flatten().tolist()
        want = plain_match(squares, shapes, each.bboxes, crowds[number], allowed)
        assert found[number].tolist() == want
        if valid is None:
            given = InstanceData(priors=squares, approxs=shapes)
            one = assigner(ignore_iof_thr=0.5).assign(given, each, InstanceData(bboxes=crowds[number]))
            assert one.gt_inds.tolist() == want
    assert (found == -1).any()
    assert found.max() > 3
    assert not torch.equal(found, assigner().match(squares, truth, valid, squares[:, None]))


def test_shapes_are_needed():
    truth = GroundTruth.pack([InstanceData(bboxes=boxes(1, 0), labels=torch.zeros(1).long())])
    with pytest.raises(ValueError, match="goes by the shapes that each prior stands for"):
        assigner().match(boxes(4, 1), truth)


# -- the head
# ------------------------------------------------------------------------------------------------


@pytest.fixture
def small_sabl(small_config, fill_by_name):
    def make(assign=None, allowed_border=-1, **head):
        cfg = small_config()
        cfg["bbox_head"] = {
            "type": "SABLRetinaHead", "num_classes": 3, "in_channels": 16, "stacked_convs": 1,
            "feat_channels": 16, "norm_cfg": {"type": "GN", "num_groups": 4}, **head,
        }  # fmt: skip
        names = {"type": "ApproxMaxIoUAssigner", "pos_iou_thr": 0.5, "neg_iou_thr": 0.4}
        cfg["train_cfg"].update(assigner={**names, **(assign or {})}, allowed_border=allowed_border)
        return fill_by_name(MODELS.build(cfg))

    return make


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def samples(make_sample):
    return [make_sample(64, 96, BOXES, [0, 2]), make_sample(64, 96, BOXES[:1], [1])]


def detached(losses):
    return {name: float(value.detach()) for name, value in losses.items()}


def summed(losses):
    return {name: float(sum(each.detach() for each in levels)) for name, levels in losses.items()}


def cells(size, stride):
    """Squares and their nine shapes around each cell of a map, row by row."""
    for y in range(size[0]):
        for x in range(size[1]):
            center = torch.tensor([x * stride, y * stride]).float()
            square = torch.cat((center - 2 * stride, center + 2 * stride))
            shapes = []
            for ratio in (0.5, 1.0, 2.0):
                for octave in range(3):
                    side = 4 * stride * 2 ** (octave / 3)
                    half = torch.tensor([side / ratio**0.5, side * ratio**0.5]) / 2
                    shapes.append(torch.cat((center - half, center + half)))
            yield square, torch.stack(shapes)


def by_hand(head, maps, samples):
    """Losses an image, level and cell at a time."""
    scores, sides = head(maps)
    sizes = [tuple(each.shape[-2:]) for each in maps]
    pairs = [list(cells(size, stride)) for size, stride in zip(sizes, STRIDES, strict=True)]
    squares = torch.stack([each for level in pairs for each, _ in level])
    shapes = torch.stack([each for level in pairs for _, each in level])
    want, total = {"loss_cls": 0.0, "loss_bbox_cls": 0.0, "loss_bbox_reg": 0.0}, 0
    for image, sample in enumerate(samples):
        gts = sample.gt_instances.bboxes
        owners = plain_match(squares, shapes, gts, sample.ignored_instances.bboxes)
        total += max(1, sum(owner > 0 for owner in owners))
        flat = [torch.cat([level[image].flatten(1).T for level in each]).detach().tolist()
                for each in (scores, [a for a, _ in sides], [b for _, b in sides])]  # fmt: skip
        for square, owner, logits, buckets, offsets in zip(squares.tolist(), owners, *flat, strict=True):
            if owner < 0:
                continue
            label = int(sample.gt_instances.labels[owner - 1]) if owner else 3
            for k, logit in enumerate(logits):
                p = 1 / (1 + math.exp(-logit))
                of_class = -0.25 * (1 - p) ** 2 * math.log(p)
                want["loss_cls"] += of_class if k == label else -0.75 * p**2 * math.log(1 - p)
            if owner:
                targets = plain_targets(square, gts[owner - 1].tolist(), 14, 3.0)
                for logit, offset, t, t_weight, y, y_weight in zip(buckets, offsets, *targets, strict=True):
                    entropy = math.log(1 + math.exp(logit)) - y * logit
                    want["loss_bbox_cls"] += 1.5 * y_weight * entropy / 28
                    off = abs(offset - t)
                    smooth = off - 0.5 / 9 if off > 1 / 9 else off**2 * 4.5
                    want["loss_bbox_reg"] += 1.5 * t_weight * smooth / 8
    return {name: value / total for name, value in want.items()}


def test_losses_are_those_of_a_computation_by_hand(small_sabl, images, samples):
    model = small_sabl()
    head, maps = model.bbox_head, model.extract_feat(images)
    want = by_hand(head, maps, samples)
    assert min(want.values()) > 0.01
    assert summed(head.loss(maps, samples)) == pytest.approx(want, rel=1e-4)


def test_nothing_is_learnt_within_crowds(small_sabl, images, samples, make_sample):
    model = small_sabl(assign={"ignore_iof_thr": 0.5})
    head, maps = model.bbox_head, model.extract_feat(images)
    free = summed(head.loss(maps, samples))
    samples[1].ignored_instances = InstanceData(bboxes=torch.tensor([[40.0, 0.0, 96.0, 64.0]]))
    want = by_hand(head, maps, samples)
    got = summed(head.loss(maps, samples))
    assert got == pytest.approx(want, rel=1e-4)
    assert got["loss_cls"] != pytest.approx(free["loss_cls"], rel=1e-3)


def test_images_without_objects_teach_background_alone(small_sabl, images, samples, make_sample):
    empty = make_sample(64, 96, [], [])
    model = small_sabl()
    head, maps = model.bbox_head, model.extract_feat(images)
    for batch in ([samples[0], empty], [empty, empty]):
        assert summed(head.loss(maps, batch)) == pytest.approx(by_hand(head, maps, batch), rel=1e-4)
    losses = model.train()(images, [empty, empty], mode="loss")
    check_gradients(model, [sum(levels) for levels in losses.values()])
    assert sum(losses["loss_bbox_cls"]) == sum(losses["loss_bbox_reg"]) == 0


def test_gradients_reach_everything(small_sabl, images, samples):
    model = small_sabl().train()
    losses = model(images, samples, mode="loss")
    check_gradients(model, [sum(levels) for levels in losses.values()])


def test_a_square_takes_part_where_one_of_its_shapes_is_inside(small_sabl, images, samples):
    head = small_sabl(allowed_border=0).bbox_head
    sizes = [(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)]
    truth = GroundTruth.pack([each.gt_instances for each in samples])
    squares = head.prior_generator.grid_priors(sizes)
    found = head.get_targets(squares, sizes, truth, [each.metainfo for each in samples])
    want = [
        any(x1 >= 0 and y1 >= 0 and x2 < 96 and y2 < 64 for x1, y1, x2, y2 in shapes.tolist())
        for size, stride in zip(sizes, STRIDES, strict=True)
        for _, shapes in cells(size, stride)
    ]
    inside = torch.tensor(want)
    assert 10 < inside.sum() < len(inside) - 10
    assert not (found.matches >= 0)[:, ~inside].any()
    lone = GroundTruth.pack([samples[0].gt_instances[:0]])
    alone = head.get_targets(squares, sizes, lone, [samples[0].metainfo])
    assert torch.equal(alone.matches[0] == 0, inside)


def test_another_assigner_goes_by_the_squares(small_sabl, images, samples):
    sizes = [(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)]
    truth = GroundTruth.pack([each.gt_instances for each in samples])
    found = []
    for kind in ("MaxIoUAssigner", "ApproxMaxIoUAssigner"):
        head = small_sabl(assign={"type": kind}).bbox_head
        squares = head.prior_generator.grid_priors(sizes)
        found.append(head.get_targets(squares, sizes, truth, [each.metainfo for each in samples]).matches)
        if kind == "MaxIoUAssigner":
            assert torch.equal(found[0], head.train_cfg.assigner.match(torch.cat(squares), truth))
    assert not torch.equal(*found)


def test_a_score_is_that_of_its_class_times_the_sureness_of_its_box(small_sabl, images, samples):
    model = small_sabl().eval()
    head = model.bbox_head
    head.test_cfg.nms_pre, head.test_cfg.score_thr = 4, 0.0
    with torch.no_grad():
        maps = model.extract_feat(images)
        scores, sides = head(maps)
        found = head.predict_by_feat(
            scores, sides, [each.metainfo for each in samples], with_nms=False, rescale=True
        )
    squares = head.prior_generator.grid_priors([each.shape[-2:] for each in maps])
    for image, result in enumerate(found):
        got = {tuple(round(value, 2) for value in [*box, score, label]) for box, score, label in zip(
            result.bboxes.tolist(), result.scores.tolist(), result.labels.tolist(), strict=True)}  # fmt: skip
        want = set()
        for level, priors in enumerate(squares):
            flat = scores[level][image].sigmoid().flatten(1).T  # [A, 3]
            best, places = flat.flatten().topk(min(4, flat.numel()))
            rows = places // 3
            pair = [each[image].flatten(1).T[rows] for each in sides[level]]
            decoded, sure = head.bbox_coder.decode(priors[rows], pair, (64, 96))
            for box, score, label in zip(
                decoded.tolist(), (best * sure).tolist(), (places % 3).tolist(), strict=True
            ):
                want.add(tuple(round(value, 2) for value in [*box, score, label]))
        assert len(got) == len(result) > 10
        assert got == want
        boxes_of = result.bboxes
        assert (boxes_of >= 0).all()
        assert boxes_of[:, 0::2].max() <= 95
        assert boxes_of[:, 1::2].max() <= 63


def generator(**given):
    return AnchorGenerator(**{"strides": STRIDES, "ratios": [1.0], "scales": [4], **given})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"scales": [4, 8]}, "got 2 on"),
        ({"strides": [4, 8, 16, 32, 64]}, r"got 1 on \[\(4, 4\)"),
        ({"scales": [8]}, "first scale of the shapes that they stand for, got 8.0 for 4.0"),
    ],
)
def test_squares_that_do_not_fit_their_shapes_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        SABLRetinaHead(3, 16, square_anchor_generator=generator(**given))


def test_they_are_two_classes_above_their_parts():
    for component in (SABLRetinaHead, BucketingBBoxCoder, ApproxMaxIoUAssigner):
        ours = [cls for cls in component.__mro__[1:] if cls.__module__.startswith(("det_models", "detcore"))]
        assert len(ours) <= 2, ours
