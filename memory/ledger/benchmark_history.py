"""Figures of a benchmark beside those of past runs: what is usual, and what is worse than usual.

Pure. A figure is compared with the median of comparable runs, which a few odd ones do not move, and their scatter is
taken from the median absolute deviation (MAD): a figure is a regression where it is worse than the median by more than
a factor, and by more than the scatter explains. Source of both: Rousseeuw and Croux, "Alternatives to the median
absolute deviation", 1993.

A time is judged twice, in milliseconds and beside the round trip of the same run, and is a regression only where both
say so. On a machine that is busy with something else the milliseconds rise and the ratio does not; on one that was busy
before and is quiet now, the ratio rises and the milliseconds do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median

from memory.ledger.rows import BenchmarkMetric, BenchmarkRecord

SHARE = "share"
"""Unit of figures between 0 and 1 that are compared by difference; all others are compared by ratio."""

MAD_SCALE = 1.4826
"""Standard deviations of a normal distribution in one MAD."""

SCATTER = 4.0
"""Standard deviations of past runs that a figure may lie off their median by chance."""

JUDGED = "judged"
"""Detail of a figure that says whether it may fail a run."""

CONFIRMED_BY = "confirmed_by"
"""Detail of a judged figure that names another one of the run, without which it is no regression."""

DOCUMENTS = "documents"
"""Detail of a figure that says how many experiences were searched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """When a figure is worse than usual.

    Attributes
    ----------
    factor
        Times the median (or the median over it, where higher is better) beyond which a figure is a regression.
    drop
        The same for a share: how far it may lie below the median.
    min_runs, most_runs
        Comparable past runs that it takes to judge, and how many of the latest are looked at.
    size_factor
        Runs compare where one searched at most so many times the experiences of the other.
    """

    factor: float
    drop: float
    min_runs: int
    most_runs: int
    size_factor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One figure beside its past.

    Attributes
    ----------
    median, scatter
        Of the comparable runs, in the figure's unit; scatter is 1.4826 MAD.
    runs
        How many there were.
    worse
        How much worse than the median: a ratio (1 is equal, 2 is twice as bad), or for a share the difference.
    limit
        The value beyond which the figure would be a regression.
    regressed
        Whether it is: beyond its limit, and so is the figure that has to confirm it, where there is one.
    beside
        The comparison of that figure; None where there is none, or where it has too little of a past.
    """

    metric: str
    unit: str
    value: float
    median: float
    scatter: float
    runs: int
    worse: float
    limit: float
    lower_is_better: bool
    regressed: bool
    beside: Comparison | None = None

    def text(self) -> str:
        """The comparison in words: metric, value, median, and by how much they differ."""
        side = "above" if self.lower_is_better else "below"
        by = f"{self.worse:.3f} below" if self.unit == SHARE else f"{self.worse:.2f} times worse than"
        unit = "" if self.unit == SHARE else f" {self.unit}"
        text = (
            f"{self.metric} is {self.value:.4g}{unit}, {by} the median {self.median:.4g} of {self.runs} runs "
            f"(limit: {side} {self.limit:.4g})"
        )
        other = self.beside
        return text if other is None else f"{text}; {other.value:.4g} {other.unit} against {other.median:.4g}"


def compare(
    figures: Iterable[BenchmarkMetric | BenchmarkRecord], past: Sequence[BenchmarkRecord], rules: Rules
) -> list[Comparison]:
    """Each judged figure beside comparable ones of past runs; those with too little of a past are left out.

    Parameters
    ----------
    figures
        All those of one run. Only those whose details say so are judged.
    past
        Of earlier runs on the same machine, oldest first; a run that measured a metric twice counts by the later one.
    """
    history: dict[str, dict[str, BenchmarkRecord]] = {}
    for record in past:
        history.setdefault(record.metric, {}).pop(record.run_id, None)
        history[record.metric][record.run_id] = record
    own = {figure.metric: figure for figure in figures}

    def judged(figure: BenchmarkMetric | BenchmarkRecord | None) -> Comparison | None:
        if figure is None:
            return None
        alike = [
            record.value
            for record in history.get(figure.metric, {}).values()
            if record.unit == figure.unit and _comparable(figure, record, rules.size_factor)
        ][-rules.most_runs :]
        return _compared(figure, alike, rules) if len(alike) >= rules.min_runs else None

    found = []
    for figure in own.values():
        comparison = judged(figure) if figure.details.get(JUDGED) else None
        if comparison is not None:
            other = judged(own.get(str(figure.details.get(CONFIRMED_BY, ""))))
            confirmed = other is None or other.regressed
            found.append(replace(comparison, regressed=comparison.regressed and confirmed, beside=other))
    return found


def _comparable(figure: BenchmarkMetric | BenchmarkRecord, record: BenchmarkRecord, factor: float) -> bool:
    """Whether both searched about as many experiences, in as many results, with as many agents at once."""
    ours, theirs = figure.details, record.details
    if any(ours.get(name) != theirs.get(name) for name in ("top_k", "agents")):
        return False
    sizes = sorted((int(ours.get(DOCUMENTS, 0)), int(theirs.get(DOCUMENTS, 0))))
    return sizes[1] <= factor * sizes[0]


def _compared(figure: BenchmarkMetric | BenchmarkRecord, alike: Sequence[float], rules: Rules) -> Comparison:
    middle = median(alike)
    scatter = MAD_SCALE * median(abs(value - middle) for value in alike)
    sign = 1.0 if figure.lower_is_better else -1.0
    if figure.unit == SHARE:
        limit = middle + sign * max(rules.drop, SCATTER * scatter)
        worse = sign * (figure.value - middle)
    else:
        # What is better when higher is divided, not lessened: however much it scatters, its limit stays above nothing.
        by_chance = 1.0 + SCATTER * scatter / middle if middle > 0 else 1.0
        factor = max(rules.factor, by_chance)
        limit = middle * factor if figure.lower_is_better else middle / factor
        better, poorer = (middle, figure.value) if figure.lower_is_better else (figure.value, middle)
        worse = poorer / better if better > 0 else 1.0
    return Comparison(
        metric=figure.metric,
        unit=figure.unit,
        value=figure.value,
        median=middle,
        scatter=scatter,
        runs=len(alike),
        worse=worse,
        limit=limit,
        lower_is_better=figure.lower_is_better,
        regressed=sign * (figure.value - limit) > 0,
    )
