"""`coinswarm patterns`: which patterns are chosen, in which order, and how they are shown."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
import rich.console

from deployments.one_pattern import show_pattern
from deployments.pattern_choice import Choice, Sort, Status
from deployments.patterns import CSV_COLUMNS, in_full, in_order, show_patterns, status_of, write_csv
from memory.records import Condition, Interval, Outcome, PatternMemory, VolatilityOutcome

DAY = datetime(2021, 6, 18, tzinfo=UTC)


def outcome(action: str = "LONG", shrunk: float = 1e-4, **changes: Any) -> Outcome:
    values: dict[str, Any] = {
        "action": action,
        "horizon_minutes": 15,
        "n": 40,
        "blocks": 9,
        "gross_mean": 5e-4,
        "net_mean": 1e-4,
        "interval": Interval(low=-1e-4, high=11e-4),
        "win_rate": 0.55,
        "gross_sharpe": 3.0,
        "net_sharpe": 1.0,
        "max_drawdown": 0.0123,
        "shrunk_net_mean": shrunk,
        "q_value": 0.2,
    }
    return Outcome(**{**values, **changes})


def pattern(name: str, **changes: Any) -> PatternMemory:
    values: dict[str, Any] = {
        "memory_id": name,
        "pattern_id": name,
        "description": f"In a quiet market: volume is drying up (0.5 to 0.7 times). Pattern {name}.",
        "encoder_id": "rff-1",
        "line": "ns/rff-1/1",
        "created_at": DAY,
        "valid_from": DAY,
        "concept_vector": np.full(256, 1 / 16, np.float32),
        "source": "replay",
        "regime": "QUIET",
        "product_ids": ("BTC-USDT",),
        "conditions": (
            Condition(feature="volume_trend", low=0.5, high=0.7, lift=1.1, phrase="volume is drying up (0.5 to 0.7)"),
        ),
        "support": 5,
        "effective_support": 3,
        "states": 40,
        "windows_seen": 1,
        "first_seen": DAY - timedelta(hours=20),
        "last_seen": DAY - timedelta(hours=2),
        "broad": False,
        "status": "new",
        "outcomes": (outcome(), outcome("SHORT", -2e-4), outcome("FLAT", 0.0)),
        "volatility": (
            VolatilityOutcome(horizon_minutes=15, n=40, blocks=9, mean=-0.8, interval=None, base_mean=-0.9),
        ),
        "expected_return": 1e-4,
        "best_action": "LONG",
    }
    return PatternMemory(**{**values, **changes})


def printed(show: Any, *arguments: Any, width: int = 200) -> str:
    out = rich.console.Console(width=width, force_terminal=False)
    with out.capture() as captured:
        show(*arguments, out) if show is show_pattern else show(arguments[0], out, *arguments[1:])
    return captured.get()


@pytest.mark.parametrize(
    ("choice", "admitted"),
    [
        (Choice(), True),
        (Choice(regime="QUIET", product_id="BTC-USDT", status=Status.NEW, min_support=5, text="DRYING volume"), True),
        (Choice(regime="CRISIS"), False),
        (Choice(product_id="ETH-USDT"), False),
        (Choice(status=Status.CONFIRMED), False),
        (Choice(status=Status.DEMOTED), False),
        (Choice(min_support=6), False),
        (Choice(text="volume rising"), False),
        (Choice(text="volume_trend"), True),
        (Choice(text="p-quiet"), True),
    ],
)
def test_a_pattern_is_chosen_where_all_that_is_asked_for_holds(choice: Choice, admitted: bool) -> None:
    assert choice.admits(pattern("p-quiet")) is admitted


def test_one_that_failed_is_demoted_whatever_else_it_is() -> None:
    failed = pattern("p-1", demoted=True, status="confirmed")
    assert Choice(status=Status.DEMOTED).admits(failed)
    assert not Choice(status=Status.CONFIRMED).admits(failed)
    assert status_of(in_full(failed)) == "demoted"


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        (Sort.NET, ["p-b", "p-a", "p-failed", "p-bare", "p-faded"]),
        (Sort.SUPPORT, ["p-faded", "p-b", "p-a", "p-bare", "p-failed"]),
        (Sort.SHARPE, ["p-failed", "p-a", "p-b", "p-bare", "p-faded"]),
        (Sort.CONFIDENCE, ["p-a", "p-failed", "p-faded", "p-b", "p-bare"]),
        (Sort.NEWEST, ["p-bare", "p-failed", "p-faded", "p-b", "p-a"]),
    ],
)
def test_each_order_has_its_figure_and_what_lacks_it_comes_last(sort: Sort, order: list[str]) -> None:
    found = [
        pattern("p-a", outcomes=(outcome(shrunk=1e-4, net_sharpe=2.0, q_value=0.01),)),
        pattern("p-b", outcomes=(outcome(shrunk=3e-4, net_sharpe=1.5, q_value=None),), support=8),
        pattern("p-failed", outcomes=(outcome(shrunk=9e-4, net_sharpe=4.0, q_value=0.1),), demoted=True, support=4),
        pattern("p-faded", outcomes=(outcome(shrunk=8e-4, net_sharpe=None),), status="faded", support=9),
        pattern("p-bare", outcomes=(), best_action=None),
    ]
    for days, name in enumerate(("p-a", "p-b", "p-faded", "p-failed", "p-bare")):
        found = [
            replace(item, created_at=DAY + timedelta(days=days)) if item.pattern_id == name else item for item in found
        ]
    assert [item.pattern_id for item in in_order(found, sort)] == order


def test_the_list_says_its_order_and_the_figure_of_it() -> None:
    found = [in_full(pattern("p-a")), in_full(pattern("p-b"))]
    text = printed(show_patterns, found, 1, Choice(sort=Sort.CONFIDENCE))
    assert "2 patterns, smallest q-value of the best trade first" in text
    assert "best trade LONG, 15 min: +1.0 bp net, shrunk, q 0.20" in text
    assert "p-b" not in text
    assert "--limit 2" in text


@pytest.mark.parametrize(("choice", "says"), [(Choice(), "coinswarm demo"), (Choice(text="x"), "leave out a filter")])
def test_an_empty_list_says_why(choice: Choice, says: str) -> None:
    assert says in printed(show_patterns, [], 20, choice)


def test_values_come_a_row_a_pattern(capsys: pytest.CaptureFixture[str]) -> None:
    write_csv([in_full(pattern("p-a", product_ids=("BTC-USDT", "ETH-USDT"))), in_full(pattern("p-bare", outcomes=()))])
    first, bare = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert tuple(first) == CSV_COLUMNS
    assert (first["pattern_id"], first["products"], first["action"], first["low"]) == (
        "p-a",
        "BTC-USDT ETH-USDT",
        "LONG",
        "-0.0001",
    )
    assert (bare["pattern_id"], bare["action"], bare["low"]) == ("p-bare", "", "")


def test_one_pattern_is_shown_whole() -> None:
    whole = {
        **in_full(
            pattern(
                "p-a",
                aliases=("p-old",),
                split_from="p-parent",
                realised={"momentum": {"buy_n": 3.0, "buy_mean": 2e-4, "buy_win_rate": 2 / 3}},
            )
        ),
        "asked": "p-old",
        "as_of": "2021-06-19T00:00:00+00:00",
        "products": {"BTC-USDT": 40},
        "clusters": [
            {
                **{"window": "2021-06-17", "partition": "rff-1/replay/QUIET", "label": 4, "cluster_id": "p-a"},
                **{"states": 40, "occurrences": 5, "first": None, "last": None},
                **{"cosine": None, "threshold": None, "rule": None},
            }
        ],
        "lineage": [
            {"window": "2021-06-17", "kind": "FOUNDED", "pattern_id": "p-a", "states": 40, "says": "a cluster did"}
        ],
    }
    text = printed(show_pattern, whole)
    for words in (
        "p-a, as of 2021-06-19 00:00 UTC",
        "known before as p-old",
        "a part of p-parent",
        "5 occurrences (3 that share no look-back), 40 states in 1 night",
        "volume_trend",
        "−1.0 to +11.0",
        "1.23\u00a0%",
        "BTC-USDT 40",
        "momentum",
        "+2.0",
        "founded it",
        "FOUNDED: a cluster did",
    ):
        assert words in text
