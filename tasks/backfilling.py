"""A back-fill's windows: each one task, so many at once, and what became of them."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import UUID

from prefect.artifacts import (
    create_progress_artifact,
    update_progress_artifact,
)

from memory.errors import CoinswarmError, EmbeddedServerError, FencedOutError, SealedWindowError, WindowError
from memory.window import Window
from tasks.backfill_plan import CONSOLIDATED, EMPTY, SEALED, PlannedWindow
from tasks.progress import announce, begin
from tasks.recording import replay_market
from tasks.retry import may_pass, retried
from tasks.runs import TaskContext
from tasks.window_steps import Pending, at_once, consolidate_window

DONE = "done"
SKIPPED = "skipped"
FAILED = "failed"
OUTCOMES = (DONE, SKIPPED, EMPTY, SEALED, FAILED)


class BackfillIncompleteError(CoinswarmError):
    """Some windows of a back-fill failed; what the others brought is folded and published."""


@dataclass(frozen=True, slots=True)
class Replay:
    """Which market is replayed before a window is consolidated, as in `tasks.recording.replay_market`."""

    market: str
    products: tuple[str, ...] | None
    encoder: str | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a window.

    Attributes
    ----------
    outcome
        One of `OUTCOMES`.
    reason
        Why it was to be done, or why it was not.
    recorded
        Experiences that the replay added.
    """

    window: str
    outcome: str
    reason: str
    seconds: float = 0.0
    recorded: int = 0
    experiences: int = 0
    states: int = 0
    clusters: int = 0

    def describe(self) -> str:
        """For a line of progress."""
        if self.outcome != DONE:
            return f"{self.outcome}: {self.reason}"
        added = f"{self.recorded:,} recorded, " if self.recorded else ""
        return f"{added}{self.states:,} states, {self.clusters} clusters, {self.seconds:.1f} s ({self.reason})"


@retried(run_name="backfill-{window.name}")
def backfill_window(context: TaskContext, window: Window, replay: Replay | None) -> dict[str, Any]:
    """Record a window, where asked for, and consolidate it; returns what became of it as the fields of `Outcome`.

    The whole window is one task: windows are independent of each other, and a range of them has many.
    """
    begun, recorded = time.perf_counter(), 0
    outcome: dict[str, Any]
    # Opened here: what records finds these servers, and a worker elsewhere is refused before anything is written.
    with context.open():
        if replay is not None:
            counts = replay_market.fn(context.namespace, window, replay.market, replay.products, replay.encoder, 0.0)
            recorded = int(counts["stored"])
        try:
            found = consolidate_window(context, window, at_once)
        except SealedWindowError as error:
            outcome = {"outcome": SEALED, "reason": error.message}
        except WindowError as error:
            outcome = {"outcome": EMPTY, "reason": error.message}
        else:
            outcome = {
                "outcome": DONE,
                "experiences": found.experiences,
                "states": found.states,
                "clusters": found.clusters,
            }
    return {**outcome, "recorded": recorded, "seconds": round(time.perf_counter() - begun, 3)}


@dataclass(slots=True)
class Chunk:
    """Bounds of what is consolidated while a back-fill holds the namespace.

    Attributes
    ----------
    windows
        At most so many are begun.
    seconds
        None is begun after so many; None where only the number counts.
    parallel
        So many are under way at the same time, each in the memory of one.
    """

    windows: int
    seconds: float | None
    parallel: int

    def run(
        self, context: TaskContext, queue: deque[PlannedWindow], replay: Replay | None
    ) -> Generator[Outcome, None, None]:
        """Take windows from the queue and consolidate them on the flow's task runner; what became of each, in order.

        A window that fails for reasons of its own is an outcome like others. What would fail all others as well ends
        the chunk: a server that stays away, a run that was overtaken, a worker that cannot work for this flow. Close
        the iterator while the namespace is held: that waits for what is still under way.
        """
        begun, taken = time.monotonic(), 0
        pending: deque[tuple[PlannedWindow, Pending[dict[str, Any]]]] = deque()
        try:
            while True:
                while queue and len(pending) < self.parallel and self._may_begin(taken, time.monotonic() - begun):
                    planned = queue.popleft()
                    begin(planned.window.name)
                    wanted = replay if planned.replayed else None
                    pending.append((planned, backfill_window.submit(context, planned.window, wanted)))
                    taken += 1
                if not pending:
                    return
                planned, result = pending.popleft()
                yield _outcome(planned, result)
        finally:
            if pending:
                announce("the run ends once the windows under way are done")
            for _, result in pending:
                _settle(result)

    def _may_begin(self, taken: int, elapsed_s: float) -> bool:
        return taken < self.windows and (taken == 0 or self.seconds is None or elapsed_s < self.seconds)


