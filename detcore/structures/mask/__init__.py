"""Instance masks as bitmaps or polygons, with the operations that the data pipeline needs."""

from detcore.structures.mask.bitmap import BitmapMasks
from detcore.structures.mask.outline import mask_polygons, masks_polygons
from detcore.structures.mask.polygon import PolygonMasks
from detcore.structures.mask.rasterize import polygon_to_bitmap
from detcore.structures.mask.run_length import (
    as_bitmaps,
    decode_masks,
    encode_mask,
    encode_masks,
    mask_bounds,
)
from detcore.structures.mask.targets import mask_target

__all__ = [
    "BitmapMasks", "PolygonMasks", "as_bitmaps", "decode_masks", "encode_mask", "encode_masks", "mask_bounds",
    "mask_polygons", "mask_target", "masks_polygons", "polygon_to_bitmap",
]
