"""One check of a memory: what it needs, how it turned out, and what several checks ask of the server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol

from memory.settings import Settings
from memory.store.dead_letters import DeadLetters
from memory.store.encoders import EncoderRegistry
from memory.store.episodic import EpisodicStore
from memory.store.inbox import Inbox
from memory.store.indexes import Indexes
from memory.store.keys import Keys
from memory.store.link import RedisLink
from memory.store.messages import Messages
from memory.store.scan import Reader


class CheckStatus(StrEnum):
    """How a check turned out."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Attributes
    ----------
    name
        What was looked at.
    status
        ``fail`` is for what loses memories, hides them, or keeps the memory from working; ``warn`` for what may lead
        there.
    seen
        What was found.
    remedy
        What to do about it, in one line; empty where all is well.
    """

    name: str
    status: CheckStatus
    seen: str
    remedy: str = ""


def ok(name: str, seen: str) -> Check:
    """A check that found nothing wrong."""
    return Check(name, CheckStatus.OK, seen)


def warn(name: str, seen: str, remedy: str) -> Check:
    """A check that found what may lead to harm."""
    return Check(name, CheckStatus.WARN, seen, remedy)


def fail(name: str, seen: str, remedy: str) -> Check:
    """A check that found harm."""
    return Check(name, CheckStatus.FAIL, seen, remedy)


class OpenMemory(Protocol):
    """What is needed of an open memory: `memory.MemoryConnection` has it."""

    @property
    def link(self) -> RedisLink: ...
    @property
    def keys(self) -> Keys: ...
    @property
    def settings(self) -> Settings: ...
    @property
    def indexes(self) -> Indexes: ...
    @property
    def encoders(self) -> EncoderRegistry: ...
    @property
    def reader(self) -> Reader: ...
    @property
    def episodic(self) -> EpisodicStore: ...
    @property
    def inbox(self) -> Inbox: ...
    @property
    def messages(self) -> Messages: ...
    @property
    def dead_letters(self) -> DeadLetters: ...


MemoryCheck = Callable[[OpenMemory], Awaitable[list[Check]]]


async def info(mem: OpenMemory, *sections: str) -> dict[str, str]:
    """Sections of the server's INFO as one dictionary."""
    answer = (await mem.link.execute("INFO", *sections)).decode()
    return dict(line.split(":", 1) for line in answer.splitlines() if ":" in line)


async def server_time(mem: OpenMemory) -> datetime:
    """The server's clock."""
    seconds, microseconds = await mem.link.execute("TIME")
    return datetime.fromtimestamp(int(seconds), UTC) + timedelta(microseconds=int(microseconds))


def facts_of(value: Any) -> dict[str, Any]:
    """A map of an answer with names as text."""
    return {name.decode() if isinstance(name, bytes) else str(name): item for name, item in value.items()}
