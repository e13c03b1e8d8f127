"""Checks for whole detectors."""

import contextlib
import copy
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from detcore.registry import MODELS
from detcore.structures import DetDataSample
from detcore.testing.batches import tiny_batch
from detcore.testing.building import Source, build, require

Samples = list[DetDataSample]


def check_detector(
    source: Source,
    *,
    num_classes: int,
    size: tuple[int, int] = (96, 128),
    distributed: bool = True,
    masks: bool = False,
    proposals: int = 0,
) -> None:
    """Check all that a detector promises, on made-up images.

    Losses are finite, also for an image and for a batch without objects, and train every parameter that
    trains; predictions are boxes in the image with scores and labels; they depend neither on the other
    images of the batch nor on its order; autocast and DDP work.

    Args:
        source: ``dict(type=...)``, or a function that builds the detector.
        num_classes: Of its data set.
        size: Height and width of the images.
        distributed: Whether to check it below DDP (in this process alone).
        masks: It learns and predicts masks, ``Tensor[N, H, W]`` beside the boxes.
        proposals: How many proposals each image comes with, for a detector that makes none itself.

    Raises:
        AssertionError: Says which promise is broken.
    """
    detector = build(source, MODELS)
    batch = partial(tiny_batch, num_classes, size=size, masks=masks, proposals=proposals)
    image, samples = batch()
    _check_training(detector, image, samples)
    for objects, what in (((2, 0), "an image without objects"), ((0, 0), "a batch without objects")):
        _check_losses(detector, image, batch(objects=objects)[1], what)
    with torch.autocast("cpu", torch.bfloat16):
        _check_losses(detector, image, samples, "autocast (bfloat16)")
    _check_predictions(detector.eval(), image, samples, num_classes)
    if masks:
        _check_masks(detector, image, samples)
    outputs = detector(image, samples if proposals else None, mode="tensor")
    require(isinstance(outputs, tuple | list | Tensor), "mode='tensor' must give the heads' outputs")
    if distributed:
        _check_distributed(build(source, MODELS), image, samples)


def _losses(detector: nn.Module, image: Tensor, samples: Samples, what: str) -> Tensor:
    losses: Any = detector.train()(image, copy.deepcopy(samples), mode="loss")
    require(isinstance(losses, Mapping), f"mode='loss' must give a dict, got {type(losses).__name__}")
    counted = [value for name, value in losses.items() if "loss" in name]
    require(counted, f"no entry of {sorted(losses)} has 'loss' in its name: nothing would train")
    flat = [each for value in counted for each in (value if isinstance(value, list | tuple) else [value])]
    total = sum(each.mean() for each in flat)
    require(isinstance(total, Tensor) and total.isfinite(), f"{what}: the losses are {losses}")
    return total


def _check_losses(detector: nn.Module, image: Tensor, samples: Samples, what: str) -> None:
    detector.zero_grad()
    _losses(detector, image, samples, what).backward()
    broken = [n for n, p in detector.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    require(not broken, f"{what}: the gradients of {', '.join(broken[:6])} are not finite")


def _check_training(detector: nn.Module, image: Tensor, samples: Samples) -> None:
    _check_losses(detector, image, samples, "training")
    unused = [n for n, p in detector.named_parameters() if p.requires_grad and p.grad is None]
    require(not unused, f"no loss reaches {', '.join(unused[:6])}: these parameters would never train")


def _check_predictions(detector: nn.Module, image: Tensor, samples: Samples, num_classes: int) -> None:
    found = _predictions(detector, image, samples)
    for sample in found:
        boxes, scores, labels = (sample[name] for name in ("bboxes", "scores", "labels"))
        number = len(boxes)
        require(boxes.shape == (number, 4), f"pred_instances.bboxes must be (N, 4), got {tuple(boxes.shape)}")
        require(scores.shape == labels.shape == (number,), "scores and labels must have one entry a box")
        require(not labels.is_floating_point(), f"labels must be integers, got {labels.dtype}")
        require(boxes.isfinite().all() and scores.isfinite().all(), "predictions are not finite")
        if number:
            require(int(labels.min()) >= 0 and int(labels.max()) < num_classes, "a label is no class")
            require(float(scores.min()) >= 0 and float(scores.max()) <= 1, "a score is outside of 0 to 1")
    alone = [_predictions(detector, image[i : i + 1], samples[i : i + 1])[0] for i in range(len(samples))]
    turned = _predictions(detector, image.flip(0), samples[::-1])[::-1]
    for what, other in (("the other images of the batch", alone), ("the order of the batch", turned)):
        for one, two in zip(found, other, strict=True):
            require(_same(one, two), f"predictions depend on {what}")


def _check_masks(detector: nn.Module, image: Tensor, samples: Samples) -> None:
    with torch.no_grad():
        predicted: Any = detector(image, copy.deepcopy(samples), mode="predict")
    for sample in predicted:
        found = sample.pred_instances
        require("masks" in found, "pred_instances must have masks")
        shape = (len(found.bboxes), *sample.metainfo["ori_shape"][:2])
        require(tuple(found.masks.shape) == shape, f"masks must be {shape}, got {tuple(found.masks.shape)}")


def _predictions(detector: nn.Module, image: Tensor, samples: Samples) -> list[dict[str, Tensor]]:
    with torch.no_grad():
        predicted: Any = detector(image, copy.deepcopy(samples), mode="predict")
    is_list = isinstance(predicted, Sequence) and len(predicted) == len(samples)
    require(is_list, "mode='predict' must give one data sample an image")
    for sample in predicted:
        require("pred_instances" in sample, "mode='predict' must set pred_instances in each sample")
    instances = [sample.pred_instances for sample in predicted]
    return [{name: getattr(each, name) for name in ("bboxes", "scores", "labels")} for each in instances]


def _same(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> bool:
    """Equal up to rounding, which may also exchange or drop detections of equal scores at the very end."""
    number = min(len(one["scores"]), len(two["scores"]))
    if abs(len(one["scores"]) - len(two["scores"])) > max(2, number // 20):
        return False
    ours, theirs = (each["scores"].sort(descending=True).values[:number] for each in (one, two))
    return torch.allclose(ours, theirs, atol=1e-3)


def _check_distributed(detector: nn.Module, image: Tensor, samples: Samples) -> None:
    with _single_process_group(), warnings.catch_warnings():
        # Gradients of networks that run channels last are laid out so, too: slower below DDP, not wrong.
        warnings.filterwarnings("ignore", message="Grad strides do not match")
        wrapped = nn.parallel.DistributedDataParallel(detector)
        try:
            for _ in range(2):  # a parameter without gradient is noticed at the second step
                _losses(wrapped, image, samples, "DDP").backward()
        except RuntimeError as error:
            raise AssertionError(f"the detector cannot train below DDP: {error}") from error


@contextlib.contextmanager
def _single_process_group() -> Iterator[None]:
    if dist.is_initialized():
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
        try:
            yield
        finally:
            dist.destroy_process_group()
