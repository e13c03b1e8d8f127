"""Every component of our own packages keeps the promises of its kind, and none can be forgotten.

A new component of a kind that the kit checks needs an example in `EXAMPLES`, or its test fails. What kind a
component is follows from its registry and from how it is called, not from its name.
"""

import copy
import inspect
import json
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from detcore.config import Config
from detcore.plugins import host
from detcore.registry import MODELS
from detcore.registry.core import REGISTRIES
from detcore.testing import (
    check_backbone,
    check_dataset,
    check_detector,
    check_gradients,
    check_hook,
    check_loss,
    check_metric,
    check_neck,
    check_transform,
    tiny_coco,
    tiny_results,
)

ROOT = Path(__file__).resolve().parents[3]
CLASSES = ("circle", "square", "triangle", "star", "ring")
# Registries whose components are all of one kind.
KINDS = {"datasets": "dataset", "transforms": "transform", "metrics": "metric", "hooks": "hook"}


def kind_of(scope, registry, component):
    """What a component is, for those that the kit has a check for; None for all others."""
    if registry in KINDS:
        return KINDS[registry]
    if registry == "models" and scope == "detcore":  # layers and moving averages
        takes = set(inspect.signature(component).parameters)
        return "convolution" if {"in_channels", "out_channels", "kernel_size"} <= takes else None
    if registry != "models":
        return None
    arguments = inspect.signature(component.forward).parameters
    if "reduction_override" in arguments:
        return "loss"
    if "mode" in arguments:
        return "detector" if "tta_cfg" not in inspect.signature(component).parameters else None
    if "rois" in arguments:
        return "extractor"
    if hasattr(component, "loss_and_target"):
        return "region_head"
    is_head = hasattr(component, "loss") and hasattr(component, "predict")
    takes_batches = {"data_samples", "data"} & set(arguments)
    return None if is_head or takes_batches else "network"


def our_scopes():
    """The core and every installed scope whose package lies in this repository."""
    folders = {
        path.parent.name for pattern in ("*", "plugins/*") for path in ROOT.glob(f"{pattern}/plugin.py")
    }
    records = host().records().items()
    return ["detcore", *(s for s, record in records if record.claims[0].module.partition(".")[0] in folders)]


def components():
    for scope in our_scopes():
        for registry, name, reference in host().table(scope):
            kind = kind_of(scope, registry, reference.load())
            if kind is not None:
                yield f"{scope}.{registry}.{name}", kind


# ---------------------------------------------------------------------------------------------- examples


def detector():
    model = Config.fromfile("detcore::shapes/retinanet_r18_fpn_shapes.py").model
    model.backbone.update(base_channels=8)
    model.neck.update(in_channels="auto", out_channels=32)
    model.bbox_head.update(in_channels=32, feat_channels=32, stacked_convs=1)
    return model


def fcos():
    model = detector()
    model.type = "FCOS"
    model.bbox_head = {
        "type": "FCOSHead", "num_classes": 5, "in_channels": 32, "feat_channels": 32, "stacked_convs": 1,
        "strides": (8, 16, 32, 64, 128), "norm_cfg": {"type": "GN", "num_groups": 4},
        "norm_on_bbox": True, "centerness_on_reg": True, "center_sampling": True,
    }  # fmt: skip
    return model


def nas_fcos():
    model = fcos()
    model.type = "NASFCOS"
    model.neck = {"type": "NASFCOS_FPN", "in_channels": "auto", "out_channels": 32, **NAS_CELLS}
    model.bbox_head["type"] = "NASFCOSHead"
    return model


def yolox():
    model = Config.fromfile("detcore::yolox/yolox_nano_8xb8-300e_coco.py").model
    model.data_preprocessor.batch_augments = None
    model.backbone.update(widen_factor=0.125)
    model.neck.update(in_channels="auto", out_channels=16)
    model.bbox_head.update(num_classes=5, in_channels=16, feat_channels=16)
    return model


def rtmdet(name="rtmdet_tiny_8xb32-300e_coco"):
    model = Config.fromfile(f"detcore::rtmdet/{name}.py").model
    model.backbone.update(widen_factor=0.125, init_cfg=None, norm_cfg={"type": "BN"})
    model.neck.update(in_channels="auto", out_channels=16, norm_cfg={"type": "BN"})
    model.bbox_head.update(
        num_classes=5, in_channels=16, feat_channels=16, stacked_convs=1, norm_cfg={"type": "BN"}
    )
    return model


def taught(kind, model):
    """A teacher and a student that make a batch with branches of a plain one: both views are the image."""
    of_kind = MODELS.get(f"semi.{kind}")

    class Taught(of_kind):
        def forward(self, inputs, data_samples=None, mode="tensor"):
            if mode == "loss":
                views = {"unsup_teacher": copy.deepcopy(data_samples), "unsup_student": data_samples}
                for view in views.values():
                    for sample in view:
                        sample.set_metainfo({"homography_matrix": np.eye(3)})
                inputs = dict.fromkeys(("sup", *views), inputs)
                data_samples = {"sup": data_samples, **views}
            return super().forward(inputs, data_samples, mode)

    of_both = {"pseudo_label_initial_score_thr": 0.1, "rpn_pseudo_thr": 0.2}
    settings = {"cls_pseudo_thr": 0.2, **(of_both if kind == "SoftTeacher" else {})}
    return lambda: MODELS.build({"type": Taught, "detector": model, "semi_train_cfg": settings})


