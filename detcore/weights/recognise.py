"""What kind of model weights are of, by the names of their tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable

# The first that occurs among the names. Names of parameters are those of MMDetection.
_MARKS = (
    (r"^(student|teacher)\.", "a teacher-student detector: two detectors, below student. and teacher."),
    (r"^bbox_head\.transformer\.", "a DETR of MMDetection 2.x, whose layers have other names today"),
    (r"^(panoptic_head|track_head)\.", "a MaskFormer or Mask2Former"),
    (r"^roi_head\.bbox_head\.0\.", "a Cascade R-CNN"),
    (r"^roi_head\.(mask_head|point_head)\.", "a Mask R-CNN"),
    (r"^roi_head\.", "a Faster R-CNN or another detector of two stages"),
    (r"^bbox_head\.retina_(cls|reg)\.", "a RetinaNet, or a detector with its head"),
    (r"^bbox_head\.atss_", "ATSS"),
    (r"^bbox_head\.gfl_", "GFL"),
    (r"^bbox_head\.vfnet_", "VFNet"),
    (r"^bbox_head\.rtm_", "RTMDet"),
    (r"^bbox_head\.multi_level_conv_", "YOLOX"),
    (r"^bbox_head\.convs_(bridge|pred)\.", "YOLOv3"),
    (r"^bbox_head\.(conv_centerness|conv_cls|fcos_cls)\.", "FCOS or another detector without anchors"),
    (r"^bbox_head\.heatmap_head\.", "CenterNet"),
    (r"^bbox_head\.(tl|br)_", "CornerNet"),
    (r"^neck\.l2_norm\.", "SSD"),
    (r"^(encoder|decoder|query_embedding)\.", "a DETR"),
    (r"^(rpn_head|bbox_head\.rpn_)", "a region proposal network (RPN)"),
    (r"^bbox_head\.", "a detector of one stage"),
    (r"^backbone\.bottom_up\.", "a detector of Detectron2"),
    (r"^backbone\.", "a model with a backbone, perhaps a classifier of MMPretrain"),
    (r"^(fc|head\.fc|classifier|head)\.(\d\.)?(weight|bias)$", "a classification model"),
    (r"^(layer1|stages|features|conv1|blocks)\.", "a backbone alone"),
)  # fmt: skip


def recognise(names: Iterable[str]) -> str:
    """What the weights seem to be of, in words; empty where nobody can tell.

    Args:
        names: Names of the tensors.
    """
    listed = [str(name) for name in names]
    for pattern, what in _MARKS:
        if any(re.match(pattern, name) for name in listed):
            return what
    return ""
