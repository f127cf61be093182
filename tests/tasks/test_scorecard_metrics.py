"""The searchable figures of a window's scorecards."""

from __future__ import annotations

from memory.learning.agreement import Agreement
from memory.learning.scores import COVERED, OWN, PATTERNS, VOLATILITY, Score, Scorecard
from memory.ledger import ScorecardMetric
from memory.records import Interval
from tasks.projections import scorecard_metrics


def card(source: str = "replay", states: int = 100) -> Scorecard:
    found = Agreement(
        n=90,
        blocks=12,
        rank_correlation=0.2,
        rank_interval=Interval(low=0.1, high=0.3),
        slope=0.9,
        slope_interval=Interval(low=0.5, high=1.3),
        bias=-0.01,
        bins=(),
    )
    scores = [
        Score(predictor=PATTERNS, scope=scope, outcome=VOLATILITY, horizon_minutes=5, agreement=found)
        for scope in (OWN, COVERED)
    ]
    return Scorecard(
        algorithm_version="2",
        settings_hash="h",
        window="2021-06-20",
        start_ms=0,
        end_ms=86_400_000,
        encoder_id="enc",
        source=source,
        states=states,
        scored=states,
        remembered=10,
        patterns=3,
        balls=3,
        covered=0.25,
        covered_by_balls=None,
        scores=tuple(scores),
    )


def by_name(metrics: list[ScorecardMetric]) -> dict[tuple[str, str], ScorecardMetric]:
    return {(item.metric, item.predictor): item for item in metrics}


def test_correlation_calibration_bias_and_blocks_are_searchable_with_their_intervals():
    found = by_name(scorecard_metrics({"replay": card()}))
    assert (found["ic", PATTERNS].value, found["ic", PATTERNS].low, found["ic", PATTERNS].high) == (0.2, 0.1, 0.3)
    assert (found["slope", PATTERNS].low, found["slope", PATTERNS].high) == (0.5, 1.3)
    assert found["bias", PATTERNS].value == -0.01
    assert (found["blocks", PATTERNS].value, found["blocks", PATTERNS].n) == (12.0, 90)


def test_confirmation_stands_beside_the_null_and_the_rule_of_the_unmistakable():
    found = by_name(scorecard_metrics({"replay": card().with_confirmation(0.3, 0.04, 0.1)}))
    assert found["confirmation_rate", PATTERNS].value == 0.3
    assert found["confirmation_rate", "null"].value == 0.04
    assert found["unmistakable_share", PATTERNS].value == 0.1


def test_what_is_not_known_has_no_figure():
    names = set(by_name(scorecard_metrics({"replay": card()})))
    assert not names & {("confirmation_rate", PATTERNS), ("unmistakable_share", PATTERNS), ("coverage", "balls")}
    assert scorecard_metrics({}) == []
