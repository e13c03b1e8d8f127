"""What tests and first steps need: drawn data."""
from detcore.testing.shapes import make_shapes, tiny_coco

__all__ = ["make_shapes", "tiny_coco"]
