"""Operations on boxes and features: suppression, sampling, pooling; over torchvision, nothing to compile."""

from detcore.ops.by_level import by_level
from detcore.ops.deform_conv import deform_conv2d, modulated_deform_conv2d
from detcore.ops.deform_roi_pool import (
    DeformRoIPool,
    DeformRoIPoolPack,
    ModulatedDeformRoIPoolPack,
    deform_roi_pool,
)
from detcore.ops.mask_paste import paste_masks, paste_run_lengths
from detcore.ops.nms import batched_nms, multiclass_nms, nms
from detcore.ops.roi_pool import RoIAlign, RoIPool, roi_align, roi_align_levels, roi_pool
from detcore.ops.soft_nms import soft_nms

__all__ = [
    "DeformRoIPool", "DeformRoIPoolPack", "ModulatedDeformRoIPoolPack", "RoIAlign", "RoIPool", "batched_nms",
    "by_level", "deform_conv2d", "deform_roi_pool", "modulated_deform_conv2d", "multiclass_nms", "nms",
    "paste_masks", "paste_run_lengths", "roi_align", "roi_align_levels", "roi_pool", "soft_nms",
]
