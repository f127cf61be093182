"""The command that does again what failed: the same flow with the same parameters, for the same window."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from flows import FLOWS, parameters_of
from memory.ledger import RunRecord

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


def failures(last_runs: Iterable[RunRecord], from_deployments: Mapping[str, bool]) -> list[Failure]:
    """Which flows' last runs failed, newest first, each with what does it again, and followed by its parts.

    Parameters
    ----------
    last_runs
        The latest run of each flow.
    from_deployments
        Of Prefect's runs, by id, whether they came from a deployment.
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
            commands.append(f"prefect flow-run retry {run.flow_run_id}")
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
