"""Knowledge lines that begin while others are read: learning everything again, and the step in which they take over.

A line is one encoder and one version of the algorithm. A new one re-consolidates all windows from the archive while the
line before it goes on answering; when it lacks none, it takes over in one step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np

from agents.catalogue import FEATURES, QUOTE_FEATURES
from agents.encoder import StateEncoder
from memory import MemoryConnection
from memory.errors import ArchiveError, LineError
from memory.learning import ALGORITHM_VERSION
from memory.ledger import ArchiveReference, FencingToken, Ledger, WindowStatus, line_id, merge
from memory.records import MIXED, REGIMES
from memory.store.encoders import pack_encoder
from memory.tables import StateTable, WindowData
from memory.window import Window
from tasks.consolidation import Part, partitions_of
from tasks.markets import open_encoder
from tasks.publishing import known_times
from tasks.recording import register_encoder
from tasks.reindexing import encoding
from tasks.retry import may_pass, retried
from tasks.runs import TaskContext
from tasks.workspace import Workspace, open_workspace

BUILDING, RETIRED = "BUILDING", "RETIRED"


@dataclass(frozen=True, slots=True)
class LinePlan:
    """A line that is to take over: small plain values.

    Attributes
    ----------
    line, encoder_id
        The line, and its encoder.
    before
        The line that is read for the windows' encoder now.
    of
        Encoder whose archived windows it learns from; another than its own where they are encoded again.
    encoder
        The new encoder as text; None where the encoder stays.
    newest
        The newest archived window.
    """

    line: str
    encoder_id: str
    before: str
    of: str
    encoder: str | None
    newest: Window


@dataclass(frozen=True, slots=True)
class Missing:
    """Windows that a line still lacks, in order, and those that it will never have.

    Attributes
    ----------
    windows
        To be learned.
    too_early
        They begin before the end of the data that the encoder was fitted on.
    """

    windows: tuple[Window, ...]
    too_early: tuple[Window, ...]


def plan_line(namespace: str, encoder: str | None, of: str | None) -> LinePlan:
    """Which line is to be started, and from what.

    Parameters
    ----------
    encoder
        Id or file of a new encoder; None keeps the encoder, for another version of the algorithm.
    of
        Encoder whose windows are learned from. Where None, the one that a line with this encoder was begun from before,
        or that of the namespace's leading line.

    Raises
    ------
    LineError
        There is nothing to learn from, or the line that is asked for is read already.
    EncoderError
        No such encoder.
    """
    with open_workspace(namespace) as workspace:
        ledger = workspace.ledger
        leading = ledger.lines.current(namespace)
        if leading is None:
            raise LineError(
                f"namespace {namespace!r} has no knowledge line yet.",
                remedy="Consolidate a window: the first line begins by itself.",
            )
        fitted = None if encoder is None else open_encoder(encoder, "binance", workspace.settings)
        if of is None and fitted is not None:
            of = _derived_from(ledger, namespace, fitted.id_)
        of = of or leading.encoder_id
        windows = [span.window for span in ledger.windows.spans(namespace) if span.encoder_id == of]
        encoder_id = of if fitted is None else fitted.id_
        line = line_id(namespace, encoder_id, ALGORITHM_VERSION)
        before = workspace.with_memory(lambda mem: mem.semantic.current_line(of))
        if not windows or before is None:
            known = sorted({record.encoder_id for record in ledger.lines.list(namespace)})
            raise LineError(
                f"nothing was consolidated with encoder {of} in namespace {namespace!r}.",
                remedy=f"Choose one of {', '.join(known)}.",
            )
        if line == before:
            raise LineError(
                f"{line} is the line that is read already.",
                remedy="A new line begins with a new encoder (--param encoder=...), or with a newer version of the "
                "software whose algorithm is another one.",
            )
        return LinePlan(
            line=line,
            encoder_id=encoder_id,
            before=before,
            of=of,
            encoder=None if fitted is None or encoder_id == of else fitted.to_json(),
            newest=windows[-1],
        )


def _derived_from(ledger: Ledger, namespace: str, encoder_id: str) -> str | None:
    """Encoder whose archives were encoded again with another one before; None where none were."""
    for span in reversed(ledger.windows.spans(namespace)):
        if span.encoder_id == encoder_id:
            for found in ledger.windows.archives(namespace, span.window, encoder_id):
                if found.derived_from is not None:
                    return found.derived_from
    return None


@retried()
def begin_line(context: TaskContext, plan: LinePlan) -> None:
    """Create the line where there is none, unread as long as it is building, and register its encoder."""
    token = context.fencing_token
    with context.open() as workspace:
        ledger = workspace.ledger
        with ledger.transaction(token):
            known = {record.line for record in ledger.lines.list(context.namespace)}
            ledger.lines.ensure(token, plan.encoder_id, plan.line.rpartition("/")[2])
            if plan.line not in known:
                ledger.lines.set_state(token, plan.line, BUILDING)
        if plan.encoder is not None:
            _keep_encoder(workspace, ledger, token, StateEncoder.from_json(plan.encoder))


def _keep_encoder(workspace: Workspace, ledger: Ledger, token: FencingToken, encoder: StateEncoder) -> None:
    async def register(mem: MemoryConnection) -> Any:
        await register_encoder(mem, encoder)
        return await mem.encoders.get(encoder.id_)

    record = workspace.with_memory(register)
    ledger.lines.save_encoder(
        token,
        record.encoder_id,
        pack_encoder(record),
        dimension=record.dimension,
        fitted_until=record.fitted_until,
    )


@retried()
def find_missing(context: TaskContext, plan: LinePlan) -> Missing:
    """Windows that the line lacks, or has from other input or with other settings than now."""
    digest = context.settings().digest
    with context.open() as workspace:
        ledger = workspace.ledger
        spans = [span.window for span in ledger.windows.spans(context.namespace) if span.encoder_id == plan.of]
        held = {status.window: status for status in ledger.windows.list(plan.line) if status.generation is not None}
        fitted_until = None
        if plan.encoder is not None:
            fitted_until = StateEncoder.from_json(plan.encoder).fitted_until_
        too_early = [window for window in spans if fitted_until is not None and window.start < fitted_until]
        windows = [
            window
            for window in spans
            if window not in too_early
            and (_is_stale(held.get(window), digest) or _is_behind(ledger, context.namespace, plan, window))
        ]
    return Missing(tuple(windows), tuple(too_early))


def _is_stale(status: WindowStatus | None, digest: str) -> bool:
    return status is None or status.stale_since is not None or status.settings_hash != digest


def _is_behind(ledger: Ledger, namespace: str, plan: LinePlan, window: Window) -> bool:
    """Whether the windows' own encoder has archived experiences that the new one's archive does not have."""
    if plan.encoder is None:
        return False
    encoded = {found.source: found for found in ledger.windows.archives(namespace, window, plan.encoder_id)}
    return any(
        found.source not in encoded or found.experiences.rows > encoded[found.source].experiences.rows
        for found in ledger.windows.archives(namespace, window, plan.of)
    )


@retried(run_name="encode-{window.name}")
def encode_window(context: TaskContext, plan: LinePlan, window: Window) -> tuple[list[Part], int]:
    """Encode an archived window again, and archive it under the new encoder.

    Returns
    -------
    What there is to summarise of it, and how many states lack features that the encoder needs: they are left out.

    Raises
    ------
    ArchiveError
        The window's archive is lost, or cannot be reached.
    """
    if plan.encoder is None:
        raise RuntimeError(f"{plan.line} keeps its encoder")
    encoder, token = StateEncoder.from_json(plan.encoder), context.fencing_token
    parts, left_out = [], 0
    with context.open() as workspace:
        ledger = workspace.ledger
        held = {found.source: found for found in ledger.windows.archives(context.namespace, window, plan.encoder_id)}
        for reference in ledger.windows.archives(context.namespace, window, plan.of):
            archived = workspace.archive.read(reference)
            data = encoded_anew(archived, encoder)
            left_out += len(archived.states) - len(data.states)
            if not len(data.states):
                continue
            if reference.source in held:
                data = _joined(workspace, held[reference.source], data)
            written = workspace.archive.write(context.namespace, window, data, derived_from=plan.of)
            ledger.windows.save_archive(token, written)
            parts.append(_part(plan.line, written, data))
    return parts, left_out


def encoded_anew(data: WindowData, encoder: StateEncoder) -> WindowData:
    """A window's states and experiences with the vectors of another encoder, from the features that were archived.

    States without a feature that the encoder needs are left out, as reindexing refuses them; quotes that were not seen
    count as neutral.
    """
    states = data.states
    features = states.features.copy()
    for spec in FEATURES:
        if spec.name in states.feature_names and spec.name in QUOTE_FEATURES:
            column = features[:, states.feature_names.index(spec.name)]
            column[np.isnan(column)] = spec.neutral
    needed = [
        position for position, name in enumerate(states.feature_names) if name in {spec.name for spec in FEATURES}
    ]
    rows = np.flatnonzero(np.isfinite(features[:, needed]).all(axis=1))
    vectors = encoding(encoder)(states.feature_names, features[rows]) if len(rows) else states.vectors[:0]
    kept: StateTable = states.take(rows)
    return WindowData(
        replace(kept, encoder_id=encoder.id_, vectors=np.asarray(vectors, dtype=np.float32)),
        replace(data.experiences, encoder_id=encoder.id_),
    )


def _joined(workspace: Workspace, held: ArchiveReference, data: WindowData) -> WindowData:
    """With what was archived under the new encoder before: recorded with it, or encoded from an earlier archive."""
    try:
        return merge(workspace.archive.read(held), data)
    except ArchiveError as error:
        if may_pass(error) or held.derived_from is None:
            raise
        return data


def _part(line: str, reference: ArchiveReference, data: WindowData) -> Part:
    present = set(partitions_of(data.states).tolist())
    return Part(
        line=line,
        window=reference.window.name,
        encoder_id=reference.encoder_id,
        source=reference.source,
        content_digest=reference.content_digest,
        recorded_cut_ms=int(data.experiences.recorded_at_ms.max()),
        known_at_ms=int(data.experiences.known_at_ms.max()),
        states=len(data.states),
        experiences=len(data.experiences),
        partitions=tuple(regime for regime in (*REGIMES, MIXED) if regime in present),
    )


@retried()
def take_over(context: TaskContext, plan: LinePlan, current_from: datetime | None) -> dict[str, Any]:
    """Let a line that is folded and published answer from now on: in the ledger first, then in Redis in one step.

    Killed between the two, running it again completes it. Questions as of earlier than `current_from` are answered by
    the line before it, which stays as it is.

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
        since = record.current_from or since

        async def switch(mem: MemoryConnection) -> bool:
            # An encoder that holds no experiences yet would leave its readers without any: reindexing makes it the
            # current one.
            current = await mem.encoders.current()
            make_current = current != plan.encoder_id and not await mem.episodic.count(encoder_id=plan.of)
            await mem.semantic.take_over(
                plan.line, plan.encoder_id, current_from=since, token=context.token, make_current=make_current
            )
            await mem.link.on_disk()
            return make_current or current == plan.encoder_id

        reached = workspace.with_memory(switch)
        retired = _retire(ledger, token, plan)
        return {"current_from": since.isoformat(), "encoder_is_current": reached, "retired": retired}


def _retire(ledger: Ledger, token: FencingToken, plan: LinePlan) -> Sequence[str]:
    """Nothing more is fed to lines of the same encoder that this one replaces."""
    replaced = [
        record.line
        for record in ledger.lines.list(token.namespace)
        if record.encoder_id == plan.encoder_id and record.line != plan.line and record.state != RETIRED
    ]
    for line in replaced:
        ledger.lines.set_state(token, line, RETIRED)
    return replaced