def one_stage(kind, head, assigner=None, **arguments):
    """A detector with one anchor a cell, or none, and a head with group norms."""
    model = detector()
    anchors = {"type": "AnchorGenerator", "ratios": [1.0], "octave_base_scale": 8, "scales_per_octave": 1}
    model.type = kind
    model.bbox_head = {
        "type": head, "num_classes": 5, "in_channels": 32, "feat_channels": 32, "stacked_convs": 1,
        "anchor_generator": {**anchors, "strides": [8, 16, 32, 64, 128]},
        "norm_cfg": {"type": "GN", "num_groups": 4}, **arguments,
    }  # fmt: skip
    model.train_cfg = {"assigner": assigner or {"type": "ATSSAssigner", "topk": 9}}
    return model


def fovea():
    model = one_stage("FOVEA", "FoveaHead", with_deform=True, strides=(8, 16, 32, 64, 128))
    del model["train_cfg"], model.bbox_head["anchor_generator"]
    return model


def tood():
    model = one_stage("TOOD", "TOODHead", {"type": "TaskAlignedAssigner", "topk": 13})
    model.train_cfg["initial_assigner"] = {"type": "ATSSAssigner", "topk": 9}
    return model


def ddod():
    model = one_stage("DDOD", "DDODHead", {"type": "ATSSAssigner", "topk": 9, "alpha": 0.8})
    model.train_cfg["reg_assigner"] = {"type": "ATSSAssigner", "topk": 9, "alpha": 0.5}
    return model


def sabl():
    model = one_stage("RetinaNet", "SABLRetinaHead", {**matched_by_overlap(0.5), **APPROX})
    del model.bbox_head["anchor_generator"]
    return model


def reppoints():
    model = one_stage("RepPointsDetector", "RepPointsHead", point_feat_channels=16)
    del model.bbox_head["anchor_generator"]
    model.train_cfg = {
        "init": {"assigner": {"type": "PointAssigner", "scale": 4, "pos_num": 1}},
        "refine": {"assigner": matched_by_overlap(0.5)},
    }
    return model


def autoassign():
    model = one_stage("AutoAssign", "AutoAssignHead", strides=(8, 16, 32, 64, 128))
    del model["train_cfg"], model.bbox_head["anchor_generator"]
    return model


def centernet():
    """One map of stride 4, on which objects are peaks."""
    model = detector()
    model.type = "CenterNet"
    model.neck = CT_NECK
    model.bbox_head = {"type": "CenterNetHead", "num_classes": 5, "in_channels": 8, "feat_channels": 8}
    del model["train_cfg"]
    model.test_cfg = {"topk": 20, "local_maximum_kernel": 3}
    return model


def centernet_update():
    model = autoassign()
    model.type = "CenterNet"
    model.bbox_head["type"] = "CenterNetUpdateHead"
    return model


def yolof():
    model = detector()
    model.type = "YOLOF"
    model.backbone.update(out_indices=(3,))
    model.neck = {**DILATED, "in_channels": 64, "out_channels": 16}
    model.bbox_head = {"type": "YOLOFHead", "num_classes": 5, "in_channels": 16, "num_reg_convs": 2}
    model.train_cfg = {
        "assigner": {"type": "UniformAssigner", "pos_ignore_thr": 0.15, "neg_ignore_thr": 0.7}
    }
    return model


def yolov3():
    channels = [16, 8, 8]
    sizes = [[(60, 40), (30, 50)], [(20, 20), (12, 30)], [(8, 8), (10, 5)]]
    model = detector()
    model.type = "YOLOV3"
    model.backbone.update(out_indices=(1, 2, 3))
    model.neck = {
        "type": "YOLOV3Neck", "num_scales": 3, "in_channels": [64, 32, 16], "out_channels": channels
    }  # fmt: skip
    model.bbox_head = {
        "type": "YOLOV3Head", "num_classes": 5, "in_channels": channels, "out_channels": channels,
        "anchor_generator": {"type": "YOLOAnchorGenerator", "strides": [32, 16, 8], "base_sizes": sizes},
    }  # fmt: skip
    model.train_cfg = {"assigner": {"type": "GridAssigner", "pos_iou_thr": 0.5, "neg_iou_thr": 0.5}}
    return model


APPROX = {"type": "ApproxMaxIoUAssigner", "neg_iou_thr": 0.4, "min_pos_iou": 0.0}
DILATED = {
    "type": "DilatedEncoder", "block_mid_channels": 8, "num_residual_blocks": 2, "block_dilations": [1, 2],
}  # fmt: skip
CT_NECK = {
    "type": "CTResNetNeck", "in_channels": 64,
    "num_deconv_filters": (16, 8, 8), "num_deconv_kernels": (4, 4, 4),
}  # fmt: skip
NAS_CELLS = {"conv_cfg": {"type": "DCNv2", "deform_groups": 2}, "norm_cfg": {"type": "BN"}}
REGION = {"score_thr": 0.0, "nms": {"type": "nms", "iou_threshold": 0.5}, "max_per_img": 20}
PROPOSALS = {"nms_pre": 60, "max_per_img": 30, "nms": {"type": "nms", "iou_threshold": 0.7}}


def matched_by_overlap(threshold):
    names = ("pos_iou_thr", "neg_iou_thr", "min_pos_iou")
    return {"type": "MaxIoUAssigner", **dict.fromkeys(names, threshold)}


def extractor(size):
    return {
        "type": "SingleRoIExtractor",
        "roi_layer": {"type": "RoIAlign", "output_size": size, "sampling_ratio": 0},
        "out_channels": 32,
        "featmap_strides": [8, 16, 32, 64],
    }


