"""Metrics that measure nothing: they keep predictions in files that MMDetection's tools read.

The files are pickles, because those tools know nothing else. They hold dicts, lists, numbers, strings, bytes,
tensors (arrays in files of proposals) and nothing more; detcore itself never unpickles them. Files of
proposals may also be in a format of our own.
"""
import logging
import pickle
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detcore.errors import ConfigError
from detcore.evaluation.metric import Metric
from detcore.structures.mask import encode_masks
from detcore.structures.proposals import image_key, proposals_from, write_proposals

logger = logging.getLogger(__name__)

_TRUTH = ("gt_instances", "ignored_instances", "gt_panoptic_seg", "gt_sem_seg")


class DumpResults(Metric):
    """Keeps every image's data sample, with its predictions, as one list of dicts.

    Args:
        out_file_path: File to write; ends in ``.pkl`` or ``.pickle``.
        collect_device: See `Metric`.
        collect_dir: See `Metric`.

    Raises:
        ConfigError: The file has another ending.
    """

    def __init__(
        self, out_file_path: str, collect_device: str = "cpu", collect_dir: str | None = None
    ) -> None:
        super().__init__(collect_device=collect_device, collect_dir=collect_dir)
        self.out_file_path = _pickle_path(out_file_path, f"{type(self).__name__}.out_file_path")
        self._left_out: set[str] = set()

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Keep a batch's data samples; what is no plain data is left out, with a warning."""
        self.results.extend(self._plain(dict(sample), "") for sample in data_samples)

    def identify(self, result: Any) -> Hashable | None:
        """The image's id."""
        found: Hashable = result.get("img_id")
        return found

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Write the file; there are no figures."""
        write_pickle(self.out_file_path, [_with_tensors(result) for result in results])
        return {}

    def _plain(self, value: Any, path: str) -> Any:
        if isinstance(value, torch.Tensor):
            return value.detach().cpu()
        if isinstance(value, Mapping):
            kept = {str(key): self._plain(item, f"{path}.{key}") for key, item in value.items()}
            return {key: item for key, item in kept.items() if item is not _LEFT_OUT}
        if isinstance(value, list | tuple):
            return type(value)(self._plain(item, path) for item in value)
        if value is None or isinstance(value, str | int | float | bytes | np.ndarray | np.generic):
            return value
        if path not in self._left_out:
            self._left_out.add(path)
            logger.warning(
                "%s leaves out %s, which is a %s", type(self).__name__, path.lstrip("."), type(value).__name__
            )
        return _LEFT_OUT


class DumpDetResults(DumpResults):
    """Keeps predictions without the ground truth, masks as run lengths.

    Args:
        out_file_path: File to write; ends in ``.pkl`` or ``.pickle``.
        collect_device: See `Metric`.
        collect_dir: See `Metric`.
    """

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Keep a batch's predictions."""
        samples = [
            {key: value for key, value in sample.items() if key not in _TRUTH} for sample in data_samples
        ]
        for sample in samples:
            found = sample.get("pred_instances")
            if found is not None and "masks" in found:
                sample["pred_instances"] = {**found, "masks": _run_lengths(found["masks"])}
        super().process(data_batch, samples)


class DumpProposals(Metric):
    """Keeps the best boxes of each image for detectors that learn from ready-made proposals (Fast R-CNN).

    The file holds a dict: ``folder/name`` of the image -> ``dict(bboxes=float32 (P, 4) xyxy in pixels of the
    original image, scores=float32 (P,))``, best first.

    Args:
        output_dir: Folder of the file.
        proposals_file: Its name: ``.npz`` and ``.json`` are ours (see `detcore.structures.proposals`);
            ``.pkl`` and ``.pickle`` are MMDetection's, which our data sets read, too.
        num_max_proposals: How many to keep of each image; None keeps all.
        file_client_args: Refused, as in MMDetection.
        backend_args: None or ``dict(backend='local')``.
        collect_device: See `Metric`.
        prefix: See `Metric`.

    Raises:
        ConfigError: A setting makes no sense.
    """

    default_prefix = "dump_proposals"

    def __init__(
        self,
        output_dir: str = "",
        proposals_file: str = "proposals.pkl",
        num_max_proposals: int | None = None,
        file_client_args: dict[str, Any] | None = None,
        backend_args: dict[str, Any] | None = None,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if file_client_args is not None:
            raise ConfigError("DumpProposals: file_client_args is the old name of backend_args; write that")
        if (backend_args or {}).get("backend") not in (None, "local", "disk"):
            raise ConfigError(f"DumpProposals: backend_args={backend_args}: only local files are written")
        self.proposals_file = Path(output_dir) / proposals_file
        if self.proposals_file.suffix not in (".npz", ".json", ".pkl", ".pickle"):
            raise ConfigError(
                f"DumpProposals.proposals_file must end in .npz, .json or .pkl, got {proposals_file!r}"
            )
        if num_max_proposals is not None and num_max_proposals < 1:
            raise ConfigError(f"num_max_proposals must be positive or None, got {num_max_proposals}")
        self.num_max_proposals = num_max_proposals

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Keep a batch's proposals, best first."""
        for sample in data_samples:
            found = sample["pred_instances"]
            best = found["scores"].argsort(descending=True)[: self.num_max_proposals]
            self.results.append(
                {
                    "name": image_key(sample["img_path"]),
                    "bboxes": torch.as_tensor(found["bboxes"])[best].float().cpu().numpy(),
                    "scores": found["scores"][best].float().cpu().numpy(),
                }
            )

    def identify(self, result: Any) -> Hashable | None:
        """The image's name."""
        name: str = result["name"]
        return name

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Write the file; there are no figures."""
        entries = ((one["name"], one["bboxes"], one["scores"]) for one in results)
        table = proposals_from(entries, "DumpProposals")
        if self.proposals_file.suffix in (".npz", ".json"):
            write_proposals(self.proposals_file, table)
            logger.info("Wrote %s", self.proposals_file)
            return {}
        content = {one["name"]: {"bboxes": one["bboxes"], "scores": one["scores"]} for one in results}
        # In protocol 2, the only one that is read without running what a file says.
        write_pickle(self.proposals_file, content, protocol=2)
        return {}


def write_pickle(path: Path, content: Any, protocol: int = 4) -> None:
    """Write plain data as a pickle, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.tmp")
    partial.write_bytes(pickle.dumps(content, protocol=protocol))
    partial.replace(path)
    logger.info("Wrote %s", path)


class _LeftOut:
    """Stands for a value that a file cannot hold."""


_LEFT_OUT = _LeftOut()


def _pickle_path(path: str | Path, where: str) -> Path:
    if Path(path).suffix not in (".pkl", ".pickle"):
        raise ConfigError(f"{where} must end in .pkl or .pickle, got {str(path)!r}")
    return Path(path)


def _with_tensors(value: Any) -> Any:
    """The same with tensors for arrays: results that came from other processes are arrays."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    if isinstance(value, dict):
        return {key: _with_tensors(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_tensors(item) for item in value]
    return value


def _run_lengths(masks: Any) -> list[dict[str, Any]]:
    """COCO's run lengths of masks (N, H, W), ``counts`` as bytes; those that are run lengths already stay."""
    if isinstance(masks, list | tuple):
        return list(masks)
    return [{**one, "counts": one["counts"].encode("ascii")} for one in encode_masks(masks)]
