"""Which patterns stay, by which rule, and how many random sets of states would stay by the same rule.

Part of the fold: a function of its state at a window's end and of the access snapshot there, so that any order of work
gives the same. First collect, then drop: a dry run is the same code without the last step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from memory.learning.blocks import BlockSums
from memory.learning.figures import NAMED, Estimates, Prior, anchors, best_actions, sharpe_with
from memory.learning.knowledge import FoldState, PatternState
from memory.learning.predictions import HORIZONS
from memory.learning.settings import LearningSettings
from memory.learning.statistics import Moments, sharpe
from memory.learning.summaries import PartitionSummary
from memory.learning.sums import N_RETURNS, NET
from memory.tables import Floats

SHARPE, ACCESSED, GRACE, UNJUDGED = "sharpe", "accessed", "grace", "unjudged"
RULES = {
    SHARPE: "its annualised net Sharpe ratio, from the shrunk mean of the best action, is high enough",
    ACCESSED: "it was accessed often enough of late",
    GRACE: "it is younger than the grace period",
    UNJUDGED: "it has too few occurrences to be judged, and was seen of late",
}

_DAY_MS = 86_400_000


class PruneDecision(msgspec.Struct, frozen=True, kw_only=True):
    """Whether one pattern stays.

    Attributes
    ----------
    pattern_id
        The pattern.
    kept, rules
        Whether it stays, and the rules (keys of `RULES`) that keep it; none for a pruned one.
    action
        Its best action.
    sharpe, raw_sharpe, sharpe_low
        Annualised net Sharpe ratios: judged by, as it was, and at the lower end of the interval; None where unknown.
    occurrences, accesses
        Over all windows; in the days that count.
    age_windows, unseen_days
        Since the window that founded it; since the window that last saw it.
    random_share
        Share of random sets that pass the Sharpe rule, as strict as it is: what passing it is worth. For a pattern, of
        the window's random balls; for a strategy, of agents with its positions and costs whose direction is tossed in
        every block. None where there are none.
    """

    pattern_id: str
    kept: bool
    rules: tuple[str, ...]
    action: str
    sharpe: float | None
    raw_sharpe: float | None
    sharpe_low: float | None
    occurrences: int
    accesses: int
    age_windows: int
    unseen_days: int
    random_share: float | None = None


class PruneOutlook(msgspec.Struct, frozen=True, kw_only=True):
    """How much the Sharpe rule says: the share of sets of states that pass it, by shrunk and by raw mean.

    Patterns are all that stand; clusters and random balls are those of the window alone, of equal number of states,
    and comparable with each other. None where there is none.
    """

    patterns: int
    patterns_pass: float | None
    patterns_pass_raw: float | None
    clusters: int
    clusters_pass: float | None
    clusters_pass_raw: float | None
    random_sets: int
    random_pass: float | None
    random_pass_raw: float | None


class PrunePreview(msgspec.Struct, frozen=True, kw_only=True):
    """What pruning would do, without having done it.

    Attributes
    ----------
    decisions
        One a pattern that stands, in order of ids; exactly those that pruning would act on.
    kept, pruned
        Ids of the patterns that would stay and go.
    random_share
        Share of random sets that pass the Sharpe rule; None where unknown.
    """

    decisions: tuple[PruneDecision, ...]
    kept: tuple[str, ...]
    pruned: tuple[str, ...]
    random_share: float | None


def preview_pruning(
    state: FoldState,
    end_ms: int,
    access: Mapping[str, int],
    settings: LearningSettings,
    outlook: PruneOutlook | None = None,
) -> PrunePreview:
    """The decisions of `decide_pruning`, and nothing else: a dry run. Parameters are its own.

    Parameters
    ----------
    outlook
        Of the window folded last, whose random sets the decisions are shown beside.
    """
    share = None if outlook is None else outlook.random_pass
    decisions = decide_pruning(state, end_ms, access, settings, random_share=share)
    return PrunePreview(
        decisions=decisions,
        kept=tuple(decision.pattern_id for decision in decisions if decision.kept),
        pruned=tuple(decision.pattern_id for decision in decisions if not decision.kept),
        random_share=share,
    )


def decide_pruning(
    state: FoldState,
    end_ms: int,
    access: Mapping[str, int],
    settings: LearningSettings,
    *,
    random_share: float | None = None,
) -> tuple[PruneDecision, ...]:
    """One decision for each pattern that stands, in order of ids.

    Parameters
    ----------
    state
        The fold's state after a window was folded into it.
    end_ms
        End of that window, from which all ages count.
    access
        Accesses of each pattern id within the `access_days` before that end; ids that are missing had none.
    settings
        The thresholds of the rules.
    random_share
        Share of the window's random sets that pass the Sharpe rule (`PruneOutlook.random_pass`): shown beside each
        decision.
    """
    return tuple(_decide(pattern, end_ms, access, settings, random_share) for pattern in state.live_patterns())


def _decide(
    pattern: PatternState,
    end_ms: int,
    access: Mapping[str, int],
    settings: LearningSettings,
    random_share: float | None,
) -> PruneDecision:
    figures = pattern.figures
    if figures is None:
        raise AssertionError(f"the published pattern {pattern.pattern_id} has no figures")
    occurrences = pattern.support.count
    first = pattern.sightings[0]
    age = (end_ms - first.end_ms) // (first.end_ms - first.start_ms)
    unseen = (end_ms - pattern.last_window_ms) // _DAY_MS
    accesses = sum(access.get(name, 0) for name in (pattern.pattern_id, *pattern.aliases))
    applies = {
        SHARPE: figures.sharpe > settings.prune_sharpe,
        ACCESSED: accesses > settings.prune_accesses,
        GRACE: age < settings.grace_windows,
        UNJUDGED: occurrences < settings.min_judged_occurrences and unseen <= settings.unseen_days,
    }
    rules = tuple(rule for rule, holds in applies.items() if holds)
    return PruneDecision(
        pattern_id=pattern.pattern_id,
        kept=bool(rules),
        rules=rules,
        action=figures.best_action,
        sharpe=_known(figures.sharpe),
        raw_sharpe=_known(figures.raw_sharpe),
        sharpe_low=_known(figures.sharpe_low),
        occurrences=occurrences,
        accesses=accesses,
        age_windows=int(age),
        unseen_days=int(unseen),
        random_share=random_share,
    )


def prune_outlook(
    state: FoldState, partitions: Sequence[PartitionSummary], prior: Prior, settings: LearningSettings
) -> PruneOutlook:
    """Shares of patterns, of the window's clusters, and of its random balls that pass the Sharpe rule.

    Parameters
    ----------
    state
        The fold's state, whose base rates are used.
    partitions
        The window's summaries.
    prior
        Of the patterns (`figures.prior_of`): random sets are shrunk by the same.
    settings
        Threshold and horizon.
    """
    live = [pattern.figures for pattern in state.live_patterns() if pattern.figures is not None]
    clusters: list[tuple[Floats, Floats]] = []
    random: list[tuple[Floats, Floats]] = []
    column = HORIZONS.index(settings.reference_horizon_minutes)
    bases = {partition: base.outcomes for partition, base in state.bases.items()}
    anchor_of = anchors(bases, settings)
    for summary in partitions:
        base = bases[summary.partition]
        anchor = anchor_of[summary.partition][column, :N_RETURNS]
        reference = base.blocks[column, :N_RETURNS], base.block_returns[column], anchor
        if summary.clusters:
            sums = BlockSums.stack([cluster.outcomes.blocks[column, :N_RETURNS] for cluster in summary.clusters])
            returns = Moments.stack([cluster.outcomes.block_returns[column] for cluster in summary.clusters])
            clusters.append(_sharpes(sums, returns, *reference, prior, settings))
        if len(summary.ball_sums.n):
            random.append(_sharpes(summary.ball_sums, summary.ball_returns, *reference, prior, settings))

    def share(ratios: list[float]) -> float | None:
        return sum(ratio > settings.prune_sharpe for ratio in ratios) / len(ratios) if ratios else None

    cluster_ratios = [np.concatenate(parts).tolist() for parts in zip(*clusters, strict=True)] or [[], []]
    random_ratios = [np.concatenate(parts).tolist() for parts in zip(*random, strict=True)] or [[], []]
    return PruneOutlook(
        patterns=len(live),
        patterns_pass=share([figures.sharpe for figures in live]),
        patterns_pass_raw=share([figures.raw_sharpe for figures in live]),
        clusters=len(cluster_ratios[0]),
        clusters_pass=share(cluster_ratios[0]),
        clusters_pass_raw=share(cluster_ratios[1]),
        random_sets=len(random_ratios[0]),
        random_pass=share(random_ratios[0]),
        random_pass_raw=share(random_ratios[1]),
    )


def _sharpes(
    sums: BlockSums,
    returns: Moments,
    base_sums: BlockSums,
    base_returns: Moments,
    anchor: Floats,
    prior: Prior,
    settings: LearningSettings,
) -> tuple[Floats, Floats]:
    """Shrunk and raw Sharpe ratios of k sets at the reference horizon; (k, 3) in, (k,) out."""
    column = HORIZONS.index(settings.reference_horizon_minutes)
    periods = settings.periods_per_year(settings.reference_horizon_minutes)
    estimates = Estimates.of(sums, base_sums, anchor, settings)
    net = Prior(prior.between[column, :N_RETURNS]).shrink(estimates)[:, NET]
    best = best_actions(net)
    ratios = sharpe_with(net, returns[:, NET], base_returns[NET], periods, settings)
    chosen = np.take_along_axis(ratios, np.minimum(best, len(NAMED) - 1)[:, None], axis=1)[:, 0]
    raw = sharpe(returns[:, NET], periods)
    return np.where(best < len(NAMED), chosen, np.nan), np.fmax(raw[:, 0], raw[:, 1])


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
