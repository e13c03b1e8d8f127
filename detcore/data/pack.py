"""The pipeline's last step: from the results dict to tensors and a data sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from detcore.data.transforms.base import BaseTransform, Results
from detcore.errors import DataError
from detcore.structures import DetDataSample, InstanceData, PixelData

META_KEYS = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "flip", "flip_direction")


class PackDetInputs(BaseTransform):
    """Pack a sample into ``inputs`` and ``data_samples``.

    ``inputs`` is Tensor[C, H, W], BGR, in the image's dtype, and shares the image's memory.

    The `DetDataSample` holds ``gt_instances`` (``bboxes`` Tensor[N, 4] xyxy, ``labels`` Tensor[N],
    ``masks``), ``ignored_instances`` (those with an ignore flag), ``proposals``, ``gt_sem_seg``, and the meta
    information.

    Args:
        meta_keys: Keys of ``results`` that become meta information; those that are not there are left out.
    """

    MAPPING: ClassVar[dict[str, str]] = {
        "gt_bboxes": "bboxes",
        "gt_bboxes_labels": "labels",
        "gt_masks": "masks",
    }

    def __init__(self, meta_keys: Sequence[str] = META_KEYS) -> None:
        if isinstance(meta_keys, str):
            raise ValueError(f"meta_keys must be a tuple of names, got the string {meta_keys!r}")
        self.meta_keys = tuple(meta_keys)

    def transform(self, results: Results) -> dict[str, Any]:
        """Pack.

        Raises:
            DataError: There is no image.
        """
        if results.get("img") is None:
            raise DataError(
                f"PackDetInputs: no `img`; the pipeline must load an image first, got {sorted(results)}"
            )
        sample = DetDataSample(metainfo={key: results[key] for key in self.meta_keys if key in results})
        self._pack_instances(results, sample)
        if results.get("gt_seg_map") is not None:
            sample.gt_sem_seg = PixelData(
                metainfo={"ignore_index": results.get("ignore_index", 255)},
                sem_seg=torch.from_numpy(np.ascontiguousarray(results["gt_seg_map"][None])),
            )
        return {"inputs": image_tensor(results["img"]), "data_samples": sample}

    def _pack_instances(self, results: Results, sample: DetDataSample) -> None:
        fields = {name: results[key] for key, name in self.MAPPING.items() if results.get(key) is not None}
        sample.gt_instances = InstanceData()
        sample.ignored_instances = InstanceData()
        flags = results.get("gt_ignore_flags")
        if flags is None or not np.any(flags):
            for name, value in fields.items():
                setattr(sample.gt_instances, name, _tensor(value))
            kept = np.zeros(0, np.int64)
            for name, value in fields.items() if flags is not None else ():
                setattr(sample.ignored_instances, name, _tensor(value[kept]))
        else:
            flags = np.asarray(flags, bool)
            for target, rows in ((sample.gt_instances, ~flags), (sample.ignored_instances, flags)):
                for name, value in fields.items():
                    setattr(target, name, _tensor(value[np.flatnonzero(rows)]))
        if "proposals" in results:
            sample.proposals = InstanceData(
                bboxes=_tensor(results["proposals"]), scores=_tensor(results["proposals_scores"])
            )

    def __repr__(self) -> str:
        return f"PackDetInputs(meta_keys={self.meta_keys})"


def image_tensor(img: np.ndarray) -> Tensor:
    """Tensor[C, H, W] that looks at an image (H, W[, C]) without copying it.

    Its memory stays in the order H, W, C: whoever takes the image next copies it anyway (the way from a
    loader's worker, which puts it in order C, H, W; or the batch).
    """
    if img.ndim < 3:
        img = img[..., None]
    dense = img if img.flags.c_contiguous and img.flags.writeable else img.copy(order="C")
    return torch.from_numpy(dense).permute(2, 0, 1)


def _tensor(value: Any) -> Any:
    """Arrays as tensors; masks and everything else as they are."""
    return torch.from_numpy(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value
