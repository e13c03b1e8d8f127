"""Transforms of transforms: one after the other, sometimes, or one of several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np

from detcore.data.transforms.base import BaseTransform, Results
from detcore.registry import TRANSFORMS


def _callables(transforms: Any) -> list[Callable]:
    """Built transforms; a single one is taken as a list of one."""
    listed = transforms if isinstance(transforms, (list, tuple)) else [transforms]
    built = [TRANSFORMS.build(dict(item)) if isinstance(item, dict) else item for item in listed]
    for item in built:
        if not callable(item):
            raise TypeError(f"a transform must be callable or a config dict, got {item!r}")
    return built


class Compose(BaseTransform):
    """Transforms one after the other.

    Args:
        transforms: Callables that take and return ``results``, or their configs.
    """

    def __init__(self, transforms: Annotated[Sequence[Callable] | None, TRANSFORMS] = ()) -> None:
        self.transforms = _callables(transforms or [])

    def transform(self, results: Results) -> Results | None:
        """Apply them in turn; None as soon as one refuses the sample."""
        for transform in self.transforms:
            changed = transform(results)
            if changed is None:
                return None
            results = changed
        return results

    def __repr__(self) -> str:
        return f"Compose({self.transforms!r})"


class RandomOrder(Compose):
    """Transforms one after the other, in an order that is drawn anew for each sample.

    Args:
        transforms: Callables that take and return ``results``, or their configs.
    """

    def transform(self, results: Results) -> Results | None:
        """Draw an order and apply them; None as soon as one refuses the sample."""
        order = np.random.permutation(len(self.transforms)).tolist()
        return Compose([self.transforms[index] for index in order]).transform(results)

    def __repr__(self) -> str:
        return f"RandomOrder({self.transforms!r})"


class RandomApply(BaseTransform):
    """Transforms that are applied together with a probability.

    Args:
        transforms: One transform or several.
        prob: Probability of applying them.
    """

    def __init__(
        self, transforms: Annotated[Callable | Sequence[Callable], TRANSFORMS], prob: float = 0.5
    ) -> None:
        if not 0 <= prob <= 1:
            raise ValueError(f"prob must lie in [0, 1], got {prob}")
        self.transforms, self.prob = Compose(_callables(transforms)), prob

    def transform(self, results: Results) -> Results | None:
        """Apply all or nothing."""
        return self.transforms(results) if np.random.rand() < self.prob else results


class RandomChoice(BaseTransform):
    """One of several pipelines, drawn anew for each sample.

    Args:
        transforms: Pipelines: each a transform or a list of them.
        prob: Probability of each, equal ones by default.
    """

    def __init__(
        self, transforms: Annotated[Sequence[Any], TRANSFORMS], prob: Sequence[float] | None = None
    ) -> None:
        self.transforms = [Compose(_callables(pipeline)) for pipeline in transforms]
        if prob is not None and (len(prob) != len(self.transforms) or abs(sum(prob) - 1) > 1e-6):
            raise ValueError(f"prob needs {len(self.transforms)} values that sum to 1, got {tuple(prob)}")
        self.prob = prob

    def transform(self, results: Results) -> Results | None:
        """Apply one pipeline."""
        return self.transforms[int(np.random.choice(len(self.transforms), p=self.prob))](results)
