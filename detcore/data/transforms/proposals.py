"""Proposals in a sample: loading them, and keeping them in step with the image."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np
import torch

from detcore.data.transforms.base import BaseTransform, Results
from detcore.errors import DataError
from detcore.registry import TRANSFORMS


class LoadProposals(BaseTransform):
    """Take the image's proposals, which the data set's ``proposal_file`` holds.

    Sets ``proposals`` (float32 (n, 4), xyxy, absolute pixels) and ``proposals_scores`` (float32 (n,)), in the
    order of the file, which is best first.

    Args:
        num_max_proposals: How many to take at most; None is all.
    """

    carries_proposals = True

    def __init__(self, num_max_proposals: int | None = None) -> None:
        if num_max_proposals is not None and num_max_proposals < 1:
            raise ValueError(f"num_max_proposals must be positive or None, got {num_max_proposals}")
        self.num_max_proposals = num_max_proposals

    def transform(self, results: Results) -> Results:
        """Load.

        Raises:
            DataError: The image has no proposals, or not in that form.
        """
        given = results.get("proposals")
        if given is None or "bboxes" not in given or "scores" not in given:
            raise DataError(
                f"LoadProposals: {results.get('img_path')} has no proposals (a dict with bboxes and scores); "
                "give the data set proposal_file='...', which DumpProposals writes"
            )
        boxes, scores = (np.array(given[name], np.float32) for name in ("bboxes", "scores"))
        boxes = boxes.reshape(0, 4) if boxes.size == 0 else boxes
        if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != (len(boxes),):
            raise DataError(
                f"LoadProposals: proposals of {results.get('img_path')} must be bboxes (n, 4) and scores "
                f"(n,), got {boxes.shape} and {scores.shape}"
            )
        results["proposals"] = boxes[: self.num_max_proposals]
        results["proposals_scores"] = scores[: self.num_max_proposals]
        return results

    def __repr__(self) -> str:
        return f"LoadProposals(num_max_proposals={self.num_max_proposals})"


class ProposalBroadcaster(BaseTransform):
    """Apply transforms to the proposals as to the annotated boxes.

    Our own geometric transforms move proposals anyway. One that does not say so (``carries_proposals``) is
    run twice with the same random numbers, the second time with the proposals for boxes.

    Args:
        transforms: What to apply, in order.
    """

    carries_proposals = True

    def __init__(self, transforms: Annotated[Sequence[Callable], TRANSFORMS] = ()) -> None:
        self.transforms = list(transforms)

    def transform(self, results: Results) -> Results | None:
        """Apply all; None where one refuses the sample."""
        changed: Results | None = results
        for step in self.transforms:
            if changed is None:
                break
            carried = "proposals" not in changed or getattr(step, "carries_proposals", False)
            changed = step(changed) if carried else _run_twice(step, changed)
        return changed

    def __repr__(self) -> str:
        return f"ProposalBroadcaster({self.transforms!r})"


def map_proposals(results: Results, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Put ``change`` of a sample's proposals (n, 4) in their place, if it has any."""
    if results.get("proposals") is not None:
        results["proposals"] = change(results["proposals"])


def keep_proposals(results: Results, keep: np.ndarray) -> None:
    """Keep some of a sample's proposals; ``keep`` is bool (n,)."""
    results["proposals"], results["proposals_scores"] = (
        results["proposals"][keep], results["proposals_scores"][keep]
    )


def _run_twice(step: Callable, results: Results) -> Results | None:
    boxes, scores = results.pop("proposals"), results.pop("proposals_scores")
    second = {key: copy.deepcopy(value) for key, value in results.items() if not key.startswith("gt_")}
    # Labels that number the proposals tell which of them are left.
    second.update(gt_bboxes=boxes, gt_bboxes_labels=np.arange(len(boxes)),
                  gt_ignore_flags=np.zeros(len(boxes), bool))
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    first: Results | None = step(results)
    after = random.getstate(), np.random.get_state(), torch.get_rng_state()
    _set_generators(*before)
    moved: Results | None = step(second)
    _set_generators(*after)
    if first is None or moved is None:
        return None
    first["proposals"] = np.asarray(moved["gt_bboxes"], np.float32)
    first["proposals_scores"] = scores[moved["gt_bboxes_labels"]]
    return first


def _set_generators(python: Any, numpy: Any, of_torch: torch.Tensor) -> None:
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(of_torch)
