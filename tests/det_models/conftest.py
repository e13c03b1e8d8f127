"""Small detectors, made-up batches, and weights that follow from names alone."""

import copy
import importlib.util
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detcore.registry import MODELS
from detcore.structures import DetDataSample, InstanceData
from detcore.structures.mask import BitmapMasks


def _random(name: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([zlib.crc32(name.encode()), 0]))


def _value(name: str, shape: tuple[int, ...]) -> np.ndarray:
    random = _random(name)
    if len(shape) >= 2:
        return random.standard_normal(shape) * float(np.prod(shape[1:])) ** -0.5
    if name.endswith("bias"):
        return random.standard_normal(shape) * 0.02
    return random.uniform(0.5, 1.5, shape)


@pytest.fixture(scope="session")
def random_of() -> Callable[[str], np.random.Generator]:
    """A random generator that depends on a name only."""
    return _random


@pytest.fixture(scope="session")
def fill_by_name() -> Callable[[nn.Module], nn.Module]:
    """Weights that depend on names and shapes only; batch norms work on the batch."""

    def fill(model: nn.Module) -> nn.Module:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                value = np.asarray(_value(name, tuple(parameter.shape)), np.float32)  # a scalar, too
                parameter.copy_(torch.from_numpy(value))
        return model

    return fill


@pytest.fixture(scope="session")
def batch_statistics() -> Callable[[nn.Module, bool], nn.Module]:
    """Training or evaluation, with batch norms on the batch's statistics and their averages left alone."""

    def set_mode(model: nn.Module, training: bool) -> nn.Module:
        model.train(training)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.train()
                module.momentum = 0.0
        return model

    return set_mode


def _sample(height: int, width: int, boxes: Tensor, labels: Tensor) -> DetDataSample:
    shape = (height, width)
    sample = DetDataSample(
        metainfo={
            "img_id": 0,
            "img_path": "a.jpg",
            "img_shape": shape,
            "ori_shape": shape,
            "pad_shape": shape,
            "batch_input_shape": shape,
            "scale_factor": (1.0, 1.0),
        }
    )
    sample.gt_instances = InstanceData(bboxes=boxes, labels=labels)
    sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4))
    return sample


@pytest.fixture(scope="session")
def make_sample() -> Callable[..., DetDataSample]:
    """``make_sample(height, width, boxes, labels)``: one image's annotations."""

    def make(height: int, width: int, boxes: Any, labels: Any) -> DetDataSample:
        return _sample(
            height,
            width,
            torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            torch.tensor(labels, dtype=torch.long),
        )

    return make


