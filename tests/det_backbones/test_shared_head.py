"""The last stage of a ResNet as the shared head of a second stage, and R-CNNs that are built so."""

import copy

import pytest
import torch
from det_backbones.resnet import ResNet
from det_backbones.shared_head import ResLayer
from torch import nn

from detcore.config import Config
from detcore.errors import ConfigError
from detcore.registry import MODELS
from detcore.structures import DetDataSample, InstanceData
from detcore.structures.mask import BitmapMasks

SIZE = (64, 96)


@pytest.mark.parametrize(("depth", "stage"), [(18, 0), (18, 1), (34, 2), (50, 1), (50, 3)])
def test_its_weights_are_named_and_shaped_as_in_the_backbone(depth, stage):
    with torch.device("meta"):
        head = ResLayer(depth, stage, stride=2 if stage else 1).state_dict()
        whole = ResNet(depth).state_dict()
    mine = {name: value.shape for name, value in whole.items() if name.startswith(f"layer{stage + 1}.")}
    assert {name: value.shape for name, value in head.items()} == mine


@pytest.mark.parametrize("style", ["pytorch", "caffe"])
@pytest.mark.parametrize(("stride", "dilation"), [(2, 1), (1, 2)])
def test_it_is_the_backbones_stage(style, stride, dilation):
    torch.manual_seed(0)
    steps = {"strides": (1, 2, 2, stride), "dilations": (1, 1, 1, dilation), "style": style}
    whole = ResNet(18, out_indices=(2, 3), **steps).eval()
    head = ResLayer(18, 3, stride, dilation, style).eval()
    weights = {name: value for name, value in whole.state_dict().items() if name.startswith("layer4.")}
    head.load_state_dict(weights, strict=True)
    third, fourth = whole(torch.rand(2, 3, 64, 96))
    assert torch.allclose(head(third), fourth, atol=1e-5)
    assert (head.in_channels, head.out_channels) == (third.shape[1], fourth.shape[1])


def test_batch_norms_keep_their_averages_in_training_unless_told_otherwise():
    x = torch.rand(2, 64, 8, 8)
    for norm_eval in (True, False):
        head = ResLayer(18, 1, norm_eval=norm_eval).train()
        norms = [each for each in head.modules() if isinstance(each, nn.BatchNorm2d)]
        assert {each.training for each in norms} == {not norm_eval}
        head(x)
        moved = [bool(each.running_mean.abs().max() > 0) for each in norms]
        assert moved == [not norm_eval] * len(norms)
        assert head.training
        assert all(each.weight.requires_grad for each in norms)


def test_its_weights_start_by_kaiming_and_from_a_checkpoint_of_the_whole_network(tmp_path):
    head = ResLayer(18, 1)
    assert [each["type"] for each in head.init_cfg] == ["Kaiming", "Constant"]
    whole = ResNet(18)
    torch.save(whole.state_dict(), tmp_path / "resnet18.pth")
    path = str(tmp_path / "resnet18.pth")
    for given in ({"pretrained": path}, {"init_cfg": {"type": "Pretrained", "checkpoint": path}}):
        head = MODELS.build({"type": "ResLayer", "depth": 18, "stage": 1, **given})
        head.init_weights()
        assert torch.equal(head.layer2[1].conv2.weight, whole.layer2[1].conv2.weight)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"depth": 51}, r"depth \[18, 34, 50, 101, 152\], got 51"),
        ({"depth": 50, "stage": 4}, "stage must be 0 to 3, got 4"),
        ({"depth": 50, "pretrained": "a", "init_cfg": {"type": "Kaiming"}}, "or init_cfg, not both"),
        ({"depth": 18, "dcn": {"type": "DCN"}}, "BasicBlock .* has no dcn"),
    ],
)
def test_arguments_that_mean_nothing_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        ResLayer(**given)


# ---------------------------------------------------------------------------- in a second stage


