"""What tests and first steps need: drawn data."""

from detcore.data.drawn import make_shapes, tiny_coco

__all__ = ["make_shapes", "tiny_coco"]
