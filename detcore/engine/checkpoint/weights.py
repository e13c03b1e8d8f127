"""Loading weights into the detector of a run, whatever is wrapped around it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from detcore.engine.distributed import unwrap_model
from detcore.weights import LoadReport, load_into_module


def load_into_model(
    model: nn.Module, state_dict: Mapping[str, Any], *, strict: bool, source: str | Path
) -> LoadReport:
    """Load weights into a model, in place.

    Args:
        model: The detector, or the DDP or compiled module around it.
        state_dict: Name -> tensor.
        strict: Every key must fit. Else what fits is loaded and the rest is named in a warning: this is how a
            detector starts from weights for other classes.
        source: File or URL, for messages.

    Raises:
        CheckpointError: When strict and something does not fit, or when nothing fits at all. The model is as
            it was then.
    """
    return load_into_module(
        unwrap_model(model), state_dict, strict=strict, allow_mismatch=not strict, source=str(source)
    )