def without_fpn(name, depth=18):
    """A shipped config of an R-CNN without FPN on a small ResNet, with few classes and few regions."""
    model = copy.deepcopy(Config.fromfile(f"detcore::{name}").model)
    model.backbone.update(depth=depth, init_cfg=None)
    model.roi_head.shared_head.update(depth=depth, init_cfg=None)
    model.rpn_head.update(in_channels=256, feat_channels=16)
    model.roi_head.bbox_roi_extractor.out_channels = 256
    model.roi_head.bbox_head.update(in_channels=512, num_classes=3)
    if "mask_head" in model.roi_head:
        model.roi_head.mask_head.update(in_channels=512, conv_out_channels=8, num_classes=3)
    model.train_cfg.rpn_proposal.max_per_img = model.test_cfg.rpn.max_per_img = 20
    model.test_cfg.rcnn.score_thr = 0.0
    torch.manual_seed(0)
    model = MODELS.build(model)
    model.init_weights()
    return model


def picture():
    height, width = SIZE
    meta = {"img_shape": SIZE, "ori_shape": SIZE, "pad_shape": SIZE, "batch_input_shape": SIZE}
    sample = DetDataSample(metainfo={**meta, "scale_factor": (1.0, 1.0)})
    masks = torch.zeros(2, height, width, dtype=torch.uint8)
    masks[0, 4:40, 8:50] = masks[1, 20:60, 40:90] = 1
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([[8.0, 4, 50, 40], [40, 20, 90, 60]]), labels=torch.tensor([0, 2])
    )
    sample.gt_instances.masks = BitmapMasks(masks.numpy(), height, width)
    sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4))
    return torch.randn(1, 3, *SIZE), [sample]


FASTER = "faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco.py"
MASK = "mask_rcnn/mask-rcnn_r50-caffe-c4_1x_coco.py"


@pytest.mark.parametrize("name", [FASTER, MASK])
def test_r_cnns_without_fpn_train_through_the_shared_stage(name):
    model = without_fpn(name).train()
    images, samples = picture()
    losses = model(images, samples, mode="loss")
    assert ("loss_mask" in losses) == (name == MASK)
    parts = [value for key, value in losses.items() if "loss" in key]
    total = sum(sum(part) if isinstance(part, list) else part for part in parts)
    assert total.isfinite()
    total.backward()
    last = model.roi_head.shared_head.layer4[1].conv2.weight
    assert last.grad is not None
    assert last.grad.abs().max() > 0


@pytest.mark.parametrize("name", [FASTER, MASK])
def test_r_cnns_without_fpn_predict(name):
    model = without_fpn(name).eval()
    images, samples = picture()
    with torch.no_grad():
        (found,) = model(images, samples, mode="predict")
    found = found.pred_instances
    assert len(found) > 0
    if name == MASK:
        assert found.masks.shape == (len(found), *SIZE)


def test_masks_are_read_from_the_shared_stage_both_times():
    """In training the features are the box head's own, in predictions they are made anew: the same."""
    head = without_fpn(MASK).eval().roi_head
    assert head.mask_roi_extractor is head.bbox_roi_extractor
    maps = (torch.randn(1, 256, 4, 6),)
    rois = torch.tensor([[0.0, 8, 4, 50, 40], [0, 40, 20, 90, 60], [0, 1, 2, 30, 31]])
    chosen = torch.tensor([True, False, True])
    with torch.no_grad():
        of_boxes = head._bbox_forward(maps, rois)["bbox_feats"]
        trained = head._mask_forward(maps, pos_inds=chosen, bbox_feats=of_boxes)
        predicted = head._mask_forward(maps, rois[chosen])
    assert trained["mask_feats"].shape == (2, 512, 7, 7)
    assert trained["mask_preds"].shape == (2, 3, 14, 14)
    assert torch.allclose(trained["mask_preds"], predicted["mask_preds"], atol=1e-5)


def test_without_an_extractor_of_its_own_a_mask_head_needs_the_box_heads():
    model = copy.deepcopy(Config.fromfile(f"detcore::{MASK}").model.roi_head)
    del model.bbox_head, model.bbox_roi_extractor
    with torch.device("meta"), pytest.raises(ConfigError, match="no extractor of features for it"):
        MODELS.build(model)
