"""A teacher's predictions on their way to the student: chosen, and moved from one view to the other.

Every geometric transform of the pipeline is kept in ``homography_matrix``, which takes pixels of the original
image to those of the view. A box of the teacher's view goes back to the original image by the inverse of the
teacher's matrix, and from there into the student's view by the student's.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detcore.errors import DataError
from detcore.structures import DetDataSample, InstanceData
from detcore.structures.bbox import bbox_project

Samples = Sequence[DetDataSample]


def with_instances(sample: DetDataSample, instances: InstanceData) -> DetDataSample:
    """A sample of the same image whose ground truth are these instances; the given one stays as it is."""
    own = DetDataSample(metainfo=sample.metainfo)
    own.gt_instances = instances
    return own


def chosen(samples: Samples, choose: Callable[[InstanceData], Tensor]) -> list[DetDataSample]:
    """Samples with the instances for which ``choose`` gives True in a ``BoolTensor[N]``."""
    return [with_instances(sample, sample.gt_instances[choose(sample.gt_instances)]) for sample in samples]


def above(threshold: float) -> Callable[[InstanceData], Tensor]:
    """Choose instances whose score exceeds a threshold."""
    return lambda instances: instances.scores > threshold


def wider_than(smallest: tuple[float, float]) -> Callable[[InstanceData], Tensor]:
    """Choose instances whose boxes exceed a width and a height in pixels."""

    def choose(instances: InstanceData) -> Tensor:
        boxes = instances.bboxes
        return (boxes[:, 2] - boxes[:, 0] > smallest[0]) & (boxes[:, 3] - boxes[:, 1] > smallest[1])

    return choose


def homography_of(sample: DetDataSample) -> np.ndarray:
    """float64 (3, 3): pixels of the original image to those of the sample's view.

    Raises:
        DataError: The pipeline did not keep it, or it cannot be undone.
    """
    matrix = sample.metainfo.get("homography_matrix")
    if matrix is None:
        raise DataError(
            f"sample {sample.metainfo.get('img_path') or 'without img_path'} has no homography_matrix, which "
            "takes boxes from the teacher's view to the student's: name it in meta_keys of the PackDetInputs "
            "of both unlabelled branches"
        )
    matrix = np.asarray(matrix.cpu() if isinstance(matrix, Tensor) else matrix, np.float64)
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-12:
        raise DataError(f"a homography_matrix must be 3 x 3 and invertible, got {matrix.tolist()}")
    return matrix


def moved(instances: InstanceData, matrix: np.ndarray, img_shape: tuple[int, int]) -> InstanceData:
    """The instances with their boxes projected, and cut to an image of ``img_shape`` (h, w)."""
    own = instances[:]
    own.bboxes = bbox_project(instances.bboxes, matrix, (img_shape[0], img_shape[1]))
    return own


def to_original(sample: DetDataSample) -> DetDataSample:
    """The sample with its instances in pixels of the original image."""
    matrix = np.linalg.inv(homography_of(sample))
    return with_instances(sample, moved(sample.gt_instances, matrix, sample.metainfo["ori_shape"]))


def into_view(instances: InstanceData, sample: DetDataSample) -> DetDataSample:
    """A view's sample with instances that are in pixels of the original image."""
    return with_instances(sample, moved(instances, homography_of(sample), sample.metainfo["img_shape"]))


def between_views(source: DetDataSample, target: DetDataSample) -> np.ndarray:
    """float64 (3, 3): pixels of one view of an image to those of another."""
    return homography_of(target) @ np.linalg.inv(homography_of(source))


def weighted(losses: Mapping[str, Any], weight: float | Tensor, prefix: str) -> dict[str, Any]:
    """Losses with a prefix before their names and a weight; other entries (``acc``) keep their values."""
    return {
        prefix + name: _times(value, weight) if "loss" in name else value for name, value in losses.items()
    }


def _times(value: Any, weight: float | Tensor) -> Any:
    if isinstance(value, Sequence) and not isinstance(value, Tensor):
        return [each * weight for each in value]
    return value * weight


def count(samples: Samples) -> int:
    """Instances of all samples."""
    return sum(len(sample.gt_instances) for sample in samples)


def as_one_class(samples: Samples) -> list[DetDataSample]:
    """Samples whose instances all have label 0, for a first stage that tells objects from background."""
    found = []
    for sample in samples:
        instances = sample.gt_instances[:]
        instances.labels = torch.zeros_like(instances.labels)
        found.append(with_instances(sample, instances))
    return found