@pytest.fixture(scope="session")
def golden_batch() -> tuple[Tensor, list[DetDataSample]]:
    """Two images of 256x320 with four boxes each, as the recorded figures were measured on."""
    height, width, random = 256, 320, _random("images")
    images = np.zeros((2, 3, height, width), np.float32)
    for image in images:
        coarse = random.standard_normal((3, height // 16 + 1, width // 16 + 1))
        fine = 0.1 * random.standard_normal((3, height, width))
        image[:] = np.kron(coarse, np.ones((16, 16)))[:, :height, :width] + fine
    samples = []
    for number in range(2):
        random = _random(f"boxes{number}")
        sides = np.stack([random.uniform(24, 0.7 * width, 4), random.uniform(24, 0.7 * height, 4)], 1)
        corner = np.stack(
            [random.uniform(0, width - sides[:, 0]), random.uniform(0, height - sides[:, 1])], 1
        )
        boxes = np.concatenate([corner, corner + sides], 1).astype(np.float32)
        labels = random.integers(0, 80, 4)
        samples.append(_sample(height, width, torch.from_numpy(boxes), torch.from_numpy(labels)))
    return torch.from_numpy(images), samples


def _small_config(num_classes: int = 3, **head: Any) -> dict[str, Any]:
    return {
        "type": "RetinaNet",
        "data_preprocessor": {"type": "DetDataPreprocessor", "pad_size_divisor": 32},
        "backbone": {"type": "ResNet", "depth": 18, "base_channels": 8, "norm_eval": True},
        "neck": {
            "type": "FPN",
            "in_channels": [8, 16, 32, 64],
            "out_channels": 16,
            "start_level": 1,
            "add_extra_convs": "on_input",
            "num_outs": 5,
        },
        "bbox_head": {
            "type": "RetinaHead",
            "num_classes": num_classes,
            "in_channels": 16,
            "stacked_convs": 1,
            "feat_channels": 16,
            **head,
        },
        "train_cfg": {
            "assigner": {"type": "MaxIoUAssigner", "pos_iou_thr": 0.5, "neg_iou_thr": 0.4, "min_pos_iou": 0},
            "allowed_border": -1,
            "pos_weight": -1,
        },
        "test_cfg": {
            "nms_pre": 100,
            "min_bbox_size": 0,
            "score_thr": 0.05,
            "max_per_img": 20,
            "nms": {"type": "nms", "iou_threshold": 0.5},
        },
    }


@pytest.fixture(scope="session")
def small_config() -> Callable[..., dict[str, Any]]:
    """``small_config(num_classes=3, **head_arguments)``: config of a RetinaNet of a few thousand weights."""
    return _small_config


@pytest.fixture(scope="session")
def small_retinanet(fill_by_name: Callable[[nn.Module], nn.Module]) -> Callable[..., Any]:
    """``small_retinanet(num_classes=3, **head_arguments)``: that RetinaNet, with weights by name."""

    def make(num_classes: int = 3, **head: Any) -> Any:
        return fill_by_name(MODELS.build(_small_config(num_classes, **head)))

    return make


# What the detectors of one stage differ in from the RetinaNet above.
_ONE_STAGE: dict[str, dict[str, Any]] = {
    "ATSS": {"type": "ATSSHead", "assigner": {"type": "ATSSAssigner", "topk": 9}},
    "VFNet": {"type": "VFNetHead", "anchor_generator": None, "assigner": {"type": "ATSSAssigner", "topk": 9}},
    "FSAF": {
        "type": "FSAFHead",
        "anchor_generator": None,
        "assigner": {"type": "CenterRegionAssigner", "pos_scale": 0.4, "neg_scale": 0.7, "min_pos_iof": 0.01},
    },
    "FOVEA": {
        "type": "FoveaHead",
        "strides": (8, 16, 32, 64, 128),
        "scale_ranges": ((1, 64), (32, 128), (64, 256), (128, 512), (256, 2048)),
    },
    "FreeAnchor": {"detector": "RetinaNet", "type": "FreeAnchorRetinaHead", "pre_anchor_topk": 20},
    "PAA": {
        "type": "PAAHead",
        "assigner": {"type": "MaxIoUAssigner", "pos_iou_thr": 0.1, "neg_iou_thr": 0.1, "min_pos_iou": 0},
    },
    "GFL": {"type": "GFLHead", "reg_max": 8, "assigner": {"type": "ATSSAssigner", "topk": 9}},
    "DDOD": {
        "type": "DDODHead",
        "assigner": {"type": "ATSSAssigner", "topk": 9, "alpha": 0.8},
        "train_cfg": {"reg_assigner": {"type": "ATSSAssigner", "topk": 9, "alpha": 0.5}},
    },
    "TOOD": {
        "type": "TOODHead",
        "stacked_convs": 2,
        "feat_channels": 32,
        "assigner": {"type": "TaskAlignedAssigner", "topk": 13},
        "train_cfg": {"initial_assigner": {"type": "ATSSAssigner", "topk": 9}},
    },
    "RepPoints": {
        "detector": "RepPointsDetector",
        "type": "RepPointsHead",
        "point_feat_channels": 16,
        "train_cfg": {
            "init": {"assigner": {"type": "PointAssigner", "scale": 4, "pos_num": 1}},
            "refine": {"assigner": {"type": "MaxIoUAssigner", "pos_iou_thr": 0.5, "neg_iou_thr": 0.4}},
        },
    },
    "AutoAssign": {"type": "AutoAssignHead", "strides": (8, 16, 32, 64, 128)},
    "CenterNetUpdate": {
        "detector": "CenterNet",
        "type": "CenterNetUpdateHead",
        "strides": (8, 16, 32, 64, 128),
    },
    "YOLOF": {
        "type": "YOLOFHead",
        "stacked_convs": None,
        "num_cls_convs": 1,
        "num_reg_convs": 1,
        "assigner": {"type": "UniformAssigner", "pos_ignore_thr": 0.15, "neg_ignore_thr": 0.7},
        "backbone": {"out_indices": (3,)},
        "neck": {
            "type": "DilatedEncoder",
            "in_channels": 64,
            "out_channels": 16,
            "block_mid_channels": 8,
            "num_residual_blocks": 2,
            "block_dilations": [1, 2],
        },
    },
}


@pytest.fixture
def one_stage(fill_by_name: Callable[[nn.Module], nn.Module]) -> Callable[..., Any]:
    """``one_stage(detector, **arguments of its head or assigner=...)``, of a few thousand weights."""

    def make(detector: str, **arguments: Any) -> Any:
        cfg, own = _small_config(), dict(_ONE_STAGE[detector])
        assigner = arguments.pop("assigner", own.pop("assigner", None))
        settings = own.pop("train_cfg", {})
        if assigner or not settings:  # else it has several
            settings = assigner and {**cfg["train_cfg"], **settings, "assigner": assigner}
        cfg["train_cfg"] = settings
        cfg["backbone"].update(own.pop("backbone", {}))
        cfg["neck"] = own.pop("neck", cfg["neck"])
        if own.get("stacked_convs", 1) is None:  # a head that counts its convolutions otherwise
            del own["stacked_convs"], cfg["bbox_head"]["stacked_convs"]
        kind, norm = own.pop("detector", detector), {"type": "GN", "num_groups": 4}
        cfg["bbox_head"] = {**cfg["bbox_head"], "norm_cfg": norm, **own, **arguments}
        return fill_by_name(MODELS.build({**cfg, "type": kind}))

    return make


# -- detectors of two stages
# -------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def parts() -> ModuleType:
    """The module `two_stage_parts`: configs of small two-stage detectors and of their parts."""
    spec = importlib.util.spec_from_file_location(
        "two_stage_parts", Path(__file__).with_name("two_stage_parts.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def filled(fill_by_name: Callable[[nn.Module], nn.Module]) -> Callable[[dict[str, Any]], Any]:
    """``filled(config)``: a model in training with weights by name; the config stays as it is."""
    return lambda cfg: fill_by_name(MODELS.build(copy.deepcopy(cfg))).train()


def ellipses(boxes: np.ndarray, height: int, width: int) -> BitmapMasks:
    """One elliptic mask within each box."""
    y, x = np.mgrid[0:height, 0:width]
    masks = [
        ((x - (x1 + x2) / 2) / ((x2 - x1) / 2)) ** 2 + ((y - (y1 + y2) / 2) / ((y2 - y1) / 2)) ** 2 <= 1
        for x1, y1, x2, y2 in boxes
    ]
    empty = np.zeros((0, height, width), np.uint8)
    return BitmapMasks(np.stack(masks).astype(np.uint8) if masks else empty, height, width)


def _with_masks(sample: DetDataSample) -> DetDataSample:
    sample.gt_instances.masks = ellipses(sample.gt_instances.bboxes.numpy(), *sample.metainfo["img_shape"])
    return sample


@pytest.fixture
def golden_regions(
    golden_batch: tuple[Tensor, list[DetDataSample]],
) -> Callable[..., tuple[Tensor, list[DetDataSample]]]:
    """``golden_regions(counts, crowds=False)``: images, samples with masks, 3 classes, stored proposals.

    With ``crowds`` the last two boxes of the first image are ignored.
    """

    def make(counts: tuple[int, int] = (4, 4), crowds: bool = False) -> tuple[Tensor, list[DetDataSample]]:
        images, samples = copy.deepcopy(golden_batch)
        height, width = images.shape[-2:]
        for number, (sample, count) in enumerate(zip(samples, counts, strict=True)):
            every = sample.gt_instances
            every.labels = every.labels % 3
            if crowds and number == 0:
                count, ignored = 2, every[2:]
                sample.ignored_instances = InstanceData(bboxes=ignored.bboxes)
            sample.gt_instances = every[:count]
            _with_masks(sample)
            random = _random(f"proposals{number}")
            sides = np.stack([random.uniform(8, 0.6 * width, 40), random.uniform(8, 0.6 * height, 40)], 1)
            corner = np.stack(
                [random.uniform(0, width - sides[:, 0]), random.uniform(0, height - sides[:, 1])], 1
            )
            boxes = np.concatenate([corner, corner + sides], 1).astype(np.float32)
            sample.proposals = InstanceData(bboxes=torch.from_numpy(boxes))
        return images, samples

    return make


@pytest.fixture(scope="session")
def mask_sample(make_sample: Callable[..., DetDataSample]) -> Callable[..., DetDataSample]:
    """``mask_sample(height, width, boxes, labels)``: one image's annotations with elliptic masks."""
    return lambda *given: _with_masks(make_sample(*given))


@pytest.fixture
def region_images() -> Tensor:
    """Two images of 96x128."""
    return torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def region_samples(mask_sample: Callable[..., DetDataSample]) -> list[DetDataSample]:
    """Their annotations: two objects and one, three classes, with masks and eight stored proposals."""
    boxes = [[10.0, 12.0, 60.0, 70.0], [30.0, 20.0, 120.0, 90.0]]
    samples = [mask_sample(96, 128, boxes, [0, 2]), mask_sample(96, 128, boxes[:1], [1])]
    for sample in samples:
        corner = 4 * torch.arange(8.0)[:, None] + torch.tensor([2.0, 3.0])
        sample.proposals = InstanceData(bboxes=torch.cat([corner, corner + torch.tensor([50.0, 45.0])], 1))
    return samples
