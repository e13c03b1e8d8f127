"""Double heads: linear layers classify, convolutions locate, the latter on enlarged regions."""

import pytest
import torch

from detcore.registry import MODELS
from detcore.structures.bbox import bbox2roi


def head(**given):
    given = {
        "num_convs": 2,
        "num_fcs": 2,
        "in_channels": 4,
        "conv_out_channels": 8,
        "fc_out_channels": 6,
        **given,
    }
    torch.manual_seed(0)
    return MODELS.build({"type": "DoubleConvFCBBoxHead", "num_classes": 3, **given})


def test_layers_have_the_references_names_and_the_branches_do_not_mix():
    made = head()
    layers = {name.rpartition(".")[0] for name in made.state_dict()}
    blocks = [
        f"res_block.{name}.{part}" for name in ("conv1", "conv2", "conv_identity") for part in ("conv", "bn")
    ]
    blocks += [f"conv_branch.{n}.{part}{k}" for n in (0, 1) for part in ("conv", "bn") for k in (1, 2, 3)]
    assert layers == {*blocks, "fc_branch.0", "fc_branch.1", "fc_cls", "fc_reg"}
    x_cls, x_reg = (torch.rand(5, 4, 7, 7, requires_grad=True) for _ in range(2))
    cls_score, bbox_pred = made(x_cls, x_reg)
    assert (cls_score.shape, bbox_pred.shape) == ((5, 4), (5, 12))
    assert (
        torch.autograd.grad(cls_score.sum(), [x_cls, x_reg], allow_unused=True, retain_graph=True)[1] is None
    )
    assert torch.autograd.grad(bbox_pred.sum(), [x_cls, x_reg], allow_unused=True)[0] is None


def test_no_regions_and_other_norms():
    made = head(norm_cfg={"type": "GN", "num_groups": 2}, reg_class_agnostic=True)
    assert not any("bn" in name for name in made.state_dict())
    cls_score, bbox_pred = made(torch.rand(0, 4, 7, 7), torch.rand(0, 4, 7, 7))
    assert (cls_score.shape, bbox_pred.shape) == ((0, 4), (0, 4))


def test_weights_start_as_in_the_paper():
    made = head(in_channels=32, fc_out_channels=128, conv_out_channels=128)
    made.init_weights()
    assert float(made.fc_cls.weight.detach().std()) == pytest.approx(0.01, rel=0.15)
    assert float(made.fc_reg.weight.detach().std()) == pytest.approx(0.001, rel=0.15)
    bound = (6 / (32 * 49 + 128)) ** 0.5
    assert 0.95 * bound < float(made.fc_branch[0].weight.detach().abs().max()) <= bound


@pytest.mark.parametrize("numbers", [(0, 2), (2, 0)])
def test_a_branch_without_layers_is_refused(numbers):
    with pytest.raises(
        ValueError, match=f"num_convs and num_fcs must be at least 1, got {numbers[0]} and {numbers[1]}"
    ):
        head(num_convs=numbers[0], num_fcs=numbers[1])


def test_boxes_are_predicted_from_enlarged_regions(parts, filled, region_images, region_samples):
    model = filled(parts.double_heads()).eval()
    roi_head = model.roi_head
    rois = bbox2roi([sample.proposals.bboxes for sample in region_samples])
    seen = []
    roi_head.bbox_head.register_forward_hook(lambda module, given, out: seen.extend(given))
    with torch.no_grad():
        feats = model.extract_feat(region_images)
        found = roi_head._bbox_forward(feats, rois)
        extract = roi_head.bbox_roi_extractor
        torch.testing.assert_close(seen[0], extract(feats, rois))
        torch.testing.assert_close(seen[1], extract(feats, rois, roi_scale_factor=1.3))
    assert not torch.equal(*seen)
    assert torch.equal(found["bbox_feats"], seen[0])
