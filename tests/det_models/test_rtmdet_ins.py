"""RTMDet-Ins: its masks and their loss against a computation by hand, an object at a time."""

import copy
import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from det_models import rtmdet_masks
from det_models.dynamic_k_assign import DynamicKAssigner
from det_models.dynamic_soft_label import DynamicSoftLabelAssigner
from det_models.rtmdet_ins import RTMDetInsHead, RTMDetInsSepBNHead
from det_models.rtmdet_mask_loss import mask_rows, sampled_masks
from det_models.rtmdet_masks import DynamicConvs, MaskFeatModule, full_masks
from det_models.truth import GroundTruth

from detcore.config import Config
from detcore.errors import DataError
from detcore.registry import MODELS
from detcore.structures import InstanceData
from detcore.structures.mask import BitmapMasks, PolygonMasks

BOXES = [[10.0, 12.0, 50.0, 60.0], [20.0, 30.0, 90.0, 60.0]]
STRIDES = (8, 16, 32)
GROUPS = {"type": "GN", "num_groups": 4}
HEADS = {
    "separate": {},
    "objectness": {"with_objectness": True, "share_conv": False},
    "shared": {"type": "RTMDetInsHead", "with_objectness": True, "norm_cfg": GROUPS},
    "two_convs": {"num_dyconvs": 2, "num_prototypes": 4, "dyconv_channels": 5},
}


@pytest.fixture
def make(fill_by_name):
    """``make(kind of head, **arguments of the head)``: an RTMDet-Ins of a few thousand weights."""

    def small(kind="separate", **head):
        cfg = Config.fromfile("detcore::rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py").model
        cfg.backbone.update(widen_factor=0.125, norm_eval=True, init_cfg=None, norm_cfg={"type": "BN"})
        cfg.neck.update(in_channels="auto", out_channels=16, norm_cfg={"type": "BN"})
        cfg.bbox_head.update(num_classes=3, in_channels=16, feat_channels=16, stacked_convs=1)
        cfg.bbox_head.update({"norm_cfg": {"type": "BN"}, **HEADS[kind], **head})
        if "type" in HEADS[kind]:
            del cfg.bbox_head["share_conv"]
        return fill_by_name(MODELS.build(cfg))

    return small


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def with_masks(make_sample):
    """``with_masks(boxes, labels)``: an image whose objects are ellipses."""

    def make(boxes, labels, size=(64, 96)):
        sample = make_sample(*size, boxes, labels)
        y, x = np.mgrid[: size[0], : size[1]] + 0.5
        masks = [
            ((2 * x - x1 - x2) / (x2 - x1)) ** 2 + ((2 * y - y1 - y2) / (y2 - y1)) ** 2 <= 1
            for x1, y1, x2, y2 in boxes
        ]
        sample.gt_instances.masks = BitmapMasks(np.array(masks, np.uint8).reshape(-1, *size), *size)
        return sample

    return make


@pytest.fixture
def samples(with_masks):
    return [with_masks(BOXES, [0, 2]), with_masks(BOXES[:1], [1])]


def run(model, images, samples):
    """Losses by name, and the gradient of their sum by every parameter of the head."""
    model.zero_grad()
    losses = model(images, copy.deepcopy(samples), mode="loss")
    sum(part for each in losses.values() for part in (each if isinstance(each, list) else [each])).backward()
    gradients = {name: p.grad.clone() for name, p in model.bbox_head.named_parameters()}
    found = {n: torch.stack(each) if isinstance(each, list) else each for n, each in losses.items()}
    return {name: each.detach() for name, each in found.items()}, gradients


def one_mask(head, features, kernel, point):
    """Logits ``Tensor[h, w]`` of one object, a convolution at a time: weights of all, then biases of all."""
    height, width = features.shape[-2:]
    x, y, stride = point
    places = torch.stack(
        [
            ((x - 8 * torch.arange(width)) / (8 * stride)).expand(height, -1),
            ((y - 8 * torch.arange(height)) / (8 * stride))[:, None].expand(-1, width),
        ]
    )
    maps = torch.cat([places, features])[None]
    wide = head.dyconv_channels
    sizes = [(head.num_prototypes + 2, wide), *[(wide, wide)] * (head.num_dyconvs - 2), (wide, 1)]
    kernel, weights = kernel.clone(), []
    for before, after in sizes:
        weights.append(kernel[: before * after].view(after, before, 1, 1))
        kernel = kernel[before * after :]
    for number, (weight, (_, after)) in enumerate(zip(weights, sizes, strict=True)):
        maps = F.conv2d(maps, weight, kernel[:after])
        kernel = kernel[after:]
        maps = maps.relu() if number < len(sizes) - 1 else maps
    assert not len(kernel)
    return maps[0, 0]


