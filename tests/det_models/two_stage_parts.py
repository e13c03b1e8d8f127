"""Configs of two-stage detectors of a few thousand weights; conftest.py hands this module to the tests."""

import copy
from copy import deepcopy
from typing import Any

ANCHORS = {
    "type": "AnchorGenerator", "scales": [4], "ratios": [0.5, 1.0, 2.0], "strides": [4, 8, 16, 32, 64],
}  # fmt: skip
RPN_TRAIN = {
    "assigner": {"type": "MaxIoUAssigner", "pos_iou_thr": 0.7, "neg_iou_thr": 0.3, "min_pos_iou": 0.3},
    "sampler": {"type": "RandomSampler", "num": 64, "pos_fraction": 0.5, "add_gt_as_proposals": False},
    "allowed_border": -1,
    "pos_weight": -1,
    "debug": False,
}
RPN_TEST = {
    "nms_pre": 100, "max_per_img": 50, "nms": {"type": "nms", "iou_threshold": 0.7}, "min_bbox_size": 0,
}  # fmt: skip


def rpn_head(**given: Any) -> dict[str, Any]:
    return {
        "type": "RPNHead", "in_channels": 16, "feat_channels": 16, "anchor_generator": ANCHORS,
        "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True}, "loss_bbox": {"type": "L1Loss"},
        **given,
    }  # fmt: skip


def extractor(size: int = 7, **given: Any) -> dict[str, Any]:
    return {
        "type": "SingleRoIExtractor",
        "roi_layer": {"type": "RoIAlign", "output_size": size, "sampling_ratio": 0},
        "out_channels": 16,
        "featmap_strides": [4, 8, 16, 32],
        **given,
    }


def bbox_head(num_classes: int = 3, **given: Any) -> dict[str, Any]:
    return {
        "type": "Shared2FCBBoxHead", "in_channels": 16, "fc_out_channels": 32, "num_classes": num_classes,
        "loss_bbox": {"type": "L1Loss"}, **given,
    }  # fmt: skip


def mask_head(num_classes: int = 3, **given: Any) -> dict[str, Any]:
    return {
        "type": "FCNMaskHead", "num_convs": 1, "in_channels": 16, "conv_out_channels": 8,
        "num_classes": num_classes, **given,
    }  # fmt: skip


def rcnn_train(iou: float = 0.5, **given: Any) -> dict[str, Any]:
    return {
        "assigner": {
            "type": "MaxIoUAssigner", "pos_iou_thr": iou, "neg_iou_thr": iou, "min_pos_iou": iou,
            "match_low_quality": False, "ignore_iof_thr": -1,
        },
        "sampler": {"type": "RandomSampler", "num": 32, "pos_fraction": 0.25, "add_gt_as_proposals": True},
        "pos_weight": -1,
        "debug": False,
        **given,
    }  # fmt: skip


def faster_rcnn(num_classes: int = 3, **roi_head: Any) -> dict[str, Any]:
    return {
        "type": "FasterRCNN",
        "data_preprocessor": {"type": "DetDataPreprocessor", "pad_size_divisor": 32},
        "backbone": {"type": "ResNet", "depth": 18, "base_channels": 16, "norm_eval": True},
        "neck": {"type": "FPN", "in_channels": [16, 32, 64, 128], "out_channels": 16, "num_outs": 5},
        "rpn_head": rpn_head(),
        "roi_head": {
            "type": "StandardRoIHead",
            "bbox_roi_extractor": extractor(),
            "bbox_head": bbox_head(num_classes),
            **roi_head,
        },
        "train_cfg": {"rpn": deepcopy(RPN_TRAIN), "rpn_proposal": {**RPN_TEST}, "rcnn": rcnn_train()},
        "test_cfg": {
            "rpn": RPN_TEST,
            "rcnn": {"score_thr": 0.05, "nms": {"type": "nms", "iou_threshold": 0.5}, "max_per_img": 20},
        },
    }


def mask_rcnn(num_classes: int = 3, **roi_head: Any) -> dict[str, Any]:
    masks = {"mask_roi_extractor": extractor(14), "mask_head": mask_head(num_classes)}
    model = faster_rcnn(num_classes, **{**masks, **roi_head})
    model["type"] = "MaskRCNN"
    model["train_cfg"]["rcnn"] = rcnn_train(mask_size=28)
    model["test_cfg"]["rcnn"] = {**model["test_cfg"]["rcnn"], "mask_thr_binary": 0.5}
    return model


