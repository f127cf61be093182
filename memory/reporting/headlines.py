"""The night in plain words: the sentences and the figures at the top of a report, and of the run's artifact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import bdtr, bdtrc

from memory.records import Interval
from memory.reporting import wording
from memory.reporting.charts.latency import quantiles
from memory.reporting.data import RETURN, VOLATILITY, NightCounts, ReportData, ScorecardEntry, ScorecardNight
from memory.reporting.ranking import leading_outcome, strongest

HEADLINE_HORIZON_MINUTES = 5
"""Horizon of the scorecard that the headline quotes; the nearest one that was scored stands in for it."""

CERTAIN_Q = 0.05
"""False discovery rate below which a pattern's return is said to differ from its base rate."""

CHANCE_TAIL = 0.025
"""Probability on either side below which a count of matches is not put down to chance."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of the headline: what it is, the figure, and a remark that puts it in its place."""

    label: str
    value: str
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Sentence:
    """One line of the night in plain words, under a one-word heading."""

    heading: str
    text: str


def sentences(data: ReportData) -> list[Sentence]:
    """What was read, learned, changed and dropped, and how last night's predictions did: one line each."""
    lines = [
        Sentence("Read", _read(data)),
        Sentence("Learned", _learned(data)),
        Sentence("Chance", _against_null(data)),
    ]
    lines.append(Sentence("Predicted", _predicted(data.scorecard)))
    lines.append(Sentence("Worth", _worth(data)))
    lines.append(Sentence("Dropped", _dropped(data)))
    return lines


def figures(data: ReportData) -> list[Figure]:
    """The figures of the headline; what was not measured has no figure."""
    found: list[Figure] = []
    night, recording = data.night, data.recording
    experiences = night.experiences if night else recording.experiences if recording else None
    if experiences is not None:
        states = night.states if night else recording.states if recording else 0
        found.append(Figure("experiences", wording.count(experiences), f"{wording.count(states)} distinct states"))
    if night is not None:
        remark = f"{night.patterns_new} new, {night.patterns_confirmed} confirmed, {night.patterns_faded} faded"
        found.append(Figure("patterns", wording.count(night.patterns_current), remark))
        if night.confirmation_rate is not None:
            remark = f"of the clusters; null: {wording.percent(night.null_confirmation_rate)}"
            found.append(Figure("seen before", wording.percent(night.confirmation_rate), remark))
    for outcome in (VOLATILITY, RETURN):
        entry = headline_entry(data.scorecard, "patterns", outcome)
        if entry is not None:
            null = headline_entry(data.scorecard, "balls", outcome)
            remark = f"after {wording.horizon(entry.horizon_minutes)}" + (
                f"; random balls {wording.number(null.ic)}" if null else ""
            )
            found.append(Figure(f"{outcome} IC", wording.number(entry.ic), remark))
    if data.benchmark is not None and data.benchmark.latencies:
        p50, _, p99 = quantiles(data.benchmark.latencies[0])
        found.append(
            Figure("search p50", wording.milliseconds(float(p50), 2), f"p99 {wording.milliseconds(float(p99), 2)}")
        )
    if data.facts.steps:
        found.append(
            Figure("run time", wording.duration(total_seconds(data)), wording.plural(len(data.facts.steps), "step"))
        )
    return found


def total_seconds(data: ReportData) -> float:
    """Seconds of all steps together."""
    return sum(step.seconds for step in data.facts.steps)


def headline_entry(card: ScorecardNight | None, predictor: str, outcome: str) -> ScorecardEntry | None:
    """A predictor's entry at the headline's horizon, or at the nearest one that was scored."""
    entries = [
        entry
        for entry in (card.entries if card else ())
        if entry.predictor == predictor and entry.outcome == outcome and entry.ic is not None
    ]
    return min(
        entries,
        key=lambda entry: (abs(entry.horizon_minutes - HEADLINE_HORIZON_MINUTES), entry.horizon_minutes),
        default=None,
    )


def _read(data: ReportData) -> str:
    night, recording = data.night, data.recording
    if night is None and recording is None:
        return "Nothing was recorded for this window."
    experiences = night.experiences if night else recording.experiences if recording else 0
    states = night.states if night else recording.states if recording else 0
    actors = ""
    if recording is not None and recording.agents:
        actors = f" of {wording.plural(len(recording.agents), 'agent')}"
    if recording is not None and recording.products:
        actors += f" on {wording.listing(sorted(recording.products))}"
    text = f"{wording.plural(experiences, 'experience')}{actors}, in {wording.plural(states, 'distinct state')}."
    if recording is None:
        return text
    left_out = [
        (recording.dead_letters, "refused"),
        (recording.duplicates, "known already"),
        (recording.cold_states, "too cold to use"),
        (recording.skipped_by_quality, "below the quality asked for"),
    ]
    parts = [f"{amount:,} {why}" for amount, why in left_out if amount]
    if recording.gaps:
        parts.append(wording.plural(len(recording.gaps), "gap"))
    return f"{text} Besides: {wording.listing(parts, 6)}." if parts else f"{text} Nothing was left out."


def _learned(data: ReportData) -> str:
    night = data.night
    if night is None:
        return "This window has not been consolidated."
    noise = "" if night.noise_share is None else f", {wording.percent(night.noise_share)} of the states in none"
    changes = [
        f"{wording.plural(night.patterns_new, 'pattern')} new",
        f"{night.patterns_confirmed:,} confirmed",
        f"{night.patterns_faded:,} faded",
    ]
    for amount, verb in (
        (night.patterns_returned, "came back"),
        (night.patterns_merged, "merged"),
        (night.patterns_demoted, "demoted"),
    ):
        if amount:
            changes.append(f"{amount:,} {verb}")
    stand = "stands" if night.patterns_current == 1 else "stand"
    return (
        f"{wording.plural(night.clusters, 'cluster')}{noise}. {wording.listing(changes, 6)}; "
        f"{wording.plural(night.patterns_current, 'pattern')} now {stand}."
    )


