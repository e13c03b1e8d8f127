"""A data set whose transforms mix several images into one: Mosaic, MixUp and their kin."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np

from detcore.data.wrappers import DatasetWrapper, built_dataset
from detcore.errors import DataError
from detcore.registry import DATASETS, TRANSFORMS, Deferred

logger = logging.getLogger(__name__)


class MultiImageMixDataset(DatasetWrapper):
    """A second pipeline over a data set, whose transforms may ask for further images.

    A transform with ``get_indexes(dataset)`` names the samples that it wants; it finds them, each gone
    through the data set's own pipeline, in ``results['mix_results']``. All of them are loaded under the
    generators of the one sample that comes out.

    Args:
        dataset: The data set; its pipeline at least loads images and annotations.
        pipeline: Transforms of the loaded samples.
        skip_type_keys: Names of transforms to leave out, as the pipeline writes them in ``type``.
        max_refetch: How often a sample is begun anew where a transform refuses it.
        lazy_init: Read the annotations on first use instead of now.

    Raises:
        ValueError: ``max_refetch`` is below 1, or ``skip_type_keys`` is no list of names.
    """

    def __init__(
        self,
        dataset: Annotated[Any, DATASETS],
        pipeline: Annotated[Sequence[Any], Deferred(TRANSFORMS)],
        skip_type_keys: Sequence[str] | None = None,
        max_refetch: int = 15,
        lazy_init: bool = False,
    ) -> None:
        if max_refetch < 1:
            raise ValueError(f"max_refetch must be at least 1, got {max_refetch}")
        self.dataset, self.max_refetch = built_dataset(dataset), max_refetch
        self.pipeline_types = [_type_of(step) for step in pipeline]
        self.pipeline: list[Callable] = [TRANSFORMS.build(step) for step in pipeline]
        self._skipped_types: frozenset[str] = frozenset()
        self.update_skip_type_keys(skip_type_keys or ())
        if not lazy_init:
            self.full_init()

    @property
    def metainfo(self) -> dict[str, Any]:
        """Facts about the data."""
        metainfo: dict[str, Any] = self.dataset.metainfo
        return metainfo

    def full_init(self) -> None:
        """Read the annotations; later calls do nothing."""
        self.dataset.full_init()

    def update_skip_type_keys(self, skip_type_keys: Sequence[str]) -> None:
        """Leave out other transforms from now on; workers that run already go on as they are."""
        if isinstance(skip_type_keys, str) or not all(isinstance(key, str) for key in skip_type_keys):
            raise ValueError(f"skip_type_keys must be a list of names, got {skip_type_keys!r}")
        self._skipped_types = frozenset(map(_plain, skip_type_keys))
        unknown = sorted(self._skipped_types.difference(self.pipeline_types))
        if unknown:
            logger.warning(
                "skip_type_keys: the pipeline has no %s; it has %s",
                ", ".join(unknown), ", ".join(self.pipeline_types),
            )  # fmt: skip

    def stop_mixing(self) -> None:
        """Leave the whole second pipeline out from now on: samples come as the data set gives them.

        Workers that run already go on as they are.
        """
        self.pipeline, self.pipeline_types, self._skipped_types = [], [], frozenset()

    def __getitem__(self, idx: int) -> Any:
        """The sample at ``idx``, mixed with others.

        Raises:
            DataError: A transform has refused it ``max_refetch`` times.
        """
        for _ in range(self.max_refetch):
            results, refused_by = self._attempt(idx)
            if results is not None:
                return results
        raise DataError(
            f"sample {idx} was refused {self.max_refetch} times (max_refetch), the last time by "
            f"{refused_by}; look for a transform that always returns None"
        )

    def _attempt(self, idx: int) -> tuple[Any, str]:
        """One way through the pipeline, and the name of the step that refused the sample if it is None."""
        results = self.dataset[idx]
        if results is None:
            return None, type(self.dataset).__name__
        for name, transform in zip(self.pipeline_types, self.pipeline, strict=True):
            if name in self._skipped_types:
                continue
            if hasattr(transform, "get_indexes"):
                wanted = transform.get_indexes(self.dataset)
                others = wanted if isinstance(wanted, (Sequence, np.ndarray)) else [wanted]
                results["mix_results"] = [self.dataset[int(other)] for other in others]
                if any(other is None for other in results["mix_results"]):
                    return None, type(self.dataset).__name__
            results = transform(results)
            if results is None:
                return None, name
            results.pop("mix_results", None)
        return results, ""

    def _locate(self, idx: int) -> tuple[Any, int]:
        return self.dataset, idx

    def _parts(self) -> Sequence[tuple[Any, np.ndarray]]:
        return [(self.dataset, np.arange(len(self.dataset)))]

    def __len__(self) -> int:
        return len(self.dataset)


def _type_of(step: Any) -> str:
    """The name of a transform, without its scope."""
    named = step.get("type") if isinstance(step, dict) else type(step)
    return _plain(named if isinstance(named, str) else getattr(named, "__name__", repr(named)))


def _plain(name: str) -> str:
    return name.rsplit(".", 1)[-1]
