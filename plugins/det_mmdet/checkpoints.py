"""``load_checkpoint`` and ``save_checkpoint`` with mmengine's arguments."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from detcore.engine import checkpoint as files
from detcore.weights import load_into_module, load_state


def load_checkpoint(
    model: nn.Module,
    filename: str | Path,
    map_location: str = "cpu",
    strict: bool = False,
    logger: logging.Logger | None = None,
    revise_keys: Iterable[tuple[str, str]] = ((r"^module\.", ""),),
) -> dict[str, Any]:
    """Put the weights of a file, or of another name of weights, into a model.

    Args:
        model: Where to.
        filename: Path, address, ``torchvision://...``: see docs/weights.md.
        map_location: Where the tensors are read to.
        strict: Every name must fit; else what does not is logged.
        logger: Kept for callers; what did not fit is in detcore's log.
        revise_keys: Pairs of a regular expression and its replacement, applied to the names.

    Returns:
        ``dict(state_dict=...)``; the rest of the file is not read.

    Raises:
        CheckpointError: The file is damaged or refused, or does not fit.
    """
    state = load_state(filename, map_location=map_location, revise_keys=revise_keys)
    load_into_module(model, state, strict=strict, source=str(filename))
    return {"state_dict": state}


def save_checkpoint(checkpoint: Mapping[str, Any], filename: str | Path) -> None:
    """Write tensors and plain data, whole or not at all, with a checksum.

    Raises:
        CheckpointError: It holds something else, or the file cannot be written.
    """
    files.save_checkpoint(filename, checkpoint)
