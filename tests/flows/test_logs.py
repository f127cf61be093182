"""Lines of a flow's log say what they are about: in the file, and in the Prefect UI."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import deployments
from deployments.local import EXTRA_LOGGERS
from memory.ledger import Ledger

DRAIN = """
import json, sys
from prefect.context import refresh_global_settings_context
from prefect.logging.configuration import setup_logging
refresh_global_settings_context()
setup_logging(incremental=False)
from flows.record_experiences import record_experiences
from flows.forms.record_experiences import Parameters
from deployments.local import send_what_waits
told = json.loads(sys.argv[1])
record_experiences(Parameters(namespace=told["namespace"]))
send_what_waits()
"""


def test_lines_of_a_run_carry_run_flow_and_namespace(
    flow_processes: Any, configured: str, ledger: Ledger, prefect_server: str, tmp_path: Path
) -> None:
    log = tmp_path / "logs" / "flows.log"
    code, said = flow_processes.run(
        DRAIN,
        {"namespace": configured},
        PREFECT_LOGGING_SETTINGS_PATH=str(Path(deployments.__file__).with_name("logging.json")),
        PREFECT_LOGGING_EXTRA_LOGGERS=EXTRA_LOGGERS,
        COINSWARM_LOG_FORMAT="json",
        COINSWARM_LOG_FILE=str(log),
    )
    assert code == 0, said
    (run,) = ledger.runs.list(configured)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    about = {"flow": "record_experiences", "namespace": configured, "run_id": run.run_id}
    steps = [line for line in lines if line["logger"] == "coinswarm.steps"]
    assert steps
    assert all(about.items() <= line.items() for line in steps)
    # Each attempt of a task is a line of its own.
    (drained,) = [line for line in lines if line["message"].startswith("drain_inbox: ")]
    assert {**about, "task": "drain_inbox"}.items() <= drained.items()
    # Prefect's own lines carry it as well, beside its ids.
    tasks = [line for line in lines if line["logger"] == "prefect.task_runs"]
    assert tasks
    assert all({**about, "flow_run_id": run.flow_run_id}.items() <= line.items() for line in tasks)

    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId

    with get_client(sync_client=True) as client:
        chosen = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.flow_run_id]))
        shown = [entry.message for entry in client.read_logs(chosen, limit=200)]
    suffix = f"[namespace={configured} run_id={run.run_id[:8]}"
    assert sum(suffix in message for message in shown) >= len(steps)
