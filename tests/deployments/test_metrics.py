"""The exporter: what it tells of a memory, by names that alerts can rely on, whatever server is away."""

from __future__ import annotations

import math
import re
import socket
import time
import urllib.request
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa
import yaml
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

import deployments
from deployments import metrics as exporter
from deployments.looking import LedgerSchemaError, Sight, servers_as_asked
from deployments.metric_families import METRICS, families
from deployments.metrics import OWN_METRICS, MetricsPortError, read_once, start_metrics
from deployments.patience import LookError
from deployments.prefect_state import DeploymentState, Looked, PrefectState
from deployments.reaching import READY, Reached
from memory.embedded.home import Home, write_json
from memory.ledger import BenchmarkMetric, Ledger
from memory.settings import Settings
from memory.window import Window
from tasks.observing import LEDGER, Observation

ALERTS = Path(deployments.__file__).with_name("alerts.yml")
NAMES = {f"{metric.name}_total" if metric.counter else metric.name for metric in METRICS} | set(OWN_METRICS)
WORDS = {"and", "on", "or", "unless", "by", "without", "ignoring", "bool", "offset"}
FUNCTIONS = {"absent", "delta", "increase", "rate", "time", "max", "min", "sum"}
SERVERS = ("redis", "postgres", "prefect")
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def read(text: str) -> Samples:
    """Samples by name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Any, name: str, **labels: str) -> float:
    found: float = samples[name, frozenset(labels.items())]
    return found


# --- names -----------------------------------------------------------------------------------------------------


def test_names_follow_the_conventions_of_prometheus() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for name in (*(metric.name for metric in METRICS), *OWN_METRICS):
        assert re.fullmatch(r"coinswarm(_[a-z]+)+", name), name
        # Base units only, at the end; `_total` and the like belong to counters and histograms, which add them.
        assert not re.search(r"_(ms|milliseconds|minutes|hours|kb|mb|percent)(_|$)", name), name
        assert not name.endswith(("_total", "_count", "_sum", "_bucket")), name
        assert "timestamp" not in name or name.endswith("_timestamp_seconds"), name
    for metric in METRICS:
        assert metric.help.endswith("."), metric.name
        assert all(re.fullmatch(r"[a-z]+", label) and label != "quantile" for label in metric.labels), metric.name


def metrics_of(expression: str) -> set[str]:
    """Names of metrics in a PromQL expression: words that are neither functions, keywords, labels nor values."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\"[^\"]*\"", " ", expression)
    bare = re.sub(r"\b(on|by|ignoring|without)\s*\([^)]*\)", " ", bare)
    return set(re.findall(r"[a-zA-Z_][a-zA-Z0-9_]*", bare)) - WORDS - FUNCTIONS


def rules() -> list[dict[str, Any]]:
    found = yaml.safe_load(ALERTS.read_text())
    return [rule for group in found["groups"] for rule in group["rules"]]


def test_every_metric_and_label_that_an_alert_asks_for_exists() -> None:
    labels = {f"{metric.name}_total" if metric.counter else metric.name: set(metric.labels) for metric in METRICS}
    for rule in rules():
        used = metrics_of(rule["expr"])
        assert used, rule["alert"]
        assert used <= NAMES, (rule["alert"], used - NAMES)
        for name, selectors in re.findall(r"(coinswarm_\w+)\{([^}]*)\}", rule["expr"]):
            assert set(re.findall(r"(\w+)\s*(?:=|!=|=~|!~)\s*\"", selectors)) <= labels[name], rule["alert"]
        shown = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        known = set().union(*(labels.get(name, set()) for name in used)) | {"namespace"}
        assert shown <= known, rule["alert"]


def test_every_alert_has_a_name_a_severity_and_something_to_do() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names) > 10
    for rule in rules():
        assert re.fullmatch(r"Coinswarm[A-Za-z]+", rule["alert"])
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["action"]


# --- values ----------------------------------------------------------------------------------------------------


