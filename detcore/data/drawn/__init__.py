"""A data set that the project draws itself."""

from detcore.data.drawn.shapes import ShapesStyle, draw_picture, make_shapes, tiny_coco

__all__ = ["ShapesStyle", "draw_picture", "make_shapes", "tiny_coco"]
