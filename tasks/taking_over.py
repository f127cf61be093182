"""How a knowledge line takes over: in the ledger first, then in Redis in one step, and what was killed in between."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any

from memory import MemoryConnection
from memory.ledger import FencingToken, Ledger, LineRecord
from tasks.lines import LinePlan, derived_from
from tasks.publishing import known_times
from tasks.retry import retried
from tasks.runs import TaskContext

RETIRED = "RETIRED"


@retried()
def take_over(context: TaskContext, plan: LinePlan, current_from: datetime | None) -> dict[str, Any]:
    """Let a line that is folded and published answer from now on: in the ledger first, then in Redis in one step.

    Killed between the two, running it again completes it, and so does the next consolidation (`finish_take_over`).
    Questions as of earlier than `current_from` are answered by the line before it, which stays as it is.

    Parameters
    ----------
    current_from
        From when on; None for when the newest window of the line became known.

    Raises
    ------
    LineError
        The line before became current later than that, or the line was replaced before.
    """
    token = context.fencing_token
    with context.open() as workspace:
        ledger = workspace.ledger
        since = current_from or max(known_times(workspace, plan.line).values())
        ledger.lines.activate(token, plan.line, current_from=since)
        record = next(item for item in ledger.lines.list(context.namespace) if item.line == plan.line)
        reached = workspace.with_memory(partial(_switch, record, record.current_from or since, plan.of, context.token))
        retired = _retire(ledger, token, record)
        return {
            "current_from": (record.current_from or since).isoformat(),
            "encoder_is_current": reached,
            "retired": retired,
        }


@retried()
def finish_take_over(context: TaskContext) -> list[str]:
    """Complete what a run left half done that was killed while a line took over: Redis follows the ledger.

    The ledger is told first, so it knows which line is to be read. To be called when the lines are published: a line
    of which Redis holds nothing does not take over. Changes nothing where all is done; some milliseconds.

    Returns
    -------
    list of str
        The lines whose take-over was completed, by name.
    """
    with context.open() as workspace:
        ledger, completed = workspace.ledger, []
        for record, since in _leading_lines(ledger, context.namespace):
            read, is_published = workspace.with_memory(partial(_read_in_redis, record))
            if read != record.line:
                if not is_published:
                    continue
                of = derived_from(ledger, context.namespace, record.encoder_id) or record.encoder_id
                workspace.with_memory(partial(_switch, record, since, of, context.token))
            if _retire(ledger, context.fencing_token, record) or read != record.line:
                completed.append(record.line)
        return completed


def _leading_lines(ledger: Ledger, namespace: str) -> list[tuple[LineRecord, datetime]]:
    """The line of each encoder that took over last, and since when it is read; by encoder, without first lines."""
    records = {record.line: record for record in ledger.lines.list(namespace)}
    last = {records[line].encoder_id: (records[line], since) for line, since in ledger.lines.succession(namespace)}
    return [(record, since) for _, (record, since) in sorted(last.items()) if since is not None]


async def _read_in_redis(record: LineRecord, mem: MemoryConnection) -> tuple[str | None, bool]:
    """The line that readers of a line's encoder ask, and whether that one is published."""
    read = await mem.semantic.current_line(record.encoder_id)
    return read, await mem.semantic.stamp(record.line) is not None


async def _switch(record: LineRecord, since: datetime, of: str, token: int, mem: MemoryConnection) -> bool:
    """Let a line take over in Redis; whether its encoder is the namespace's current one then.

    An encoder that holds no experiences yet would leave its readers without any, where the one that it learned from
    (`of`) has some: reindexing makes it the current one.
    """
    current = await mem.encoders.current()
    make_current = current != record.encoder_id and not await mem.episodic.count(encoder_id=of)
    await mem.semantic.take_over(
        record.line, record.encoder_id, current_from=since, token=token, make_current=make_current
    )
    await mem.link.on_disk()
    return make_current or current == record.encoder_id


def _retire(ledger: Ledger, token: FencingToken, leading: LineRecord) -> Sequence[str]:
    """Nothing more is fed to lines of the same encoder that were there before the one that replaces them."""
    replaced = [
        record.line
        for record in ledger.lines.list(token.namespace)
        if record.encoder_id == leading.encoder_id
        and record.line != leading.line
        and record.state != RETIRED
        and record.created_at <= leading.created_at
    ]
    for line in replaced:
        ledger.lines.set_state(token, line, RETIRED)
    return replaced
