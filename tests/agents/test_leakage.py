"""Leak checks of the chain from candles to experiences: nothing leaks, and what would leak is caught."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

import agents.leakage
import agents.replay
from agents.encoder import StateEncoder
from agents.features import FeatureTable, compute_features
from agents.leakage import LeakCheck, changed_after, compared, differences, market_checks
from agents.market import Market
from memory.records import to_ms

AS_OF = datetime(2021, 6, 18, 6, tzinfo=UTC)


@pytest.fixture(scope="module")
def bitcoin(binance: Market) -> Market:
    return Market("leaks", [binance.products["BTC-USDT"]])


@pytest.mark.parametrize("as_of", [AS_OF, AS_OF.replace(hour=0)], ids=["morning", "midnight"])
def test_nothing_known_as_of_a_time_depends_on_later_candles(
    bitcoin: Market, encoder: StateEncoder, as_of: datetime
) -> None:
    checks = market_checks(bitcoin, as_of, encoder)
    assert {check.name: check.verdict for check in checks} == {check.name: "ok" for check in checks}
    assert all(check.values > 2 for check in checks)


def _ahead(*args: Any, **options: Any) -> FeatureTable:
    table = compute_features(*args, **options)
    return replace(table, values=np.roll(table.values, -1, axis=0))


@pytest.mark.parametrize(
    ("module", "caught"),
    [(agents.leakage, {"features"}), (agents.replay, {"states and regimes", "experiences and labels"})],
    ids=["features", "states and experiences"],
)
def test_a_feature_that_looks_one_bar_ahead_is_caught(
    bitcoin: Market, encoder: StateEncoder, monkeypatch: pytest.MonkeyPatch, module: Any, caught: set[str]
) -> None:
    monkeypatch.setattr(module, "compute_features", _ahead)
    leaking = {check.name: check.difference for check in market_checks(bitcoin, AS_OF, encoder) if check.difference}
    assert caught <= leaking.keys()
    assert all("the change" in said for said in leaking.values())


def test_an_encoder_fitted_to_later_candles_is_caught(
    bitcoin: Market, encoder: StateEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit: Callable[..., StateEncoder] = agents.leakage.fit_encoder
    later = AS_OF.replace(hour=8)
    monkeypatch.setattr(agents.leakage, "fit_encoder", lambda market, until, **options: fit(market, later, **options))
    checks = {check.name: check for check in market_checks(bitcoin, AS_OF, encoder)}
    assert checks["encoders fitted until then"].verdict == "LEAK"


def test_a_changed_market_is_the_same_up_to_its_time_and_differs_in_every_bar_after(coinbase: Market) -> None:
    as_of = datetime(2018, 4, 4, 12, tzinfo=UTC)
    changed = changed_after(coinbase, as_of, seed=3)
    for product_id, candles in coinbase.products.items():
        other = changed.products[product_id]
        end = to_ms(as_of) + 1
        for name in ("decision_ms", "close", "volume", "bid", "ask_size"):
            before = getattr(candles.between(0, end), name)
            np.testing.assert_array_equal(before, getattr(other.between(0, end), name))
        later = other.between(end, 2**62)
        at = np.searchsorted(candles.decision_ms, later.decision_ms)
        assert len(later) < len(candles.between(end, 2**62))
        for name in ("open", "close", "volume"):
            assert (getattr(later, name) != getattr(candles, name)[at]).mean() > 0.99
        assert (later.low <= later.high).all()


def test_the_first_difference_is_named_with_its_place_and_both_values() -> None:
    one = {"a": [1.0, float("nan")], "b": np.array([1.0, np.nan, 3.0])}
    other = {"a": [1.0, float("nan")], "b": np.array([1.0, np.nan, 4.0])}
    assert differences(one, one) == (5, 0, "")
    values, different, said = differences(one, other)
    assert (values, different) == (5, 1)
    assert "[b][2]" in said
    assert "3.0" in said
    assert "4.0" in said


@pytest.mark.parametrize(
    ("check", "verdict"),
    [
        (compared("x", [1], [1], [2], [3]), "ok"),
        (compared("x", [1], [2], [2], [3]), "LEAK"),
        (compared("x", [1], [1, 2]), "LEAK"),
        (compared("x", [1], [1], [2], [2]), "blind"),
        (compared("x", [[]], [[]], [2], [3]), "blind"),
        (LeakCheck("x", 0, None), "blind"),
    ],
    ids=["equal", "other", "more", "nothing changed later", "empty answers", "nothing compared"],
)
def test_a_check_that_could_not_have_seen_a_leak_is_not_ok(check: LeakCheck, verdict: str) -> None:
    assert check.verdict == verdict


def test_texts_that_differ_by_the_memories_names_alone_are_equal() -> None:
    assert compared("x", ["a-1/line"], ["b-2/line"], names=("a-1", "b-2")).verdict == "ok"
    assert compared("x", ["a-1/line"], ["b-2/other"], names=("a-1", "b-2")).verdict == "LEAK"
