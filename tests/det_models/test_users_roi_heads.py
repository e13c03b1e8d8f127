"""Second stages of users' own over ours: the manual's example, and what may be redefined or be a dict."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from det_models.assign import MaxIoUAssigner
from det_models.bbox_heads import BBoxHead
from det_models.conv_fc_heads import Shared2FCBBoxHead
from det_models.mask_rcnn import FCNMaskHead
from det_models.roi_extract import SingleRoIExtractor
from det_models.roi_head import BaseRoIHead, StandardRoIHead
from det_models.samplers import QuotaSampler as BaseSampler
from det_models.two_stage import TwoStageDetector
from torch import nn

from detcore.registry import MODELS, TASK_UTILS
from detcore.structures import InstanceData
from detcore.structures.bbox import bbox2roi

USERS_CODE = Path(__file__).with_name("users_code")
MANUALS_CONFIG = """_base_ = 'detcore::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
model = dict(
    roi_head=dict(
        type='DoubleHeadRoIHead',
        reg_roi_scale_factor=1.3,
        bbox_head=dict(
            _delete_=True,
            type='DoubleConvFCBBoxHead',
            num_convs=4,
            num_fcs=2,
            in_channels=256,
            conv_out_channels=1024,
            fc_out_channels=1024,
            roi_feat_size=7,
            num_classes=80,
            bbox_coder=dict(
                type='DeltaXYWHBBoxCoder',
                target_means=[0., 0., 0., 0.],
                target_stds=[0.1, 0.1, 0.2, 0.2]),
            reg_class_agnostic=False,
            loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=2.0),
            loss_bbox=dict(type='SmoothL1Loss', beta=1.0, loss_weight=2.0))))
"""
ONE_STEP = """
import json, sys
import torch
from detcore.config import Config
from detcore.plugins import load_user_modules
from detcore.registry import MODELS
from detcore.testing import tiny_batch

code, config, overrides = sys.argv[1:]
load_user_modules(files=[code], trusted=True)
cfg = Config.fromfile(config)
cfg.merge_from_dict({"model.train_cfg.rcnn.sampler.num": 16, **json.loads(overrides)})  # 512 take a minute
torch.manual_seed(0)
cfg.model.backbone.init_cfg = None
model = MODELS.build(cfg.model)
model.init_weights()
for part in (model.roi_head, model.roi_head.bbox_head):
    assert not type(part).__module__.startswith("det_models"), type(part)
    assert type(part).__name__.startswith("Double")
head = model.roi_head.bbox_head
with torch.no_grad():
    assert 0.008 < float(head.fc_cls.weight.std()) < 0.012 and float(head.fc_reg.weight.std()) < 0.0012
before = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}
optimizer = torch.optim.SGD(model.parameters(), 0.02)
images, samples = tiny_batch(80, size=(64, 96))
losses = model.train()(images, samples, mode="loss")
assert set(losses) == {"loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox", "acc"}, losses
sum(sum(v) if isinstance(v, list) else v for k, v in losses.items() if "loss" in k).backward()
optimizer.step()
after = dict(model.named_parameters())
still = [name for name, value in before.items() if name.startswith("roi") and torch.equal(value, after[name])]
assert not [name for name in still if "conv.bias" not in name], still
with torch.no_grad():
    model.eval()
    model.roi_head.test_cfg.score_thr = 0.0
    assert len(model(images, samples, mode="predict")[0].pred_instances) > 0
