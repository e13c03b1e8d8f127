"""Boxes as plain tensors and arrays, ``(..., 4)``, xyxy, absolute pixels unless a function says otherwise."""

from detcore.structures.bbox.distances import bbox2distance, distance2bbox
from detcore.structures.bbox.formats import bbox_cxcywh_to_xyxy, bbox_xyxy_to_cxcywh, cat_boxes, get_box_wh
from detcore.structures.bbox.overlaps import bbox_overlaps
from detcore.structures.bbox.projection import bbox2corner, bbox_project, corner2bbox
from detcore.structures.bbox.rois import bbox2roi, roi2bbox
from detcore.structures.bbox.transforms import (
    bbox_clip,
    bbox_flip,
    bbox_rescale,
    find_inside_bboxes,
    scale_boxes,
)

__all__ = [
    "bbox2corner",
    "bbox2distance",
    "bbox2roi",
    "bbox_clip",
    "bbox_cxcywh_to_xyxy",
    "bbox_flip",
    "bbox_overlaps",
    "bbox_project",
    "bbox_rescale",
    "bbox_xyxy_to_cxcywh",
    "cat_boxes",
    "corner2bbox",
    "distance2bbox",
    "find_inside_bboxes",
    "get_box_wh",
    "roi2bbox",
    "scale_boxes",
]
