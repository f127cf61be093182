"""What the report of an evaluation shows: plain data, filled by the evaluation, drawn by `memory.reporting`."""

from __future__ import annotations

from dataclasses import dataclass, field

from memory.records import Interval


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure with its interval; None where it is not defined, or rests on too little."""

    value: float | None
    interval: Interval | None = None

    @property
    def decided(self) -> int:
        """1 where the interval lies above 0, -1 below, 0 where it holds 0 or is unknown."""
        if self.interval is None:
            return 0
        return int(self.interval.low > 0) - int(self.interval.high < 0)


@dataclass(frozen=True, slots=True)
class ContestantRow:
    """One contestant in one cell: figures by name, knowledge of returns by horizon in minutes."""

    name: str
    sort: str
    seeds: int
    figures: dict[str, Figure]
    return_ic: dict[int, Figure] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GainRow:
    """What memory adds over something else in one cell: paired differences."""

    cell: str
    ours: str
    theirs: str
    figures: dict[str, Figure]
    return_ic: dict[int, Figure] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class KnowledgeRow:
    """How well a forecaster ranks what comes: mean rank correlation a day by horizon."""

    forecaster: str
    outcome: str
    by_horizon: dict[int, Figure]
    gain: bool = False


@dataclass(frozen=True, slots=True)
class SizingRow:
    """Exposure sized by a forecast of risk: error of the forecast, evenness of risk, and what it earned."""

    name: str
    figures: dict[str, Figure]


@dataclass(frozen=True, slots=True)
class Curve:
    """An equity curve: cumulative net return by hour, with the lowest and highest seed where there are several."""

    name: str
    sort: str
    time_ms: list[int]
    value: list[float]
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ReliabilityCurve:
    """Mean forecast and mean outcome of bins."""

    name: str
    outcome: str
    horizon_minutes: int
    points: list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class FoldRow:
    """A fold: spans, sizes, and the encoder fitted on its past."""

    name: str
    known_until: str
    test: str
    test_days: float
    training_states: int
    memory_states: int
    test_states: int
    encoder_id: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of what the evaluation says: heading and plain words; `verdict` is 1, 0 or -1 for memory."""

    heading: str
    text: str
    verdict: int = 0


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """All that the report shows.

    Attributes
    ----------
    title, lead
        Heading and what was evaluated.
    conclusive
        Whether there were enough folds of enough days to conclude from.
    cells
        Names of the cells, the reference first.
    contestants
        By cell.
    curves
        Of the reference cell.
    breaks_ms
        Where folds begin, for the curves.
    facts
        Settings and counts, in words.
    """

    title: str
    lead: str
    market: str
    conclusive: bool
    final: bool
    findings: list[Finding]
    folds: list[FoldRow]
    cells: list[str]
    contestants: dict[str, list[ContestantRow]]
    gains: list[GainRow]
    knowledge: list[KnowledgeRow]
    sizing: list[SizingRow]
    sizing_gains: list[GainRow]
    curves: list[Curve]
    breaks_ms: list[int]
    reliability: list[ReliabilityCurve]
    facts: dict[str, str]
    metrics: tuple[str, ...]
    trainings: int
    variants: int
    explored: tuple[str, ...]