print("one step")
"""


def total(losses):
    return sum(sum(v) if isinstance(v, list) else v for name, v in losses.items() if "loss" in name)


def values(losses):
    return {n: (sum(v) if isinstance(v, list) else v).detach() for n, v in losses.items()}


@pytest.mark.parametrize(
    "overrides",
    [
        {f"model.roi_head.bbox_head.{name}_out_channels": 32 for name in ("conv", "fc")},
        pytest.param({}, marks=pytest.mark.slow),
    ],
    ids=["narrow", "as_it_is"],
)
def test_the_manuals_double_heads_train_from_its_config(overrides, tmp_path):
    """In a process of its own: its classes are registered under names that ours have, too."""
    config = tmp_path / "config.py"
    config.write_text(MANUALS_CONFIG)
    arguments = [str(USERS_CODE / "double_heads.py"), str(config), json.dumps(overrides)]
    command = [sys.executable, "-W", "error::UserWarning", "-c", ONE_STEP, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.stdout.endswith("one step\n"), done.stdout + done.stderr


@pytest.mark.parametrize(
    "name",
    [
        "init_assigner_sampler", "init_bbox_head", "init_mask_head", "forward", "loss", "_bbox_forward",
        "bbox_loss", "mask_loss", "_mask_forward", "predict_bbox", "predict_mask", "predict", "with_bbox",
        "with_mask", "with_shared_head",
    ],
)  # fmt: skip
def test_the_manuals_names_are_there(name):
    assert hasattr(StandardRoIHead, name)
    assert issubclass(StandardRoIHead, BaseRoIHead)


class OldRoIHead(StandardRoIHead):
    """In the manual's form: it takes dicts and builds from them, here and there."""

    def __init__(
        self,
        bbox_roi_extractor=None,
        bbox_head=None,
        mask_roi_extractor=None,
        mask_head=None,
        shared_head=None,
        train_cfg=None,
        test_cfg=None,
        init_cfg=None,
    ):
        assert isinstance(bbox_head, dict)
        super().__init__(
            bbox_roi_extractor=bbox_roi_extractor,
            bbox_head=bbox_head,
            mask_roi_extractor=mask_roi_extractor,
            mask_head=mask_head,
            shared_head=shared_head,
            train_cfg=train_cfg,
            test_cfg=test_cfg,
            init_cfg=init_cfg,
        )

    def init_assigner_sampler(self):
        self.bbox_assigner = None
        self.bbox_sampler = None
        if self.train_cfg:
            self.bbox_assigner = TASK_UTILS.build(self.train_cfg.assigner)
            self.bbox_sampler = TASK_UTILS.build(self.train_cfg.sampler, default_args={"context": self})

    def init_bbox_head(self, bbox_roi_extractor, bbox_head):
        self.bbox_roi_extractor = MODELS.build(bbox_roi_extractor)
        self.bbox_head = MODELS.build(bbox_head)

    def init_mask_head(self, mask_roi_extractor, mask_head):
        self.share_roi_extractor = False
        self.mask_roi_extractor = MODELS.build(mask_roi_extractor)
        self.mask_head = MODELS.build(mask_head)


def test_a_roi_head_that_takes_dicts_and_builds_gives_the_same_losses(
    parts, filled, region_images, region_samples
):
    cfg = parts.every_region(parts.mask_rcnn())
    want = values(filled(cfg)(region_images, region_samples, mode="loss"))
    cfg["roi_head"]["type"] = OldRoIHead
    model = filled(cfg)
    torch.testing.assert_close(values(model(region_images, region_samples, mode="loss")), want)
    assert isinstance(model.roi_head.bbox_assigner, MaxIoUAssigner)
    with torch.no_grad():
        found = model.eval()(region_images, region_samples, mode="predict")[0].pred_instances
    assert found.masks.shape[1:] == (96, 128)


def test_a_detector_that_hands_plain_configs_on(parts, filled, region_images, region_samples):
    class OldDetector(TwoStageDetector):
        def __init__(
            self,
            backbone,
            rpn_head,
            roi_head,
            train_cfg,
            test_cfg,
            neck=None,
            data_preprocessor=None,
            init_cfg=None,
        ):
            assert isinstance(roi_head, dict)
            super().__init__(
                backbone=backbone, neck=neck, rpn_head=rpn_head, roi_head=roi_head, train_cfg=train_cfg,
                test_cfg=test_cfg, init_cfg=init_cfg, data_preprocessor=data_preprocessor,
            )  # fmt: skip

    cfg = parts.every_region(parts.mask_rcnn())
    want = values(filled(cfg)(region_images, region_samples, mode="loss"))
    model = filled({**cfg, "type": OldDetector})
    torch.testing.assert_close(values(model(region_images, region_samples, mode="loss")), want)


