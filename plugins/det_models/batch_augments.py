"""What is done to a whole batch on the device, in training, after it was normalised and padded."""
import random
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcore.engine.message_hub import MessageHub
from detcore.structures import DetDataSample

Size = tuple[int, int]  # height, width


class BatchFixedSizePad(nn.Module):
    """Pads every batch to one size at its right and lower edge, so that all steps have the same shape.

    Used after large-scale jitter, whose crops may be smaller than the crop size. A batch that is larger than
    ``size`` in one direction keeps its extent there.

    Args:
        size: Height and width in pixels.
        img_pad_value: Value of padded pixels, after normalisation.
        pad_mask: Pad ground truth masks likewise.
        mask_pad_value: Value of padded mask pixels.
        pad_seg: Pad semantic label maps likewise.
        seg_pad_value: Label of padded pixels.

    Raises:
        ValueError: ``size`` is not two positive integers.
    """

    def __init__(
        self,
        size: tuple[int, int],
        img_pad_value: float = 0,
        pad_mask: bool = False,
        mask_pad_value: int = 0,
        pad_seg: bool = False,
        seg_pad_value: int = 255,
    ) -> None:
        super().__init__()
        if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
            raise ValueError(f"size must be a positive height and width in pixels, got {size}")
        self.size = (size[0], size[1])
        self.img_pad_value = img_pad_value
        self.pad_mask = pad_mask
        self.mask_pad_value = mask_pad_value
        self.pad_seg = pad_seg
        self.seg_pad_value = seg_pad_value

    def forward(
        self, inputs: Tensor, data_samples: Sequence[DetDataSample] | None
    ) -> tuple[Tensor, Sequence[DetDataSample] | None]:
        """Pad ``Tensor[B, C, H, W]`` and note its new size as ``batch_input_shape`` (h, w) in the samples."""
        height, width = inputs.shape[-2:]
        shape = (max(height, self.size[0]), max(width, self.size[1]))
        inputs = F.pad(inputs, (0, shape[1] - width, 0, shape[0] - height), value=self.img_pad_value)
        for sample in data_samples or ():
            sample.set_metainfo({"batch_input_shape": shape})
            if self.pad_mask and "gt_instances" in sample and "masks" in sample.gt_instances:
                masks = sample.gt_instances.masks
                sample.gt_instances.masks = masks.pad(shape, pad_val=self.mask_pad_value)
            if self.pad_seg and "gt_sem_seg" in sample:
                labels = sample.gt_sem_seg.sem_seg
                missing = (0, shape[1] - labels.shape[-1], 0, shape[0] - labels.shape[-2])
                sample.gt_sem_seg.sem_seg = F.pad(labels, missing, value=self.seg_pad_value)
        return inputs, data_samples


class BatchSyncRandomResize(nn.Module):
    """Resizes all batches to one size for some steps, then to another: YOLOX, multi-scale training.

    The first ``interval`` steps see batches as they come. Which size follows then is drawn by the run's seed
    and the number of the interval alone: all ranks have the same without asking one another, and a run that
    resumes goes on with the size that it had. Without a run (a model by itself) nothing is resized.

    Args:
        random_size_range: Least and greatest height in pixels; the width follows the batch's shape.
        interval: Steps until another size is drawn.
        size_divisor: Heights and widths are multiples of this.

    Raises:
        ValueError: No multiple of ``size_divisor`` lies in the range, or ``interval`` is below 1.
    """

    def __init__(
        self, random_size_range: tuple[int, int], interval: int = 10, size_divisor: int = 32
    ) -> None:
        super().__init__()
        least, greatest = (round(side / size_divisor) for side in random_size_range)
        if not 1 <= least <= greatest:
            raise ValueError(
                f"random_size_range must hold two rising sizes of at least {size_divisor} pixels, got "
                f"{tuple(random_size_range)}"
            )
        if interval < 1:
            raise ValueError(f"interval is a number of steps, at least 1, got {interval}")
        self.multiples = (least, greatest)
        self.interval = interval
        self.size_divisor = size_divisor

    def size_at(self, step: int, seed: int, shape: Size) -> Size:
        """Height and width that a batch of height and width ``shape`` gets at a step, counted from 0."""
        number = step // self.interval
        if number == 0:
            return shape
        multiple = random.Random(f"{seed}:{number}").randint(*self.multiples)
        height, width = shape
        return multiple * self.size_divisor, max(1, width * multiple // height) * self.size_divisor

    def forward(
        self, inputs: Tensor, data_samples: Sequence[DetDataSample] | None
    ) -> tuple[Tensor, Sequence[DetDataSample] | None]:
        """Resize ``Tensor[B, C, H, W]`` and what the samples hold: boxes, masks, label maps, sizes."""
        hub = MessageHub.get_current_instance()
        shape = (int(inputs.shape[-2]), int(inputs.shape[-1]))
        size = self.size_at(hub.get_info("iter") or 0, hub.get_info("seed") or 0, shape)
        if size == shape:
            return inputs, data_samples
        inputs = F.interpolate(inputs, size=size, mode="bilinear", align_corners=False)
        factors = (size[0] / shape[0], size[1] / shape[1])
        for sample in data_samples or ():
            _resize_sample(sample, factors, size)
        return inputs, data_samples


def _resize_sample(sample: DetDataSample, factors: tuple[float, float], size: Size) -> None:
    """Scale a sample's sizes and annotations by factors of height and width, on a batch of ``size``."""
    meta = sample.metainfo
    for name in ("img_shape", "pad_shape"):
        if name in meta:
            scaled = [int(side * factor) for side, factor in zip(meta[name][:2], factors, strict=True)]
            sample.set_metainfo({name: tuple(scaled)})
    sample.set_metainfo({"batch_input_shape": size})
    for field in ("gt_instances", "ignored_instances"):
        instances = sample.get(field)
        if instances is None or "bboxes" not in instances:
            continue
        x, y = instances.bboxes[:, 0::2] * factors[1], instances.bboxes[:, 1::2] * factors[0]
        instances.bboxes = torch.stack((x, y), dim=-1).flatten(1)
        if "masks" in instances:
            masks = instances.masks
            sides = zip((masks.height, masks.width), factors, strict=True)
            instances.masks = masks.resize(tuple(round(side * factor) for side, factor in sides))
    if "gt_sem_seg" in sample:
        labels = sample.gt_sem_seg.sem_seg
        shape = [round(side * factor) for side, factor in zip(labels.shape[-2:], factors, strict=True)]
        sample.gt_sem_seg.sem_seg = F.interpolate(labels[None].float(), size=shape)[0].to(labels.dtype)
