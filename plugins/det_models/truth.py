"""The ground truth of a batch in tensors of fixed shape, so that nothing loops over images or boxes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from det_models.host import host_tensor
from detcore.structures import DetDataSample, InstanceData


@dataclass(slots=True)
class GroundTruth:
    """Ground truth of B images, padded to the G boxes of the fullest one (at least one).

    Attributes:
        boxes: ``Tensor[B, G, 4]``, xyxy, pixels of the network's input; zeros where padded.
        labels: ``LongTensor[B, G]``, zeros where padded.
        mask: ``BoolTensor[B, G]``, whether the entry is a box.
        ignored: ``Tensor[B, I, 4]``, regions in which nothing is to be learnt (crowds), padded likewise; None
            where the whole batch has none.
        counts: Number of boxes of each image, on the host.
        instances: What the images came with.
        ignored_instances: Their ignored regions, one entry an image, or None.
    """

    boxes: Tensor
    labels: Tensor
    mask: Tensor
    ignored: Tensor | None
    counts: list[int]
    instances: Sequence[InstanceData]
    ignored_instances: Sequence[InstanceData] | None = None

    @classmethod
    def pack(
        cls,
        instances: Sequence[InstanceData],
        ignored_instances: Sequence[InstanceData] | None = None,
        num_classes: int | None = None,
    ) -> "GroundTruth":
        """Pad the ground truth of a batch.

        Args:
            instances: ``bboxes`` and ``labels`` of each image.
            ignored_instances: ``bboxes`` of each image that are neither object nor background.
            num_classes: Number of classes that labels are held against where that costs nothing (on the CPU).

        Raises:
            ValueError: A label is not one of the classes.
        """
        boxes = [each.bboxes for each in instances]
        labels = [each.labels for each in instances]
        counts = [len(each) for each in boxes]
        index = _padding_index(counts, boxes[0])
        packed_boxes = torch.cat([*boxes, boxes[0].new_zeros(1, 4)])[index]
        packed_labels = torch.cat([*labels, labels[0].new_zeros(1)])[index].long()
        if num_classes is not None:
            check_labels(labels, num_classes)
        return cls(
            boxes=packed_boxes.float(),
            labels=packed_labels,
            mask=index < sum(counts),
            ignored=_pack_ignored(ignored_instances),
            counts=counts,
            instances=instances,
            ignored_instances=ignored_instances,
        )

    def __len__(self) -> int:
        """Number of images."""
        return len(self.counts)

    def boxes_at(self, matches: Tensor) -> Tensor:
        """Boxes ``Tensor[B, A, 4]`` of the matched entries ``LongTensor[B, A]`` (see :meth:`labels_at`)."""
        index = (matches - 1).clamp(min=0)
        return self.boxes.gather(1, index[..., None].expand(-1, -1, 4))

    def labels_at(self, matches: Tensor, background: int) -> Tensor:
        """Labels of matched entries.

        Args:
            matches: ``LongTensor[B, A]``, number of the box in its image plus one; 0 and below are
                background.
            background: Label of those.

        Returns:
            ``LongTensor[B, A]``.
        """
        labels = self.labels.gather(1, (matches - 1).clamp(min=0))
        return torch.where(matches > 0, labels, background)


def unpack_gt_instances(
    batch_data_samples: Sequence[DetDataSample],
) -> tuple[list[InstanceData], list[InstanceData] | None, list[dict[str, Any]]]:
    """Ground truth, ignored regions (None where no sample has the field) and metainfo of a batch.

    Raises:
        ValueError: A sample has no ground truth.
    """
    for number, sample in enumerate(batch_data_samples):
        if "gt_instances" not in sample:
            raise ValueError(
                f"sample {number} ({sample.metainfo.get('img_path') or 'no img_path'}) has no gt_instances, "
                "which the loss needs; does its pipeline load annotations and end with PackDetInputs?"
            )
    ignored = None
    if all("ignored_instances" in sample for sample in batch_data_samples):
        ignored = [sample.ignored_instances for sample in batch_data_samples]
    return (
        [sample.gt_instances for sample in batch_data_samples],
        ignored,
        [sample.metainfo for sample in batch_data_samples],
    )


def _padding_index(counts: list[int], like: Tensor) -> Tensor:
    """Where each entry stands in the concatenation of all images; behind its end where it is padding."""
    width = max(1, *counts) if counts else 1
    total = sum(counts)
    rows, start = [], 0
    for count in counts:
        rows.append([*range(start, start + count), *[total] * (width - count)])
        start += count
    return host_tensor(rows, like, torch.int64)


def _pack_ignored(ignored_instances: Sequence[InstanceData] | None) -> Tensor | None:
    if ignored_instances is None:
        return None
    boxes = [each.bboxes for each in ignored_instances if "bboxes" in each]
    if len(boxes) != len(ignored_instances) or not any(len(each) for each in boxes):
        return None
    index = _padding_index([len(each) for each in boxes], boxes[0])
    return torch.cat([*boxes, boxes[0].new_zeros(1, 4)])[index].float()


def check_labels(labels: Sequence[Tensor], num_classes: int) -> None:
    """Hold each image's labels against the number of classes where that costs nothing: on the CPU.

    Raises:
        ValueError: A label is not one of the classes.
    """
    if labels and (labels[0].device.type != "cpu" or torch.compiler.is_compiling()):
        return
    for number, each in enumerate(labels):
        if len(each) and not 0 <= int(each.min()) <= int(each.max()) < num_classes:
            raise ValueError(
                f"image {number} of the batch has labels {sorted(set(each.tolist()))}, but the head has "
                f"num_classes={num_classes} (labels 0 to {num_classes - 1})"
            )
