"""Publishing: bring Redis up to what the ledger holds of a knowledge line, in one step."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from prefect import task
from prefect.cache_policies import NO_CACHE

from memory import MemoryConnection
from memory.ledger import CurrentGeneration, Ledger
from memory.records import SemanticType
from memory.store.semantic import Publication, PublishReport
from memory.window import Window
from tasks import projections
from tasks.retry import JITTER, RETRIES, RETRY_DELAYS_S, is_transient
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


def known_from(workspace: Workspace, window: Window, generation: CurrentGeneration) -> datetime:
    """When the knowledge of a window counts as known: its end, or later where an input or publication was."""
    known_at = generation.generation.counts.get("known_at")
    latest = window.end if known_at is None else max(window.end, datetime.fromisoformat(known_at))
    return latest + timedelta(seconds=workspace.settings.publication_lag_s)


@task(
    cache_policy=NO_CACHE,
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAYS_S,
    retry_jitter_factor=JITTER,
    retry_condition_fn=is_transient,
)
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
        publications = [
            Publication(
                known_from(workspace, window, generation_of(ledger, line, window)),
                projections.memories_as_of(ledger, line, window, kinds),
            )
            for window in sorted(windows)
            if window >= first
        ]

        async def send(mem: MemoryConnection) -> PublishReport:
            return await mem.semantic.publish_history(
                publications,
                line=line,
                kinds=kinds,
                token=token.value,
                since=first.end,
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
