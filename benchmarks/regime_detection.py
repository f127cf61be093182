"""Shows how well regimes are detected: by the rule alone, by its calibrated probabilities, and with the vote of memory.

Run as ``python -m benchmarks.regime_detection`` with COINSWARM_HISTORY set to the folder of larger history; it takes
about four minutes on one core. The calibration is fitted on Bitfinex, April and May 2018, and judged there in June and
July, and on the sample market of 2021. ``--write FILE`` saves the calibration; the one that ships was made so.

The memory is an exact one in arrays, as of four hours before each decision (`agents.regime_history`).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt

from agents.candles import FloatArray
from agents.encoder import StateEncoder
from agents.features import GAP_MINUTES, MINUTE_MS
from agents.fitting import default_encoder, fit_encoder
from agents.market import Market
from agents.regime_calibration import CalibrationRows, RegimeCalibration
from agents.regime_detection import SWITCH_MARGIN, most_probable
from agents.regime_history import MIN_DAYS, calibration_rows
from memory.records import REGIMES
from memory.settings import Settings

BINS = 10
DWELL_DAYS = 4
"""Days at whose every minute beliefs are formed, for dwell times."""
NEXT_MINUTES = 60

Codes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Forecast:
    """Regimes that a way of detecting names, and how sure it is; shape (n,)."""

    name: str
    regime: Codes
    confidence: FloatArray


@dataclass(frozen=True)
class Quality:
    """How well a forecast agrees with a target: share right, Brier score, mean gap of confidence and share right."""

    right: float
    brier: float
    gap: float
    table: list[tuple[int, float, float]]


def judge(forecast: Forecast, target: Codes) -> Quality:
    """Agreement of a forecast with the labels that are known; the table holds n, mean confidence and share right."""
    known = target >= 0
    right = (forecast.regime == target)[known]
    sure = forecast.confidence[known]
    bins = np.clip((sure * BINS).astype(int), 0, BINS - 1)
    table = []
    for bin_ in range(BINS):
        inside = bins == bin_
        if inside.any():
            table.append((int(inside.sum()), float(sure[inside].mean()), float(right[inside].mean())))
        else:
            table.append((0, np.nan, np.nan))
    gap = sum(n * abs(confidence - share) for n, confidence, share in table if n) / len(right)
    return Quality(float(right.mean()), float(np.mean((sure - right) ** 2)), gap, table)


def forecasts(
    rows: CalibrationRows, calibration: RegimeCalibration, fitted: CalibrationRows, target: str = "ahead"
) -> list[Forecast]:
    """What each way of detecting says of some rows; persistence is counted in those that the calibration was fitted
    to."""
    every = np.arange(len(rows))
    own = getattr(fitted, target)
    persistence = np.array([(own == code)[(fitted.rule == code) & (own >= 0)].mean() for code in range(len(REGIMES))])
    columns = (rows.rule, rows.share, rows.dwell_minutes, rows.candidate)
    alone = calibration.probabilities(*columns, None, target=target)
    joined = calibration.probabilities(*columns, rows.vote, target=target)
    named = [Forecast("rule, its share of the vote", rows.rule, rows.share)]
    named.append(Forecast("rule, how often it lasted", rows.rule, persistence[rows.rule]))
    named.append(Forecast("rule, calibrated", rows.rule, alone[every, rows.rule]))
    named.append(Forecast("rule, calibrated with memory", rows.rule, joined[every, rows.rule]))
    named.append(Forecast("memory's vote", np.argmax(rows.vote, axis=1), rows.vote.max(axis=1)))
    for name, chances in (("most probable, without memory", alone), ("most probable, with memory", joined)):
        named.append(Forecast(name, np.argmax(chances, axis=1), chances.max(axis=1)))
    return named


def believed(rows: CalibrationRows, calibration: RegimeCalibration) -> Codes:
    """Regimes that `RegimeDetectionAgent` would believe at rows of each minute, in time order of each product."""
    columns = (rows.rule, rows.share, rows.dwell_minutes, rows.candidate)
    with_memory = calibration.probabilities(*columns, rows.vote)
    without = calibration.probabilities(*columns, None)
    chances = np.where((rows.voting_days >= MIN_DAYS)[:, None], with_memory, without)
    out = np.zeros(len(rows), np.int64)
    held = -1
    for row in range(len(rows)):
        if row and not 0 < rows.timestamp_ms[row] - rows.timestamp_ms[row - 1] <= GAP_MINUTES * MINUTE_MS:
            held = -1
        best = REGIMES.index(most_probable(chances[row].tolist(), REGIMES[rows.rule[row]]))
        if held < 0 or chances[row, best] - chances[row, held] >= SWITCH_MARGIN:
            held = best
        out[row] = held
    return out


def spells(timestamp_ms: Codes, codes: Codes) -> tuple[FloatArray, Codes]:
    """Lengths in minutes of the spells of equal regimes, and their regimes; a gap, or another product, ends a spell."""
    step = np.diff(timestamp_ms)
    changes = (np.diff(codes) != 0) | (step > GAP_MINUTES * MINUTE_MS) | (step <= 0)
    starts = np.flatnonzero(np.append(True, changes))
    ends = np.append(starts[1:], len(codes)) - 1
    return (timestamp_ms[ends] - timestamp_ms[starts]) / MINUTE_MS + 1.0, codes[starts]


def show_quality(title: str, rows: CalibrationRows, calibration: RegimeCalibration, fitted: CalibrationRows) -> None:
    """Print the table of one span, and the reliability of what the agent says."""
    print(f"\n{title}: {len(rows):,} decisions")
    print(f"{'':34}{'label 30 minutes later':^30}{'centred label':^30}")
    print(f"{'':34}" + f"{'right':>10}{'Brier':>10}{'gap':>10}" * 2)
    shown: dict[str, Quality] = {}
    for forecast, again in zip(
        forecasts(rows, calibration, fitted), forecasts(rows, calibration, fitted, "hindsight"), strict=True
    ):
        ahead, hindsight = judge(forecast, rows.ahead), judge(again, rows.hindsight)
        shown[forecast.name] = ahead
        print(
            f"{forecast.name:34}{ahead.right:>10.1%}{ahead.brier:>10.4f}{ahead.gap:>10.3f}"
            f"{hindsight.right:>10.1%}{hindsight.brier:>10.4f}{hindsight.gap:>10.3f}"
        )
    print("reliability against the label 30 minutes later: n, mean confidence, share right")
    for name in ("rule, its share of the vote", "most probable, with memory"):
        cells = [f"{n:>6} {confidence:.2f} {share:.2f}" for n, confidence, share in shown[name].table if n]
        print(f"  {name}: " + " | ".join(cells))


def show_spells(title: str, market: Market, rows: CalibrationRows, calibration: RegimeCalibration) -> None:
    """Print shares, dwell times and what followed, of the rule's labels and of beliefs."""
    print(f"\n{title}: {len(rows):,} minutes")
    print(f"{'':26}" + "".join(f"{regime:>16}" for regime in REGIMES) + f"{'all':>10}")
    following = next_volatility(market, rows)
    for name, codes in (("rule", rows.rule), ("belief", believed(rows, calibration))):
        lengths, of = spells(rows.timestamp_ms, codes)
        share = [float((codes == code).mean()) for code in range(len(REGIMES))]
        dwell = [_mean_or_nan(lengths[of == code], np.median) for code in range(len(REGIMES))]
        after = [_mean_or_nan(following[codes == code], np.nanmean) * 1e4 for code in range(len(REGIMES))]
        print(f"{name + ', share of minutes':26}" + "".join(f"{value:>16.1%}" for value in share))
        print(
            f"{name + ', median dwell':26}"
            + "".join(f"{value:>16.1f}" for value in dwell)
            + f"{np.median(lengths):>10.1f}"
        )
        print(
            f"{name + ', next hour, bp':26}"
            + "".join(f"{value:>16.2f}" for value in after)
            + f"{np.nanmean(following) * 1e4:>10.2f}"
        )


