"""Ctrl-C, SIGTERM and a queue's preemption, told to the job that runs."""

import signal
import threading
import time
from typing import Any

from curvexp.app.keeper import TAKEN

ONE_SIGNAL = 0.5  # seconds within which a signal is the same: one that goes to all processes of a sweep comes twice, see supervisor


class Signals:
    """Ctrl-C or SIGTERM lets the step finish and be recorded, a second one stops at once; only the main thread may say so.

    A SIGTERM that a queue's worker has a handler for, as submitit does for the one that goes with a preemption, asks for a checkpoint
    alone: it is the queue that ends the job, and starts it again.
    """

    def __init__(self) -> None:
        self.caught: str | None = None
        self.time = 0.0
        self.before: dict[int, Any] = {}
        self.keep = False

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
            signal.signal(signal.SIGINT, self._note)
            signal.signal(signal.SIGTERM, self._pass_on if callable(self.before[signal.SIGTERM]) else self._note)
        return self

    def asked(self) -> bool:
        """Whether a checkpoint is to be made now; a queue's wish is told once."""
        wish, self.keep = self.keep or self.caught is not None, False
        return wish

    def _pass_on(self, number: int, frame: Any) -> None:
        self.keep = True
        try:
            self.before[number](number, frame)
        except SystemExit:
            TAKEN.append(True)
            raise

    def __exit__(self, *exception: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        again = self.caught is not None and time.monotonic() - self.time > ONE_SIGNAL
        if self.caught is None:
            self.caught, self.time = "SIGTERM" if number == signal.SIGTERM else "Ctrl-C", time.monotonic()
        if again:
            raise KeyboardInterrupt(self.caught)
