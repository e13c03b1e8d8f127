"""Logs how much memory the machine, this process and its GPU use."""
from pathlib import Path
from typing import Any

import torch

from detcore.engine.hooks.base import Hook

_MEBIBYTE = 1024 * 1024


class MemoryProfilerHook(Hook):
    """Logs memory every ``interval`` batches, read from ``/proc`` (elsewhere the GPU's part alone).

    Args:
        interval: Batches between two lines.
    """

    def __init__(self, interval: int = 50) -> None:
        self.interval = interval

    def _after_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None, mode: str = "train"
    ) -> None:
        if self.every_n_inner_iters(batch_idx, self.interval):
            figures = ", ".join(f"{name}: {value} MB" for name, value in memory_use().items())
            runner.logger.info("Memory information %s", figures)


def memory_use() -> dict[str, int]:
    """Memory of the machine and of this process, in MiB, as far as this system tells it."""
    machine = _read_kib(Path("/proc/meminfo"))
    process = _read_kib(Path("/proc/self/status"))
    use = {}
    if "MemAvailable" in machine:
        use["available_memory"] = machine["MemAvailable"] // 1024
        use["used_memory"] = (machine["MemTotal"] - machine["MemAvailable"]) // 1024
        use["available_swap_memory"] = machine.get("SwapFree", 0) // 1024
    if "VmRSS" in process:
        use["current_process_memory"] = process["VmRSS"] // 1024
    if torch.cuda.is_available():
        use["gpu_memory"] = torch.cuda.max_memory_allocated() // _MEBIBYTE
    return use


def _read_kib(path: Path) -> dict[str, int]:
    if not path.exists():
        return {}
    rows = (line.split() for line in path.read_text().splitlines())
    return {row[0].rstrip(":"): int(row[1]) for row in rows if len(row) == 3 and row[2] == "kB"}
