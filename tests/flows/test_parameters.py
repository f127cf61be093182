"""Parameters of the flows: which window is meant, and what is refused."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from pydantic import ValidationError

from flows import FLOWS, load, parameters_of
from flows.parameters import ReplayWithoutMarketError, WindowParameters
from memory.errors import WindowError

DAY = dt.datetime(2021, 6, 17, tzinfo=dt.UTC)


def test_a_date_means_that_utc_day() -> None:
    window = WindowParameters(date=dt.date(2021, 6, 17)).window()
    assert (window.start, window.end) == (DAY, DAY + dt.timedelta(days=1))


def test_an_empty_window_means_the_last_full_day() -> None:
    window = WindowParameters().window()
    now = dt.datetime.now(dt.UTC)
    assert window.end <= now < window.end + dt.timedelta(days=1)


def test_a_span_on_the_grid_is_taken() -> None:
    assert WindowParameters(start=DAY, end=DAY + dt.timedelta(days=1)).window().name == "2021-06-17"


@pytest.mark.parametrize("hours", [0, 1, 23, 25, 48])
def test_a_span_off_the_grid_is_refused_with_a_span_on_it(hours: int) -> None:
    with pytest.raises(WindowError, match="Windows are UTC days, such as 2021-06-17T00:00:00"):
        WindowParameters(start=DAY, end=DAY + dt.timedelta(hours=hours)).window()


def test_half_a_span_is_refused() -> None:
    with pytest.raises(WindowError, match="Give start and end"):
        WindowParameters(start=DAY).window()


def test_a_date_beside_a_span_is_refused() -> None:
    with pytest.raises(WindowError, match="Give one of them"):
        WindowParameters(date=DAY.date(), start=DAY, end=DAY + dt.timedelta(days=1)).window()


def test_an_unknown_parameter_is_refused() -> None:
    with pytest.raises(ValidationError, match="windows"):
        WindowParameters.model_validate({"windows": 3})


def test_a_namespace_that_keys_cannot_hold_is_refused() -> None:
    with pytest.raises(ValidationError):
        WindowParameters(namespace="No:Colons")


@pytest.mark.parametrize("name", sorted(FLOWS))
def test_every_flow_takes_the_parameters_of_its_form_and_each_is_described(name: str) -> None:
    flow, model = load(name)
    assert model is parameters_of(name)
    assert get_type_hints(flow.fn)["parameters"] in (model, model | None)
    assert [field for field, info in model.model_fields.items() if not info.description] == []


def test_a_range_that_runs_backwards_is_refused() -> None:
    form = parameters_of("backfill")
    parameters = form.model_validate({"first": "2021-06-18", "last": "2021-06-17"})
    with pytest.raises(WindowError, match="Give the earlier date first"):
        parameters.check()


@pytest.mark.parametrize("flow", ["record_experiences", "nightly"])
@pytest.mark.parametrize("given", [{"market": "binance"}, {"market": "coinbase"}, {"products": ["BTC-USDT"]}])
def test_a_market_that_would_not_be_replayed_is_refused_with_how_to_replay_it(flow: str, given: dict[str, Any]) -> None:
    form = parameters_of(flow)
    with pytest.raises(ReplayWithoutMarketError, match=f"^{next(iter(given))}=") as caught:
        form.model_validate(given).check()
    assert "source=market" in caught.value.remedy
    form.model_validate({**given, "source": "market"}).check()


@pytest.mark.parametrize("given", [{"market": "coinbase"}, {"products": ["BTC-USDT"]}, {"encoder": "mine"}])
def test_a_back_fill_that_records_nothing_takes_no_market(given: dict[str, Any]) -> None:
    days = {"first": "2021-06-17", "last": "2021-06-17"}
    form = parameters_of("backfill")
    with pytest.raises(ReplayWithoutMarketError, match="record=true"):
        form.model_validate({**days, **given}).check()
    form.model_validate({**days, **given, "record": True}).check()


def test_an_encoder_is_for_inboxes_too() -> None:
    parameters_of("record_experiences").model_validate({"encoder": "mine"}).check()


#: What is wrong with each run of a flow, then whether anything heavy was imported or made on the way.
REFUSED = """
import json, sys
from datetime import date
from deployments.running import run_flow
from deployments.console import Console
from memory.errors import CoinswarmError

day, before = date(2021, 6, 17), date(2021, 6, 16)
said = []
for flow, dates, parameters in (
    ("nightly", (day, None, None), ["bad=1"]),
    ("nightly", (day, None, None), ["queries=1"]),
    ("consolidate_memories", (day, None, None), ["start=2021-06-17T00:00:00Z"]),
    ("update_transitions", (None, day, before), []),
    ("backfill", (None, day, before), []),
    ("backfill", (None, None, None), []),
    ("nightly", (day, None, None), ["market=coinbase"]),
    ("rebuild_memory", (None, None, None), ["into=No:Colons"]),
):
    try:
        run_flow(flow, *dates, parameters, None, Console(as_json=True))
    except CoinswarmError as error:
        said.append(str(error))
print(json.dumps([said, sorted({"prefect", "sqlalchemy", "sklearn", "polars"} & set(sys.modules))]))
"""


def test_a_wrong_parameter_is_refused_before_prefect_is_imported_or_a_home_is_made(tmp_path: Path) -> None:
    home = tmp_path / "home"
    done = subprocess.run(
        [sys.executable, "-c", REFUSED],
        env={**os.environ, "COINSWARM_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said, imported = json.loads(done.stdout)
    expected = [
        "nightly takes no parameter 'bad'. It takes ",
        "nightly: queries=1: Input should be greater than or equal to 20. queries: Queries of each kind",
        "both a date and a span are given. Give one of them.",
        "the range 2021-06-17 to 2021-06-16 runs backwards.",
        "the range 2021-06-17 to 2021-06-16 runs backwards.",
        "backfill needs the parameter 'first'. first: First UTC date",
        "market='coinbase' is given, and no market is replayed. Add source=market",
        "rebuild_memory: into=No:Colons: String should match pattern",
    ]
    assert [found.startswith(start) for found, start in zip(said, expected, strict=True)] == [True] * len(expected), (
        said
    )
    assert imported == []
    assert not home.exists()


def test_the_flow_of_every_few_minutes_loads_neither_charts_nor_clustering() -> None:
    program = (
        "import sys, flows.record_experiences; print(sorted({'matplotlib', 'sklearn', 'hdbscan'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "[]\n"
