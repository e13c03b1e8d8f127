"""An evaluator for several data sets in a row, each with metrics of its own."""
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from detcore.errors import ConfigError
from detcore.evaluation import gather
from detcore.evaluation.evaluator import Evaluator, as_dict
from detcore.evaluation.metric import Metric
from detcore.registry import METRICS

MetaInfo = Mapping[str, Any]


class MultiDatasetsEvaluator(Evaluator):
    """The first metric sees the first data set of a `ConcatDataset`, the second the second, and so on.

    A sample's data set is told from its position: the loader must not shuffle, and deals samples to the
    processes in turn, as `DefaultSampler` does.

    Args:
        metrics: One metric for each data set.
        dataset_prefixes: Put before the names of each data set's figures: ``coco2017/coco/bbox_mAP``.

    Raises:
        ConfigError: There are more or fewer prefixes than metrics.
    """

    def __init__(
        self,
        metrics: Annotated[Metric | Sequence[Metric], METRICS],
        dataset_prefixes: Sequence[str],
    ) -> None:
        super().__init__(metrics)
        self.dataset_prefixes = list(dataset_prefixes)
        if len(self.dataset_prefixes) != len(self.metrics):
            raise ConfigError(
                f"MultiDatasetsEvaluator: {len(self.metrics)} metrics, but {len(self.dataset_prefixes)} "
                "dataset_prefixes; give one of both for each data set"
            )
        self._ends: list[int] = []
        self._seen = 0

    def use_dataset(self, dataset: Any) -> None:
        """Take over what is known of each data set.

        Raises:
            ConfigError: It is no `ConcatDataset`, or has another number of data sets than there are metrics.
        """
        parts, ends = getattr(dataset, "datasets", None), getattr(dataset, "cumulative_sizes", None)
        if not parts or ends is None:
            raise ConfigError(
                "MultiDatasetsEvaluator needs a ConcatDataset in the dataloader, got a "
                f"{type(dataset).__name__}"
            )
        self.dataset_meta = [{**part.metainfo, "cumulative_sizes": list(ends)} for part in parts]

    @property
    def dataset_meta(self) -> Any:
        """Meta information of the data sets, with ``cumulative_sizes``: the samples up to each one's end.

        Setting it to one dict gives that to every metric, setting it to a list gives each its own.
        """
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, dataset_meta: MetaInfo | Sequence[MetaInfo]) -> None:
        several = [dataset_meta] * len(self.metrics) if isinstance(dataset_meta, Mapping) else dataset_meta
        ends = several[0].get("cumulative_sizes") if several else None
        if ends is None or len(ends) != len(self.metrics) or len(several) != len(self.metrics):
            raise ConfigError(
                f"MultiDatasetsEvaluator has {len(self.metrics)} metrics, and needs as many data sets with "
                f"their cumulative_sizes, got {ends if ends is None else list(ends)}"
            )
        self._dataset_meta = dataset_meta  # type: ignore[assignment]
        self._ends, self._seen = [int(end) for end in ends], 0
        for metric, meta in zip(self.metrics, several, strict=True):
            metric.dataset_meta = {key: value for key, value in meta.items() if key != "cumulative_sizes"}

    def process(self, data_batch: Any = None, data_samples: Sequence[Any] = ()) -> None:
        """Give each sample of a batch to its data set's metric.

        Args:
            data_batch: The batch as the loader gave it, or None; a metric gets its part of it.
            data_samples: Predictions, one for each image.

        Raises:
            ConfigError: Nobody said how long the data sets are.
        """
        if not self._ends:
            raise ConfigError(
                "MultiDatasetsEvaluator does not know the data sets: set its dataset_meta, with "
                "cumulative_sizes, before process()"
            )
        rows: dict[int, list[int]] = {}
        for row in range(len(data_samples)):
            position = gather.rank() + (self._seen + row) * gather.world_size()
            if position < self._ends[-1]:  # what comes after are repeats that make the processes' parts equal
                rows.setdefault(sum(position >= end for end in self._ends), []).append(row)
        self._seen += len(data_samples)
        for number, chosen in rows.items():
            part = [as_dict(data_samples[row]) for row in chosen]
            self.metrics[number].process(_rows(data_batch, chosen, len(data_samples)), part)

    def evaluate(self, size: int) -> dict[str, float]:
        """Figures of all data sets.

        Args:
            size: Number of images in all data sets together.

        Raises:
            ConfigError: Two data sets give a figure of the same name.
        """
        self._seen = 0
        figures: dict[str, float] = {}
        starts = [0, *self._ends[:-1]]
        for prefix, metric, start, end in zip(
            self.dataset_prefixes, self.metrics, starts, self._ends, strict=True
        ):
            for name, value in metric.evaluate(end - start).items():
                if f"{prefix}/{name}" in figures:
                    raise ConfigError(f"two data sets give '{prefix}/{name}': choose other dataset_prefixes")
                figures[f"{prefix}/{name}"] = value
        return figures


def _rows(batch: Any, rows: list[int], size: int) -> Any:
    """Some samples of a collated batch."""
    if len(rows) == size:
        return batch
    if isinstance(batch, Mapping):
        return {key: _rows(value, rows, size) for key, value in batch.items()}
    if isinstance(batch, list | tuple) and len(batch) == size:
        return [batch[row] for row in rows]
    return batch