def planted(ledger: Ledger, namespace: str) -> None:
    """A night that succeeded, one that failed, and a benchmark."""
    window = Window.of_date(date(2021, 6, 17))
    succeeded = ledger.runs.start("nightly", namespace, {}, window=window, lease_s=60)
    ledger.runs.finish(succeeded, {})
    ledger.runs.fail(ledger.runs.start("nightly", namespace, {}, window=window, lease_s=60), "Redis was away")
    figures = [
        BenchmarkMetric(metric="by agent: p99", value=2.5, unit="ms"),
        BenchmarkMetric(metric="recall", value=0.99, unit="share", lower_is_better=False),
        BenchmarkMetric(metric="queries a second", value=1000.0, unit="1/s", lower_is_better=False),
    ]
    ledger.benchmarks.record(namespace, succeeded, "machine", figures)


def test_what_ledger_and_redis_hold_is_told_with_the_namespace(ledger: Ledger, configured: str) -> None:
    planted(ledger, configured)
    other = f"{configured}-o"
    samples = read(read_once(Settings(), [configured, other]))
    assert value(samples, "coinswarm_up", server="redis") == value(samples, "coinswarm_up", server="postgres") == 1
    assert ("coinswarm_up", frozenset({("server", "prefect")})) not in samples
    assert value(samples, "coinswarm_flow_failed", namespace=configured, flow="nightly") == 1
    ended = value(samples, "coinswarm_flow_last_success_timestamp_seconds", namespace=configured, flow="nightly")
    assert abs(ended - time.time()) < 60
    assert value(samples, "coinswarm_flow_runs", namespace=configured, flow="nightly", status="failed") == 1
    latency = {"namespace": configured, "query": "by agent", "percentile": "99"}
    assert value(samples, "coinswarm_retrieval_latency_seconds", **latency) == pytest.approx(0.0025)
    assert value(samples, "coinswarm_retrieval_recall_ratio", namespace=configured) == 0.99
    for name in (configured, other):
        assert value(samples, "coinswarm_dead_letters", namespace=name) == 0
        assert value(samples, "coinswarm_dead_letters_received_total", namespace=name) == 0
        assert value(samples, "coinswarm_knowledge_windows", namespace=name) == 0
        assert value(samples, "coinswarm_inbox_oldest_age_seconds", namespace=name) == 0
    # Of a server there is one figure, however many namespaces are told about.
    assert sum(name == "coinswarm_redis_memory_used_bytes" for name, _ in samples) == 1
    assert {name for name, _ in samples} <= NAMES


