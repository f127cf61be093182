"""From staged track records to what the report shows: figures, gains and curves, with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from agents.candles import FloatArray
from agents.evaluation.contestants import RULES, Prepared
from agents.evaluation.metrics import SHARPE, TOTAL, Records, figures_of, gain_of, mean_over_days
from agents.evaluation.resampling import Resampling
from agents.evaluation.settings import (
    BASE_FORECAST,
    BUY_AND_HOLD,
    FORECASTERS,
    MEMORY_FORECAST,
    PERMUTED,
    PERMUTED_FORECAST,
    POLICIES,
    REGULARISED,
    RIDGE_AND_MEMORY,
    RIDGE_AND_MEMORY_RULE,
    RIDGE_FORECAST,
    RIDGE_RULE,
    TRAILING,
    WITH_ESTIMATES,
    WITH_MEMORY,
    WITHOUT_MEMORY,
    Cell,
    EvaluationSettings,
)
from agents.evaluation.sizing import SIZED_BY
from agents.evaluation.tracks import HOUR_MS, Track, as_floats
from memory.learning.predictions import HORIZONS
from memory.reporting.evaluation_data import (
    ContestantRow,
    Curve,
    Figure,
    GainRow,
    KnowledgeRow,
    ReliabilityCurve,
    SizingRow,
)

PAIRS = (
    (WITH_MEMORY, WITHOUT_MEMORY),
    (WITH_MEMORY, PERMUTED),
    (WITH_ESTIMATES, WITHOUT_MEMORY),
    (REGULARISED, WITHOUT_MEMORY),
    (WITH_MEMORY, RIDGE_RULE),
    (WITH_MEMORY, BUY_AND_HOLD),
    (RIDGE_AND_MEMORY_RULE, RIDGE_RULE),
)
"""Who is compared with whom, where both are there."""

FORECAST_PAIRS = (
    (MEMORY_FORECAST, PERMUTED_FORECAST),
    (MEMORY_FORECAST, BASE_FORECAST),
    (MEMORY_FORECAST, RIDGE_FORECAST),
    (RIDGE_AND_MEMORY, RIDGE_FORECAST),
)
SIZING_PAIRS = (
    (MEMORY_FORECAST, TRAILING),
    (MEMORY_FORECAST, PERMUTED_FORECAST),
    (MEMORY_FORECAST, RIDGE_FORECAST),
    (RIDGE_AND_MEMORY, RIDGE_FORECAST),
)
LOSS, UNEVEN, RISK = "error of the forecast", "unevenness of risk", "risk taken by risk aimed at"
LESS_LOSS = "error less"
CURVE_HOURS = 6
"""Hours between points of an equity curve."""

POLICY, RULE, AGENT = "policy", "rule", "agent"


@dataclass(frozen=True)
class Assembly:
    """All staged results of an evaluation, and figures made of them.

    Attributes
    ----------
    settings
        What was evaluated.
    tracks
        By cell: all contestants, folds and seeds.
    prepared
        All folds and intervals.
    """

    settings: EvaluationSettings
    tracks: Mapping[Cell, Sequence[Track]]
    prepared: Sequence[Prepared]

    @cached_property
    def records(self) -> dict[Cell, dict[str, Records]]:
        """By cell and contestant."""
        out: dict[Cell, dict[str, Records]] = {}
        for cell, tracks in self.tracks.items():
            names = dict.fromkeys(track.contestant for track in tracks)
            out[cell] = {name: Records([t for t in tracks if t.contestant == name]) for name in names}
        return out

    def resampling(self, days: int) -> Resampling:
        """Resamples of so many days: the same for every contestant of a cell, and for all cells of the same days."""
        settings = self.settings
        return Resampling.draw(
            days,
            len(settings.seeds),
            resamples=settings.resamples,
            block_days=settings.block_days,
            confidence=settings.confidence,
            random_state=settings.resampling_seed,
        )

    def contestants(self, cell: Cell) -> list[ContestantRow]:
        """Everyone in a cell: policies first, then rules, then agents."""
        rows = []
        for name, records in self.records[cell].items():
            own = [track for track in self.tracks[cell] if track.contestant == name]
            rows.append(
                ContestantRow(
                    name=name,
                    sort=sort_of(name),
                    seeds=len(records.seeds),
                    figures=figures_of(records, self.resampling(len(records.days))),
                    return_ic={
                        horizon: mean_over_days(values, confidence=self.settings.confidence)
                        for horizon, values in self._daily_ic(own).items()
                    },
                )
            )
        order = {POLICY: 0, RULE: 1, AGENT: 2}
        return sorted(rows, key=lambda row: order[row.sort])

    def gains(self) -> list[GainRow]:
        """Paired differences of all cells, the reference first."""
        rows = []
        for cell, found in self.records.items():
            for ours, theirs in PAIRS:
                if ours not in found or theirs not in found:
                    continue
                left, right = (
                    self._daily_ic([t for t in self.tracks[cell] if t.contestant == name]) for name in (ours, theirs)
                )
                rows.append(
                    GainRow(
                        cell=cell.name,
                        ours=ours,
                        theirs=theirs,
                        figures=gain_of(found[ours], found[theirs], self.resampling(len(found[ours].days))),
                        return_ic={
                            horizon: mean_over_days(left[horizon] - right[horizon], confidence=self.settings.confidence)
                            for horizon in left
                            if horizon in right
                        },
                    )
                )
        return rows

    def _daily_ic(self, tracks: Sequence[Track]) -> dict[int, FloatArray]:
        """Rank correlation a day by horizon, seeds averaged, folds one after the other."""
        if not tracks or not tracks[0].return_ic:
            return {}
        seeds = list(dict.fromkeys(track.seed for track in tracks))
        return {
            horizon: np.mean(
                [
                    np.concatenate(
                        [as_floats(t.return_ic)[horizon] for t in sorted(tracks, key=_first_day) if t.seed == seed]
                    )
                    for seed in seeds
                ],
                axis=0,
            )
            for horizon in HORIZONS
        }

    # --- forecasts -------------------------------------------------------------------------------------------

    def knowledge(self) -> list[KnowledgeRow]:
        """Rank correlations of all forecasters at the reference interval, and differences between some."""
        daily = self._forecast_days()
        confidence = self.settings.confidence
        rows = []
        for outcome in ("volatility", "return"):
            for name in FORECASTERS:
                series = daily[name, outcome]
                found = {h: mean_over_days(values, confidence=confidence) for h, values in series.items()}
                rows.append(KnowledgeRow(name, outcome, found))
            for ours, theirs in FORECAST_PAIRS:
                left, right = daily[ours, outcome], daily[theirs, outcome]
                found = {h: mean_over_days(left[h] - right[h], confidence=confidence) for h in left}
                rows.append(KnowledgeRow(f"{ours} less {theirs}", outcome, found, gain=True))
        return rows

    def _forecast_days(self) -> dict[tuple[str, str], dict[int, FloatArray]]:
        interval = self.settings.reference.interval_minutes
        folds = sorted((p for p in self.prepared if p.interval_minutes == interval), key=lambda p: p.first_day_ms)
        out: dict[tuple[str, str], dict[int, list[float]]] = {}
        for fold in folds:
            for track in fold.forecasts:
                series = out.setdefault((track.forecaster, track.outcome), {})
                for horizon, values in as_floats(track.ic).items():
                    series.setdefault(horizon, []).extend(values)
        return {key: {h: np.array(values) for h, values in series.items()} for key, series in out.items()}

    def reliability(self) -> list[ReliabilityCurve]:
        """Mean forecast against mean outcome by fifths: volatility at sizing's horizon, returns at the decision's."""
        interval = self.settings.reference.interval_minutes
        folds = [p for p in self.prepared if p.interval_minutes == interval]
        chosen = {
            "return": max(h for h in HORIZONS if h <= interval),
            "volatility": self.settings.sizing_horizon_minutes,
        }
        curves = []
        for outcome, horizon in chosen.items():
            for name in (MEMORY_FORECAST, RIDGE_FORECAST, PERMUTED_FORECAST):
                bins = [
                    track.bins[str(horizon)]
                    for fold in folds
                    for track in fold.forecasts
                    if (track.forecaster, track.outcome) == (name, outcome) and track.bins[str(horizon)]
                ]
                if bins:
                    points = np.mean(np.array(bins), axis=0)
                    curves.append(ReliabilityCurve(name, outcome, horizon, [(float(x), float(y)) for x, y in points]))
        return curves

    # --- sizing ----------------------------------------------------------------------------------------------

    def sizing(self) -> tuple[list[SizingRow], list[GainRow]]:
        """How each forecast of risk did, and what memory's does better."""
        cell, confidence = self.settings.reference, self.settings.confidence
        tracks = [track for prepared in self.prepared for track in prepared.risk]
        records: dict[str, Records] = {}
        losses: dict[str, FloatArray] = {}
        rows = []
        for name in SIZED_BY:
            own = sorted((track for track in tracks if track.forecaster == name), key=lambda track: track.days[0])
            if not own:
                continue
            records[name] = Records([track.held for track in own])
            losses[name] = _joined([track.loss for track in own])
            risk = _joined([track.risk for track in own])
            resampling = self.resampling(len(risk))
            figures = figures_of(records[name], resampling)
            rows.append(
                SizingRow(
                    name,
                    {
                        LOSS: mean_over_days(losses[name], confidence=confidence),
                        RISK: mean_over_days(risk, confidence=confidence),
                        UNEVEN: Figure(
                            _unevenness(risk),
                            resampling.interval_of(np.array([_unevenness(risk[days]) for days in resampling.days])),
                        ),
                        **figures,
                    },
                )
            )
        gains = [
            GainRow(
                cell=cell.name,
                ours=ours,
                theirs=theirs,
                figures={
                    LESS_LOSS: mean_over_days(losses[theirs] - losses[ours], confidence=confidence),
                    **gain_of(records[ours], records[theirs], self.resampling(len(records[ours].days))),
                },
            )
            for ours, theirs in SIZING_PAIRS
            if ours in records and theirs in records
        ]
        return rows, gains

    # --- curves ----------------------------------------------------------------------------------------------

    def curves(self) -> list[Curve]:
        """Cumulative net returns on the reference cell: everyone but the random agent, who is noise."""
        return [
            _curve(name, records) for name, records in self.records[self.settings.reference].items() if name != "random"
        ]

    def breaks(self) -> list[int]:
        """Starts of the folds' test spans."""
        return sorted({prepared.first_day_ms for prepared in self.prepared})


