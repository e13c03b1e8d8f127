"""What every metric shares: collect per image, merge over the ranks, compute once, tell everyone."""
import logging
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

from detcore.errors import ConfigError, DataError, DetcoreError
from detcore.evaluation import gather

logger = logging.getLogger(__name__)


class Metric(ABC):
    """Base of the metrics: `process` a batch at a time, then `evaluate`.

    A metric overrides `process`, which appends one entry per image to ``self.results``, and
    `compute_metrics`, which turns all entries into figures. Entries are plain data (dicts, lists, numbers,
    strings, arrays, tensors): they travel between ranks.

    Args:
        collect_device: ``'cpu'`` or ``'gpu'``. Kept for configs; results travel on the device that the
            process group's backend needs.
        prefix: put in front of every figure's name (``coco`` gives ``coco/bbox_mAP``). None takes the
            class's `default_prefix`.
        collect_dir: kept for configs, with a warning; nothing is collected through files.

    Attributes:
        dataset_meta: what the data set says of itself (``classes``, ``palette``); set before `process`.
        results: the entries of this rank since the last `evaluate`.
    """

    default_prefix: ClassVar[str | None] = None

    def __init__(
        self, collect_device: str = "cpu", prefix: str | None = None, collect_dir: str | None = None
    ) -> None:
        if collect_device not in ("cpu", "gpu"):
            raise ConfigError(f"collect_device must be 'cpu' or 'gpu', got {collect_device!r}")
        if collect_dir is not None:
            logger.warning(
                "%s: collect_dir=%r has no effect: results are not collected through files",
                type(self).__name__, collect_dir,
            )  # fmt: skip
        self.collect_device = collect_device
        self.collect_dir = collect_dir
        self.prefix = prefix or self.default_prefix
        self.results: list[Any] = []
        self._dataset_meta: dict[str, Any] | None = None

    @property
    def dataset_meta(self) -> dict[str, Any] | None:
        """Meta information of the data set that is evaluated."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict[str, Any]) -> None:
        self._dataset_meta = dataset_meta

    @abstractmethod
    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Take one batch of predictions and append to ``self.results``.

        Args:
            data_batch: the batch as the loader gave it, or None.
            data_samples: one dict (a `DetDataSample` as ``to_dict()``) or data sample per image.
        """

    @abstractmethod
    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Figures by name, without prefix, from the entries of all ranks. Called on rank 0 only."""

    def identify(self, result: Any) -> Hashable | None:
        """What tells two entries of the same image, such as its id; None if nothing does.

        A sampler pads the ranks' shares to one length with images that some other rank has as well. Entries
        with an identity are kept once. Where there is none, the merged list is cut to the data set's length.
        """
        return None

    def evaluate(self, size: int) -> dict[str, float]:
        """Merge the entries of all ranks and compute the figures.

        Args:
            size: number of images in the data set.

        Returns:
            The same figures on every rank, names prefixed. ``self.results`` is empty afterwards.

        Raises:
            DetcoreError: the computation failed, on every rank alike.
        """
        if not self.results:
            logger.warning(
                "%s has nothing to evaluate on rank %d: process() was given no image",
                type(self).__name__, gather.rank(),
            )
        results = self._collect(size)
        self.results = []
        return self._on_first(results)

    def _collect(self, size: int) -> list[Any] | None:
        """Entries of all ranks in the data set's order on rank 0, None on the others."""
        if gather.world_size() == 1:
            return self._without_repeats(self.results)
        parts = gather.gather_to_first(gather.encode(self.results))
        if parts is None:
            return None
        merged = gather.interleave([gather.decode(part) for part in parts])
        kept = self._without_repeats(merged)
        anonymous = kept is merged
        return kept[:size] if anonymous else kept

    def _without_repeats(self, results: list[Any]) -> list[Any]:
        """The entries with each identity once; the very list where the entries have none."""
        if not results or self.identify(results[0]) is None:
            return results
        seen: dict[Hashable | None, Any] = {}
        for result in results:
            seen.setdefault(self.identify(result), result)
        repeated = len(results) - len(seen)
        if repeated:
            message = "%s: %d of %d images came more than once; each counts once"
            # A sampler's padding is expected, the same id twice in one process's share is not.
            level = logging.WARNING if gather.world_size() == 1 else logging.DEBUG
            logger.log(level, message, type(self).__name__, repeated, len(results))
        return list(seen.values())

    def _on_first(self, results: list[Any] | None) -> dict[str, float]:
        """Compute on rank 0 and tell the others, a failure too: else they would wait for ever."""
        failure: Exception | None = None
        outcome: dict[str, Any] = {}
        if results is not None:
            try:
                outcome["figures"] = self._named(self.compute_metrics(results))
            except Exception as error:
                failure = error
                outcome["failure"] = f"{type(error).__name__}: {error}"
        outcome = gather.broadcast_from_first(outcome)
        if failure is not None:
            raise failure
        if "failure" in outcome:
            raise DetcoreError(f"{type(self).__name__} failed on rank 0: {outcome['failure']}")
        return outcome["figures"]

    def _named(self, figures: Mapping[str, Any]) -> dict[str, float]:
        if not isinstance(figures, Mapping):
            raise DataError(
                f"{type(self).__name__}.compute_metrics() must return a dict of figures, "
                f"got {type(figures).__name__}"
            )
        if not self.prefix:
            return dict(figures)
        return {f"{self.prefix}/{name}": value for name, value in figures.items()}
