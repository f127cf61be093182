"""Publishing: bring Redis up to what the ledger holds of a knowledge line, in one step a line and group of kinds.

What Redis holds is noted in the ledger as a fold of its own, a *mark*: for each window a digest of what was projected
and from when on it was known, and with the last one the stamp of the line in Redis. Where the stamp that is found there
is another one, Redis is not what it was left as (it was emptied, or killed before its disk had all), and everything of
the line is published again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise

import msgspec

from memory import MemoryConnection
from memory.errors import StoreUnavailableError
from memory.ledger import Checkpoint, CurrentGeneration, EncoderRecord, FencingToken, Ledger
from memory.records import SemanticType
from memory.store.encoders import unpack_encoder
from memory.store.semantic import PublishReport, SemanticVersion
from memory.window import Window
from tasks import projections
from tasks.groups import FOLDS, KNOWLEDGE, PUBLISHED
from tasks.retry import retried
from tasks.runs import TaskContext
from tasks.workspace import Workspace


def generation_of(ledger: Ledger, line: str, window: Window, kinds: Collection[str]) -> CurrentGeneration:
    """The current generation of a consolidated window, with its summaries of some kinds."""
    generation = ledger.windows.current_generation(line, window, kinds)
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


def aliases_of(ledger: Ledger, line: str, window: Window | None = None) -> dict[str, str]:
    """Where each id that a pattern of a line had before leads after a window, or now: followed to its end."""
    # What the fold says (MERGED sorts first) is newer than what an earlier fold was founded as.
    leads: dict[str, str] = {}
    for alias in ledger.projections.aliases(line, window):
        leads.setdefault(alias.alias_id, alias.pattern_id)
    ends = {}
    for alias_id, end in sorted(leads.items()):
        seen = {alias_id}
        while end in leads and end not in seen:
            seen.add(end)
            end = leads[end]
        ends[alias_id] = end
    return ends


def versions_of(
    ledger: Ledger,
    line: str,
    kinds: Collection[SemanticType],
    times: Mapping[Window, datetime],
    since: datetime | None = None,
) -> Iterator[SemanticVersion]:
    """What the ledger holds of some kinds, as the changes that Redis is to hold: one memory after another, in time.

    Parameters
    ----------
    times
        When each window became known.
    since
        Only what became known then or later; everything where None.
    """
    wanted = [window for window in times if since is None or times[window] >= since]
    if not wanted:
        return
    for kind in sorted(kinds):
        for row in ledger.projections.versions(projections.ROWS[kind], line, first=min(wanted)):
            memory = None if row.payload is None else projections.from_payload(row.payload, line)
            yield SemanticVersion(kind, row.item_id, times[row.window], memory)


@dataclass(frozen=True, slots=True)
class PublicationPlan:
    """What of a line has to be published.

    Attributes
    ----------
    wanted
        For each folded window, in order, when it became known, and the digest of what it projects.
    first
        The first window to publish; None where Redis holds all.
    since
        Time from which Redis' past is replaced; None where all of it is.
    """

    wanted: Mapping[Window, tuple[datetime, str]]
    first: Window | None
    since: datetime | None


def plan_publication(workspace: Workspace, line: str, what: str, *, whole: bool) -> PublicationPlan:
    """Compare what is folded with what the ledger notes as published; everything is to be published with `whole`."""
    ledger = workspace.ledger
    times = known_times(workspace, line)
    folds = [
        {checkpoint.window: checkpoint.state_digest for checkpoint in ledger.folds.checkpoints(line, kind)}
        for kind in FOLDS[what]
    ]
    wanted = {
        window: (times[window], _digest([fold.get(window, "") for fold in folds], times[window]))
        for window in sorted(folds[0])
        if window in times
    }
    marks = {mark.window: mark.input_digest for mark in ledger.folds.checkpoints(line, PUBLISHED[what][0])}
    stale = [
        window
        for window in {*wanted, *marks}
        if whole or window not in wanted or marks.get(window) != wanted[window][1]
    ]
    first = min(stale, default=None)
    if first is None or whole or not marks:
        return PublicationPlan(wanted, first, None)
    # The window before may have become known after the first one to publish ended: it is published again.
    before = max((window for window in wanted if window < first), default=None)
    since = first.end if before is None else max(first.end, wanted[before][0])
    return PublicationPlan(wanted, first, since)


@retried()
def publish(context: TaskContext, line: str, what: str) -> dict[str, int]:
    """Bring Redis up to what the ledger holds of a line (`KNOWLEDGE` or `DYNAMICS`).

    Where Redis is not what it was left as, everything of the line is published again, the other group included, and its
    encoders are registered.
    """
    counts = {"added": 0, "closed": 0, "removed": 0}
    with context.open() as workspace:
        ledger, token = workspace.ledger, context.fencing_token
        marks = {group: ledger.folds.checkpoints(line, PUBLISHED[group][0]) for group in PUBLISHED}
        stamps = {found[-1].stamp for found in marks.values() if found}
        lost = bool(stamps) and stamps != {workspace.with_memory(lambda mem: mem.semantic.stamp(line))}
        if lost:
            leading = ledger.lines.current(token.namespace)
            kept = ledger.lines.encoders(token.namespace)
            workspace.with_memory(partial(register_encoders, kept, leading.encoder_id if leading else None))
        for group in PUBLISHED if lost else (what,):
            if group == what or marks[group]:
                plan = plan_publication(workspace, line, group, whole=lost)
                if plan.first is not None:
                    report = workspace.with_memory(partial(_send, ledger, token, line, group, plan))
                    _note(ledger, token, line, group, plan, report.stamp)
                    for name in counts:
                        counts[name] += getattr(report, name)
    return counts


async def register_encoders(kept: Iterable[EncoderRecord], current: str | None, mem: MemoryConnection) -> None:
    """Register encoders that the ledger keeps, and make one the current one where there is none."""
    for record in kept:
        await mem.encoders.restore(unpack_encoder(record.payload))
    if current is not None and await mem.encoders.current() is None:
        await mem.encoders.set_current(current)


async def _send(
    ledger: Ledger, token: FencingToken, line: str, what: str, plan: PublicationPlan, mem: MemoryConnection
) -> PublishReport:
    kinds = PUBLISHED[what][1]
    times = {window: time for window, (time, _) in plan.wanted.items()}
    horizon = None
    if times:
        horizon = max(times.values()) - timedelta(days=mem.settings.semantic_retention_days)
    since, expired = plan.since, await mem.semantic.horizon(line)
    if since is not None and expired is not None and since <= expired:
        # What is to be replaced is no longer there to be compared with: all is compared instead.
        since = None
    report = await mem.semantic.publish_versions(
        versions_of(ledger, line, kinds, times, since),
        line=line,
        kinds=kinds,
        token=token.value,
        since=since,
        horizon=horizon,
        aliases=aliases_of(ledger, line) if what == KNOWLEDGE else None,
        windows=dict.fromkeys(kinds, times),
        adopt=_is_live(ledger, token.namespace, line),
    )
    await mem.link.on_disk()
    if await mem.semantic.stamp(line) != report.stamp:
        raise StoreUnavailableError(
            f"Redis lost what was just published of {line}.", remedy="It was restarted in this moment: publish again."
        )
    return report


def _note(ledger: Ledger, token: FencingToken, line: str, what: str, plan: PublicationPlan, stamp: str) -> None:
    """Note in the ledger what Redis holds now; the stamp is the line's, so that the other group's mark has it too."""
    mark = PUBLISHED[what][0]
    if plan.first is None:
        return
    with ledger.transaction(token):
        ledger.folds.truncate_from(token, line, plan.first, mark)
        base = ledger.folds.load_state(line, mark, before=plan.first).checkpoint
        last = max(plan.wanted, default=None)
        for window, (_, digest) in plan.wanted.items():
            if window >= plan.first:
                base = ledger.folds.save_checkpoint(
                    token,
                    line,
                    mark,
                    window,
                    input_digest=digest,
                    base=base,
                    changed={},
                    stamp=stamp if window == last else None,
                )
        for other, (other_mark, _) in PUBLISHED.items():
            if other != what:
                _restamp(ledger, token, line, ledger.folds.checkpoints(line, other_mark), stamp)


def _restamp(ledger: Ledger, token: FencingToken, line: str, marks: Sequence[Checkpoint], stamp: str) -> None:
    """Leave a stamp with the last of some checkpoints, which stay as they are otherwise."""
    for before, last in pairwise([None, *marks][-2:]):
        if last is not None:
            ledger.folds.save_checkpoint(
                token,
                line,
                last.kind,
                last.window,
                input_digest=last.input_digest,
                base=before,
                changed={},
                counts=last.counts,
                stamp=stamp,
            )


def _is_live(ledger: Ledger, namespace: str, line: str) -> bool:
    return any(record.line == line and record.state == "LIVE" for record in ledger.lines.list(namespace))


def _digest(states: Sequence[str], known: datetime) -> str:
    """Names what is projected for a window: the states of its folds, and from when on it is known."""
    return hashlib.sha256(msgspec.json.encode((states, known.isoformat()))).hexdigest()
