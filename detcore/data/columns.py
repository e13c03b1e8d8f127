"""What samplers ask about every image at once: sizes and labels, read from the annotations' columns.

Data sets that keep no columns are asked image by image.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from detcore.data.ragged import Ragged
from detcore.errors import DataError


def image_sizes(dataset: Any) -> np.ndarray:
    """int32 (I, 2): height and width of every sample's image in pixels.

    Raises:
        DataError: The annotations do not tell one of them.
    """
    if hasattr(dataset, "image_sizes"):
        sizes: np.ndarray = dataset.image_sizes()
    else:
        infos = (dataset.get_data_info(index) for index in range(len(dataset)))
        pairs = [(info.get("height", -1), info.get("width", -1)) for info in infos]
        sizes = np.array(pairs, np.int32).reshape(-1, 2)
    unknown = np.flatnonzero((sizes < 0).any(1))
    if unknown.size:
        raise DataError(
            f"height and width of every image are needed; {unknown.size} of the {len(sizes)} samples of "
            f"{type(dataset).__name__} have none in their annotations, the first is sample {unknown[0]}"
        )
    return sizes


def image_labels(dataset: Any) -> Ragged:
    """Labels of all instances, one list a sample; a label stands there once an instance.

    Raises:
        DataError: The data set has no `get_cat_ids`.
    """
    if hasattr(dataset, "image_labels"):
        labels: Ragged = dataset.image_labels()
        return labels
    if not hasattr(dataset, "get_cat_ids"):
        raise DataError(
            f"the labels of every image are needed: {type(dataset).__name__} has no method get_cat_ids(idx)"
        )
    return labels_one_by_one(dataset)


def labels_one_by_one(dataset: Any) -> Ragged:
    """Labels as ``dataset.get_cat_ids(idx)`` gives them, one list a sample."""
    lists = [np.asarray(list(dataset.get_cat_ids(index)), np.int64) for index in range(len(dataset))]
    offsets = np.zeros(len(lists) + 1, np.int64)
    np.cumsum([len(labels) for labels in lists], out=offsets[1:])
    return Ragged(np.concatenate([*lists, np.zeros(0, np.int64)]), offsets)


def images_of_classes(dataset: Any) -> dict[int, np.ndarray]:
    """For each label that occurs, the samples that have it: sorted, each once, int64 (n,)."""
    labels = image_labels(dataset)
    count = max(len(labels), 1)
    images = np.repeat(np.arange(len(labels)), np.diff(labels.offsets))
    pairs = np.sort(labels.values.astype(np.int64) * count + images)
    pairs = pairs[np.diff(pairs, prepend=pairs[:1] - 1) != 0]
    of_pair, images = np.divmod(pairs, count)
    starts = np.flatnonzero(np.diff(of_pair, prepend=of_pair[:1] - 1))
    bounds = [*starts.tolist(), len(pairs)]
    return {int(of_pair[start]): images[start:end] for start, end in itertools.pairwise(bounds)}
