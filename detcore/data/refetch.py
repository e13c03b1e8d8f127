"""What happens when a sample cannot be used: another one is drawn, or the run stops."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from torch.utils.data import get_worker_info

from detcore.data.image import BadImageError
from detcore.errors import DataError

logger = logging.getLogger(__name__)


class BadImagePolicy:
    """Draws samples until one can be used.

    Args:
        on_bad_image: ``'raise'`` or ``'skip'``.
        max_refetch: Most further draws for one sample.
    """

    def __init__(self, on_bad_image: str, max_refetch: int) -> None:
        self.on_bad_image, self.max_refetch = on_bad_image, max_refetch
        self._skipped: dict[str, tuple[int, str]] = {}
        self._reported: set[str] = set()

    def sample(self, prepare: Callable[[int], Any], idx: int, length: int, test_mode: bool) -> Any:
        """The sample at ``idx``, or at a random other place where the pipeline gives None.

        Raises:
            DataError: In test mode for any sample that cannot be used, else when ``max_refetch`` further
                draws were refused too.
        """
        first = idx
        for _ in range(self.max_refetch + 1):
            try:
                data = prepare(idx)
            except BadImageError as error:
                # A test image left out would change the figures unseen.
                if self.on_bad_image == "raise" or test_mode:
                    raise
                self._count(error)
                data = None
            if data is not None:
                return data
            if test_mode:
                raise DataError(f"the test pipeline gave None for image {idx}; no test image may be left out")
            idx = int(np.random.randint(0, length))
        raise DataError(
            f"no usable sample for image {first}: {self.max_refetch} others (max_refetch) were refused by "
            "the pipeline too; look for a transform that always returns None"
        )

    def _count(self, error: BadImageError) -> None:
        count, first = self._skipped.get(error.reason, (0, str(error)))
        self._skipped[error.reason] = count + 1, first
        # A loader's workers hand their counts to the parent, which speaks for all of them.
        if error.reason not in self._reported and get_worker_info() is None:
            logger.warning("images that cannot be used are skipped (%s), the first: %s", error.reason, error)
        self._reported.add(error.reason)

    def take_skipped(self) -> dict[str, tuple[int, str]]:
        """Images skipped since the last call: reason -> (how many, first message)."""
        skipped, self._skipped = self._skipped, {}
        return skipped