def _outcome(planned: PlannedWindow, result: Pending[dict[str, Any]]) -> Outcome:
    try:
        values = result.result()
    except Exception as error:
        if isinstance(error, FencedOutError | EmbeddedServerError) or may_pass(error):
            raise
        return Outcome(planned.window.name, FAILED, f"{type(error).__name__}: {error}")
    return Outcome(window=planned.window.name, **{"reason": planned.describe(), **values})


def _settle(result: Pending[dict[str, Any]]) -> None:
    """Wait for a task whose result nobody asks for any more: what it has come to is in the ledger."""
    try:
        result.result()
    except Exception as error:  # noqa: BLE001 - another failure ends the run
        announce(f"{type(error).__name__}: {error}")


@dataclass(slots=True)
class Tally:
    """What became of the windows so far, shown on the terminal and in the Prefect UI.

    Attributes
    ----------
    total
        Windows that there are, those left alone included.
    """

    total: int
    outcomes: list[Outcome] = field(default_factory=list)
    _artifact: UUID | None = None

    def add(self, outcome: Outcome) -> None:
        """Count a window that was to be done, and show how far it is."""
        self.outcomes.append(outcome)
        announce(f"{outcome.window} ({len(self.outcomes)} of {self.total}): {outcome.describe()}")
        self.show()

    def skip(self, plan: Sequence[PlannedWindow]) -> None:
        """Count the windows of a plan that are left alone."""
        for planned in plan:
            if not planned.is_due:
                outcome = SKIPPED if planned.state == CONSOLIDATED else EMPTY
                reason = "consolidated before" if outcome == SKIPPED else "nothing was recorded of it"
                self.outcomes.append(Outcome(planned.window.name, outcome, reason))

    def show(self) -> None:
        """Bring the progress artifact of the run up to date."""
        share = 100.0 * len(self.outcomes) / max(self.total, 1)
        said = ", ".join(f"{count} {outcome}" for outcome, count in self.counts().items() if count)
        text = f"{len(self.outcomes)} of {self.total} windows: {said or 'begun'}"
        if self._artifact is None:
            made = create_progress_artifact(progress=share, key="backfill-progress", description=text)
            self._artifact = made if isinstance(made, UUID) else None
        else:
            update_progress_artifact(self._artifact, progress=share, description=text)

    def counts(self) -> dict[str, int]:
        """Windows by what became of them."""
        counted = Counter(outcome.outcome for outcome in self.outcomes)
        return {outcome: counted[outcome] for outcome in OUTCOMES}

    def result(self) -> dict[str, Any]:
        """All of it, as plain values: counts, sums, and a row for each window in order of time."""
        return {
            **self.counts(),
            **{
                name: sum(getattr(outcome, name) for outcome in self.outcomes)
                for name in ("recorded", "experiences", "states", "clusters")
            },
            "windows": [asdict(outcome) for outcome in sorted(self.outcomes, key=lambda outcome: outcome.window)],
        }

    def check(self) -> None:
        """Raises BackfillIncompleteError where a window failed."""
        failed = [outcome for outcome in self.outcomes if outcome.outcome == FAILED]
        if failed:
            first = min(failed, key=lambda outcome: outcome.window)
            raise BackfillIncompleteError(
                f"{len(failed)} of {self.total} windows failed, first {first.window}: {first.reason}.",
                remedy="What the others brought is published. Run the same command again: it does what is missing.",
            )
