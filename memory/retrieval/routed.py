"""Every question of the retrieval service, asked by a route: which server answers it, over which connections."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from memory.errors import StoreUnavailableError
from memory.retrieval.service import MemoryRetrievalService

if TYPE_CHECKING:
    pass

Answer = TypeVar("Answer")
Question = Callable[[MemoryRetrievalService], Awaitable[Answer]]
"""Asks one question of the service that it is given."""


class RoutedRetrieval(MemoryRetrievalService):
    """A retrieval service whose questions are answered by other retrieval services.

    It has the questions of `MemoryRetrievalService`, all of them, with the same arguments. A subclass says in `_ask`
    who answers, and makes its own `at`.
    """

    def __init__(self) -> None:
        # What answers is not this object: it has no context of its own.
        pass

    async def _ask(self, question: Question[Answer]) -> Answer:
        """Have a question answered."""
        raise NotImplementedError


def _routed(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    async def ask(self: RoutedRetrieval, *arguments: Any, **named: Any) -> Any:
        async def question(service: MemoryRetrievalService) -> Any:
            return await getattr(service, name)(*arguments, **named)

        return await self._ask(question)

    return ask


for _name, _method in inspect.getmembers(MemoryRetrievalService, inspect.iscoroutinefunction):
    if not _name.startswith("_"):
        setattr(RoutedRetrieval, _name, _routed(_name, _method))


class Gate:
    """Counts those inside; once shut, nobody enters."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.entered = 0
        self._inside = 0
        self._shut = False
        self._empty: asyncio.Event | None = None

    def check(self) -> None:
        """StoreUnavailableError once it is shut."""
        if self._shut:
            raise StoreUnavailableError(
                f"this {self._name} is closed.", remedy="Ask inside its `async with` block, or open another."
            )

    def __enter__(self) -> None:
        self.check()
        self.entered += 1
        self._inside += 1

    def __exit__(self, *_: Any) -> None:
        self._inside -= 1
        if self._empty is not None and not self._inside:
            self._empty.set()

    async def shut(self, timeout_s: float) -> None:
        """Let nobody enter any more, and wait until all have left or the time is up."""
        self._shut = True
        if self._inside:
            self._empty = self._empty or asyncio.Event()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._empty.wait()
            except TimeoutError:
                return  # Closing the connections fails those who are left.
