"""Questions to servers that may never answer: each waits so long and no longer."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from memory.errors import CoinswarmError

Value = TypeVar("Value")
_log = logging.getLogger(__name__)


class LookError(CoinswarmError):
    """A server that did not answer in time, or otherwise than was foreseen."""


class Patient:
    """Asks a server in a thread of its own, and waits so long and no longer; one question at a time."""

    def __init__(self, name: str, patience_s: float) -> None:
        self._name = name
        self._patience_s = patience_s
        self._asked: Future[Any] | None = None

    def begin(self, ask: Callable[[], Value]) -> None:
        """Ask, unless an earlier question is still without an answer."""
        if self._asked is not None and not self._asked.done():
            return
        self._asked = Future()
        # A daemon: a server that never answers must not keep the process from ending.
        threading.Thread(target=_answer, args=(self._asked, ask), name=f"metrics-{self._name}", daemon=True).start()

    def answer(self, deadline: float) -> Any:
        """The answer; CoinswarmError where there is none."""
        if self._asked is None:
            raise RuntimeError("nothing was asked")
        try:
            return self._asked.result(max(deadline - time.monotonic(), 0.0))
        except TimeoutError as error:
            raise LookError(
                f"{self._name} did not answer within {self._patience_s:g} s.",
                remedy="Look whether it is overloaded or stopped.",
            ) from error
        except CoinswarmError:
            raise
        except Exception as error:
            # What nobody has foreseen of one server must not take the metrics of the others with it.
            _log.exception("looking at %s failed", self._name)
            raise LookError(
                f"looking at {self._name} failed: {type(error).__name__}.", remedy="The exporter's log has the reason."
            ) from error


def _answer(asked: Future[Any], ask: Callable[[], Any]) -> None:
    try:
        asked.set_result(ask())
    except BaseException as error:  # noqa: BLE001  (it is raised where the answer is waited for)
        asked.set_exception(error)
