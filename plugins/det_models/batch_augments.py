"""What is done to a whole batch on the device, in training, after it was normalised and padded."""
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from detcore.structures import DetDataSample


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