def sort_of(name: str) -> str:
    """Whether a contestant is a policy, a rule or an agent."""
    if name in POLICIES:
        return POLICY
    return RULE if name in RULES else AGENT


def summary_figures(rows: Sequence[ContestantRow]) -> dict[str, dict[str, float | None]]:
    """Total return and Sharpe ratio by contestant: what a run's result keeps."""
    return {row.name: {name: row.figures[name].value for name in (TOTAL, SHARPE)} for row in rows}


def _curve(name: str, records: Records) -> Curve:
    hours = records.net.reshape(len(records.seeds), -1)
    curves = np.cumsum(hours, axis=1)[:, CURVE_HOURS - 1 :: CURVE_HOURS]
    start = np.repeat(np.array(records.days), 24) + np.tile(np.arange(24), len(records.days)) * HOUR_MS
    several = len(records.seeds) > 1
    return Curve(
        name=name,
        sort=sort_of(name),
        time_ms=(start[CURVE_HOURS - 1 :: CURVE_HOURS] + HOUR_MS).tolist(),
        value=curves.mean(axis=0).tolist(),
        low=curves.min(axis=0).tolist() if several else [],
        high=curves.max(axis=0).tolist() if several else [],
    )


def _joined(series: Sequence[Sequence[float | None]]) -> FloatArray:
    return np.array([np.nan if value is None else value for values in series for value in values], dtype=np.float64)


def _unevenness(risk: FloatArray) -> float:
    """Standard deviation of the risk a day by its mean: 0 is the same risk every day."""
    known = risk[np.isfinite(risk)]
    return float(known.std() / known.mean()) if len(known) > 1 and known.mean() > 0 else float("nan")


def _first_day(track: Track) -> int:
    return track.days[0]
