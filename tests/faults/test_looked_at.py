"""A run that is killed is dead to whoever looks, before anybody has noted it; to look writes nothing."""

from __future__ import annotations

import signal

import pytest
import sqlalchemy as sa
from fault_moments import Moment
from fault_rig import Rig
from prometheus_client.parser import text_string_to_metric_families

from deployments.console import Console
from deployments.doctor import doctor
from deployments.metrics import read_once
from deployments.status import status
from memory.settings import Settings

pytestmark = pytest.mark.faults

PATIENT = {"COINSWARM_LEASE_S": "3600"}
"""With such a lease only the process itself can tell that a run is dead."""


def failed(namespace: str) -> float:
    """What the exporter says of the last run."""
    (value,) = [
        sample.value
        for family in text_string_to_metric_families(read_once(Settings(), [namespace]))
        for sample in family.samples
        if sample.name == "coinswarm_flow_failed"
    ]
    return value


def test_a_killed_run_is_dead_in_status_metrics_and_doctor_while_the_ledger_has_it_running(
    rig: Rig, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in rig.environment(namespace).items():
        monkeypatch.setenv(name, value)
    rig.fill(namespace)
    run = rig.start(
        "consolidate", namespace, 0, moment=Moment("fold", "begin fold"), action="stop", environment=PATIENT
    )
    run.until_stopped()
    seen = status(namespace)
    (flow,) = seen["flows"]
    assert (flow["last"]["status"], flow["runs"], seen["failures"]) == ("RUNNING", {"RUNNING": 1}, [])
    assert seen["ledger"]["held_by"] is not None
    assert failed(namespace) == 0

    run.signal(signal.SIGKILL)
    assert run.end().how == "killed"
    seen = status(namespace)
    (flow,) = seen["flows"]
    assert (flow["last"]["status"], flow["runs"]) == ("DEAD", {"DEAD": 1})
    (failure,) = seen["failures"]
    assert (failure["run_id"], failure["error"]) == (flow["last"]["run_id"], "its process ended without a word")
    again = f"coinswarm run consolidate_memories --namespace {namespace} --date {rig.night.days[0]}"
    assert failure["retry"] == [again]
    assert seen["ledger"]["held_by"] is None
    assert failed(namespace) == 1
    checks = {check["name"]: check for check in doctor(namespace, Console(as_json=True))["checks"]}
    assert (checks["flows"]["status"].value, checks["flows"]["remedy"]) == ("warn", again)
    assert checks["lock"]["remedy"].startswith(f"{again}: ")
    with rig.ledger() as ledger, ledger.transaction() as session:
        kept = session.execute(
            sa.text("SELECT status, finished_at FROM runs WHERE run_id = :run"), {"run": failure["run_id"]}
        ).one()
    assert tuple(kept) == ("RUNNING", None)

    assert rig.run("consolidate", namespace, 0).how == "done"
    seen = status(namespace)
    (flow,) = seen["flows"]
    assert (flow["last"]["status"], flow["runs"]) == ("SUCCEEDED", {"DEAD": 1, "SUCCEEDED": 1})
    assert seen["failures"] == []
    assert failed(namespace) == 0
