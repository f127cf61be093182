"""The command that does a failed run again has the run's own parameters and window."""

from __future__ import annotations

import shlex
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer.testing

from deployments import cli_run
from deployments.prefect_state import FailedRun
from deployments.retrying import failures, lost_failure, prefect_command, retry_command, unrecorded
from flows import FLOWS, parameters_of
from memory.embedded.home import Home
from memory.embedded.prefect_server import make_secret, read_secret
from memory.ledger import RunRecord
from memory.settings import Settings
from memory.window import Window

BEGUN = datetime(2021, 6, 18, 0, 10, tzinfo=UTC)
WINDOW = Window.of_date(date(2021, 6, 17))
MINUTE = timedelta(minutes=1)


def run(flow: str = "nightly", status: str = "FAILED", **changes: Any) -> RunRecord:
    values: dict[str, Any] = {
        "run_id": f"run-{flow}",
        "namespace": "crypto",
        "flow": flow,
        "window": WINDOW,
        "status": status,
        "parameters": {},
        "result": None,
        "error": "StoreUnavailableError: Redis\n  was away",
        "report_path": None,
        "flow_run_id": None,
        "host": "here",
        "process_id": 7,
        "lease_s": 60.0,
        "started_at": BEGUN,
        "heartbeat_at": BEGUN,
        "finished_at": BEGUN + 9 * MINUTE,
    }
    return RunRecord(**{**values, **changes})


def test_what_the_run_was_told_is_told_again() -> None:
    given = parameters_of("nightly")(namespace="crypto", source="market", products=["BTC-USDT"])
    found = retry_command(run(parameters=given.model_dump(mode="json")))
    assert found is not None
    assert shlex.split(found) == [
        *("coinswarm", "run", "nightly", "--namespace", "crypto", "--date", "2021-06-17"),
        *("--param", 'products=["BTC-USDT"]', "--param", "source=market"),
    ]


def test_a_range_is_given_as_a_range() -> None:
    given = {"namespace": "crypto", "first": "2021-06-01", "last": "2021-06-09", "record": True, "parallel": None}
    assert retry_command(run("backfill", window=None, parameters=given)) == (
        "coinswarm run backfill --namespace crypto --from 2021-06-01 --to 2021-06-09 --param record=true"
    )


def test_a_text_that_looks_like_a_number_stays_a_text() -> None:
    given = {"namespace": "crypto", "agent_id": "7", "market": "a b"}
    assert retry_command(run("train_agents", parameters=given)) == (
        "coinswarm run train_agents --namespace crypto --date 2021-06-17 --param 'agent_id=\"7\"'"
    )


def test_a_flow_of_other_software_has_no_command() -> None:
    assert retry_command(run("vanished")) is None


