"""Transforms: steps of a pipeline that change the ``results`` dict of one image."""
from detcore.data.transforms.base import BaseTransform, Results, keep_instances, record_homography
from detcore.data.transforms.compose import Compose, RandomApply, RandomChoice
from detcore.data.transforms.crop import RandomCrop
from detcore.data.transforms.filter import FilterAnnotations
from detcore.data.transforms.flip import RandomFlip
from detcore.data.transforms.load import LoadAnnotations, LoadImageFromFile, LoadImageFromNDArray
from detcore.data.transforms.mix import MixUp, Mosaic
from detcore.data.transforms.pad import Pad
from detcore.data.transforms.photometric import PhotoMetricDistortion
from detcore.data.transforms.resize import RandomChoiceResize, RandomResize, Resize
from detcore.data.transforms.test_time import TestTimeAug

__all__ = [
    "BaseTransform", "Compose", "FilterAnnotations", "LoadAnnotations", "LoadImageFromFile",
    "LoadImageFromNDArray", "MixUp", "Mosaic", "Pad", "PhotoMetricDistortion", "RandomApply",
    "RandomChoice", "RandomChoiceResize", "RandomCrop", "RandomFlip", "RandomResize", "Resize", "Results",
    "TestTimeAug", "keep_instances", "record_homography",
]
