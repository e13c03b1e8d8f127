"""``print_log`` and ``MMLogger`` of mmengine: the run's log, which is Python's ``logging``."""

import logging
from typing import Any

RUN_LOG = "detcore.run"


class MMLogger:
    """Where mmengine's loggers are found by name; each is an ordinary ``logging.Logger``."""

    @classmethod
    def get_current_instance(cls) -> logging.Logger:
        """The log of the run."""
        return logging.getLogger(RUN_LOG)

    @classmethod
    def get_instance(cls, name: str, **_: Any) -> logging.Logger:
        """The logger of that name; levels and files are settings of the run here."""
        return logging.getLogger(name)


def print_log(msg: Any, logger: logging.Logger | str | None = None, level: int = logging.INFO) -> None:
    """Write a message to a log.

    Args:
        msg: What to write.
        logger: A logger or its name; ``'current'`` and None mean the run's, ``'silent'`` none.
        level: As of ``logging``.
    """
    if logger == "silent":
        return
    if not isinstance(logger, logging.Logger):
        logger = logging.getLogger(RUN_LOG if logger in (None, "current") else logger)
    logger.log(level, msg)