def _against_null(data: ReportData) -> str:
    night = data.night
    if night is None:
        return "Recurrence has not been judged for this window."
    if night.confirmation_rate is None:
        return "A first night has nothing to confirm: recurrence is judged from the second on."
    rate = wording.percent(night.confirmation_rate)
    if night.null_confirmation_rate is None:
        return f"{rate} of the clusters match what was known; no null was computed, so that says nothing yet."
    null = wording.percent(night.null_confirmation_rate)
    text = (
        f"{rate} of the {wording.plural(night.clusters, 'cluster')} match what was known; the null would have "
        f"confirmed {null}: {_excess([night])}."
    )
    compared = [known for known in data.nights if known.null_confirmation_rate is not None and known.clusters]
    if len(compared) < 2:
        return text
    clusters = sum(known.clusters for known in compared)
    ours = sum(known.clusters * (known.confirmation_rate or 0.0) for known in compared) / clusters
    chance = sum(known.clusters * (known.null_confirmation_rate or 0.0) for known in compared) / clusters
    return (
        f"{text} Over {wording.plural(len(compared), 'night')} {wording.percent(ours)} against "
        f"{wording.percent(chance)}: {_excess(compared)}."
    )


def _excess(nights: Sequence[NightCounts]) -> str:
    """Whether so many matches could be chance: the exact binomial tail at the null's rate, either way."""
    clusters = sum(night.clusters for night in nights)
    matched = round(sum(night.clusters * (night.confirmation_rate or 0.0) for night in nights))
    null = sum(night.clusters * (night.null_confirmation_rate or 0.0) for night in nights) / max(clusters, 1)
    if matched and bdtrc(matched - 1, clusters, null) < CHANCE_TAIL:
        return "recurrence beyond chance"
    if bdtr(matched, clusters, null) < CHANCE_TAIL:
        return "less than random balls recur"
    return "not to be told from chance"


def _predicted(card: ScorecardNight | None) -> str:
    if card is None or not card.entries:
        return "No predictions were scored: that needs patterns of an earlier night."
    parts = []
    for outcome, meaning in ((VOLATILITY, "how far the price would move"), (RETURN, "which way the price would go")):
        entry = headline_entry(card, "patterns", outcome)
        if entry is None:
            continue
        null = headline_entry(card, "balls", outcome)
        beside = f", random balls {wording.number(null.ic)}" if null else ""
        interval = f" ({wording.number_interval(entry.interval)})" if entry.interval else ""
        parts.append(
            f"{meaning} within {wording.horizon(entry.horizon_minutes)}: rank correlation "
            f"{wording.number(entry.ic)}{interval}{beside}: {_verdict(entry.interval, null.ic if null else None)}"
        )
    if not parts:
        return "The patterns covered too few of the window's states for their predictions to be scored."
    covered = "" if card.coverage is None else f" Patterns covered {wording.percent(card.coverage)} of the states."
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}.{covered}"


def _verdict(interval: Interval | None, null: float | None) -> str:
    """What an interval of a rank correlation allows to be said, against nothing and against random balls."""
    if interval is None:
        return "too few blocks to tell"
    if null is not None and interval.low > max(null, 0.0):
        return "better than random balls"
    if interval.low > 0:
        return "knowledge, but not surely more than random balls have" if null is not None else "better than nothing"
    return "worse than nothing" if interval.high < 0 else "not told apart from zero"


def _worth(data: ReportData) -> str:
    horizon = data.reference_horizon_minutes
    ranked = [
        o for pattern in strongest(data.patterns, horizon) if (o := leading_outcome(pattern, horizon)) is not None
    ]
    if not ranked:
        return "No current pattern has an outcome to be ranked by."
    certain = sum(1 for outcome in ranked if outcome.q_value is not None and outcome.q_value < CERTAIN_Q)
    paying = sum(1 for outcome in ranked if outcome.shrunk_net_mean > 0)
    return (
        f"After {wording.horizon(horizon)} and costs {paying:,} of {wording.plural(len(ranked), 'current pattern')} "
        "pay, by the shrunk mean of the better of long and short, luck included; "
        f"for {certain or 'none'} the return differs from its regime's base rate (q < {CERTAIN_Q:g})."
    )


def _dropped(data: ReportData) -> str:
    pruning = data.pruning
    if pruning is None:
        return "Pruning has not run for this window."
    removed = sum(1 for decision in pruning.decisions if decision.removed)
    verb = "would be dropped (a dry run)" if pruning.dry_run else "dropped"
    text = f"{removed:,} of {wording.plural(len(pruning.decisions), 'judged memory', 'judged memories')} {verb}"
    aged = pruning.episodic_removed + pruning.shared_removed
    text += f", and {wording.plural(aged, 'experience')} for their age." if aged else "."
    shares = pruning.pass_shares
    if shares is not None and shares.random_sets is not None:
        text += f" The Sharpe rule would pass {wording.percent(shares.random_sets)} of random state sets"
        clusters = f", and {wording.percent(shares.clusters)} of the night's clusters"
        text += f"{clusters if shares.clusters is not None else ''}."
    return text
