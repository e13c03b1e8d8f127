"""Bring what the ranks measured to the first of them, as JSON and raw numbers: nothing is unpickled."""
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from detcore.errors import DataError

_LENGTH_BYTES = 8
_PLAIN_KINDS = frozenset("biuf")  # numpy kinds that are numbers and nothing else


def encode(value: Any) -> bytes:
    """Write nested plain data as bytes.

    Args:
        value: dicts with string keys, lists, tuples, str, numbers, bool, None, bytes, numpy arrays of
            numbers and tensors, nested as you like. Tuples come back as lists, tensors as arrays.

    Raises:
        DataError: something else is in there; the message names where.
    """
    blobs: list[bytes] = []
    skeleton = _skeleton(value, blobs, "results")
    head = json.dumps({"value": skeleton, "sizes": [len(blob) for blob in blobs]}).encode()
    return b"".join([len(head).to_bytes(_LENGTH_BYTES, "little"), head, *blobs])


def decode(payload: bytes) -> Any:
    """Read what `encode` wrote.

    Raises:
        DataError: the bytes are not what `encode` writes.
    """
    size = int.from_bytes(payload[:_LENGTH_BYTES], "little")
    try:
        head = json.loads(payload[_LENGTH_BYTES : _LENGTH_BYTES + size])
        blobs, at = [], _LENGTH_BYTES + size
        for length in head["sizes"]:
            blobs.append(payload[at : at + length])
            at += length
        return _restore(head["value"], blobs)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise DataError(f"gathered evaluation results are damaged ({len(payload)} bytes): {error}") from error


def _skeleton(value: Any, blobs: list[bytes], where: str) -> Any:
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, np.generic):
        return value
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().float() if value.dtype == torch.bfloat16 else value.detach().cpu()
        value = value.numpy()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in _PLAIN_KINDS:
        blobs.append(np.ascontiguousarray(value).tobytes())
        return {"array": len(blobs) - 1, "dtype": value.dtype.str, "shape": list(value.shape)}
    if isinstance(value, (bytes, bytearray)):
        blobs.append(bytes(value))
        return {"bytes": len(blobs) - 1}
    if isinstance(value, Mapping):
        wrong = [key for key in value if not isinstance(key, str)]
        if wrong:
            raise DataError(f"{where}: only dicts with string keys travel between ranks, got {wrong[0]!r}")
        return {"dict": [[key, _skeleton(item, blobs, f"{where}.{key}")] for key, item in value.items()]}
    if isinstance(value, Sequence):
        return [_skeleton(item, blobs, f"{where}[{index}]") for index, item in enumerate(value)]
    raise DataError(
        f"{where} is a {type(value).__name__}; results of a metric travel between ranks as dicts, lists, "
        "numbers, strings, bytes, arrays and tensors only. Turn it into those in process()."
    )


def _restore(value: Any, blobs: list[bytes]) -> Any:
    if isinstance(value, list):
        return [_restore(item, blobs) for item in value]
    if not isinstance(value, dict):
        return value
    if "dict" in value:
        return {key: _restore(item, blobs) for key, item in value["dict"]}
    if "bytes" in value:
        return blobs[value["bytes"]]
    dtype = np.dtype(value["dtype"])
    if dtype.kind not in _PLAIN_KINDS:
        raise ValueError(f"array of {dtype}")
    return np.frombuffer(blobs[value["array"]], dtype).reshape(value["shape"]).copy()


def world_size() -> int:
    """Number of processes that evaluate together (1 without a process group)."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number among them."""
    return dist.get_rank() if world_size() > 1 else 0


def gather_to_first(payload: bytes) -> list[bytes] | None:
    """Collect one byte string from each rank.

    Returns:
        On rank 0 the strings in the order of the ranks, None elsewhere.
    """
    ranks = world_size()
    if ranks == 1:
        return [payload]
    device = _device()
    sizes = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(ranks)]
    dist.all_gather(sizes, torch.tensor([len(payload)], dtype=torch.int64, device=device))
    lengths = [int(size) for size in sizes]
    mine = torch.zeros(max(lengths), dtype=torch.uint8, device=device)
    mine[: len(payload)] = torch.frombuffer(bytearray(payload), dtype=torch.uint8).to(device)
    first = rank() == 0
    parts = [torch.empty_like(mine) for _ in range(ranks)] if first else None
    dist.gather(mine, parts, dst=0)
    if parts is None:
        return None
    return [part[:length].cpu().numpy().tobytes() for part, length in zip(parts, lengths, strict=True)]


def broadcast_from_first(value: Any) -> Any:
    """Send plain data (figures, a message) from rank 0 to all.

    Args:
        value: read on rank 0 only.

    Returns:
        The value of rank 0, on every rank. Infinite and missing figures survive.
    """
    if world_size() == 1:
        return value
    device = _device()
    first = rank() == 0
    payload = encode(value) if first else b""
    size = torch.tensor([len(payload)], dtype=torch.int64, device=device)
    dist.broadcast(size, src=0)
    if first:
        buffer = torch.frombuffer(bytearray(payload), dtype=torch.uint8).to(device)
    else:
        buffer = torch.empty(int(size), dtype=torch.uint8, device=device)
    dist.broadcast(buffer, src=0)
    return value if first else decode(buffer.cpu().numpy().tobytes())


def interleave(parts: Sequence[Sequence[Any]]) -> list[Any]:
    """Undo the dealing-out of a sampler that gives rank r the indices r, r + world, r + 2 world, ...

    Args:
        parts: results of each rank, in its order; lengths may differ.
    """
    longest = max((len(part) for part in parts), default=0)
    return [part[index] for index in range(longest) for part in parts if index < len(part)]


def _device() -> torch.device:
    """Where the process group's backend wants its tensors."""
    if dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