def cells(outputs, image):
    """Class logits, box, kernel and (x, y, stride) of every cell of an image, in the order of the points."""
    for level, stride in enumerate(STRIDES):
        height, width = outputs[0][level].shape[-2:]
        for row in range(height):
            for column in range(width):
                logits, sides, kernel = (part[level][image, :, row, column].detach() for part in outputs[:3])
                left, top, right, bottom = sides.tolist()
                x, y = column * stride, row * stride
                yield logits, [x - left, y - top, x + right, y + bottom], kernel, (x, y, stride)


@pytest.mark.parametrize("kind", HEADS)
def test_the_mask_loss_is_that_of_a_computation_by_hand(kind, make, images, samples):
    model = make(kind)
    head = model.bbox_head
    outputs = head(model.extract_feat(images))
    losses = []
    for number, sample in enumerate(samples):
        every = list(cells(outputs, number))
        predicted = InstanceData(
            priors=torch.tensor([(x, y, s, s) for *_, (x, y, s) in every], dtype=torch.float32),
            bboxes=torch.tensor([box for _, box, _, _ in every]),
            scores=torch.stack([logits for logits, *_ in every]),
        )
        matches = DynamicSoftLabelAssigner(topk=13).assign(predicted, sample.gt_instances).gt_inds.tolist()
        for (_, _, kernel, point), match in zip(every, matches, strict=True):
            if match:
                logits = one_mask(head, outputs[3][number].detach(), kernel, point)
                p = F.interpolate(logits[None, None], scale_factor=2, mode="bilinear")[0, 0].sigmoid()
                mask = torch.from_numpy(sample.gt_instances.masks.masks[match - 1][2::4, 2::4]).float()
                dice = 2 * float((p * mask).sum()) / float((p**2).sum() + (mask**2).sum() + 1e-5)
                losses.append(2 * (1 - dice))
    assert len(losses) >= 3
    found = model(images, copy.deepcopy(samples), mode="loss")
    assert {*found} == {"loss_cls", "loss_bbox", "loss_mask"}
    assert float(found["loss_mask"].detach()) == pytest.approx(sum(losses) / len(losses), rel=1e-4)


@pytest.mark.parametrize("numbers", [(0, 0), (2, 0)], ids=["none", "one_image"])
def test_images_without_objects_are_all_background(numbers, make, images, with_masks):
    samples = [with_masks(BOXES[:number], [0, 2][:number]) for number in numbers]
    losses, gradients = run(make(), images, samples)
    assert (losses["loss_cls"] > 0).all()
    assert (losses["loss_mask"] > 0) == any(numbers)
    assert all(gradient.isfinite().all() for gradient in gradients.values())


def test_crowds_change_nothing(make, images, samples):
    model = make()
    want = run(model, images, samples)
    for sample in samples:
        sample.ignored_instances = InstanceData(bboxes=torch.tensor([[0.0, 0.0, 96.0, 64.0]]))
    torch.testing.assert_close(run(model, images, samples), want)


@pytest.mark.parametrize("kind", HEADS)
def test_every_parameter_of_the_head_learns(kind, make, images, samples):
    _, gradients = run(make(kind), images, samples)
    idle = [name for name, gradient in gradients.items() if not gradient.any()]
    # Boxes and kernels need an object on the level, which these images do not have on all.
    assert all("reg" in name or "kernel" in name or "scale" in name for name in idle), idle
    for part in ("rtm_kernel", "kernel_convs", "mask_head"):
        assert any(part in name for name in set(gradients) - set(idle)), part


