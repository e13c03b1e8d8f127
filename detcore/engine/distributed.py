"""Several processes, one model: torchrun or Slurm starts them, DDP keeps them equal.

Nothing that travels between processes is a pickled object: only tensors, and bytes (JSON, npy) inside
tensors.
"""

import json
import logging
import os
import re
import secrets
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from detcore.errors import TrainingError

logger = logging.getLogger(__name__)

LAUNCHERS = ("none", "pytorch", "slurm", "mpi")
MAX_SEED = 2**31 - 1


def is_distributed() -> bool:
    """Whether a process group is up (it may hold a single process)."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Index of this process among all, 0 when alone."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Number of processes, 1 when alone."""
    return dist.get_world_size() if is_distributed() else 1


def local_rank() -> int:
    """Index of this process on its machine, which is the index of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def is_main() -> bool:
    """Whether this is the process that writes files."""
    return rank() == 0


def init_from_environment(
    launcher: str = "none", backend: str | None = None, *, timeout_minutes: float = 30.0
) -> torch.device:
    """Join the process group that the launcher describes in the environment, and pick this process's device.

    Args:
        launcher: ``none`` (one process), ``pytorch`` (torchrun's variables), ``slurm`` (srun's) or ``mpi``
            (Open MPI's mpirun; MASTER_ADDR must be set, or all processes be on this machine).
        backend: ``nccl`` or ``gloo``; None takes nccl where every process of this machine has a GPU.
        timeout_minutes: A collective that waits longer than this ends the run.

    Returns:
        ``cuda:<local rank>`` with nccl, else the CPU (``cuda:0`` if there is one and the launcher is
        ``none``).

    Raises:
        TrainingError: When the launcher is unknown or its variables are missing.
    """
    if launcher not in LAUNCHERS:
        raise TrainingError(f"launcher '{launcher}' is unknown; available: {', '.join(LAUNCHERS)}")
    if launcher == "none":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    if launcher == "slurm":
        _translate_slurm()
    if launcher == "mpi":
        _translate_mpi()
    missing = [
        name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ
    ]
    if missing:
        raise TrainingError(
            f"launcher '{launcher}' needs the environment variables {', '.join(missing)}, which are not set;"
            " start with `torchrun --nproc-per-node N -m detcore ...`, or use --launcher none"
        )
    backend = backend or _default_backend()
    device = torch.device("cuda", local_rank()) if backend == "nccl" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group(
            backend,
            timeout=timedelta(minutes=timeout_minutes),
            device_id=device if device.type == "cuda" else None,
        )
    return device


def wrap_model(
    model: nn.Module,
    *,
    find_unused_parameters: bool = False,
    broadcast_buffers: bool = False,
    static_graph: bool = False,
    bucket_cap_mb: float | None = None,
    sync_batch_norm: bool = False,
) -> nn.Module:
    """Put DDP around a model when there are several processes; alone, return it as it is.

    Every process must see batches of the same size, so that the mean of their gradients is the gradient of
    the one large batch.

    Args:
        model: On its device already.
        find_unused_parameters: Set where a branch of the model takes part in some steps only.
        broadcast_buffers: Copy the main process's buffers (BatchNorm statistics) to the others in each step.
        static_graph: The same parameters take part in every step; lets checkpointed backbones work.
        bucket_cap_mb: Megabytes of gradients that are exchanged at a time; None takes torch's default.
        sync_batch_norm: Take BatchNorm's statistics over all processes.
    """
    if world_size() == 1:
        return model
    if sync_batch_norm:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        return model
    return DistributedDataParallel(
        model,
        find_unused_parameters=find_unused_parameters,
        broadcast_buffers=broadcast_buffers,
        static_graph=static_graph,
        bucket_cap_mb=bucket_cap_mb,
        gradient_as_bucket_view=True,
    )


def unwrap_model(model: nn.Module) -> nn.Module:
    """The detector itself, without DDP or ``torch.compile`` around it."""
    while True:
        inner = (
            model.module if isinstance(model, DistributedDataParallel) else getattr(model, "_orig_mod", None)
        )
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def barrier() -> None:
    """Wait for every process."""
    if is_distributed():
        dist.barrier()


def reduce_mean(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Mean of each entry over the processes, computed in float64.

    Args:
        values: Tensor[] each, the same names in every process.

    Returns:
        Tensor[] float64 on the CPU; a single process gets its own values.

    Raises:
        TrainingError: In every process, when the names differ between processes.
    """
    names = sorted(values)
    tensors = [values[name].detach().to(torch.float64) for name in names]
    if len({tensor.device for tensor in tensors}) > 1:
        tensors = [tensor.cpu() for tensor in tensors]
    # One copy from the device, hence one wait, for all entries together.
    stacked = torch.stack(tensors).cpu() if tensors else torch.zeros(0, dtype=torch.float64)
    if world_size() > 1:
        checksum = zlib.crc32(json.dumps(names).encode())
        if len(set(_gather_numbers(checksum))) > 1:
            everyone = [json.loads(raw) for raw in gather_bytes(json.dumps(names).encode())]
            raise TrainingError(
                "the processes have different entries to average: "
                + "; ".join(f"process {i}: {', '.join(seen)}" for i, seen in enumerate(everyone))
            )
        moved = stacked.to(_wire_device())
        dist.all_reduce(moved)
        stacked = (moved / world_size()).cpu()
    return {name: stacked[i] for i, name in enumerate(names)}


@torch.no_grad()
def average_in_place(tensors: Sequence[Tensor]) -> None:
    """Replace tensors by their mean over the processes; those that are no floating-point numbers stay.

    Args:
        tensors: The same shapes in the same order in every process.
    """
    averaged = [tensor for tensor in tensors if tensor.is_floating_point()]
    if world_size() == 1 or not averaged:
        return
    # In float64 the mean of equal values is that value, to the bit, for any number of processes.
    flat = torch.cat([tensor.reshape(-1).to(_wire_device(), torch.float64) for tensor in averaged])
    dist.all_reduce(flat)
    flat /= world_size()
    parts = flat.split([tensor.numel() for tensor in averaged])
    for tensor, mean in zip(averaged, parts, strict=True):
        tensor.copy_(mean.view_as(tensor))


def gather_bytes(payload: bytes) -> list[bytes]:
    """Collect bytes from every process, in the order of ranks, on every process.

    Args:
        payload: JSON or npy, never a pickle; sizes may differ.
    """
    if world_size() == 1:
        return [payload]
    device = _wire_device()
    sizes = _gather_numbers(len(payload))
    buffer = torch.zeros(max(*sizes, 1), dtype=torch.uint8)
    if payload:
        buffer[: len(payload)] = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
    buffer = buffer.to(device)
    gathered = [torch.empty_like(buffer) for _ in sizes]
    dist.all_gather(gathered, buffer)
    return [part[:size].cpu().numpy().tobytes() for part, size in zip(gathered, sizes, strict=True)]


def broadcast_seed(seed: int | None = None) -> int:
    """One seed for the whole run: the given one, or one that the main process draws from the system.

    Args:
        seed: The main process's value wins where processes differ.
    """
    value = secrets.randbelow(MAX_SEED) if seed is None else seed
    return _gather_numbers(value)[0]


@contextmanager
def main_first() -> Iterator[None]:
    """Let the main process run the body before the others do, for downloads and generated files."""
    if not is_main():
        barrier()
    try:
        yield
    finally:
        if is_main():
            barrier()


def finish(status: int = 0) -> None:
    """End this process's part in a distributed run; alone, do nothing.

    Interpreter exit with a live gloo group aborts now and then (`terminate called without an active
    exception`), which would turn a good run into a failed one. So everything is flushed and the process
    leaves at once, without the interpreter's own shutdown: call it last.

    Args:
        status: Exit status. With a status other than 0 nobody is waited for.
    """
    if not is_distributed():
        return
    if status == 0:
        dist.barrier()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _default_backend() -> str:
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")))
    return "nccl" if torch.cuda.is_available() and torch.cuda.device_count() >= processes else "gloo"


def _wire_device() -> torch.device:
    if dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def _gather_numbers(number: int) -> list[int]:
    if world_size() == 1:
        return [number]
    mine = torch.tensor([number], dtype=torch.int64, device=_wire_device())
    gathered = [torch.empty_like(mine) for _ in range(world_size())]
    dist.all_gather(gathered, mine)
    return [int(part) for part in gathered]


def _translate_slurm() -> None:
    """Set torchrun's variables from Slurm's; values that are set already stay."""
    needed = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
    missing = [name for name in needed if name not in os.environ]
    if missing:
        raise TrainingError(
            f"launcher 'slurm' needs the environment variables {', '.join(missing)}, which are not set;"
            " start the command with srun"
        )
    nodes = os.environ.get("SLURM_STEP_NODELIST", os.environ.get("SLURM_NODELIST", "localhost"))
    job = int(os.environ.get("SLURM_JOB_ID", "0"))
    per_node = re.match(
        r"\d+", os.environ.get("SLURM_STEP_TASKS_PER_NODE", os.environ.get("SLURM_NTASKS_PER_NODE", ""))
    )
    values = {
        "RANK": os.environ["SLURM_PROCID"],
        "WORLD_SIZE": os.environ["SLURM_NTASKS"],
        "LOCAL_RANK": os.environ["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": per_node.group() if per_node else "1",
        "MASTER_ADDR": first_slurm_node(nodes),
        # Two jobs on one machine must not meet at one port.
        "MASTER_PORT": str(20000 + job % 20000) if job else "29500",
    }
    for name, value in values.items():
        os.environ.setdefault(name, value)


def _translate_mpi() -> None:
    """Set torchrun's variables from Open MPI's; values that are set already stay."""
    names = {
        "RANK": "OMPI_COMM_WORLD_RANK",
        "WORLD_SIZE": "OMPI_COMM_WORLD_SIZE",
        "LOCAL_RANK": "OMPI_COMM_WORLD_LOCAL_RANK",
        "LOCAL_WORLD_SIZE": "OMPI_COMM_WORLD_LOCAL_SIZE",
    }
    missing = [theirs for theirs in names.values() if theirs not in os.environ]
    if missing:
        raise TrainingError(
            f"launcher 'mpi' needs the environment variables {', '.join(missing)}, which are not set; start "
            "the command with Open MPI's mpirun"
        )
    for ours, theirs in names.items():
        os.environ.setdefault(ours, os.environ[theirs])
    if os.environ["WORLD_SIZE"] == os.environ["LOCAL_WORLD_SIZE"]:
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29500")


def first_slurm_node(nodes: str) -> str:
    """First host of Slurm's compressed list: ``gpu[003-007,9],cpu1`` -> ``gpu003``."""
    match = re.match(r"([^,\[]*)(?:\[([^\],-]+)[^\]]*\]([^,\[]*))?", nodes.strip())
    if match is None or not match.group(0):
        raise TrainingError(f"the list of Slurm nodes {nodes!r} names no host")
    prefix, number, suffix = match.groups()
    return f"{prefix}{number or ''}{suffix or ''}"
