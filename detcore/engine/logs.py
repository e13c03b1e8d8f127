"""Gathers the figures of a run, smooths them over windows, and makes lines and records of them."""
import datetime
import math
import re
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Required, TypedDict

import torch

from detcore.engine import distributed
from detcore.errors import ConfigError

_METHODS = ("mean", "min", "max", "current")
_TIMES = ("time", "data_time")


class History:
    """The newest values of one figure; tensors are kept as they are until somebody looks.

    Args:
        length: How many values to keep; None keeps all.
    """

    def __init__(self, length: int | None) -> None:
        self.values: deque[torch.Tensor | float] = deque(maxlen=length)
        self.count = 0

    def add(self, value: torch.Tensor | float) -> None:
        """Take a value; a tensor must hold one number and is not read now."""
        self.values.append(value.detach() if isinstance(value, torch.Tensor) else value)
        self.count += 1

    def read(self) -> list[float]:
        """All kept values as numbers, oldest first; what is still a tensor is fetched."""
        fetch([self])
        return [float(value) for value in self.values]


def fetch(histories: Sequence[History]) -> None:
    """Turn every tensor in ``histories`` into a number: one transfer from the device for all of them."""
    pending = [
        value.reshape(()).double()
        for history in histories
        for value in history.values
        if isinstance(value, torch.Tensor)
    ]
    if not pending:
        return
    numbers = iter(torch.stack(pending).tolist())
    for history in histories:
        values = [next(numbers) if isinstance(value, torch.Tensor) else value for value in history.values]
        history.values.clear()
        history.values.extend(values)


class CustomFigure(TypedDict, total=False):
    """One entry of ``custom_cfg``."""

    data_src: Required[str]
    method_name: Required[str]
    log_name: str
    window_size: int | str