def rpn():
    model = detector()
    del model["bbox_head"]
    anchors = {"type": "AnchorGenerator", "scales": [4], "ratios": [1.0], "strides": [8, 16, 32, 64, 128]}
    sampler = {"type": "RandomSampler", "num": 64, "pos_fraction": 0.5, "add_gt_as_proposals": False}
    return {
        **model,
        "type": "RPN",
        "rpn_head": {"type": "RPNHead", "in_channels": 32, "feat_channels": 32, "anchor_generator": anchors},
        "train_cfg": {"rpn": {"assigner": matched_by_overlap(0.5), "sampler": sampler}},
        "test_cfg": {"rpn": PROPOSALS},
    }


def two_stages(kind, masks=False):
    head = {"type": "Shared2FCBBoxHead", "in_channels": 32, "fc_out_channels": 32, "num_classes": 5}
    every = {"type": "RandomSampler", "num": 1000, "pos_fraction": 1.0}  # nothing left to chance
    stages = [
        {"assigner": matched_by_overlap(each), "sampler": every, "mask_size": 28} for each in (0.5, 0.6, 0.7)
    ]
    model = rpn()
    roi_head = {"type": "StandardRoIHead", "bbox_roi_extractor": extractor(7), "bbox_head": head}
    if masks:
        small = {"type": "FCNMaskHead", "num_convs": 1, "in_channels": 32, "conv_out_channels": 16}
        roi_head.update(mask_roi_extractor=extractor(14), mask_head={**small, "num_classes": 5})
    if kind == "CascadeRCNN":
        roi_head.update(type="CascadeRoIHead", num_stages=3, stage_loss_weights=[1, 0.5, 0.25])
    if kind == "FastRCNN":
        del model["rpn_head"]
        model["neck"]["num_outs"] = 4  # the fifth is for anchors
    train = {**model["train_cfg"], "rcnn": stages if kind == "CascadeRCNN" else stages[0]}
    settings = {"train_cfg": train, "test_cfg": {"rpn": PROPOSALS, "rcnn": REGION}}
    return {**model, "type": kind, "roi_head": roi_head, **settings}