@pytest.mark.parametrize("flow", FLOWS)
def test_the_command_line_takes_the_command_and_makes_the_same_parameters_of_it(
    flow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = parameters_of(flow)
    needed = {
        name: {"first": "2021-06-17", "last": "2021-06-17"}.get(name, "x")
        for name, field in model.model_fields.items()
        if field.is_required()
    }
    dated = {"date": "2021-06-17"} if "date" in model.model_fields else {}
    given = model.model_validate({"namespace": "crypto", **dated, **needed})
    command = retry_command(run(flow, parameters=given.model_dump(mode="json")))
    assert command is not None
    met: list[Any] = []

    def remember(*arguments: Any) -> dict[str, Any]:
        name, day, first, last, texts, namespace, _ = arguments
        values = dict(text.split("=", 1) for text in texts) | {"namespace": namespace}
        values |= {"date": day} if day else {}
        values |= {"first": first, "last": last} if first else {}
        met.append((name, model.model_validate(values)))
        return {}

    monkeypatch.setattr("deployments.running.run_flow", remember)
    result = typer.testing.CliRunner().invoke(cli_run.app, shlex.split(command)[1:])
    assert result.exit_code == 0, result.output
    assert met == [(flow, given)]


# --- which failed ----------------------------------------------------------------------------------------------


def test_a_run_from_a_deployment_can_be_retried_in_prefect() -> None:
    (found,) = failures([run(flow_run_id="f-1")], {"f-1": True})
    assert found.commands[0] == "prefect flow-run retry f-1"
    assert found.commands[1].startswith("coinswarm run nightly")
    (found,) = failures([run(flow_run_id="f-1")], {"f-1": False})
    assert len(found.commands) == 1
    assert found.reason == "StoreUnavailableError: Redis was away"


def test_the_command_finds_the_server_and_shows_no_password(tmp_path: Path) -> None:
    home = Home.at(tmp_path / "a home")
    home.create()
    home.prefect_data.mkdir()
    make_secret(home)
    command = prefect_command(Settings(home=home.directory, prefect_api_url=None), "http://127.0.0.1:4200/api")
    secret = read_secret(home)
    assert secret.partition(":")[2] not in command
    told = command.removesuffix(prefect_command(Settings(), None)) + "env"
    found = subprocess.run(["/bin/sh", "-c", told], capture_output=True, text=True, check=True).stdout.splitlines()
    assert {"PREFECT_API_URL=http://127.0.0.1:4200/api", f"PREFECT_API_AUTH_STRING={secret}"} <= set(found)
    configured = Settings(home=home.directory, prefect_api_url="http://prefect:4200/api")
    told = prefect_command(configured, "http://prefect:4200/api")
    assert told == f"PREFECT_API_URL=http://prefect:4200/api {prefect_command(configured, None)}"


def test_prefect_is_named_as_a_shell_finds_that_of_this_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own = Path(sys.executable).with_name("prefect")
    monkeypatch.setenv("PATH", str(own.parent))
    assert prefect_command(Settings(), None) == "prefect"
    another = tmp_path / "prefect"
    another.write_text("#!/bin/sh\n")
    another.chmod(0o755)
    for path in (str(tmp_path), ""):
        monkeypatch.setenv("PATH", path)
        assert prefect_command(Settings(), None) == shlex.quote(str(own))


def test_a_part_of_a_failed_run_follows_it_and_is_done_again_by_it() -> None:
    part = run("consolidate_memories", started_at=BEGUN + MINUTE, finished_at=BEGUN + 8 * MINUTE)
    later = run("prune_memories", status="DEAD", started_at=BEGUN + 60 * MINUTE, finished_at=None, process_id=9)
    found = failures([part, run(), later, run("benchmark_memory", status="SUCCEEDED")], {})
    assert [(each.flow, each.part_of) for each in found] == [
        ("prune_memories", None),
        ("nightly", None),
        ("consolidate_memories", "nightly"),
    ]
    assert found[2].commands == ()


# --- which the ledger never knew of ----------------------------------------------------------------------------


def lost(flow: str = "nightly", **changes: Any) -> FailedRun:
    values: dict[str, Any] = {
        "run_id": f"f-{flow}",
        "flow": flow,
        "status": "CRASHED",
        "message": "Flow run process exited\n with code -9.",
        "at": BEGUN + 5 * MINUTE,
        "began": BEGUN + 5 * MINUTE,
        "due": BEGUN,
        "parameters": {"namespace": "crypto", "source": "inbox"},
    }
    return FailedRun(**{**values, **changes})


@pytest.mark.parametrize(
    ("found", "last", "is_lost"),
    [
        pytest.param(lost(), None, True, id="the first of its flow"),
        pytest.param(lost(), run(started_at=BEGUN - 60 * MINUTE), True, id="one that never began, after the last"),
        pytest.param(lost(), run(started_at=BEGUN + 6 * MINUTE), False, id="one since which another ran"),
        pytest.param(lost(began=BEGUN), run(started_at=BEGUN + MINUTE), False, id="one that is in the ledger"),
        pytest.param(
            lost(began=BEGUN), run(started_at=BEGUN - MINUTE, flow_run_id="f-nightly"), False, id="clocks that differ"
        ),
        pytest.param(lost(began=BEGUN), run(started_at=BEGUN - MINUTE), True, id="one that was killed as it began"),
    ],
)
def test_a_run_is_lost_where_the_ledger_has_nothing_of_it_and_of_none_since(
    found: FailedRun, last: RunRecord | None, is_lost: bool
) -> None:
    assert unrecorded([found], {} if last is None else {"nightly": last}) == ([found] if is_lost else [])


def test_of_each_flow_the_newest_is_told_newest_first() -> None:
    old, new = lost(run_id="f-old"), lost(run_id="f-new", at=BEGUN + 9 * MINUTE)
    other = lost("janitor", at=BEGUN + 12 * MINUTE)
    assert [each.run_id for each in unrecorded([new, other, old], {})] == ["f-janitor", "f-new"]


def test_a_lost_run_is_done_again_in_prefect_or_by_hand_in_the_window_that_it_was_due_for() -> None:
    found = lost_failure(lost(parameters={"namespace": "crypto", "source": "market"}), "crypto")
    assert (found.run_id, found.flow_run_id, found.status, found.window) == (
        None,
        "f-nightly",
        "CRASHED",
        "2021-06-17",
    )
    assert found.commands == (
        "prefect flow-run retry f-nightly",
        "coinswarm run nightly --namespace crypto --date 2021-06-17 --param source=market",
    )
    assert found.reason == "before the ledger knew of it: Flow run process exited with code -9."


def test_parameters_that_the_flow_refuses_have_no_command_that_gives_them_again() -> None:
    for refused in (lost(parameters={"source": "nowhere"}), lost("vanished")):
        assert lost_failure(refused, "crypto").commands == (f"prefect flow-run retry {refused.run_id}",)
