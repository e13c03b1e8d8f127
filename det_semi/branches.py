"""One image, several views: each goes through a pipeline of its own and into a branch of the batch."""

import copy
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np

from detcore.data.transforms import BaseTransform, Compose
from detcore.errors import ConfigError
from detcore.registry import TRANSFORMS

Pipeline = Annotated[Callable[..., Any] | Sequence[Callable[..., Any]], TRANSFORMS]


class MultiBranch(BaseTransform):
    """Put an image through one pipeline a branch; every pipeline ends with ``PackDetInputs``.

    A labelled image usually goes into the branch ``sup``, an unlabelled one, changed a little, into
    ``unsup_teacher`` and, changed much, into ``unsup_student``.

    Args:
        branch_field: Names of all branches that a batch may have; None: those of the pipelines here. Others
            than these are refused, so that a misspelt branch is no branch of its own.
        **branch_pipelines: A transform or a list of them for each branch that this data set feeds.

    Raises:
        ConfigError: There is no pipeline, or one whose branch is not in ``branch_field``.
    """

    def __init__(self, branch_field: Sequence[str] | None = None, **branch_pipelines: Pipeline) -> None:
        if not branch_pipelines:
            raise ConfigError("MultiBranch has no pipeline: write sup=[...], unsup_teacher=[...] and so on")
        self.branch_field = tuple(branch_pipelines if branch_field is None else branch_field)
        unknown = [name for name in branch_pipelines if name not in self.branch_field]
        if unknown:
            raise ConfigError(
                f"MultiBranch has pipelines for {', '.join(unknown)}, but branch_field lists "
                f"{', '.join(self.branch_field) or 'nothing'}"
            )
        self.branch_pipelines = {name: _composed(steps) for name, steps in branch_pipelines.items()}

    def transform(self, results: dict[str, Any]) -> dict[str, dict[str, Any]] | None:
        """``inputs`` and ``data_samples`` by branch; None where a pipeline refuses the sample."""
        results.setdefault("homography_matrix", np.eye(3, dtype=np.float32))  # so that no view is without
        packed: dict[str, dict[str, Any]] = {}
        last = len(self.branch_pipelines) - 1
        for number, (branch, pipeline) in enumerate(self.branch_pipelines.items()):
            view = pipeline(results if number == last else copy.deepcopy(results))
            if view is None:
                return None
            for key, value in view.items():
                packed.setdefault(key, {})[branch] = value
        return packed

    def __repr__(self) -> str:
        return f"MultiBranch(branch_field={self.branch_field}, {self.branch_pipelines})"


def _composed(steps: Pipeline) -> Compose:
    """One transform, or several one after the other."""
    return Compose(steps if isinstance(steps, Sequence) else [steps])
