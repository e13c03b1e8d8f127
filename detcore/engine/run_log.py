"""Where the readable lines of a run go: the terminal, and a file in the run's folder."""
import logging
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from detcore.plugins import host

_FORMAT = "%(asctime)s - %(name)s - %(levelname)s - %(message)s"


class RunLog:
    """Attaches handlers to the loggers of detcore and of the plugins in use while a run goes on.

    The main process writes to ``<work_dir>/<timestamp>/<timestamp>.log`` and, where nobody has configured
    logging, to the standard error stream; other processes write warnings only.

    Args:
        runner: The run.
        mode: ``train``, ``val`` or ``test``.
    """

    def __init__(self, runner: Any, mode: str) -> None:
        self._runner = runner
        self._mode = mode
        self._logger = logging.getLogger("detcore")
        self._handlers: list[logging.Handler] = []
        loggers = [self._logger, *map(logging.getLogger, _plugin_packages())]
        self._levels = {logger: logger.level for logger in loggers}

    def __enter__(self) -> "RunLog":
        level = _level(self._runner.cfg.get("log_level") or "INFO")
        main = self._runner.rank == 0
        for logger in self._levels:
            logger.setLevel(level if main else logging.WARNING)
        if main:
            path = Path(self._runner.run_dir) / f"{self._runner.timestamp}.log"
            path.parent.mkdir(parents=True, exist_ok=True)
            self._add(logging.FileHandler(path, encoding="utf-8", delay=True))
        if not logging.getLogger().handlers and not self._logger.handlers[: -1 if main else None]:
            self._add(self._terminal())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not isinstance(error, SystemExit):
            self._logger.error("the run failed: %s: %s", type(error).__name__, error)
        for logger, level in self._levels.items():
            for handler in self._handlers:
                logger.removeHandler(handler)
            logger.setLevel(level)
        for handler in self._handlers:
            handler.close()

    def _terminal(self) -> logging.Handler:
        if self._runner.rank == 0 and sys.stderr.isatty():
            from detcore.engine.progress import show_progress

            return show_progress(self._runner)
        return logging.StreamHandler()

    def _add(self, handler: logging.Handler) -> None:
        if handler.formatter is None:
            handler.setFormatter(logging.Formatter(_FORMAT))
        for logger in self._levels:
            logger.addHandler(handler)
        self._handlers.append(handler)


def _plugin_packages() -> list[str]:
    """Packages of the plugins that this run uses: its parts have been built when the log is opened."""
    used = (record for record in host().records().values() if record.table is not None)
    return sorted({claim.module.partition(".")[0] for record in used for claim in record.claims})


def _level(name: str | int) -> int:
    if isinstance(name, int):
        return name
    return logging.getLevelNamesMapping().get(name.upper(), logging.INFO)
