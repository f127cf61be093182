"""The evaluation as a flow: the short version end to end, found again when it is repeated, and bad input."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from agents.evaluation.settings import POLICIES
from agents.policy import extra
from flows.evaluate_agents import evaluate_agents
from flows.forms.evaluate_agents import Parameters
from memory.errors import MarketDataError, MissingExtraError
from memory.ledger import Ledger
from memory.settings import Settings
from tasks.evaluation import plan_evaluation, plan_text
from tasks.markets import FIRST_TEST_MONTH

NAMESPACE = "t-evaluation"
DEFAULTS: dict[str, Any] = {
    "market": None,
    "products": ["BTC-USDT"],
    "short": True,
    "final": False,
    "whole_grid": False,
    "folds": 4,
    "seeds": 5,
    "steps": 3,
    "workers": None,
}


@pytest.fixture
def here(tmp_path: Path) -> Settings:
    """Settings of a home of its own."""
    return Settings(home=tmp_path, namespace=NAMESPACE, history=None)


@pytest.mark.usefixtures("prefect_server")
def test_the_short_version_ends_in_a_report_and_is_found_again_without_a_process(
    configured: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = Parameters(namespace=configured, short=True, products=["BTC-USDT"], steps=3)
    result = evaluate_agents(parameters)
    assert not result["conclusive"]
    assert result["findings"][0]["heading"] == "Too short to conclude"
    assert {row["contestant"] for row in result["contestants"]} >= set(POLICIES)
    page = Path(result["report"]).read_text(encoding="utf-8")
    assert "Too short to conclude" in page
    run = ledger.runs.last(configured, "evaluate_agents")
    assert run is not None
    assert (run.run_id, run.report_path) == (result["run_id"], result["report"])
    started: list[object] = []
    monkeypatch.setattr("tasks.evaluation.worker_processes", lambda *given: started.append(given))
    again = evaluate_agents(parameters.model_copy(update={"workers": 2}))
    assert again["contestants"] == result["contestants"]
    assert not started
    assert again["seconds"]["policies"] < result["seconds"]["policies"]


def test_without_history_the_sample_is_evaluated_in_folds_of_days(here: Settings) -> None:
    evaluation = plan_evaluation(here, **{**DEFAULTS, "short": False, "products": None})
    assert evaluation.market == "binance"
    assert len(evaluation.plan.folds) == 4
    assert not evaluation.conclusive
    assert "binance" in plan_text(evaluation)


def test_nothing_after_the_last_test_span_is_read(here: Settings) -> None:
    plan = plan_evaluation(here, **DEFAULTS).plan
    changed = plan_evaluation(here, **{**DEFAULTS, "steps": 4}).plan
    assert plan.key != changed.key
    assert plan.folds[-1].test_end <= datetime(2021, 6, 18, tzinfo=UTC)


def test_the_default_months_end_before_the_held_out_span() -> None:
    assert datetime(2018, 6, 1, tzinfo=UTC) == FIRST_TEST_MONTH
    with pytest.raises(ValidationError, match="held-out"):
        Parameters(folds=5)
    with pytest.raises(ValidationError, match="choose one"):
        Parameters(short=True, final=True)


def test_the_held_out_span_needs_the_market_that_holds_it(here: Settings) -> None:
    with pytest.raises(MarketDataError, match="COINSWARM_HISTORY"):
        plan_evaluation(here, **{**DEFAULTS, "short": False, "final": True})


def test_without_torch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extra, "find_spec", lambda _name: None)
    with pytest.raises(MissingExtraError, match=r"coinswarm-memory\[policy\]"):
        Parameters(short=True).check()