def next_volatility(market: Market, rows: CalibrationRows) -> FloatArray:
    """Volatility a minute over the next hour, a fraction; rows are those of the market's products one after another."""
    parts = np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows.timestamp_ms) < 0) + 1)
    out = np.full(len(rows), np.nan)
    for part, candles in zip(parts, market.products.values(), strict=True):
        squares = np.append(0.0, np.cumsum(np.diff(np.log(candles.close), prepend=np.log(candles.close[0])) ** 2))
        times = rows.timestamp_ms[part]
        now = np.searchsorted(candles.decision_ms, times)
        later = np.searchsorted(candles.decision_ms, times + NEXT_MINUTES * MINUTE_MS, side="right") - 1
        out[part] = np.sqrt((squares[later + 1] - squares[now + 1]) / NEXT_MINUTES)
    return out


def _mean_or_nan(values: FloatArray, function: object) -> float:
    return float(function(values)) if len(values) else float("nan")  # type: ignore[operator]


def collected(
    market: Market, start: datetime, until: datetime, encoder: StateEncoder, since: datetime, every: int = 10
) -> CalibrationRows:
    """Rows of all products of a span, with labels known."""
    return CalibrationRows.joined(
        list(calibration_rows(market, start, until, encoder, memory_since=since, every_minutes=every))
    )


def usable(rows: CalibrationRows) -> CalibrationRows:
    """Those at which memory is asked and whose labels are known."""
    return rows.where((rows.voting_days >= MIN_DAYS) & (rows.ahead >= 0) & (rows.hindsight >= 0))


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit, judge and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, help="save the calibration here")
    options = parser.parse_args(arguments)
    if Settings().history is None:
        parser.error("set COINSWARM_HISTORY to the folder of larger history")
    bitfinex = Market.history("bitfinex")
    march, april, begin = (datetime(2018, month, day, tzinfo=UTC) for month, day in ((3, 1), (4, 1), (4, 8)))
    june, august = datetime(2018, 6, 1, tzinfo=UTC), datetime(2018, 8, 1, tzinfo=UTC)
    encoder = fit_encoder(bitfinex, april, since=march)
    fitted = collected(bitfinex, begin, june, encoder, april)
    calibration = RegimeCalibration().fit(fitted, fitted_until=june, min_days=MIN_DAYS)
    print(f"calibration {calibration.id_}, fitted on {len(fitted):,} decisions; states encoded by {encoder.id_}")
    if options.write:
        options.write.write_text(calibration.to_json(), encoding="utf-8")
    test = collected(bitfinex, june, august, encoder, april)
    show_quality("Bitfinex, June and July 2018", usable(test), calibration, fitted)
    minutes = collected(bitfinex, june, datetime(2018, 6, 1 + DWELL_DAYS, tzinfo=UTC), encoder, april, every=1)
    show_spells(f"Bitfinex, the first {DWELL_DAYS} days of June 2018", bitfinex, minutes, calibration)
    sample, shipped = Market.sample(), default_encoder()
    begun, ended = shipped.fitted_until_, datetime(2021, 7, 11, tzinfo=UTC)
    rows = collected(sample, begun, ended, shipped, begun)
    show_quality("Binance sample, June and July 2021", usable(rows), calibration, fitted)
    last = ended - timedelta(days=DWELL_DAYS)
    every = collected(sample, last, ended, shipped, begun, every=1)
    show_spells(f"Binance sample, its last {DWELL_DAYS} days", sample, every, calibration)


if __name__ == "__main__":
    main()