def test_a_lost_redis_is_down_and_the_rest_is_told(
    ledger: Ledger, configured: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    planted(ledger, configured)
    monkeypatch.setenv("COINSWARM_REDIS_URL", f"unix://{tmp_path}/nobody.sock")
    monkeypatch.setenv("COINSWARM_REDIS_TIMEOUT_S", "0.2")
    samples = read(read_once(Settings()))
    assert value(samples, "coinswarm_up", server="redis") == 0
    assert value(samples, "coinswarm_up", server="postgres") == 1
    assert value(samples, "coinswarm_flow_failed", namespace=configured, flow="nightly") == 1
    assert not any(name == "coinswarm_dead_letters" for name, _ in samples)


def test_a_home_where_nothing_runs_is_told_as_down_and_nothing_is_started(tmp_path: Path) -> None:
    home = tmp_path / "home"
    for name in SERVERS:
        (home / name).mkdir(parents=True)
    (home / "postgres" / "18").mkdir()
    before = sorted(home.rglob("*"))
    samples = read(read_once(Settings(home=home, redis_url=None, database_url=None)))
    assert [value(samples, "coinswarm_up", server=name) for name in SERVERS] == [0, 0, 0]
    assert value(samples, "coinswarm_home_disk_free_bytes") > 0
    assert sorted(home.rglob("*")) == before


def test_a_home_that_cannot_be_looked_into_is_told_as_down(tmp_path: Path) -> None:
    home = Home.at(tmp_path / "home")
    home.create()
    home.stamp()
    write_json(home.version_file, {"version": 10_000})
    samples = read(read_once(Settings(home=home.directory, redis_url=None, database_url=None)))
    assert [value(samples, "coinswarm_up", server=name) for name in SERVERS] == [0, 0, 0]


@pytest.mark.parametrize("problem", [None, LedgerSchemaError("the ledger has schema 1.", remedy="Upgrade.")])
def test_a_postgres_without_a_ledger_that_can_be_read_is_up(problem: LedgerSchemaError | None) -> None:
    settings = Settings(database_url=SecretStr("postgresql://p/coinswarm"))
    reached = Reached.nowhere(settings, LookError("nobody looked.", remedy="Look."))
    problems = {} if problem is None else {LEDGER: problem}
    found = {server.name: server.state for server in servers_as_asked(reached, problems, None, None, Looked())}
    assert found["postgres"] == READY


@pytest.mark.parametrize("deployed", [True, False])
def test_a_worker_is_missing_only_where_something_is_deployed(deployed: bool) -> None:
    nightly = DeploymentState(
        name="nightly/mine", flow="nightly", pool="p", paused=False, scheduled=True, ready=False, next_run=None
    )
    prefect = PrefectState(url="", version="3", closed=True, deployments=[nightly] if deployed else [])
    sight = Sight(
        reached=Reached(redis_url=None, database_url=None, prefect_api_url=None, servers=()),
        servers=(),
        observation=Observation(namespace="mine", memory=None, ledger=None, observed_at=datetime.now(UTC)),
        prefect=Looked(prefect),
    )
    found = {family.name: [sample.value for sample in family.samples] for family in families([sight])}
    assert found.get("coinswarm_prefect_workers") == ([0] if deployed else None)


def test_a_server_that_hangs_costs_the_patience_and_is_down_and_is_not_asked_again_meanwhile(
    configured: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(0)
        port = silent.getsockname()[1]
        monkeypatch.setenv("COINSWARM_DATABASE_URL", f"postgresql://me@127.0.0.1:{port}/coinswarm")
        collector = exporter.StateCollector(Settings(), patience_s=3.0)
        for _ in range(2):
            begun = time.monotonic()
            (up,) = [family for family in collector.collect() if family.name == "coinswarm_up"]
            assert time.monotonic() - begun < 30
            found = {sample.labels["server"]: sample.value for sample in up.samples}
            assert (found["redis"], found["postgres"]) == (1, 0)
        asked, _ = silent.accept()
        asked.close()
        with pytest.raises(BlockingIOError):
            silent.accept()


# --- alerts ----------------------------------------------------------------------------------------------------


def fires(alert: str, samples: Samples, now: float, namespace: str) -> bool:
    """Whether an alert's expression holds of some samples, at a time, for a namespace.

    For comparisons of arithmetic joined by ``and on (namespace)``, which is what those of missed runs are. As in
    Prometheus, nothing compares with a series that is not there.
    """
    (rule,) = [rule for rule in rules() if rule["alert"] == alert]

    def valued(found: re.Match[str]) -> str:
        wanted = dict(re.findall(r'(\w+)="([^"]*)"', found[2] or "")) | {"namespace": namespace}
        return repr(samples.get((found[1], frozenset(wanted.items())), math.nan))

    told = re.sub(r"(coinswarm_\w+)(?:\{([^}]*)\})?", valued, rule["expr"])
    told = told.replace("and on (namespace)", "and").replace("time()", repr(now))
    return bool(eval(told, {"__builtins__": {}, "nan": math.nan}))  # of this project's own file


def ran(ledger: Ledger, namespace: str, flow: str, began: datetime, window: date | None) -> None:
    """A run that began at a time, and succeeded a minute later."""
    run = ledger.runs.start(flow, namespace, {}, window=Window.of_date(window) if window else None, lease_s=60)
    ledger.runs.finish(run, {})
    with ledger.transaction() as session:
        session.execute(
            sa.text("UPDATE runs SET started_at = :began, finished_at = :ended WHERE run_id = :run"),
            {"began": began, "ended": began + timedelta(minutes=1), "run": run},
        )


HISTORY = date(2021, 6, 17)


@pytest.mark.parametrize(
    ("ago_h", "history", "missed"),
    [
        pytest.param((30, 54), False, True, id="nights by day"),
        pytest.param((20, 44), False, False, id="the last one of today"),
        pytest.param((30, 90), False, True, id="nights after a weekend"),
        pytest.param((30,), False, False, id="one night by hand"),
        pytest.param((30, 30.5, 31), False, False, id="one night, repeated"),
        pytest.param((30, 54, 78), True, False, id="history, day after day"),
        pytest.param((30, 240), False, False, id="two nights, far apart"),
    ],
)
def test_a_night_is_missed_where_nights_were_regular(
    ledger: Ledger, configured: str, ago_h: tuple[float, ...], history: bool, missed: bool
) -> None:
    # At noon, so that hours ago are the days that they seem to be.
    now = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
    for hours in ago_h:
        began = now - timedelta(hours=hours)
        ran(ledger, configured, "nightly", began, HISTORY if history else began.date() - timedelta(days=1))
    samples = read(read_once(Settings()))
    assert fires("CoinswarmNightMissed", samples, now.timestamp(), configured) is missed


@pytest.mark.parametrize(("ago_h", "missed"), [((52, 76), True), ((52,), False), ((40, 64), False)])
def test_a_backup_is_missed_where_backups_were_regular(
    ledger: Ledger, configured: str, ago_h: tuple[float, ...], missed: bool
) -> None:
    now = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
    for hours in ago_h:
        ran(ledger, configured, "backup_memory", now - timedelta(hours=hours), None)
    samples = read(read_once(Settings()))
    assert fires("CoinswarmBackupMissed", samples, now.timestamp(), configured) is missed


def test_a_namespace_that_never_ran_misses_nothing(configured: str) -> None:
    samples = read(read_once(Settings()))
    assert not fires("CoinswarmNightMissed", samples, time.time(), configured)


# --- serving ---------------------------------------------------------------------------------------------------


def test_it_is_served_on_the_loopback_until_closed(configured: str) -> None:
    with start_metrics(Settings(), port=0) as server:
        assert server.url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(server.url, timeout=30) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain")
            assert value(read(answer.read().decode()), "coinswarm_up", server="redis") == 1
        port = int(server.url.rpartition(":")[2].partition("/")[0])
        with pytest.raises(MetricsPortError, match=f"{port}.*--port"):
            start_metrics(Settings(), port=port)
    start_metrics(Settings(), port=port).close()


def test_a_second_home_has_metrics_at_a_free_port_and_says_so(configured: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as first:
        monkeypatch.setattr(exporter, "PORT", first.getsockname()[1])
        with exporter.open_metrics(Settings(), said.append) as server:
            port = urlsplit(server.url).port
            assert port not in (None, 0, exporter.PORT)
            with urllib.request.urlopen(server.url, timeout=30) as answer:
                assert answer.status == 200
    (told,) = said
    assert f"Port {exporter.PORT} is taken" in told
    assert server.url in told


def test_a_port_that_was_chosen_and_is_taken_is_an_error(configured: str) -> None:
    said: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as first:
        port = first.getsockname()[1]
        with pytest.raises(MetricsPortError, match=f"{port}.*taken.*--metrics-port"):
            exporter.open_metrics(Settings(metrics_port=port), said.append)
    with exporter.open_metrics(Settings(metrics_port=0), said.append) as server:
        assert urlsplit(server.url).port
    assert said == []


def test_an_address_of_another_machine_is_refused(configured: str) -> None:
    with pytest.raises(MetricsPortError, match=r"192\.0\.2\.1"):
        start_metrics(Settings(), port=0, address="192.0.2.1")