@pytest.mark.parametrize("numbers", [(2, 1), (0, 2), (0, 0)], ids=str)
def test_as_many_rows_as_there_can_be_are_the_same_loss_as_the_few_with_an_object(
    numbers, make, images, with_masks, monkeypatch
):
    """What a device does, where the number of positives would have to be waited for."""
    samples = [with_masks(BOXES[:number], [0, 2][:number]) for number in numbers]
    model = make()
    want = run(model, images, samples)
    monkeypatch.setattr("det_models.rtmdet_mask_loss.mask_rows", partial(mask_rows, bounded=True))
    torch.testing.assert_close(run(model, images, samples), want, rtol=1e-4, atol=1e-5)


def test_an_assigner_that_tells_no_greatest_number_is_asked_for_its_matches(
    make, images, samples, monkeypatch
):
    model = make()
    want = run(model, images, samples)
    own = model.bbox_head.train_cfg.assigner

    class Assigner:
        def assign(self, *args):
            return own.assign(*args)

    assert isinstance(own, DynamicKAssigner)
    model.bbox_head.train_cfg.assigner = Assigner()
    monkeypatch.setattr("det_models.rtmdet_mask_loss.mask_rows", partial(mask_rows, bounded=True))
    torch.testing.assert_close(run(model, images, samples), want, rtol=1e-4, atol=1e-5)


def test_the_mask_loss_is_averaged_over_the_objects_of_all_ranks(make, images, samples, monkeypatch):
    model = make()
    want, _ = run(model, images, samples)
    distributed = torch.distributed
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    # The other rank has three times ours.
    monkeypatch.setattr(distributed, "all_reduce", lambda value: value.mul_(4))
    got, _ = run(model, images, samples)
    torch.testing.assert_close(got["loss_mask"], want["loss_mask"] / 2)


def test_rows_are_numbered_by_the_objects_of_the_batch():
    matches = torch.tensor([[0, 2, -1, 1], [0, 0, 0, 0], [3, 0, 0, 1]])
    instances = [
        InstanceData(bboxes=torch.rand(n, 4), labels=torch.zeros(n, dtype=torch.long)) for n in (2, 1, 3)
    ]
    truth = GroundTruth.pack(instances)
    rows = mask_rows(matches, truth, 2)
    assert rows.index.tolist() == [1, 3, 8, 11]
    assert rows.objects.tolist() == [1, 0, 5, 3]
    assert rows.counts == [2, 0, 2]
    rows = mask_rows(matches, truth, 2, bounded=True)
    assert rows.counts == [4, 2, 4]
    found = sorted(zip(rows.index.tolist(), rows.objects.tolist(), rows.weights.tolist(), strict=True))
    assert [each[:2] for each in found if each[2]] == [(1, 1), (3, 0), (8, 5), (11, 3)]


def test_masks_are_sampled_in_the_middle_of_every_so_many_pixels(with_masks):
    samples = [with_masks(BOXES, [0, 2]), with_masks([], []), with_masks(BOXES[:1], [1], size=(50, 70))]
    found = sampled_masks([each.gt_instances for each in samples], 4, (16, 24), torch.device("cpu"))
    assert found.shape == (3, 16, 24)
    masks = [*samples[0].gt_instances.masks.masks, samples[2].gt_instances.masks.masks[0]]
    for got, mask in zip(found.tolist(), masks, strict=True):
        for row in range(16):
            for column in range(24):
                y, x = 4 * row + 2, 4 * column + 2
                inside = y < mask.shape[0] and x < mask.shape[1]
                assert got[row][column] == (mask[y, x] if inside else 0)
    none = sampled_masks([samples[1].gt_instances], 4, (16, 24), torch.device("cpu"))
    assert none.shape == (1, 16, 24)
    assert not none.any()


def test_polygons_are_learnt_from_as_they_are(make, images, make_sample):
    corners = [[np.array([10.0, 12, 50, 12, 50, 60, 10, 60])]]
    both = [make_sample(64, 96, BOXES[:1], [1]) for _ in range(2)]
    polygons = PolygonMasks(corners, 64, 96)
    found = []
    for masks in (polygons, BitmapMasks(polygons.to_ndarray(), 64, 96)):
        for sample in both:
            sample.gt_instances.masks = masks
        found.append(run(make(), images, both)[0])
    torch.testing.assert_close(*found)


