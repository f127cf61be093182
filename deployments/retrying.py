"""The command that does again what failed: the same flow with the same parameters, for the same window."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from deployments.prefect_state import FailedRun
from flows import FLOWS, parameters_of
from flows.parameters import WindowParameters
from memory.embedded.home import Home
from memory.embedded.prefect_server import secret_file
from memory.ledger import RunRecord
from memory.secrets import mask, redacted
from memory.settings import Settings
from memory.window import Window

_SPAN = ("date", "start", "end", "first", "last", "namespace")
"""Parameters that have options of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A run that came to nothing.

    Attributes
    ----------
    run_id, flow_run_id
        Its ids in the ledger and in Prefect; None where it is not known there.
    status
        FAILED, DEAD, or by Prefect's word CRASHED.
    window
        Name of its window; None where it had none, or none is known.
    at
        When it began; of a run that the ledger never knew of, when it was given up.
    seconds
        How long it took; None where it has no end.
    reason
        Why, in one line.
    commands
        What does it again, best first; none for a run that was part of another one, which does it.
    part_of
        Flow whose run it was a part of.
    """

    flow: str
    run_id: str | None
    flow_run_id: str | None
    status: str
    window: str | None
    at: datetime
    seconds: float | None
    reason: str
    commands: tuple[str, ...]
    part_of: str | None = None


def retry_command(run: RunRecord) -> str | None:
    """The command line that runs a flow again as a run had it; None for a flow that this software does not have."""
    return _command(run.flow, run.namespace, dict(run.parameters), run.window)


def _command(flow: str, namespace: str, given: Mapping[str, Any], window: Window | None) -> str | None:
    if flow not in FLOWS:
        return None
    model = parameters_of(flow)
    words = ["coinswarm", "run", flow, "--namespace", namespace]
    if given.get("first") is not None and given.get("last") is not None:
        words += ["--from", str(given["first"]), "--to", str(given["last"])]
    elif "date" in model.model_fields and window is not None:
        words += ["--date", window.name]
    for name, value in sorted(_chosen(model, given).items()):
        words += ["--param", f"{name}={_text(value)}"]
    return shlex.join(words)


def _chosen(model: type[BaseModel], given: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters other than what the flow takes where nothing is said, without those that have options of their own."""
    defaults = {
        name: to_jsonable_python(field.get_default(call_default_factory=True))
        for name, field in model.model_fields.items()
        if name not in _SPAN and not field.is_required()
    }
    return {
        name: given[name]
        for name in model.model_fields
        if name in given and name not in _SPAN and (name not in defaults or given[name] != defaults[name])
    }


def _text(value: Any) -> str:
    """A value as `--param` takes it: JSON, or a text that is none."""
    if isinstance(value, str):
        try:
            json.loads(value)
        except json.JSONDecodeError:
            return value
    return json.dumps(value, sort_keys=True)


def prefect_command(settings: Settings, api_url: str | None) -> str:
    """Prefect's own command, for a shell that knows nothing of the server: its password is read, and not shown.

    Parameters
    ----------
    api_url
        Where the server is; None where none runs.
    """
    program = _prefect_program()
    if api_url is None:
        return program
    words = [f"PREFECT_API_URL={shlex.quote(redacted(api_url))}"]
    if settings.prefect_api_url is None:
        words.append(f'PREFECT_API_AUTH_STRING="$(cat {shlex.quote(str(secret_file(Home.at(settings.home))))})"')
    return " ".join([*words, program])


def _prefect_program() -> str:
    """Prefect of this install: by name where a shell finds it so, else by its path."""
    own = Path(sys.executable).with_name("prefect")
    found = shutil.which("prefect")
    return "prefect" if found is not None and own.exists() and Path(found).samefile(own) else shlex.quote(str(own))


