"""What ``import mmcv`` gave: the pictures."""

from det_mmdet.images import (
    bgr2gray,
    bgr2hsv,
    bgr2rgb,
    hsv2bgr,
    imcrop,
    imflip,
    imfrombytes,
    imnormalize,
    impad,
    impad_to_multiple,
    imread,
    imrescale,
    imresize,
    imrotate,
    imwrite,
    rgb2bgr,
)

__all__ = [
    "bgr2gray",
    "bgr2hsv",
    "bgr2rgb",
    "hsv2bgr",
    "imcrop",
    "imflip",
    "imfrombytes",
    "imnormalize",
    "impad",
    "impad_to_multiple",
    "imread",
    "imrescale",
    "imresize",
    "imrotate",
    "imwrite",
    "rgb2bgr",
]