def fast_rcnn(num_classes: int = 3, **roi_head: Any) -> dict[str, Any]:
    model = faster_rcnn(num_classes, **roi_head)
    del model["rpn_head"], model["train_cfg"]["rpn"], model["train_cfg"]["rpn_proposal"]
    return {**model, "type": "FastRCNN"}


def rpn(**head: Any) -> dict[str, Any]:
    model = faster_rcnn()
    del model["roi_head"], model["train_cfg"]["rcnn"], model["test_cfg"]["rcnn"]
    return {**model, "type": "RPN", "rpn_head": rpn_head(**head)}


def double_heads(num_classes: int = 3) -> dict[str, Any]:
    head = {
        "type": "DoubleConvFCBBoxHead", "num_convs": 2, "num_fcs": 2, "in_channels": 16,
        "conv_out_channels": 32, "fc_out_channels": 32, "num_classes": num_classes,
    }  # fmt: skip
    return faster_rcnn(num_classes, type="DoubleHeadRoIHead", reg_roi_scale_factor=1.3, bbox_head=head)


def cascade_rcnn(num_classes: int = 3, masks: bool = True) -> dict[str, Any]:
    agnostic = [bbox_head(num_classes, reg_class_agnostic=True) for _ in range(3)]
    model = mask_rcnn(num_classes) if masks else faster_rcnn(num_classes)
    model["type"] = "CascadeRCNN"
    model["roi_head"].update(
        type="CascadeRoIHead", num_stages=3, stage_loss_weights=[1, 0.5, 0.25], bbox_head=agnostic
    )
    model["train_cfg"]["rcnn"] = [rcnn_train(iou, mask_size=28) for iou in (0.5, 0.6, 0.7)]
    return model


def every_region(model: dict[str, Any]) -> dict[str, Any]:
    """The model with samplers that leave nothing out, so that its losses do not depend on chance."""
    model = copy.deepcopy(model)
    stages = model["train_cfg"].get("rcnn", [])
    for stage in [model["train_cfg"].get("rpn", {}), *(stages if isinstance(stages, list) else [stages])]:
        if "sampler" in stage:
            stage["sampler"].update(num=1_000_000, pos_fraction=0.5)
    return model


def _ohem() -> dict[str, Any]:
    model = every_region(faster_rcnn())
    model["train_cfg"]["rcnn"]["sampler"] = {"type": "OHEMSampler", "num": 16, "pos_fraction": 0.25}
    return model


_BILINEAR = {"type": "bilinear", "scale_factor": 2}
_FOUR_CONVS = {
    "type": "Shared4Conv1FCBBoxHead", "in_channels": 16, "conv_out_channels": 8, "fc_out_channels": 32,
    "num_classes": 3, "norm_cfg": {"type": "GN", "num_groups": 2},
}  # fmt: skip
_DECODED = {
    "reg_class_agnostic": True, "reg_decoded_bbox": True,
    "loss_bbox": {"type": "GIoULoss", "loss_weight": 10.0},
}  # fmt: skip

VARIANTS = {  # those that golden/two_stage.json has the reference's figures of
    "rpn": lambda: every_region(rpn()),
    "rpn_two_convs_decoded": lambda: every_region(
        rpn(num_convs=2, reg_decoded_bbox=True, loss_bbox={"type": "IoULoss", "loss_weight": 10.0})
    ),
    "fast_rcnn": lambda: every_region(fast_rcnn()),
    "faster_rcnn": lambda: every_region(faster_rcnn()),
    "faster_rcnn_agnostic_decoded": lambda: every_region(faster_rcnn(bbox_head=bbox_head(**_DECODED))),
    "faster_rcnn_four_convs": lambda: every_region(faster_rcnn(bbox_head=_FOUR_CONVS)),
    "faster_rcnn_ohem": _ohem,
    "mask_rcnn": lambda: every_region(mask_rcnn()),
    "mask_rcnn_agnostic": lambda: every_region(
        mask_rcnn(mask_head=mask_head(class_agnostic=True, upsample_cfg=_BILINEAR))
    ),
    "cascade_rcnn": lambda: every_region(cascade_rcnn(masks=False)),
    "cascade_mask_rcnn": lambda: every_region(cascade_rcnn()),
    "double_heads": lambda: every_region(double_heads()),
}  # fmt: skip
