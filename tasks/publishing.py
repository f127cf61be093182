"""Publishing: bring Redis up to what the ledger holds of a knowledge line, in one step."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from memory import MemoryConnection
from memory.ledger import CurrentGeneration, Ledger
from memory.records import SemanticType
from memory.store.semantic import Publication, PublishReport
from memory.window import Window
from tasks import projections
from tasks.retry import retried
from tasks.runs import TaskContext
from tasks.workspace import Workspace, open_workspace

KNOWLEDGE = "knowledge"
DYNAMICS = "dynamics"
PUBLISHED: Mapping[str, tuple[str, frozenset[SemanticType]]] = {
    KNOWLEDGE: (
        "published-knowledge",
        frozenset({SemanticType.PATTERN, SemanticType.STRATEGY, SemanticType.CORRELATION}),
    ),
    DYNAMICS: ("published-dynamics", frozenset({SemanticType.REGIME})),
}
"""What is published together, with the fold kind under which the ledger notes which windows Redis holds."""


def generation_of(ledger: Ledger, line: str, window: Window) -> CurrentGeneration:
    """The current generation of a consolidated window."""
    generation = ledger.windows.current_generation(line, window)
    if generation is None:
        raise RuntimeError(f"{window.name} has no generation in {line}")
    return generation


def known_times(workspace: Workspace, line: str) -> dict[Window, datetime]:
    """When what was learned up to each consolidated window of a line counts as known, in order.

    That is the window's end, or later where an input was or publication is. The fold of a window holds the windows
    before it too, so an input that came late holds back all that follows: times never decrease.
    """
    lag = timedelta(seconds=workspace.settings.publication_lag_s)
    times: dict[Window, datetime] = {}
    latest = datetime.min.replace(tzinfo=UTC)
    for status in workspace.ledger.windows.list(line):
        if status.generation is not None:
            known_at = status.counts.get("known_at")
            latest = max(latest, status.window.end)
            latest = latest if known_at is None else max(latest, datetime.fromisoformat(known_at))
            times[status.window] = latest + lag
    return times


@retried()
def publish(context: TaskContext, line: str, what: str) -> dict[str, int]:
    """Bring Redis up to what the ledger holds of a line (`KNOWLEDGE` or `DYNAMICS`), in one step."""
    mark, kinds = PUBLISHED[what]
    with open_workspace(context.namespace) as workspace:
        ledger, token = workspace.ledger, context.fencing_token
        windows = dict(ledger.windows.with_current(line))

        async def is_empty(mem: MemoryConnection) -> bool:
            counts = await mem.semantic.counts(line=line)
            return not any(counts[kind.value] for kind in kinds)

        first = min(windows) if workspace.with_memory(is_empty) else ledger.folds.first_stale(line, [mark])
        if first is None:
            return {"added": 0, "closed": 0, "removed": 0}
        times = known_times(workspace, line)
        # The window before may have become known after the first one to publish ended: it is published again.
        before = max((window for window in windows if window < first), default=None)
        since = first.end if before is None else max(first.end, times[before])
        publications = [
            Publication(times[window], projections.memories_as_of(ledger, line, window, kinds))
            for window in sorted(windows)
            if times[window] >= since
        ]

        async def send(mem: MemoryConnection) -> PublishReport:
            return await mem.semantic.publish_history(
                publications,
                line=line,
                kinds=kinds,
                token=token.value,
                since=since,
            )

        report = workspace.with_memory(send)
        with ledger.transaction(token):
            ledger.folds.truncate_from(token, line, first, mark)
            base = ledger.folds.load_state(line, mark, before=first).checkpoint
            for window in sorted(windows):
                if window >= first:
                    base = ledger.folds.save_checkpoint(
                        token, line, mark, window, input_digest=windows[window], base=base, changed={}
                    )
        return {"added": report.added, "closed": report.closed, "removed": report.removed}
