"""Ending in time: what a scheduler's SIGTERM waits for."""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

__all__ = ["Ending"]


class Ending:
    """Holds back SIGTERM while a context lasts, until :meth:`deliver` or its end.

    Schedulers send SIGTERM some seconds before they kill: time enough for a checkpoint. When it is
    delivered, it does what it would have done at once. In a thread, and where SIGTERM is ignored,
    nothing is changed.

    Parameters
    ----------
    notify : callable, optional
        Called when the signal comes.
    """

    def __init__(self, notify: Callable[[], None] | None = None) -> None:
        self.pending = False
        """Whether SIGTERM has come."""
        self._notify = notify
        self._before: Callable[[int, FrameType | None], object] | int | None = None

    def __enter__(self) -> "Ending":
        """Start to hold back."""
        if threading.current_thread() is threading.main_thread():
            before = signal.getsignal(signal.SIGTERM)
            if before is not None and before is not signal.SIG_IGN:
                self._before = before
                signal.signal(signal.SIGTERM, self._come)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop to hold back, and deliver what has come."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            if self.pending:
                self.pending = False
                signal.raise_signal(signal.SIGTERM)

    def deliver(self) -> None:
        """Let SIGTERM do what it does; if that does not end the process, hold back the next one."""
        if self._before is None:
            return
        self.pending = False
        signal.signal(signal.SIGTERM, self._before)
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.signal(signal.SIGTERM, self._come)

    def _come(self, number: int, frame: FrameType | None) -> None:
        self.pending = True
        if self._notify is not None:
            self._notify()
