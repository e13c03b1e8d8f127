"""Data sets and metrics for detcore: COCO."""