# -- prediction ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", HEADS)
def test_predicted_masks_are_those_of_the_cells_that_predicted_the_boxes(kind, make, images, samples):
    model = make(kind).eval()
    model.bbox_head.test_cfg.score_thr = 0.0
    with torch.no_grad():
        outputs = model.bbox_head(model.extract_feat(images))
        predicted = model.predict(images, copy.deepcopy(samples), rescale=False)
    checked = 0
    for number, sample in enumerate(predicted):
        found = sample.pred_instances
        assert {*found.keys()} == {"bboxes", "scores", "labels", "masks"}
        assert found.masks.shape == (len(found), 64, 96)
        for logits, box, kernel, point in cells(outputs, number):
            box = torch.tensor(box).clamp(min=0).minimum(torch.tensor([96.0, 64, 96, 64]))
            same = (found.bboxes - box).abs().amax(1) < 1e-3
            same &= (found.scores - logits.sigmoid()[found.labels]).abs() < 1e-6
            for mask in found.masks[same]:
                want = one_mask(model.bbox_head, outputs[3][number], kernel, point)
                want = F.interpolate(want[None, None], scale_factor=8, mode="bilinear")[0, 0]
                assert not ((mask != (want > 0)) & (want.abs() > 1e-4)).any()
                checked += 1
    assert checked > 20


def test_masks_and_boxes_are_put_back_into_the_image(make, images, samples):
    model = make().eval()
    model.bbox_head.test_cfg.score_thr = 0.0
    for sample in samples:
        sample.set_metainfo({"ori_shape": (30, 47), "scale_factor": (2.0, 2.0)})
    with torch.no_grad():
        small, large = (
            model.predict(images, copy.deepcopy(samples), rescale=rescale)[0].pred_instances
            for rescale in (True, False)
        )
    assert small.masks.shape == (len(small), 30, 47)
    torch.testing.assert_close(small.bboxes * 2, large.bboxes)
    share = (large.masks[:, ::2, ::2][:, :30, :47] == small.masks).float().mean()
    assert share > 0.95


@pytest.mark.parametrize("factor", [None, (0.75, 0.5), (1.5, 1.6)])
def test_masks_are_enlarged_to_the_input_and_from_there_to_the_image(factor, monkeypatch):
    logits = torch.randn(5, 4, 6, generator=torch.Generator().manual_seed(0))
    want = F.interpolate(logits[None], scale_factor=8, mode="bilinear")
    size = (29, 41) if factor is None else (int(32 / factor[1]) - 2, int(48 / factor[0]) - 1)
    if factor is not None:
        resized = [math.ceil(32 / factor[1]), math.ceil(48 / factor[0])]
        want = F.interpolate(want, size=resized, mode="bilinear")
    want = want[0, :, : size[0], : size[1]].sigmoid()
    for threshold in (0.5, 0.3):
        found = full_masks(logits, 8, size, factor, threshold)
        assert found.dtype == torch.bool
        assert torch.equal(found, want > threshold)
        monkeypatch.setitem(rtmdet_masks._PIXELS, "cpu", 1)
        assert torch.equal(full_masks(logits, 8, size, factor, threshold), found)
    assert full_masks(logits, 8, size, factor, 0.0).all()
    assert not full_masks(logits, 8, size, factor, 1.0).any()
    assert full_masks(logits[:0], 8, size, factor, 0.5).shape == (0, *size)


def test_nothing_found_is_no_masks(make, images, samples):
    model = make().eval()
    model.bbox_head.test_cfg.score_thr = 1.0
    with torch.no_grad():
        for sample in model.predict(images, samples):
            assert sample.pred_instances.masks.shape == (0, 64, 96)
            assert sample.pred_instances.bboxes.shape == (0, 4)


# -- layers --------------------------------------------------------------------------------------


def test_the_features_of_masks_are_made_of_all_levels():
    module = MaskFeatModule(4, feat_channels=6, stacked_convs=1, num_levels=2, num_prototypes=3).eval()
    maps = [torch.randn(2, 4, 8, 8), torch.randn(2, 4, 4, 4)]
    enlarged = F.interpolate(maps[1], size=(8, 8), mode="bilinear")
    fused = F.conv2d(torch.cat([maps[0], enlarged], 1), module.fusion_conv.weight, module.fusion_conv.bias)
    torch.testing.assert_close(module(maps), module.projection(module.stacked_convs[0](fused)))
    assert module(maps).shape == (2, 3, 8, 8)


