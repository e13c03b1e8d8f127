"""Made-up batches for checks of detectors and metrics."""

from collections.abc import Sequence

import torch

from detcore.structures import DetDataSample, InstanceData


def tiny_batch(
    num_classes: int,
    *,
    objects: Sequence[int] = (2, 3),
    size: tuple[int, int] = (96, 128),
    in_channels: int = 3,
) -> tuple[torch.Tensor, list[DetDataSample]]:
    """Images and their annotations, the same at each call.

    Args:
        num_classes: Labels are drawn from 0 to this, exclusive.
        objects: How many objects each image has.
        size: Height and width of the images.
        in_channels: Channels of the images.

    Returns:
        ``Tensor[B, C, H, W]`` of normalised pixels, and one sample an image with ``gt_instances``
        (``bboxes``, xyxy in pixels; ``labels``) and ``ignored_instances``.
    """
    random = torch.Generator().manual_seed(0)
    height, width = size
    samples = []
    for image, count in enumerate(objects):
        corner = torch.rand(count, 2, generator=random) * torch.tensor([width / 2, height / 2])
        extent = 8 + torch.rand(count, 2, generator=random) * torch.tensor([width / 2 - 8, height / 2 - 8])
        labels = torch.randint(num_classes, (count,), generator=random)
        meta = {
            "img_id": image,
            "img_path": f"{image}.jpg",
            "scale_factor": (1.0, 1.0),
            **dict.fromkeys(("img_shape", "ori_shape", "pad_shape", "batch_input_shape"), size),
        }
        sample = DetDataSample(metainfo=meta)
        sample.gt_instances = InstanceData(bboxes=torch.cat([corner, corner + extent], 1), labels=labels)
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=labels[:0])
        samples.append(sample)
    return torch.randn(len(objects), in_channels, height, width, generator=random), samples
