"""Instance masks as bitmaps or polygons, with the operations that the data pipeline needs."""

from detcore.structures.mask.bitmap import BitmapMasks
from detcore.structures.mask.polygon import PolygonMasks
from detcore.structures.mask.rasterize import polygon_to_bitmap
from detcore.structures.mask.targets import mask_target

__all__ = ["BitmapMasks", "PolygonMasks", "mask_target", "polygon_to_bitmap"]
