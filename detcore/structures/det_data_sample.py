"""What is known of one image: annotations, predictions, and how the image was made."""

from __future__ import annotations

from typing import Any, ClassVar

from detcore.structures.base import BaseDataElement
from detcore.structures.instance_data import InstanceData
from detcore.structures.pixel_data import PixelData


class DetDataSample(BaseDataElement):
    """Annotations and predictions of one image, as components exchange them.

    Metainfo (each set by the data pipeline): ``img_id``, ``img_path``, ``ori_shape`` and ``img_shape``
    (height, width in pixels, before and after resizing), ``pad_shape``, ``batch_input_shape``,
    ``scale_factor`` (w, h), ``flip``, ``flip_direction``.

    Attributes:
        proposals: Region proposals of two-stage detectors.
        gt_instances: Annotated instances: ``bboxes`` ``Tensor[N, 4]`` xyxy in pixels of the input image,
            ``labels`` ``Tensor[N]``, ``masks``.
        pred_instances: Predicted instances: ``bboxes`` xyxy in pixels of the original image, ``scores``,
            ``labels``.
        ignored_instances: Annotated instances that count neither as object nor as background.
        gt_panoptic_seg: Annotated panoptic map.
        pred_panoptic_seg: Predicted panoptic map.
        gt_sem_seg: Annotated semantic label map.
        pred_sem_seg: Predicted semantic label map.

    Raises:
        TypeError: One of these is set to something that is no InstanceData or PixelData.
    """

    proposals: InstanceData
    gt_instances: InstanceData
    pred_instances: InstanceData
    ignored_instances: InstanceData
    gt_panoptic_seg: PixelData
    pred_panoptic_seg: PixelData
    gt_sem_seg: PixelData
    pred_sem_seg: PixelData

    field_types: ClassVar[dict[str, type]] = {
        "proposals": InstanceData,
        "gt_instances": InstanceData,
        "pred_instances": InstanceData,
        "ignored_instances": InstanceData,
        "gt_panoptic_seg": PixelData,
        "pred_panoptic_seg": PixelData,
        "gt_sem_seg": PixelData,
        "pred_sem_seg": PixelData,
    }

    def __setattr__(self, name: str, value: Any) -> None:
        self.set_field(value, name, dtype=self.field_types.get(name))
