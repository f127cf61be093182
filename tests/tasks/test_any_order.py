"""A back-fill in any order and any pieces, of experiences that come late, ends in the knowledge of one clean run."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import pytest

from memory.records import EpisodicMemory, Regime
from tasks.backfill_plan import CONSOLIDATED, EMPTY, LATE, NEW, plan_backfill
from tests.thoroughness import examples

DaysIn = Callable[[str], AbstractContextManager[Any]]

DAYS = range(3)
ROUNDS = 2
"""How often the back-fill is run, on what has arrived by then."""
HALF = 6
"""Pieces that arrive before the first of them."""
SEEDS = examples(1, 6)


class Scrambled:
    """Runs what it is handed over when the first result is asked for, in an order of its own."""

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw
        self._waiting: list[_Later] = []

    def __call__(self, task: Any, *args: Any) -> _Later:
        later = _Later(self, task, args)
        self._waiting.append(later)
        return later

    def run(self) -> None:
        """Run all that waits."""
        waiting, self._waiting = self._waiting, []
        self._draw.shuffle(waiting)
        for later in waiting:
            later.run()


class _Later:
    def __init__(self, owner: Scrambled, task: Any, args: tuple[Any, ...]) -> None:
        self._owner = owner
        self._task = task
        self._args = args
        self._results: list[Any] = []

    def run(self) -> None:
        self._results.append(self._task.fn(*self._args))

    def result(self) -> Any:
        if not self._results:
            self._owner.run()
        return self._results[0]


@pytest.fixture
def pieces(lived_on: Callable[..., list[EpisodicMemory]]) -> list[list[EpisodicMemory]]:
    """All days in twelve pieces: of each day two partitions, and the halves of each."""
    found = []
    for number in DAYS:
        for product, regime in (("P", Regime.QUIET), ("Q", Regime.VOLATILE)):
            lived = [replace(item, regime=regime) for item in lived_on(number, product=product)]
            found += [lived[::2], lived[1::2]]
    return found


@pytest.fixture
def clean(days: Any, pieces: list[list[EpisodicMemory]]) -> tuple[str, str]:
    """Digests after each day was consolidated once, in order, with all of its experiences."""
    days.store([item for piece in pieces for item in piece])
    days.consolidate(*DAYS)
    assert days.fold()["patterns"] > 0
    days.publish()
    digests: tuple[str, str] = days.digests()
    return digests


def test_any_order_of_windows_partitions_pieces_and_arrivals_gives_the_same_knowledge(
    days_in: DaysIn, pieces: list[list[EpisodicMemory]], clean: tuple[str, str]
) -> None:
    met = set()
    for seed in range(SEEDS):
        draw = random.Random(seed)
        arrivals = draw.sample(pieces, len(pieces))
        with days_in(f"order-{seed}") as days:
            windows = [days.window(number) for number in DAYS]
            for round_ in range(ROUNDS):
                arrived, arrivals = (arrivals[:HALF], arrivals[HALF:]) if round_ + 1 < ROUNDS else (arrivals, [])
                for piece in arrived:
                    days.store(piece)
                plan = plan_backfill(days.workspace, draw.sample(windows, len(windows)), None)
                met |= {planned.state for planned in plan}
                due = [planned.window for planned in plan if planned.is_due]
                chunk = draw.randint(1, len(due)) if round_ + 1 < ROUNDS else len(due)
                for window in draw.sample(due, chunk):
                    days.consolidate_in(window, Scrambled(draw))
                if draw.random() < 0.5:
                    days.fold()
            days.fold()
            days.publish()
            assert {planned.state for planned in plan_backfill(days.workspace, windows, None)} == {CONSOLIDATED}
            assert days.digests() == clean, seed
    assert {NEW, LATE} <= met <= {NEW, LATE, CONSOLIDATED, EMPTY}
