"""The night in plain words says no more than the figures allow."""

from __future__ import annotations

from dataclasses import replace

import pytest

from memory.records import Interval
from memory.reporting import ReportData
from memory.reporting.data import NightCounts, ScorecardEntry, ScorecardNight
from memory.reporting.headlines import figures, sentences


def said(data: ReportData, heading: str) -> str:
    return next(sentence.text for sentence in sentences(data) if sentence.heading == heading)


def with_night(data: ReportData, **counts: object) -> ReportData:
    return replace(data, nights=(NightCounts(window_name=data.facts.window_name, **counts),))


def with_scores(data: ReportData, patterns: ScorecardEntry, null: float) -> ReportData:
    balls = replace(patterns, predictor="balls", ic=null)
    card = ScorecardNight(window_name=data.facts.window_name, coverage=0.4, entries=(patterns, balls))
    return replace(data, scorecards=(card,))


def entry(low: float, high: float, horizon: int = 5) -> ScorecardEntry:
    return ScorecardEntry(
        predictor="patterns",
        outcome="volatility",
        horizon_minutes=horizon,
        n=500,
        blocks=40,
        ic=(low + high) / 2,
        interval=Interval(low=low, high=high),
    )


@pytest.mark.parametrize(
    ("rate", "null", "verdict"),
    [
        (0.5, 0.2, "recurrence beyond chance"),
        (0.22, 0.2, "not to be told from chance"),
        (0.05, 0.4, "less than random balls recur"),
    ],
)
def test_recurrence_is_judged_against_the_null(minimal: ReportData, rate: float, null: float, verdict: str) -> None:
    text = said(with_night(minimal, clusters=50, confirmation_rate=rate, null_confirmation_rate=null), "Chance")
    assert f"the null would have confirmed {100 * null:.0f}\u00a0%" in text
    assert verdict in text


def test_the_same_excess_over_few_clusters_is_no_more_than_chance(minimal: ReportData) -> None:
    rates = {"confirmation_rate": 0.5, "null_confirmation_rate": 0.3}
    assert "not to be told from chance" in said(with_night(minimal, clusters=4, **rates), "Chance")
    assert "recurrence beyond chance" in said(with_night(minimal, clusters=400, **rates), "Chance")


def test_nights_too_small_to_judge_alone_are_judged_together(minimal: ReportData) -> None:
    one = NightCounts(
        window_name=minimal.facts.window_name, clusters=10, confirmation_rate=0.2, null_confirmation_rate=0.028
    )
    assert "not to be told from chance" in said(replace(minimal, nights=(one,)), "Chance")
    assert "Over" not in said(replace(minimal, nights=(one,)), "Chance")
    several = tuple(replace(one, window_name=f"2021-06-{day}") for day in (18, 19, 20, 21))
    text = said(replace(minimal, nights=several), "Chance")
    assert "Over 4 nights" in text
    assert text.endswith("recurrence beyond chance.")


def test_recurrence_without_a_null_is_not_praised(minimal: ReportData) -> None:
    text = said(with_night(minimal, clusters=50, confirmation_rate=0.9), "Chance")
    assert "says nothing yet" in text


@pytest.mark.parametrize(
    ("low", "high", "null", "verdict"),
    [
        (0.08, 0.12, 0.05, "better than random balls"),
        (0.04, 0.12, 0.05, "not surely more than random balls"),
        (-0.02, 0.06, 0.05, "not told apart from zero"),
        (-0.02, 0.06, -0.5, "not told apart from zero"),
        (-0.12, -0.06, 0.0, "worse than nothing"),
    ],
)
def test_predictions_are_judged_against_zero_and_the_null(
    minimal: ReportData, low: float, high: float, null: float, verdict: str
) -> None:
    assert verdict in said(with_scores(minimal, entry(low, high), null), "Predicted")


def test_the_nearest_scored_horizon_stands_in_for_the_headline_s(minimal: ReportData) -> None:
    card = ScorecardNight(
        window_name=minimal.facts.window_name, coverage=None, entries=(entry(0.1, 0.2, 60), entry(0.0, 0.1, 15))
    )
    assert "within 15 min" in said(replace(minimal, scorecards=(card,)), "Predicted")


def test_scores_of_another_night_are_not_quoted(minimal: ReportData) -> None:
    card = ScorecardNight(window_name="2021-06-20", coverage=0.4, entries=(entry(0.1, 0.2),))
    assert "No predictions were scored" in said(replace(minimal, scorecards=(card,)), "Predicted")


def test_what_was_left_out_is_named(full: ReportData) -> None:
    assert "3 refused" in said(full, "Read")
    clean = replace(full.recording, dead_letters=0, gaps=())
    assert said(replace(full, recording=clean), "Read").endswith("Nothing was left out.")


def test_confirmed_by_the_null_scales_with_both_rates() -> None:
    night = NightCounts(
        window_name="2021-06-21", patterns_confirmed=12, confirmation_rate=0.4, null_confirmation_rate=0.2
    )
    assert night.null_confirmed == pytest.approx(6.0)
    assert replace(night, confirmation_rate=None).null_confirmed is None
    assert replace(night, confirmation_rate=0.0).null_confirmed is None


def test_figures_that_were_not_measured_are_left_out(minimal: ReportData, full: ReportData) -> None:
    assert figures(minimal) == []
    assert {figure.label for figure in figures(full)} >= {"experiences", "patterns", "volatility IC", "search p50"}
