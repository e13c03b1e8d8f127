"""Whether annotations have the masks that a pipeline asks for."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from detcore.data.table import NO_MASK, AnnotationTable
from detcore.errors import DataError

logger = logging.getLogger(__name__)


def check_masks(table: AnnotationTable, source: str, pipeline: Any, test_mode: bool) -> None:
    """Hold a pipeline with ``with_mask=True`` against the annotations.

    An instance without a mask is set to be ignored when it is loaded: where that befalls all of them,
    training would go on without any object.

    Args:
        table: The annotations.
        source: Their file, for messages.
        pipeline: The transforms.
        test_mode: Whether nothing is learned from them; then it is a warning.

    Raises:
        DataError: No instance has a mask, and masks are to be learned.
    """
    if not len(table.labels) or not any(getattr(step, "with_mask", False) for step in _steps(pipeline)):
        return
    if table.masks is None:
        text = (
            f"{source}: LoadAnnotations(with_mask=True), but none of the {len(table.labels)} annotations "
            "has a segmentation"
        )
        if not test_mode:
            raise DataError(f"{text}; a detector of boxes takes with_mask=False")
        logger.warning("%s", text)
        return
    lacking = int(np.count_nonzero((table.masks.kinds == NO_MASK) & ~table.ignored))
    if lacking:
        logger.warning(
            "%s: %d of the %d annotations have no segmentation; with_mask=True sets them to be ignored",
            source, lacking, len(table.labels),
        )


def _steps(pipeline: Any) -> Iterator[Any]:
    """All transforms, those within others too."""
    inner: Iterable[Any] = pipeline if isinstance(pipeline, (list, tuple)) else ()
    if not inner:
        yield pipeline
        inner = getattr(pipeline, "transforms", None) or ()
    for step in inner:
        yield from _steps(step)