def coco(folder):
    return {
        "type": "CocoDataset",
        "ann_file": str(tiny_coco(folder)),
        "data_prefix": {"img": f"{folder}/images/"},
        "metainfo": {"classes": CLASSES},
        "pipeline": [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations", "with_bbox": True}],
    }


def voc(folder, kind):
    """The same pictures with an XML file each."""
    content = json.loads(tiny_coco(folder).read_text())
    names = {each["id"]: each["name"] for each in content["categories"]}
    for image in content["images"]:
        objects = ""
        for each in content["annotations"]:
            if each["image_id"] == image["id"]:
                x, y, w, h = each["bbox"]
                edges = {"xmin": x + 1, "ymin": y + 1, "xmax": x + w + 1, "ymax": y + h + 1}
                box = "".join(f"<{edge}>{value}</{edge}>" for edge, value in edges.items())
                objects += f"<object><name>{names[each['category_id']]}</name><bndbox>{box}</bndbox></object>"
        stem = Path(image["file_name"]).stem
        (folder / f"{stem}.xml").write_text(f"<annotation>{objects}</annotation>")
    (folder / "list.txt").write_text("\n".join(Path(each["file_name"]).stem for each in content["images"]))
    return {
        **coco(folder), "type": kind, "ann_file": str(folder / "list.txt"), "img_subdir": "images",
        "ann_subdir": ".", "data_root": str(folder), "data_prefix": {"sub_data_root": str(folder)},
    }  # fmt: skip


def own_format(folder):
    """The annotations of the manual's own format, which `BaseDetDataset` reads."""
    content = json.loads(tiny_coco(folder).read_text())
    boxes = [
        each["bbox"] for each in content["annotations"] if each["image_id"] == content["images"][0]["id"]
    ]
    instances = [{"bbox": [x, y, x + w, y + h], "bbox_label": 0, "ignore_flag": 0} for x, y, w, h in boxes]
    image = content["images"][0]
    entry = {"img_path": image["file_name"], "height": image["height"], "width": image["width"]}
    file = folder / "own.json"
    file.write_text(json.dumps({
        "metainfo": {"classes": list(CLASSES)},
        "data_list": [{**entry, "img_id": 0, "instances": instances}],
    }))  # fmt: skip
    return {**coco(folder), "type": "BaseDetDataset", "ann_file": str(file)}


def on_disk(folder):
    """Results that still have to be loaded."""
    image = tiny_results()
    path = folder / "image.png"
    cv2.imwrite(str(path), image["img"])
    boxes = zip(image["gt_bboxes"].tolist(), image["gt_bboxes_labels"].tolist(), strict=True)
    instances = [{"bbox": box, "bbox_label": label, "ignore_flag": 0} for box, label in boxes]
    return {"img_path": str(path), "img_id": 0, "instances": instances}


def mixed():
    return {**tiny_results(), "mix_results": [tiny_results(objects) for objects in (1, 2, 0)]}


def logits(shape=(6, 5)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def boxes(shift):
    corner = torch.tensor([[0.0, 0.0], [5.0, 3.0], [2.0, 8.0], [9.0, 9.0]])
    return torch.cat([corner, corner + torch.tensor([10.0, 6.0])], 1) + shift


def deformable(kind):
    return {"dcn": {"type": kind, "deform_groups": 2}, "stage_with_dcn": (False, True, True, True)}


def check_convolution(kind, dims=2, **given):
    """A layer that ``conv_cfg`` may name: it learns, survives a round trip, and images do not mix in it."""
    torch.manual_seed(0)
    given = {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "padding": 1, **given}
    layer, twin = (MODELS.build({"type": kind, **given}) for _ in range(2))
    x = torch.rand(2, 4, *[8] * dims)
    out = layer(x)
    assert out.shape == (2, 6, *[8] * dims)
    check_gradients(layer, [out])
    twin.load_state_dict(layer.state_dict(), strict=True)
    assert torch.equal(twin(x), out)
    assert torch.allclose(layer(x[:1]), out[:1], atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).isfinite().all()


def check_regions_head(cfg, in_channels):
    """Layers between an extractor of regions and the heads: they learn, and regions do not mix in them."""
    torch.manual_seed(0)
    layers = MODELS.build(cfg)
    x = torch.rand(3, in_channels, 8, 8)
    out = layers(x)
    assert out.shape[:2] == (3, layers.out_channels)
    check_gradients(layers, [out])
    layers.eval()
    assert torch.allclose(layers(x[:1]), layers(x)[:1], atol=1e-5)
    assert layers(x[:0]).shape == (0, *out.shape[1:])


def check_regions(cfg, *features):
    """A head over regions: it learns from all of them, from none, too, and they do not mix in it."""
    torch.manual_seed(0)
    head, twin = (MODELS.build(cfg) for _ in range(2))

    def flat(found):
        return [each for part in found for each in flat(part)] if isinstance(found, tuple) else [found]

    def outputs(module, number):
        return flat(module(*(each[:number] for each in features)))

    check_gradients(head, outputs(head, 6))
    assert [len(each) for each in outputs(head, 0)] == [0] * len(outputs(head, 0))
    twin.load_state_dict(head.state_dict(), strict=True)
    runs = [outputs(module.eval(), number) for module, number in ((head, 6), (twin, 6), (head, 1))]
    for every, same, one in zip(*runs, strict=True):
        assert torch.equal(every, same)
        assert torch.allclose(every[:1], one, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(each.isfinite().all() for each in outputs(head, 6))


def check_harmonised(cfg):
    """A loss that divides by what it counts itself: finite, gradients, nothing where nothing counts."""
    loss, pred = MODELS.build(cfg), logits((6, 4)).requires_grad_()
    target, weight = logits((6, 4)).flip(0).sigmoid(), torch.ones(6, 4)
    each = loss(pred, target, weight, reduction_override="none")
    assert each.shape == pred.shape
    assert torch.allclose(loss(pred, target, weight), each.mean())
    assert torch.allclose(loss(pred, target, weight, avg_factor=7.0), each.mean())
    with torch.autocast("cpu", torch.bfloat16):
        loss(pred, target, weight).backward()
    assert pred.grad.isfinite().all()
    assert loss(pred, target, weight * 0) == loss(pred[:0], target[:0], weight[:0]) == 0


def check_extractor(cfg, channels):
    """Features of regions: of the image that they name, none for none, and every map may be asked for."""
    layer = MODELS.build(cfg)
    random = torch.Generator().manual_seed(0)
    maps = [torch.rand(2, channels, 64 // s, 64 // s, generator=random) for s in layer.featmap_strides]
    rois = torch.tensor([[0, 2.0, 3, 30, 40], [1, 2.0, 3, 30, 40], [1, 0, 0, 64, 64]])
    pooled = layer(maps, rois)
    assert pooled.shape[:2] == (3, channels)
    assert not torch.equal(pooled[0], pooled[1])
    assert torch.allclose(layer([each[1:] for each in maps], rois[:1]), pooled[1:2], atol=1e-5)
    assert layer(maps, rois[:0]).shape == (0, *pooled.shape[1:])


FEATURES = torch.rand(6, 8, 7, 7, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 4, 2, 5, 1, 5])  # 5 is the background
NO_FIGURES = {"num_classes": 5, "figures": False}
STANDARDISED = {"conv_cfg": {"type": "ConvWS"}, "norm_cfg": {"type": "GN", "num_groups": 4}}
HR_STAGES = {
    f"stage{branches}": {
        "num_modules": 1, "num_branches": branches, "block": "BASIC" if branches > 1 else "BOTTLENECK",
        "num_blocks": (1,) * branches, "num_channels": tuple(8 * 2**i for i in range(branches)),
    }
    for branches in (1, 2, 3, 4)
}  # fmt: skip
RESIZE = {"type": "Resize", "scale": (80, 60), "keep_ratio": True}

EXAMPLES = {
    "network": {
        "backbones.models.CSPDarknet": lambda _: [
            check_backbone({"type": "CSPDarknet", "deepen_factor": 0.33, "widen_factor": 0.125, **options})
            for options in ({}, {"use_depthwise": True, "out_indices": (0, 1, 2, 3, 4)})
        ],
        "backbones.models.CSPNeXt": lambda _: check_backbone(
            {"type": "CSPNeXt", "deepen_factor": 0.33, "widen_factor": 0.125}
        ),
        **{
            f"backbones.models.{given['type']}": partial(lambda _, given: check_backbone(given), given=given)
            for given in (
                {"type": "ConvNeXt", "arch": "atto", "out_indices": (0, 1, 2, 3)},
                {"type": "EfficientNet", "out_indices": (2, 3)},
                {"type": "HRNet", "extra": HR_STAGES},
                {"type": "PyramidVisionTransformer", "embed_dims": 8, "num_layers": (1, 1, 1, 1)},
                {"type": "PyramidVisionTransformerV2", "embed_dims": 8, "num_layers": (1, 1, 1, 1)},
                {"type": "RegNet", "arch": "regnetx_400mf"},
                {"type": "Res2Net", "depth": 50, "base_channels": 16, "stem_channels": 16},
                {"type": "SwinTransformer", "embed_dims": 12, "depths": (2, 2, 1, 1), "window_size": 4},
            )
        },
        "backbones.models.ResLayer": lambda _: check_regions_head(
            {"type": "ResLayer", "depth": 18, "stage": 1}, in_channels=64
        ),
        "backbones.models.ResNeXt": lambda _: [
            check_backbone(
                {"type": "ResNeXt", "depth": 50, "groups": 4, "base_width": 4, "base_channels": 16, **options}
            )
            for options in ({}, deformable("DCN"))
        ],
        "backbones.models.ResNet": lambda _: [
            check_backbone({"type": "ResNet", "depth": 18}),
            *(
                check_backbone({"type": "ResNet", "depth": 50, "base_channels": 16, **options})
                for options in (deformable("DCNv2"), STANDARDISED)
            ),
        ],
        "backbones.models.ResNetV1d": lambda _: check_backbone(
            {"type": "ResNetV1d", "depth": 18, "base_channels": 16, "stem_channels": 16}
        ),
        **{
            f"models.models.{name}": partial(
                lambda _, name: check_neck(
                    {"type": name, "out_channels": 8, "num_csp_blocks": 1}, in_channels=[4, 8, 16, 32]
                ),
                name=name,
            )
            for name in ("CSPNeXtPAFPN", "YOLOXPAFPN")
        },
        "models.models.FPN": lambda _: check_neck(
            {"type": "FPN", "in_channels": "auto", "out_channels": 8, "num_outs": 5},
            in_channels=[8, 16, 32, 64],
        ),
        "backbones.models.Darknet": lambda _: check_backbone({"type": "Darknet"}, size=(32, 64)),
        "backbones.models.MobileNetV2": lambda _: check_backbone(
            {"type": "MobileNetV2", "widen_factor": 0.25}
        ),
        "backbones.models.SSDVGG": lambda _: check_backbone(
            {"type": "SSDVGG", "depth": 11, "out_feature_indices": (14, 24)}
        ),
        "models.models.DilatedEncoder": lambda _: check_neck(
            {**DILATED, "in_channels": 16, "out_channels": 8}, in_channels=[8, 16], strides=(16, 32)
        ),
        "models.models.SSDNeck": lambda _: check_neck(
            {
                **{"type": "SSDNeck", "in_channels": [8, 16], "out_channels": [8, 16, 8, 4]},
                **{"level_strides": [2, 1], "level_paddings": [1, 0]},
            },
            in_channels=[8, 16],
            strides=(8, 16),
        ),
        "models.models.YOLOV3Neck": lambda _: check_neck(
            {
                **{"type": "YOLOV3Neck", "num_scales": 3},
                **{"in_channels": [32, 16, 8], "out_channels": [16, 8, 8]},
            },
            in_channels=[8, 16, 32],
            strides=(8, 16, 32),
        ),
        **{
            f"models.models.{name}": partial(
                lambda _, name: check_neck(
                    {"type": name, "in_channels": "auto", "out_channels": 8, "num_outs": 5},
                    in_channels=[8, 16, 32, 64],
                ),
                name=name,
            )
            for name in ("HRFPN", "PAFPN")
        },
        "models.models.CTResNetNeck": lambda _: [
            check_neck({**CT_NECK, "use_dcn": use_dcn}, in_channels=[8, 16, 32, 64])
            for use_dcn in (True, False)
        ],
        "models.models.NASFCOS_FPN": lambda _: check_neck(
            {"type": "NASFCOS_FPN", "out_channels": 8, **NAS_CELLS}, in_channels=[8, 16, 32, 64]
        ),
        "models.models.NASFPN": lambda _: check_neck(
            {"type": "NASFPN", "out_channels": 8, "stack_times": 2, "norm_cfg": STANDARDISED["norm_cfg"]},
            in_channels=[8, 16, 32, 64],
        ),
        "models.models.DyHead": lambda _: check_neck(
            {"type": "DyHead", "in_channels": 16, "out_channels": 32, "num_blocks": 2}, in_channels=[16] * 4
        ),
        "models.models.NeckChain": lambda _: check_neck(
            {
                "type": "NeckChain",
                "necks": [
                    {"type": "FPN", "in_channels": "auto", "out_channels": 16},
                    {"type": "DyHead", "in_channels": 16, "out_channels": 16, "num_blocks": 1},
                ],
            },
            in_channels=[8, 16, 32, 64],
        ),
        "timm.models.TIMMBackbone": lambda _: [
            check_backbone({"type": "timm.TIMMBackbone", "model_name": name}, size=(64, 96), tolerance=1e-3)
            for name in ("resnet18", "test_efficientnet", "test_convnext", "test_vit")
        ],
        "timm.models.MMPretrainBackbone": lambda _: check_backbone(
            {"type": "mmpretrain.TIMMBackbone", "model_name": "resnet18", "features_only": True}
        ),
    },
    "convolution": {
        f"detcore.models.{name}": partial(
            lambda _, name: check_convolution(name, dims=1 if "1d" in name else 3 if "3d" in name else 2),
            name=name,
        )
        for name in (
            "Conv", "Conv1d", "Conv2d", "Conv2dAdaptivePadding", "Conv3d", "ConvModule",
            "ConvTranspose2d", "ConvTranspose3d",
            "ConvWS", "DCN", "DCNv2", "DepthwiseSeparableConvModule", "deconv", "deconv3d",
        )
    },
    "detector": {
        "models.models.ATSS": lambda _: check_detector(one_stage("ATSS", "ATSSHead"), num_classes=5),
        "models.models.GFL": lambda _: check_detector(one_stage("GFL", "GFLHead", reg_max=8), num_classes=5),
        "models.models.VFNet": lambda _: check_detector(one_stage("VFNet", "VFNetHead"), num_classes=5),
        "models.models.FSAF": lambda _: check_detector(
            one_stage(
                "FSAF",
                "FSAFHead",
                {"type": "CenterRegionAssigner", "pos_scale": 0.4, "neg_scale": 0.7},
                anchor_generator=None,
            ),
            num_classes=5,
        ),
        "models.models.PAA": lambda _: check_detector(
            one_stage("PAA", "PAAHead", matched_by_overlap(0.1)), num_classes=5
        ),
        "models.models.FOVEA": lambda _: check_detector(fovea(), num_classes=5),
        "models.models.TOOD": lambda _: check_detector(tood(), num_classes=5),
        "models.models.DDOD": lambda _: check_detector(ddod(), num_classes=5),
        "models.models.RepPointsDetector": lambda _: check_detector(reppoints(), num_classes=5),
        "models.models.AutoAssign": lambda _: check_detector(autoassign(), num_classes=5),
        "models.models.CenterNet": lambda _: [
            check_detector(model, num_classes=5) for model in (centernet(), centernet_update())
        ],
        "models.models.YOLOF": lambda _: check_detector(yolof(), num_classes=5),
        "models.models.FCOS": lambda _: check_detector(fcos(), num_classes=5),
        "models.models.NASFCOS": lambda _: check_detector(nas_fcos(), num_classes=5),
        "models.models.YOLOV3": lambda _: check_detector(yolov3(), num_classes=5),
        "semi.models.SemiBaseDetector": lambda _: check_detector(
            taught("SemiBaseDetector", detector()), num_classes=5
        ),
        "semi.models.SoftTeacher": lambda _: check_detector(
            taught("SoftTeacher", two_stages("FasterRCNN")), num_classes=5
        ),
        "models.models.RetinaNet": lambda _: [
            check_detector(each, num_classes=5) for each in (detector(), sabl())
        ],
        "models.models.YOLOX": lambda _: check_detector(yolox(), num_classes=5),
        "models.models.RTMDet": lambda _: [
            check_detector(rtmdet(), num_classes=5),
            check_detector(rtmdet("rtmdet-ins_tiny_8xb32-300e_coco"), num_classes=5, masks=True),
        ],
        "models.models.RPN": lambda _: check_detector(rpn(), num_classes=5),
        "models.models.FasterRCNN": lambda _: check_detector(two_stages("FasterRCNN"), num_classes=5),
        "models.models.FastRCNN": lambda _: check_detector(
            two_stages("FastRCNN"), num_classes=5, proposals=12
        ),
        "models.models.TwoStageDetector": lambda _: check_detector(
            two_stages("TwoStageDetector"), num_classes=5, distributed=False
        ),
        "models.models.MaskRCNN": lambda _: check_detector(
            two_stages("MaskRCNN", masks=True), num_classes=5, masks=True
        ),
        "models.models.CascadeRCNN": lambda _: check_detector(
            two_stages("CascadeRCNN", masks=True), num_classes=5, masks=True
        ),
        "models.models.SingleStageDetector": lambda _: check_detector(
            {**detector(), "type": "SingleStageDetector"}, num_classes=5, distributed=False
        ),
    },
    "region_head": {
        **{
            f"models.models.{given['type']}": partial(
                lambda _, given: check_regions({"in_channels": 8, "num_classes": 3, **given}, FEATURES),
                given=given,
            )
            for given in (
                {"type": "BBoxHead"},
                {"type": "ConvFCBBoxHead", "num_shared_convs": 1, "num_cls_fcs": 1, "num_reg_convs": 1},
                {"type": "FCNMaskHead", "num_convs": 1, "conv_out_channels": 8},
                {"type": "Shared2FCBBoxHead", "fc_out_channels": 16},
                {"type": "Shared4Conv1FCBBoxHead", "fc_out_channels": 16, "conv_out_channels": 8},
            )
        },
        "models.models.SABLHead": lambda _: check_regions(
            {
                **{"type": "SABLHead", "num_classes": 3, "cls_in_channels": 8, "reg_in_channels": 8},
                **{"cls_out_channels": 16, "reg_offset_out_channels": 8, "reg_cls_out_channels": 8},
            },
            FEATURES,
        ),
        "models.models.DoubleConvFCBBoxHead": lambda _: check_regions(
            {
                **{"type": "DoubleConvFCBBoxHead", "in_channels": 8, "num_classes": 3},
                **{"num_convs": 1, "num_fcs": 1, "conv_out_channels": 16, "fc_out_channels": 16},
            },
            FEATURES,
            FEATURES.flip(0),
        ),
    },
    "extractor": {
        "models.models.SingleRoIExtractor": lambda _: check_extractor(extractor(7), 32),
    },
    "loss": {
        **{
            f"models.models.{name}": partial(
                lambda _, name: check_loss({"type": name}, boxes(0.0), boxes(1.5)), name=name
            )
            for name in ("BoundedIoULoss", "CIoULoss", "DIoULoss", "EIoULoss", "GIoULoss", "IoULoss")
        },
        "models.models.L1Loss": lambda _: check_loss({"type": "L1Loss"}, boxes(0.0), boxes(1.5)),
        "models.models.MSELoss": lambda _: check_loss({"type": "MSELoss"}, boxes(0.0), boxes(1.5)),
        "models.models.SmoothL1Loss": lambda _: check_loss({"type": "SmoothL1Loss"}, boxes(0.0), boxes(1.5)),
        "models.models.DistributionFocalLoss": lambda _: check_loss(
            {"type": "DistributionFocalLoss"}, logits((4, 9)), torch.tensor([0.0, 2.5, 7.9, 4.0])
        ),
        "models.models.DiceLoss": lambda _: check_loss(
            {"type": "DiceLoss"}, logits(), logits().flip(0).sigmoid().round()
        ),
        "models.models.QualityFocalLoss": lambda _: check_loss(
            {"type": "QualityFocalLoss"}, logits(), logits().flip(0).sigmoid()
        ),
        "models.models.GaussianFocalLoss": lambda _: check_loss(
            {"type": "GaussianFocalLoss"}, logits().sigmoid(), logits().flip(0).sigmoid().round(decimals=1)
        ),
        "models.models.VarifocalLoss": lambda _: check_loss(
            {"type": "VarifocalLoss"}, logits(), logits().flip(0).sigmoid().round()
        ),
        **{  # they average by themselves, over what counts
            f"models.models.{name}": partial(lambda _, name: check_harmonised({"type": name}), name=name)
            for name in ("GHMC", "GHMR")
        },
        "models.models.FocalLoss": lambda _: check_loss({"type": "FocalLoss"}, logits(), LABELS),
        "models.models.CrossEntropyLoss": lambda _: check_loss(
            {"type": "CrossEntropyLoss"}, logits((6, 6)), LABELS
        ),
    },
    "dataset": {
        "datasets.datasets.CocoDataset": lambda folder: check_dataset(coco(folder)),
        "datasets.datasets.VOCDataset": lambda folder: check_dataset(voc(folder, "VOCDataset")),
        "datasets.datasets.XMLDataset": lambda folder: check_dataset(voc(folder, "XMLDataset")),
        "detcore.datasets.BaseDetDataset": lambda folder: check_dataset(own_format(folder)),
        "detcore.datasets.ClassBalancedDataset": lambda folder: check_dataset(
            {"type": "ClassBalancedDataset", "dataset": coco(folder), "oversample_thr": 0.5}
        ),
        "detcore.datasets.ConcatDataset": lambda folder: check_dataset(
            {"type": "ConcatDataset", "datasets": [coco(folder), coco(folder)]}
        ),
        "detcore.datasets.MultiImageMixDataset": lambda folder: check_dataset(
            {
                "type": "MultiImageMixDataset",
                "dataset": coco(folder),
                "pipeline": [{"type": "Mosaic", "img_scale": (40, 32)}],
            }
        ),
        "detcore.datasets.RepeatDataset": lambda folder: check_dataset(
            {"type": "RepeatDataset", "dataset": coco(folder), "times": 2}
        ),
    },
    "transform": {
        **{
            f"detcore.transforms.{given['type']}": partial(
                lambda _, given: check_transform(given), given=given
            )
            for given in (
                {"type": "AutoAugment"},
                {"type": "CachedMixUp", "img_scale": (64, 48)},
                {"type": "CachedMosaic", "img_scale": (64, 48)},
                *(
                    {"type": name}
                    for name in (
                        "AutoContrast", "Brightness", "Color", "ColorTransform", "Contrast", "Equalize",
                        "GeomTransform", "Invert", "Posterize", "Rotate", "Sharpness", "ShearX", "ShearY",
                        "Solarize", "SolarizeAdd", "TranslateX", "TranslateY",
                    )
                ),
                {"type": "Compose", "transforms": [RESIZE]},
                {"type": "CutOut", "n_holes": (1, 3), "cutout_shape": (9, 7)},
                {"type": "Expand", "mean": (103, 116, 123), "prob": 1.0},
                {"type": "FilterAnnotations", "min_gt_bbox_wh": (10, 10)},
                {"type": "FixScaleResize", "scale": (90, 60), "keep_ratio": True},
                {"type": "FixShapeResize", "width": 50, "height": 70, "keep_ratio": True},
                {"type": "LoadEmptyAnnotations", "with_mask": True, "with_seg": True},
                {"type": "LoadImageFromNDArray"},
                {"type": "MinIoURandomCrop"},
                {"type": "PackDetInputs", "meta_keys": ("img_id", "img_shape")},
                {"type": "Pad", "size_divisor": 32},
                {"type": "PhotoMetricDistortion"},
                {"type": "ProposalBroadcaster", "transforms": [RESIZE]},
                {"type": "RandAugment", "aug_num": 3},
                {"type": "RandomApply", "transforms": [RESIZE]},
                {
                    "type": "RandomCenterCropPad", "crop_size": (40, 30), "mean": (1, 2, 3), "std": (1, 1, 1),
                    "to_rgb": True, "test_pad_mode": None,
                },
                {"type": "RandomChoice", "transforms": [[RESIZE], [{"type": "RandomFlip", "prob": 1.0}]]},
                {"type": "RandomChoiceResize", "scales": [(40, 40), (90, 60)]},
                {"type": "RandomCrop", "crop_size": (30, 30), "allow_negative_crop": True},
                {"type": "RandomAffine", "border": (-10, 4)},
                {"type": "RandomErasing", "n_patches": (1, 5), "ratio": (0.1, 0.6)},
                {"type": "RandomFlip", "prob": 0.5, "direction": ["horizontal", "vertical"]},
                {"type": "RandomOrder", "transforms": [RESIZE, {"type": "RandomFlip", "prob": 0.5}]},
                {"type": "RandomResize", "scale": [(40, 40), (90, 60)], "keep_ratio": True},
                {"type": "RandomShift", "prob": 1.0, "max_shift_px": 9},
                RESIZE,
                {
                    "type": "TestTimeAug",
                    "transforms": [[RESIZE], [{"type": "PackDetInputs", "meta_keys": ()}]],
                },
                {"type": "YOLOXHSVRandomAug"},
            )
        },
        "semi.transforms.MultiBranch": lambda _: [
            check_transform({"type": "semi.MultiBranch", "sup": each})
            for each in ([RESIZE, {"type": "PackDetInputs"}], [{"type": "PackDetInputs"}])
        ],
        "detcore.transforms.SegRescale": lambda _: check_transform(
            {"type": "SegRescale", "scale_factor": 0.5},
            {**tiny_results(), "gt_seg_map": tiny_results()["img"][..., 0]},
        ),
        "detcore.transforms.LoadImageFromFile": lambda folder: check_transform(
            {"type": "LoadImageFromFile"}, on_disk(folder)
        ),
        "detcore.transforms.LoadAnnotations": lambda folder: check_transform(
            {"type": "LoadAnnotations", "with_bbox": True}, on_disk(folder)
        ),
        "detcore.transforms.LoadProposals": lambda _: check_transform(
            {"type": "LoadProposals", "num_max_proposals": 2},
            {**tiny_results(), "proposals": {"bboxes": [[1.0, 2, 3, 4]] * 3, "scores": [0.5] * 3}},
        ),
        "detcore.transforms.CopyPaste": lambda _: check_transform(
            {"type": "CopyPaste", "mask_occluded_thr": 20}, {**mixed(), "mix_results": [tiny_results(2)]}
        ),
        "detcore.transforms.Mosaic": lambda _: check_transform(
            {"type": "Mosaic", "img_scale": (64, 48)}, mixed()
        ),
        "detcore.transforms.MixUp": lambda _: check_transform(
            {"type": "MixUp", "img_scale": (64, 48)}, {**mixed(), "mix_results": [tiny_results(2)]}
        ),
    },
    "metric": {
        "datasets.metrics.CocoMetric": lambda _: check_metric({"type": "CocoMetric"}, num_classes=5),
        "datasets.metrics.VOCMetric": lambda _: check_metric({"type": "VOCMetric"}, num_classes=5),
        "detcore.metrics.DumpDetResults": lambda folder: check_metric(
            {"type": "DumpDetResults", "out_file_path": f"{folder}/found.pkl"}, **NO_FIGURES
        ),
        "detcore.metrics.DumpResults": lambda folder: check_metric(
            {"type": "DumpResults", "out_file_path": f"{folder}/found.pkl"}, **NO_FIGURES
        ),
        "detcore.metrics.DumpProposals": lambda folder: check_metric(
            {"type": "DumpProposals", "output_dir": str(folder)}, **NO_FIGURES
        ),
    },
    "hook": {  # those that need arguments; all others are checked with their defaults
        "detcore.hooks.EarlyStoppingHook": lambda _: check_hook(
            {"type": "EarlyStoppingHook", "monitor": "coco/bbox_mAP"}
        ),
        "detcore.hooks.PipelineSwitchHook": lambda _: check_hook(
            {"type": "PipelineSwitchHook", "switch_epoch": 3, "switch_pipeline": [RESIZE]}
        ),
        "detcore.hooks.PrepareTTAHook": lambda _: check_hook(
            {"type": "PrepareTTAHook", "tta_cfg": {"type": "DetTTAModel"}}
        ),
    },
}


def example(name, kind):
    """How a component is checked; hooks that need no arguments need no example."""
    found = EXAMPLES[kind].get(name)
    if found is None and kind == "hook":
        return lambda _: check_hook({"type": name.replace("hooks.", "")})
    return found


@pytest.mark.parametrize(("name", "kind"), list(components()))
def test_every_component_keeps_the_promises_of_its_kind(name, kind, tmp_path):
    check = example(name, kind)
    if check is None:
        pytest.fail(
            f"{name} is a {kind} without an example: add EXAMPLES[{kind!r}][{name!r}] with a small config, "
            "so that detcore.testing checks it"
        )
    check(tmp_path)


def test_every_example_is_of_a_component():
    there = dict(components())
    missing = {"detcore", "models", "backbones", "datasets", "timm", "semi"} - set(our_scopes())
    if missing:
        pytest.skip(f"not installed: {', '.join(sorted(missing))}")
    assert {name: kind for kind, names in EXAMPLES.items() for name in names}.items() <= there.items()


def test_every_registry_is_checked_or_known_to_have_no_check():
    unchecked = {
        "data_samplers", "evaluators", "inferencers", "log_processors", "loops", "optim_wrapper_constructors",
        "optim_wrappers", "optimizers", "param_schedulers", "runners", "task_utils", "visbackends",
        "visualizers", "weight_initializers",
    }  # fmt: skip
    used = {registry for scope in our_scopes() for registry, _, _ in host().table(scope)}
    assert used <= unchecked | {"models", *KINDS}
    assert unchecked <= set(REGISTRIES)
