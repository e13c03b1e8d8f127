"""A made-up batch, in our form and in torchvision's."""

import argparse

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection.transform import resize_boxes

from detcore.structures import DetDataSample, InstanceData

Size = tuple[int, int]  # height, width


def made_up_batch(
    args: argparse.Namespace, original: Size | None = None
) -> tuple[Tensor, list[DetDataSample]]:
    """Normalised images ``Tensor[B, 3, H, W]`` and samples, boxes of 24 pixels to two thirds of the image.

    Args:
        args: ``size``, ``batch``, ``boxes``, ``num_classes``, ``device``.
        original: Size of the images before they were resized to ``args.size``.
    """
    height, width = args.size
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(args.batch, 3, height, width, generator=generator).to(args.device)
    samples = []
    for number in range(args.batch):
        sides = torch.rand(args.boxes, 2, generator=generator) * torch.tensor([width, height]) * 0.6 + 24
        corner = torch.rand(args.boxes, 2, generator=generator) * (
            torch.tensor([width, height]) - sides
        ).clamp(min=0)
        labels = torch.randint(0, args.num_classes, (args.boxes,), generator=generator)
        shape, before = (height, width), original or (height, width)
        sample = DetDataSample(
            metainfo={
                "img_id": number,
                "img_shape": shape,
                "ori_shape": before,
                "pad_shape": shape,
                "batch_input_shape": shape,
                "scale_factor": (width / before[1], height / before[0]),
            }
        )
        sample.gt_instances = InstanceData(bboxes=torch.cat((corner, corner + sides), 1), labels=labels)
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4))
        samples.append(sample.to(args.device))
    return inputs, samples


def targets_of(samples: list[DetDataSample], first_label: int = 0) -> list[dict[str, Tensor]]:
    """The ground truth in torchvision's form; its two-stage detectors count classes from 1."""
    return [
        {"boxes": sample.gt_instances.bboxes, "labels": sample.gt_instances.labels + first_label}
        for sample in samples
    ]


class AsTheyAre(nn.Module):
    """In place of torchvision's resizing and normalising: both sides get images that are ready.

    Args:
        original: Size of the images that predictions are to fit, where it is another than the network's.
    """

    def __init__(self, original: Size | None = None) -> None:
        super().__init__()
        self.original = original

    def forward(self, images: list[Tensor], targets: list | None = None) -> tuple:
        batch = torch.stack(images)
        sizes = [tuple(image.shape[-2:]) for image in images]
        return torchvision.models.detection.image_list.ImageList(batch, sizes), targets

    def postprocess(self, result: list, image_shapes: list, original_image_sizes: list) -> list:
        if self.training or self.original is None:
            return result
        for found, shape in zip(result, image_shapes, strict=True):
            found["boxes"] = resize_boxes(found["boxes"], shape, self.original)
            if "masks" in found:
                paste = torchvision.models.detection.roi_heads.paste_masks_in_image
                found["masks"] = paste(found["masks"], found["boxes"], self.original)
        return result
