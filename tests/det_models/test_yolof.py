"""YOLOF: its losses against a computation by hand, and what the joint logit is."""

import math

import pytest
import torch
from det_models.anchors import AnchorGenerator
from det_models.atss_assign import ATSSAssigner
from det_models.dense_cfg import DenseTrainCfg
from det_models.dilated_encoder import DilatedEncoder
from det_models.losses.cross_entropy import CrossEntropyLoss
from det_models.yolof import YOLOF, YOLOFHead

from detcore.structures import InstanceData
from detcore.structures.bbox import bbox_overlaps

BOXES = [[10.0, 12.0, 50.0, 60.0], [20.0, 30.0, 90.0, 60.0]]


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def samples(make_sample):
    return [make_sample(64, 96, BOXES, [0, 2]), make_sample(64, 96, BOXES[:1], [1])]


def focal(p, positive):
    return -0.25 * (1 - p) ** 2 * math.log(p) if positive else -0.75 * p**2 * math.log(1 - p)


def test_losses_are_those_of_a_computation_by_hand(one_stage, images, samples):
    model = one_stage("YOLOF")
    head = model.bbox_head
    scores, encoded = (each[0].detach() for each in head(model.extract_feat(images)))
    anchors = head.prior_generator.grid_priors([(2, 3)])[0]
    classes = boxes = 0.0
    num_positive = 0
    for image, sample in enumerate(samples):
        logits = scores[image].unflatten(0, (5, 3)).permute(2, 3, 0, 1).reshape(-1, 3)
        predicted = head.bbox_coder.decode(
            anchors, encoded[image].unflatten(0, (5, 4)).permute(2, 3, 0, 1).reshape(-1, 4)
        )
        result = head.train_cfg.assigner.assign(
            InstanceData(priors=anchors, decoder_priors=predicted), sample.gt_instances
        )
        num_positive += max(1, int((result.gt_inds > 0).sum()))
        for place, owner in enumerate(result.gt_inds.tolist()):
            label = int(sample.gt_instances.labels[owner - 1]) if owner > 0 else 3
            if owner >= 0:
                each = logits[place].sigmoid().tolist()
                classes += sum(focal(p, number == label) for number, p in enumerate(each))
        pairs = (result.extra[name] for name in ("pos_idx", "pos_predicted_boxes", "target_boxes"))
        for counts, box, gt in zip(*pairs, strict=True):
            boxes += bool(counts) * (1 - float(bbox_overlaps(box[None], gt[None], "giou", is_aligned=True)))
    losses = model(images, samples, mode="loss")
    assert float(losses["loss_cls"].detach()) == pytest.approx(classes / num_positive, rel=1e-4)
    assert float(losses["loss_bbox"].detach()) == pytest.approx(boxes / num_positive, rel=1e-4)
    assert num_positive > 4


def test_the_score_is_the_product_of_class_and_objectness(one_stage):
    head = one_stage("YOLOF").bbox_head
    x = torch.randn(2, 16, 4, 5, generator=torch.Generator().manual_seed(1))
    cls, obj = head.cls_score(head.cls_subnet(x)).sigmoid(), head.object_pred(head.bbox_subnet(x)).sigmoid()
    want = cls.unflatten(1, (5, 3)) * obj[:, :, None]
    torch.testing.assert_close(head([x])[0][0].sigmoid(), want.flatten(1, 2))


def test_a_wild_start_is_finite(one_stage):
    head = one_stage("YOLOF").bbox_head
    with torch.no_grad():
        head.cls_score.bias.fill_(200.0)
        head.object_pred.bias.fill_(200.0)
    assert head([torch.zeros(1, 16, 2, 2)])[0][0].isfinite().all()


def test_the_encoder_sees_the_last_map_and_starts_as_its_authors_have_it():
    torch.manual_seed(0)
    neck = DilatedEncoder(64, 32, 16, 2, [2, 4])
    neck.init_weights()
    blocks = neck.dilated_encoder_blocks
    assert [block.conv2.conv.dilation for block in blocks] == [(2, 2), (4, 4)]
    kernels = [p.detach() for name, p in blocks.named_parameters() if name.endswith("conv.weight")]
    assert float(torch.cat([each.flatten() for each in kernels]).std()) == pytest.approx(0.01, rel=0.05)
    assert float(neck.lateral_conv.weight.detach().std()) == pytest.approx(64**-0.5, rel=0.1)
    out = neck([torch.zeros(1, 3, 9, 9), torch.randn(2, 64, 5, 6)])
    assert [each.shape for each in out] == [(2, 32, 5, 6)]
    with pytest.raises(ValueError, match=r"num_residual_blocks=2 and block_dilations=\[2\]"):
        DilatedEncoder(64, 32, 16, 2, [2])


def test_what_it_cannot_do_is_said():
    with pytest.raises(ValueError, match="one map, got anchors of 2 levels"):
        YOLOFHead(3, 16, anchor_generator=AnchorGenerator([16, 32], ratios=[1.0], scales=[1]))
    with pytest.raises(ValueError, match="use_sigmoid=True"):
        YOLOFHead(3, 16, loss_cls=CrossEntropyLoss())
    with pytest.raises(ValueError, match=r"UniformAssigner, got train_cfg\.assigner of type ATSSAssigner"):
        YOLOFHead(3, 16, train_cfg=DenseTrainCfg(assigner=ATSSAssigner(9)))


def test_the_head_starts_with_rare_classes():
    head = YOLOFHead(4, 32)
    head.init_weights()
    torch.testing.assert_close(head.cls_score.bias.sigmoid(), torch.full((20,), 0.01))


def test_it_is_two_classes_above_its_parts():
    for component in (YOLOF, YOLOFHead):
        ours = [cls for cls in component.__mro__[1:] if cls.__module__.startswith(("det_models", "detcore"))]
        assert len(ours) <= 2, ours
