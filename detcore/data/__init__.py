"""Data sets, transforms, samplers and the loader: from files to batches."""
from detcore.data.dataset import BaseDetDataset
from detcore.data.fetch import collate_lists
from detcore.data.image import BadImageError, decode_image, read_image
from detcore.data.loader import DetDataLoader
from detcore.data.loader_config import build_dataloader
from detcore.data.mix_dataset import MultiImageMixDataset
from detcore.data.pack import PackDetInputs
from detcore.data.samplers import AspectRatioBatchSampler, DefaultSampler, InfiniteSampler
from detcore.data.seeding import sample_seed, seeded
from detcore.data.table import AnnotationTable, Instances
from detcore.data.wrappers import ClassBalancedDataset, ConcatDataset, RepeatDataset

__all__ = [
    "AnnotationTable", "AspectRatioBatchSampler", "BadImageError", "BaseDetDataset",
    "ClassBalancedDataset", "ConcatDataset", "DefaultSampler", "DetDataLoader", "InfiniteSampler",
    "Instances", "MultiImageMixDataset", "PackDetInputs", "RepeatDataset", "build_dataloader",
    "collate_lists", "decode_image", "read_image", "sample_seed", "seeded",
]
