"""Consolidation up to the generation: read and archive a window, summarise its parts, commit them.

Every task can be run again: what is staged already from the same input is not computed twice, and the ledger refuses
what a run writes after it was overtaken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, TypeVar

import numpy as np
from prefect.client.schemas.objects import State
from prefect.states import Completed

from memory.errors import WindowError
from memory.learning import serial
from memory.learning.clustering import MarketStateClusterer
from memory.learning.packed_correlations import PackedCorrelations, pack_window
from memory.learning.partitions import partition_by_regime
from memory.learning.quality import QUALITY, summarise_quality
from memory.learning.settings import LearningSettings
from memory.learning.strategies import summarise_strategies
from memory.learning.summaries import PartitionSummary, partition_key, summarise_partition
from memory.learning.transitions import summarise_transitions
from memory.ledger import ArchiveReference, ClusterRow, Ledger, ManifestEntry
from memory.records import MIXED, REGIMES, from_ms
from memory.window import Window
from tasks.learning import learning_of
from tasks.part_reading import PartReader, read_partition, summarise_regimes_of
from tasks.retry import retried
from tasks.runs import TaskContext
from tasks.window_input import ArchivedInput, archive_inputs
from tasks.workspace import Workspace

Value = TypeVar("Value")

PATTERNS = "patterns"
TRANSITIONS = "transitions"
REGIME_STATES = "regimes"
STRATEGIES = "strategies"
CORRELATIONS = "correlations"
SEQUENCES = (TRANSITIONS, REGIME_STATES, STRATEGIES, CORRELATIONS, QUALITY)
"""What is summarised of a whole window beside the patterns."""


@dataclass(frozen=True, slots=True)
class Part:
    """One encoder and source of a window, archived.

    Attributes
    ----------
    line
        Knowledge line that it belongs to.
    window
        Name of the window.
    content_digest
        Digest of what was lived through: the input of all its summaries.
    recorded_cut_ms, known_at_ms
        Latest time of recording among what was read, whether or not it was archived before; latest time at which
        something in it became known.
    partitions
        Regimes (or MIXED) with at least one state, in order.
    """

    line: str
    window: str
    encoder_id: str
    source: str
    content_digest: str
    recorded_cut_ms: int
    known_at_ms: int
    states: int
    experiences: int
    partitions: tuple[str, ...]

    def log_fields(self) -> dict[str, str]:
        """What the log lines of work on it are about."""
        return {"window": self.window, "partition": self.source}

    def as_window(self) -> Window:
        """The window that it is a part of."""
        return Window.of_date(date.fromisoformat(self.window))


def learning_settings(workspace: Workspace) -> LearningSettings:
    """Settings of patterns, from those of the process."""
    return learning_of(workspace.settings).patterns


@retried(run_name="archive-{window.name}")
def archive_window(context: TaskContext, window: Window) -> list[Part]:
    """Read a window from Redis, join what was archived of it before, and archive the whole.

    An archive that was lost or damaged is written again where Redis holds the window whole. Where it does not, the
    window is sealed: noted so in the ledger, in each line that consolidated it, and refused.

    Raises
    ------
    WindowError
        The window holds no experience.
    SealedWindowError
        What was consolidated before is no longer to be had in full.
    ArchiveError
        The archive cannot be reached or written to.

    Memory: that of a part of the window, however large it is; see `window_input.archive_inputs`.
    """
    with context.open() as workspace:
        found = archive_inputs(workspace, context.fencing_token, window)
        if not found:
            raise WindowError(
                f"window {window.name} of namespace '{context.namespace}' holds no experience.",
                remedy=f"Record it first, such as with 'coinswarm run record_experiences --date {window.name} "
                "--param source=market', or choose another date.",
            )
        # A line that was replaced stays as it was; what it would be fed with is archived all the same.
        retired = {
            record.line for record in workspace.ledger.lines.list(context.namespace) if record.state == "RETIRED"
        }
    return [part_of(archived) for archived in found if archived.line not in retired]


@retried(run_name="summarise-{part.window}-{part.source}-{regime}")
def summarise_patterns(context: TaskContext, part: Part, regime: str) -> dict[str, int] | State[dict[str, int]]:
    """Cluster one partition and stage its summary; counts of states, noise and clusters.

    Where it is staged already from the same input with the same settings, nothing is computed, and the task ends in the
    state `Cached`.
    """
    window, learning = part.as_window(), context.settings()
    with context.open() as workspace:
        clusterer = MarketStateClusterer()
        key = partition_key(part.encoder_id, part.source, regime)
        staged = workspace.ledger.staging.find(
            part.line,
            window,
            kind=PATTERNS,
            partition_key=key,
            input_digest=part.content_digest,
            settings_hash=learning.patterns_hash,
        )
        is_found = staged is not None
        if staged is None:
            archive, reference = workspace.archive, _reference(workspace, window, part)
            states, outcomes = read_partition(archive, reference, regime, learning.patterns)
            clusterer.fit(states.vectors, timestamps_ms=states.timestamp_ms)
            summary = summarise_partition(
                states,
                np.arange(len(states)),
                clusterer.labels_,
                clusterer.broad_,
                window=window,
                regime=regime,
                settings=learning.patterns,
                experiences=archive.experiences(reference, of=states),
                outcomes=outcomes,
                route=clusterer.route_,
                clustering=clusterer.settings(),
            )
            staged = workspace.ledger.staging.stage(
                context.fencing_token,
                part.line,
                window,
                kind=PATTERNS,
                partition_key=key,
                input_digest=part.content_digest,
                settings_hash=learning.patterns_hash,
                payload=serial.encode(summary),
                columns={"noise": summary.noise, **clusterer.record()},
                clusters=_cluster_rows(summary),
            )
        counts = {name: int(staged.columns[name]) for name in ("states", "noise", "clusters")}
        if is_found:
            return _cached(counts, f"{counts['states']} states were clustered before: {counts['clusters']} clusters.")
        return counts


@retried(run_name="summarise-{part.window}-{part.source}-sequences")
def summarise_sequences(context: TaskContext, part: Part) -> int | State[int]:
    """Stage what a window says of transitions, regimes, strategies, correlations and the quality of experiences.

    What is staged already from the same input with the same settings is left as it is. How many were missing; where
    none was, the task ends in the state `Cached`.
    """
    window, learning = part.as_window(), context.settings()
    kinds: Mapping[str, Callable[[PartReader], Any]] = {
        TRANSITIONS: lambda reader: summarise_transitions(reader.states(), learning.transitions),
        REGIME_STATES: lambda reader: summarise_regimes_of(reader, window, learning.patterns),
        CORRELATIONS: lambda reader: pack_window(reader.states(), window, learning.correlations),
        STRATEGIES: lambda reader: summarise_strategies(reader.experiences(), window, learning.patterns),
        QUALITY: lambda reader: summarise_quality(reader.experiences(), window),
    }
    with context.open() as workspace:
        staging = workspace.ledger.staging
        missing = [
            kind
            for kind in kinds
            if staging.find_head(
                part.line,
                window,
                kind=kind,
                partition_key=part.source,
                input_digest=part.content_digest,
                settings_hash=learning.sequences_hash,
            )
            is None
        ]
        if not missing:
            return _cached(0, f"{', '.join(kinds)} were summarised before.")
        reader = PartReader(workspace.archive, _reference(workspace, window, part))
        for kind in missing:
            staging.stage(
                context.fencing_token,
                part.line,
                window,
                kind=kind,
                partition_key=part.source,
                input_digest=part.content_digest,
                settings_hash=learning.sequences_hash,
                payload=_payload(kinds[kind](reader)),
            )
        return len(missing)


def _cached(value: Value, what: str) -> State[Value]:
    """The end of a task that found its work done: named as Prefect names it, so that the UI shows what was not redone.

    Prefect's own cache is not asked (`tasks.retry.retried`): the ledger knows what is done.
    """
    return Completed(name="Cached", message=what, data=value)


def _payload(summary: Any) -> bytes:
    return summary.data if isinstance(summary, PackedCorrelations) else serial.encode(summary)


@retried()
def commit_generation(context: TaskContext, parts: list[Part]) -> int:
    """Make the staged summaries of one line and window its current generation; returns its number.

    With a window's first generation goes the snapshot of how often memories were read before its end: pruning takes
    it as an input, whenever the window is folded.
    """
    window, line, learning = parts[0].as_window(), parts[0].line, context.settings()
    with context.open() as workspace:
        ledger, token = workspace.ledger, context.fencing_token
        references = {
            reference.source: reference
            for reference in ledger.windows.archives(context.namespace, window, parts[0].encoder_id)
        }
        accesses = accesses_before(workspace, window, learning.patterns.access_days)
        with ledger.transaction(token):
            ledger.access.save(token, line, window, accesses)
            generation = ledger.windows.commit_generation(
                token,
                line,
                window,
                settings_hash=learning.digest,
                entries=[entry for part in parts for entry in _entries(context, ledger, part)],
                archives=[references[part.source] for part in parts],
                recorded_cut=from_ms(max(part.recorded_cut_ms for part in parts)),
                counts={
                    "experiences": sum(part.experiences for part in parts),
                    "states": sum(part.states for part in parts),
                    "known_at": from_ms(max(part.known_at_ms for part in parts)).isoformat(),
                },
            )
        return generation.number


def accesses_before(workspace: Workspace, window: Window, days: int) -> dict[str, int]:
    """How often each memory of the namespace was read in the days before a window's end: all of them, by id.

    The first line that consolidates a window settles it for all lines: what is kept of the window is returned, else
    Redis' counters as they are now. No id is left out because nothing is known of it yet: windows come in any order.
    """
    kept = workspace.ledger.access.of_namespace(workspace.namespace, window)
    if kept is not None:
        return kept
    return workspace.with_memory(lambda mem: mem.access.all_counts(window.end, days))


def _entries(context: TaskContext, ledger: Ledger, part: Part) -> list[ManifestEntry]:
    """What a part brings into the manifest: all its partitions, the empty ones included, and all its sequences."""
    window, learning = part.as_window(), context.settings()
    wanted = [
        (
            PATTERNS,
            partition_key(part.encoder_id, part.source, regime),
            learning.patterns_hash,
            regime in part.partitions,
        )
        for regime in (*REGIMES, MIXED)
    ]
    wanted += [(kind, part.source, learning.sequences_hash, True) for kind in SEQUENCES]
    entries = []
    for kind, key, hashed, present in wanted:
        staged = None
        if present:
            staged = ledger.staging.find_head(
                part.line,
                window,
                kind=kind,
                partition_key=key,
                input_digest=part.content_digest,
                settings_hash=hashed,
            )
            if staged is None:
                raise RuntimeError(f"{kind} {key} of {window.name} was to be staged before the commit")
        entries.append(ManifestEntry(kind=kind, partition_key=key, digest=staged.digest if staged else None))
    return entries


def part_of(archived: ArchivedInput) -> Part:
    """What there is to summarise of an archived window."""
    reference = archived.reference
    present = set(partition_by_regime(archived.states_by_regime).values())
    return Part(
        line=archived.line,
        window=reference.window.name,
        encoder_id=reference.encoder_id,
        source=reference.source,
        content_digest=reference.content_digest,
        recorded_cut_ms=archived.recorded_cut_ms,
        known_at_ms=archived.known_at_ms,
        states=reference.states.rows,
        experiences=reference.experiences.rows,
        partitions=tuple(regime for regime in (*REGIMES, MIXED) if regime in present),
    )


def _reference(workspace: Workspace, window: Window, part: Part) -> ArchiveReference:
    for reference in workspace.ledger.windows.archives(workspace.namespace, window, part.encoder_id):
        if reference.source == part.source and reference.content_digest == part.content_digest:
            return reference
    raise RuntimeError(f"{part.source} of {window.name} was archived, but its newest archive has other content")


def _cluster_rows(summary: PartitionSummary) -> list[ClusterRow]:
    return [
        ClusterRow(
            cluster=cluster.label,
            states=cluster.states,
            support=cluster.occurrences.count,
            broad=cluster.broad,
            member_digest=cluster.founding_id,
        )
        for cluster in summary.clusters
    ]
