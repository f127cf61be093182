"""What Redis is to hold of a namespace's knowledge, by the ledger alone: now or as of a time, under any name.

Rebuilding publishes it, and verifying compares with it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from memory.errors import LineError
from memory.ledger import EncoderRecord, Ledger, LineRecord
from memory.records import SemanticType
from memory.store.published_windows import PublishedWindows
from memory.store.semantic import SemanticVersion
from memory.window import Window
from tasks.groups import PUBLISHED
from tasks.publishing import aliases_of, plan_publication, versions_of
from tasks.workspace import Workspace

BUILDING = "BUILDING"
ALL_KINDS: tuple[SemanticType, ...] = tuple(sorted(SemanticType))


@dataclass(frozen=True, slots=True)
class ProjectedLine:
    """What Redis is to hold of one knowledge line.

    Attributes
    ----------
    line
        Its name in the ledger.
    name
        Its name in Redis: the same, but for the namespace where it is projected into another one.
    encoder_id
        Encoder of its vectors.
    times
        When each of its windows became known, in order.
    published
        By kind, when each window that it is projected through became known; of those that were known by `until`.
    until
        Time as of which it is projected; None for now.
    horizon
        Versions that ended by then are not kept; None keeps all.
    aliases
        Ids that memories had before, with those that they have.
    stamp
        Stamp that the ledger notes for what was published last; None where it notes none.
    unpublished
        First window that is folded and not noted as published; None where there is none.
    """

    line: str
    name: str
    encoder_id: str
    times: Mapping[Window, datetime]
    published: PublishedWindows
    until: datetime | None
    horizon: datetime | None
    aliases: Mapping[str, str]
    stamp: str | None
    unpublished: Window | None

    @property
    def windows(self) -> list[Window]:
        """The windows that are projected, in order."""
        return [window for window, known in self.times.items() if self.until is None or known <= self.until]

    def versions(self, ledger: Ledger, kinds: Collection[SemanticType] = ALL_KINDS) -> Iterator[SemanticVersion]:
        """Everything that happened to its memories, memory by memory; read from the ledger as it is consumed."""
        for version in versions_of(ledger, self.line, kinds, self.times):
            if self.until is None or version.valid_from <= self.until:
                if version.memory is not None:
                    version.memory.line = self.name
                yield version


@dataclass(frozen=True, slots=True)
class ProjectedKnowledge:
    """What Redis is to hold of a namespace.

    Attributes
    ----------
    lines
        Its knowledge lines, by name.
    successions
        By encoder, the lines that are and were read for it, first one first, each after the time from which on it was
        read (None: always). The last one is read now.
    encoders
        The encoders of the lines, as the ledger keeps them, by id.
    current_encoder
        Encoder of the line that leads the namespace; None where there is none.
    """

    lines: tuple[ProjectedLine, ...]
    successions: Mapping[str, tuple[tuple[datetime | None, str], ...]]
    encoders: Mapping[str, EncoderRecord]
    current_encoder: str | None


def project(
    workspace: Workspace,
    *,
    as_of: datetime | None = None,
    into: str | None = None,
    names: Sequence[str] | None = None,
) -> ProjectedKnowledge:
    """What Redis is to hold, by the ledger of a workspace's namespace.

    Parameters
    ----------
    as_of
        Only what was known then, and the lines that were read then; everything where None.
    into
        Namespace under whose name it is held, where that is another one. All of the past is kept there.
    names
        Lines to project, by their names in the ledger; all where None.

    Raises
    ------
    LineError
        The ledger knows no line of a name.
    """
    ledger, namespace = workspace.ledger, workspace.namespace
    records = {record.line: record for record in ledger.lines.list(namespace)}
    unknown = sorted(set(names or ()) - records.keys())
    if unknown:
        raise LineError(
            f"namespace {namespace!r} has no knowledge line {unknown[0]!r}.",
            remedy=f"It has {', '.join(records) or 'none'}.",
        )
    chosen = [records[name] for name in sorted(records) if names is None or name in names]
    successions = _successions(ledger, namespace, chosen, as_of)
    if as_of is not None:
        read = {line for succession in successions.values() for _, line in succession}
        chosen = [record for record in chosen if record.line in read]
    lines = [_line(workspace, record, as_of, into) for record in chosen]
    kept = {record.encoder_id: record for record in ledger.lines.encoders(namespace)}
    used = sorted({line.encoder_id for line in lines})
    leading = ledger.lines.current(namespace, as_of)
    return ProjectedKnowledge(
        lines=tuple(line for line in lines if line.windows),
        successions={
            encoder_id: tuple((since, renamed(line, into)) for since, line in succession)
            for encoder_id, succession in successions.items()
        },
        encoders={encoder_id: kept[encoder_id] for encoder_id in used if encoder_id in kept},
        current_encoder=leading.encoder_id if leading is not None and leading.encoder_id in used else None,
    )


def of_namespace(workspace: Workspace, namespace: str) -> Workspace:
    """Another namespace on the same servers."""
    return replace(workspace, settings=workspace.settings.model_copy(update={"namespace": namespace}))


def renamed(line: str, into: str | None) -> str:
    """Name of a line in a namespace; its own where `into` is None."""
    return line if into is None else f"{into}/{line.partition('/')[2]}"


def _successions(
    ledger: Ledger, namespace: str, records: Sequence[LineRecord], as_of: datetime | None
) -> dict[str, tuple[tuple[datetime | None, str], ...]]:
    """By encoder, the lines that are and were read for it.

    The namespace's succession has the lines that took over from others. Beside them, the first line of an encoder that
    never led the namespace (a second market's) is read for it from the beginning.
    """
    wanted = {record.line: record for record in sorted(records, key=lambda record: (record.created_at, record.line))}
    found: dict[str, list[tuple[datetime | None, str]]] = {}
    for line, record in wanted.items():
        if record.activation is None and record.state != BUILDING:
            found.setdefault(record.encoder_id, [(None, line)])
    for line, since in ledger.lines.succession(namespace):
        if line in wanted and (as_of is None or since is None or since <= as_of):
            found.setdefault(wanted[line].encoder_id, []).append((since, line))
    # Whatever came before an encoder's first line, that line answers.
    return {encoder_id: ((None, succession[0][1]), *succession[1:]) for encoder_id, succession in sorted(found.items())}


def _line(workspace: Workspace, record: LineRecord, as_of: datetime | None, into: str | None) -> ProjectedLine:
    ledger, line = workspace.ledger, record.line
    plans = [plan_publication(workspace, line, what, whole=False) for what in PUBLISHED]
    folded = {window: time for plan in plans for window, (time, _) in plan.wanted.items()}
    published = {
        kind: {window: time for window, (time, _) in plan.wanted.items() if as_of is None or time <= as_of}
        for plan, (_, kinds) in zip(plans, PUBLISHED.values(), strict=True)
        for kind in sorted(kinds)
    }
    known = {window: folded[window] for window in sorted(folded) if as_of is None or folded[window] <= as_of}
    horizon = None
    if known and into is None:
        horizon = max(known.values()) - timedelta(days=workspace.settings.semantic_retention_days)
    marks = [mark for mark_name, _ in PUBLISHED.values() for mark in ledger.folds.checkpoints(line, mark_name)[-1:]]
    return ProjectedLine(
        line=line,
        name=renamed(line, into),
        encoder_id=record.encoder_id,
        times=dict(sorted(folded.items())),
        published=published,
        until=as_of,
        horizon=horizon,
        aliases=aliases_of(ledger, line, max(known)) if known else {},
        stamp=next((mark.stamp for mark in marks if mark.stamp is not None), None),
        unpublished=min((plan.first for plan in plans if plan.first is not None), default=None),
    )