def failures(
    last_runs: Iterable[RunRecord], from_deployments: Mapping[str, bool], prefect: str = "prefect"
) -> list[Failure]:
    """Which flows' last runs failed, newest first, each with what does it again, and followed by its parts.

    Parameters
    ----------
    last_runs
        The latest run of each flow.
    from_deployments
        Of Prefect's runs, by id, whether they came from a deployment.
    prefect
        How Prefect's command is called.
    """
    failed = sorted(
        (run for run in last_runs if run.status in ("FAILED", "DEAD")), key=lambda run: run.started_at, reverse=True
    )
    wholes = {run.run_id: next((other for other in failed if _holds(other, run)), None) for run in failed}
    found = []
    for run in failed:
        if wholes[run.run_id] is not None:
            continue
        commands = []
        if run.flow_run_id is not None and from_deployments.get(run.flow_run_id):
            commands.append(_retry(prefect, run.flow_run_id))
        again = retry_command(run)
        found.append(_failure(run, (*commands, *([] if again is None else [again]))))
        found += [_failure(part, (), run.flow) for part in failed if _holds(run, part)]
    return found


def _failure(run: RunRecord, commands: tuple[str, ...], part_of: str | None = None) -> Failure:
    return Failure(
        flow=run.flow,
        run_id=run.run_id,
        flow_run_id=run.flow_run_id,
        status=run.status,
        window=None if run.window is None else run.window.name,
        at=run.started_at,
        seconds=seconds_of(run),
        reason=reason_of(run),
        commands=commands,
        part_of=part_of,
    )


def seconds_of(run: RunRecord) -> float | None:
    """How long a run took; None while it runs, and of one that died: the ledger has when that was noticed."""
    if run.finished_at is None or run.status == "DEAD":
        return None
    return (run.finished_at - run.started_at).total_seconds()


def reason_of(run: RunRecord) -> str:
    """Why a run came to nothing, in one line."""
    return " ".join((run.error or "no reason is known").split())


def _retry(prefect: str, flow_run_id: str) -> str:
    return f"{prefect} flow-run retry {flow_run_id}"


def _holds(whole: RunRecord, part: RunRecord) -> bool:
    """Whether a run was under way in the same process when another one began and ended in it."""
    return (
        whole.run_id != part.run_id
        and (whole.host, whole.process_id) == (part.host, part.process_id)
        and whole.started_at < part.started_at
        and (whole.finished_at is None or part.started_at <= whole.finished_at)
    )


# --- which the ledger never knew of ----------------------------------------------------------------------------


def unrecorded(runs: Iterable[FailedRun], last_runs: Mapping[str, RunRecord]) -> list[FailedRun]:
    """The newest run of each flow that failed before it was in the ledger, and since which none was; newest first.

    A container that never started, a module that could not be imported, parameters that the flow refuses, a process
    that was killed in its first second: only Prefect knows of such a run.

    Parameters
    ----------
    runs
        Those that failed by Prefect's word. One that is in the ledger began, by Prefect's clock, before its row did.
    last_runs
        The latest run of each flow in the ledger, by flow.
    """
    newest: dict[str, FailedRun] = {}
    for run in sorted(runs, key=lambda run: run.at):
        last = last_runs.get(run.flow)
        if last is None or (run.run_id != last.flow_run_id and run.began > last.started_at):
            newest[run.flow] = run
    return sorted(newest.values(), key=lambda run: run.at, reverse=True)


def lost_failure(run: FailedRun, namespace: str, prefect: str = "prefect") -> Failure:
    """A run that the ledger never knew of as a failure, with what does it again in the window that it was due for."""
    window, again = None, None
    try:
        parameters = parameters_of(run.flow).model_validate({"namespace": namespace, **run.parameters})
        window = parameters.window_at(run.due) if isinstance(parameters, WindowParameters) else None
        again = _command(run.flow, namespace, run.parameters, window)
    except (KeyError, ValueError):
        again = None  # A flow or parameters that this software does not take: they are what the message is about.
    return Failure(
        flow=run.flow,
        run_id=None,
        flow_run_id=run.run_id,
        status=run.status,
        window=None if window is None else window.name,
        at=run.at,
        seconds=None,
        reason=f"before the ledger knew of it: {mask(' '.join(run.message.split())) or 'no reason is known'}",
        commands=(_retry(prefect, run.run_id), *([] if again is None else [again])),
    )
