"""The machine-readable log of a run: one JSON object a line, cut to the resumed step before it goes on."""
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import torch

from detcore.errors import TrainingError


class JsonLines:
    """Appends records to a file; every record is in the file as soon as `write` returns.

    Args:
        path: The file; made with the first record.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: TextIO | None = None

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record.

        Raises:
            TrainingError: If it cannot be written.
        """
        line = json.dumps({key: _plain(value) for key, value in record.items()}, ensure_ascii=False)
        try:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self.path.open("a", encoding="utf-8")
            self._file.write(line + "\n")
            self._file.flush()
        except OSError as error:
            raise TrainingError(f"cannot write the log {self.path}: {error}") from error

    def rewind(self, step: int, *, validated: bool) -> None:
        """Drop what was logged after ``step``, and half-written lines.

        Args:
            step: Number of complete steps from which the run goes on.
            validated: Whether the evaluation that follows ``step`` was complete, too.

        Raises:
            TrainingError: If the file cannot be read or written.
        """
        if not self.path.exists():
            return
        try:
            self._cut(step, validated)
        except OSError as error:
            raise TrainingError(f"cannot cut the log {self.path} to step {step}: {error}") from error

    def _cut(self, step: int, validated: bool) -> None:
        kept = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            at, mode = record.get("iter", 0), record.get("mode")
            if at < step or (at == step and (mode == "train" or validated)):
                kept.append(line + "\n")
        partial = self.path.with_name(f".{self.path.name}.tmp")
        with partial.open("w", encoding="utf-8") as file:
            file.writelines(kept)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.path)

    def close(self) -> None:
        """Close the file; a later `write` opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value.item() if hasattr(value, "item") else value
