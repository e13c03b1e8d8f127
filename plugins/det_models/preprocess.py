"""From a loader's batch to the network's input."""
import logging
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from det_models.host import host_tensor
from detcore.errors import DataError
from detcore.structures import DetDataSample

logger = logging.getLogger(__name__)

Batch = dict[str, Any]
Size = tuple[int, int]  # height, width


class DetDataPreprocessor(nn.Module):
    """Moves a batch to the device, normalises and pads it there.

    Images travel as uint8 in one transfer. Each is padded at its right and lower edge to the size of the
    largest, rounded up to the divisor. Has no weights and no entry in checkpoints.

    Args:
        mean: Subtracted from each channel, in the channels' order after conversion; None: no normalisation.
        std: What each channel is divided by.
        pad_size_divisor: Height and width of a batch are multiples of this.
        pad_value: Value of padded pixels, after normalisation.
        pad_mask: Pad ground truth masks likewise, in training.
        mask_pad_value: Value of padded mask pixels.
        pad_seg: Pad semantic label maps likewise, in training.
        seg_pad_value: Label of padded pixels.
        bgr_to_rgb: Turn the channels around: images are BGR and the network wants RGB.
        rgb_to_bgr: The same for images in RGB and a network that wants BGR.
        non_blocking: Copy from pinned memory without waiting.
        batch_augments: Applied to the whole batch in training, ``augment(inputs, data_samples)`` giving both
            back.

    Raises:
        ValueError: Arguments that contradict one another.
    """

    def __init__(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        pad_size_divisor: int = 1,
        pad_value: float = 0,
        pad_mask: bool = False,
        mask_pad_value: int = 0,
        pad_seg: bool = False,
        seg_pad_value: int = 255,
        bgr_to_rgb: bool = False,
        rgb_to_bgr: bool = False,
        non_blocking: bool = False,
        batch_augments: Sequence[nn.Module] | None = None,
    ) -> None:
        super().__init__()
        if (mean is None) != (std is None):
            raise ValueError(f"mean and std go together, got mean={mean} and std={std}")
        if mean is not None and std is not None and (len(mean) != len(std) or len(mean) not in (1, 3)):
            raise ValueError(f"mean and std have one entry, or one for each of 3 channels: {mean}, {std}")
        if std is not None and not all(value > 0 for value in std):
            raise ValueError(f"std must be positive, got {std}")
        if bgr_to_rgb and rgb_to_bgr:
            raise ValueError("bgr_to_rgb and rgb_to_bgr undo one another; set one of them")
        if pad_size_divisor < 1:
            raise ValueError(f"pad_size_divisor must be at least 1, got {pad_size_divisor}")
        # Numbers, not buffers: `model.bfloat16()` must not round the mean.
        self._mean = None if mean is None else tuple(float(value) for value in mean)
        self._std = None if std is None else tuple(float(value) for value in std)
        self.turn_channels = bgr_to_rgb or rgb_to_bgr
        self.pad_size_divisor = pad_size_divisor
        self.pad_value = pad_value
        self.pad_mask = pad_mask
        self.mask_pad_value = mask_pad_value
        self.pad_seg = pad_seg
        self.seg_pad_value = seg_pad_value
        self.non_blocking = non_blocking
        self.batch_augments = nn.ModuleList(batch_augments) if batch_augments else None
        self.register_buffer("_marker", torch.zeros(0), persistent=False)  # knows where and what the model is
        self._marker: Tensor

    def expect(self, mean: Sequence[float], std: Sequence[float], *, source: str) -> None:
        """Hear what the backbone's weights were trained with: adopt it, or say that something else is set.

        Args:
            mean: Of the pixels of RGB images, 0 to 255.
            std: Likewise.
            source: Whose weights, for the message.
        """
        if self._mean is None or self._std is None:
            self._mean, self._std = tuple(map(float, mean)), tuple(map(float, std))
            self.turn_channels = True  # images are loaded as BGR
            logger.info("normalising with mean %s, std %s, in RGB, as the weights of %s", mean, std, source)
            return
        near = all(
            abs(own - other) < 1 for own, other in zip((*self._mean, *self._std), (*mean, *std), strict=False)
        )
        if not near:
            rounded = (tuple(round(v, 3) for v in values) for values in (mean, std, self._mean, self._std))
            message = "the weights of %s expect mean %s and std %s (RGB); data_preprocessor has %s and %s"
            logger.warning(message, source, *rounded)

    @property
    def device(self) -> torch.device:
        """Where batches are moved to."""
        return self._marker.device

    @property
    def mean(self) -> Tensor | None:
        """``Tensor[C, 1, 1]``, or None where nothing is normalised."""
        return None if self._mean is None else self._per_channel(self._mean)

    @property
    def std(self) -> Tensor | None:
        """``Tensor[C, 1, 1]``, or None where nothing is normalised."""
        return None if self._std is None else self._per_channel(self._std)

    def _per_channel(self, values: tuple[float, ...]) -> Tensor:
        return host_tensor(values, self._marker, torch.float32).view(-1, 1, 1)

    def forward(self, data: Batch, training: bool = False) -> Batch:
        """Prepare a batch.

        Args:
            data: ``inputs``, a list of images ``Tensor[C, H_i, W_i]`` (uint8 or float) or one ``Tensor[B, C,
                H, W]``; ``data_samples``, a list of DetDataSample, or None.
            training: Whether masks are padded and the batch is augmented.

        Returns:
            ``inputs``, ``Tensor[B, C, H, W]``, and ``data_samples``, on the device, with
            ``batch_input_shape`` and ``pad_shape`` (h, w) in their metainfo.

        Raises:
            DataError: Images of other shapes than that.
        """
        images = data["inputs"]
        samples: list[DetDataSample] | None = data.get("data_samples")
        self._check(images, samples)
        sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
        shape = self._padded(max(size[0] for size in sizes), max(size[1] for size in sizes))
        inputs = self._normalise(self._stack(images, sizes, shape), sizes, shape)
        if samples is not None:
            samples = [self._describe(each, size, shape) for each, size in zip(samples, sizes, strict=True)]
            if training:
                self._pad_annotations(samples, shape)
        if training and self.batch_augments is not None:
            for augment in self.batch_augments:
                inputs, samples = augment(inputs, samples)
        return {**data, "inputs": inputs, "data_samples": samples}

    def _padded(self, height: int, width: int) -> Size:
        divisor = self.pad_size_divisor
        return -(-height // divisor) * divisor, -(-width // divisor) * divisor

    def _check(self, images: Sequence[Tensor] | Tensor, samples: Sequence[DetDataSample] | None) -> None:
        stacked = isinstance(images, Tensor)
        if len(images) == 0:
            raise DataError("the batch holds no image")
        if samples is not None and len(samples) != len(images):
            raise DataError(f"{len(images)} images come with {len(samples)} data samples")
        channels = None if self._mean is None or len(self._mean) == 1 else len(self._mean)
        for number, image in enumerate(images):
            if image.ndim != 3:
                what = f"one of shape {tuple(image.shape)}{' in a stacked batch' if stacked else ''}"
                raise DataError(f"images are [C, H, W], got {what}{_whose(number, samples)}")
            expected = channels or len(images[0])
            if len(image) != expected or (self.turn_channels and len(image) != 3):
                raise DataError(
                    f"an image has {len(image)} channels, expected {3 if self.turn_channels else expected}"
                    f"{_whose(number, samples)}; images are [C, H, W]"
                )

    def _stack(
        self, images: Sequence[Tensor] | Tensor, sizes: Sequence[Size], shape: Size
    ) -> Tensor:
        """The batch on the device, ``Tensor[B, C, H, W]`` in the images' dtype; padding is filled later."""
        if isinstance(images, Tensor):
            batch = images.to(self.device, non_blocking=self.non_blocking)
            return F.pad(batch, (0, shape[1] - sizes[0][1], 0, shape[0] - sizes[0][0]))
        first = images[0]
        if all(size == shape for size in sizes) and first.device == self.device:
            return torch.stack(list(images))
        pinned = self.non_blocking and self.device.type == "cuda" and first.device.type == "cpu"
        batch = first.new_zeros((len(images), len(first), *shape), pin_memory=pinned)
        for place, image, (height, width) in zip(batch, images, sizes, strict=True):
            place[:, :height, :width] = image
        return batch.to(self.device, non_blocking=self.non_blocking)

    def _normalise(self, batch: Tensor, sizes: Sequence[Size], shape: Size) -> Tensor:
        if self.turn_channels:
            batch = batch.flip(1)
        own = batch.dtype != torch.float32
        batch = batch.float()
        if self._mean is not None and self._std is not None:
            mean, std = self._per_channel(self._mean), self._per_channel(self._std)
            batch = (batch.sub_(mean) if own else batch - mean).div_(std)
            own = True
        if any(size != shape for size in sizes):
            batch = batch if own else batch.clone()
            for image, (height, width) in zip(batch, sizes, strict=True):
                image[:, height:] = self.pad_value
                image[:, :height, width:] = self.pad_value
        return batch.to(self._marker.dtype)

    def _describe(self, sample: DetDataSample, size: Size, shape: Size) -> DetDataSample:
        sample = sample.to(self.device, non_blocking=self.non_blocking)
        sample.set_metainfo({"batch_input_shape": shape, "pad_shape": self._padded(*size)})
        return sample

    def _pad_annotations(self, samples: Sequence[DetDataSample], shape: Size) -> None:
        for sample in samples:
            if self.pad_mask and "gt_instances" in sample and "masks" in sample.gt_instances:
                masks = sample.gt_instances.masks
                sample.gt_instances.masks = masks.pad(shape, pad_val=self.mask_pad_value)
            if self.pad_seg and "gt_sem_seg" in sample:
                labels = sample.gt_sem_seg.sem_seg
                missing = (0, shape[1] - labels.shape[-1], 0, shape[0] - labels.shape[-2])
                sample.gt_sem_seg.sem_seg = F.pad(labels, missing, value=self.seg_pad_value)

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"mean={self._mean}, std={self._std}, pad_size_divisor={self.pad_size_divisor}"


def _whose(number: int, samples: Sequence[DetDataSample] | None) -> str:
    path = samples[number].metainfo.get("img_path") if samples is not None and number < len(samples) else None
    return f" (image {number} of the batch{f', {path}' if path else ''})"
