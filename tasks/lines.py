"""Knowledge lines that begin while others are read: learning everything again, and the step in which they take over.

A line is one encoder and one version of the algorithm. A new one re-consolidates all windows from the archive while the
line before it goes on answering; when it lacks none, it takes over in one step (`tasks.taking_over`).
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from agents.catalogue import FEATURES, QUOTE_FEATURES
from agents.encoder import StateEncoder
from memory import MemoryConnection
from memory.errors import ArchiveError, LineError
from memory.learning import ALGORITHM_VERSION
from memory.ledger import ArchiveReference, ArchiveWriter, FencingToken, Ledger, WindowJoin, WindowStatus, line_id
from memory.store.encoders import pack_encoder
from memory.tables import StateTable, WindowData
from memory.window import Window
from tasks.consolidation import Part, part_of
from tasks.markets import open_encoder
from tasks.recording import register_encoder
from tasks.reindexing import encoding
from tasks.retry import may_pass, retried
from tasks.runs import TaskContext
from tasks.window_input import ArchivedInput
from tasks.workspace import Workspace, open_workspace

BUILDING = "BUILDING"


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
            of = derived_from(ledger, namespace, fitted.id_)
        of = of or leading.encoder_id
        _refuse_beside_the_succession(ledger, namespace, of, encoder if fitted is None else fitted.id_)
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


def _refuse_beside_the_succession(ledger: Ledger, namespace: str, of: str, encoder_id: str | None) -> None:
    """Only lines of the namespace's own encoders are replaced: a line that takes over leads the namespace.

    Raises
    ------
    LineError
        The line is of an encoder that was only recorded beside the namespace's own, such as a second market's.
    """
    encoders = {record.line: record.encoder_id for record in ledger.lines.list(namespace)}
    leading = [encoders[line] for line, _ in ledger.lines.succession(namespace)]
    if of in encoders.values() and not {of, encoder_id} & set(leading):
        raise LineError(
            f"the windows of encoder {of!r} lie in namespace {namespace!r} beside those of {leading[-1]!r}: a line "
            "made of them would take the whole namespace over.",
            remedy="Record that market into a namespace of its own (COINSWARM_NAMESPACE) and start the line there.",
        )


def derived_from(ledger: Ledger, namespace: str, encoder_id: str) -> str | None:
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

    Memory: one product's states and experiences, old and new, and a row group.
    """
    if plan.encoder is None:
        raise RuntimeError(f"{plan.line} keeps its encoder")
    encoder, token = StateEncoder.from_json(plan.encoder), context.fencing_token
    parts, left_out = [], 0
    with context.open() as workspace:
        ledger = workspace.ledger
        held = {found.source: found for found in ledger.windows.archives(context.namespace, window, plan.encoder_id)}
        for reference in ledger.windows.archives(context.namespace, window, plan.of):
            with workspace.archive.writer(
                context.namespace, window, plan.encoder_id, reference.source, derived_from=plan.of
            ) as writer:
                encoded = _encode_archive(workspace, encoder, reference, held.get(reference.source), writer)
            left_out += reference.states.rows - encoded.states
            if encoded.written is None:
                continue
            ledger.windows.save_archive(token, encoded.written)
            counts = writer.counts
            parts.append(
                part_of(
                    ArchivedInput(
                        plan.line,
                        encoded.written,
                        counts.recorded_at_ms,
                        counts.known_at_ms,
                        counts.states_by_regime,
                    )
                )
            )
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


@dataclass(frozen=True, slots=True)
class _Encoded:
    """What became of an archive: the states that could be encoded, and where they lie; None where there were none."""

    states: int
    written: ArchiveReference | None


def _encode_archive(
    workspace: Workspace,
    encoder: StateEncoder,
    reference: ArchiveReference,
    held: ArchiveReference | None,
    writer: ArchiveWriter,
) -> _Encoded:
    """Encode one source of a window product by product, joined with what the new encoder's archive holds already."""
    encoded = 0
    with ExitStack() as opened:
        join = _begun(workspace, held, writer, opened)
        for part in opened.enter_context(closing(workspace.archive.parts(reference))):
            data = encoded_anew(part, encoder)
            encoded += len(data.states)
            join.append(data)
        return _Encoded(encoded, join.close() if encoded else None)


def _begun(workspace: Workspace, held: ArchiveReference | None, writer: ArchiveWriter, opened: ExitStack) -> WindowJoin:
    """A join with what was archived under the new encoder before: recorded with it, or encoded from an earlier archive.

    One that was encoded, and is lost, is encoded again; one that was recorded cannot be had again.
    """
    if held is None:
        return WindowJoin(writer)
    try:
        return WindowJoin(writer, opened.enter_context(closing(workspace.archive.parts(held))))
    except ArchiveError as error:
        if may_pass(error) or held.derived_from is None:
            raise
        return WindowJoin(writer)
