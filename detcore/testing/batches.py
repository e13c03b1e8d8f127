"""Made-up batches for checks of detectors and metrics."""

from collections.abc import Sequence

import numpy as np
import torch

from detcore.structures import DetDataSample, InstanceData
from detcore.structures.mask import BitmapMasks


def tiny_batch(
    num_classes: int,
    *,
    objects: Sequence[int] = (2, 3),
    size: tuple[int, int] = (96, 128),
    in_channels: int = 3,
    masks: bool = False,
    proposals: int = 0,
) -> tuple[torch.Tensor, list[DetDataSample]]:
    """Images and their annotations, the same at each call.

    Args:
        num_classes: Labels are drawn from 0 to this, exclusive.
        objects: How many objects each image has.
        size: Height and width of the images.
        in_channels: Channels of the images.
        masks: Give the objects masks, the ellipses in their boxes.
        proposals: How many regions each image comes with: the objects, and others by chance.

    Returns:
        ``Tensor[B, C, H, W]`` of normalised pixels, and one sample an image with ``gt_instances``
        (``bboxes``, xyxy in pixels; ``labels``; where wanted ``masks``, ``BitmapMasks`` of the image),
        ``ignored_instances`` and, where wanted, ``proposals`` (``bboxes``).
    """
    random = torch.Generator().manual_seed(0)
    height, width = size
    samples = []
    for image, count in enumerate(objects):
        boxes = _boxes(count, size, random)
        labels = torch.randint(num_classes, (count,), generator=random)
        meta = {
            "img_id": image,
            "img_path": f"{image}.jpg",
            "scale_factor": (1.0, 1.0),
            **dict.fromkeys(("img_shape", "ori_shape", "pad_shape", "batch_input_shape"), size),
        }
        sample = DetDataSample(metainfo=meta)
        sample.gt_instances = InstanceData(bboxes=boxes, labels=labels)
        if masks:
            sample.gt_instances.masks = _ellipses(boxes, size)
        if proposals:
            others = _boxes(proposals, size, torch.Generator().manual_seed(image))
            sample.proposals = InstanceData(bboxes=torch.cat([boxes, others])[:proposals])
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=labels[:0])
        samples.append(sample)
    return torch.randn(len(objects), in_channels, height, width, generator=random), samples


def _boxes(count: int, size: tuple[int, int], random: torch.Generator) -> torch.Tensor:
    height, width = size
    corner = torch.rand(count, 2, generator=random) * torch.tensor([width / 2, height / 2])
    extent = 8 + torch.rand(count, 2, generator=random) * torch.tensor([width / 2 - 8, height / 2 - 8])
    return torch.cat([corner, corner + extent], 1)


def _ellipses(boxes: torch.Tensor, size: tuple[int, int]) -> BitmapMasks:
    y, x = np.mgrid[: size[0], : size[1]]
    masks = np.zeros((len(boxes), *size), np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.tolist(), strict=True):
        across = (2 * x - left - right) / (right - left)
        along = (2 * y - top - bottom) / (bottom - top)
        mask[across**2 + along**2 <= 1] = 1
    return BitmapMasks(masks, *size)
