"""What takes part in the comparison, and how it is asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.retrieval.corpus import Corpus, Query
from benchmarks.retrieval.data import Dataset

INSTALL = "pip install -e '.[bench]'"
Ask = Callable[[Query], Any]


@dataclass(frozen=True, slots=True)
class Memories:
    """What is searched: the records to be taken in, and the columns of the same memories."""

    dataset: Dataset
    corpus: Corpus


@dataclass(frozen=True, slots=True)
class Loaded:
    """What loading took.

    Attributes
    ----------
    seconds
        Until everything could be found, indexes built.
    bytes_each, basis
        Bytes a memory, and what was counted.
    """

    seconds: float
    bytes_each: float
    basis: str


class Contestant(ABC):
    """One that is asked for the nearest memories.

    Attributes
    ----------
    name
        Unique in a run.
    package
        The package it needs, by the name it is imported under; None where the project brings all.
    returns
        What an answer holds, in words.
    as_of
        Whether it can leave out what was not known at a time.
    agents
        How agents ask at the same time, in words.
    """

    name: ClassVar[str]
    package: ClassVar[str | None] = None
    returns: ClassVar[str]
    as_of: ClassVar[bool] = True
    agents: ClassVar[str]

    @property
    @abstractmethod
    def configuration(self) -> str:
        """How it is set up, in words."""

    @abstractmethod
    async def load(self, memories: Memories) -> Loaded | None:
        """Take all memories in, and build what makes searching quick; None where there was nothing to do."""

    @abstractmethod
    def numbers(self, answer: Any) -> Sequence[int]:
        """Numbers of the memories of an answer."""

    @abstractmethod
    async def close(self) -> None:
        """Let everything go."""

    @classmethod
    def missing(cls) -> str | None:
        """What to do where its package is not installed; None where it is."""
        if cls.package is None or find_spec(cls.package) is not None:
            return None
        return f"not installed: {INSTALL}"


class AsyncContestant(Contestant):
    """One whose client is asynchronous: agents are tasks of one event loop."""

    agents = "tasks of one event loop"

    @abstractmethod
    async def ask(self, query: Query) -> Any:
        """Answer one question."""


class ThreadContestant(Contestant):
    """One whose client blocks: agents are threads."""

    agents = "threads"

    @abstractmethod
    def session(self) -> AbstractContextManager[Ask]:
        """What one thread asks with."""


def folder_bytes(folder: Path) -> int:
    """Room that the files of a folder take on disk."""
    return sum(512 * path.stat().st_blocks for path in folder.rglob("*") if path.is_file())
