"""State of all random number generators, as tensors and plain data that a checkpoint may hold."""

import base64
import contextlib
import json
import logging
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detcore.engine.distributed import gather_bytes
from detcore.errors import CheckpointError

logger = logging.getLogger(__name__)

MAX_NUMPY_SEED = 2**32


def capture_rng() -> dict[str, Any]:
    """State of the generators of Python, numpy, torch's CPU and each CUDA device.

    Returns:
        ``python`` (version, words as Tensor[625] int64, next Gaussian), ``numpy`` (words as Tensor[624]
        int64, position, whether a Gaussian is kept, and it), ``torch`` Tensor[N] uint8, ``cuda`` list of
        Tensor[M] uint8.
    """
    version, words, gaussian = random.getstate()
    _, keys, position, has_gaussian, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, torch.tensor(words, dtype=torch.int64), gaussian],
        "numpy": [
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            int(position),
            int(has_gaussian),
            float(cached),
        ],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_rng(state: Mapping[str, Any]) -> None:
    """Put the generators back to a captured state.

    Raises:
        CheckpointError: When a part is missing or malformed.
    """
    try:
        version, words, gaussian = state["python"]
        keys, position, has_gaussian, cached = state["numpy"]
        random.setstate((version, tuple(words.tolist()), gaussian))
        np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gaussian, cached))
        torch.set_rng_state(state["torch"].cpu())
        cuda = state["cuda"]
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"the saved state of the random number generators is unusable: {error!r}"
        ) from error
    if not torch.cuda.is_available():
        return
    if len(cuda) != torch.cuda.device_count():
        logger.warning(
            "the checkpoint holds the random state of %d CUDA devices, here are %d: those are not restored",
            len(cuda),
            torch.cuda.device_count(),
        )
        return
    torch.cuda.set_rng_state_all([part.cpu() for part in cuda])


@contextlib.contextmanager
def generators_kept() -> Iterator[None]:
    """Leave all random generators as they were found."""
    before = capture_rng()
    try:
        yield
    finally:
        restore_rng(before)


def capture_rng_of_all_ranks() -> list[dict[str, Any]]:
    """The captured state of every process, in the order of ranks; every process must call it."""
    return [_decode(raw) for raw in gather_bytes(_encode(capture_rng()))]


def seed_everything(seed: int) -> None:
    """Seed the generators of Python, numpy and torch (all devices) of this process."""
    random.seed(seed)
    np.random.seed(seed % MAX_NUMPY_SEED)
    torch.manual_seed(seed)


def _encode(state: Mapping[str, Any]) -> bytes:
    def pack(value: Any) -> Any:
        if isinstance(value, Tensor):
            raw = value.cpu().contiguous().numpy()
            return {"dtype": raw.dtype.str, "data": base64.b64encode(raw.tobytes()).decode()}
        return [pack(part) for part in value] if isinstance(value, list) else value

    return json.dumps({name: pack(part) for name, part in state.items()}).encode()


def _decode(raw: bytes) -> dict[str, Any]:
    def unpack(value: Any) -> Any:
        if isinstance(value, dict):
            data = np.frombuffer(base64.b64decode(value["data"]), dtype=value["dtype"])
            return torch.from_numpy(data.copy())
        return [unpack(part) for part in value] if isinstance(value, list) else value

    return {name: unpack(part) for name, part in json.loads(raw).items()}