class FirstSampler(BaseSampler):
    """A user's sampler in the manual's form: the first ones that there are."""

    def __init__(self, num, pos_fraction, neg_pos_ub=-1, add_gt_as_proposals=True, **kwargs):
        super().__init__(num, pos_fraction, neg_pos_ub, add_gt_as_proposals)

    def _sample_pos(self, assign_result, num_expected, **kwargs):
        return torch.nonzero(assign_result.gt_inds > 0, as_tuple=False).squeeze(1)[:num_expected]

    def _sample_neg(self, assign_result, num_expected, **kwargs):
        return torch.nonzero(assign_result.gt_inds == 0, as_tuple=False).squeeze(1)[:num_expected]


def test_a_sampler_of_ones_own(parts, filled, region_images, region_samples):
    cfg = parts.mask_rcnn()
    cfg["train_cfg"]["rcnn"]["sampler"] = {"type": FirstSampler, "num": 6, "pos_fraction": 0.5}
    model, seen = filled(cfg), []
    model.roi_head.bbox_head.register_forward_hook(lambda module, given, out: seen.append(len(given[0])))
    total(model(region_images, region_samples, mode="loss")).backward()
    assert seen == [12]


class WeighedHead(Shared2FCBBoxHead):
    """A user's box head: one argument more, and a loss of its own besides ours."""

    def __init__(self, margin: float, **kwargs):
        super().__init__(**kwargs)
        self.margin = margin

    def loss(self, cls_score, bbox_pred, rois, labels, *args, **kwargs):
        losses = super().loss(cls_score, bbox_pred, rois, labels, *args, **kwargs)
        losses["loss_margin"] = (self.margin - cls_score.amax(1)).clamp(min=0).mean()
        return losses


def test_a_box_head_of_ones_own(parts, filled, region_images, region_samples):
    cfg = parts.every_region(parts.faster_rcnn())
    want = values(filled(cfg)(region_images, region_samples, mode="loss"))
    cfg["roi_head"]["bbox_head"] = parts.bbox_head(type=WeighedHead, margin=50.0)
    losses = filled(cfg)(region_images, region_samples, mode="loss")
    assert losses["loss_margin"] > 0
    got = values(losses)
    del got["loss_margin"]
    torch.testing.assert_close(got, want)


class HandMadeHead(BBoxHead):
    """A user's head that makes all its layers itself."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        width = self.in_channels * self.roi_feat_area
        self.fc_cls = nn.Linear(width, self.num_classes + 1)
        self.fc_reg = nn.Linear(width, 4 * self.num_classes)

    def forward(self, x):
        return self.fc_cls(x.flatten(1)), self.fc_reg(x.flatten(1))


class ListeningRoIHead(StandardRoIHead):
    """A user's RoI head: it redefines what the manual names, and calls ours."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.calls = []

    def _bbox_forward(self, x, rois):
        self.calls.append("_bbox_forward")
        return super()._bbox_forward(x, rois)

    def bbox_loss(self, x, sampling_results):
        self.calls.append("bbox_loss")
        found = super().bbox_loss(x, sampling_results)
        assert {"cls_score", "bbox_pred", "bbox_feats", "loss_bbox"} <= set(found)
        return found

    def mask_loss(self, x, sampling_results, bbox_feats, batch_gt_instances):
        self.calls.append("mask_loss")
        found = super().mask_loss(x, sampling_results, bbox_feats, batch_gt_instances)
        found["loss_mask"].update(loss_area=found["mask_preds"].sigmoid().mean())
        return found

    def _mask_forward(self, x, rois=None, pos_inds=None, bbox_feats=None):
        self.calls.append("_mask_forward")
        return super()._mask_forward(x, rois, pos_inds, bbox_feats)

    def predict_bbox(self, x, batch_img_metas, rpn_results_list, rcnn_test_cfg, rescale=False):
        self.calls.append("predict_bbox")
        return super().predict_bbox(x, batch_img_metas, rpn_results_list, rcnn_test_cfg, rescale=rescale)

    def predict_mask(self, x, batch_img_metas, results_list, rescale=False):
        self.calls.append("predict_mask")
        return super().predict_mask(x, batch_img_metas, results_list, rescale=rescale)


