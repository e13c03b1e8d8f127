"""Several views of one image, for predictions that are merged afterwards."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Annotated, Any

from detcore.data.transforms.base import BaseTransform, Results
from detcore.data.transforms.compose import Compose
from detcore.errors import DataError
from detcore.registry import TRANSFORMS


class TestTimeAug(BaseTransform):
    """Every combination of alternatives: 3 sizes and 2 mirrorings make 6 views of an image.

    The result has the keys of what the last step gives, each with a list of one value a view; the first
    step's alternatives change slowest.

    Args:
        transforms: For each step the list of its alternatives; a step without choice is a list of one.

    Raises:
        ValueError: There is no step, or one without alternative.
    """

    __test__ = False  # the name is the manual's; test runners must not collect it

    def __init__(self, transforms: Annotated[Sequence[Any], TRANSFORMS]) -> None:
        if not transforms or not all(isinstance(step, (list, tuple)) and step for step in transforms):
            raise ValueError(
                "TestTimeAug: transforms must be a list of lists, each with at least one transform"
            )
        self.subroutines = [Compose(view) for view in itertools.product(*transforms)]

    def transform(self, results: Results) -> dict[str, list[Any]]:
        """Make the views.

        Raises:
            DataError: A transform refuses a view.
        """
        views = [subroutine(copy.deepcopy(results)) for subroutine in self.subroutines]
        for number, view in enumerate(views):
            if view is None:
                raise DataError(
                    f"TestTimeAug: view {number} of {results.get('img_path')} was refused by a transform; no "
                    f"test image may be left out: {self.subroutines[number]!r}"
                )
        return {key: [view[key] for view in views if view is not None] for key in views[0] or ()}

    def __repr__(self) -> str:
        return f"TestTimeAug({self.subroutines!r})"
