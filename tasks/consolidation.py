"""Consolidation up to the generation: read and archive a window, summarise its parts, commit them.

Every task can be run again: what is staged already from the same input is not computed twice, and the ledger refuses
what a run writes after it was overtaken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np

from memory.errors import ArchiveError, SealedWindowError, WindowError
from memory.learning import ALGORITHM_VERSION, serial
from memory.learning.clustering import MarketStateClusterer
from memory.learning.correlations import DEFAULT_SETTINGS as CORRELATION_SETTINGS
from memory.learning.correlations import summarise_correlations
from memory.learning.partitions import assign_partitions
from memory.learning.quality import DEFAULT_SETTINGS as QUALITY_SETTINGS
from memory.learning.quality import QUALITY_VERSION, summarise_quality
from memory.learning.regime_memory import summarise_regimes
from memory.learning.settings import LearningSettings, settings_hash
from memory.learning.strategies import summarise_strategies
from memory.learning.summaries import PartitionSummary, partition_key, summarise_partition
from memory.learning.transitions import DEFAULT_SETTINGS as TRANSITION_SETTINGS
from memory.learning.transitions import summarise_transitions
from memory.ledger import Archive, ArchiveReference, ClusterRow, Ledger, ManifestEntry, merge
from memory.records import MIXED, REGIMES, from_ms
from memory.store.windows import read_window_data
from memory.tables import StateTable, WindowData
from memory.window import Window
from tasks.lateness import archived_spans, mark_late_windows, windows_to_consolidate_again
from tasks.retry import retried
from tasks.runs import TaskContext
from tasks.workspace import Workspace, open_workspace

PATTERNS = "patterns"
TRANSITIONS = "transitions"
REGIME_STATES = "regimes"
STRATEGIES = "strategies"
CORRELATIONS = "correlations"
QUALITY = "quality"


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
    recorded_cut_ms
        Latest time of recording among what was read, whether or not it was archived before.
    partitions
        Regimes (or MIXED) with at least one state, in order.
    """

    line: str
    window: str
    encoder_id: str
    source: str
    content_digest: str
    recorded_cut_ms: int
    states: int
    experiences: int
    partitions: tuple[str, ...]

    def as_window(self) -> Window:
        """The window that it is a part of."""
        return Window.of_date(date.fromisoformat(self.window))


def sequence_hash(settings: LearningSettings) -> str:
    """Names the settings of everything that is summarised beside the patterns."""
    return settings_hash(settings, TRANSITION_SETTINGS, CORRELATION_SETTINGS, QUALITY_SETTINGS, QUALITY_VERSION)


def learning_settings(workspace: Workspace) -> LearningSettings:
    """Settings of learning, from those of the process."""
    return LearningSettings(cost_bp=workspace.settings.cost_bp)


@retried()
def archive_window(context: TaskContext, window: Window) -> list[Part]:
    """Read a window from Redis, join what was archived of it before, and archive the whole.

    Raises
    ------
    WindowError
        The window holds no experience.
    SealedWindowError
        What was consolidated before is no longer to be had in full.
    """
    token = context.fencing_token
    with open_workspace(context.namespace) as workspace:
        ledger = workspace.ledger
        found = workspace.with_memory(lambda mem: read_window_data(mem, window))
        parts = []
        for encoder_id in sorted({encoder for encoder, _ in found} | _archived_encoders(ledger, window, context)):
            line = ledger.lines.ensure(token, encoder_id, ALGORITHM_VERSION)
            fresh = {source: data for (encoder, source), data in found.items() if encoder == encoder_id}
            joined = _with_archived(workspace, window, encoder_id, fresh)
            for data in (joined[source] for source in sorted(joined)):
                reference = workspace.archive.write(context.namespace, window, data)
                ledger.windows.save_archive(token, reference)
                parts.append(_part(line, reference, data, fresh.get(reference.source, data)))
    if not parts:
        raise WindowError(
            f"window {window.name} of namespace '{context.namespace}' holds no experience.",
            remedy=f"Record it first, such as with 'coinswarm run record_experiences --date {window.name} "
            "--param source=market', or choose another date.",
        )
    return parts