def test_what_a_roi_head_redefines_is_called(parts, filled, region_images, region_samples):
    cfg = parts.mask_rcnn(bbox_head=parts.bbox_head(type=HandMadeHead))
    del cfg["roi_head"]["bbox_head"]["fc_out_channels"]
    cfg["roi_head"]["type"] = ListeningRoIHead
    model = filled(cfg)
    losses = model(region_images, region_samples, mode="loss")
    assert losses["loss_area"] > 0
    total(losses).backward()
    assert model.roi_head.calls == ["bbox_loss", "_bbox_forward", "mask_loss", "_mask_forward"]
    model.roi_head.calls.clear()
    with torch.no_grad():
        model.eval()(region_images, region_samples, mode="predict")
    assert model.roi_head.calls == ["predict_bbox", "_bbox_forward", "predict_mask", "_mask_forward"]


class BoxesOnly(BaseRoIHead):
    """The least that a second stage is: proposals come out with a score of their own."""

    def init_assigner_sampler(self):
        self.asked = True

    def init_bbox_head(self, bbox_roi_extractor, bbox_head):
        self.extract, self.bbox_head = MODELS.build(bbox_roi_extractor), MODELS.build(bbox_head)

    def init_mask_head(self, mask_roi_extractor, mask_head):
        raise AssertionError("there is none")

    def loss(self, x, rpn_results_list, batch_data_samples):
        rois = bbox2roi([each.bboxes for each in rpn_results_list])
        return {"loss_any": sum(each.square().mean() for each in self.bbox_head(self.extract(x, rois)))}

    def predict_bbox(self, x, batch_img_metas, rpn_results_list, rcnn_test_cfg, rescale=False):
        return [
            InstanceData(bboxes=each.bboxes, scores=each.scores, labels=torch.zeros(len(each.bboxes)).long())
            for each in rpn_results_list
        ]

    def predict_mask(self, x, batch_img_metas, results_list, rescale=False):
        raise AssertionError("there is none")


def test_a_second_stage_from_the_base_alone(parts, filled, region_images, region_samples):
    cfg = parts.faster_rcnn()
    cfg["roi_head"]["type"] = BoxesOnly
    model = filled(cfg)
    assert model.roi_head.asked
    assert (model.with_bbox, model.with_mask) == (True, False)
    total(model(region_images, region_samples, mode="loss")).backward()
    assert model.roi_head.bbox_head.fc_cls.weight.grad.abs().sum() > 0
    with torch.no_grad():
        assert len(model.eval()(region_images, region_samples, mode="predict")[0].pred_instances) > 0


def test_parts_may_be_classes_and_modules(parts):
    extractor = MODELS.build(parts.extractor())
    head = StandardRoIHead(bbox_roi_extractor=extractor, bbox_head=parts.bbox_head(type=Shared2FCBBoxHead))
    assert head.bbox_roi_extractor is extractor
    assert isinstance(head.bbox_head, Shared2FCBBoxHead)
    head.init_mask_head(parts.extractor(14), parts.mask_head(type=FCNMaskHead))
    assert head.with_mask
    assert isinstance(head.mask_roi_extractor, SingleRoIExtractor)
