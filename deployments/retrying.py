"""The command that does again what failed: the same flow with the same parameters, for the same window."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from flows import FLOWS, parameters_of
from memory.embedded.home import Home
from memory.embedded.prefect_server import secret_file
from memory.ledger import RunRecord
from memory.secrets import redacted
from memory.settings import Settings

_SPAN = ("date", "start", "end", "first", "last", "namespace")
"""Parameters that have options of their own."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A run that came to nothing.

    Attributes
    ----------
    run
        As the ledger knows it.
    commands
        What does it again, best first; none for a run that was part of another one, which does it.
    part_of
        Flow whose run it was a part of.
    """

    run: RunRecord
    commands: tuple[str, ...]
    part_of: str | None = None

    @property
    def reason(self) -> str:
        """Why, in one line."""
        return " ".join((self.run.error or "no reason is known").split())


def retry_command(run: RunRecord) -> str | None:
    """The command line that runs a flow again as a run had it; None for a flow that this software does not have."""
    if run.flow not in FLOWS:
        return None
    given, model = dict(run.parameters), parameters_of(run.flow)
    words = ["coinswarm", "run", run.flow, "--namespace", run.namespace]
    if given.get("first") is not None and given.get("last") is not None:
        words += ["--from", str(given["first"]), "--to", str(given["last"])]
    elif "date" in model.model_fields and run.window is not None:
        words += ["--date", run.window.name]
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
            commands.append(f"{prefect} flow-run retry {run.flow_run_id}")
        again = retry_command(run)
        found.append(Failure(run, (*commands, *([] if again is None else [again]))))
        found += [Failure(part, (), run.flow) for part in failed if _holds(run, part)]
    return found


def _holds(whole: RunRecord, part: RunRecord) -> bool:
    """Whether a run was under way in the same process when another one began and ended in it."""
    return (
        whole.run_id != part.run_id
        and (whole.host, whole.process_id) == (part.host, part.process_id)
        and whole.started_at < part.started_at
        and (whole.finished_at is None or part.started_at <= whole.finished_at)
    )