def test_places_keep_their_precision_under_autocast():
    """Near a cell far from the corner: in bfloat16 the numbers that they are differences of differ by 4."""
    convs = DynamicConvs(2, 4, 1)
    columns, rows = torch.meshgrid(torch.arange(160.0), torch.arange(4.0), indexing="xy")
    grid = 8 * torch.stack((columns, rows), dim=-1).view(-1, 2)
    kernels = torch.tensor([[64.0, 0, 0, 0, 0], [0.0, 64, 0, 0, 1]])  # pixels to the cell, along x and y
    points = torch.tensor([[1233.0, 5, 8, 8], [100.0, 11, 8, 8]])
    with torch.autocast("cpu", torch.bfloat16):
        found = convs(torch.zeros(1, 2, 4, 160, dtype=torch.bfloat16), grid, kernels, points, [2])
    want = torch.stack((1233 - 8 * columns, 11 - 8 * rows + 1))
    torch.testing.assert_close(found.float(), want)


def test_an_object_has_169_numbers_by_default():
    assert DynamicConvs(8, 8, 3).num_params == 169
    assert RTMDetInsSepBNHead(3, 8, feat_channels=8).num_gen_params == 169


def test_classes_and_boxes_have_one_network_and_levels_have_their_own_kernels():
    head = RTMDetInsSepBNHead(3, 8, feat_channels=8, stacked_convs=2)
    for level in range(3):
        assert head.reg_convs[level] is head.cls_convs[level]
        assert head.cls_convs[level][0].conv is head.cls_convs[0][0].conv
        assert (head.cls_convs[level][0].bn is head.cls_convs[0][0].bn) == (level == 0)
        assert (head.kernel_convs[level][0].conv is head.kernel_convs[0][0].conv) == (level == 0)
    assert "reg_convs.2.1.conv.weight" in head.state_dict()
    alone = RTMDetInsSepBNHead(3, 8, feat_channels=8, stacked_convs=2, share_conv=False)
    assert list(alone.state_dict()) == list(head.state_dict())
    assert len(list(alone.parameters())) > len(list(head.parameters()))


def test_heads_start_with_rare_classes_and_boxes_of_a_stride():
    for head in (
        RTMDetInsHead(4, 8, feat_channels=8, stacked_convs=1, norm_cfg=GROUPS),
        RTMDetInsSepBNHead(4, 8, feat_channels=8, stacked_convs=1, with_objectness=True),
    ):
        torch.manual_seed(0)
        head.init_weights()
        for name, parameter in head.named_parameters():
            if name.startswith(("rtm_cls", "rtm_obj")) and name.endswith("bias"):
                torch.testing.assert_close(parameter.sigmoid(), torch.full_like(parameter, 0.01))
            elif name.startswith("rtm_reg") and name.endswith("bias"):
                assert (parameter == (0 if isinstance(head, RTMDetInsHead) else 1)).all()
            elif parameter.ndim == 4:
                assert parameter.std() < 0.015, name


def test_what_it_cannot_do_is_said(make, images, make_sample):
    with pytest.raises(ValueError, match=r"RTMDetInsHead .* first stride, 8, .* got 3"):
        RTMDetInsHead(3, 8, mask_loss_stride=3)
    with pytest.raises(ValueError, match="num_dyconvs must be at least 1, got 0"):
        RTMDetInsSepBNHead(3, 8, num_dyconvs=0)
    with pytest.raises(ValueError, match="2 feature maps for a head of 3 levels"):
        RTMDetInsSepBNHead(3, 8, feat_channels=8)([torch.zeros(1, 8, 8, 8)] * 2)
    samples = [make_sample(64, 96, BOXES, [0, 2]), make_sample(64, 96, BOXES[:1], [1])]
    with pytest.raises(DataError, match=r"image 0 of the batch has no gt_instances.masks.*with_mask=True"):
        make()(images, samples, mode="loss")