@retried()
def find_outdated(context: TaskContext, lines: Sequence[str]) -> list[Window]:
    """Windows of some lines, beside the run's own, that late records or a change of settings made out of date."""
    with open_workspace(context.namespace) as workspace:
        ledger, token = workspace.ledger, context.fencing_token
        spans = archived_spans(ledger, context.namespace)
        workspace.with_memory(lambda mem: mark_late_windows(mem, ledger, token, lines, spans))
        hashed = settings_hash(learning_settings(workspace), MarketStateClusterer().settings())
        return sorted(
            {
                window
                for line in lines
                for window in windows_to_consolidate_again(
                    ledger, workspace.archive, token, line, context.as_window(), hashed
                )
            }
        )


@retried(run_name="summarise-{part.window}-{part.source}-{regime}")
def summarise_patterns(context: TaskContext, part: Part, regime: str) -> dict[str, int]:
    """Cluster one partition and stage its summary; returns counts of states, noise and clusters."""
    window = part.as_window()
    with open_workspace(context.namespace) as workspace:
        settings, clusterer = learning_settings(workspace), MarketStateClusterer()
        key = partition_key(part.encoder_id, part.source, regime)
        hashed = settings_hash(settings, clusterer.settings())
        staged = workspace.ledger.staging.find(
            part.line,
            window,
            kind=PATTERNS,
            partition_key=key,
            input_digest=part.content_digest,
            settings_hash=hashed,
        )
        if staged is None:
            data = _read_part(workspace, window, part)
            rows = np.flatnonzero(partitions_of(data.states) == regime)
            clusterer.fit(data.states.vectors[rows], timestamps_ms=data.states.timestamp_ms[rows])
            summary = summarise_partition(
                data.states,
                rows,
                clusterer.labels_,
                clusterer.broad_,
                window=window,
                regime=regime,
                settings=settings,
                experiences=data.experiences,
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
                settings_hash=hashed,
                payload=serial.encode(summary),
                columns={"noise": summary.noise, **clusterer.record()},
                clusters=_cluster_rows(summary),
            )
        return {name: int(staged.columns[name]) for name in ("states", "noise", "clusters")}


@retried(run_name="summarise-{part.window}-{part.source}-sequences")
def summarise_sequences(context: TaskContext, part: Part) -> None:
    """Stage what a window says of transitions, regimes, strategies, correlations and the quality of experiences."""
    window = part.as_window()
    with open_workspace(context.namespace) as workspace:
        settings = learning_settings(workspace)
        data = _read_part(workspace, window, part)
        summaries: Mapping[str, Any] = {
            TRANSITIONS: summarise_transitions(data.states),
            REGIME_STATES: summarise_regimes(data.states, window),
            STRATEGIES: summarise_strategies(data.experiences, window, settings),
            CORRELATIONS: summarise_correlations(data.states, window),
            QUALITY: summarise_quality(data.experiences, window),
        }
        for kind, summary in summaries.items():
            workspace.ledger.staging.stage(
                context.fencing_token,
                part.line,
                window,
                kind=kind,
                partition_key=part.source,
                input_digest=part.content_digest,
                settings_hash=sequence_hash(settings),
                payload=serial.encode(summary),
            )


