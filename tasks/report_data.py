"""What a nightly report shows, read from the ledger and the archive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from memory.errors import WindowError
from memory.learning import projection, serial
from memory.learning.blocks import block_interval, block_mean
from memory.learning.knowledge import FoldState
from memory.learning.outcomes import GROSS, LONG, LONG_NET, SHORT, SHORT_NET
from memory.learning.predictions import HORIZONS
from memory.learning.scores import BALLS as BALL_SCORES
from memory.learning.scores import COVERED, OWN, PooledScore, Score, Scorecard, pool_scorecards
from memory.learning.scores import PATTERNS as PATTERN_SCORES
from memory.learning.settings import LearningSettings
from memory.ledger import Ledger
from memory.records import (
    CorrelationMemory,
    Interval,
    PatternMemory,
    RegimeMemory,
    SemanticMemory,
    SemanticType,
    StrategyMemory,
)
from memory.reporting import data as report
from memory.window import Window
from tasks.consolidation import PATTERNS, learning_settings
from tasks.projections import memories_as_of
from tasks.report_history import measured_before, sizes_until
from tasks.report_lineage import lineage_of
from tasks.report_material import LivedWindow, cloud_of, gaps_of, prices_of, read_lived
from tasks.workspace import Workspace

BARS = {"agent, product and regime": ((50, 0.4), (99, 1.5)), "agent alone": ((50, 1.0), (99, 5.0))}
"""Limits in milliseconds by kind of query: (percentile, limit)."""
RECALL_BAR = 0.99


def report_line(workspace: Workspace, window: Window) -> str:
    """The line whose knowledge a window's report shows: the one with the most states in it.

    Raises
    ------
    WindowError
        No line has consolidated the window.
    """
    ledger = workspace.ledger
    found = [
        (int(generation.generation.counts.get("states", 0)), record.line)
        for record in ledger.lines.list(workspace.namespace)
        if (generation := ledger.windows.current_generation(record.line, window, kinds=())) is not None
    ]
    if not found:
        raise WindowError(
            f"window {window.name} of namespace '{workspace.namespace}' was not consolidated: nothing to report.",
            remedy=f"Run 'coinswarm run nightly --date {window.name}' first.",
        )
    return max(found)[1]


def collect(workspace: Workspace, window: Window, run: Mapping[str, Any], run_id: str) -> report.ReportData:
    """Everything that the report of a window shows.

    Parameters
    ----------
    run
        What the nightly run found and measured, as its ledger row holds it; empty parts become empty sections.
    run_id
        Its id.
    """
    ledger, settings = workspace.ledger, learning_settings(workspace)
    line = report_line(workspace, window)
    following = Window.containing(window.end)
    state = FoldState.from_items(ledger.folds.load_state(line, PATTERNS, before=following).items)
    lived = read_lived(workspace.archive, ledger, workspace.namespace, window, line.split("/")[1])
    main = max(lived.values(), key=lambda data: len(data.states))
    kinds = (SemanticType.PATTERN, SemanticType.REGIME, SemanticType.STRATEGY, SemanticType.CORRELATION)
    memories = memories_as_of(ledger, line, window, kinds)
    patterns = [memory for memory in memories if isinstance(memory, PatternMemory)]
    cards = _scorecards(ledger, line, window)
    measured = measured_before(workspace, run)
    return report.ReportData(
        facts=_facts(ledger, workspace, window, line, run, run_id, main.states.source),
        recording=_recording(run, lived),
        nights=_nights(ledger, line, window),
        patterns=tuple(patterns),
        lineage=lineage_of(ledger, line, window, patterns),
        judged=tuple(
            report.JudgedAction(
                pattern_id=judged.pattern_id,
                action=judged.action,
                windows=judged.windows,
                n=judged.n,
                mean=judged.mean,
                interval=judged.interval,
            )
            for judged in projection.judged_actions(state, settings)
        ),
        base_rates=_base_rates(state, settings),
        states=cloud_of(workspace.archive, main),
        prices=prices_of(main.states),
        regimes=tuple(memory for memory in memories if isinstance(memory, RegimeMemory)),
        strategies=tuple(memory for memory in memories if isinstance(memory, StrategyMemory)),
        correlations=tuple(memory for memory in memories if isinstance(memory, CorrelationMemory)),
        scorecards=tuple(_scorecard_night(card) for card in cards),
        pooled_scores=_pooled(cards),
        pruning=_pruning(ledger, line, window, run, memories),
        benchmark=_benchmark(run.get("benchmark")),
        machine=measured.machine,
        trends=measured.trends,
        sizes=sizes_until(workspace, window),
        regressions=tuple((run.get("benchmark") or {}).get("regressions", ())),
        reference_horizon_minutes=settings.reference_horizon_minutes,
        sharpe_limit=settings.prune_sharpe,
    )


def _facts(
    ledger: Ledger,
    workspace: Workspace,
    window: Window,
    line: str,
    run: Mapping[str, Any],
    run_id: str,
    source: str,
) -> report.RunFacts:
    generation = ledger.windows.current_generation(line, window, kinds=())
    if generation is None:
        raise WindowError(f"window {window.name} has no generation.", remedy="Consolidate it first.")
    return report.RunFacts(
        namespace=workspace.namespace,
        window_name=window.name,
        window_start=window.start,
        window_end=window.end,
        run_id=run_id,
        encoder_id=line.split("/")[1],
        settings_hash=generation.generation.settings_hash,
        line=line,
        generation=generation.generation.number,
        source=source,
        steps=tuple(
            report.StepTime(name=name, seconds=float(seconds)) for name, seconds in run.get("seconds", {}).items()
        ),
        details={
            "digest of the line": ledger.digest(workspace.namespace, [line]).digest,
            "digest of the generation": generation.generation.manifest_digest,
            "archive": workspace.archive.display_url,
        },
    )


def _recording(run: Mapping[str, Any], lived: Mapping[str, LivedWindow]) -> report.RecordingCounts:
    counts = run.get("recording") or {}
    return report.RecordingCounts(
        stored=int(counts.get("stored", 0)),
        duplicates=int(counts.get("duplicates", 0)),
        dead_letters=int(counts.get("dead_letters", 0)),
        dead_letter_reasons=dict(counts.get("dead_letter_reasons", {})),
        cold_states=int(counts.get("cold_states", 0)),
        skipped_by_quality=int(counts.get("below_quality", 0)),
        experiences=sum(data.reference.experiences.rows for data in lived.values()),
        states=sum(len(data.states) for data in lived.values()),
        gaps=gaps_of(lived),
        agents=tuple(sorted({agent for data in lived.values() for agent in data.agents})),
        products=tuple(sorted({product for data in lived.values() for product in data.states.products})),
    )


def _nights(ledger: Ledger, line: str, window: Window) -> tuple[report.NightCounts, ...]:
    nights = []
    for checkpoint in ledger.folds.checkpoints(line, PATTERNS):
        if checkpoint.window > window:
            break
        counts = checkpoint.counts
        comparable = counts["known"] > 0
        nights.append(
            report.NightCounts(
                window_name=checkpoint.window.name,
                experiences=counts["experiences"],
                states=counts["states"],
                clusters=counts["clusters"],
                clusters_matched=counts["matched"],
                noise_share=counts["noise_share"],
                patterns_new=counts["patterns_new"],
                patterns_confirmed=counts["patterns_confirmed"],
                patterns_returned=counts["patterns_returned"],
                patterns_faded=counts["patterns_faded"],
                patterns_merged=counts["patterns_merged"],
                patterns_split=counts["patterns_split"],
                patterns_demoted=counts["patterns_demoted"],
                patterns_pruned=counts["pruned"],
                patterns_current=counts["patterns"],
                confirmation_rate=counts["confirmation_rate"] if comparable else None,
                null_confirmation_rate=counts["null_confirmation_rate"] if comparable else None,
            )
        )
    return tuple(nights)


def _base_rates(state: FoldState, settings: LearningSettings) -> tuple[report.BaseRate, ...]:
    rates = []
    for key, base in sorted(state.bases.items()):
        _, source, regime = key.split("/")
        sums = base.outcomes.blocks
        mean = block_mean(sums)
        low, high = block_interval(sums, confidence=settings.confidence, min_blocks=settings.min_blocks)
        for row, horizon in enumerate(HORIZONS):
            for action, column, sign in ((LONG, LONG_NET, 1.0), (SHORT, SHORT_NET, -1.0)):
                if not sums.n[row, GROSS]:
                    continue
                ends = sorted((sign * float(low[row, GROSS]), sign * float(high[row, GROSS])))
                rates.append(
                    report.BaseRate(
                        regime=regime,
                        action=action,
                        horizon_minutes=horizon,
                        n=int(sums.n[row, GROSS]),
                        blocks=int(sums.blocks[row, GROSS]),
                        gross_mean=sign * float(mean[row, GROSS]),
                        net_mean=float(mean[row, column]),
                        interval=None if np.isnan(ends).any() else Interval(low=ends[0], high=ends[1]),
                        source=source,
                    )
                )
    return tuple(rates)


def _scorecards(ledger: Ledger, line: str, window: Window) -> list[Scorecard]:
    """Scorecards of the source with the most states, of all windows up to one in which there was something to score."""
    cards = []
    for known, _ in ledger.windows.with_current(line):
        payload = ledger.scorecards.get(line, known)
        if known > window or payload is None:
            continue
        found = serial.decode(payload, dict[str, Scorecard])
        card = max(found.values(), key=lambda item: (item.states, item.source), default=None)
        if card is not None and card.patterns:
            cards.append(card)
    return cards


def _is_fair(score: Score | PooledScore) -> bool:
    """Whether a score is of the states that patterns cover: what predicts everywhere is compared on those."""
    return score.scope == (OWN if score.predictor in (PATTERN_SCORES, BALL_SCORES) else COVERED)


def _scorecard_night(card: Scorecard) -> report.ScorecardNight:
    entries = tuple(
        report.ScorecardEntry(
            predictor=score.predictor,
            outcome=score.outcome,
            horizon_minutes=score.horizon_minutes,
            n=score.agreement.n,
            blocks=score.agreement.blocks,
            ic=score.agreement.rank_correlation,
            interval=score.agreement.rank_interval,
            calibration=score.agreement.slope,
        )
        for score in card.scores
        if _is_fair(score)
    )
    return report.ScorecardNight(window_name=card.window, coverage=card.covered, entries=entries)


def _pooled(cards: Sequence[Scorecard]) -> tuple[report.ScorecardEntry, ...]:
    return tuple(
        report.ScorecardEntry(
            predictor=score.predictor,
            outcome=score.outcome,
            horizon_minutes=score.horizon_minutes,
            n=score.windows,
            blocks=score.windows,
            ic=score.rank_correlation,
            interval=score.interval,
        )
        for score in pool_scorecards(cards)
        if _is_fair(score)
    )


def _pruning(
    ledger: Ledger, line: str, window: Window, run: Mapping[str, Any], memories: Sequence[SemanticMemory]
) -> report.PruningReport:
    described = {
        memory.pattern_id if isinstance(memory, PatternMemory) else memory.memory_id: memory.description
        for memory in memories
    }
    decisions = []
    for decision in ledger.projections.prune_decisions(line, window):
        details = decision.details
        decisions.append(
            report.PruneDecision(
                memory_id=decision.memory_id,
                kind=decision.memory_type,
                removed=not decision.kept,
                rules=tuple(decision.rules),
                description=described.get(decision.memory_id, ""),
                net_sharpe=details.get("sharpe"),
                raw_sharpe=details.get("raw_sharpe"),
                sharpe_lower_bound=details.get("sharpe_low"),
                accesses=int(details.get("accesses", 0)),
                age_windows=int(details.get("age_windows", 0)),
                occurrences=int(details.get("occurrences", 0)),
                random_share=details.get("random_share"),
            )
        )
    outlook: Mapping[str, Any] = {}
    for checkpoint in ledger.folds.checkpoints(line, PATTERNS):
        if checkpoint.window == window:
            outlook = checkpoint.counts["outlook"]
    return report.PruningReport(
        decisions=tuple(decisions),
        pass_shares=report.PassShares(
            patterns=outlook.get("patterns_pass"),
            patterns_raw=outlook.get("patterns_pass_raw"),
            clusters=outlook.get("clusters_pass"),
            clusters_raw=outlook.get("clusters_pass_raw"),
            random_sets=outlook.get("random_pass"),
            random_sets_raw=outlook.get("random_pass_raw"),
        ),
        episodic_removed=int(run.get("forgotten_experiences", 0)),
        dry_run=bool(run.get("dry_run", False)),
    )


def _rank(query: str) -> tuple[int, str]:
    """Order of the kinds of queries: those with bars first. The ledger keeps the keys of an object in no order."""
    names = list(BARS)
    return names.index(query) if query in names else len(names), query


def _benchmark(measured: Mapping[str, Any] | None) -> report.BenchmarkReport | None:
    if not measured:
        return None
    bars = [
        report.Bar(name=f"{name}, p{percentile}", value=measured["latencies_ms"][name][f"p{percentile}"], limit=limit)
        for name, limits in BARS.items()
        if name in measured["latencies_ms"]
        for percentile, limit in limits
    ]
    bars.append(report.Bar(name="recall", value=measured["recall"], limit=RECALL_BAR, unit="", higher_is_better=True))
    return report.BenchmarkReport(
        latencies=tuple(
            report.LatencySeries(name=name, samples_ms=np.array(samples))
            for name, samples in sorted(measured["samples_ms"].items(), key=lambda row: _rank(row[0]))
        ),
        bars=tuple(bars),
        recall=measured["recall"],
        documents=measured["documents"],
        queries_per_s=measured["queries_per_s"],
    )
