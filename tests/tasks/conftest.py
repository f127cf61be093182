"""A small namespace that tasks can be tried on: some hundred synthetic states a day, without any flow."""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import memory
from memory.learning import ALGORITHM_VERSION
from memory.ledger import Ledger, line_id
from memory.records import Action, EpisodicMemory, Regime, Side
from memory.window import Window
from tasks.consolidation import archive_window
from tasks.groups import DYNAMICS, KNOWLEDGE
from tasks.publishing import publish
from tasks.runs import LedgerRun, TaskContext
from tasks.window_steps import (
    ConsolidatedWindow,
    Submit,
    at_once,
    commit_window,
    consolidate_window,
    fold_lines,
    summarise_parts,
)
from tasks.workspace import Workspace, open_workspace

STATES = 305
"""States a day: just enough for a partition of their own."""
FIRST = dt.date(2021, 6, 17)
ENCODER = "enc"


def lived(
    number: int, *, agent: str = "scout", product: str = "P", count: int = STATES, encoder: str = ENCODER
) -> list[EpisodicMemory]:
    """One agent's minutes of a day: three places that are visited again and again, and noise between the visits."""
    rng = np.random.default_rng((7, number, ord(product)))
    centres = np.random.default_rng(7).standard_normal((3, 256))
    start = Window.of_date(FIRST + dt.timedelta(days=number)).start
    prices = 100 * np.exp(np.cumsum(rng.standard_normal(STATES) * 5e-4))
    noise = rng.standard_normal((STATES, 256))
    memories = []
    for minute in range(count):
        visit = minute // 8 % 4
        vector = noise[minute] if visit == 3 else centres[visit] + 0.25 * noise[minute]
        at = start + dt.timedelta(minutes=minute * 4)
        memories.append(
            EpisodicMemory(
                agent_id=agent,
                timestamp=at,
                state_vector=(vector / np.linalg.norm(vector)).astype(np.float32),
                action=Action(Side.BUY, 0.5),
                reward=1e-4,
                product_id=product,
                regime=Regime.QUIET,
                encoder_id=encoder,
                source="replay",
                run_id="r",
                known_at=at + dt.timedelta(minutes=1),
                price=float(prices[minute]),
            )
        )
    return memories


@dataclass
class Days:
    """A namespace, the run that holds it, and what can be done with its days."""

    workspace: Workspace
    context: TaskContext
    seen: list[ConsolidatedWindow] = field(default_factory=list)

    @property
    def ledger(self) -> Ledger:
        """Its ledger."""
        return self.workspace.ledger

    @property
    def line(self) -> str:
        """Its knowledge line."""
        return line_id(self.workspace.namespace, ENCODER, ALGORITHM_VERSION)

    def window(self, number: int) -> Window:
        """The window of a day."""
        return Window.of_date(FIRST + dt.timedelta(days=number))

    def with_memory(self, function: Callable[[memory.MemoryConnection], Awaitable[Any]]) -> Any:
        """Run something on the memory."""
        return self.workspace.with_memory(function)

    def record(self, *numbers: int, **changes: Any) -> None:
        """Store what was lived through on some days."""
        self.store([item for number in numbers for item in lived(number, **changes)])

    def store(self, experiences: list[EpisodicMemory]) -> None:
        """Store experiences, all of them new."""

        async def call(mem: memory.MemoryConnection) -> None:
            report = await mem.episodic.add_many(experiences)
            assert len(report.stored) == len(experiences)

        self.with_memory(call)

    def forget(self, number: int) -> None:
        """Let Redis lose the experiences of a day and all before it."""

        async def call(mem: memory.MemoryConnection) -> None:
            await mem.episodic.forget(before=self.window(number).end, token=self.context.token)

        self.with_memory(call)

    def consolidate(self, *numbers: int) -> list[ConsolidatedWindow]:
        """Consolidate days up to their generations."""
        return [consolidate_window(self.context, self.window(number), at_once) for number in numbers]

    def consolidate_in(self, window: Window, submit: Submit) -> ConsolidatedWindow:
        """Consolidate a window whose partitions are run by something else."""
        parts = archive_window.fn(self.context, window)
        found = summarise_parts(self.context, window, parts, submit)
        commit_window(self.context, parts, at_once)
        return found

    def fold(self, refold: bool = False) -> dict[str, Any]:
        """Fold the line; its counts."""
        return fold_lines(self.context, [self.line], refold, at_once)[self.line]

    def publish(self, *groups: str) -> dict[str, int]:
        """Publish; counts of what changed."""
        changed: dict[str, int] = {}
        for group in groups or (KNOWLEDGE, DYNAMICS):
            for name, count in publish.fn(self.context, self.line, group).items():
                changed[name] = changed.get(name, 0) + count
        return changed

    def archived_files(self, number: int) -> list[Any]:
        """Files in the archive of a day."""
        folder = self.workspace.settings.home / "archive" / self.workspace.namespace / self.window(number).name
        return sorted(folder.rglob("*.parquet"))

    def lose_archive(self, number: int) -> None:
        """Remove all that is archived of a day."""
        files = self.archived_files(number)
        assert files
        for file in files:
            file.unlink()

    def digests(self) -> tuple[str, str]:
        """Digests of the ledger and of Redis."""

        async def held(mem: memory.MemoryConnection) -> str:
            return await mem.semantic.digest(line=self.line)

        return self.ledger.digest(self.workspace.namespace).digest, self.with_memory(held)


@pytest.fixture
def days(configured: str) -> Iterator[Days]:
    """A namespace that a run holds."""
    with open_workspace(configured) as workspace:
        yield Days(workspace, held_by_a_run(workspace))


@pytest.fixture
def days_in(configured: str) -> Callable[[str], AbstractContextManager[Days]]:
    """Makes further namespaces that a run holds, each with a word in its name."""

    @contextmanager
    def opened(word: str) -> Iterator[Days]:
        with open_workspace(f"{configured}-{word}") as workspace:
            yield Days(workspace, held_by_a_run(workspace))

    return opened


@pytest.fixture
def lived_on() -> Callable[..., list[EpisodicMemory]]:
    """What is lived through on a day; see `lived`."""
    return lived


def held_by_a_run(workspace: Workspace, last: int = 2) -> TaskContext:
    """The context of a run that holds the namespace."""
    run_id = workspace.ledger.runs.start("consolidate_memories", workspace.namespace, {}, lease_s=600)
    token = workspace.ledger.fence.acquire(workspace.namespace, run_id, flow="consolidate_memories", lease_s=600)
    workspace.raise_fence(token)
    return TaskContext.of(LedgerRun(workspace, run_id, Window.of_date(FIRST + dt.timedelta(days=last)), token))