@retried()
def commit_generation(context: TaskContext, parts: list[Part]) -> int:
    """Make the staged summaries of one line and window its current generation; returns its number."""
    window, line = parts[0].as_window(), parts[0].line
    with open_workspace(context.namespace) as workspace:
        ledger, settings = workspace.ledger, learning_settings(workspace)
        clustering = settings_hash(settings, MarketStateClusterer().settings())
        entries, cut_ms, known_ms = [], 0, 0
        references = {
            reference.source: reference
            for reference in ledger.windows.archives(context.namespace, window, parts[0].encoder_id)
        }
        for part in parts:
            lived = _read_part(workspace, window, part).experiences
            cut_ms = max(cut_ms, part.recorded_cut_ms)
            known_ms = max(known_ms, int(lived.known_at_ms.max()))
            wanted = [
                (PATTERNS, partition_key(part.encoder_id, part.source, regime), clustering, regime in part.partitions)
                for regime in (*REGIMES, MIXED)
            ]
            wanted += [
                (kind, part.source, sequence_hash(settings), True)
                for kind in (TRANSITIONS, REGIME_STATES, STRATEGIES, CORRELATIONS, QUALITY)
            ]
            for kind, key, hashed, present in wanted:
                staged = (
                    ledger.staging.find(
                        part.line,
                        window,
                        kind=kind,
                        partition_key=key,
                        input_digest=part.content_digest,
                        settings_hash=hashed,
                    )
                    if present
                    else None
                )
                if present and staged is None:
                    raise RuntimeError(f"{kind} {key} of {window.name} was to be staged before the commit")
                entries.append(
                    ManifestEntry(kind=kind, partition_key=key, digest=staged.digest if staged is not None else None)
                )
        generation = ledger.windows.commit_generation(
            context.fencing_token,
            line,
            window,
            settings_hash=clustering,
            entries=entries,
            archives=[references[part.source] for part in parts],
            recorded_cut=from_ms(cut_ms),
            counts={
                "experiences": sum(part.experiences for part in parts),
                "states": sum(part.states for part in parts),
                "known_at": from_ms(known_ms).isoformat(),
            },
        )
        return generation.number


def partitions_of(states: StateTable) -> np.ndarray[Any, np.dtype[np.str_]]:
    """Partition (regime or MIXED) of each state of a table."""
    return assign_partitions(np.array(states.regime_names, dtype=np.str_))


def read_archived(
    archive: Archive, ledger: Ledger, namespace: str, window: Window, encoder_id: str
) -> dict[str, WindowData]:
    """What was archived of a window, by source; empty where nothing was."""
    return {
        reference.source: archive.read(reference)
        for reference in ledger.windows.archives(namespace, window, encoder_id)
    }


def _archived_encoders(ledger: Ledger, window: Window, context: TaskContext) -> set[str]:
    return {
        record.encoder_id
        for record in ledger.lines.list(context.namespace)
        if ledger.windows.archives(context.namespace, window, record.encoder_id)
    }


def _with_archived(
    workspace: Workspace, window: Window, encoder_id: str, fresh: Mapping[str, WindowData]
) -> dict[str, WindowData]:
    joined = dict(fresh)
    try:
        archived = read_archived(workspace.archive, workspace.ledger, workspace.namespace, window, encoder_id)
    except ArchiveError as error:
        raise SealedWindowError(
            f"window {window.name} was consolidated before, and its archive cannot be read: {error.message}",
            remedy="Its summaries stand as they are. Restore the archive to consolidate the window again.",
        ) from error
    for source, data in archived.items():
        joined[source] = merge(data, fresh[source]) if source in fresh else data
    return joined


def _part(line: str, reference: ArchiveReference, data: WindowData, fresh: WindowData) -> Part:
    present = set(partitions_of(data.states).tolist())
    return Part(
        line=line,
        window=reference.window.name,
        encoder_id=reference.encoder_id,
        source=reference.source,
        content_digest=reference.content_digest,
        # What was recorded again after it was pruned is archived with its first time, but was seen now.
        recorded_cut_ms=int(max(table.experiences.recorded_at_ms.max() for table in (data, fresh))),
        states=len(data.states),
        experiences=len(data.experiences),
        partitions=tuple(regime for regime in (*REGIMES, MIXED) if regime in present),
    )


def _read_part(workspace: Workspace, window: Window, part: Part) -> WindowData:
    for reference in workspace.ledger.windows.archives(workspace.namespace, window, part.encoder_id):
        if reference.source == part.source and reference.content_digest == part.content_digest:
            return workspace.archive.read(reference)
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
