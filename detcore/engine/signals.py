"""Signals that ask a run to end: it saves at the next step boundary, then leaves with 128 + the number."""
import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from detcore.engine import distributed

_WATCHED = ("SIGTERM", "SIGINT", "SIGUSR1")
_COMPARE_EVERY = 10


class RunInterrupted(SystemExit):
    """A signal ended the run after its state was saved.

    An uncaught one ends the process with status 128 + the signal's number: 143 for SIGTERM, 130 for SIGINT
    (Ctrl-C), 138 for SIGUSR1 (what Slurm's ``--signal=USR1@60`` sends before the time is over).
    """

    def __init__(self, signum: int, checkpoint: str | None) -> None:
        super().__init__(128 + signum)
        self.signum = signum
        self.checkpoint = checkpoint


class StopAsked(Exception):
    """Travels from where the run noticed the request up to where it saves."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"signal {signum}")
        self.signum = signum


class StopSignals:
    """Remembers the first signal that asks for the end; the second one ends the process at once."""

    def __init__(self) -> None:
        self.requested: int | None = None
        self._owner = os.getpid()

    def raise_if_asked(self, step: int, *, now: bool = False) -> None:
        """Raise if the end was asked for.

        Several processes must stop at the same step, so they compare notes every `_COMPARE_EVERY` steps.

        Args:
            step: Complete steps of the run.
            now: Do not wait for the others: this process cannot go on anyhow.

        Raises:
            StopAsked: If a signal (of any process) asked for the end.
        """
        signum = self.requested
        if distributed.world_size() > 1 and not now:
            if step % _COMPARE_EVERY:
                return
            asked = [int(part) for part in distributed.gather_bytes(str(self.requested or 0).encode())]
            signum = max(asked) or None
        if signum is not None:
            raise StopAsked(signum)

    @contextlib.contextmanager
    def installed(self) -> Iterator["StopSignals"]:
        """Watch for the signals in this context; other threads than the main one cannot, and leave it."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        watched = [getattr(signal, name) for name in _WATCHED if hasattr(signal, name)]
        before = {signum: signal.signal(signum, self._receive) for signum in watched}
        try:
            yield self
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            return  # a forked loader worker: its parent decides, and ends it
        if self.requested is not None:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        self.requested = signum
