"""Ctrl-C, SIGTERM and a closed terminal, for a command that has an order in which it ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopping:
    """Counts the requests to end, of whichever signal; a context manager for the main thread.

    Attributes
    ----------
    raises
        Whether the next request raises KeyboardInterrupt where the process is, which it does once; otherwise it is
        only counted. True at first: what is being started has no other way to hear of it.
    """

    def __init__(self) -> None:
        self.raises = True
        self._requests = 0
        self._before: dict[signal.Signals, Any] = {}

    @property
    def asked(self) -> bool:
        """Whether it is to end."""
        return self._requests > 0

    @property
    def hurried(self) -> bool:
        """Whether that was said twice."""
        return self._requests > 1

    def __enter__(self) -> Stopping:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("signals reach the main thread only; enter Stopping there")
        for number in SIGNALS:
            before = signal.getsignal(number)
            # Who started it with `nohup` wants it to outlive the terminal.
            if number is not signal.SIGHUP or before is not signal.SIG_IGN:
                self._before[number] = before
                signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let a request raise KeyboardInterrupt while the block runs; one that came before does so at once."""
        if self.asked:
            raise KeyboardInterrupt
        self.raises = True
        try:
            yield
        finally:
            self.raises = False

    def _receive(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002  # the signature of handlers
        self._requests += 1
        if self.raises:
            self.raises = False
            raise KeyboardInterrupt
