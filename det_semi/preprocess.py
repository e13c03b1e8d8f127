"""From a batch with branches to the networks' inputs."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from detcore.errors import DataError
from detcore.registry import MODELS


class MultiBranchDataPreprocessor(nn.Module):
    """Prepares each branch of a training batch as a batch of its own; batches without branches pass as usual.

    Args:
        data_preprocessor: Prepares one branch: usually a DetDataPreprocessor.
    """

    def __init__(self, data_preprocessor: nn.Module) -> None:
        super().__init__()
        self.data_preprocessor: Any = MODELS.build(data_preprocessor)

    @property
    def device(self) -> Any:
        """Where batches are moved to."""
        return self.data_preprocessor.device

    def forward(self, data: Mapping[str, Any], training: bool = False) -> dict[str, Any]:
        """Prepare a batch.

        Args:
            data: ``inputs`` and ``data_samples``: of each branch a list with one entry an image, None where
                an image is not in that branch; or, without branches, as the inner preprocessor takes them.
            training: Handed on.

        Returns:
            ``inputs``, of each branch ``Tensor[B_i, C, H_i, W_i]``, and ``data_samples``, of each branch its
            list; without branches as the inner preprocessor gives them.

        Raises:
            DataError: A branch has images and samples of different numbers.
        """
        inputs, samples = data["inputs"], data.get("data_samples")
        if not isinstance(inputs, Mapping):
            prepared: dict[str, Any] = self.data_preprocessor(data, training)
            return prepared
        found: dict[str, Any] = {"inputs": {}, "data_samples": {}}
        for branch, images in inputs.items():
            own = {"inputs": _present(images), "data_samples": _present((samples or {}).get(branch, ()))}
            if len(own["inputs"]) != len(own["data_samples"]):
                numbers = f"{len(own['inputs'])} images and {len(own['data_samples'])} samples"
                raise DataError(f"branch '{branch}' has {numbers}")
            if own["inputs"]:
                ready = self.data_preprocessor(own, training)
                for key, branches in found.items():
                    branches[branch] = ready[key]
        return found


def _present(entries: Sequence[Any]) -> list[Any]:
    return [entry for entry in entries if entry is not None]