class LogProcessor:
    """Turns what the steps recorded into one line and one record.

    Losses, norms, times and figures of pseudo labels are smoothed by the mean over the last ``window_size``
    values; everything else is shown as it is. Figures with a slash in their name, those of single classes,
    are in the record alone.

    Args:
        window_size: Length of the smoothing window, in steps.
        by_epoch: Whether lines count passes (``Epoch(train) [3][20/37]``), else steps
            (``Iter(train) [20/90000]``).
        custom_cfg: Further figures: dicts with ``data_src`` (a recorded name), ``method_name`` (mean, min,
            max, current), ``window_size`` (a number, ``epoch`` or ``global``) and, where both are wanted,
            ``log_name``.
        num_digits: Digits after the point.
        log_with_hierarchy: Write the mode before each figure's name in records (``train/loss``).
        mean_pattern: Regular expression of the names to be smoothed.

    Raises:
        ConfigError: If a part of ``custom_cfg`` makes no sense.
    """

    def __init__(
        self,
        window_size: int = 10,
        by_epoch: bool = True,
        custom_cfg: Sequence[CustomFigure] | None = None,
        num_digits: int = 4,
        log_with_hierarchy: bool = False,
        mean_pattern: str = r".*(loss|time|data_time|grad_norm|pseudo).*",
    ) -> None:
        if not isinstance(window_size, int) or isinstance(window_size, bool) or window_size < 1:
            raise ConfigError(f"log_processor.window_size must be a positive integer, got {window_size!r}")
        self.window_size = window_size
        self.by_epoch = by_epoch
        self.custom_cfg = [_check_custom(index, dict(entry)) for index, entry in enumerate(custom_cfg or [])]
        self.num_digits = num_digits
        self.log_with_hierarchy = log_with_hierarchy
        self._mean_pattern = re.compile(mean_pattern)
        self._histories: dict[str, dict[str, History]] = {}
        self._times = [0.0, 0]

    def record(self, mode: str, scalars: Mapping[str, torch.Tensor | float]) -> None:
        """Take the figures of one step; reads nothing from a device.

        Args:
            mode: ``train``, ``val`` or ``test``.
            scalars: Numbers or tensors of one element.
        """
        histories = self._histories.setdefault(mode, {})
        for name, value in scalars.items():
            history = histories.get(name)
            if history is None:
                history = histories[name] = History(self._length(name))
            history.add(value)
        if mode == "train" and "time" in scalars:
            self._times[0] += float(scalars["time"])
            self._times[1] += 1

    def histories(self) -> dict[str, dict[str, list[float]]]:
        """Mode -> name -> the values that are still kept, oldest first."""
        return {
            mode: {name: history.read() for name, history in named.items()}
            for mode, named in self._histories.items()
        }

    def start(self, mode: str) -> None:
        """Forget the figures of an earlier evaluation."""
        self._histories.pop(mode, None)

    def train_entry(self, runner: Any, batch_idx: int) -> tuple[dict[str, Any], str]:
        """The record and the line of the step that was just made.

        Under more than one process losses are averaged over all of them, so all must call this.

        Args:
            runner: The run.
            batch_idx: Zero-based position of the step in its pass.
        """
        figures = self._smoothed("train", batch_idx)
        times = {name: figures.pop(name) for name in _TIMES if name in figures}
        rates = dict(runner.rates)
        left = runner.max_iters - runner.iter - 1 if runner.max_iters is not None else 0
        eta = int(self._times[0] / max(self._times[1], 1) * left)
        memory = _gpu_memory(runner.device)
        record = {**rates, **times, **memory, **figures, "epoch": runner.epoch + 1, "iter": runner.iter + 1}
        shown = [f"{name}: {rate:.4e}" for name, rate in rates.items()]
        shown.append(f"eta: {datetime.timedelta(seconds=eta)}")
        shown += [f"{name}: {value:.{self.num_digits}f}" for name, value in times.items()]
        shown += [f"{name}: {value}" for name, value in memory.items()]
        shown += [  # figures of single classes ("pseudo_per_image/person") would fill the screen
            f"{name}: {value:.{self.num_digits}f}" for name, value in figures.items() if "/" not in name
        ]
        return self._named(record, "train"), f"{self._head(runner, 'train', batch_idx)}  {'  '.join(shown)}"

    def progress_line(self, runner: Any, batch_idx: int, mode: str) -> str:
        """A line that says how far an evaluation is."""
        smoothed = self._smoothed(mode, batch_idx)
        times = {name: smoothed[name] for name in _TIMES if name in smoothed}
        length = len(runner.evaluation_dataloader(mode))
        eta = datetime.timedelta(seconds=int(times.get("time", 0.0) * (length - batch_idx - 1)))
        shown = [f"eta: {eta}", *(f"{name}: {value:.{self.num_digits}f}" for name, value in times.items())]
        shown += [f"{name}: {value}" for name, value in _gpu_memory(runner.device).items()]
        return f"{self._head(runner, mode, batch_idx)}  {'  '.join(shown)}"

    def evaluation_entry(
        self, runner: Any, metrics: Mapping[str, float], mode: str
    ) -> tuple[dict[str, Any], str]:
        """The record and the line of a finished evaluation."""
        length = len(runner.evaluation_dataloader(mode))
        smoothed = self._smoothed(mode, length - 1)
        times = {name: smoothed[name] for name in _TIMES if name in smoothed}
        record = {**metrics, **times, "epoch": runner.epoch, "iter": runner.iter}
        shown = [f"{name}: {_number(value, self.num_digits)}" for name, value in {**metrics, **times}.items()]
        return self._named(record, mode), f"{self._head(runner, mode, length - 1)}  {'  '.join(shown)}"

    def state_dict(self) -> dict[str, Any]:
        """The recorded losses, so that a resumed run smooths over the same windows."""
        train = self._histories.get("train", {})
        fetch(list(train.values()))
        return {
            name: {"values": history.read(), "count": history.count}
            for name, history in train.items()
            if name not in _TIMES
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        histories = self._histories["train"] = {}
        for name, kept in state.items():
            histories[name] = History(self._length(name))
            histories[name].values.extend(kept["values"])
            histories[name].count = kept["count"]

    def _length(self, name: str) -> int | None:
        windows = [entry["window_size"] for entry in self.custom_cfg if entry["data_src"] == name]
        if any(isinstance(window, str) for window in windows):
            return None
        return max([self.window_size, *windows])

    def _smoothed(self, mode: str, batch_idx: int) -> dict[str, float]:
        figures = {}
        fetch(list(self._histories.get(mode, {}).values()))
        for name, history in self._histories.get(mode, {}).items():
            values = history.read()
            smooth = self._mean_pattern.match(name) is not None
            figures[name] = _reduce(values, "mean" if smooth else "current", self.window_size)
            for entry in self.custom_cfg:
                if entry["data_src"] == name and mode == "train":
                    window = entry["window_size"]
                    count = (
                        batch_idx + 1
                        if window == "epoch"
                        else history.count
                        if window == "global"
                        else window
                    )
                    figures[entry.get("log_name", name)] = _reduce(values, entry["method_name"], count)
        if mode == "train" and distributed.world_size() > 1:
            shared = {
                name: torch.tensor(value, dtype=torch.float64)
                for name, value in figures.items()
                if name not in _TIMES
            }
            figures.update({name: float(value) for name, value in distributed.reduce_mean(shared).items()})
        return figures

    def _head(self, runner: Any, mode: str, batch_idx: int) -> str:
        if mode == "train":
            if not self.by_epoch or runner.train_loop.epoch_length is None:
                width = len(str(runner.max_iters))
                return f"Iter(train) [{runner.iter + 1:>{width}}/{runner.max_iters}]"
            length = runner.train_loop.epoch_length
            return f"Epoch(train) [{runner.epoch + 1}][{batch_idx + 1:>{len(str(length))}}/{length}]"
        length = len(runner.evaluation_dataloader(mode))
        position = f"[{batch_idx + 1:>{len(str(length))}}/{length}]"
        return f"Epoch({mode}) [{runner.epoch}]{position}" if self.by_epoch else f"Iter({mode}) {position}"

    def _named(self, record: dict[str, Any], mode: str) -> dict[str, Any]:
        if not self.log_with_hierarchy:
            return record
        return {
            name if name in ("epoch", "iter") else f"{mode}/{name}": value for name, value in record.items()
        }


def _reduce(values: list[float], method: str, window: int) -> float:
    values = values[-window:]
    if method == "current" or not values:
        return values[-1] if values else math.nan
    if method == "mean":
        return (
            math.fsum(values) / len(values) if all(map(math.isfinite, values)) else sum(values) / len(values)
        )
    return min(values) if method == "min" else max(values)


def _check_custom(index: int, entry: dict[str, Any]) -> dict[str, Any]:
    where = f"log_processor.custom_cfg[{index}]"
    unknown = set(entry) - {"data_src", "log_name", "method_name", "window_size"}
    if unknown or not {"data_src", "method_name"} <= set(entry):
        raise ConfigError(f"{where} takes data_src, method_name, window_size, log_name; got {sorted(entry)}")
    entry.setdefault("window_size", 1)
    window = entry["window_size"]
    if entry["method_name"] not in _METHODS:
        raise ConfigError(
            f"{where}.method_name must be one of {', '.join(_METHODS)}; got {entry['method_name']!r}"
        )
    if window not in ("epoch", "global") and (not isinstance(window, int) or window < 1):
        raise ConfigError(
            f"{where}.window_size must be a positive integer, 'epoch' or 'global'; got {window!r}"
        )
    return entry


def _gpu_memory(device: torch.device) -> dict[str, int]:
    if device.type != "cuda":
        return {}
    return {"memory": torch.cuda.max_memory_allocated(device) // (1024 * 1024)}


def _number(value: Any, digits: int) -> str:
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)
