"""Each check of the kit passes what keeps its promises, and names the one that is broken."""

import numpy as np
import pytest
import torch
from torch import nn

from detcore.config import Config
from detcore.engine.hooks import Hook
from detcore.evaluation import Metric
from detcore.registry import DATASETS
from detcore.structures import InstanceData
from detcore.testing import (
    check_backbone,
    check_dataset,
    check_detector,
    check_hook,
    check_loss,
    check_metric,
    check_neck,
    check_transform,
    tiny_coco,
)


class Backbone(nn.Module):
    """Two maps; what is broken is said by name."""

    def __init__(self, broken=""):
        super().__init__()
        self.broken = broken
        self.first, self.second = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 16, 2, 2)
        self.unused = nn.Linear(2, 2) if broken == "unused" else None
        self.out_channels = (8, 8) if broken == "channels" else (8, 16)
        self.out_strides = (4, 16) if broken == "strides" else (4, 8)
        self.hidden = torch.rand(1).item() if broken == "state" else 0.0
        if broken == "untold":
            del self.out_channels

    def forward(self, image):
        first = self.first(image)
        if self.broken == "batch":
            first = first + first.mean(0, keepdim=True)
        if self.broken == "nan":
            first = first / 0
        if self.broken == "dtype":
            return first.double(), self.second(first).double()
        if self.broken == "tensor":
            return first
        maps = (first, self.second(first) + (torch.rand(1) if self.broken == "random" else 0))
        return maps if self.broken != "flat" else tuple(each.flatten(2) for each in maps)


def test_a_good_backbone_passes():
    check_backbone(Backbone)


@pytest.mark.parametrize(("broken", "message"), [
    ("unused", "no gradient reaches unused.weight"),
    ("channels", "out_channels is"),
    ("untold", "out_channels must have one entry"),
    ("strides", "out_strides says 16"),
    ("batch", "depend on the other images"),
    ("nan", "not finite"),
    ("tensor", "must give a tuple of feature maps"),
    ("flat", "must be Tensor"),
    ("dtype", "maps of torch.float64 from float32"),
    ("random", "outputs change"),
])  # fmt: skip
def test_a_broken_backbone_is_told_why(broken, message):
    with pytest.raises(AssertionError, match=message):
        check_backbone(lambda: Backbone(broken))


def test_necks():
    given = {"in_channels": [8, 16, 32, 64], "out_channels": 16, "num_outs": 5}
    check_neck({"type": "FPN", **given}, in_channels=given["in_channels"])

    class Wrong(nn.Module):
        out_channels = 5

        def forward(self, maps):
            return tuple(maps)

    with pytest.raises(AssertionError, match="out_channels is 5"):
        check_neck(Wrong, in_channels=[8, 16, 32, 64])


class Detector(nn.Module):
    """One box an image; what is broken is said by name."""

    def __init__(self, broken=""):
        super().__init__()
        self.broken = broken
        self.layer = nn.Conv2d(3, 1, 1)
        self.sometimes = nn.Linear(1, 1) if broken == "unused" else None

    def forward(self, inputs, data_samples=None, mode="tensor"):
        out = self.layer(inputs)
        if mode == "tensor":
            return (out,)
        if mode == "loss":
            count = sum(len(sample.gt_instances.bboxes) for sample in data_samples)
            divisor = count if self.broken == "empty" else max(count, 1)
            return {"value" if self.broken == "name" else "loss": out.square().sum() / divisor}
        score = out.mean(dim=(1, 2, 3)).sigmoid()
        if self.broken == "batch":
            score = score / len(score)
        for index, sample in enumerate(data_samples):
            label = torch.full((1,), 9 if self.broken == "label" else 0)
            box = torch.tensor([[0.0, 0.0, 5.0, 5.0]])
            each = score[index : index + 1] + (1 if self.broken == "score" else 0)
            if self.broken != "nothing":
                sample.pred_instances = InstanceData(bboxes=box, scores=each, labels=label)
        return data_samples


def test_a_good_detector_passes():
    check_detector(Detector, num_classes=3)
    check_detector(Config.fromfile("detcore::shapes/retinanet_r18_fpn_shapes.py").model, num_classes=5)


@pytest.mark.parametrize(("broken", "message"), [
    ("unused", "no loss reaches sometimes.weight"),
    ("empty", "batch without objects: the losses are"),
    ("name", "has 'loss' in its name"),
    ("batch", "depend on the other images"),
    ("label", "a label is no class"),
    ("score", "outside of 0 to 1"),
    ("nothing", "must set pred_instances"),
])  # fmt: skip
def test_a_broken_detector_is_told_why(broken, message):
    with pytest.raises(AssertionError, match=message):
        check_detector(lambda: Detector(broken), num_classes=3)


