"""The steps of one window, and of the lines that windows changed: what every flow that consolidates is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol, TypeVar

from prefect import Task
from prefect.client.schemas.objects import State

from memory.errors import SealedWindowError
from memory.window import Window
from tasks.consolidation import (
    Part,
    archive_window,
    commit_generation,
    summarise_patterns,
    summarise_sequences,
)
from tasks.fold_plan import LostArchiveError
from tasks.folding import fold_knowledge
from tasks.progress import announce
from tasks.runs import TaskContext

Result_co = TypeVar("Result_co", covariant=True)


class Pending(Protocol[Result_co]):
    """What a task that was handed over will come to."""

    def result(self) -> Result_co:
        """Its result, once it is there; what the task raised is raised here."""
        ...


Submit = Callable[..., Pending[Any]]
"""Hands a task with its arguments over to whoever runs it."""


@dataclass(frozen=True, slots=True)
class ConsolidatedWindow:
    """What was consolidated of a window.

    Attributes
    ----------
    parts
        What was archived of it, one an encoder and source.
    clusters, noise
        Clusters found in all of them, and states that belong to none.
    """

    window: Window
    parts: tuple[Part, ...]
    clusters: int
    noise: int

    @property
    def lines(self) -> list[str]:
        """Lines that it belongs to, by name."""
        return sorted({part.line for part in self.parts})

    @property
    def states(self) -> int:
        """Distinct states."""
        return sum(part.states for part in self.parts)

    @property
    def experiences(self) -> int:
        """Experiences."""
        return sum(part.experiences for part in self.parts)


def on_task_runner(task: Task[..., Any], *arguments: Any) -> Pending[Any]:
    """Hand a task to the flow's task runner."""
    return task.submit(*arguments)


@dataclass(frozen=True, slots=True)
class _Done:
    value: Any

    def result(self) -> Any:
        return self.value


def at_once(task: Task[..., Any], *arguments: Any) -> Pending[Any]:
    """Run a task here, before anything else happens, as a plain function: no run of Prefect's, and no retry."""
    found = task.fn(*arguments)
    # A task that says in which state it ends has its value there.
    return _Done(found.data if isinstance(found, State) else found)


def _called(submit: Submit, task: Task[..., Any], *arguments: Any) -> Any:
    """A task's result, computed in this process: what writes to the ledger as a whole goes to no other machine."""
    return task.fn(*arguments) if submit is at_once else task(*arguments)


def consolidate_window(context: TaskContext, window: Window, submit: Submit = on_task_runner) -> ConsolidatedWindow:
    """Archive a window, summarise its parts, and make the summaries its generation.

    What was summarised before from the same input, with the same settings, is not computed again: a consolidation
    that failed in one partition resumes there, whoever runs it.

    Raises
    ------
    WindowError
        The window holds no experience.
    SealedWindowError
        Its input is no longer to be had in full; the ledger notes it.
    """
    parts = _called(submit, archive_window, context, window)
    found = summarise_parts(context, window, parts, submit)
    commit_window(context, parts, submit)
    return found


def summarise_parts(
    context: TaskContext, window: Window, parts: Iterable[Part], submit: Submit = on_task_runner
) -> ConsolidatedWindow:
    """Cluster and summarise what was archived of a window, each partition by itself.

    Where some fail, the others end first, since what they stage is not lost; then the first failure is raised.
    """
    parts = tuple(parts)
    clustered = [submit(summarise_patterns, context, part, regime) for part in parts for regime in part.partitions]
    sequences = [submit(summarise_sequences, context, part) for part in parts]
    counts = _results([*clustered, *sequences])[: len(clustered)]
    return ConsolidatedWindow(
        window,
        parts,
        clusters=sum(count["clusters"] for count in counts),
        noise=sum(count["noise"] for count in counts),
    )


def _results(pending: Iterable[Pending[Any]]) -> list[Any]:
    """All results, in order; the first failure where there is one, after all have ended."""
    results, failure = [], None
    for each in pending:
        try:
            results.append(each.result())
        except Exception as error:  # noqa: BLE001 - raised below
            failure = failure or error
    if failure is not None:
        raise failure
    return results


def commit_window(context: TaskContext, parts: Iterable[Part], submit: Submit = on_task_runner) -> None:
    """Make what is staged of a window its generation, in each line."""
    for _, group in groupby(sorted(parts, key=lambda part: part.line), key=lambda part: part.line):
        _called(submit, commit_generation, context, list(group))


def fold_lines(
    context: TaskContext, lines: Iterable[str], refold: bool = False, submit: Submit = on_task_runner
) -> dict[str, dict[str, Any]]:
    """Fold patterns, strategies and correlations of some lines; counts by line.

    Where an archive that the fold reads turns out to be lost, its window is consolidated again, which writes the
    archive again from what Redis holds or seals the window; then the fold goes on.
    """
    return {line: _folded(context, line, refold, submit) for line in lines}


def _folded(context: TaskContext, line: str, refold: bool, submit: Submit) -> dict[str, Any]:
    mended: set[Window] = set()
    while True:
        try:
            counts: dict[str, Any] = _called(submit, fold_knowledge, context, line, refold)
            return counts
        except LostArchiveError as error:
            if error.window in mended:
                raise
            mended.add(error.window)
            announce(f"{error.message} {error.window.name} is consolidated again")
            try:
                consolidate_window(context, error.window, submit)
            except SealedWindowError as sealed:
                announce(sealed.message)
