"""Several metrics over the same predictions."""
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from detcore.errors import ConfigError
from detcore.evaluation.metric import Metric
from detcore.registry import EVALUATORS, METRICS


class Evaluator:
    """Hands each batch to every metric and joins their figures.

    Args:
        metrics: one metric or several.

    Raises:
        ConfigError: there is no metric.
    """

    def __init__(self, metrics: Annotated[Metric | Sequence[Metric], METRICS]) -> None:
        self.metrics = list(metrics) if isinstance(metrics, Sequence) else [metrics]
        if not self.metrics:
            raise ConfigError("an evaluator needs at least one metric, got an empty list")
        self._dataset_meta: dict[str, Any] | None = None

    @property
    def dataset_meta(self) -> dict[str, Any] | None:
        """Meta information of the data set; setting it tells every metric."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict[str, Any]) -> None:
        self._dataset_meta = dataset_meta
        for metric in self.metrics:
            metric.dataset_meta = dataset_meta

    def use_dataset(self, dataset: Any) -> None:
        """Learn about the data set whose predictions will come."""
        self.dataset_meta = getattr(dataset, "metainfo", None) or {}

    def process(self, data_batch: Any = None, data_samples: Sequence[Any] = ()) -> None:
        """Give one batch to every metric.

        Args:
            data_batch: the batch as the loader gave it, or None.
            data_samples: predictions, one `DetDataSample` (or its dict) per image. Metrics see dicts, as
                those that users bring expect.
        """
        samples = [as_dict(sample) for sample in data_samples]
        for metric in self.metrics:
            metric.process(data_batch, samples)

    def evaluate(self, size: int) -> dict[str, float]:
        """Figures of all metrics.

        Args:
            size: number of images in the data set.

        Raises:
            ConfigError: two metrics give a figure of the same name.
        """
        figures: dict[str, float] = {}
        source: dict[str, Metric] = {}
        for metric in self.metrics:
            for name, value in metric.evaluate(size).items():
                if name in figures:
                    raise ConfigError(
                        f"two metrics give {name!r}: {type(source[name]).__name__} and "
                        f"{type(metric).__name__}. Give one of them another prefix, "
                        f"such as prefix='{metric.prefix or 'second'}_2'."
                    )
                figures[name], source[name] = value, metric
        return figures

    def offline_evaluate(
        self, data_samples: Sequence[Any], data: Sequence[Any] | None = None, chunk_size: int = 1
    ) -> dict[str, float]:
        """Evaluate predictions that are there already.

        Args:
            data_samples: predictions, one per image.
            data: the samples that they were made from, in the same order, or None.
            chunk_size: number of images handed to the metrics at a time.
        """
        if data is not None and len(data) != len(data_samples):
            raise ConfigError(f"{len(data_samples)} predictions do not fit {len(data)} samples")
        for start in range(0, len(data_samples), chunk_size):
            part = slice(start, start + chunk_size)
            self.process(None if data is None else data[part], data_samples[part])
        return self.evaluate(len(data_samples))


def build_evaluator(
    cfg: Any, *, default_scope: str | None = None, path: str = "val_evaluator"
) -> Evaluator:
    """An evaluator from what a config says: one metric, a list of metrics, or an evaluator.

    Args:
        cfg: config of a metric, a list of those, config with the ``type`` of an evaluator, or one built.
        default_scope: scope that plain names are looked up in first.
        path: where in the config this stands, for messages.
    """
    if isinstance(cfg, Evaluator):
        return cfg
    if isinstance(cfg, Mapping) and "metrics" in cfg:
        whole: Any = {"type": "Evaluator", **cfg}
        return EVALUATORS.build(whole, default_scope=default_scope, path=path)
    many = list(cfg) if isinstance(cfg, Sequence) else [cfg]
    where = [f"{path}.{index}" for index in range(len(many))] if isinstance(cfg, Sequence) else [path]
    pairs = zip(many, where, strict=True)
    return Evaluator([METRICS.build(one, default_scope=default_scope, path=at) for one, at in pairs])


def as_dict(sample: Any) -> dict[str, Any]:
    """A data sample as nested dicts; a dict as it is."""
    return sample if isinstance(sample, dict) else sample.to_dict()