@pytest.fixture
def dataset_config(tmp_path):
    return {
        "type": "CocoDataset",
        "ann_file": str(tiny_coco(tmp_path)),
        "data_prefix": {"img": f"{tmp_path}/images/"},
        "metainfo": {"classes": ("circle", "square", "triangle", "star", "ring")},
        "pipeline": [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations", "with_bbox": True}],
    }


def test_a_good_dataset_passes_and_one_that_draws_from_elsewhere_does_not(dataset_config):
    check_dataset(dataset_config)
    unseeded = np.random.default_rng()

    def build():
        dataset = DATASETS.build(dataset_config)
        dataset.pipeline.transforms.append(Jitter(unseeded))
        return dataset

    with pytest.raises(AssertionError, match="differs when asked twice"):
        check_dataset(build)


class Jitter:
    """Draws from a generator that nobody seeds."""

    def __init__(self, random):
        self.random = random

    def __call__(self, results):
        return {
            **results,
            "img": results["img"] ^ self.random.integers(0, 256, results["img"].shape, np.uint8),
        }


class Crop:
    """Cuts the picture in two; what it forgets is said by name."""

    def __init__(self, forgets=""):
        self.forgets = forgets

    def __call__(self, results):
        if self.forgets == "dict":
            return results["img"]
        results["img"] = results["img"][:, :30]
        if self.forgets != "shape":
            results["img_shape"] = results["img"].shape[:2]
        results["gt_bboxes"] = results["gt_bboxes"][:1]
        for name in ("gt_bboxes_labels", "gt_ignore_flags"):
            if self.forgets != "labels":
                results[name] = results[name][:1]
        results["gt_masks"] = results["gt_masks"][:1]
        if self.forgets == "seed":
            results["img"] = results["img"] ^ np.random.default_rng().integers(0, 256, (48, 30, 3), np.uint8)
        return results


@pytest.mark.parametrize(("forgets", "message"), [
    ("dict", "must give a dict"),
    ("shape", "img_shape is"),
    ("labels", "gt_bboxes_labels has 3 entries"),
    ("seed", "differs for one seed"),
])  # fmt: skip
def test_a_broken_transform_is_told_why(forgets, message):
    check_transform(Crop)
    with pytest.raises(AssertionError, match=message):
        check_transform(lambda: Crop(forgets))


class Count(Metric):
    """Counts boxes; what is broken is said by name."""

    default_prefix = "count"

    def __init__(self, broken=""):
        super().__init__(prefix=None)
        self.broken, self.seen = broken, 0

    def process(self, data_batch, data_samples):
        for sample in data_samples:
            self.seen += 1
            self.results.append(len(sample["pred_instances"]["bboxes"]))

    def compute_metrics(self, results):
        if self.broken == "empty" and not sum(results):
            return {}
        if self.broken == "memory":
            return {"boxes": self.seen}
        return {"boxes": "many" if self.broken == "text" else sum(results)}


@pytest.mark.parametrize(("broken", "message"), [
    ("empty", "must give figures by name"),
    ("memory", "earlier evaluation"),
    ("text", "must be a number"),
])  # fmt: skip
def test_a_broken_metric_is_told_why(broken, message):
    check_metric(Count)
    check_metric({"type": "CocoMetric"})
    with pytest.raises(AssertionError, match=message):
        check_metric(lambda: Count(broken))


class SquaredError(nn.Module):
    """Reduces as losses do; what is broken is said by name."""

    def __init__(self, broken=""):
        super().__init__()
        self.broken = broken

    def forward(self, pred, target, weight=None, avg_factor=None, reduction_override=None):
        if self.broken == "detached":
            pred = pred.detach()
        each = (pred - target).square()
        if weight is not None and self.broken != "weight":
            each = each * weight
        if reduction_override == "none":
            return each
        if avg_factor is not None and self.broken != "factor":
            return each.sum() / avg_factor
        return each.sum() if reduction_override == "sum" else each.mean()


@pytest.mark.parametrize(("broken", "message"), [
    ("detached", "the loss has no gradient"),
    ("weight", "weights of zero gives"),
    ("factor", "avg_factor=7 gives"),
])  # fmt: skip
def test_a_broken_loss_is_told_why(broken, message):
    pred, target = torch.arange(8.0).reshape(4, 2), torch.ones(4, 2)
    check_loss(SquaredError, pred, target)
    with pytest.raises(AssertionError, match=message):
        check_loss(lambda: SquaredError(broken), pred, target)


class GoodHook(Hook):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Nothing."""


class WrongArguments(Hook):
    def after_train_iter(self, runner, number):
        """Nothing."""


class WrongName(Hook):
    def after_train_iteration(self, runner):
        """Nothing."""


class Forgets(Hook):
    def state_dict(self):
        return None


@pytest.mark.parametrize(("kind", "message"), [
    (WrongArguments, "after_train_iter"),
    (WrongName, "after_train_iter"),
    (Forgets, "state_dict must give a dict"),
    (nn.Identity, "must derive from detcore.engine.hooks.Hook"),
])  # fmt: skip
def test_a_broken_hook_is_told_why(kind, message):
    check_hook(GoodHook)
    with pytest.raises(AssertionError, match=message):
        check_hook(kind)
